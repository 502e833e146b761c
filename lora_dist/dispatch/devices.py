"""The GPUs of this machine, found without opening one."""

from __future__ import annotations

import shutil
import subprocess

from lora_dist.world import visible_devices


def gpus_here() -> list[str]:
    """The GPUs that runs may use, as CUDA_VISIBLE_DEVICES names them; none on a CPU machine."""
    named = visible_devices()
    program = shutil.which("nvidia-smi")
    if program is None:
        return []
    asked = subprocess.run(  # noqa: S603 - no input in it
        [program, "--query-gpu=index", "--format=csv,noheader"], capture_output=True, text=True, check=False
    )
    found = asked.stdout.split() if asked.returncode == 0 else []
    return found if named is None else named if found else []

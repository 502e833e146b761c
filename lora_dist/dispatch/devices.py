"""The GPUs of this machine, found without opening one."""

from __future__ import annotations

import re
import shutil
import subprocess
from dataclasses import dataclass

from lora_dist.errors import ConfigError
from lora_dist.world import visible_devices


@dataclass(frozen=True)
class Gpu:
    """One GPU as nvidia-smi lists it."""

    name: str
    """As CUDA_VISIBLE_DEVICES names it: its index, or its UUID."""
    bytes: int | None
    """Memory; None where it is not known."""


def gpus_here() -> list[Gpu]:
    """The GPUs that runs may use; none on a CPU machine."""
    program = shutil.which("nvidia-smi")
    if program is None:
        return []
    asked = subprocess.run(  # noqa: S603 - no input in it
        [program, "--query-gpu=index,uuid,memory.total", "--format=csv,noheader,nounits"],
        capture_output=True,
        text=True,
        check=False,
    )
    if asked.returncode != 0:
        return []
    found: dict[str, int | None] = {}
    for line in asked.stdout.splitlines():
        index, uuid, mebibytes = (word.strip() for word in line.split(","))
        found[index] = found[uuid] = int(mebibytes) * 2**20 if mebibytes.isdecimal() else None
    named = visible_devices()
    names = [name for name in found if name.isdecimal()] if named is None else named
    return [Gpu(name, found.get(name)) for name in names]


_UNITS = {"": 1, "kib": 2**10, "mib": 2**20, "gib": 2**30, "kb": 10**3, "mb": 10**6, "gb": 10**9}


def parse_bytes(text: str, key: str) -> int:
    """80GiB, 24GB and the like in bytes.

    Raises:
        ConfigError: it is no size.
    """
    found = re.fullmatch(r"\s*([0-9]+(?:\.[0-9]+)?)\s*([a-zA-Z]*)\s*", text)
    unit = _UNITS.get(found[2].lower()) if found else None
    if unit is None or float(found[1]) <= 0:
        raise ConfigError(key=key, problem=f"'{text}' is no size", fix="give one such as 80GiB or 24GB")
    return int(float(found[1]) * unit)

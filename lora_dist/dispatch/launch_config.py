"""accelerate's launch configs: what one says, a copy of it that works from any folder, and the command it makes."""

from __future__ import annotations

import json
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from lora_dist.assets import shipped_folder
from lora_dist.config.sections import Strategy
from lora_dist.errors import ConfigError
from lora_dist.store.atomic import make_folder, write_text

_ZERO: dict[int, Strategy] = {1: "zero1", 2: "zero2", 3: "zero3"}


@dataclass(frozen=True)
class LaunchConfig:
    """What an accelerate YAML asks for."""

    path: Path
    document: dict[str, Any]
    deepspeed_file: Path | None
    zero_stage: int

    @property
    def processes(self) -> int:
        """Ranks over all machines."""
        return int(self.document.get("num_processes", 1))

    @property
    def machines(self) -> int:
        """Machines that take part."""
        return int(self.document.get("num_machines", 1))

    def strategy(self, processes: int) -> Strategy:
        """How `processes` ranks share the training under it."""
        if self.document.get("distributed_type") == "FSDP":
            return "fsdp"
        return _ZERO.get(self.zero_stage, "ddp" if processes > 1 else "plain")


def read_launch_config(path: Path) -> LaunchConfig:
    """Read an accelerate YAML and the DeepSpeed JSON that it names.

    Raises:
        ConfigError: one of them is missing or is no such file.
    """
    try:
        document = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise _unusable(path, " ".join(str(error).split())[:200]) from None
    if not isinstance(document, dict) or "distributed_type" not in document:
        raise _unusable(path, "it names no distributed_type")
    named = (document.get("deepspeed_config") or {}).get("deepspeed_config_file")
    if named is None:
        stage = (document.get("deepspeed_config") or {}).get("zero_stage", 0)
        return LaunchConfig(path, document, None, int(stage) if document["distributed_type"] == "DEEPSPEED" else 0)
    file = _found(path, named)
    try:
        stage = int(json.loads(file.read_text(encoding="utf-8")).get("zero_optimization", {}).get("stage", 0))
    except (OSError, ValueError, AttributeError, TypeError) as error:
        raise _unusable(file, f"no DeepSpeed config: {error}") from None
    return LaunchConfig(path, document, file, stage)


def _found(path: Path, named: str) -> Path:
    """The DeepSpeed file that a YAML names: from the current folder, as accelerate looks, or from the YAML's top."""
    candidates = [Path(named), path.parent.parent / named, path.parent / named]
    if path.resolve().parent == shipped_folder("launch").resolve():  # ours name ours, wherever one stands
        candidates = [shipped_folder("ds_configs").parent / named]
    for candidate in candidates:
        if candidate.is_file():
            return candidate.resolve()
    raise _unusable(path, f"the deepspeed_config_file '{named}' is not there")


def write_located(config: LaunchConfig, into: Path, *, processes: int) -> Path:
    """Write a copy of the YAML with `processes` ranks and absolute paths, so that it works from any folder.

    Raises:
        StorageError: it cannot be written.
    """
    document = {**config.document, "num_processes": processes}
    if config.deepspeed_file is not None:
        document["deepspeed_config"] = {
            **document["deepspeed_config"],
            "deepspeed_config_file": str(config.deepspeed_file),
        }
    make_folder(into)
    path = into / config.path.name
    write_text(path, yaml.safe_dump(document, sort_keys=False))
    return path.resolve()


def launch_command(located: Path, *words: str) -> list[str]:
    """`accelerate launch` of `python -m lora_dist WORDS`, on a port of its own: several may run on one machine."""
    accelerate = [sys.executable, "-m", "accelerate.commands.launch", "--config_file", str(located)]
    return [*accelerate, "--main_process_port", "0", "-m", "lora_dist", *words]


def _unusable(path: Path, why: str) -> ConfigError:
    return ConfigError(
        key="launch.config", problem=f"'{path}' cannot be used: {why}", fix="use auto, or copy one of launch/"
    )

"""Which device this process computes on, in which precision, and what it used of its memory."""

from __future__ import annotations

import contextlib
import ctypes
import gc
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import torch

from lora_dist.config.sections import ModelSection
from lora_dist.world import World

_STATUS, _CLEAR = Path("/proc/self/status"), Path("/proc/self/clear_refs")


def device_of(world: World) -> torch.device:
    """The accelerator of this rank, or the CPU where there is none."""
    return torch.device("cuda", world.local_rank) if torch.cuda.is_available() else torch.device("cpu")


def dtype_of(section: ModelSection, device: torch.device) -> torch.dtype:
    """The precision of frozen weights and of evaluation; `auto` is bfloat16 only where the device computes in it."""
    if section.dtype != "auto":
        return getattr(torch, section.dtype)
    fast_bfloat16 = device.type == "cuda" and torch.cuda.is_bf16_supported(including_emulation=False)
    return torch.bfloat16 if fast_bfloat16 else torch.float32


def memory_of(world: World) -> int | None:
    """Bytes of this rank's GPU; None on a CPU."""
    return torch.cuda.get_device_properties(device_of(world)).total_memory if torch.cuda.is_available() else None


def synchronize(device: torch.device) -> None:
    """Wait until the device has done what it was given, so that a clock read now is true."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def release_memory() -> None:
    """Give back what dropped models held, so that the next one is measured alone."""
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()


def trim_memory() -> None:
    """Give back to the system what this process has freed: glibc keeps it, hundreds of MiB after large products."""
    with contextlib.suppress(OSError, AttributeError):  # another C library
        ctypes.CDLL(None).malloc_trim(0)


@contextlib.contextmanager
def one_thread() -> Iterator[None]:
    """One thread adds in one order on every machine, and is not held up by busy cores as several are.

    Measured on 2 cores (2026-11, 1.0M parameters): alone, 2 threads take two thirds of one thread's time; beside
    five other busy processes one thread took 1.6 times as long as alone, and 2 threads more than 10 times.
    """
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


@dataclass(frozen=True)
class PeakMemory:
    """Highest memory use since `reset_peak_memory`, in bytes."""

    bytes: int
    kind: str
    """allocated (accelerator) or resident (CPU)."""
    reserved_bytes: int | None


def reset_peak_memory(device: torch.device) -> None:
    """Start a new peak, so that loading and earlier stages do not count."""
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
    elif _CLEAR.exists():
        _CLEAR.write_text("5")  # resets VmHWM (proc(5)); only Linux has it


def peak_memory(device: torch.device) -> PeakMemory:
    """Highest use since the last reset: allocated and reserved on an accelerator, resident set on a CPU."""
    if device.type == "cuda":
        allocated = torch.cuda.max_memory_allocated(device)
        return PeakMemory(allocated, "allocated", torch.cuda.max_memory_reserved(device))
    if _STATUS.exists():
        line = next(line for line in _STATUS.read_text().splitlines() if line.startswith("VmHWM:"))
        return PeakMemory(int(line.split()[1]) * 1024, "resident", None)
    import resource
    import sys

    unit = 1 if sys.platform == "darwin" else 1024
    return PeakMemory(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit, "resident", None)

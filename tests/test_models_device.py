"""Precision and peak memory of this machine's device."""

from __future__ import annotations

import pytest
import torch

from lora_dist.config.sections import ModelSection
from lora_dist.models.device import device_of, dtype_of, peak_memory, release_memory, reset_peak_memory
from lora_dist.world import World

MIB = 2**20


def section(dtype):
    return ModelSection(path="builtin:tiny-llama", dtype=dtype)


def test_auto_is_float32_on_a_cpu_and_the_rest_is_what_it_says():
    cpu = torch.device("cpu")
    assert dtype_of(section("auto"), cpu) == torch.float32
    for name in ("float32", "bfloat16", "float16"):
        assert dtype_of(section(name), cpu) == getattr(torch, name)


def test_the_peak_is_of_what_came_after_the_reset():
    device = device_of(World())
    release_memory()
    reset_peak_memory(device)
    start = peak_memory(device)
    block = torch.ones(200 * MIB // 4, device=device)
    held = peak_memory(device)
    assert held.bytes - start.bytes > 190 * MIB
    del block
    release_memory()
    # Linux counts resident pages per thread and adds them up now and then, so a peak may read a little lower later.
    assert peak_memory(device).bytes > held.bytes - 2 * MIB, "freeing does not lower a peak"
    reset_peak_memory(device)
    after = peak_memory(device)
    assert after.bytes < held.bytes - 150 * MIB
    assert after.kind == ("allocated" if device.type == "cuda" else "resident")
    assert (after.reserved_bytes is None) == (device.type == "cpu")


@pytest.mark.skipif(torch.cuda.is_available(), reason="a machine without a GPU is absent here")
def test_without_an_accelerator_the_device_is_the_cpu():
    assert device_of(World(local_rank=3)) == torch.device("cpu")

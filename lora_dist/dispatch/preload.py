"""What the nursery imports before it forks: as much of the stack as can be, without opening a GPU.

A process that has opened CUDA cannot fork children that use it. bitsandbytes opens it when it is imported (it asks each
device for its compute capability, 0.50), and peft and transformers' trainer import bitsandbytes. So where there is a
GPU its children import those themselves, in about 2 s instead of 6; where there is none everything is imported here.
"""

from __future__ import annotations

import importlib

OPENS_NO_DEVICE = (
    "torch",
    "torch._dynamo",
    "torch.distributed",
    "torch.optim",
    "transformers.modeling_utils",
    "transformers.generation.utils",
    "transformers.models.llama.modeling_llama",
    "accelerate",
    "datasets",
    "pyarrow.parquet",
)
EVERYTHING = (*OPENS_NO_DEVICE, "lora_dist.dispatch.actions")


def preload() -> None:
    """Import the stack, leaving the GPUs, if there are any, to the children.

    Raises:
        RuntimeError: an import opened the GPU all the same: no child could use it.
    """
    import torch

    # With PYTORCH_NVML_BASED_CUDA_CHECK=1 this asks NVML, which opens nothing.
    for name in OPENS_NO_DEVICE if torch.cuda.is_available() else EVERYTHING:
        importlib.import_module(name)
    if torch.cuda.is_initialized():
        raise RuntimeError("importing the stack opened the GPU, so that no run could be forked from here")

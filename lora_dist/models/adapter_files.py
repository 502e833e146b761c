"""The files of an adapter's folder, and what their headers tell. Without torch and peft: listings answer at once."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lora_dist.errors import ModelError

CONFIG = "adapter_config.json"
WEIGHTS = "adapter_model.safetensors"
PEFT_TYPE = "SPARSE_LORA__open_with_lora_dist"
"""What `adapter_config.json` says of an adapter that keeps the zeros of its base: peft alone would open it as a plain
LoRA, which computes something else than what was trained, so it is made to refuse by name."""
PREFIX_TENSOR = "prompt_embeddings"
"""A prefix, [virtual tokens, blocks x 2 x width of the keys], in peft's file."""
_LONGEST_HEADER = 100_000_000  # bytes; what safetensors itself allows


@dataclass(frozen=True)
class StoredTensor:
    """A tensor of a safetensors file, before it is read."""

    dtype: str
    shape: tuple[int, ...]


def read_header(path: Path) -> dict[str, StoredTensor]:
    """The tensors that a safetensors file holds, by name, from its header alone (docs of safetensors, "Format").

    Raises:
        ModelError: it is not there, is no safetensors file, or is not as long as its header says.
    """
    try:
        with path.open("rb") as file:
            size = path.stat().st_size
            length = int.from_bytes(file.read(8), "little")
            if length > min(size - 8, _LONGEST_HEADER):
                raise ValueError(f"{size:,} bytes are less than its header alone takes")
            header: dict[str, Any] = json.loads(file.read(length))
        header.pop("__metadata__", None)
        tensors = {name: StoredTensor(told["dtype"], tuple(told["shape"])) for name, told in header.items()}
        end = 8 + length + max((told["data_offsets"][1] for told in header.values()), default=0)
        if end != size:
            raise ValueError(f"has {size:,} bytes and should have {end:,}")
    except FileNotFoundError:
        raise ModelError(key=str(path), problem="is not there", fix=_AGAIN) from None
    except (OSError, ValueError, KeyError, TypeError, AttributeError, IndexError) as error:
        raise ModelError(key=str(path), problem=f"is damaged ({_one_line(error)})", fix=_AGAIN) from None
    return tensors


_AGAIN = "copy the adapter's folder again"


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split())[:200]

"""What determines the tokens, as hashes that are the same in every process."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from lora_dist.config.experiment import content_hash
from lora_dist.config.sections import DataSection
from lora_dist.data.lengths import Lengths

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

_VERSION = 2  # raise it when the same section, source and tokenizer no longer give the same tokens

_FIELDS = ("task", "columns", "template", "held_out_fraction", "max_train_examples", "max_eval_examples")


def tokenizer_hash(tokenizer: PreTrainedTokenizerBase) -> str:
    """sha256 over the vocabulary, the algorithm, the special tokens and the chat template, as hex.

    Truncation and padding are left out: they are settings of the last call, and not of the tokenizer.
    """
    backend = getattr(tokenizer, "backend_tokenizer", None)
    if backend is not None:
        algorithm: Any = json.loads(backend.to_str()) | {"truncation": None, "padding": None}
    else:  # a tokenizer written in Python has no serialisation but its vocabulary
        algorithm = [type(tokenizer).__name__, sorted(tokenizer.get_vocab().items(), key=lambda item: item[1])]
    special = {name: str(token) for name, token in tokenizer.special_tokens_map.items()}
    return content_hash([algorithm, special, tokenizer.chat_template])


def key_of(section: DataSection, tokenizer_hash: str, lengths: Lengths, fingerprint: dict[str, str]) -> str:
    """sha256 over everything that determines the tokens, as hex.

    Args:
        section: only the fields that matter count; where the source is does not.
        tokenizer_hash: of the tokenizer.
        lengths: resolved.
        fingerprint: of each split of the source.
    """
    settings = section.model_dump(mode="json", include=set(_FIELDS))
    length = lengths.block_size if section.task == "causal_lm" else lengths.max_length
    return content_hash([_VERSION, settings, length, tokenizer_hash, fingerprint])

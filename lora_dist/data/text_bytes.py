"""How many bytes of text tokens stand for, so that losses compare between tokenizers (bits per byte)."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

_BYTE_TOKEN = re.compile(r"<0x[0-9A-F]{2}>")


class TextBytes:
    """Counts the UTF-8 bytes of the text of token ids; special tokens have none."""

    def __init__(self, tokenizer: PreTrainedTokenizerBase) -> None:
        self._tokenizer = tokenizer
        self._bytes_V = _bytes_of_tokens(tokenizer)

    def count(self, rows: Iterable[np.ndarray]) -> int:
        """Bytes of the text of several rows of ids."""
        if self._bytes_V is not None:
            return sum(int(self._bytes_V[ids].sum()) for ids in rows)
        return sum(len(self._decode(ids).encode()) for ids in rows)

    def _decode(self, ids: np.ndarray) -> str:
        return self._tokenizer.decode(ids, skip_special_tokens=True, clean_up_tokenization_spaces=False)


def _bytes_of_tokens(tokenizer: PreTrainedTokenizerBase) -> np.ndarray | None:
    """Bytes of each token (bytes_V, V ids), or None for tokenizers whose tokens are not pieces of the text.

    Adding up tokens is exact where a row begins or ends within a character, which decoding is not: half a character
    decodes to U+FFFD, which has three bytes.
    """
    backend = getattr(tokenizer, "backend_tokenizer", None)
    decoder = json.loads(backend.to_str())["decoder"] if backend is not None else None
    kinds = _kinds(decoder)
    if "ByteLevel" in kinds:
        size = len  # each character of a token stands for one byte
    elif "Metaspace" in kinds or "ByteFallback" in kinds:
        size = _sentencepiece_bytes
    else:
        return None
    vocabulary = tokenizer.get_vocab()
    bytes_V = np.zeros(max(vocabulary.values()) + 1, dtype=np.int64)
    for token, index in vocabulary.items():
        bytes_V[index] = size(token)
    for index, added in tokenizer.added_tokens_decoder.items():  # plain text, whatever the algorithm
        bytes_V[index] = 0 if added.special else len(added.content.encode())
    bytes_V[tokenizer.all_special_ids] = 0
    return bytes_V


def _kinds(decoder: dict | None) -> set[str]:
    if decoder is None:
        return set()
    return {decoder["type"]}.union(*(_kinds(inner) for inner in decoder.get("decoders", [])))


def _sentencepiece_bytes(token: str) -> int:
    return 1 if _BYTE_TOKEN.fullmatch(token) else len(token.replace("\u2581", " ").encode())

"""Prompts that a person gives: texts as they are, or conversations up to where the model's turn begins."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lora_dist.data.columns import text_reason
from lora_dist.data.conversations import ChatRenderer, Message, plain_messages, unfinished_reason
from lora_dist.data.files import TEXT_COLUMN, read_file
from lora_dist.data.masks import Encoder
from lora_dist.data.rows import Rows, refuse
from lora_dist.errors import DataError, Problem, UserError

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

Given = str | list[Message]
"""A text, or a conversation."""
_COLUMNS = ("prompt", "messages")
_FILE = "--file"


@dataclass(frozen=True)
class PromptTokens:
    """A prompt as a model reads it."""

    text: str
    """Without the BOS that is put before a text."""
    input_ids: list[int]


def read_prompts(path: Path) -> list[Given]:
    """The prompts of a file: the lines of a .txt that are not blank; elsewhere the column `prompt` or `messages`.

    Raises:
        DataError: the file cannot be read, has neither column or both, or a row is no prompt.
    """
    try:
        rows = read_file(path, path.name)
    except UserError as error:  # it speaks of a data section, and there is none
        first = error.problems[0]
        raise DataError(key=_FILE, problem=first.problem, fix=first.fix) from None
    if path.suffix.lower() == ".txt":
        lines = rows.column(TEXT_COLUMN)[0].split("\n")  # splitlines() would cut at U+2028 too
        prompts: list[Given] = [line.removesuffix("\r") for line in lines if line.strip()]
    else:
        prompts = _of_column(path, rows)
    if not prompts:
        raise DataError(key=_FILE, problem=f"{path} has no prompt in it", fix="write one on each line")
    return prompts


def _of_column(path: Path, rows: Rows) -> list[Given]:
    found = [name for name in _COLUMNS if name in rows.columns]
    if len(found) != 1 and len(rows):
        has = "both a column 'prompt' and a column 'messages'" if found else "no column 'prompt' and none 'messages'"
        raise DataError(key=_FILE, problem=f"{path} has {has}", fix="keep one of the two")
    if not len(rows):
        return []
    values = rows.column(found[0])
    reason = text_reason if found[0] == "prompt" else unfinished_reason
    refuse(_first_unusable(path, values, reason))
    return [str(value) for value in values] if found[0] == "prompt" else [plain_messages(value) for value in values]


def _first_unusable(path: Path, values: Sequence[Any], reason: Any) -> Iterator[Problem]:
    for number, value in enumerate(values, start=1):
        if why := reason(value):
            yield Problem(_FILE, f"row {number} of {path} {why}", "fill it in or remove the row")
            return


def encode_prompts(prompts: Sequence[Given], tokenizer: PreTrainedTokenizerBase) -> list[PromptTokens]:
    """The tokens of each prompt, as training would have begun with them: a text with BOS where the tokenizer has one.

    Raises:
        DataError, ModelError: the chat template does not go with a conversation.
    """
    encoder = Encoder(tokenizer)
    renderer = ChatRenderer(tokenizer) if any(not isinstance(prompt, str) for prompt in prompts) else None
    texts = [
        prompt if isinstance(prompt, str) else renderer.prompt(prompt, f"prompt {number}")  # type: ignore[union-attr]
        for number, prompt in enumerate(prompts, start=1)
    ]
    found = []
    for given, text, ids in zip(prompts, texts, encoder.ids(texts), strict=True):
        bos = [encoder.bos] if isinstance(given, str) and encoder.bos is not None else []
        found.append(PromptTokens(text, ids.tolist() if ids[:1].tolist() == bos else [*bos, *ids.tolist()]))
    return found

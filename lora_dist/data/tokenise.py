"""A data section and a tokenizer -> tokens. The same section, source and tokenizer always give the same ones."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING

from lora_dist.config.sections import SPLITS, DataSection
from lora_dist.data.classes import ClassMaker
from lora_dist.data.columns import Selection
from lora_dist.data.formats import Format, format_of
from lora_dist.data.identity import key_of, tokenizer_hash
from lora_dist.data.labelled import LabelledTexts, labelled_texts
from lora_dist.data.lengths import Lengths, resolve_lengths
from lora_dist.data.masks import Encoder, Row, blocks
from lora_dist.data.rows import and_more, refuse_one
from lora_dist.data.sources import find_splits, source_fingerprint
from lora_dist.data.splits import complete_splits
from lora_dist.data.tables import MadeSplit, table_of
from lora_dist.data.text_bytes import TextBytes
from lora_dist.data.tokens import SplitFacts, TokenFacts, TokenisedData, hash_of_tokens
from lora_dist.errors import Problem

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

Progress = Callable[[str, int, int, str], None]
"""Called with ("tokenise", rows done, rows in all, split)."""

_BATCH = 1000  # examples per call of the tokenizer


def source_key(section: DataSection, tokenizer: PreTrainedTokenizerBase, context: int | None) -> str:
    """sha256 over everything that determines the tokens, without making them: for `find_token_set`.

    Args:
        section: the data section.
        tokenizer: of the model.
        context: positions that the model has, or None.
    Raises:
        ConfigError: a length does not go with the context.
        DataError: the source is not there, or lacks a split that the section names.
    """
    lengths = resolve_lengths(section, context)
    return key_of(section, tokenizer_hash(tokenizer), lengths, source_fingerprint(section))


def tokenise(
    section: DataSection,
    tokenizer: PreTrainedTokenizerBase,
    context: int | None,
    progress: Progress | None = None,
) -> TokenisedData:
    """Read the source, hold out what is missing, render every row and make tokens of it.

    Args:
        section: the data section.
        tokenizer: of the model; it is not changed.
        context: positions that the model has, or None.
        progress: hears of the rows done.
    Raises:
        ConfigError: a length does not go with the context.
        DataError: the source, a column, a row or a template cannot be used; each names the key and the fix.
        ModelError: the tokenizer's chat template cannot be used.
    """
    lengths = resolve_lengths(section, context)
    sources = find_splits(section)
    fingerprint = {part: source.fingerprint() for part, source in sources.items()}
    rows = {part: source.read() for part, source in sources.items()}
    is_labelled = section.task == "classification"
    form = labelled_texts(section, rows["train"]) if is_labelled else format_of(section, tokenizer, rows["train"])
    selections = complete_splits({part: form.select(read) for part, read in rows.items()}, section)
    maker: ClassMaker | _Maker
    if isinstance(form, LabelledTexts):
        maker = ClassMaker(form, tokenizer, lengths, form.labels(selections))
    else:
        maker = _Maker(section.task, form, tokenizer, lengths)
    encoded = {part: maker.encode(part, selections[part], progress) for part in SPLITS}
    maker.refuse_lost(selections, encoded)
    made = {part: maker.finish(selections[part], encoded[part]) for part in SPLITS}
    tables = {part: split.table for part, split in made.items()}
    identity = tokenizer_hash(tokenizer)
    facts = TokenFacts(
        token_hash=hash_of_tokens(tables, maker.labels),
        tokenizer_hash=identity,
        task=section.task,
        bos=all(split.bos for split in made.values()),
        splits={part: split.facts for part, split in made.items()},
        source_key=key_of(section, identity, lengths, fingerprint),
        max_length=lengths.max_length,
        labels=maker.labels,
    )
    return TokenisedData(facts, tables)


class _Maker:
    """Makes the tokens of one split after the other."""

    labels = None

    def __init__(self, task: str, form: Format, tokenizer: PreTrainedTokenizerBase, lengths: Lengths) -> None:
        self._task = task
        self._form = form
        self._lengths = lengths
        self._encoder = Encoder(tokenizer)
        self._text_bytes = TextBytes(tokenizer)

    def encode(self, part: str, selection: Selection, progress: Progress | None) -> list[Row]:
        """The tokens of every example of train, validation or test, not cut yet."""
        encode = self._encoder.documents if self._task == "causal_lm" else self._encoder.rows
        rows: list[Row] = []
        for start in range(0, len(selection), _BATCH):
            indices = range(start, min(start + _BATCH, len(selection)))
            rows += encode([self._form.example(selection, index) for index in indices])
            if progress is not None:
                progress("tokenise", indices.stop, len(selection), part)
        return rows

    def refuse_lost(self, selections: Mapping[str, Selection], encoded: Mapping[str, Sequence[Row]]) -> None:
        """Refuse data in which cutting at max_length leaves a row with nothing to score.

        Raises:
            DataError: naming the first such row, how many there are, and the length that it takes.
        """
        if self._task == "causal_lm":  # blocks lose nothing
            return
        most = self._lengths.max_length
        lost = [
            (selections[part].row(index), row)
            for part, rows in encoded.items()
            for index, row in enumerate(rows)
            if row.is_lost(most)
        ]
        if lost:
            where, row = lost[0]
            refuse_one(self._lost(f"{where} has", row, and_more(len(lost) - 1), max(len(row.ids) for _, row in lost)))

    def _lost(self, where: str, row: Row, more: str, needed: int) -> Problem:
        most, context = self._lengths.max_length, self._lengths.context
        unscored = row.first_scored
        if unscored >= len(row.ids):
            return Problem(
                "data.path", f"{where} no token that could be scored{more}", "remove the row, or give it a prompt"
            )
        fits = context is None or needed <= context
        return Problem(
            "data.max_length",
            f"{where} {len(row.ids)} tokens, of which the first {unscored} are not scored: cut at {most}, nothing "
            f"is left to score{more}",
            f"raise data.max_length to {needed}, or remove the row"
            if fits
            else f"remove or shorten the row (the model's context is {context})",
        )

    def finish(self, selection: Selection, encoded: Sequence[Row]) -> MadeSplit:
        """The examples as rows: cut at max_length, or laid end to end in blocks.

        Raises:
            DataError: a split of running text has fewer than 2 tokens.
        """
        bos = self._encoder.bos is not None and all(len(row.ids) and row.ids[0] == self._encoder.bos for row in encoded)
        if self._task == "causal_lm":
            rows = blocks(encoded, self._lengths.block_size)
            if not rows:
                what = f"split '{selection.split}' has fewer than 2 tokens in a part of it, so nothing to score"
                refuse_one(Problem("data.path", what, "give it more text"))
        else:
            rows = [row.cut(self._lengths.max_length) for row in encoded]
        return MadeSplit(table_of(rows), self._facts(rows, encoded), bos)

    def _facts(self, rows: Sequence[Row], encoded: Sequence[Row]) -> SplitFacts:
        scored = [row.scored_ids for row in rows]
        longer = sum(len(row.ids) > self._lengths.max_length for row in encoded)
        return SplitFacts(
            rows=len(rows),
            tokens=sum(len(row.ids) for row in rows),
            scored_tokens=sum(map(len, scored)),
            scored_bytes=self._text_bytes.count(scored),
            truncated=0 if self._task == "causal_lm" else longer,
            longest=max(len(row.ids) for row in rows),
        )

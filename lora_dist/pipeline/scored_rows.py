"""Which rows of a split are scored."""

from __future__ import annotations

from lora_dist.config.experiment import Run
from lora_dist.data.tokens import TokenSet
from lora_dist.evaluation.classes import Row


def scored_rows(run: Run, tokens: TokenSet, split: str) -> list[Row]:
    """Ids and labels of all rows of a split; of train the first `evaluate.max_train_examples`."""
    rows = tokens.rows(split)
    limit = run.evaluate.max_train_examples if split == "train" else None
    return [rows[index] for index in range(len(rows) if limit is None else min(len(rows), limit))]

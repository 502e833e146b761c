"""The order of the train rows: the same for every number of ranks, so that a run's steps are too."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import torch
from datasets import Dataset, concatenate_datasets
from torch.utils.data import Sampler

from lora_dist.data.tokens import NOT_SCORED

FILLER_TOKENS = 2


class EpochOrder(Sampler[int]):
    """A new permutation of the rows each epoch, by `seed + epoch`, then the fillers in their own order.

    accelerate deals batches to the ranks in turn, so a step's batches on N ranks are those that one rank would
    accumulate. (The permutation is that of accelerate's SeedableRandomSampler: that of a bare script.)

    It asks for the epoch itself: accelerate's `set_epoch` does not reach the sampler of a rank that resumes within an
    epoch (1.15: three samplers deep there), and the rank would see the first epoch's order again.
    """

    def __init__(self, rows: int, fillers: int, seed: int, epoch: Callable[[], int]) -> None:
        self.rows, self.fillers, self.seed, self.epoch = rows, fillers, seed, epoch

    def __len__(self) -> int:
        return self.rows + self.fillers

    def __iter__(self) -> Iterator[int]:
        generator = torch.Generator().manual_seed(self.seed + self.epoch())
        yield from torch.randperm(self.rows, generator=generator).tolist()
        yield from range(self.rows, self.rows + self.fillers)


def fillers_for(rows: int, micro_batch_size: int, world_size: int) -> int:
    """How many rows are missing until every rank has equally many whole micro-batches; one rank needs none.

    accelerate would make up for them with rows from the epoch's beginning, which then count twice.
    """
    return -rows % (micro_batch_size * world_size) if world_size > 1 else 0


def with_fillers(rows: Dataset, fillers: int) -> Dataset:
    """`rows` and, after them, `fillers` rows of two tokens, neither scored: they change no loss and no gradient."""
    if not fillers:
        return rows
    ids = (rows[0]["input_ids"] * FILLER_TOKENS)[:FILLER_TOKENS]  # a row to classify may have a single token
    filler = {"input_ids": ids, "labels": [NOT_SCORED] * FILLER_TOKENS}
    if "seq_lengths" in rows.column_names:  # packed
        filler["seq_lengths"] = [FILLER_TOKENS]
    return concatenate_datasets([rows, Dataset.from_list([filler] * fillers, features=rows.features)])

"""Labels: how often each one occurs, and what is odd about them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from lora_dist.data.checking.overlap import normalised

MOST_LABELS = 20
"""Completions of so many different texts at most are taken for labels..."""
ROWS_PER_LABEL = 10
"""...where train has at least so many rows for each on the average."""


@dataclass(frozen=True)
class LabelBalance:
    """The labels of each split."""

    counts: dict[str, dict[str, int]]
    """Split -> label -> rows; the most frequent labels of train first, the same labels in the same order everywhere."""

    @property
    def labels(self) -> list[str]:
        """All of them, in that order."""
        return list(next(iter(self.counts.values()), {}))

    def share(self, split: str, label: str) -> float:
        """The share of a split's rows that have this label; 0 where the split has no rows."""
        return self.counts[split][label] / max(1, sum(self.counts[split].values()))

    def majority(self, split: str) -> tuple[str, float] | None:
        """The most frequent label of a split and its share: what always giving it would score. None without rows."""
        if not any(self.counts[split].values()):
            return None
        label = max(self.counts[split], key=self.counts[split].__getitem__)
        return label, self.share(split, label)

    def unseen(self, split: str) -> list[str]:
        """The labels of a split that train lacks: nothing can learn to give them."""
        train = self.counts.get("train", {})
        return [label for label, count in self.counts[split].items() if count and not train.get(label)]

    @property
    def spellings(self) -> list[list[str]]:
        """Labels that differ in case and whitespace only."""
        groups: dict[str, list[str]] = {}
        for label in self.labels:
            groups.setdefault(normalised(label), []).append(label)
        return [group for group in groups.values() if len(group) > 1]

    def document(self) -> dict[str, Any]:
        """For JSON."""
        splits = {}
        for split, counts in self.counts.items():
            majority = self.majority(split)
            splits[split] = {
                "counts": counts,
                "shares": {label: self.share(split, label) for label in counts},
                "majority": None if majority is None else {"label": majority[0], "share": majority[1]},
                "not_in_train": self.unseen(split),
            }
        return splits


def label_balance(labels: Mapping[str, Sequence[Any]]) -> LabelBalance:
    """Count the labels of each split.

    Args:
        labels: by split (train, validation, test), one for each row; numbers count as the texts that they print as.
    """
    counted = {split: Counter(str(label) for label in values) for split, values in labels.items()}
    train = counted.get("train", Counter())
    every = sorted({label for count in counted.values() for label in count}, key=lambda label: (-train[label], label))
    return LabelBalance({split: {label: count[label] for label in every} for split, count in counted.items()})


def look_like_labels(train: Sequence[str]) -> bool:
    """Whether the completions of train are few enough to be labels rather than texts."""
    different = len(set(train))
    return 0 < different <= MOST_LABELS and len(train) >= ROWS_PER_LABEL * different

"""Reviews whose label cannot be read off single words."""

from __future__ import annotations

import math
import re
from collections import Counter, defaultdict

import pytest

from lora_dist.corpora.registry import load
from lora_dist.corpora.sentiment_words import DOMAINS

GROUPS = list(dict.fromkeys(group for domain in DOMAINS for group in domain.groups))

PATTERNS = [
    (
        re.compile(rf"\bthe ({'|'.join(name for name, _ in group.aspects)})\b", re.IGNORECASE),
        re.compile(rf"\b({'|'.join(word for pair in group.opinions for word in pair)})\b"),
    )
    for group in GROUPS
]


def words_of(text):
    return set(re.findall(r"[a-z'-]+", text.lower()))


def naive_bayes_accuracy(train, rows):
    """Bernoulli naive Bayes over single words, with add-one smoothing; absent words are left out."""
    seen, labels = defaultdict(Counter), Counter(row["label"] for row in train)
    for row in train:
        seen[row["label"]].update(words_of(row["text"]))

    def score(label, text):
        return math.log(labels[label]) + sum(
            math.log((seen[label][word] + 1) / (labels[label] + 2)) for word in words_of(text)
        )

    right = [max(labels, key=lambda label: score(label, row["text"])) == row["label"] for row in rows]
    return sum(right) / len(right)


def pairs_of(rows):
    """(aspect, opinion) that the texts hold. Only one aspect of a group is in a text."""
    found = set()
    for text in (row["text"] for row in rows):
        for aspects, opinions in PATTERNS:
            found |= {(aspect.lower(), word) for aspect in aspects.findall(text) for word in opinions.findall(text)}
    return found


def test_no_aspect_is_in_two_groups():
    aspects = [aspect.name for group in GROUPS for aspect in group.aspects]
    assert len(set(aspects)) == len(aspects)


def test_the_labels_are_mixed_unevenly_in_every_split():
    for rows in load("sentiment").values():
        counts = Counter(row["label"] for row in rows)
        assert counts.keys() == {"negative", "neutral", "positive"}
        for label, share in (("negative", 0.45), ("neutral", 0.2), ("positive", 0.35)):
            spread = 3 * math.sqrt(share * (1 - share) / len(rows))  # three standard deviations
            assert counts[label] / len(rows) == pytest.approx(share, abs=spread)


def test_single_words_tell_something_of_the_label_but_far_from_all():
    splits = load("sentiment")
    commonest = Counter(row["label"] for row in splits["test"]).most_common(1)[0][1] / len(splits["test"])
    accuracy = naive_bayes_accuracy(splits["train"], splits["test"])
    assert commonest + 0.1 < accuracy < 0.75


def test_every_opinion_is_met_in_praise_and_in_blame():
    labels = defaultdict(set)
    for row in load("sentiment")["train"]:
        for _, opinion in pairs_of([row]):
            labels[opinion].add(row["label"])
    assert labels.keys() == {word for group in GROUPS for pair in group.opinions for word in pair}
    assert not {opinion: found for opinion, found in labels.items() if not {"positive", "negative"} <= found}


def test_some_pairs_of_aspect_and_opinion_are_only_in_the_test_split():
    splits = load("sentiment")
    known = pairs_of(splits["train"]) | pairs_of(splits["validation"])
    new = pairs_of(splits["test"]) - known
    assert len(new) > 50
    assert {aspect for aspect, _ in new} <= {aspect for aspect, _ in known}
    assert {opinion for _, opinion in new} <= {opinion for _, opinion in known}
    news = sum(bool(pairs_of([row]) & new) for row in splits["test"]) / len(splits["test"])
    assert 0.5 < news < 0.8

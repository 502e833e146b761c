"""Tasks whose outputs are worked out again, from the text of the row alone."""

from __future__ import annotations

import calendar
import re
from collections import Counter
from datetime import datetime, timedelta
from functools import cache

import pytest

from lora_dist.corpora.instruction_kinds import KINDS
from lora_dist.corpora.instruction_words import CLASSES, UNITS
from lora_dist.corpora.registry import load

IRREGULAR = {
    "draws": "drew drawn", "sells": "sold sold", "buys": "bought bought", "finds": "found found",
    "builds": "built built", "hides": "hid hidden", "loses": "lost lost", "chooses": "chose chosen",
    "breaks": "broke broken", "brings": "brought brought", "throws": "threw thrown", "takes": "took taken",
}  # fmt: skip
PLURALS = {"box": "boxes", "fox": "foxes"}
ADVERB = r"(?: \w+ly| often)?"


def base(third):
    if third.endswith("ies"):
        return third[:-3] + "y"
    return third[:-2] if third.endswith("shes") else third[:-1]


def past(third, form):
    if third in IRREGULAR:
        return IRREGULAR[third].split()[form]
    return third[:-2] + "ed" if third.endswith(("ies", "shes")) else third[:-1] + "ed"


def split_sentence(sentence):
    """Who, verb, what, where of "The baker sells a lamp near the park."."""
    return re.fullmatch(r"(The \w+) (\w+s) ((?:a|the) (?:\w+ )??\w+?)((?: at| near) the \w+)?\.", sentence).groups("")


def on_24_hours(given):
    return datetime.strptime(given.upper(), "%I:%M %p").strftime("%H:%M")


def day_after(given, days):
    monday = datetime(2024, 1, 1)
    start = next(day for day in (monday + timedelta(n) for n in range(7)) if day.strftime("%A") == given)
    return (start + timedelta(int(days))).strftime("%A")


def convert(given, unit):
    count, of = given.split()
    for large, small, factor in UNITS:
        if (of, unit) == (large, small):
            return f"{int(count) * factor} {unit}"
        if (of, unit) == (small, large):
            assert int(count) % factor == 0
            return f"{int(count) // factor} {unit}"
    raise AssertionError(given, unit)


def form_line(key, text):
    year = rf"\d+ (?:{'|'.join(calendar.month_name[1:])}) \d{{4}}"
    patterns = {"Name": r"[A-Z]\w+ [A-Z]\w+", "Born": year, "Town": r"(?<=\bin )[A-Z]\w+|(?<=from )[A-Z]\w+"}
    patterns["Job"] = r"(?<=\ba )\w+|(?<=^The )\w+"
    matches = [found for found in re.findall(patterns[key], text) if found.split()[0] not in ("Born", "The")]
    return f"{key}: {matches[0]}"


def odd_one(words):
    kinds = {word: {name for name, members in CLASSES.items() if word in members} for word in words}
    return [word for word in words if not any(kinds[word] & kinds[other] for other in words if other != word)]


def rewrite(given, pattern, verb_form):
    who, verb, what, where = split_sentence(given)
    text = pattern.format(who=who[0].lower() + who[1:], verb=verb_form(verb), what=what, where=where)
    return text[0].upper() + text[1:]


MARKS = {"hyphens": "-", "spaces": " ", "commas": ","}
SOLVERS = {
    "sort_words": lambda given: ", ".join(sorted(given.split(", "))),
    "reverse_list": lambda given: ", ".join(given.split(", ")[::-1]),
    "drop_repeats": lambda given: ", ".join(dict.fromkeys(given.split(", "))),
    "keep_long_words": lambda given, limit: ", ".join(w for w in given.split(", ") if len(w) > int(limit)),
    "number_lines": lambda given: "\n".join(f"{n}. {w}" for n, w in enumerate(given.split(", "), 1)),
    "odd_one_out": lambda given: odd_one(given.split(", "))[0],
    "largest_number": lambda given: str(max(map(int, given.split(", ")))),
    "add_numbers": lambda given: str(sum(map(int, given.split(", ")))),
    "next_number": lambda given: str(2 * int(given.split(", ")[-1]) - int(given.split(", ")[-2])),
    "count_letter": lambda given, letter: str(Counter(given)[letter]),
    "spell": lambda given, marks: MARKS[marks].join(given),
    "plural": lambda given: ", ".join(PLURALS.get(word, word + "s") for word in given.split(", ")),
    "classify": lambda given, options: next(o for o in re.split(", | or ", options) if given in CLASSES[o]),
    "initials": lambda given: " ".join(re.sub(r"\w+", lambda name: name[0][0] + ".", given).split()),
    "past_tense": lambda given: rewrite(given, "{who} {verb} {what}{where}.", lambda verb: past(verb, 0)),
    "negate": lambda given: rewrite(given, "{who} does not {verb} {what}{where}.", base),
    "ask": lambda given: rewrite(given, "Does {who} {verb} {what}{where}?", base),
    "passive": lambda given: rewrite(given, "{what} is {verb} by {who}.", lambda verb: past(verb, 1)),
    "shorten": lambda given: re.sub(
        rf"(?:On a \w+ \w+ )?[Tt]he \w+ (\w+){ADVERB} (\w+ (?:a|the) (?:\w+ )??\w+?)((?: at| near) the \w+)?\.",
        r"The \1 \2.",
        given,
    ),
    "count_words": lambda given: str(given.count(" ") + 1),
    "extract_date": lambda given: re.search(rf"\d+ (?:{'|'.join(calendar.month_name[1:])}) \d{{4}}", given)[0],
    "fill_form": lambda given, lines: "\n".join(form_line(key, given) for key in lines.split(", ")),
    "convert_units": convert,
    "day_after": day_after,
    "on_the_clock": on_24_hours,
}


@cache
def pattern_of(wording):
    parts = re.split(r"(\{\w+\})", wording)
    return re.compile("".join(f"(?P<{p[1:-1]}>.+?)" if p.startswith("{") else re.escape(p) for p in parts))


def task_of(row):
    """The kind, the number of the wording, what is given and the fields, read back from the row's text."""
    for kind in KINDS:
        for number, wording in enumerate(kind.wordings):
            found = pattern_of(wording).fullmatch(row["instruction"])
            if found and bool(row["input"]) == ("{given}" not in wording):
                return kind.write.__name__, number, {"given": row["input"]} | found.groupdict()
    raise AssertionError(row)


@pytest.mark.parametrize("split", ["train", "validation", "test"])
def test_every_output_is_right(split):
    for row in load("instructions")[split]:
        kind, _, fields = task_of(row)
        assert SOLVERS[kind](**fields) == row["output"], row


def test_there_are_25_kinds_that_are_all_common_in_every_split():
    assert len(KINDS) == len(SOLVERS) == 25
    for rows in load("instructions").values():
        counts = Counter(task_of(row)[0] for row in rows)
        assert len(counts) == 25
        assert max(counts.values()) < 4 * len(rows) / 25


def test_about_half_of_the_inputs_are_empty():
    rows = load("instructions")["train"]
    assert 0.3 < sum(not row["input"] for row in rows) / len(rows) < 0.6


def test_the_odd_one_out_is_the_only_one():
    for row in load("instructions")["train"]:
        kind, _, fields = task_of(row)
        if kind == "odd_one_out":
            assert len(odd_one(fields["given"].split(", "))) == 1, row


def test_one_wording_of_each_kind_is_only_in_the_test_split():
    wordings = {split: {task_of(row)[:2] for row in rows} for split, rows in load("instructions").items()}
    assert wordings["train"] == {(kind.write.__name__, number) for kind in KINDS for number in range(4)}
    assert wordings["validation"] <= wordings["train"]
    new = wordings["test"] - wordings["train"]
    assert {number for _, number in new} == {4}
    assert len(new) >= 24


def test_some_pairs_of_verb_and_object_are_only_in_the_test_split():
    """Of the tasks with a sentence, as an example of the pairs of arguments."""
    pairs = {}
    for split, rows in load("instructions").items():
        pairs[split] = set()
        for kind, _, fields in map(task_of, rows):
            if kind in ("past_tense", "negate", "ask", "passive"):
                _, verb, what, _ = split_sentence(fields["given"])
                pairs[split].add((verb, what.split()[-1]))
    new = pairs["test"] - pairs["train"] - pairs["validation"]
    assert len(new) > 15
    for part in (0, 1):
        assert {pair[part] for pair in new} <= {pair[part] for pair in pairs["train"]}


def test_about_half_of_the_test_split_has_a_new_wording():
    rows = load("instructions")["test"]
    assert 0.35 < sum(task_of(row)[1] == 4 for row in rows) / len(rows) < 0.6

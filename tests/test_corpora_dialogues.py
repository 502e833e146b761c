"""Talks whose summaries are checked by a reader of its own: the last offer that nobody turns down holds."""

from __future__ import annotations

import re

import pytest

from lora_dist.corpora import words
from lora_dist.corpora.dialogue_words import ACTIVITIES, TIMES
from lora_dist.corpora.registry import load

DO = "|".join(activity.do for activity in ACTIVITIES)
PLACE = "|".join(sorted({place for activity in ACTIVITIES for place in activity.places}, key=len, reverse=True))
DAY, TIME, NAME = "|".join(words.DAYS), "|".join(TIMES), "|".join(words.NAMES)
OUTCOME = re.compile(rf"((?:(?:{NAME}), )?(?:{NAME}) and (?:{NAME})) will ({DO}) ({PLACE}) on ({DAY}) at ({TIME})\.")
CALLED_OFF = re.compile(rf"({NAME}) and ({NAME}) will not ({DO}), because ({NAME}) has to [a-z ]+ on ({DAY})\.")


def last(pattern, text):
    found = re.findall(rf"\b(?:{pattern})\b", text)
    return found[-1] if found else None


def read(dialogue):
    """What was proposed and what came of it: (people, activity, place, day, time), and who brings something.

    The outcome's people, or None for a plan that is dropped.
    """
    speakers, lines = zip(*(line.split(": ", 1) for line in dialogue.split("\n")), strict=True)
    opening, talk = lines[0], " ".join(lines[1:])
    asked = " ".join(re.findall(r"[^.?!,]*\?|Better [^.]*\.", talk))  # offers are questions
    people = list(dict.fromkeys(speakers))
    proposal = (people, last(DO, opening), last(PLACE, opening), last(DAY, opening), last(TIME, opening))
    parts = zip((DO, PLACE, DAY, TIME), proposal[1:], strict=True)
    outcome = [people, *(last(what, asked) or known for what, known in parts)]
    brings = None
    for speaker, line in zip(speakers, lines, strict=True):
        other = next(name for name in people if name != speaker)
        if found := re.search(rf"({NAME}) could go instead|Then take ({NAME})", line):
            outcome[0] = [other, found[found.lastindex]]
        elif found := re.search(rf"Can ({NAME}) come|ask ({NAME}) too|invite ({NAME})|rather have ({NAME})", line):
            outcome[0] = [*people, found[found.lastindex]]
        elif found := re.search(rf"Can you bring|I will ask ({NAME})\.", line):
            brings = found[1] or other
        elif re.search("drop it|Another time|call it off", line):
            outcome[0] = None
    return proposal, tuple(outcome), brings


def change_of(dialogue):
    """Which parts of the plan came out differently."""
    proposal, outcome, brings = read(dialogue)
    if outcome[0] is None:
        return "called off"
    if outcome[1] != proposal[1]:
        return "another activity"
    parts = zip(("people", "activity", "place", "day", "time"), proposal, outcome, strict=True)
    changed = [part for part, before, after in parts if before != after]
    return " and ".join([*changed, f"{len(outcome[0])} people", *(["another brings it"] if brings else [])])


@pytest.mark.parametrize("split", ["train", "validation", "test"])
def test_the_summary_is_what_the_talk_came_to(split):
    for row in load("dialogues")[split]:
        _, (people, do, place, day, time), brings = read(row["dialogue"])
        if people is None:
            assert CALLED_OFF.fullmatch(row["summary"])[3] == do, row
            continue
        told = OUTCOME.match(row["summary"])
        assert (re.split(", | and ", told[1]), *told.groups()[1:]) == (people, do, place, day, time), row
        assert (f"{brings} brings" in row["summary"]) == (brings is not None), row


def test_the_reason_is_that_of_the_one_who_gave_it():
    said = {"has to": "have to", "has hurt": "have hurt", "has too": "have too", "is": "am", "comes": "come"}
    pattern = re.compile(rf"({NAME}) ({'|'.join(said)}) ([a-z ]+?)(?: on [A-Z]\w+)?\.$")
    rows = [row for rows in load("dialogues").values() for row in rows]
    reasons = [(pattern.search(row["summary"]), row["dialogue"]) for row in rows]
    assert sum(bool(reason) for reason, _ in reasons) > 0.7 * len(rows)  # one more person, another place: none's reason
    for reason, dialogue in reasons:
        if reason:
            assert re.search(rf"^{reason[1]}: .*I {said[reason[2]]} {reason[3]}", dialogue, re.MULTILINE), dialogue


def test_the_first_proposal_is_not_the_outcome_and_half_of_the_talks_turn_an_offer_down():
    rows = load("dialogues")["train"]
    assert all(change_of(row["dialogue"]) != "2 people" for row in rows)
    turned_down = re.compile(
        "I cannot either|never on time|: (On|At) [a-z]+ I have to|: It is|Better|But|: Then I have", re.I
    )
    assert 0.4 < sum(bool(turned_down.search(row["dialogue"])) for row in rows) / len(rows) < 0.6


def test_two_people_speak_in_turn_four_to_eight_times_and_are_summed_up_in_one_or_two_sentences():
    for row in (row for rows in load("dialogues").values() for row in rows):
        speakers = [line.split(":")[0] for line in row["dialogue"].split("\n")]
        assert 4 <= len(speakers) <= 8
        assert len(set(speakers[0::2])) == len(set(speakers[1::2])) == 1
        assert len(set(speakers)) == 2
        assert 1 <= row["summary"].count(".") <= 2


def test_some_pairs_of_activity_and_change_are_only_in_the_test_split():
    pairs = {
        split: [(read(row["dialogue"])[0][1], change_of(row["dialogue"])) for row in rows]
        for split, rows in load("dialogues").items()
    }
    known = {*pairs["train"], *pairs["validation"]}
    new = [pair for pair in pairs["test"] if pair not in known]
    assert 0.4 < len(new) / len(pairs["test"]) < 0.6
    assert {activity for activity, _ in new} <= {activity for activity, _ in known}
    assert {change for _, change in new} <= {change for _, change in known}
    assert len({change for _, change in known}) == 8

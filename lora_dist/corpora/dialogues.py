"""The dataset `dialogues`: two people arrange something, the plan changes, and a summary tells what it came to.

The summary gives the outcome (who, what, where, when) and then, if there is one, the reason why it is not what was
proposed first; an offer that was turned down is not in it. Held out for test: one in seven pairs of an activity and
a way to change the plan (such as tennis and another day). About half of the test rows are such pairs.
"""

from __future__ import annotations

from lora_dist.corpora import words
from lora_dist.corpora.dialogue_changes import CHANGES, Plan, Talk
from lora_dist.corpora.dialogue_words import ACTIVITIES, BYES, GLAD, PROPOSALS, TIMES, YES
from lora_dist.corpora.dice import Dice
from lora_dist.corpora.splits import Draft, Splits, deal, is_held_out

SIZES = {"train": 800, "validation": 100, "test": 200}
_SEED = 32
_FEWEST, _MOST = 4, 8  # turns
_LONG = 200  # characters of a talk after which nothing is added to it


def dialogues(sizes: dict[str, int] = SIZES) -> Splits:
    """The splits of `dialogues`; rows have `dialogue` (4 to 8 lines such as "Anna: Gladly.") and `summary`."""
    return deal(_write, sizes, _SEED)


def _write(dice: Dice) -> Draft:
    activity, change = dice.number(0, len(ACTIVITIES) - 1), dice.number(0, len(CHANGES) - 1)
    people = tuple(dice.some(words.NAMES, 2))
    place = dice.pick(ACTIVITIES[activity].places)
    plan = Plan(people, ACTIVITIES[activity], place, dice.pick(words.DAYS), dice.pick(TIMES))
    lines = [dice.pick(PROPOSALS).format(do=plan.activity.do, place=place, day=plan.day, time=plan.time)]
    if dice.chance(0.6):
        lines.append(dice.pick(YES))
        if dice.chance(0.5):
            lines.append(dice.pick(GLAD))
    me, you = people if len(lines) % 2 == 0 else reversed(people)
    changed = CHANGES[change](dice, Talk(plan, me, you))
    lines += changed.lines
    room = min(2, _MOST - len(lines)) if sum(map(len, lines)) < _LONG else 0
    missing = max(0, _FEWEST - len(lines))
    lines += dice.some(BYES, dice.number(missing, max(room, missing)))
    dialogue = "\n".join(f"{people[turn % 2]}: {line}" for turn, line in enumerate(lines))
    row = {"dialogue": dialogue, "summary": changed.summary}
    return Draft(row, dialogue, is_held_out(activity, change))

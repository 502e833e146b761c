"""The dataset `instructions`: small tasks of 25 kinds, each with one right output.

Held out for test: of each kind one of its five wordings, and one in seven pairs of its two main arguments (such as
a verb and its object in a sentence, or the first two words of a list). About seven in ten test rows have a new
wording, a new pair or both.
"""

from __future__ import annotations

from lora_dist.corpora.dice import Dice
from lora_dist.corpora.instruction_kinds import KINDS
from lora_dist.corpora.splits import Draft, Splits, deal, is_held_out

SIZES = {"train": 1500, "validation": 150, "test": 300}
_SEED = 33


def instructions(sizes: dict[str, int] = SIZES) -> Splits:
    """The splits of `instructions`; rows have `instruction`, `input` (often empty) and `output`."""
    return deal(_write, sizes, _SEED)


def _write(dice: Dice) -> Draft:
    kind = dice.pick(KINDS)
    wording = dice.pick(kind.wordings)
    task = kind.write(dice)
    instruction = wording.format(given=task.given, **task.fields)
    given = "" if "{given}" in wording else task.given
    row = {"instruction": instruction, "input": given, "output": task.output}
    new = wording == kind.wordings[-1] or is_held_out(*task.combination)
    return Draft(row, f"{instruction}\n{given}", new)

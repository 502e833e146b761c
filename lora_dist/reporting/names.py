"""Short names that tell the rows of a report apart: lora, lora r4, lora r4 seed 1."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Sequence

from lora_dist.config.experiment import Run
from lora_dist.reporting.rows import Row
from lora_dist.reporting.words import one_line, setting

_LONGEST_SETTING = 24
_SHORT = {
    "method.rank": "r", "method.alpha": "alpha ", "train.learning_rate": "lr ", "method.top_blocks": "top ",
    "method.virtual_tokens": "",
}  # fmt: skip


def short_names(runs: Sequence[tuple[str, Run]]) -> list[str]:
    """A name for each (experiment, run): the arm, then only the settings in which its arm's runs differ.

    The experiment's name goes first when there are several experiments. Runs that nothing short tells apart get the
    end of their id.
    """
    several = len({experiment for experiment, _ in runs}) > 1
    families: dict[tuple[str, str], list[int]] = defaultdict(list)
    for index, (experiment, run) in enumerate(runs):
        families[experiment, run.arm].append(index)
    names = [""] * len(runs)
    for (experiment, arm), indices in families.items():
        first = f"{experiment}/{arm}" if several else arm
        for index, name in zip(indices, _distinct([runs[index][1] for index in indices]), strict=True):
            names[index] = f"{first} {name}".rstrip()
    return names


def _distinct(runs: Sequence[Run]) -> list[str]:
    """What to add to the arm's name: each part is there only if it tells more runs apart than those before it."""
    keys = list(dict.fromkeys(key for run in runs for key in run.point))
    tellers: list[Callable[[Run], str]] = [lambda run, key=key: _setting(run, key) for key in keys]
    tellers.append(lambda run: f"seed {run.seed}" if run.trains else "")
    tellers.append(lambda run: run.id[-8:])
    names = [""] * len(runs)
    for teller in tellers:
        if len(set(names)) == len(runs):
            break
        longer = [f"{name} {teller(run)}".strip() for name, run in zip(names, runs, strict=True)]
        if len(set(longer)) > len(set(names)):
            names = longer
    return names


def _setting(run: Run, key: str) -> str:
    if key not in run.point:
        return ""
    value = one_line(setting(run.point[key]), _LONGEST_SETTING)
    return f"{_SHORT[key]}{value}" if key in _SHORT else f"{key.split('.')[-1]}={value}"


def without_seed(row: Row) -> str:
    """The row's name without its seed, for what is said of all its seeds."""
    return row.name.replace(f" seed {row.seed}", "")

"""From the words and options of a command line to an experiment."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from lora_dist.config.experiment import Experiment

Words = Annotated[
    list[str] | None,
    typer.Argument(
        metavar="EXPERIMENT|KEY=VALUE",
        help="A YAML file, an experiment's folder or a recipe's name, then overrides such as train.epochs=2. The file "
        "may be left out when the overrides say enough.",
        show_default=False,
    ),
]


def experiment_of(
    words: list[str] | None,
    *,
    launcher: str | None = None,
    gpus_per_run: int | None = None,
    model: str | None = None,
    data: str | None = None,
) -> Experiment:
    """The experiment that a command line names: an optional source, then overrides; options win.

    Raises:
        UserError: something the user can mend, such as no experiment at all.
    """
    from lora_dist.config.loading import data_override, load_experiment
    from lora_dist.errors import ConfigError

    words = list(words or [])
    source = words.pop(0) if words and ("=" not in words[0] or Path(words[0]).exists()) else None
    overrides = words
    if model is not None:
        overrides = [f"model.path={json.dumps(model)}", "method.kind=base", "evaluate.splits=[test]", *overrides]
    if data is not None:
        overrides = [data_override(data), *overrides]
    if launcher is not None:
        overrides = [*overrides, f"launch.launcher={launcher}"]
    if gpus_per_run is not None:
        overrides = [*overrides, f"launch.gpus_per_run={gpus_per_run}"]
    if source is None and not overrides:
        raise ConfigError(
            key="EXPERIMENT",
            problem="is missing",
            fix="give a YAML file or a recipe; try: lora-dist compare quickstart",
        )
    return load_experiment(source, overrides)

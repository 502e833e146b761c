"""evaluate: the runs of an experiment measured again, or any model."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from lora_dist.cli.arguments import Words, experiment_of
from lora_dist.cli.output import print_record, show_result, stdout
from lora_dist.errors import UserError


def evaluate(
    words: Words = None,
    model: Annotated[str | None, typer.Option(help="Measure this model (folder, hub id) instead.")] = None,
    adapter: Annotated[Path | None, typer.Option(help="An adapter's folder, put on the model.")] = None,
    data: Annotated[str | None, typer.Option(help="Data for --model: a file, folder, hub id or builtin:NAME.")] = None,
    sparse_kernels: Annotated[
        bool,
        typer.Option(
            "--sparse-kernels",
            help="With --model: also score with the GPU's 2:4 kernels, check them, and say how fast they are.",
        ),
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print the record as JSON (with --model).")] = False,
) -> None:
    """Measure an experiment's runs again, or any model: --model DIR --data FILE data.task=instruction ..."""
    if model is None:
        if adapter is not None or data is not None or as_json:
            raise UserError(key="--model", problem="is missing", fix="--adapter, --data and --json go with --model")
        if sparse_kernels:
            raise UserError(
                key="--sparse-kernels",
                problem="is for one model, not for the runs of an experiment",
                fix="type: lora-dist evaluate --model RUN_DIR/pruned --data FILE data.task=... --sparse-kernels",
            )
        _evaluate_runs(words)
        return
    from lora_dist.cli.progress import StageView
    from lora_dist.verbs.evaluate import evaluate_model

    experiment = experiment_of(words, model=model, data=data)
    with StageView() as view:
        record = evaluate_model(experiment, adapter=adapter, sparse_kernels=sparse_kernels, progress=view)
    if as_json:
        stdout.print(record.model_dump_json(indent=2), soft_wrap=True, highlight=False, markup=False)
    else:
        print_record(record)


def _evaluate_runs(words: list[str] | None) -> None:
    experiment = experiment_of(words)
    from lora_dist.cli.progress import ProgressView
    from lora_dist.verbs.evaluate import evaluate as do_evaluate

    with ProgressView() as view:
        result = do_evaluate(experiment, listener=view)
    show_result(result)

"""check-data: is the data right? Figures, what is wrong, and examples as the model sees them."""

from __future__ import annotations

from typing import Annotated

import typer

from lora_dist.cli.arguments import Words, experiment_of


def check_data(
    words: Words = None,
    strict: Annotated[bool, typer.Option("--strict", help="End with 2 on warnings, too.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON document.")] = False,
) -> None:
    """Look at the data before training: lengths, faults, leakage, examples. Writes nothing."""
    experiment = experiment_of(words)
    from lora_dist.cli.check_output import print_checks
    from lora_dist.cli.progress import StageView
    from lora_dist.verbs.check_data import check_data as do_check
    from lora_dist.verbs.check_data import refuse_findings

    with StageView() as view:
        checked = do_check(experiment, progress=view)
    print_checks(checked, words or [], as_json=as_json, strict=strict)
    refuse_findings(checked, strict=strict)

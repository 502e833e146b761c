"""What a classification cannot have, found before anything is opened."""

from __future__ import annotations

from collections.abc import Iterator

from lora_dist.config.experiment import Run
from lora_dist.errors import Problem

TASK = "classification"


def is_classification(run: Run) -> bool:
    """Whether the run trains or measures a classifier, and not a language model."""
    return run.data.task == TASK


def classification_problems(run: Run) -> Iterator[Problem]:
    """The settings of a run that do not go with data.task=classification; nothing for another task."""
    if not is_classification(run):
        if "label" in run.data.columns:
            fix = f"remove it, or set data.task={TASK}"
            yield Problem("data.columns.label", f"a {run.data.task} task has no labels", fix)
        return
    if run.method.kind in ("qlora", "prefix", "ia3"):
        yield Problem("method.kind", f"{run.method.kind} is not there for {TASK}", "use lora, partial or full")
    if run.prune is not None:
        yield Problem("prune", f"pruning is not there for {TASK}", "set it to null")
    if run.method.kind == "lora" and (run.method.preserve_sparsity or run.base_is_pruned):
        fix = "set method.preserve_sparsity=false, and give a base that is not pruned"
        yield Problem("method.preserve_sparsity", f"a pruned base is not there for {TASK}", fix)
    if run.evaluate.merged == "always":
        yield Problem("evaluate.merged", f"merged forms are not measured for {TASK}", "use auto or never")
    if set(run.evaluate.metrics or ()) - {"perplexity"}:
        fix = "leave it out: accuracy and F1 are always measured"
        yield Problem("evaluate.metrics", f"{TASK} generates no answers to judge", fix)
    if run.data.packing:
        yield Problem("data.packing", f"{TASK} has one label per sequence, so nothing to pack", "set it to false")
    if run.data.block_size is not None:
        yield Problem("data.block_size", f"{TASK} has no blocks", "set it to null (data.max_length cuts rows)")
    for role in ("prompt", "completion", "messages"):
        if role in run.data.columns:
            yield Problem(f"data.columns.{role}", f"{TASK} has text and label", f"remove '{role}'")

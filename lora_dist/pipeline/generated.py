"""What a run generates from the test prompts, and how its answers are judged.

Every arm is given the same prompts: those of the same rows, after the same examples.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from transformers import PreTrainedModel

from lora_dist.config.experiment import Run
from lora_dist.data.tokens import TokenisedData, TokenSet
from lora_dist.errors import DataError, Problem
from lora_dist.evaluation.few_shot import with_shots
from lora_dist.evaluation.generate import Prompt, Sample, generate_samples, prompts_of
from lora_dist.evaluation.generated_scores import judge, write_judged
from lora_dist.store.atomic import write_text
from lora_dist.store.folders import RunFolder
from lora_dist.store.record import Generation
from lora_dist.team import Team

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

SPLIT = "test"
USUAL_NEW_TOKENS = 128
_ROOM = 1.25
"""A judged answer may be so many times as long as the longest reference."""
Progress = Callable[[str, int, int, str], None]


def generate_for_run(
    run: Run,
    folder: RunFolder,
    tokens: TokenSet,
    tokenizer: PreTrainedTokenizerBase,
    model: PreTrainedModel,
    team: Team,
    progress: Progress,
) -> tuple[Generation | None, dict[str, Any]]:
    """Generate the samples and, where the task is judged, an answer to every test prompt; what is written is whole.

    Returns:
        what the record says of it, and what answers were judged by: {metric: value, ci95: {metric: [low, high]}}.
    Raises:
        DataError: a row is too short for a prompt, or a prompt fills the model's context.
    """
    prompts = prompts_for_run(run, tokens, tokenizer)
    if not prompts:
        team.first_does(lambda: write_text(folder.predictions, ""))
        return None, {}
    metrics = run.evaluate.judged_by(run.data.task)
    samples, generation = generate_samples(
        model,
        tokenizer,
        prompts,
        max_new_tokens=_longest(run, prompts, is_judged=bool(metrics)),
        batch_size=run.evaluate.batch_size,
        team=team,
        progress=lambda done, total: progress("evaluate", done, total, "generating answers"),
    )
    judged = judge(metrics, run.data.task, samples, resamples=run.evaluate.bootstrap_samples) if metrics else None
    lines = list(_lines(samples, judged.by_row if judged else {}))
    team.first_does(lambda: write_text(folder.predictions, "".join(lines)))
    if judged is not None:
        team.first_does(lambda: write_judged(folder.judged, judged))
    about = {"shots": run.evaluate.shots, "judged": len(samples) if metrics else 0}
    return generation.model_copy(update=about), judged.document() if judged else {}


def with_judged(split: dict[str, Any], judged: Mapping[str, Any]) -> dict[str, Any]:
    """The test's part of a record with what its answers were judged by."""
    return {**split, **judged, "ci95": {**split["ci95"], **judged.get("ci95", {})}}


def prompts_for_run(run: Run, tokens: TokenSet | TokenisedData, tokenizer: PreTrainedTokenizerBase) -> list[Prompt]:
    """The prompts that a run generates from, in the order of the test's rows: all that are judged, or the samples."""
    rows = tokens.rows(SPLIT)
    count = run.evaluate.samples
    if run.evaluate.judged_by(run.data.task):
        count = run.evaluate.judged_examples or len(rows)
    chosen = [rows[index] for index in range(min(len(rows), count))]
    train = tokens.rows("train")
    shots = [train[index] for index in range(min(len(train), run.evaluate.shots))]
    return with_shots(prompts_of(chosen, count), shots, tokenizer)


def judging_problems(run: Run, data: TokenisedData | TokenSet, context: int | None) -> Iterator[Problem]:
    """What keeps the answers of a run from being judged, before anything is trained."""
    if not run.evaluate.judged_by(run.data.task):
        if run.evaluate.judged_examples is not None:
            fix = "leave it out, or name what judges them in evaluate.metrics"
            yield Problem("evaluate.judged_examples", f"answers of {run.data.task} are not judged", fix)
        return
    if run.data.task == "causal_lm":
        problem = "running text has no answers to judge"
        yield Problem("evaluate.metrics", problem, "use [perplexity], or a task with prompts and completions")
        return
    rows, longest = data.rows(SPLIT), 0
    for index in range(min(len(rows), run.evaluate.judged_examples or len(rows))):
        try:
            (prompt,) = prompts_of([rows[index]], 1)
        except DataError as error:
            yield from error.problems
            return
        longest = max(longest, len(prompt.input_ids))
    if context is not None and longest >= context:
        problem = f"a test prompt has {longest} tokens, and the model's context of {context} leaves no room to answer"
        yield Problem("data.max_length", problem, f"give at most {context - 1}, or remove the row")


def _longest(run: Run, prompts: Sequence[Prompt], *, is_judged: bool) -> int:
    """Most new tokens of an answer."""
    if run.evaluate.max_new_tokens is not None:
        return run.evaluate.max_new_tokens
    if not is_judged:
        return USUAL_NEW_TOKENS
    return math.ceil(_ROOM * max(len(prompt.reference_ids) for prompt in prompts))


def _lines(samples: Sequence[Sample], by_row: Mapping[str, Sequence[float]]) -> Iterator[str]:
    for number, sample in enumerate(samples):
        scores = {name: values[number] for name, values in by_row.items()}
        document = vars(sample) | ({"score": scores} if scores else {})
        yield json.dumps(document, ensure_ascii=False) + "\n"

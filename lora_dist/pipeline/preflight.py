"""Before anything starts: every run against the model's structure and the tokenised data, all mistakes at once."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

from transformers import PreTrainedModel, PreTrainedTokenizerBase

from lora_dist.config.expansion import ONLY_ARM
from lora_dist.config.experiment import Run
from lora_dist.config.sections import DataSection
from lora_dist.data.tokenise import source_key, tokenise
from lora_dist.data.tokens import TokenisedData, TokenSet, find_token_set
from lora_dist.errors import Problem, UserError, raise_together
from lora_dist.models.loading import context_length, empty_model, load_tokenizer, quiet_transformers
from lora_dist.models.methods import method_problems
from lora_dist.planning.batches import plan_batches
from lora_dist.training.arguments import extra_problems
from lora_dist.world import World

Progress = Callable[[str, int, int, str], None]


class Preflight:
    """Opens each model and each data section once, however many runs share them.

    Nothing is written before `save`: an experiment that is refused leaves nothing behind.
    """

    def __init__(self, tokens_folder: Path, world: World, progress: Progress) -> None:
        self.tokens_folder, self.world, self.progress = tokens_folder, world, progress
        self._models: dict[str, tuple[PreTrainedTokenizerBase, PreTrainedModel]] = {}
        self._data: dict[tuple[str, str], TokenisedData | TokenSet] = {}
        self._failed: dict[str, tuple[Problem, ...]] = {}

    def check(self, runs: list[Run]) -> None:
        """Check every run.

        Raises:
            Refused: something the user can mend is wrong with some of them.
        """
        quiet_transformers()
        problems: list[Problem] = []
        for run in runs:
            problems += self._problems(run)
        raise_together(problems)

    def save(self) -> list[TokenSet]:
        """Write the tokens that are not on the disk yet; all token sets, in the order in which runs asked for them.

        Raises:
            StorageError: the disk is full or the folder is not writable.
        """
        return [
            data.save(self.tokens_folder) if isinstance(data, TokenisedData) else data for data in self._data.values()
        ]

    def tokenizer_of(self, run: Run) -> PreTrainedTokenizerBase:
        """The tokenizer that was opened for a run that has been checked."""
        return self._models[run.model.model_dump_json()][0]

    def _problems(self, run: Run) -> Iterator[Problem]:
        where = "" if run.arm == ONLY_ARM else f"arms.{run.arm}."
        try:
            plan_batches(run.train, self.world.size)
        except UserError as error:
            yield from error.problems
        for problem in extra_problems(run):
            yield Problem(where + problem.key, problem.problem, problem.fix)
        opened = yield from self._once(f"model {run.model!r}", lambda: self._open(run))
        if opened is None:
            return
        tokenizer, model = opened
        for problem in method_problems(model, run.method):
            yield Problem(where + problem.key, problem.problem, problem.fix)
        yield from self._once(
            f"data {run.model!r} {run.data!r}", lambda: self._tokenise(run, tokenizer, context_length(model))
        )

    def _once(self, key: str, action: Callable[[], object]) -> Iterator[Problem]:
        """`action`'s result, or its problems the first time and None ever after."""
        if key in self._failed:
            return None
        try:
            return action()
        except UserError as error:
            self._failed[key] = error.problems
            yield from error.problems
            return None

    def _open(self, run: Run) -> tuple[PreTrainedTokenizerBase, PreTrainedModel]:
        key = run.model.model_dump_json()
        if key not in self._models:
            self.progress("prepare", 0, 0, f"opening {run.model.path}")
            report = _as_stage(self.progress, "built-in model")
            self._models[key] = (load_tokenizer(run.model, report), empty_model(run.model, report))
        return self._models[key]

    def _tokenise(self, run: Run, tokenizer: PreTrainedTokenizerBase, context: int | None) -> TokenisedData | TokenSet:
        key = (run.model.model_dump_json(), run.data.model_dump_json())
        if key not in self._data:
            self._data[key] = find_or_tokenise(run.data, tokenizer, context, self.tokens_folder, self.progress)
        return self._data[key]


def find_or_tokenise(
    section: DataSection,
    tokenizer: PreTrainedTokenizerBase,
    context: int | None,
    tokens_folder: Path,
    progress: Progress,
) -> TokenisedData | TokenSet:
    """The tokens on the disk when they are those of this section, else tokenised now (and not yet written)."""
    progress("prepare", 0, 0, "reading the data")
    found = find_token_set(tokens_folder, source_key(section, tokenizer, context))
    return found or tokenise(section, tokenizer, context, progress)


def _as_stage(progress: Progress, stage: str) -> Callable[[int, int, str], None]:
    return lambda done, total, text: progress(stage, done, total, text)

"""Before anything starts: every run against the model's structure and the tokenised data, all mistakes at once."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

from transformers import PreTrainedModel, PreTrainedTokenizerBase

from lora_dist.config.experiment import Run
from lora_dist.config.pruning import PruneSection
from lora_dist.config.sections import DataSection
from lora_dist.data.tokenise import source_key, tokenise
from lora_dist.data.tokens import TokenisedData, TokenSet, find_token_set
from lora_dist.errors import ConfigError, Problem, UserError, raise_together
from lora_dist.models.device import device_of
from lora_dist.models.loading import context_length, load_tokenizer, quiet_transformers
from lora_dist.models.methods import method_problems
from lora_dist.models.prefix import room_behind_prefix
from lora_dist.models.structure import decoder_blocks
from lora_dist.models.weights import check_weights
from lora_dist.pipeline.fallback import room_problems
from lora_dist.pipeline.generated import judging_problems
from lora_dist.pipeline.prune_checks import check_calibration, pruning_problems
from lora_dist.pipeline.task_models import models_for
from lora_dist.pipeline.telling import Progress, as_stage, placed
from lora_dist.planning.batches import plan_batches
from lora_dist.planning.strategies import strategy_problems
from lora_dist.training.arguments import precision_problems
from lora_dist.training.extra import extra_problems
from lora_dist.world import World


class Preflight:
    """Opens each model and each data section once, however many runs share them.

    Nothing is written before `save`: an experiment that is refused leaves nothing behind.
    """

    def __init__(self, tokens_folder: Path, progress: Progress) -> None:
        self.tokens_folder, self.progress = tokens_folder, progress
        self._models: dict[tuple[str, str], tuple[PreTrainedTokenizerBase, PreTrainedModel]] = {}
        self._data: dict[tuple[str, str], TokenisedData | TokenSet] = {}
        self._failed: dict[str, tuple[Problem, ...]] = {}

    def check(self, runs: list[Run], worlds: list[World] | None = None) -> None:
        """Check every run, each in the world that it will have (one rank, unless given).

        Raises:
            Refused: something the user can mend is wrong with some of them.
        """
        quiet_transformers()
        worlds = worlds or [World()] * len(runs)
        raise_together(
            placed(problem, run, runs)
            for run, world in zip(runs, worlds, strict=True)
            for problem in self._problems(run, world)
        )

    def save(self) -> list[TokenSet]:
        """Write the tokens that are not on the disk yet; all token sets, in the order in which runs asked for them.

        Raises:
            StorageError: the disk is full or the folder is not writable.
        """
        return [
            data.save(self.tokens_folder) if isinstance(data, TokenisedData) else data for data in self._data.values()
        ]

    def check_blocks(self, run: Run, chosen: range) -> None:
        """Make sure that a run that has been checked has these blocks.

        Raises:
            ConfigError: its model has fewer.
        """
        count = len(decoder_blocks(self._open(run)[1])[1])
        if chosen.stop > count:
            raise ConfigError(
                key="--blocks",
                problem=f"{chosen.start}:{chosen.stop} goes beyond the model's {count} blocks",
                fix=f"give a part of 0:{count}",
            )

    def tokenizer_of(self, run: Run) -> PreTrainedTokenizerBase:
        """The tokenizer that was opened for a run that has been checked."""
        return self._open(run)[0]

    def _problems(self, run: Run, world: World) -> Iterator[Problem]:
        if run.trains:
            yield from self._once(f"batch {run.train!r} {world!r}", lambda: plan_batches(run.train, world.size))
        yield from strategy_problems(run.method.kind, world.strategy, run.data.task, validates=run.validates)
        yield from extra_problems(run)
        yield from precision_problems(run, device_of(world))
        yield from self._once(f"room {run!r}", lambda: raise_together(room_problems(run, world)))
        opened = yield from self._once(f"{models_for(run.data.task).name} {run.model!r}", lambda: self._open(run))
        if opened is None:
            return
        _, model = opened
        yield from method_problems(model, run.method)
        data = yield from self._once(f"data {run.model!r} {run.data!r}", lambda: self._tokenise(run, run.data))
        if data is not None:
            key = f"judging {run.model!r} {run.data!r} {run.evaluate!r}"
            context = context_length(model)
            yield from self._once(key, lambda: raise_together(judging_problems(run, data, context)))
            longest = max(split.longest for split in data.facts.splits.values())
            yield from room_behind_prefix(run.method, longest, context_length(model))
        if run.prune is not None:
            yield from self._once(f"prune {run.model!r} {run.prune!r}", lambda: self._check_pruning(run, run.prune))
            if data is not None:
                key = f"calibration {run.model!r} {run.data!r} {run.prune!r}"
                yield from self._once(key, lambda: self._check_calibration(run, run.prune))

    def _once(self, key: str, action: Callable[[], object]) -> Iterator[Problem]:
        """`action`'s result, or its problems and None; what has failed is not tried again."""
        if key not in self._failed:
            try:
                return action()
            except UserError as error:
                self._failed[key] = error.problems
        yield from self._failed[key]
        return None

    def _open(self, run: Run) -> tuple[PreTrainedTokenizerBase, PreTrainedModel]:
        models = models_for(run.data.task)
        key = (models.name, run.model.model_dump_json())
        if key not in self._models:
            self.progress("prepare", 0, 0, f"opening {run.model.path}")
            report = as_stage(self.progress, "built-in model")
            opened = (load_tokenizer(run.model, report), models.empty(run.model, report))
            check_weights(run.model)
            self._models[key] = opened
        return self._models[key]

    def _tokenise(self, run: Run, section: DataSection) -> TokenisedData | TokenSet:
        tokenizer, model = self._open(run)
        key = (run.model.model_dump_json(), section.model_dump_json())
        if key not in self._data:
            context = models_for(run.data.task).context(model)
            self._data[key] = find_or_tokenise(section, tokenizer, context, self.tokens_folder, self.progress)
        return self._data[key]

    def _check_pruning(self, run: Run, section: PruneSection) -> None:
        self.progress("prepare", 0, 0, f"looking at the blocks of {run.model.path}")
        raise_together(pruning_problems(run, section))

    def _check_calibration(self, run: Run, section: PruneSection) -> None:
        source = section.calibration.data or run.data
        context = context_length(self._open(run)[1])
        check_calibration(section, context, lambda: self._tokenise(run, source).facts.splits["train"].tokens)


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


def tokens_on_disk(
    section: DataSection,
    tokenizer: PreTrainedTokenizerBase,
    context: int | None,
    tokens_folder: Path,
    progress: Progress,
) -> TokenSet:
    """The tokens of this section, made and written now if they are not on the disk.

    Raises:
        UserError: the source or a length cannot be used, or the disk is full.
    """
    found = find_or_tokenise(section, tokenizer, context, tokens_folder, progress)
    return found.save(tokens_folder) if isinstance(found, TokenisedData) else found

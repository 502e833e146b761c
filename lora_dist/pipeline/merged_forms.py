"""What becomes of an adapter when it is merged: each form of base and adapter, scored on the test split.

QLoRA trains on rounded weights and is merged into those that were rounded; a plain update has no zeros and fills those
of a pruned base. What that does to the perplexity belongs beside what was trained.
"""

from __future__ import annotations

import contextlib
import logging
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import torch
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from lora_dist.config.experiment import Run
from lora_dist.config.sections import LORA_KINDS
from lora_dist.data.tokens import TokenRows
from lora_dist.errors import ModelError
from lora_dist.evaluation.perplexity import RowScores, score_rows
from lora_dist.evaluation.scores import read_scores, write_scores
from lora_dist.evaluation.statistics import perplexity_difference, perplexity_interval
from lora_dist.models.adapter_folder import find_adapter
from lora_dist.models.adapters import put_adapter
from lora_dist.models.companions import companions
from lora_dist.models.device import device_of, dtype_of, release_memory
from lora_dist.models.loading import load_model
from lora_dist.models.merge_stream import MergedWeights, StreamedMerge
from lora_dist.models.merging import open_merge
from lora_dist.store.atomic import check_free, make_folder, write_bytes
from lora_dist.store.folders import RunFolder
from lora_dist.store.record import MergedForm
from lora_dist.team import Team

log = logging.getLogger(__name__)
SPLIT = "test"
Progress = Callable[[str, int, int, str], None]
_FOLDER = ".merging"
_MERGEABLE = (*LORA_KINDS, "ia3")
_WORDS = {
    "base_4bit": "the 4-bit base",
    "adapter": "base + adapter",
    "merged": "the merged model",
    "merged_rounded": "the merged model, rounded",
    "merged_masked": "the merged model, masked",
}


def wants_forms(run: Run) -> bool:
    """Whether the forms of a run are measured: `evaluate.merged`."""
    if run.method.kind not in _MERGEABLE or run.evaluate.merged == "never":
        return False
    return run.evaluate.merged == "always" or run.method.kind == "qlora" or run.base_is_pruned


class Forms:
    """Scores one form after the other. Every rank of the team calls the same."""

    def __init__(self, run: Run, folder: RunFolder, rows: TokenRows, team: Team, progress: Progress) -> None:
        self.run, self.folder, self._team, self._progress = run, folder, team, progress
        self._rows = [rows[index] for index in range(len(rows))]
        self._device = device_of(team.world)
        self._dtype = dtype_of(run.model, self._device)
        self.found: list[MergedForm] = []
        self.problem: str | None = None
        """Why merged forms are missing."""

    def measure_trained(self, model: PreTrainedModel) -> None:
        """What the live model tells: what was trained (scored before), and under QLoRA the 4-bit base by itself."""
        if self.run.method.kind == "qlora":
            with model.disable_adapter():
                self._add("base_4bit", self._scores("base_4bit", model))
            self._add("adapter_4bit", self._trained())
        else:
            self._add("adapter", self._trained())

    def measure_merged(self, tokenizer: PreTrainedTokenizerBase) -> None:
        """Everything that has to be put together anew; the live model is gone by now.

        A base that cannot be merged into (stored quantised, say) does not undo the training: `problem` says so.

        Raises:
            StorageError: the disk is full.
        """
        try:
            self._measure_merged(tokenizer)
        except ModelError as error:
            self.problem = str(error)
            log.warning("what merging gives was not measured: %s", error)

    def _measure_merged(self, tokenizer: PreTrainedTokenizerBase) -> None:
        if self.run.method.kind == "qlora":
            base = load_model(self.run.model, device=self._device, dtype=self._dtype, folder=self._pruned)
            self._add("adapter", self._scores("adapter", put_adapter(base, self.folder.model)))
            del base
        merge = self._merge(self._dtype)
        self._measure_merge("merged", merge, tokenizer)
        stored = merge.stored_dtype
        if stored.itemsize < self._dtype.itemsize:
            self._measure_merge("merged_rounded", self._merge(stored), tokenizer)
        fills_zeros = self.run.method.kind in LORA_KINDS and not self.run.method.preserve_sparsity
        if self.run.base_is_pruned and fills_zeros:
            self._measure_merge("merged_masked", self._merge(self._dtype, keep_zeros=True), tokenizer)

    @property
    def _pruned(self) -> Path | None:
        return self.folder.pruned if self.run.prune else None

    def _merge(self, dtype: torch.dtype, *, keep_zeros: bool = False) -> StreamedMerge:
        base = self.run.model.at(self._pruned) if self._pruned else self.run.model
        return open_merge(base, [find_adapter(str(self.folder.model))], keep_zeros=keep_zeros, dtype=dtype)

    def _measure_merge(self, form: str, merge: StreamedMerge, tokenizer: PreTrainedTokenizerBase) -> None:
        self._progress("evaluate", 0, 0, f"merging, to measure {_WORDS[form]}")
        with self._written(merge, tokenizer) as (place, weights):
            model = load_model(self.run.model, device=self._device, dtype=self._dtype, folder=place)
            self._add(form, self._scores(form, model), weights)
            del model
            release_memory()
            self._team.first_does(lambda: None)  # the files may be mapped on every rank until here

    @contextlib.contextmanager
    def _written(
        self, merge: StreamedMerge, tokenizer: PreTrainedTokenizerBase
    ) -> Iterator[tuple[Path, MergedWeights]]:
        """A merged model in a folder that is gone after the block."""
        place = self.folder.path / _FOLDER

        def write() -> MergedWeights:
            shutil.rmtree(place, ignore_errors=True)  # of an attempt that was killed
            check_free(
                self.folder.path, merge.bytes(), "a merged model", "free some space, or set evaluate.merged=never"
            )
            make_folder(place)
            for name, content in companions(merge.base, tokenizer, merge.dtype).items():
                write_bytes(place / name, content)
            return merge.write(place, lambda *_: None, self._device)

        try:
            yield place, self._team.first_does(write)
        finally:
            if self._team.world.is_first:
                shutil.rmtree(place, ignore_errors=True)

    def _tell_zeros(self, weights: MergedWeights) -> None:
        """The adapter on 16-bit weights leaves the zeros alone: they are those that the merge found."""
        zeros = {"zeros": weights.zeros_before / weights.weights}
        self.found = [form.model_copy(update=zeros) if form.form == "adapter" else form for form in self.found]

    def _scores(self, form: str, model: PreTrainedModel) -> RowScores:
        return score_rows(
            model,
            self._rows,
            batch_size=self.run.evaluate.batch_size,
            team=self._team,
            progress=lambda done, total: self._progress("evaluate", done, total, f"perplexity of {_WORDS[form]}"),
        )

    def _trained(self) -> RowScores:
        return self._team.first_does(lambda: RowScores(*read_scores(self.folder.scores / f"{SPLIT}.parquet")))

    def _add(self, form: str, scores: RowScores, weights: MergedWeights | None = None) -> None:
        resamples = self.run.evaluate.bootstrap_samples
        is_trained = form == ("adapter_4bit" if self.run.method.kind == "qlora" else "adapter")
        versus = None
        if not is_trained:
            trained = self._trained()
            found = perplexity_difference(
                scores.nll_R, scores.tokens_R, trained.nll_R, trained.tokens_R, resamples=resamples
            )
            versus = [found.value, found.low, found.high]
            if self._team.world.is_first:
                write_scores(self.folder.scores / f"{SPLIT}-{form}.parquet", scores.nll_R, scores.tokens_R)
        interval = perplexity_interval(scores.nll_R, scores.tokens_R, resamples=resamples)
        zeros = filled = None
        if weights is not None:
            self._tell_zeros(weights)
            zeros = weights.zeros_after / weights.weights
            filled = weights.filled / weights.zeros_before if weights.zeros_before else None
        self.found.append(
            MergedForm(
                form=form,
                dtype=weights.dtype if weights else str(self._dtype).removeprefix("torch."),
                perplexity=scores.perplexity,
                nll_sum=scores.nll_sum,
                scored_tokens=scores.scored_tokens,
                ci95={"perplexity": list(interval)},
                versus_trained=versus,
                zeros=zeros,
                filled=filled,
            )
        )

"""check-data: is the data of an experiment right? Reads it all, tokenises it, writes nothing."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from lora_dist.config.expansion import expand
from lora_dist.config.experiment import Experiment, Run
from lora_dist.config.sections import DataSection
from lora_dist.data.checking.check import DataCheck, check_section
from lora_dist.data.checking.findings import Finding
from lora_dist.errors import Problem, UserError, raise_together

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

Progress = Callable[[str, int, int, str], None]
"""Called with (stage, done, total, text)."""


@dataclass(frozen=True)
class CheckedData:
    """One data section with one tokenizer, and which runs use them."""

    model: str
    data: DataSection
    arms: tuple[str, ...]
    """The arms that read this data; all of them where the experiment has no other."""
    found: DataCheck

    def document(self) -> dict[str, Any]:
        """For JSON."""
        told = self.data.model_dump(mode="json", include={"task", "path", "subset", "columns", "template"})
        return {"model": self.model, "data": told, "arms": list(self.arms), **self.found.document()}


def check_data(experiment: Experiment, *, progress: Progress | None = None) -> list[CheckedData]:
    """Look at every data section of an experiment with the tokenizer of the model that reads it, each once.

    What is wrong with the data is in the result and not raised, so that all of it is told together.

    Raises:
        UserError: the config is wrong, or the tokenizers of some models cannot be opened.
    """
    show = progress or (lambda *_: None)
    runs = expand(experiment)
    show("starting", 0, 0, "importing torch, transformers")
    opened = _Tokenizers(show)
    opened.open_all(runs)
    arms: dict[str, dict[str, None]] = {}
    first: dict[str, tuple[Run, DataSection]] = {}
    for run, section in _read_by(runs):
        key = f"{opened.identity(run)} {section.model_dump_json()}"
        first.setdefault(key, (run, section))
        arms.setdefault(key, {})[run.arm] = None
    return [_checked(run, section, tuple(arms[key]), runs, opened, show) for key, (run, section) in first.items()]


def refuse_findings(checked: list[CheckedData], *, strict: bool = False) -> None:
    """Raise what stops training, and with `strict` what is only odd, too.

    Raises:
        Refused: with all of it.
    """
    raise_together(finding.problem for item in checked for finding in item.found.findings if finding.stops or strict)


def _read_by(runs: list[Run]) -> Iterator[tuple[Run, DataSection]]:
    """Every run with its data, and with that of its calibration where this is other data."""
    for run in runs:
        yield run, run.data
        if run.prune is not None and run.prune.uses_data and run.prune.calibration.data is not None:
            yield run, run.prune.calibration.data


def _checked(
    run: Run, section: DataSection, arms: tuple[str, ...], runs: list[Run], opened: _Tokenizers, show: Progress
) -> CheckedData:
    from lora_dist.pipeline.telling import placed

    tokenizer, context = opened.of(run)
    found = check_section(section, tokenizer, context, show)

    def told(finding: Finding) -> Finding:
        problem = finding.problem
        if section is run.data:
            return replace(finding, problem=placed(problem, run, runs))
        return replace(finding, problem=replace(problem, key=f"prune.calibration.{problem.key}"))

    return CheckedData(run.model.path, section, arms, replace(found, findings=tuple(map(told, found.findings))))


class _Tokenizers:
    """The tokenizer and the context of each model, opened once."""

    def __init__(self, show: Progress) -> None:
        self._show = show
        self._opened: dict[str, tuple[PreTrainedTokenizerBase, int | None]] = {}
        self._identities: dict[str, str] = {}

    def open_all(self, runs: list[Run]) -> None:
        """Open every model that there is.

        Raises:
            Refused: with all those that cannot be opened.
        """
        from lora_dist.pipeline.telling import placed

        problems: dict[str, tuple[Problem, ...]] = {}
        for run in runs:
            key = run.model.model_dump_json()
            if key not in problems:
                problems[key] = ()
                try:
                    self.of(run)
                except UserError as error:
                    problems[key] = tuple(placed(problem, run, runs) for problem in error.problems)
        raise_together(problem for found in problems.values() for problem in found)

    def of(self, run: Run) -> tuple[PreTrainedTokenizerBase, int | None]:
        """Those of a run's model.

        Raises:
            ModelError: the model is not there, or cannot be opened.
        """
        from lora_dist.models.loading import context_length, empty_model, load_tokenizer, quiet_transformers
        from lora_dist.pipeline.telling import as_stage

        key = run.model.model_dump_json()
        if key not in self._opened:
            quiet_transformers()
            self._show("prepare", 0, 0, f"opening {run.model.path}")
            report = as_stage(self._show, "built-in model")
            self._opened[key] = load_tokenizer(run.model, report), context_length(empty_model(run.model, report))
        return self._opened[key]

    def identity(self, run: Run) -> str:
        """The same for models whose tokens are the same."""
        from lora_dist.data.identity import tokenizer_hash

        key = run.model.model_dump_json()
        if key not in self._identities:
            tokenizer, context = self.of(run)
            self._identities[key] = f"{tokenizer_hash(tokenizer)} {context}"
        return self._identities[key]

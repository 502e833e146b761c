"""Before anything is opened: what the runs need from elsewhere, brought onto this disk."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

from lora_dist.config.experiment import Run
from lora_dist.config.sections import DataSection, ModelSection
from lora_dist.data.sources import fetch_data
from lora_dist.errors import UserError, raise_together
from lora_dist.hub import Report
from lora_dist.models.fetching import fetch_model
from lora_dist.models.loading import quiet_transformers
from lora_dist.models.sources import BUILTIN
from lora_dist.pipeline.task_models import models_for
from lora_dist.pipeline.telling import Progress, as_stage, placed
from lora_dist.store.fetched import Fetched, Source


def fetch_sources(runs: Sequence[Run], progress: Progress) -> list[Source]:
    """Fetch every model and all data of these runs, each once.

    Raises:
        Refused: with every source that cannot be had; the others have been fetched then.
    """
    quiet_transformers()
    wanted: dict[tuple[str, str], tuple[Run, Callable[[Report], Fetched]]] = {}
    for run in runs:
        for kind, name, fetch in _needs(run):
            wanted.setdefault((kind, name), (run, fetch))
    found, problems = [], []
    for (kind, name), (run, fetch) in wanted.items():
        try:
            found.append(Source(kind, name, fetch(_report(progress, name))))
        except UserError as error:
            problems += [placed(problem, run, runs) for problem in error.problems]
    raise_together(problems)
    return found


def _report(progress: Progress, name: str) -> Report:
    """Two stages, of which the one with bytes begins anew with each download: then its bar has a new total at once."""
    if name.startswith(BUILTIN):  # made here, in steps
        return as_stage(progress, "built-in model")
    return lambda done, total, text: progress(f"{'fetch' if total else 'open'} {name}", done, total, text)


def _needs(run: Run) -> Iterator[tuple[str, str, Callable[[Report], Fetched]]]:
    empty = models_for(run.data.task).empty
    yield "model", _name_of_model(run.model), lambda report: fetch_model(run.model, report, empty)
    calibration = run.prune.calibration.data if run.prune else None
    for section in filter(None, (run.data, calibration)):
        yield "data", _name_of_data(section), lambda report, section=section: fetch_data(section, report)


def _name_of_model(section: ModelSection) -> str:
    return f"{section.path}@{section.revision}" if section.revision else section.path


def _name_of_data(section: DataSection) -> str:
    if isinstance(section.path, dict):
        files = [file for given in section.path.values() for file in ([given] if isinstance(given, str) else given)]
        return ", ".join(dict.fromkeys(files))
    subset = f" {section.subset}" if section.subset else ""
    return f"{section.path}{subset}" + (f"@{section.revision}" if section.revision else "")

"""A report on the disk: page, Markdown, CSV and plots, each written whole or not at all."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from lora_dist.reporting.collect import collect
from lora_dist.reporting.confusion_plot import FILE_NAME as CONFUSION
from lora_dist.reporting.confusion_plot import confusion_plots
from lora_dist.reporting.csv_file import csv_text, forms_csv
from lora_dist.reporting.headline import Headline, headlines
from lora_dist.reporting.line_plots import LINE_FILES, line_plots
from lora_dist.reporting.markdown import markdown
from lora_dist.reporting.merging import FILE_NAME as FORMS_FILE
from lora_dist.reporting.merging import forms
from lora_dist.reporting.page import page
from lora_dist.reporting.plots import FILE_NAMES, draw_plots
from lora_dist.reporting.rows import Comparison, Row
from lora_dist.store.atomic import make_folder, write_bytes, write_text
from lora_dist.store.folders import ExperimentFolder


@dataclass(frozen=True)
class Report:
    """What a report says and where it is."""

    comparison: Comparison
    headlines: tuple[Headline, ...]
    files: tuple[Path, ...]
    """report.html, report.md, results.csv; merging.csv and the plots that there were data for."""

    @property
    def rows(self) -> list[Row]:
        """Every run: the finished ones, then those that are not."""
        return self.comparison.rows

    @property
    def notes(self) -> tuple[str, ...]:
        """What a reader has to know beside the table."""
        return self.comparison.notes


def write_report(folders: Sequence[ExperimentFolder], into: Path) -> Report:
    """Compare the runs of one or several experiments and write the report into the folder `into`.

    Experiments with unfinished runs, or with none that is finished, are reported as they stand.

    Raises:
        Refused, ConfigError: an experiment.yaml is not one.
        StorageError: a folder cannot be read, or `into` cannot be written.
    """
    comparison = collect(folders)
    plots = [*draw_plots(comparison), *confusion_plots(comparison), *line_plots(comparison)]
    texts = {
        "report.html": page(comparison, plots),
        "report.md": markdown(comparison, plots),
        "results.csv": csv_text(comparison.rows),
    }
    if found := forms(comparison):
        texts[FORMS_FILE] = forms_csv(found)
    make_folder(into)
    for name, text in texts.items():
        write_text(into / name, text)
    for plot in plots:
        write_bytes(into / plot.file_name, plot.png)
    for name in {*FILE_NAMES, CONFUSION, *LINE_FILES, FORMS_FILE} - {*texts, *(plot.file_name for plot in plots)}:
        (into / name).unlink(missing_ok=True)  # of an earlier report: it would be taken for this one's
    files = (*texts, *(plot.file_name for plot in plots))
    return Report(comparison, tuple(headlines(comparison)), tuple(into / name for name in files))

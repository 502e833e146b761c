"""A data section and a tokenizer -> everything that is worth knowing before training on it. Writes nothing."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

from lora_dist.config.sections import SPLITS, DataSection
from lora_dist.data.checking.figures import Measured, SplitFigures, length_findings, measure
from lora_dist.data.checking.findings import Finding
from lora_dist.data.checking.label_balance import LabelBalance
from lora_dist.data.checking.labels import find_labels, label_findings
from lora_dist.data.checking.rendered import Rendered, rendered_examples
from lora_dist.data.checking.repeated import Compared, compared, leaked, repeated
from lora_dist.data.checking.row_faults import render
from lora_dist.data.checking.source import Source, read_source
from lora_dist.data.columns import Selection
from lora_dist.data.formats import Format
from lora_dist.data.lengths import Lengths, resolve_lengths
from lora_dist.data.masks import Encoder
from lora_dist.errors import UserError

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

Progress = Callable[[str, int, int, str], None]
"""Called with (stage, done, total, text)."""


@dataclass(frozen=True)
class DataCheck:
    """What one data section is for one tokenizer."""

    lengths: Lengths
    splits: dict[str, SplitFigures]
    """train, validation and test, as far as they can be used."""
    findings: tuple[Finding, ...]
    """What stops training first, then warnings."""
    labels: tuple[str, LabelBalance] | None
    """The column of labels, where there is one, and how often each occurs."""
    examples: tuple[Rendered, ...]

    @property
    def problems(self) -> list[Finding]:
        """What stops training."""
        return [finding for finding in self.findings if finding.stops]

    @property
    def warnings(self) -> list[Finding]:
        """What does not."""
        return [finding for finding in self.findings if not finding.stops]

    def document(self) -> dict[str, Any]:
        """For JSON."""
        return {
            "max_length": self.lengths.max_length,
            "context": self.lengths.context,
            "splits": {part: figures.document() for part, figures in self.splits.items()},
            "findings": [finding.document() for finding in self.findings],
            "labels": None if self.labels is None else {"column": self.labels[0], "splits": self.labels[1].document()},
            "examples": [example.document() for example in self.examples],
        }


def check_section(
    section: DataSection, tokenizer: PreTrainedTokenizerBase, context: int | None, progress: Progress
) -> DataCheck:
    """Look at all of the data; whatever is wrong with it becomes a finding, so nothing of the user's is raised.

    Args:
        section: the data section.
        tokenizer: of the model; it is not changed.
        context: positions that the model has, or None.
    """
    lengths, findings = _lengths(section, context)
    source = read_source(section, tokenizer, lambda done, of, text: progress("read", done, of, text))
    findings += source.findings
    parts: dict[str, _Part] = {}
    for name in (name for name in SPLITS if name in source.selections):
        part, found = _part(name, source, source.form, section.task, Encoder(tokenizer), lengths, progress)
        findings += found
        if part is not None:
            parts[name] = part
    for name, part in parts.items():
        findings += repeated(name, part.compared)
    findings += leaked({name: part.compared for name, part in parts.items()}, partial(progress, "compare"))
    labels = find_labels(section, source)
    findings += label_findings(labels, stop=section.task == "classification")
    measured = {name: part.measured for name, part in parts.items()}
    return DataCheck(
        lengths,
        {name: split.figures for name, split in measured.items()},
        tuple(sorted(findings, key=lambda finding: not finding.stops)),
        labels,
        rendered_examples(tokenizer, {name: part.selection for name, part in parts.items()}, measured),
    )


@dataclass(frozen=True)
class _Part:
    """train, validation or test."""

    selection: Selection
    compared: Compared
    measured: Measured


def _lengths(section: DataSection, context: int | None) -> tuple[Lengths, list[Finding]]:
    """The section's lengths; the usual ones where these do not go with the model."""
    try:
        return resolve_lengths(section, context), []
    except UserError as error:
        usual = section.model_copy(update={"max_length": None, "block_size": None})
        return resolve_lengths(usual, context), [Finding("unusable", problem, True, 0) for problem in error.problems]


def _part(
    name: str, source: Source, form: Format, task: str, encoder: Encoder, lengths: Lengths, progress: Progress
) -> tuple[_Part | None, list[Finding]]:
    """One split, and what is wrong with it; None where no row of it can be used."""
    whole = source.selections[name]
    selection, examples, findings = render(name, form, whole, lambda done: progress("render", done, len(whole), name))
    if not examples:
        return None, findings
    measured = measure(
        task, selection, examples, encoder, lengths,
        held_out=name in source.held_out, heard=lambda done, of: progress("tokenise", done, of, name),
    )  # fmt: skip
    findings += length_findings(name, task, selection, measured, lengths)
    return _Part(selection, compared(task, selection, examples), measured), findings

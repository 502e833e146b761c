"""classification: rows -> a text and the name of its label."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from lora_dist.config.sections import DataSection
from lora_dist.data.columns import Selection, select, text_reason
from lora_dist.data.formats import Example
from lora_dist.data.rows import Rows, and_more, refuse, refuse_one
from lora_dist.data.tasks import columns_by_role
from lora_dist.data.templates import Template, parse_template
from lora_dist.errors import Problem

_LABELS_TOLD = 10


def labelled_texts(section: DataSection, train: Rows) -> LabelledTexts:
    """The format of a classification, with what is null chosen by the columns of `train`.

    Raises:
        DataError: the template is not usable, or text and label are one column.
    """
    roles = columns_by_role(section, train.columns)
    text, label = roles["text"], roles["label"]
    if section.template:
        template = parse_template(section.template, {"text": text}, [name for name in train.columns if name != label])
    elif text == label:
        refuse_one(Problem("data.columns", "text and label are the same column", "name two columns"))
    else:
        template = Template((("", text), ("", None)))
    key = "data.template" if section.template else "data.columns.text"
    return LabelledTexts(template, key, label, train.class_names.get(label, ()))


@dataclass(frozen=True)
class LabelledTexts:
    """How the rows of a classification become texts and labels (see `formats.Format`)."""

    template: Template
    key: str
    """The setting that names the template's columns."""
    label: str
    declared: tuple[str, ...] = ()
    """The dataset's own names of its class numbers, in their order."""

    def select(self, rows: Rows) -> Selection:
        """The template's columns and, last, the label by its name.

        Raises:
            DataError: a column is missing, a text is empty, or a row has no label.
        """
        texts = select(rows, dict.fromkeys(self.template.columns, self.key), text_reason, str)
        labels = _Labels(rows.class_names.get(self.label))
        names = select(rows, {self.label: "data.columns.label"}, labels.reason, labels.name)
        values = [(*text, *name) for text, name in zip(texts.values, names.values, strict=True)]
        selection = Selection(rows.name, values, texts.numbers)
        self._refuse_empty(selection)
        return selection

    def _refuse_empty(self, selection: Selection) -> None:
        empty = [i for i, values in enumerate(selection.values) if not any(value.strip() for value in values[:-1])]
        if empty:
            columns = ", ".join(f"'{column}'" for column in self.template.columns)
            problem = f"{selection.row(empty[0])} has an empty text in column {columns}{and_more(len(empty) - 1)}"
            refuse_one(Problem(self.key, problem, "fill it in or remove the row"))

    def example(self, selection: Selection, index: int) -> Example:
        """The text of one row, with its label."""
        *texts, label = selection.values[index]
        text = self.template.fill(dict(zip(self.template.columns, texts, strict=True)))
        return Example(text, (), finished=False, label=label)

    def labels(self, selections: Mapping[str, Selection]) -> tuple[str, ...]:
        """What train's classes are called: in the dataset's own order, whole numbers by size, else by alphabet.

        Raises:
            DataError: train has fewer than 2, or another split has some that train lacks.
        """
        found = {values[-1] for values in selections["train"].values}
        order = {name: index for index, name in enumerate(self.declared)}
        whole = all(name.removeprefix("-").isdecimal() for name in found)
        names = tuple(sorted(found, key=lambda name: (order.get(name, len(order)), int(name) if whole else 0, name)))
        if len(names) < 2:
            problem = (
                f"train has one label only ('{names[0]}' in column '{self.label}'): there is nothing to tell apart"
            )
            refuse_one(Problem("data.columns.label", problem, "give rows of at least two labels"))
        refuse(self._strangers(selections, names))
        return names

    def _strangers(self, selections: Mapping[str, Selection], names: Sequence[str]) -> Iterator[Problem]:
        known = set(names)
        for part, selection in selections.items():
            rows = [index for index, values in enumerate(selection.values) if values[-1] not in known]
            if rows:
                lacking = _listed(sorted({selection.values[index][-1] for index in rows}))
                where = f"{selection.row(rows[0])}{and_more(len(rows) - 1)}"
                yield Problem(
                    "data.columns.label",
                    f"{part} has labels that train lacks: {lacking}, in {where}; train has {_listed(names)}",
                    "remove these rows, or add rows of these labels to train",
                )


def _listed(names: Sequence[str]) -> str:
    more = f" and {len(names) - _LABELS_TOLD} more" if len(names) > _LABELS_TOLD else ""
    return ", ".join(f"'{name[:40]}'" for name in names[:_LABELS_TOLD]) + more


@dataclass(frozen=True)
class _Labels:
    """The values of a label column."""

    declared: tuple[str, ...] | None
    """Names of class numbers; None for a column that holds the labels themselves."""

    def reason(self, value: Any) -> str | None:
        """What keeps a value from being a label (see `columns.Reason`)."""
        if value is None or (isinstance(value, float) and math.isnan(value)):
            return "has null"
        if isinstance(value, str):
            return text_reason(value) if value.strip() else "has an empty label"
        if isinstance(value, float) and not value.is_integer():
            return f"has {value}, which is no class,"
        if not isinstance(value, int | float):
            return f"has a {type(value).__name__} instead of a label"
        if self.declared is not None and not 0 <= value < len(self.declared):
            return f"has {value}, which is none of its {len(self.declared)} classes,"
        return None

    def name(self, value: Any) -> str:
        """The label's name."""
        if isinstance(value, str):
            return value
        if isinstance(value, bool):
            return str(value).lower()
        return str(int(value)) if self.declared is None else self.declared[int(value)]

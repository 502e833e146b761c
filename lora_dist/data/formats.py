"""Rows -> texts: what each task makes of its columns, and which characters the loss is on."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

from lora_dist.config.sections import DataSection
from lora_dist.data.columns import Selection, select, text_reason
from lora_dist.data.conversations import ChatRenderer, Spans, messages_reason, plain_messages
from lora_dist.data.rows import Rows, and_more, refuse, refuse_one
from lora_dist.data.tasks import TASK_FORMS, columns_by_role
from lora_dist.data.templates import Template, parse_template
from lora_dist.errors import Problem

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

_NAMED = ("prompt", "completion", "context")


@dataclass(frozen=True)
class Example:
    """One row as text."""

    text: str
    spans: Spans
    """The characters [start, end) that the loss is on, in order."""
    finished: bool
    """Whether the special tokens are in the text; if not, BOS and EOS are put around it."""
    label: str = ""
    """classification: the row's label."""


class Format(Protocol):
    """How the rows of one experiment become texts."""

    def select(self, rows: Rows) -> Selection:
        """The values that the texts are made of, checked.

        Raises:
            DataError: a column is missing or a value cannot be used.
        """

    def example(self, selection: Selection, index: int) -> Example:
        """The text of one row.

        Raises:
            DataError, ModelError: the chat template does not go with the row.
        """


def format_of(section: DataSection, tokenizer: PreTrainedTokenizerBase, train: Rows) -> Format:
    """The format that the section asks for, with what is null chosen by the columns of `train` and the tokenizer.

    Raises:
        DataError: settings contradict each other, or the template is not usable.
    """
    roles = columns_by_role(section, train.columns)
    refuse(_contradictions(section))
    if section.task == "causal_lm":
        template = parse_template(section.template, roles, train.columns) if section.template else None
        return Documents(roles["text"], template)
    if _is_conversations(section, train):
        return Conversations(roles["messages"], ChatRenderer(tokenizer))
    words = TASK_FORMS[section.task]
    if section.template is not None:
        template = parse_template(section.template, roles, train.columns)
        if roles["completion"] not in template.columns:
            template = template.followed_by(roles["completion"])
        return Completions(roles, template)
    known = [roles[role] for role in _NAMED if role in roles]
    chat = bool(tokenizer.chat_template)
    bare = parse_template(words.request if chat else words.template, roles, known)
    template = bare
    if "context" in roles and words.template_with_context:
        given = words.request_with_context if chat else words.template_with_context
        template = parse_template(given, roles, known)
    if chat:
        return Turns(roles, template, bare, ChatRenderer(tokenizer))
    return Completions(roles, template, bare)


def _is_conversations(section: DataSection, train: Rows) -> bool:
    if section.task != "instruction":
        return False
    if "messages" in section.columns:
        return True
    named = section.template is not None or "prompt" in section.columns or "completion" in section.columns
    return not named and "messages" in train.columns and not {"prompt", "completion"} <= set(train.columns)


def _contradictions(section: DataSection) -> Iterator[Problem]:
    columns = section.columns
    if "prompt" in columns and columns["prompt"] == columns.get("completion"):
        yield Problem("data.columns", "prompt and completion are the same column", "name two columns")
    if "messages" not in columns:
        return
    if section.task != "instruction":
        reads = "text" if section.task == "causal_lm" else "a prompt and its completion"
        fix = "set data.task=instruction"
        yield Problem("data.columns.messages", f"{section.task} reads {reads}, not conversations", fix)
    if section.template is not None:
        yield Problem(
            "data.template", "conversations go through the tokenizer's chat template", "set it to null, or use columns"
        )
    both = [role for role in (*_NAMED, "text") if role in columns]
    if both:
        yield Problem("data.columns", f"messages and {' and '.join(both)} exclude each other", "keep one kind")


@dataclass(frozen=True)
class Documents:
    """causal_lm: running text; rows without any are left out."""

    column: str
    template: Template | None

    def select(self, rows: Rows) -> Selection:
        """The documents' columns (see `Format`)."""
        columns = _template_keys(self.template, {}) if self.template else {self.column: "data.columns.text"}
        selection = select(rows, columns, text_reason, str)
        selection = selection.only([i for i, values in enumerate(selection.values) if any(v.strip() for v in values)])
        if not len(selection):
            refuse_one(Problem("data.path", f"split '{rows.name}' has no text in it", "give a split that has some"))
        return selection

    def example(self, selection: Selection, index: int) -> Example:
        """The document (see `Format`)."""
        values = selection.values[index]
        text = self.template.fill(dict(zip(self.template.columns, values, strict=True))) if self.template else values[0]
        return Example(text, ((0, len(text)),), finished=False)


@dataclass(frozen=True)
class Completions:
    """Prompts and completions as plain text through a template, the loss from the completion's placeholder on."""

    roles: Mapping[str, str]
    template: Template
    bare: Template | None = None
    """For rows whose context is empty; None where the template is the user's own."""

    def select(self, rows: Rows) -> Selection:
        """The template's columns (see `Format`)."""
        return _selected(rows, self.template, self.roles, may_be_null=self.bare is not None)

    def example(self, selection: Selection, index: int) -> Example:
        """The filled-in template (see `Format`)."""
        values = dict(zip(self.template.columns, selection.values[index], strict=True))
        template = _fitting(self.template, self.bare, self.roles, values)
        text = template.fill(values)
        start = len(template.before(self.roles["completion"]).fill(values))
        return Example(text, ((start, len(text)),), finished=False)


@dataclass(frozen=True)
class Turns:
    """Prompts and completions as one user turn and one assistant turn through the tokenizer's chat template."""

    roles: Mapping[str, str]
    request: Template
    """The user's turn."""
    bare: Template
    """The same for rows whose context is empty."""
    renderer: ChatRenderer

    def select(self, rows: Rows) -> Selection:
        """The request's columns and the completion (see `Format`)."""
        return _selected(rows, self.request.followed_by(self.roles["completion"]), self.roles, may_be_null=True)

    def example(self, selection: Selection, index: int) -> Example:
        """The conversation (see `Format`)."""
        columns = (*self.request.columns, self.roles["completion"])
        values = dict(zip(columns, selection.values[index], strict=True))
        asked = _fitting(self.request, self.bare, self.roles, values).fill(values)
        messages = [
            {"role": "user", "content": asked},
            {"role": "assistant", "content": values[self.roles["completion"]]},
        ]
        return Example(*self.renderer.render(messages, selection.row(index)), finished=True)


def _selected(rows: Rows, template: Template, roles: Mapping[str, str], *, may_be_null: bool) -> Selection:
    """The template's columns, checked; of them the context's may be null or empty where `may_be_null`."""
    optional = {roles["context"]} if may_be_null and "context" in roles else set()
    selection = select(rows, _template_keys(template, roles), text_reason, str, may_be_null=optional)
    completion = template.columns.index(roles["completion"])
    refuse_empty(selection, completion, roles["completion"])
    return selection


def _fitting(whole: Template, bare: Template | None, roles: Mapping[str, str], values: Mapping[str, str]) -> Template:
    """The template that a row is filled into: without its place for a context where there is none."""
    if bare is None or "context" not in roles:
        return whole
    return whole if values.get(roles["context"], "").strip() else bare


@dataclass(frozen=True)
class Conversations:
    """instruction: whole conversations through the chat template, the loss on every assistant turn."""

    column: str
    renderer: ChatRenderer

    def select(self, rows: Rows) -> Selection:
        """The conversations (see `Format`)."""
        return select(rows, {self.column: "data.columns.messages"}, messages_reason, plain_messages)

    def example(self, selection: Selection, index: int) -> Example:
        """The conversation (see `Format`)."""
        (messages,) = selection.values[index]
        return Example(*self.renderer.render(messages, selection.row(index)), finished=True)


def _template_keys(template: Template, roles: Mapping[str, str]) -> dict[str, str]:
    """Column of the template -> the setting to blame when it is missing."""
    blame = {roles[role]: f"data.columns.{role}" for role in _NAMED if role in roles}
    return {column: blame.get(column, "data.template") for column in template.columns}


def refuse_empty(selection: Selection, position: int, column: str) -> None:
    """Refuse rows whose completion is empty: there is nothing to score in them.

    Raises:
        DataError: naming the first such row, and how many there are.
    """
    empty = [i for i, values in enumerate(selection.values) if not values[position].strip()]
    if empty:
        more = and_more(len(empty) - 1)
        refuse_one(
            Problem(
                "data.columns.completion",
                f"{selection.row(empty[0])} has an empty completion in column '{column}', so nothing to score{more}",
                "fill it in or remove the row",
            )
        )

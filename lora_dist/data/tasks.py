"""What each task calls its columns, and how a prompt of it is worded."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from lora_dist.config.sections import DataSection


@dataclass(frozen=True)
class TaskForm:
    """One task's words. Templates are as `data.template`, over the roles."""

    usual: Mapping[str, tuple[str, ...]]
    """Role -> the columns that usually play it, the likeliest first."""
    template: str
    """For tokenizers without a chat template."""
    request: str = "{prompt}"
    """The user's turn, for those that have one."""
    template_with_context: str = ""
    """Where a row has a context; empty for tasks that know none."""
    request_with_context: str = ""


_QUESTION = "Question: {prompt}\nAnswer: {completion}"
TASK_FORMS: dict[str, TaskForm] = {
    "causal_lm": TaskForm({"text": ("text", "content")}, template="{text}"),
    "instruction": TaskForm(
        {
            "prompt": ("prompt", "instruction", "question", "input"),
            "completion": ("completion", "output", "response", "answer"),
            "context": ("context", "input"),
        },
        template=_QUESTION,
        template_with_context="Question: {prompt}\n{context}\nAnswer: {completion}",
        request_with_context="{prompt}\n\n{context}",
    ),
    "math": TaskForm(
        {"prompt": ("prompt", "question", "problem"), "completion": ("completion", "answer", "solution")},
        template=_QUESTION,
    ),
    "summarization": TaskForm(
        {
            "prompt": ("prompt", "dialogue", "document", "article", "text"),
            "completion": ("completion", "summary", "highlights"),
        },
        template="{prompt}\nSummary: {completion}",
        request="Summarize this text.\n\n{prompt}",
    ),
    "qa": TaskForm(
        {
            "prompt": ("prompt", "question"),
            "completion": ("completion", "answer"),
            "context": ("context", "passage"),
        },
        template=_QUESTION,
        template_with_context="{context}\nQuestion: {prompt}\nAnswer: {completion}",
        request_with_context="{context}\n\n{prompt}",
    ),
    "classification": TaskForm(
        {
            "text": ("text", "sentence", "tweet", "review", "content", "document"),
            "label": ("label", "labels", "sentiment", "class", "category", "target"),
        },
        template="{text}",
    ),
}


def columns_by_role(section: DataSection, columns: Iterable[str]) -> dict[str, str]:
    """Role -> column: as `data.columns` says, else the column of that name, else the first usual one that is there.

    A role that no column plays stands for itself, so that what misses it can say so; `context` is then left out. No
    column plays two roles unless the section says so.
    """
    there, usual = set(columns), TASK_FORMS[section.task].usual
    found: dict[str, str] = dict(section.columns)
    for role in ("text", "prompt", "completion", "messages", "label", "context"):
        if role in found:
            continue
        taken = set(found.values())
        names = [name for name in (role, *usual.get(role, ())) if name in there and name not in taken]
        if role == "context" and (role not in usual or not names):
            continue
        found[role] = names[0] if names else role
    return found

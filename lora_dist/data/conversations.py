"""Conversations through a chat template: the whole text, and which of its characters the assistant says."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from lora_dist.data.columns import text_reason
from lora_dist.errors import DataError, ModelError

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

Message = dict[str, Any]
Spans = tuple[tuple[int, int], ...]

ROLES = ("system", "user", "assistant", "tool")

# For conversations when a tokenizer brings no template: "User: ...\nAssistant: ...</s>\nUser: ...".
DEFAULT_CHAT_TEMPLATE = (
    "{{ bos_token }}"
    "{% for message in messages %}"
    "{% if not loop.first %}{{ '\n' }}{% endif %}"
    "{{ message['role'] | capitalize }}: {{ message['content'] }}"
    "{% if message['role'] == 'assistant' %}{{ eos_token }}{% endif %}"
    "{% endfor %}"
    "{% if add_generation_prompt %}{{ '\nAssistant: ' }}{% endif %}"
)

# Some templates (Llama 3.1 and later) write today's date, which would make other tokens of the same data tomorrow. This
# stands for the function they call, and says the date that they fall back to. (transformers 5.23 hands no function to
# a template, so it is written as one.)
_FIXED_DATE = (
    "{% macro strftime_now(format) %}{{ format | replace('%Y', '2024') | replace('%m', '07') | replace('%d', '26')"
    " | replace('%B', 'July') | replace('%b', 'Jul') | replace('%A', 'Friday') | replace('%a', 'Fri')"
    " | replace('%y', '24') | replace('%H', '12') | replace('%M', '00') | replace('%S', '00') }}{% endmacro %}"
)


def messages_reason(value: Any) -> str | None:
    """What keeps a value from being a conversation to learn, in words that follow "row 7 of split 'train'"."""
    return _form_reason(value) or _turns_reason([message["role"] for message in value], value)


def unfinished_reason(value: Any) -> str | None:
    """What keeps a value from being a conversation to go on with, in words that follow "row 7 of FILE"."""
    if why := _form_reason(value):
        return why
    return None if any(message["role"] == "user" for message in value) else "has no turn of a user"


def _form_reason(value: Any) -> str | None:
    if value is None:
        return "has null"
    if not isinstance(value, list):
        return f"has a {type(value).__name__} instead of a list of {{role, content}}"
    for number, message in enumerate(value, start=1):
        if not isinstance(message, dict) or not {"role", "content"} <= set(message):
            return f"has no role and content in message {number}"
        if message["role"] not in ROLES:
            return f"has the role '{message['role']}' in message {number} (not one of {', '.join(ROLES)})"
        if not isinstance(message["content"], str):
            return f"has a content that is no text in message {number}"
        if why := text_reason(message["content"]):
            return f"{why} in message {number}"
    return None


def _turns_reason(roles: list[str], messages: list[Message]) -> str | None:
    if "assistant" not in roles:
        return "has no assistant turn, so nothing to score,"
    if roles[0] == "assistant":
        return "begins with an assistant turn, which nothing asks for,"
    if not any(message["content"].strip() for message in messages if message["role"] == "assistant"):
        return "has nothing to score (the assistant says nothing)"
    return None


def plain_messages(value: list[Message]) -> list[Message]:
    """The messages without the null fields that columnar files add."""
    return [{key: field for key, field in message.items() if field is not None} for message in value]


class ChatRenderer:
    """Renders conversations with the tokenizer's chat template, or the default one when it has none.

    Raises:
        ModelError: the tokenizer has several templates, of which none is the default.
    """

    def __init__(self, tokenizer: PreTrainedTokenizerBase) -> None:
        self._tokenizer = tokenizer
        self._template = _template_of(tokenizer)

    def render(self, messages: Sequence[Message], where: str) -> tuple[str, Spans]:
        """The text of a conversation, and the characters [start, end) of each assistant turn.

        A turn reaches from the template's generation prompt to where the next message begins, so that what ends the
        turn is part of it.

        Args:
            messages: role and content, as `messages_reason` accepts them.
            where: how a person finds the row.
        Raises:
            DataError: the template refuses the conversation.
            ModelError: the template writes earlier turns differently once later ones are there, or cannot be used.
        """
        whole = self._text(messages, where)
        spans = []
        for index, message in enumerate(messages):
            if message["role"] == "assistant":
                before = self._text(messages[:index], where, add_generation_prompt=True)
                after = whole if index + 1 == len(messages) else self._text(messages[: index + 1], where)
                if not whole.startswith(before) or not whole.startswith(after):
                    raise _rewrites_history(where)
                spans.append((len(before), len(after)))
        return whole, tuple(spans)

    def prompt(self, messages: Sequence[Message], where: str) -> str:
        """The text of a conversation up to where the assistant's next turn begins.

        Where its last turn is the assistant's, as in data to train on, that is the turn to be written: it is left out.

        Args:
            messages: role and content, as `unfinished_reason` accepts them.
            where: how a person finds it.
        Raises:
            DataError: the template refuses the conversation.
            ModelError: the template cannot be used.
        """
        given = messages[:-1] if messages[-1]["role"] == "assistant" else messages
        return self._text(given, where, add_generation_prompt=True)

    def _text(self, messages: Sequence[Message], where: str, *, add_generation_prompt: bool = False) -> str:
        import jinja2

        try:
            return self._tokenizer.apply_chat_template(
                list(messages),
                chat_template=self._template,
                tokenize=False,
                add_generation_prompt=add_generation_prompt,
            )
        except jinja2.TemplateSyntaxError as error:
            raise ModelError(
                key="model.path",
                problem=f"the tokenizer's chat template is not valid ({error})",
                fix="correct it, or set data.template",
            ) from error
        except (jinja2.TemplateError, TypeError) as error:
            raise DataError(
                key="data.path",
                problem=f"{where}: the tokenizer's chat template refuses the conversation ({error})",
                fix="change or remove the row, or use prompt and completion columns with data.template",
            ) from error


def _template_of(tokenizer: PreTrainedTokenizerBase) -> str:
    if not tokenizer.chat_template:
        return DEFAULT_CHAT_TEMPLATE
    try:
        template = tokenizer.get_chat_template()
    except ValueError as error:  # several templates, and none of them is the default
        raise ModelError(
            key="model.path",
            problem=f"the tokenizer's chat template cannot be used ({str(error).splitlines()[0]})",
            fix="use prompt and completion columns with data.template",
        ) from error
    return _FIXED_DATE + template if "strftime_now" in template else template


def _rewrites_history(where: str) -> ModelError:
    return ModelError(
        key="model.path",
        problem="the tokenizer's chat template writes a turn differently once the next one is there, so the loss "
        f"cannot be put on the assistant's turns ({where})",
        fix="keep one assistant turn per conversation, use prompt and completion columns with data.template, or use a "
        "tokenizer whose template keeps what it wrote",
    )

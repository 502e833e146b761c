"""adapter generate: one loaded base, several adapters, and what each of them writes after the same prompts."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from lora_dist.errors import ConfigError, DataError, ModelError, Problem, UserError, raise_together
from lora_dist.verbs.options import TRUST, in_options

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

    from lora_dist.config.sections import ModelSection
    from lora_dist.data.prompts import Given
    from lora_dist.models.adapter_folder import AdapterFolder
    from lora_dist.store.record import Generation

BASE_NAME = "base"
MAX_NEW_TOKENS = 64
BATCH_SIZE = 16
"""Rows of a batch: a row is a prompt with an adapter."""
Progress = Callable[[str, int, int, str], None]
"""Called with (stage, done, total, text)."""


@dataclass(frozen=True)
class Continuation:
    """What one adapter wrote, without special tokens."""

    adapter: str
    """Its name as shown, or `base`."""
    text: str
    new_tokens: int
    """EOS counts."""


@dataclass(frozen=True)
class Continued:
    """A prompt with all its continuations."""

    prompt: str
    """As the model read it, without BOS."""
    continuations: tuple[Continuation, ...]


@dataclass(frozen=True)
class UsedAdapter:
    """One of the adapters."""

    name: str
    """As shown: the label of the run that trained it, or its folder's name."""
    path: str
    shares_batches: bool
    """False for DoRA."""
    base_checked: bool
    """Whether it says on which weights it was trained, and these are they."""


@dataclass(frozen=True)
class AdapterGenerations:
    """Continuations side by side."""

    base: str
    dtype: str
    adapters: tuple[UsedAdapter, ...]
    prompts: tuple[Continued, ...]
    generation: Generation
    """Of all rows: new tokens, seconds, tokens per second."""
    notes: tuple[str, ...]

    def document(self) -> dict[str, Any]:
        """For JSON."""
        facts = self.generation.model_dump()
        facts["rows"] = facts.pop("prompts")
        return {
            "base": self.base,
            "dtype": self.dtype,
            "adapters": [asdict(adapter) for adapter in self.adapters],
            "prompts": [asdict(prompt) for prompt in self.prompts],
            "generation": facts,
            "notes": list(self.notes),
        }


@in_options("BASE", {TRUST: "open it by itself with peft"})
def adapter_generate(
    base: str,
    adapters: Sequence[str],
    *,
    prompts: Sequence[str] = (),
    file: Path | None = None,
    max_new_tokens: int = MAX_NEW_TOKENS,
    batch_size: int = BATCH_SIZE,
    dtype: Literal["auto", "float32", "bfloat16", "float16"] = "auto",
    force: bool = False,
    with_base: bool = True,
    progress: Progress | None = None,
) -> AdapterGenerations:
    """Continue every prompt greedily by every adapter, and by the bare base; different adapters share a batch.

    Args:
        adapters: for each its folder, the folder of the run that trained it, or a hub id.
        prompts: texts, given to the model as they are.
        file: instead of `prompts`: a .txt with one on each line, or a file with a column `prompt` or `messages`.
        batch_size: rows (a prompt with an adapter) of a batch; the texts do not depend on it.
        force: take adapters of other weights than these, if their shapes fit.
    Raises:
        UserError: an adapter is damaged or another base's, a prompt is missing, too long, ...
    """
    _refuse_numbers(max_new_tokens, batch_size)
    given, show = _given(prompts, file), progress or (lambda *_: None)
    _refuse_names(adapters)
    show("starting", 0, 0, "importing torch, transformers, peft")
    from lora_dist.config.sections import ModelSection
    from lora_dist.data.prompts import encode_prompts
    from lora_dist.evaluation.swapping import Row, Swapping
    from lora_dist.models.loading import load_tokenizer, quiet_transformers

    quiet_transformers()
    section = ModelSection(path=base, dtype=dtype)
    found = _found(adapters, section, force=force)
    encoded = encode_prompts(given, tokenizer := load_tokenizer(section))
    show("loading", 0, 0, base)
    swapping = Swapping(_loaded(section), found)
    each = [*range(len(found)), *([None] if with_base else [])]
    new_ids, facts = swapping.continue_rows(
        [Row(prompt.input_ids, adapter) for prompt in encoded for adapter in each],
        tokenizer, max_new_tokens=max_new_tokens, batch_size=batch_size,
        progress=lambda done, total: show("generating", done, total, ""),
    )  # fmt: skip
    used = _used(found, swapping.apart, checked=not force)
    names = [BASE_NAME if adapter is None else used[adapter].name for adapter in each]
    told = tuple(_side_by_side([prompt.text for prompt in encoded], names, new_ids, tokenizer))
    return AdapterGenerations(base, swapping.dtype, used, told, facts, tuple(_notes(used)))


def _refuse_numbers(max_new_tokens: int, batch_size: int) -> None:
    for key, value in (("--max-new-tokens", max_new_tokens), ("--batch-size", batch_size)):
        if value < 1:
            raise ConfigError(key=key, problem=f"is {value}", fix="give at least 1")


def _given(prompts: Sequence[str], file: Path | None) -> Sequence[Given]:
    if prompts and file is not None:
        raise ConfigError(key="--prompt", problem="and --file are both given", fix="leave one of them out")
    if file is not None:
        from lora_dist.data.prompts import read_prompts

        return read_prompts(file)
    if not prompts:
        raise ConfigError(key="--prompt", problem="is missing", fix="give --prompt TEXT, or --file PROMPTS")
    if not all(prompt.strip() for prompt in prompts):
        raise DataError(key="--prompt", problem="is empty", fix="write something into it")
    return prompts


def _refuse_names(adapters: Sequence[str]) -> None:
    """Before the stack is imported, which takes seconds."""
    if not adapters:
        raise ConfigError(key="--adapters", problem="is missing", fix="give one or several: --adapters A B C")
    for text in adapters:
        if not text.strip() or any(sign in text for sign in "\0\r\n"):
            problem = f"{text!r} is empty" if not text.strip() else f"{text!r} has a line break or a NUL in it"
            raise ModelError(key="--adapters", problem=problem, fix="give the folder another name")


def _found(adapters: Sequence[str], section: ModelSection, *, force: bool) -> list[AdapterFolder]:
    """The adapters of this base, or all that is wrong with them together."""
    from lora_dist.models.adapter_folder import find_adapter
    from lora_dist.models.shared_base import sharing_problems

    found, problems = [], []
    for text in adapters:
        try:
            found.append(find_adapter(text))
        except UserError as error:
            problems += error.problems
    raise_together([*problems, *sharing_problems(found)])
    if not force:
        _refuse_other_bases(found, section)
    return found


def _refuse_other_bases(adapters: Sequence[AdapterFolder], section: ModelSection) -> None:
    from lora_dist.models.adapter_folder import refuse_other_base
    from lora_dist.models.fingerprint import fingerprint_of

    fingerprint = fingerprint_of(section)
    problems: list[Problem] = []
    for adapter in adapters:
        try:
            refuse_other_base(adapter, section, fingerprint)
        except UserError as error:
            problems += error.problems
    raise_together(problems)


def _loaded(section: ModelSection) -> Any:
    from lora_dist.models.device import device_of, dtype_of
    from lora_dist.models.loading import load_model
    from lora_dist.world import current_world

    device = device_of(current_world())
    return load_model(section, device=device, dtype=dtype_of(section, device)).to(device)


def names_of(adapters: Sequence[AdapterFolder]) -> list[str]:
    """A name for each, and no two alike: its run's label, else its folder's name; where that is not enough, with what
    the user typed."""
    short = [_short_name(adapter) for adapter in adapters]
    count = Counter([BASE_NAME, *short])
    return [
        name if count[name] == 1 else f"{name} ({adapter.name})" for name, adapter in zip(short, adapters, strict=True)
    ]


def _short_name(adapter: AdapterFolder) -> str:
    if adapter.provenance is not None and adapter.provenance.label.strip():
        return adapter.provenance.label
    if not adapter.is_local:
        return adapter.name
    return adapter.path.parent.name if adapter.path.name == "model" else adapter.path.name


def _side_by_side(
    prompts: Sequence[str], names: Sequence[str], new_ids: Sequence[list[int]], tokenizer: PreTrainedTokenizerBase
) -> Iterator[Continued]:
    """`new_ids` are those of the first prompt by every name, then of the next."""
    rows = iter(new_ids)
    for prompt in prompts:
        wrote = [(name, next(rows)) for name in names]
        texts = [Continuation(name, tokenizer.decode(ids, skip_special_tokens=True), len(ids)) for name, ids in wrote]
        yield Continued(prompt, tuple(texts))


def _used(adapters: Sequence[AdapterFolder], apart: Sequence[int], *, checked: bool) -> tuple[UsedAdapter, ...]:
    return tuple(
        UsedAdapter(
            name=name,
            path=str(adapter.path) if adapter.is_local else adapter.name,
            shares_batches=number not in apart,
            base_checked=checked and adapter.provenance is not None,
        )
        for number, (name, adapter) in enumerate(zip(names_of(adapters), adapters, strict=True))
    )


def _notes(adapters: Sequence[UsedAdapter]) -> Iterator[str]:
    apart = [adapter.name for adapter in adapters if not adapter.shares_batches]
    if apart:
        yield f"DoRA, in batches of its own (peft has no mixed ones with it): {', '.join(apart)}"
    unchecked = [adapter.name for adapter in adapters if not adapter.base_checked]
    if unchecked:
        yield f"not checked to be of this base's weights, only to fit their shapes: {', '.join(unchecked)}"

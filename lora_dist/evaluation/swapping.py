"""Several adapters on one loaded base: every row of a batch goes through its own, or through none."""

# Dims: B rows of a batch, T tokens of the padded prompts, V vocabulary.

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from torch import Tensor

from lora_dist.errors import DataError
from lora_dist.evaluation.greedy import (
    WARM_UP_TOKENS,
    batches,
    eos_ids_of,
    generate,
    left_padded,
    plain_generation,
    room_after,
    up_to_eos,
)
from lora_dist.evaluation.live_model import evaluating, input_device
from lora_dist.models.adapter_folder import AdapterFolder
from lora_dist.models.shared_base import share_base
from lora_dist.models.structure import causal_lm
from lora_dist.store.record import Generation

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

_BASE = "__base__"  # peft's name for no adapter


@dataclass(frozen=True)
class Row:
    """A prompt, and the adapter that it goes through."""

    input_ids: Sequence[int]
    adapter: int | None
    """Which of the adapters, from 0; None for the bare base."""


class Swapping:
    """One base and its adapters. Rows of different adapters, and of none, share a batch.

    The rows of a DoRA adapter run in batches of their own: peft (0.21) refuses DoRA among others.
    """

    def __init__(self, base: PreTrainedModel, adapters: Sequence[AdapterFolder]) -> None:
        """Put the adapters on the base, which is theirs from now on.

        Raises:
            ModelError: an adapter does not fit the base.
        """
        self._shared = share_base(base, adapters)
        self._model = self._shared.model

    @property
    def apart(self) -> list[int]:
        """The adapters whose rows run in batches of their own."""
        return [number for number, name in enumerate(self._shared.names) if name in self._shared.alone]

    @property
    def dtype(self) -> str:
        """Of the base's weights; adapters are float32."""
        return str(causal_lm(self._model).dtype).removeprefix("torch.")

    def logits(self, rows: Sequence[Row]) -> list[Tensor]:
        """The logits [T, V] of each row's prompt, on the CPU; one batch of all rows that can share one."""
        found: dict[int, Tensor] = {}
        takes_positions = "position_ids" in inspect.signature(causal_lm(self._model).forward).parameters
        with evaluating(self._model):
            for numbers in self._groups(rows):
                ids_BT, mask_BT = self._padded([rows[n] for n in numbers])
                positions = {"position_ids": (mask_BT.cumsum(1) - 1).clamp(min=0)} if takes_positions else {}
                adapters = self._through([rows[n] for n in numbers])
                logits_BTV = self._model(input_ids=ids_BT, attention_mask=mask_BT, **positions, **adapters).logits
                found |= {n: logits_BTV[b, -len(rows[n].input_ids) :].cpu() for b, n in enumerate(numbers)}
        return [found[n] for n in range(len(rows))]

    def continue_rows(
        self,
        rows: Sequence[Row],
        tokenizer: PreTrainedTokenizerBase,
        *,
        max_new_tokens: int,
        batch_size: int,
        progress: Callable[[int, int], None] | None = None,
    ) -> tuple[list[list[int]], Generation]:
        """Continue each row greedily up to EOS (which is among the new ids), `max_new_tokens` or the context.

        New ids in the order of the rows, as each would give them alone, up to the rounding of the model's dtype.
        Seconds are wall-clock, device synchronised, without a warm-up of two tokens; `progress` hears of rows.

        Raises:
            DataError: a prompt fills the model's context.
        """
        model, eos_ids = self._model, eos_ids_of(self._model, tokenizer)
        room_N = [self._room(row, max_new_tokens) for row in rows]
        new_ids: dict[int, list[int]] = {}
        seconds = 0.0
        with evaluating(model), plain_generation(model):
            for numbers, room in self._batches(rows, room_N, batch_size):
                some = [rows[n] for n in numbers]
                ids_BT, mask_BT = self._padded(some)
                adapters = self._through(some)
                if not new_ids:
                    generate(model, ids_BT, mask_BT, min(room, WARM_UP_TOKENS), eos_ids, **adapters)
                new_BG, took = generate(model, ids_BT, mask_BT, room, eos_ids, **adapters)
                seconds += took
                new_ids |= {n: up_to_eos(new_G, eos_ids) for n, new_G in zip(numbers, new_BG.tolist(), strict=True)}
                if progress is not None:
                    progress(len(new_ids), len(rows))
        count = sum(map(len, new_ids.values()))
        speed = count / seconds if seconds > 0 else 0.0
        facts = Generation(prompts=len(rows), new_tokens=count, seconds=seconds, tokens_per_second=speed)
        return [new_ids[n] for n in range(len(rows))], facts

    def _room(self, row: Row, max_new_tokens: int) -> int:
        length = len(row.input_ids)
        if not length:
            raise DataError(key="--prompt", problem="a prompt has no tokens", fix="write something into it")
        room = room_after(length, self._model, max_new_tokens)
        if room < 1:
            problem = f"a prompt has {length} tokens and the model's context is {length + room}"
            raise DataError(key="--prompt", problem=problem, fix="shorten it")
        return room

    def _batches(self, rows: Sequence[Row], room_N: Sequence[int], batch_size: int) -> Iterator[tuple[list[int], int]]:
        for group in self._groups(rows):
            lengths = [len(rows[n].input_ids) for n in group]
            for numbers, room in batches(lengths, [room_N[n] for n in group], batch_size):
                yield [group[n] for n in numbers], room

    def _groups(self, rows: Sequence[Row]) -> Iterator[list[int]]:
        """Row numbers that can share a batch: all but those of DoRA adapters, and each of these by itself."""
        alone = self.apart
        for group in [None, *alone]:
            numbers = [n for n, row in enumerate(rows) if (row.adapter if row.adapter in alone else None) == group]
            if numbers:
                yield numbers

    def _padded(self, rows: Sequence[Row]) -> tuple[Tensor, Tensor]:
        device = input_device(self._model)
        ids_BT, mask_BT = left_padded([row.input_ids for row in rows])
        return ids_BT.to(device), mask_BT.to(device)

    def _through(self, rows: Sequence[Row]) -> dict[str, Any]:
        """What peft is told, so that each row goes through its adapter; a group of its own has one that is active."""
        names = [_BASE if row.adapter is None else self._shared.names[row.adapter] for row in rows]
        if names[0] in self._shared.alone:
            self._model.set_adapter(names[0], inference_mode=True)
            return {}
        return {"adapter_names": names}

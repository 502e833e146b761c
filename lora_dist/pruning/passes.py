"""The calibration samples on their way through the blocks: whose they are, where they lie, and a block run over them.

Bits depend on how many threads a product is shared between, so on a CPU each forward pass has one thread, and as many
passes go side by side as there are threads: one process with eight threads and eight ranks with one give the same.
"""

# Dims: N samples, T tokens, B samples of a forward pass, H hidden size.

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from typing import TypeVar

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from lora_dist.models.device import one_thread, trim_memory
from lora_dist.pruning.chain import Call, Groups, block_calls, input_groups
from lora_dist.world import Team

PASS_TOKENS = 2048
"""Tokens of a forward pass: short samples go together. Fixed, since the shape of a product is what its bits depend on;
ranks and threads take whole passes."""
_KEPT_SHARE = 0.4
"""Of an accelerator's free memory, for hidden states; where they take more they lie in the machine's."""

T = TypeVar("T")
R = TypeVar("R")
Tell = Callable[[str], None]


class Stopped(Exception):
    """Raised by what listens to a block: the rest of its forward pass is not needed."""


class Passes:
    """The hidden states of this rank's samples. Every rank calls every method, with or without samples."""

    def __init__(self, team: Team, device: torch.device, dtype: torch.dtype) -> None:
        self.team, self.device, self.dtype = team, device, dtype
        self.samples = 0
        """Over all ranks."""
        self.tokens_per_sample = 0
        self._hidden: list[Tensor] = []
        self._calls: dict[int, list[Call]] = {}  # how each block is called, by the number of samples in a pass
        self._turns = 0

    def __enter__(self) -> Passes:
        self._stack = ExitStack()
        threads = torch.get_num_threads() if self.device.type == "cpu" else 1
        self._abreast = -int(self.team.highest(-threads))  # the fewest of all ranks: they keep step
        self._pool = self._stack.enter_context(ThreadPoolExecutor(self._abreast))
        self._stack.enter_context(one_thread())
        return self

    def __exit__(self, *_: object) -> None:
        self._hidden.clear()
        self._stack.close()

    def side_by_side(self, action: Callable[[T], R], items: Sequence[T]) -> list[R]:
        """`action` of each item, as many at a time as there are threads."""
        if self._abreast == 1 or len(items) < 2:
            return [action(item) for item in items]
        return list(self._pool.map(action, items))

    def embed(self, model: PreTrainedModel, ids_NT: Tensor, tell: Tell) -> None:
        """What the first block is given for every sample; what comes before the blocks has its weights."""
        together = max(1, PASS_TOKENS // ids_NT.shape[1])
        mine = list(ids_NT.split(together))[self.team.world.rank :: self.team.world.size]
        self.samples, self.tokens_per_sample = ids_NT.shape
        self._turns = int(self.team.highest(len(mine)))
        store = self._store(model)
        with torch.no_grad():
            for turn in range(self._turns):
                tell(f"embedding the samples, {turn + 1} of {self._turns}")
                if turn < len(mine):
                    hidden_BTH, calls = block_calls(model, mine[turn].to(self.device))
                    self._calls.setdefault(len(mine[turn]), calls)
                    self._hidden.append(hidden_BTH.to(store))

    def _store(self, model: PreTrainedModel) -> torch.device:
        """Where hidden states lie: on the accelerator if they take little of it."""
        if self.device.type != "cuda":
            return self.device
        size = self._turns * PASS_TOKENS * model.config.get_text_config().hidden_size * self.dtype.itemsize
        free, _ = torch.cuda.mem_get_info(self.device)
        return self.device if size < _KEPT_SHARE * free else torch.device("cpu")

    def groups(self, number: int, block: nn.Module, linears: Mapping[str, nn.Module]) -> Groups:
        """Which linears of block `number` see the same input; rank 0 looks, which always has a sample."""

        def look() -> Groups:
            hidden_BTH = self._hidden[0].to(self.device)
            with torch.no_grad():
                return input_groups(block, self._calls[len(hidden_BTH)][number], hidden_BTH, linears)

        return self.team.first_does(look)

    def forward(self, number: int, block: nn.Module, tell: Tell, *, keep_outputs: bool = True) -> None:
        """Send every sample of this rank through block `number`; its output takes the input's place if it is kept."""

        def run(turn: int) -> None:
            hidden_BTH = self._hidden[turn].to(self.device)
            with torch.no_grad():
                try:
                    output_BTH = self._calls[len(hidden_BTH)][number].run(block, hidden_BTH)
                except Stopped:
                    return
            if keep_outputs:
                self._hidden[turn].copy_(output_BTH)

        for start in range(0, self._turns, self._abreast):
            stop = min(start + self._abreast, self._turns)
            tell(f"{stop} of {self._turns}")
            self.side_by_side(run, range(start, min(stop, len(self._hidden))))
        trim_memory()

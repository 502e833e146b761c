"""The calibration samples on their way through the blocks: whose they are, where they lie, and a block run over them.

On a CPU each forward pass has one thread, and as many passes go side by side as there are threads.
"""

# Dims: N samples, T tokens, B samples of a forward pass, H hidden size.

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from lora_dist.models.device import trim_memory
from lora_dist.pruning.chain import Call, Groups, block_calls, input_groups
from lora_dist.pruning.crew import TeamCrew

PASS_TOKENS = 2048
"""Tokens of a forward pass: short samples go together. Fixed, since the shape of a product is what its bits depend on;
ranks and threads take whole passes."""
_PROBE_TOKENS = 8
_KEPT_SHARE = 0.4
"""Of an accelerator's free memory, for hidden states; where they take more they lie in the machine's."""

Tell = Callable[[str], None]


class Stopped(Exception):
    """Raised by what listens to a block: the rest of its forward pass is not needed."""


class Passes:
    """The hidden states of this rank's samples. Every rank calls every method, with or without samples."""

    def __init__(self, crew: TeamCrew, device: torch.device, dtype: torch.dtype) -> None:
        self.crew, self.team, self.device, self.dtype = crew, crew.team, device, dtype
        self.samples = 0
        """Over all ranks."""
        self.tokens_per_sample = 0
        self._hidden: list[Tensor] = []
        self._calls: dict[int, list[Call]] = {}  # how each block is called, by the number of samples in a pass
        self._probe: tuple[Tensor, list[Call]] | None = None
        self._turns = 0

    def forget(self) -> None:
        """Let go of the hidden states."""
        self._hidden.clear()

    def embed(self, model: PreTrainedModel, ids_NT: Tensor, tell: Tell) -> None:
        """What the first block is given for every sample; what comes before the blocks has its weights."""
        together = max(1, PASS_TOKENS // ids_NT.shape[1])
        mine = list(ids_NT.split(together))[self.team.world.rank :: self.team.world.size]
        self.samples, self.tokens_per_sample = ids_NT.shape
        self._turns = int(self.team.highest(len(mine)))
        store = self._store(model)
        with torch.no_grad():
            self._probe = block_calls(model, ids_NT[:1, :_PROBE_TOKENS].to(self.device))
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
        """Which linears of block `number` see the same input; rank 0 looks, with a few tokens."""

        def look() -> Groups:
            hidden_BTH, calls = self._probe
            with torch.no_grad():
                return input_groups(block, calls[number], hidden_BTH, linears)

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

        for start in range(0, self._turns, self.crew.threads):
            stop = min(start + self.crew.threads, self._turns)
            tell(f"{stop} of {self._turns}")
            self.crew.side_by_side(run, range(start, min(stop, len(self._hidden))))
        trim_memory()

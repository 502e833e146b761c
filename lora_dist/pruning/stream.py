"""A model pruned block by block, straight from its files to new ones: only one block has weights at a time.

    ids -> [embeddings] -> hidden states of all samples, kept once
    for each block: read it; send every sample through (moments of the linears' inputs);
                    prune; write its shard; send every sample through again (hidden states in place)
"""

# Dims: N samples, T tokens, B samples of a forward pass, H hidden size.

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from lora_dist.config.pruning import PruneSection
from lora_dist.models.device import peak_memory, release_memory, synchronize
from lora_dist.models.skeleton import drop_weights, put_weights
from lora_dist.models.stored import StoredWeights
from lora_dist.models.structure import decoder_blocks
from lora_dist.pruning.chain import Call, Groups, block_calls, input_groups, inputs_heard
from lora_dist.pruning.hessian import Gram, SquareSums
from lora_dist.pruning.output import PrunedModel
from lora_dist.pruning.share import Found, Matrix, by_magnitude, solve_block
from lora_dist.pruning.targets import BlockGoals, goals_of, linears_of, matrix_of
from lora_dist.world import Team

PASS_TOKENS = 2048
"""Tokens of a forward pass: short samples go together. Fixed, since the shape of a product is what its bits depend on;
ranks take whole passes."""
_KEPT_SHARE = 0.4
"""Of an accelerator's free memory, for hidden states; where they take more they lie in the machine's."""

Progress = Callable[[int, int, str], None]
"""Called with blocks done, blocks in all and a text, by every rank equally often; may raise to stop all of them."""


@dataclass
class Stream:
    """A model on its way through."""

    section: PruneSection
    model: PreTrainedModel
    """Without weights (see `models.skeleton`)."""
    weights: StoredWeights
    output: PrunedModel
    team: Team
    device: torch.device
    dtype: torch.dtype
    """Of the forward passes."""
    progress: Progress
    hidden: list[Tensor] = field(default_factory=list)
    """Of each of this rank's passes, [B, T, H]."""
    calls: dict[int, list[Call]] = field(default_factory=dict)
    """How each block is called, by the number of samples in a pass."""
    peak: int = 0

    def __post_init__(self) -> None:
        self.names = self.weights.names_for(self.model)
        self.blocks_name, self.blocks = decoder_blocks(self.model)
        self.goals: list[BlockGoals] = goals_of(self.model, self.section)

    def run(self, ids_NT: Tensor | None, chosen: range | None = None) -> None:
        """Prune the blocks that are not on the disk yet (`chosen` ones only, if given).

        Args:
            ids_NT: calibration tokens; None for a kind that takes none.
            chosen: blocks of a pruning whose blocks do not depend on each other.
        Raises:
            HessianError, ModelError, StorageError: see the functions that do the work.
        """
        done = self.team.first_does(self._done)
        wanted = chosen if chosen is not None else range(len(self.blocks))
        last = max((number for number in wanted if number not in done), default=-1)
        passes = self._deal(ids_NT) if ids_NT is not None and last >= 0 else []
        self.samples = len(ids_NT) if ids_NT is not None else 0
        self.turns = int(self.team.highest(len(passes)))
        if self.turns:
            self._embed(passes)
        for number in range(last + 1):
            self._tell(number, "reading the weights")
            if number in wanted and number not in done:
                self._prune_block(number, goes_on=number < last)
            elif self.turns:
                self._pass_through(number, is_pruned=number in done)
        self.hidden.clear()

    def _done(self) -> set[int]:
        """Blocks that are on the disk; where each depends on those before it, only as far as there is no gap."""
        done = set(self.output.done())
        if self.section.uses_data and self.section.mode == "exact":
            first = next(number for number in range(len(self.blocks) + 1) if number not in done)
            self.output.forget_after(first)
            done = set(range(first))
        return done

    def _tell(self, number: int, text: str) -> None:
        self.progress(number, len(self.blocks), text)

    def _deal(self, ids_NT: Tensor) -> list[Tensor]:
        """This rank's passes: every size-th of them."""
        together = max(1, PASS_TOKENS // ids_NT.shape[1])
        return list(ids_NT.split(together))[self.team.world.rank :: self.team.world.size]

    def _embed(self, passes: list[Tensor]) -> None:
        """What the first block is given for every sample, and how each block is called."""
        front = {name: stored for name, stored in self.names.items() if not self._is_in_blocks(name)}
        head = self.model.get_output_embeddings()
        own = {id(weight) for weight in head.parameters()} if head is not None else set()
        inputs = {id(weight) for weight in self.model.get_input_embeddings().parameters()}
        parameters = dict(self.model.named_parameters(remove_duplicate=False))
        needed = {name: stored for name, stored in front.items() if id(parameters.get(name)) not in own - inputs}
        put_weights(self.model, self._read(needed), self.device)
        self.model.tie_weights()
        store = self._store()
        with torch.no_grad():
            for turn in range(self.turns):
                self._tell(0, f"embedding samples, {turn + 1} of {self.turns}")
                if turn < len(passes):
                    ids_BT = passes[turn].to(self.device)
                    hidden_BTH, calls = block_calls(self.model, ids_BT)
                    self.calls.setdefault(len(ids_BT), calls)
                    self.hidden.append(hidden_BTH.to(store))
        drop_weights(self.model)
        release_memory()

    def _is_in_blocks(self, name: str) -> bool:
        return name.startswith(f"{self.blocks_name}.")

    def _store(self) -> torch.device:
        """Where hidden states lie: on the accelerator if they take little of it."""
        if self.device.type != "cuda":
            return self.device
        config = self.model.config.get_text_config()
        size = self.turns * PASS_TOKENS * config.hidden_size * self.dtype.itemsize
        free, _ = torch.cuda.mem_get_info(self.device)
        return self.device if size < _KEPT_SHARE * free else torch.device("cpu")

    def _read(self, names: Mapping[str, str]) -> Iterator[tuple[str, Tensor]]:
        for name, stored in names.items():
            yield name, self._as_computed(self.weights.read(stored))

    def _as_computed(self, weight: Tensor) -> Tensor:
        return weight.to(self.device, self.dtype if weight.is_floating_point() else None)

    def _names_in(self, number: int) -> dict[str, str]:
        """Name in the block -> name in the source's files."""
        prefix = f"{self.blocks_name}.{number}."
        return {name.removeprefix(prefix): stored for name, stored in self.names.items() if name.startswith(prefix)}

    def _prune_block(self, number: int, *, goes_on: bool) -> None:
        """One block: its moments, its matrices, its shard, and what it hands on."""
        started = time.perf_counter()
        block, names = self.blocks[number], self._names_in(number)
        goals, linears = self.goals[number].goals, linears_of(self.blocks[number])
        tensors = {name: self.weights.read(stored) for name, stored in names.items()}
        put_weights(block, ((name, self._as_computed(tensor)) for name, tensor in tensors.items()), self.device)
        matrices = {
            name: Matrix(name, goal, matrix_of(linears[name], tensors[f"{name}.weight"]).to(self.device))
            for name, goal in goals.items()
        }
        stays = self.section.mode == "dense_inputs"
        found = self._find(number, block, matrices, goes_on=goes_on and stays)
        for name, result in found.items():
            weight = matrix_of(linears[name], result.weight_RC).contiguous()
            tensors[f"{name}.weight"] = weight.cpu()
            if not stays:
                put_weights(block, iter([(f"{name}.weight", self._as_computed(weight))]), self.device)
        synchronize(self.device)
        self._write(number, tensors, found, seconds=time.perf_counter() - started)
        del tensors, matrices, found
        if goes_on and self.turns and not stays:
            self._forward(number, block, "pruned outputs")
        drop_weights(block)

    def _find(
        self, number: int, block: nn.Module, matrices: Mapping[str, Matrix], *, goes_on: bool
    ) -> dict[str, Found]:
        """The pruned matrices of one block."""
        if not self.section.uses_data:
            found = {}
            for name, matrix in matrices.items():
                self._tell(number, f"pruning {name}")
                found[name] = by_magnitude(matrix)
            return found
        if not matrices:
            if goes_on:
                self._forward(number, block, "dense outputs")
            return {}
        groups = self._groups(block, {name: linears_of(block)[name] for name in matrices})
        moments = [self._new_moments(matrices[names[0]]) for names in groups.of_input]
        self._observe(number, block, groups, moments, keep_outputs=goes_on)
        self._tell(number, "solving")
        return solve_block(
            [[matrices[name] for name in names] for names in groups.of_input],
            moments,
            self.section,
            self.samples,
            self.team,
        )

    def _groups(self, block: nn.Module, linears: Mapping[str, nn.Module]) -> Groups:
        """As rank 0 sees them, which always has a sample."""
        with torch.no_grad():
            return self.team.first_does(
                lambda: input_groups(block, self._call(block, self.hidden[0]), self.hidden[0].to(self.device), linears)
            )

    def _call(self, block: nn.Module, hidden_BTH: Tensor) -> Call:
        number = next(index for index, other in enumerate(self.blocks) if other is block)
        return self.calls[len(hidden_BTH)][number]

    def _new_moments(self, matrix: Matrix) -> Gram | SquareSums:
        kind = Gram if self.section.kind == "sparsegpt" else SquareSums
        return kind(matrix.weight_RC.shape[1], self.device)

    def _observe(
        self, number: int, block: nn.Module, groups: Groups, moments: list[Any], *, keep_outputs: bool
    ) -> None:
        """Send every sample through, adding up what the first linear of each group is given."""
        linears = linears_of(block)
        of_leader = {names[0]: moment for names, moment in zip(groups.of_input, moments, strict=True)}
        heard = {name: linears[name] for name in of_leader}
        last = list(of_leader)[-1]

        def listen(name: str, x: Tensor) -> None:
            of_leader[name].add(x)
            if name == last and not keep_outputs:
                raise _Heard  # what comes after the last input is not needed

        with inputs_heard(heard, listen):
            self._forward(number, block, "inputs", keep_outputs=keep_outputs)

    def _forward(self, number: int, block: nn.Module, what: str, *, keep_outputs: bool = True) -> None:
        """Send every sample of this rank through a block; its output takes the input's place."""
        with torch.no_grad():
            for turn in range(self.turns):
                self._tell(number, f"{what}, {turn + 1} of {self.turns}")
                if turn >= len(self.hidden):
                    continue
                hidden_BTH = self.hidden[turn].to(self.device)
                try:
                    output_BTH = self._call(block, hidden_BTH).run(block, hidden_BTH)
                except _Heard:
                    continue
                if keep_outputs:
                    self.hidden[turn].copy_(output_BTH)

    def _pass_through(self, number: int, *, is_pruned: bool) -> None:
        """A block that needs no pruning here: hand on what the next one is to be given."""
        block, names = self.blocks[number], self._names_in(number)
        if is_pruned and self.section.mode == "exact":
            inner = {stored: name for name, stored in names.items()}
            weights = ((inner[stored], self._as_computed(weight)) for stored, weight in self.output.read_block(number))
        else:
            weights = ((name, self._as_computed(self.weights.read(stored))) for name, stored in names.items())
        put_weights(block, weights, self.device)
        self._forward(number, block, "outputs")
        drop_weights(block)

    def _write(
        self, number: int, tensors: Mapping[str, Tensor], found: Mapping[str, Found], *, seconds: float
    ) -> None:
        """The block's shard, its masks and its report, by rank 0."""
        names, prefix = self._names_in(number), self.goals[number].name
        memory = max(self.team.gather(peak_memory(self.device).bytes))
        kept = {f"{prefix}.{name}.weight": tensors[f"{name}.weight"] != 0 for name in found}
        facts = {
            "block": number,
            "seconds": seconds,
            "peak_memory_bytes": memory,
            "linears": [
                self._report(name, result, kept[f"{prefix}.{name}.weight"]) for name, result in found.items()
            ],
        }
        stored = {names[name]: tensor for name, tensor in tensors.items()}
        self.team.first_does(lambda: self.output.write_block(number, stored, kept, facts))

    def _report(self, name: str, result: Found, kept: Tensor) -> dict[str, Any]:
        """One linear's line: sparsity, reconstruction error, damping, seconds."""
        weights = kept.numel()
        outputs = result.weight_RC.shape[0]
        error = result.squared_error
        tokens_per_sample = next(iter(self.hidden), torch.empty(1, 1, 1)).shape[1]
        return {
            "name": name,
            "weights": weights,
            "zeros": weights - int(kept.sum()),
            # H is 2/n sum x x^T: half of it over tokens and outputs is the mean squared change of an output.
            "mean_squared_error": None if error is None else error / 2 / tokens_per_sample / outputs,
            "damping": result.damping,
            "seconds": result.seconds,
        }


class _Heard(Exception):
    """All inputs of a block have been heard."""

"""A model pruned block by block, straight from its files to new ones: only one block has weights at a time.

ids -> [embeddings] -> hidden states of all samples, kept once
for each block: read it; send every sample through (moments of the linears' inputs);
                prune; write its shard; send every sample through again (hidden states in place)
"""

# Dims: N samples, T tokens.

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from lora_dist.config.pruning import PruneSection
from lora_dist.models.device import peak_memory, release_memory, synchronize, trim_memory
from lora_dist.models.skeleton import drop_weights, put_weights
from lora_dist.models.stored import StoredWeights
from lora_dist.models.structure import decoder_blocks
from lora_dist.pruning.chain import Groups, inputs_heard
from lora_dist.pruning.crew import TeamCrew
from lora_dist.pruning.hessian import Gram, SquareSums
from lora_dist.pruning.output import PrunedModel
from lora_dist.pruning.passes import Passes, Stopped
from lora_dist.pruning.share import Found, Matrix, by_magnitude, solve_block
from lora_dist.pruning.targets import BlockGoals, goals_of, linears_of, matrix_of
from lora_dist.team import Team

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

    def __post_init__(self) -> None:
        self.names = self.weights.names_for(self.model)
        self.blocks_name, self.blocks = decoder_blocks(self.model)
        self.goals: list[BlockGoals] = goals_of(self.model, self.section)
        self.crew = TeamCrew(self.team, self.device)
        self.passes = Passes(self.crew, self.device, self.dtype)
        self._since = 0.0  # the end of the block before; what it handed on is counted with the next

    @property
    def _is_independent(self) -> bool:
        """Whether no block depends on what became of those before it."""
        return not self.section.uses_data or self.section.mode == "dense_inputs"

    def run(self, ids_NT: Tensor | None, chosen: range | None = None) -> None:
        """Prune the blocks that are not on the disk yet (`chosen` ones only, if given).

        Args:
            ids_NT: calibration tokens; None for a kind that takes none.
            chosen: blocks of a pruning whose blocks do not depend on each other.
        Raises:
            HessianError: no damping makes a Hessian positive definite.
            ModelError: the blocks do not form a chain, or a linear was given nothing but zeros.
            StorageError: the disk is full.
        """
        done = self.team.first_does(self._done)
        wanted = chosen if chosen is not None else range(len(self.blocks))
        last = max((number for number in wanted if number not in done), default=-1)
        self._since = time.perf_counter()
        with self.crew:
            if ids_NT is not None and last >= 0:
                self._embed(ids_NT)
            for number in range(last + 1):
                if number in wanted and number not in done:
                    self._prune_block(number, goes_on=number < last and ids_NT is not None)
                elif ids_NT is not None:
                    self._pass_through(number, is_pruned=number in done)
        self.passes.forget()

    def _done(self) -> set[int]:
        """Blocks that are on the disk; where each depends on those before it, only as far as there is no gap."""
        done = set(self.output.done())
        if not self._is_independent:
            first = next(number for number in range(len(self.blocks) + 1) if number not in done)
            self.output.forget_after(first)
            done = set(range(first))
        return done

    def _tell(self, number: int, what: str) -> Callable[[str], None]:
        return lambda text: self.progress(number, len(self.blocks), f"{what} {text}".rstrip())

    def _embed(self, ids_NT: Tensor) -> None:
        """Run what comes before the blocks; a head of its own is left out, it may be as large as many blocks."""
        head = self.model.get_output_embeddings()
        own = {id(weight) for weight in head.parameters()} if head is not None else set()
        own -= {id(weight) for weight in self.model.get_input_embeddings().parameters()}
        parameters = dict(self.model.named_parameters(remove_duplicate=False))
        front = {
            name: stored
            for name, stored in self.names.items()
            if not name.startswith(f"{self.blocks_name}.") and id(parameters.get(name)) not in own
        }
        put_weights(self.model, self._read(front), self.device)
        self.passes.embed(self.model, ids_NT, self._tell(0, ""))
        drop_weights(self.model)
        release_memory()

    def _read(self, names: Mapping[str, str]) -> Iterator[tuple[str, Tensor]]:
        """Weights of the source as forward passes take them, by their names in a module."""
        for name, stored in names.items():
            is_float = self.weights.dtype_of(stored).is_floating_point
            yield name, self.weights.read(stored, device=self.device, dtype=self.dtype if is_float else None)

    def _computed(self, weight: Tensor) -> Tensor:
        """A weight as forward passes take it."""
        return weight.to(self.device, self.dtype if weight.is_floating_point() else None)

    def _names_in(self, number: int) -> dict[str, str]:
        """Name in the block -> name in the source's files."""
        prefix = f"{self.blocks_name}.{number}."
        return {name.removeprefix(prefix): stored for name, stored in self.names.items() if name.startswith(prefix)}

    def _prune_block(self, number: int, *, goes_on: bool) -> None:
        """One block: its moments, its matrices, its shard, and what it hands on."""
        self._tell(number, "reading the weights")("")
        block, names, linears = self.blocks[number], self._names_in(number), linears_of(self.blocks[number])
        tensors = {name: self.weights.read(stored) for name, stored in names.items()}
        if self.section.uses_data:
            put_weights(block, ((name, self._computed(tensor)) for name, tensor in tensors.items()), self.device)
        matrices = {
            name: Matrix(name, goal, matrix_of(linears[name], tensors[f"{name}.weight"]).to(self.device))
            for name, goal in self.goals[number].goals.items()
        }
        hands_on_dense = goes_on and (self._is_independent or not matrices)
        found = self._find(number, block, matrices, keep_outputs=hands_on_dense)
        for name, result in found.items():
            weight = matrix_of(linears[name], result.weight_RC).contiguous()
            tensors[f"{name}.weight"] = weight.cpu()
            if goes_on and not hands_on_dense:
                put_weights(block, iter([(f"{name}.weight", self._computed(weight))]), self.device)
        del matrices
        synchronize(self.device)
        self._write(number, tensors, found)
        del tensors, found
        if goes_on and not hands_on_dense:
            self.passes.forward(number, block, self._tell(number, "pruned outputs"))
        drop_weights(block)
        trim_memory()

    def _find(
        self, number: int, block: nn.Module, matrices: Mapping[str, Matrix], *, keep_outputs: bool
    ) -> dict[str, Found]:
        """The pruned matrices of one block."""
        if not self.section.uses_data:
            self._tell(number, "pruning by magnitude")("")
            found = self.crew.side_by_side(by_magnitude, list(matrices.values()))
            return dict(zip(matrices, found, strict=True))
        if not matrices:
            if keep_outputs:
                self.passes.forward(number, block, self._tell(number, "dense outputs"))
            return {}
        linears = linears_of(block)
        groups = self.passes.groups(number, block, {name: linears[name] for name in matrices})
        moments = [self._new_moments(matrices[names[0]]) for names in groups]
        self._observe(number, block, groups, moments, keep_outputs=keep_outputs)
        self._tell(number, "solving")("")
        by_group = [[matrices[name] for name in names] for names in groups]
        return solve_block(by_group, moments, self.section, self.passes.samples, self.crew)

    def _new_moments(self, matrix: Matrix) -> Gram | SquareSums:
        kind = Gram if self.section.kind == "sparsegpt" else SquareSums
        return kind(matrix.weight_RC.shape[1], self.device)

    def _observe(
        self, number: int, block: nn.Module, groups: Groups, moments: list[Any], *, keep_outputs: bool
    ) -> None:
        """Send every sample through, adding up what the first linear of each group is given."""
        of_leader = {names[0]: moment for names, moment in zip(groups, moments, strict=True)}
        last = list(of_leader)[-1]

        def listen(name: str, x: Tensor) -> None:
            of_leader[name].add(x)
            if name == last and not keep_outputs:
                raise Stopped

        linears = linears_of(block)
        with inputs_heard({name: linears[name] for name in of_leader}, listen):
            self.passes.forward(number, block, self._tell(number, "inputs"), keep_outputs=keep_outputs)

    def _pass_through(self, number: int, *, is_pruned: bool) -> None:
        """A block that needs no pruning here: hand on what the next one is to be given."""
        block, names = self.blocks[number], self._names_in(number)
        weights = self._read(names)
        if is_pruned and not self._is_independent:
            inner = {stored: name for name, stored in names.items()}
            weights = ((inner[stored], self._computed(weight)) for stored, weight in self.output.read_block(number))
        put_weights(block, weights, self.device)
        self.passes.forward(number, block, self._tell(number, "outputs"))
        drop_weights(block)
        self._since = time.perf_counter()  # done twice: not the time that a pruning takes

    def _write(self, number: int, tensors: Mapping[str, Tensor], found: Mapping[str, Found]) -> None:
        """The block's shard, its masks and its report, by rank 0."""
        seconds, self._since = time.perf_counter() - self._since, time.perf_counter()
        names, prefix = self._names_in(number), self.goals[number].name
        memory = max(self.team.gather(peak_memory(self.device).bytes))

        def write() -> None:
            kept = {name: tensors[f"{name}.weight"] != 0 for name in found}
            facts = {
                "block": number,
                "seconds": seconds,
                "peak_memory_bytes": memory,
                "linears": [self._report(name, result, kept[name]) for name, result in found.items()],
            }
            stored = {names[name]: tensor for name, tensor in tensors.items()}
            self.output.write_block(
                number, stored, {f"{prefix}.{name}.weight": keep for name, keep in kept.items()}, facts
            )

        self.team.first_does(write)

    def _report(self, name: str, result: Found, kept: Tensor) -> dict[str, Any]:
        """One linear's line: sparsity, reconstruction error, damping, seconds."""
        error, outputs = result.squared_error, result.weight_RC.shape[0]
        return {
            "name": name,
            "weights": kept.numel(),
            "zeros": kept.numel() - int(kept.count_nonzero()),
            # H is 2/n sum x x^T: half of it, per token of a sample and output, is a mean squared change of an output.
            "mean_squared_error": None if error is None else error / 2 / self.passes.tokens_per_sample / outputs,
            "damping": result.damping,
            "seconds": result.seconds,
        }

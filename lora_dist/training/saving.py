"""From the trained model, wherever its weights are, to `model/` on the disk."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path

import torch
from torch import Tensor, nn
from transformers import PreTrainedTokenizerBase, Trainer

from lora_dist.config.experiment import Run
from lora_dist.config.sections import ADAPTER_KINDS
from lora_dist.models.adapters import check_saved_adapter, name_kept_zeros
from lora_dist.models.classifiers import classes_of
from lora_dist.models.companions import with_dtype
from lora_dist.models.device import dtype_of
from lora_dist.models.provenance import Provenance, provenance_of
from lora_dist.store.atomic import whole_folder, write_errors
from lora_dist.team import Team


def save_model(
    trainer: Trainer,
    run: Run,
    run_id: str,
    folder: Path,
    tokenizer: PreTrainedTokenizerBase,
    team: Team,
    pretrained: Path | None = None,
    *,
    is_final: bool,
) -> None:
    """Write the model as it is now to `folder`, whole; the training may go on. Trained weights are written in the
    precision in which the arms are compared.

    Under ZeRO every rank holds a share of the float32 weights that the optimizer steps on: they are brought together
    here, so that an adapter is saved in float32 under every stage.

    Args:
        run_id: what the run's folder is called.
        pretrained: the folder of weights that the training started from, instead of the source's.
        is_final: an adapter that is still as it began is then a mistake.
    Raises:
        StorageError: the disk is full.
        LoraDistError: the final adapter is empty, or is the untrained one.
    """
    adapted = run.method.kind in ADAPTER_KINDS
    weights, dtype = None, None
    if team.world.strategy.startswith("zero") or not adapted:
        weights = _together(trainer, team, adapters_only=adapted)
    if not adapted:
        dtype = dtype_of(run.model, trainer.args.device)
        weights = {name: weight.to(dtype) if weight.is_floating_point() else weight for name, weight in weights.items()}
    told = None
    if adapted:
        names = classes_of(trainer.model)
        told = team.first_does(lambda: provenance_of(run, pretrained, run_id, names))
    team.first_does(lambda: _write(trainer.model, weights, folder, tokenizer, told, dtype, is_final))


def _write(
    model: nn.Module,
    weights: dict[str, Tensor] | None,
    folder: Path,
    tokenizer: PreTrainedTokenizerBase,
    told: Provenance | None,
    dtype: torch.dtype | None,
    is_final: bool,
) -> None:
    """Save the model in `dtype`, or the adapter that `told` tells of."""
    with write_errors(folder), whole_folder(folder) as aside:
        with _lent(model, weights if told is not None and told.method["kind"] == "prefix" else None):
            model.save_pretrained(aside, state_dict=weights)
        tokenizer.save_pretrained(aside)
        if dtype is not None:
            config = aside / "config.json"
            config.write_bytes(with_dtype(config.read_bytes(), dtype))
        if told is not None:
            if is_final:
                check_saved_adapter(aside)
            told.write(aside)
            if told.preserves_sparsity:
                name_kept_zeros(aside)


@contextlib.contextmanager
def _lent(model: nn.Module, weights: dict[str, Tensor] | None) -> Iterator[None]:
    """Have the model hold `weights` while the block runs: peft makes a prefix by the model, and takes none from a state
    dict."""
    before = {}
    for name, weight in model.named_parameters():
        if weights is not None and name in weights:
            before[weight] = weight.data
            weight.data = weights[name].to(weight.device)
    try:
        yield
    finally:
        for weight, data in before.items():
            weight.data = data


def _together(trainer: Trainer, team: Team, *, adapters_only: bool) -> dict[str, Tensor]:
    """The weights under their names, whole, on the CPU of rank 0 (the others take part and keep nothing)."""
    weights: dict[str, Tensor] = {}
    for name, weight in trainer.model.named_parameters():
        if adapters_only and not weight.requires_grad:
            continue
        whole = _whole(weight, sharded=team.world.strategy.startswith("zero"))
        if team.world.is_first:
            weights[name] = whole.cpu()
    if not adapters_only and team.world.is_first:
        parameters = {name for name, _ in trainer.model.named_parameters(remove_duplicate=False)}
        weights |= {name: value for name, value in trainer.model.state_dict().items() if name not in parameters}
    return weights


def _whole(weight: nn.Parameter, *, sharded: bool) -> Tensor:
    """A weight as it is on one rank without ZeRO; of one that ZeRO's optimizer steps on, the float32 original."""
    if not sharded:
        return weight.detach()
    from deepspeed.utils import safe_get_full_fp32_param

    if weight.requires_grad:
        return safe_get_full_fp32_param(weight)
    with _gathered(weight):
        return weight.detach().clone()


@contextlib.contextmanager
def _gathered(weight: nn.Parameter) -> Iterator[None]:
    """A frozen weight of ZeRO-3 is whole inside the block; under the other stages it always is."""
    if not hasattr(weight, "ds_id"):
        yield
        return
    from deepspeed.runtime.zero import GatheredParameters

    with GatheredParameters([weight]):
        yield

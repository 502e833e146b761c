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
from lora_dist.models.device import dtype_of
from lora_dist.models.provenance import Provenance, provenance_of
from lora_dist.store.atomic import whole_folder, write_errors
from lora_dist.team import Team


def save_model(
    trainer: Trainer,
    run: Run,
    folder: Path,
    tokenizer: PreTrainedTokenizerBase,
    device: torch.device,
    team: Team,
    pretrained: Path | None = None,
) -> None:
    """Write `model/` whole. Trained weights go back to the precision in which the arms are compared.

    Under ZeRO every rank holds a share of the float32 weights that the optimizer steps on: they are brought together
    here, so that an adapter is saved in float32 under every stage.

    Args:
        pretrained: the folder of weights that the training started from, instead of the source's.
    Raises:
        StorageError: the disk is full.
        LoraDistError: the saved adapter is empty, or is the untrained one.
    """
    adapted = run.method.kind in ADAPTER_KINDS
    weights = _together(trainer, team, adapters_only=adapted) if team.world.strategy.startswith("zero") else None
    if not adapted:
        dtype = dtype_of(run.model, device)
        if weights is None:
            trainer.model.to(dtype)
        else:
            weights = {name: weight.to(dtype) for name, weight in weights.items()}
    if weights is not None and run.method.kind == "prefix":
        team.first_does(lambda: _give_back(trainer.model, weights))
    told = None
    if adapted:
        names = classes_of(trainer.model)
        told = team.first_does(lambda: provenance_of(run, pretrained, folder.parent.name, names))
    team.first_does(lambda: _write(trainer.model, weights, folder, tokenizer, told))


def _give_back(model: nn.Module, weights: dict[str, Tensor]) -> None:
    """Put the float32 weights into the model: peft makes a prefix by the model, and takes none from a state dict."""
    for name, weight in model.named_parameters():
        if name in weights:
            weight.data = weights[name].to(weight.device)


def _write(
    model: nn.Module,
    weights: dict[str, Tensor] | None,
    folder: Path,
    tokenizer: PreTrainedTokenizerBase,
    told: Provenance | None,
) -> None:
    """Save the model, or the adapter that `told` tells of."""
    with write_errors(folder), whole_folder(folder) as aside:
        model.save_pretrained(aside, state_dict=weights)
        tokenizer.save_pretrained(aside)
        if told is not None:
            check_saved_adapter(aside)
            told.write(aside)
            if told.preserves_sparsity:
                name_kept_zeros(aside)


def _together(trainer: Trainer, team: Team, *, adapters_only: bool) -> dict[str, Tensor]:
    """The weights under their names, whole, on the CPU of rank 0 (the others take part and keep nothing)."""
    from deepspeed.utils import safe_get_full_fp32_param

    weights: dict[str, Tensor] = {}
    for name, weight in trainer.model.named_parameters():
        if weight.requires_grad:
            whole = safe_get_full_fp32_param(weight)
        elif adapters_only:
            continue
        else:
            with _gathered(weight):
                whole = weight.detach().clone()
        if team.world.is_first:
            weights[name] = whole.cpu()
    if not adapters_only and team.world.is_first:
        parameters = {name for name, _ in trainer.model.named_parameters(remove_duplicate=False)}
        weights |= {name: value for name, value in trainer.model.state_dict().items() if name not in parameters}
    return weights


@contextlib.contextmanager
def _gathered(weight: nn.Parameter) -> Iterator[None]:
    """A frozen weight of ZeRO-3 is whole inside the block; under the other stages it always is."""
    if not hasattr(weight, "ds_id"):
        yield
        return
    from deepspeed.runtime.zero import GatheredParameters

    with GatheredParameters([weight]):
        yield

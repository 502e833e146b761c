"""The disk that a run's checkpoints and its model take."""

from __future__ import annotations

from lora_dist.config.experiment import Run
from lora_dist.planning.memory import trained_parameters
from lora_dist.planning.shape import ModelShape

CHECKPOINT_BYTES = {False: 12, True: 16}
"""Per trained weight: itself and AdamW's two moments in float32; ZeRO keeps the 16-bit and the float32 weights both."""


def disk_bytes(shape: ModelShape, run: Run, *, under_zero: bool) -> int:
    """Bytes at the worst moment: the kept checkpoints, the one being written beside them, `model/` (and
    what is kept for early stopping), and `pruned/`.

    Runs that prune alike share the last.
    """
    pruned = shape.parameters * 2 + shape.layers * shape.block_linears // 8 if run.prune else 0  # 16 bit, and masks
    if not run.trains:
        return pruned
    trained = trained_parameters(shape, run.method)
    frozen = shape.parameters - trained if run.method.kind == "partial" else 0  # saved with the rest of the model
    checkpoint = CHECKPOINT_BYTES[under_zero] * trained + 4 * frozen
    model = 4 * (trained + frozen)
    if run.train.early_stopping_patience is not None:
        model *= 3  # beside it the best so far, and a better one that is being written
    return checkpoint * (run.train.keep_checkpoints + 1) + model + pruned

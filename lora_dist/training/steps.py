"""What every trainer here does beyond transformers': steps that are the same on any number of ranks, and checkpoints
that are whole or not there."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from lora_dist.models.methods import count_parameters
from lora_dist.team import Team
from lora_dist.training.checkpoints import check_space, filling
from lora_dist.training.order import EpochOrder


class SameSteps:
    """Goes before transformers' Trainer, or one that is made of it.

    It remembers how many tokens (of a classifier: rows) the loss of the current optimizer step is over.
    """

    scored_tokens_of_step = 0

    def __init__(self, *arguments: Any, team: Team, fillers: int, **named: Any) -> None:
        self.team, self.fillers = team, fillers
        super().__init__(*arguments, **named)
        # The loss is over all that is scored in a step. transformers counts it only for models whose forward takes
        # loss settings, and would weigh micro-batches equally, whatever their size, for one that does not.
        self.model_accepts_loss_kwargs = True

    def compute_loss(
        self, model: Any, inputs: dict[str, Any], return_outputs: bool = False, num_items_in_batch: Any = None
    ) -> Any:
        """The micro-batch's share of the step's loss (called by transformers)."""
        self.scored_tokens_of_step = num_items_in_batch
        return super().compute_loss(model, inputs, return_outputs, num_items_in_batch)

    def _get_train_sampler(self, train_dataset: Any = None) -> EpochOrder:
        rows = len(train_dataset if train_dataset is not None else self.train_dataset)
        step = self.args.per_device_train_batch_size * self.args.gradient_accumulation_steps * self.team.world.size
        return EpochOrder(
            rows - self.fillers, self.fillers, self.args.data_seed, lambda: self.state.global_step // -(-rows // step)
        )

    def _save_checkpoint(self, model: Any, trial: Any) -> None:
        folder = Path(self.args.output_dir)
        self.team.first_does(lambda: check_space(folder, self._checkpoint_bytes()))
        with filling(folder / f"checkpoint-{self.state.global_step}"):
            super()._save_checkpoint(model, trial)

    def _checkpoint_bytes(self) -> int:
        """What a checkpoint holds at least: weights that are trained and AdamW's two moments of them, in float32."""
        return 12 * count_parameters(self.model).trainable

    def create_model_card(self, *_: Any, **__: Any) -> None:
        """Write no README beside the checkpoints: nobody publishes those."""

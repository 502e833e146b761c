"""The trainer of a classifier: transformers' own Trainer, with the steps of ours."""

# Dims: B rows of a micro-batch, T tokens of a row, C classes.

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from datasets import Dataset
from peft import get_peft_model
from torch import Tensor
from torch.nn.functional import cross_entropy
from torch.nn.utils.rnn import pad_sequence
from transformers import PreTrainedTokenizerBase, Trainer, TrainingArguments, set_seed

from lora_dist.config.experiment import Run
from lora_dist.config.sections import ADAPTER_KINDS
from lora_dist.data.tokens import NOT_SCORED
from lora_dist.models.adapters import lora_config
from lora_dist.models.classifiers import Classes, load_classifier, trained_heads
from lora_dist.models.device import dtype_of
from lora_dist.models.methods import choose_trainable, hold_in_float32
from lora_dist.team import Team
from lora_dist.training.order import fillers_for, with_fillers
from lora_dist.training.steps import SameSteps


class ClassTrainer(SameSteps, Trainer):
    """Trains by the mean cross entropy over all rows of an optimizer step, whatever its micro-batches and ranks."""

    tokens_seen = 0
    """Tokens without padding, of all ranks, since this process started."""

    def __init__(self, *arguments: Any, drawn: Sequence[str], **named: Any) -> None:
        self.drawn = drawn
        """The modules whose weights were drawn at random."""
        super().__init__(*arguments, **named)

    def compute_loss(
        self, model: Any, inputs: dict[str, Any], return_outputs: bool = False, num_items_in_batch: Any = None
    ) -> Any:
        """The micro-batch's share of the step's loss (called by transformers)."""
        self.scored_tokens_of_step = num_items_in_batch
        labels_B = inputs["labels"]
        outputs = model(input_ids=inputs["input_ids"], attention_mask=inputs["attention_mask"])
        smoothing = self.args.label_smoothing_factor
        total = cross_entropy(
            outputs.logits.float(), labels_B, reduction="sum", ignore_index=NOT_SCORED, label_smoothing=smoothing
        )
        # num_items_in_batch counts the rows of every rank, and DDP takes the mean of the ranks' gradients.
        loss = total / num_items_in_batch * self.accelerator.num_processes
        self.tokens_seen += int(self.accelerator.gather(inputs["attention_mask"].sum()).sum())
        return (loss, outputs) if return_outputs else loss

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        """Adds the tokens that were seen, which TRL's trainer counts by itself."""
        super().log({**logs, "num_tokens": self.tokens_seen}, start_time)


class PaddedRows:
    """Rows of one micro-batch, padded on the right: input_ids and attention_mask [B, T], labels [B]."""

    def __init__(self, pad_token_id: int) -> None:
        self.pad_token_id = pad_token_id

    def __call__(self, rows: Sequence[dict[str, list[int]]]) -> dict[str, Tensor]:
        """The micro-batch of these rows."""
        ids = [torch.tensor(row["input_ids"]) for row in rows]
        mask_BT = pad_sequence([torch.ones_like(row) for row in ids], batch_first=True)
        ids_BT = pad_sequence(ids, batch_first=True, padding_value=self.pad_token_id)
        labels_B = torch.tensor([row["labels"][0] for row in rows])
        return {"input_ids": ids_BT, "attention_mask": mask_BT, "labels": labels_B}


def make_class_trainer(
    run: Run,
    config: TrainingArguments,
    rows: Dataset,
    tokenizer: PreTrainedTokenizerBase,
    labels: tuple[str, ...],
    device: torch.device,
    team: Team,
) -> ClassTrainer:
    """The trainer over the pretrained model with a head for `labels`, and with what the run's method trains unfrozen
    or added. The head is new in every arm and the same for the same seed.

    Raises:
        ModelError: the model cannot be opened.
    """
    classes = Classes(labels, tokenizer.pad_token_id, run.seed)
    classifier = load_classifier(run.model, classes, device=device, dtype=dtype_of(run.model, device))
    model = classifier.model
    choose_trainable(model, run.method)
    if run.method.kind in ADAPTER_KINDS:
        set_seed(run.seed)  # peft draws the adapters' A
        model = get_peft_model(model, lora_config(run.method, trained_heads(classifier)))
        if run.train.gradient_checkpointing:
            model.enable_input_require_grads()
    hold_in_float32(model)
    fillers = fillers_for(len(rows), config.per_device_train_batch_size, team.world.size)
    return ClassTrainer(
        model=model,
        args=config,
        train_dataset=with_fillers(rows, fillers),
        processing_class=tokenizer,
        data_collator=PaddedRows(tokenizer.pad_token_id),
        drawn=classifier.drawn,
        team=team,
        fillers=fillers,
    )

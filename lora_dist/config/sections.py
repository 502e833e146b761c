"""The sections of an experiment file: one frozen model each; every setting is documented on its field.

A default lives here and nowhere else. `null` means "chosen for you": the field says how.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, StringConstraints, field_validator
from pydantic_core import PydanticCustomError

Task = Literal["causal_lm", "instruction", "math", "summarization", "qa", "classification"]
Role = Literal["text", "prompt", "completion", "messages", "context", "label"]
Metric = Literal["perplexity", "exact_match", "f1", "rouge", "bleu"]
JUDGED_BY: dict[str, tuple[Metric, ...]] = {
    "math": ("exact_match",), "summarization": ("rouge",), "qa": ("exact_match", "f1"),
}  # fmt: skip
"""What a task's answers are judged by, unless `evaluate.metrics` says otherwise; others are not generated for."""
MethodKind = Literal["base", "lora", "qlora", "partial", "full", "prefix", "ia3"]
LORA_KINDS: tuple[MethodKind, ...] = ("lora", "qlora")
ADAPTER_KINDS: tuple[MethodKind, ...] = (*LORA_KINDS, "prefix", "ia3")
"""Methods that leave the base as it is, and train something beside it that is saved by itself."""
Strategy = Literal["plain", "ddp", "zero1", "zero2", "zero3", "fsdp"]
"""How ranks share the training: not at all, by gradients (DDP), by a stage of DeepSpeed's ZeRO, by FSDP."""
SPLITS = ("train", "validation", "test")


def _no_bool(value: Any) -> Any:
    """YAML's true and false are whole numbers to pydantic; here they are a mistake."""
    if isinstance(value, bool):
        raise PydanticCustomError("bool_for_number", "Input should be a number")
    return value


Whole = Annotated[int, BeforeValidator(_no_bool), Field(gt=0)]
WholeOrZero = Annotated[int, BeforeValidator(_no_bool), Field(ge=0)]
Positive = Annotated[float, BeforeValidator(_no_bool), Field(gt=0, allow_inf_nan=False)]
NotNegative = Annotated[float, BeforeValidator(_no_bool), Field(ge=0, allow_inf_nan=False)]
Fraction = Annotated[float, BeforeValidator(_no_bool), Field(ge=0, lt=1)]
Text = Annotated[str, StringConstraints(min_length=1)]


class Section(BaseModel):
    """What all sections share: frozen, no unknown keys, the docstring under a field is its description."""

    model_config = ConfigDict(
        frozen=True, extra="forbid", use_attribute_docstrings=True, protected_namespaces=(), allow_inf_nan=False
    )


class ModelSection(Section):
    """The pretrained model that every arm starts from."""

    path: Text
    """A hub id, a local folder, or builtin:NAME (builtin:tiny-llama)."""
    revision: str | None = None
    """Branch, tag or commit of a hub id; null takes the newest."""
    dtype: Literal["auto", "float32", "bfloat16", "float16"] = "auto"
    """Precision of the frozen weights and of evaluation; auto is bfloat16 where the device computes in it, else
    float32. Weights that are trained are always kept in float32 (mixed precision)."""
    attention: Text = "auto"
    """Attention implementation as transformers names it (eager, sdpa, flash_attention_2); auto lets it choose."""
    trust_remote_code: bool = False
    """Run Python code that comes with the model. Only for sources you trust."""

    def at(self, folder: Path) -> ModelSection:
        """The same settings for the weights in `folder`, such as those that a run has pruned."""
        return self.model_copy(update={"path": str(folder), "revision": None})


class DataSection(Section):
    """The examples, and how they become tokens."""

    task: Task
    """causal_lm: running text in blocks. instruction: prompt -> completion, or conversations. math: question -> steps
    and a last number. summarization: text -> summary. qa: question, with or without a context -> short answer.
    classification: text -> one of the labels that train has, by a head on an encoder or a decoder."""
    path: Text | dict[Literal["train", "validation", "test"], Text | Annotated[list[Text], Field(min_length=1)]]
    """A hub id, a local file or folder, a mapping of split to file(s), or builtin:NAME
    (word-problems, general-text, sentiment, dialogues, instructions, symbolic-math, questions)."""
    subset: str | None = None
    """Name of a hub dataset's configuration, such as main or wikitext-2-raw-v1."""
    revision: str | None = None
    """Branch, tag or commit of a hub dataset."""
    train_split: Text = "train"
    """Which split of the source is trained on."""
    validation_split: str | None = None
    """Which split is used for validation; null takes `validation` if there is one, else carves it from train."""
    eval_split: str | None = None
    """Which split is the test; null takes `test` if there is one, else carves it from train."""
    held_out_fraction: Annotated[float, BeforeValidator(_no_bool), Field(gt=0, lt=0.5)] = 0.1
    """Share of train that a carved split takes (at most 1,000 examples). Equal rows stay on one side."""
    columns: dict[Role, Text] = {}
    """Which column plays which role, such as {prompt: question, completion: answer} or {messages: messages}. Roles that
    are left out are looked for under their own name, then under those that data of the task usually has
    (docs/data.md)."""
    template: str | None = None
    """Python format string over the columns, such as "Question: {question}\\nAnswer: {answer}". The loss is on what
    follows the completion's placeholder (causal_lm: on all); without it the completion is appended."""
    max_length: Whole | None = None
    """Longest example in tokens; null is 1024 or the model's context, whichever is smaller."""
    block_size: Whole | None = None
    """causal_lm: tokens per block; null is max_length."""
    packing: bool = False
    """Train on several examples per sequence of max_length tokens, kept apart by their positions (no contamination).
    Sequences, not examples, then count towards global_batch_size. Evaluation never packs."""
    max_train_examples: Whole | None = None
    """Use only the first N train examples (documents for causal_lm), after held-out splits are carved."""
    max_eval_examples: Whole | None = None
    """Use only the first N examples of the validation and of the test split."""


class MethodSection(Section):
    """What is trained. Settings that a kind does not use are ignored when inherited and refused when given to it."""

    kind: MethodKind = "lora"
    """base: nothing (zero-shot). lora, qlora (4-bit base), partial (top blocks), full, prefix (trained keys and values
    before every row, arXiv 2101.00190), ia3 (trained scales of keys, values and MLP, arXiv 2205.05638)."""
    rank: Whole = 16
    """lora, qlora: inner dimension of the update."""
    alpha: Positive = 32.0
    """lora, qlora: the update is scaled by alpha / rank (alpha / sqrt(rank) with rslora)."""
    dropout: Fraction = 0.0
    """lora, qlora: dropout on the adapter's input."""
    targets: Literal["all-linear"] | Annotated[list[Text], Field(min_length=1)] = "all-linear"
    """lora, qlora, ia3: names of the linears that get an adapter, or all-linear (or null): all but the head (which of a
    classifier is always trained whole), and for ia3 the places of its paper: key, value and down projections."""
    dora: bool = False
    """lora, qlora: train magnitude and direction apart (DoRA, arXiv 2402.09353)."""
    rslora: bool = False
    """lora, qlora: rank-stabilised scaling (arXiv 2312.03732)."""
    preserve_sparsity: bool | None = None
    """lora, qlora: mask the update by the zeros of the base, in training and in a merge, so that a pruned model stays
    pruned; null does so where the base is pruned. Costs time (see docs/pruning.md)."""
    fallback: Literal["qlora", "error"] = "qlora"
    """lora: what to do on one GPU where it does not fit in 16 bit, by the estimate of `lora-dist plan`: train QLoRA in
    its place (announced and recorded), or refuse. This never changes a run's id."""
    double_quantization: bool = True
    """qlora: quantise the quantisation constants too (NF4, arXiv 2305.14314)."""
    top_blocks: WholeOrZero = 2
    """partial: how many of the last blocks are trained."""
    train_norm: bool = True
    """partial: train the final norm, where there is one beside those of the blocks."""
    train_head: bool = True
    """partial: train the output head (and with it tied embeddings; of an encoder with its pooler)."""
    virtual_tokens: Whole = 20
    """prefix: how many positions come before every row; they take that much of the model's context."""
    prefix_projection: bool = False
    """prefix: train an embedding and an MLP that the prefix is made by, instead of the prefix itself (the paper's
    reparametrisation). Only the prefix is saved."""

    @field_validator("targets", mode="before")
    @classmethod
    def _one_target(cls, value: Any) -> Any:
        if value is None:
            return "all-linear"
        return [value] if isinstance(value, str) and value != "all-linear" else value

    def relevant(self) -> dict[str, Any]:
        """The settings that this kind uses, and only those (what the run's identity is made of)."""
        return {
            name: value
            for name, value in self.model_dump(mode="json").items()
            if name in FIELDS_OF_KIND[self.kind] and (name, value) != ("preserve_sparsity", None)
        }


_ADAPTER = {"kind", "rank", "alpha", "dropout", "targets", "dora", "rslora", "preserve_sparsity"}
FIELDS_OF_KIND: dict[str, set[str]] = {
    "base": {"kind"},
    "lora": _ADAPTER | {"fallback"},
    "qlora": _ADAPTER | {"double_quantization"},
    "partial": {"kind", "top_blocks", "train_norm", "train_head"},
    "full": {"kind"},
    "prefix": {"kind", "virtual_tokens", "prefix_projection"},
    "ia3": {"kind", "targets"},
}

# Adapters want about ten times the rate of full fine-tuning (Thinking Machines, "LoRA without regret", 2025);
# 2e-4 and 2e-5 are what published LoRA/QLoRA and full runs of 1B-13B models use. Small models want more.
# A prefix and scales want far more. Measured on a 6.5M-parameter Llama (300 GSM8K problems of at most 128 tokens, one
# epoch of batch 8, one seed; perplexity on 50 others, 10.16 of the base; 2026-11-27): prefix 9.79 at 1e-2, 8.96 at
# 3e-2, 8.76 at 1e-1; ia3 8.96, 8.77 and 8.74. On builtin:tiny-llama (600 word problems, two epochs; base 26.4)
# prefix 24.5, 17.2 and 7.1 at these rates, ia3 13.7, 7.6 and 5.1. (IA)^3's paper takes 3e-3 for 3B and 11B. The
# defaults are below what was best, for they are for larger models.
LEARNING_RATE_OF_KIND: dict[str, float] = {
    "lora": 2e-4, "qlora": 2e-4, "partial": 5e-5, "full": 2e-5, "prefix": 3e-2, "ia3": 1e-2,
}  # fmt: skip


class TrainSection(Section):
    """How it is trained. global_batch_size = micro_batch_size x accumulation x ranks, always."""

    epochs: Positive = 1.0
    """Passes over the train split."""
    max_steps: Whole | None = None
    """Stop after this many optimizer steps, whatever `epochs` says."""
    learning_rate: Positive | None = None
    """Peak rate; null is the method's default: lora and qlora 2e-4, partial 5e-5, full 2e-5, prefix 3e-2, ia3 1e-2."""
    global_batch_size: Whole = 32
    """Sequences per optimizer step over all ranks."""
    micro_batch_size: Literal["auto"] | Whole = "auto"
    """Sequences per forward pass of one rank; auto is the largest divisor of global_batch_size / ranks up to 8."""
    scheduler: Literal["linear", "cosine", "constant", "constant_with_warmup"] = "cosine"
    """Learning-rate schedule after warm-up."""
    warmup_fraction: Fraction = 0.03
    """Share of the steps over which the rate rises from 0."""
    weight_decay: NotNegative = 0.0
    """AdamW's decoupled weight decay."""
    max_gradient_norm: Positive = 1.0
    """Gradients are clipped to this global norm."""
    gradient_checkpointing: bool = False
    """Recompute activations in the backward pass: less memory for about 20% more time."""
    checkpoint_steps: Whole | None = None
    """Save a checkpoint every N optimizer steps; null is a fifth of the run. None is saved after the last step."""
    validation_steps: Whole | None = None
    """Measure the loss on the validation split every N optimizer steps, and after the last; null is once per epoch with
    early stopping, else never."""
    early_stopping_patience: Whole | None = None
    """Early stopping: end the training after N measurements of the validation loss in a row without a new lowest. The
    model of the lowest is the run's, also where training goes on to its end; null keeps the last model."""
    keep_checkpoints: Whole = 2
    """How many of the newest checkpoints are kept."""
    report_to: list[Text] = []
    """Trackers that transformers knows, such as tensorboard, wandb or trackio."""
    extra: dict[str, Any] = {}
    """Any other field of TRL's SFTConfig (classification: of TrainingArguments), handed through; unknown ones are
    refused."""

    def relevant(self) -> dict[str, Any]:
        """The settings that the run's identity is made of. How often the validation loss is measured changes a run only
        where it may end it."""
        settings = self.model_dump(mode="json")
        if self.early_stopping_patience is None:
            del settings["validation_steps"], settings["early_stopping_patience"]
        return settings


class EvaluateSection(Section):
    """What is measured, on the same token ids for every arm."""

    splits: Annotated[list[Literal["train", "validation", "test"]], Field(min_length=1)] = ["train", "test"]
    """Which splits are scored; `test` has to be among them."""
    metrics: list[Metric] | None = None
    """What the answers to the test prompts are judged by, beside perplexity, which is always computed; null is what the
    task asks for (math: exact_match; summarization: rouge; qa: exact_match and f1; else none, and [perplexity] is
    none anywhere). Judging generates an answer to every test prompt."""
    judged_examples: Whole | None = None
    """Judge only the answers to the first N test prompts; null judges all."""
    shots: WholeOrZero = 0
    """How many train examples stand before each prompt that is generated from (few-shot). Perplexity has none."""
    max_train_examples: Whole | None = 1000
    """Score only the first N rows of the train split; null scores all of them."""
    batch_size: Whole = 8
    """Rows per forward pass. The numbers do not depend on it."""
    samples: WholeOrZero = 5
    """How many test prompts are continued by every arm, side by side in the report; of a classification, how many test
    rows that the best arm gets wrong."""
    max_new_tokens: Whole | None = None
    """Longest generated continuation, in tokens (greedy decoding); null is 128, or, where answers are judged, a quarter
    more than the longest reference."""
    merged: Literal["auto", "always", "never"] = "auto"
    """Measure on the test split what becomes of an adapter when it is merged, beside what was trained: auto does so
    for qlora (4-bit base, with the adapter, 16-bit base with it, merged) and on a pruned base (zeros kept or filled).
    Takes the disk of one more model for a while, and a pass over the test split for each form."""
    bootstrap_samples: Annotated[int, BeforeValidator(_no_bool), Field(ge=100)] = 2000
    """Resamples behind each 95% interval."""

    def judged_by(self, task: Task) -> tuple[Metric, ...]:
        """What answers of this task are judged by; empty where none are generated for it."""
        wanted = JUDGED_BY.get(task, ()) if self.metrics is None else self.metrics
        return tuple(metric for metric in dict.fromkeys(wanted) if metric != "perplexity")

    @field_validator("splits")
    @classmethod
    def _test_is_scored(cls, value: list[str]) -> list[str]:
        if "test" not in value:
            raise ValueError("the test split has to be among them: it is what arms are compared on")
        return [split for split in SPLITS if split in value]

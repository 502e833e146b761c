"""The record of a run: its numbers, in a versioned schema. It is written last; a run without one is not finished."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from lora_dist.errors import StorageError
from lora_dist.store.atomic import write_text

SCHEMA_VERSION = 1


class _Part(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", protected_namespaces=(), use_attribute_docstrings=True)


class Quantization(_Part):
    """What was found in the live model, not what was asked for."""

    kind: str
    """The 4-bit type of the linears: nf4."""
    double_quantization: bool
    linears_4bit: int
    """How many linears hold 4-bit weights."""
    parameters_4bit: int
    """How many weights those are, before packing."""
    bytes_4bit: int
    """Bytes of the packed weights, without their quantisation constants."""
    storage_dtype: str
    """dtype of the packed weights, such as uint8."""
    compute_dtype: str


class ModelPart(_Part):
    """The model as it was trained and measured."""

    path: str
    revision: str | None = None
    parameters_total: int
    """Weights of the base and of what was added to it; 4-bit weights are counted unpacked."""
    parameters_trainable: int
    dtype: str
    """dtype of the frozen weights and of evaluation."""
    trainable_dtype: str | None = None
    attention: str
    quantization: Quantization | None = None
    drawn_modules: list[str] | None = None
    """classification: the modules that were drawn at random because the source lacks them (its head, and its pooler if
    it has none); empty where the source is a classifier of these very classes."""


class SparseKernels(_Part):
    """A GPU's 2:4 kernels beside dense ones (`evaluate --sparse-kernels`), on one device in one process. The figures in
    `evaluate` are those of dense ones."""

    linears: int
    """Linears of the model, but for its head."""
    two_in_four: int
    """Those of them with at most 2 weights in every 4 neighbouring inputs."""
    converted: int
    """Those that the kernels did."""
    reason: str | None = None
    """Why not more; null where all that are 2:4 were converted. Without any there are no figures below."""
    kernel: str | None = None
    """cusparselt or cutlass."""
    tokens: int | None = None
    """In the test rows that were scored in each pass."""
    repetitions: int | None = None
    """Passes of each side, in turns, after one to warm up."""
    dense_tokens_per_second: float | None = None
    """Scoring; median of the passes."""
    sparse_tokens_per_second: float | None = None
    layer_error: float | None = None
    """Largest error of an output of a converted linear on these rows, relative to its product in float32."""
    layer_tolerance: float | None = None
    """The most that is let through, which goes with the dtype."""
    nll_difference: float | None = None
    """Mean NLL (nats per token) with these kernels less that without."""
    nll_tolerance: float | None = None


class DataPart(_Part):
    """The tokens that were trained and scored."""

    task: str
    path: Any
    token_hash: str
    """sha256 over the token ids and labels of every split: perplexities compare only within one hash."""
    tokenizer_hash: str
    """sha256 over the tokenizer: models with another one are joined by bits per byte only."""
    bos: bool
    """Whether rows begin with the tokenizer's BOS."""
    train_examples: int
    validation_examples: int
    eval_examples: int
    truncated_examples: int
    """Rows cut at max_length, over all splits."""
    labels: list[str] | None = None
    """classification: what the classes 0, 1, ... are called."""
    label_counts: dict[str, list[int]] | None = None
    """classification: rows of each class, by split."""


class ValidationPart(_Part):
    """The losses on the validation split while training: nats per scored token, of a classification per row."""

    steps_planned: int
    """More than the steps that were taken where early stopping ended the training."""
    best_step: int
    best_loss: float
    last_loss: float
    keeps_best: bool
    """Whether the model is that of `best_step`; otherwise it is the last."""


class TrainPart(_Part):
    """What the training took. Times are of optimizer steps alone: no loading, evaluation, saving."""

    steps: int
    epochs: float
    tokens: int
    """Non-padding tokens that went through the model."""
    scored_tokens: int
    """Tokens that the loss was on."""
    final_loss: float
    """Token-weighted mean loss of the last tenth of the steps."""
    seconds: float
    """Sum of the times of all steps."""
    seconds_per_epoch: float
    """Median step time x steps per epoch."""
    tokens_per_second: float
    """Non-padding tokens per second, without the first steps."""
    peak_memory_bytes: int
    """Highest use during training, what measures the validation loss included, maximum over ranks: allocated on an
    accelerator, resident on a CPU."""
    peak_memory_kind: str
    """allocated, or resident."""
    peak_reserved_bytes: int | None = None
    world_size: int
    micro_batch_size: int
    accumulation: int
    global_batch_size: int
    zero_stage: int
    """From the live engine; 0 without DeepSpeed."""
    learning_rate: float
    validation: ValidationPart | None = None
    """What early stopping went by; None where the validation loss was not measured while training."""
    resumed_from_steps: list[int] = []
    """The checkpoints that this run continued from, if it was stopped."""


class PrunePart(_Part):
    """What was pruned, and what that took."""

    kind: str
    """sparsegpt, wanda or magnitude."""
    sparsity: float
    """Measured: zeros among the weights of the pruned linears."""
    pattern: str | None = None
    """N:M, where one was asked for."""
    mode: str
    """exact, or dense_inputs."""
    is_approximate: bool
    """Whether blocks were pruned by the inputs that dense blocks gave them."""
    calibration_samples: int
    """0 for a kind that takes none."""
    calibration_length: int
    calibration_hash: str
    """First 16 hex of the sha256 over the calibration tokens; empty where there are none."""
    linears: int
    weights: int
    """Weights of the pruned linears, zeros and others."""
    mean_squared_error: float | None = None
    """sparsegpt: mean over the linears of the mean squared change of an output on the calibration tokens."""
    largest_damping: float | None = None
    """sparsegpt: the highest that a Hessian took; above prune.damping where that was not enough."""
    seconds: float
    """Sum over the blocks; attempts that were lost count with the blocks that they finished."""
    world_size: int
    peak_memory_bytes: int
    """Highest use while pruning, maximum over ranks: allocated on an accelerator, resident on a CPU."""
    peak_memory_kind: str
    measured_sparsity: float | None = None
    """Zeros among the same weights in the model that was measured, read off its live linears after loading (and
    quantising). Lower than `sparsity` where full or partial fine-tuning has filled them again."""


class MergedForm(_Part):
    """One form that an adapter and its base can take, scored on the test split."""

    form: Literal["base_4bit", "adapter_4bit", "adapter", "merged", "merged_rounded", "merged_masked"]
    """base_4bit: the quantised base alone. adapter_4bit: with the adapter, as QLoRA trained it. adapter: the adapter on
    16 or 32-bit weights. merged: one model, in the precision of evaluation. merged_rounded: in that of the base's
    files, where it is lower. merged_masked: merged, and the update left out where the base is zero, though it was
    trained without a mask."""
    dtype: str
    perplexity: float
    nll_sum: float
    scored_tokens: int
    ci95: dict[str, list[float]]
    """{perplexity: [low, high]}"""
    versus_trained: list[float] | None = None
    """Perplexity minus that of the form that was trained: [value, low, high], paired over the rows; null for itself."""
    zeros: float | None = None
    """Share of zeros among the weights under the adapter."""
    filled: float | None = None
    """Share of the base's zeros there that the update has filled; null where the base has none."""


class Generation(_Part):
    """What was generated from the test prompts, and how fast."""

    prompts: int
    new_tokens: int
    seconds: float
    tokens_per_second: float
    unfinished: int | None = None
    """Continuations that were cut off, for want of room or by max_new_tokens."""
    max_new_tokens: int | None = None
    """The most that each could have."""
    shots: int = 0
    """Solved examples before each prompt."""
    judged: int = 0
    """How many of them were judged by the metrics in `evaluate.test`."""


class Record(_Part):
    """Everything measured about one run. The JSON has exactly these keys."""

    schema_version: int = SCHEMA_VERSION
    run_id: str
    arm: str
    label: str
    seed: int
    status: str = "completed"
    point: dict[str, Any] = {}
    method: dict[str, Any]
    """kind and the settings that it uses."""
    model: ModelPart
    data: DataPart
    train: TrainPart | None = None
    """null for a run that trains nothing."""
    prune: PrunePart | None = None
    """null for a run that prunes nothing."""
    evaluate: dict[str, dict[str, Any]]
    """By split (train, validation, test): nll_sum, scored_tokens, examples, perplexity, bits_per_byte, seconds, and
    95% intervals in ci95.{perplexity}. test also has what answers were judged by (exact_match, f1, rouge1, ..., bleu),
    with intervals under the same names. Of a classification: nll_sum, examples, loss (mean nll), accuracy, f1_macro,
    f1_weighted, majority_accuracy (of always naming train's commonest class), confusion (rows [true][predicted]),
    seconds, and intervals in ci95.{accuracy, f1_macro, f1_weighted}."""
    merging: list[MergedForm] = []
    """What becomes of the adapter when it is merged; empty where that was not measured (evaluate.merged)."""
    merging_problem: str | None = None
    """Why merged forms are missing, where they were to be measured."""
    generation: Generation | None = None
    sparse_kernels: SparseKernels | None = None
    """null where nobody asked."""
    environment: dict[str, Any]
    attempts: int = Field(ge=1)
    device_seconds: float
    """Wall-clock seconds of all attempts x devices."""

    def write(self, path: Path) -> None:
        """Write the record atomically.

        Raises:
            StorageError: the disk is full or the folder is not writable.
        """
        write_text(path, self.model_dump_json(indent=2) + "\n")


def read_record(path: Path) -> Record | None:
    """The record at `path`, or None when there is none.

    Raises:
        StorageError: there is a file, but it is not a record of this version.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        return None
    except (UnicodeDecodeError, OSError) as error:
        raise _corrupt(path, f"cannot be read ({error})") from None
    try:
        return Record.model_validate_json(text)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        where = ".".join(str(part) for part in first["loc"]) or "the file"
        raise _corrupt(path, f"is not a record of schema version {SCHEMA_VERSION} ({where}: {first['msg']})") from None


def _corrupt(path: Path, problem: str) -> StorageError:
    return StorageError(key=str(path), problem=problem, fix="delete this file: the run is then measured again")

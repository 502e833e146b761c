"""Bytes per GPU of a training, term by term: a simple estimate, made before anything is loaded.

It counts what lora_dist trains: AdamW with two float32 moments; what is trained is held in float32 under autocast, or,
under ZeRO on a GPU, in 16 bit beside float32 masters. It does not know kernels' workspaces or fragmentation beyond one
flat share, so a few per cent to either side are to be expected.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass

from lora_dist.config.sections import ADAPTER_KINDS, LORA_KINDS, MethodSection, Strategy
from lora_dist.planning.shape import ModelShape

GIB = 2**30
NF4_BITS = 4.127
"""Bits per weight of NF4 with double quantisation: 4 + 8/64 + 32/(64 x 256) (arXiv 2305.14314, section 3)."""
CONTEXT_BYTES = int(0.75 * GIB)
"""What CUDA, its libraries and a process take on a GPU before the first tensor."""
FRAGMENTATION = 0.05
"""Share of the rest that the allocator cannot use."""
HEAD_TOKENS = 1024
"""Tokens whose logits exist at a time (the loss is computed in chunks)."""


@dataclass(frozen=True)
class Setting:
    """What the bytes depend on beside the model's shape."""

    method: MethodSection
    strategy: Strategy = "plain"
    world_size: int = 1
    offload: bool = False
    """Optimizer states (and under ZeRO-3 the weights) lie in the machine's memory."""
    micro_batch_size: int = 1
    length: int = 1024
    """Tokens per sequence."""
    checkpointing: bool = False
    on_gpu: bool = True

    @property
    def stage(self) -> int:
        """The stage of ZeRO; 0 without it."""
        return int(self.strategy[4]) if self.strategy.startswith("zero") else 0

    @property
    def half(self) -> int:
        """Bytes of a frozen weight and of an activation: 16 bit on a GPU, float32 on a CPU."""
        return 2 if self.on_gpu else 4


@dataclass(frozen=True)
class Bytes:
    """Bytes on one GPU, by what they hold."""

    weights: int
    adapters: int
    """What is trained beside the base, and the mask that keeps a pruned base's zeros."""
    gradients: int
    optimizer: int
    activations: int
    logits: int
    buffers: int
    overhead: int

    @property
    def total(self) -> int:
        """All of them."""
        return sum(asdict(self).values())

    def document(self) -> dict[str, int]:
        """The terms and their sum."""
        return asdict(self) | {"total": self.total}


def trained_parameters(shape: ModelShape, method: MethodSection) -> int:
    """How many weights a method trains."""
    if method.kind in LORA_KINDS:
        return shape.adapter_parameters(method.rank, method.targets)
    if method.kind == "prefix":
        return shape.prefix_parameters(method.virtual_tokens, projection=method.prefix_projection)
    if method.kind == "ia3":
        return shape.scale_parameters(method.targets)
    if method.kind == "partial":
        return shape.partial_parameters(method.top_blocks, norm=method.train_norm, head=method.train_head)
    return shape.parameters if method.kind == "full" else 0


def estimate(shape: ModelShape, setting: Setting) -> Bytes:
    """Bytes per GPU. ZeRO shares out the optimizer states from stage 1, the gradients from 2, the weights from 3
    (arXiv 1910.02054, section 5)."""
    trained = trained_parameters(shape, setting.method)
    adapted = setting.method.kind in ADAPTER_KINDS
    halved = setting.stage > 0 and setting.on_gpu  # 16-bit weights and gradients, float32 masters in the optimizer
    trained_bytes = trained * (2 if halved else 4)
    weights = _frozen(shape, setting, 0 if adapted else trained) + (0 if adapted else trained_bytes)
    shared = lambda size, stage: size // setting.world_size if setting.stage >= stage else size  # noqa: E731
    optimizer = 0 if setting.offload else shared(trained * (12 if halved else 8), 1)
    weights = 0 if setting.offload and setting.stage == 3 else shared(weights, 3)
    terms = {
        "weights": weights,
        "adapters": shared(trained_bytes, 3) + _mask(shape, setting.method) if adapted else 0,
        "gradients": shared(trained * (2 if halved else 4), 2),
        "optimizer": optimizer,
        "activations": _activations(shape, setting),
        "logits": min(HEAD_TOKENS, setting.micro_batch_size * setting.length) * shape.vocabulary * 4 * 2,
        "buffers": _buffers(shape, setting, trained),
    }
    overhead = CONTEXT_BYTES + int(FRAGMENTATION * sum(terms.values())) if setting.on_gpu else CONTEXT_BYTES
    return Bytes(**terms, overhead=overhead)


def _mask(shape: ModelShape, method: MethodSection) -> int:
    """Bytes of the mask that keeps the zeros under adapters: no parameter, so that no stage of ZeRO shares it out."""
    keeps_zeros = method.kind in LORA_KINDS and method.preserve_sparsity
    return shape.mask_bytes(method.targets) if keeps_zeros else 0


def _frozen(shape: ModelShape, setting: Setting, trained: int) -> int:
    """Bytes of the weights that no gradient goes to."""
    if setting.method.kind != "qlora":
        return (shape.parameters - trained) * setting.half
    linears = shape.layers * shape.block_linears
    return int(linears * NF4_BITS / 8) + (shape.parameters - linears) * setting.half


def _activations(shape: ModelShape, setting: Setting) -> int:
    """What is kept for the backward pass. After Korthikanti et al. (arXiv 2205.05198, section 4), for a gated MLP, no
    dropout and an attention that keeps no scores: per token and block the inputs of the linears, of the norms (which
    compute in float32) and of the gate's product. sdpa is given keys and values once for each query head, and its
    output is kept by it and, in another layout, by the linear after it. Held to an H100 in docs/benchmarks.md."""
    tokens, attended = setting.micro_batch_size * setting.length, shape.linears["o_proj"][0]
    per_block = tokens * ((2 * shape.hidden + 5 * attended + 4 * shape.mlp) * setting.half)
    per_block += tokens * (2 * shape.hidden * 4 + _copies(shape, setting))
    if setting.method.kind == "base":  # nothing is kept
        return per_block
    if setting.method.kind == "partial" and not _trains_embedding(shape, setting.method):
        return per_block * min(setting.method.top_blocks, shape.layers)  # nothing below the first trained block
    if setting.checkpointing:
        return shape.layers * tokens * shape.hidden * setting.half + per_block
    if setting.method.kind == "prefix":  # a copy of it before every row
        copies = setting.micro_batch_size * setting.method.virtual_tokens
        return per_block * shape.layers + copies * shape.prefix_width * setting.half
    return per_block * shape.layers


def _trains_embedding(shape: ModelShape, method: MethodSection) -> bool:
    """Whether gradients go down to the embedding, as a head that is tied to it takes them there."""
    return method.train_head and not shape.has_own_head


def _copies(shape: ModelShape, setting: Setting) -> int:
    """Bytes per token of one block that float32 adapters keep beside those: under autocast peft casts the input for
    each linear anew, so that q, k and v no longer share theirs (peft does not for a 4-bit base)."""
    if setting.method.kind != "lora" or not setting.on_gpu:
        return 0
    own = sum(inputs for inputs, _ in shape.adapted(setting.method.targets))
    return max(0, own - 2 * shape.hidden - shape.mlp) * setting.half


def _buffers(shape: ModelShape, setting: Setting, trained: int) -> int:
    """What messages lie in: DDP's gradient buckets, ZeRO's bucket, the blocks that ZeRO-3 has brought together, and
    for 4-bit weights the largest linear in 16 bit."""
    largest = max(inputs * outputs for inputs, outputs in shape.linears.values()) * setting.half
    size = {0: 0, 1: shape.hidden**2 * 4, 2: shape.hidden**2 * 4, 3: 2 * shape.block * setting.half}[setting.stage]
    if setting.strategy == "ddp":
        size = trained * 4
    return size + (largest if setting.method.kind == "qlora" else 0)

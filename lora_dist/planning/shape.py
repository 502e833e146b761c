"""A decoder's shape, read from its config.json, and how many weights that makes. Nothing is loaded."""

# Sizes: H hidden, I intermediate, V vocabulary; linears are (inputs, outputs).

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

KNOWN = ("llama", "mistral", "qwen2", "qwen3", "gemma", "phi3")
"""The `model_type`s whose weights are counted here: a Llama, or one that differs in biases, norms or fused linears."""


@dataclass(frozen=True)
class ModelShape:
    """What the weights, the adapters and the activations of a decoder are counted from."""

    hidden: int
    layers: int
    vocabulary: int
    linears: Mapping[str, tuple[int, int]]
    """The linears of one block by name: (inputs, outputs)."""
    block_rest: int
    """Weights of a block outside its linears' matrices: norms and biases."""
    has_own_head: bool
    """The output head is not the embedding again."""
    mlp: int
    """Outputs of the gate."""
    keys: int
    """Width of a token's keys, and of its values."""
    context: int | None

    @property
    def embedding(self) -> int:
        """Weights of the embedding, and of a head as large."""
        return self.vocabulary * self.hidden

    @property
    def block_linears(self) -> int:
        """Weights of one block's matrices."""
        return sum(inputs * outputs for inputs, outputs in self.linears.values())

    @property
    def block(self) -> int:
        """Weights of one block."""
        return self.block_linears + self.block_rest

    @property
    def parameters(self) -> int:
        """All weights, tied ones once."""
        return self.layers * self.block + self.hidden + self.embedding * (2 if self.has_own_head else 1)

    def adapter_parameters(self, rank: int, targets: Literal["all-linear"] | list[str]) -> int:
        """Weights of LoRA adapters of that rank on the named linears of every block (arXiv 2106.09685)."""
        return self.layers * sum(rank * (inputs + outputs) for inputs, outputs in self.adapted(targets))

    def scale_parameters(self, targets: Literal["all-linear"] | list[str]) -> int:
        """Weights of (IA)^3 on the named linears, or on keys, values and down projections (arXiv 2205.05638)."""
        named = _SCALED if targets == "all-linear" else tuple(map(_last, targets))
        return self.layers * sum(
            inputs if name == _DOWN else outputs for name, (inputs, outputs) in self.linears.items() if name in named
        )

    def prefix_parameters(self, virtual_tokens: int, *, projection: bool) -> int:
        """Weights of a prefix (arXiv 2101.00190): keys and values of every block, or what an MLP makes them from."""
        width = self.prefix_width
        if not projection:
            return virtual_tokens * width
        return virtual_tokens * self.keys + (self.keys + 1) * self.keys + (self.keys + 1) * width

    @property
    def prefix_width(self) -> int:
        """Keys and values of one token in all blocks."""
        return self.layers * 2 * self.keys

    def mask_bytes(self, targets: Literal["all-linear"] | list[str]) -> int:
        """Bytes of a mask of the weights under such adapters: a bit for each, every row in whole bytes."""
        return self.layers * sum(outputs * -(-inputs // 8) for inputs, outputs in self.adapted(targets))

    def adapted(self, targets: Literal["all-linear"] | list[str]) -> list[tuple[int, int]]:
        """(inputs, outputs) of the linears of one block that adapters lie on."""
        return [sizes for name, sizes in self.linears.items() if targets == "all-linear" or name in map(_last, targets)]

    def partial_parameters(self, top_blocks: int, *, norm: bool, head: bool) -> int:
        """Weights of the last blocks, the final norm and the head."""
        return (
            min(top_blocks, self.layers) * self.block + (self.hidden if norm else 0) + (self.embedding if head else 0)
        )


_DOWN = "down_proj"
_SCALED = ("k_proj", "v_proj", "qkv_proj", _DOWN)


def _last(name: str) -> str:
    return name.rpartition(".")[2]


def shape_of(config: Mapping[str, Any]) -> ModelShape | None:
    """The shape that a config.json describes, or None for an architecture that is not counted here."""
    kind = config.get("model_type")
    if kind not in KNOWN:
        return None
    hidden, heads = config["hidden_size"], config["num_attention_heads"]
    width = config.get("head_dim") or hidden // heads
    kv_heads = config.get("num_key_value_heads") or heads
    mlp = config["intermediate_size"]
    queries, keys = heads * width, kv_heads * width
    if kind == "phi3":
        linears = {"qkv_proj": (hidden, queries + 2 * keys), "gate_up_proj": (hidden, 2 * mlp)}
    else:
        linears = {"q_proj": (hidden, queries), "k_proj": (hidden, keys), "v_proj": (hidden, keys)}
        linears |= {"gate_proj": (hidden, mlp), "up_proj": (hidden, mlp)}
    linears |= {"o_proj": (queries, hidden), "down_proj": (mlp, hidden)}
    biased = {"q_proj", "k_proj", "v_proj"} if kind == "qwen2" or config.get("attention_bias") else set()
    biased |= {"o_proj"} if config.get("attention_bias") and kind != "qwen2" else set()
    biased |= {"gate_proj", "up_proj", "down_proj"} if config.get("mlp_bias") else set()
    rest = 2 * hidden + sum(linears[name][1] for name in biased)
    rest += 2 * width if kind == "qwen3" else 0  # norms of queries and keys
    tied = config.get("tie_word_embeddings", kind == "gemma")
    return ModelShape(
        hidden=hidden,
        layers=config["num_hidden_layers"],
        vocabulary=config["vocab_size"],
        linears=linears,
        block_rest=rest,
        has_own_head=not tied,
        mlp=mlp,
        keys=keys,
        context=config.get("max_position_embeddings"),
    )

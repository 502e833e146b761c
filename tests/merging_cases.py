"""Tiny bases and adapters for tests of merging, made by transformers and peft; and what peft merges them into."""

from __future__ import annotations

import json
from pathlib import Path

import torch
from peft import LoraConfig, PeftModel, get_peft_model
from safetensors.torch import load_file, save_file
from torch import Tensor
from transformers import AutoModelForCausalLM, GPT2Config, GPT2LMHeadModel, LlamaConfig, LlamaForCausalLM

from lora_dist.config.combination import Combination
from lora_dist.config.sections import ModelSection
from lora_dist.models.adapter_folder import find_adapter
from lora_dist.models.merge_stream import MergedWeights
from lora_dist.models.merging import Merge

IDS = torch.arange(12).view(2, 6)


def silent(*_: object) -> None:
    """Show nothing."""


def llama_base(folder: Path, *, tied: bool = False, dtype: torch.dtype = torch.float32, shard: str = "1GB") -> Path:
    torch.manual_seed(0)
    model = LlamaForCausalLM(
        LlamaConfig(
            vocab_size=32, hidden_size=24, intermediate_size=40, num_hidden_layers=2, num_attention_heads=4,
            num_key_value_heads=2, tie_word_embeddings=tied,
        )
    )  # fmt: skip
    with torch.no_grad():
        for weight in model.parameters():
            if weight.ndim == 2:
                weight.normal_(std=0.2)
    model.to(dtype).save_pretrained(folder, max_shard_size=shard)
    return folder


def wide_base(folder: Path) -> dict[str, tuple[int, ...]]:
    """A Llama of 256 MiB, its tensors written one by one, so that this process never holds them; their shapes."""
    wide = {"hidden_size": 1024, "intermediate_size": 4096, "num_hidden_layers": 8, "num_attention_heads": 8,
            "num_key_value_heads": 8, "vocab_size": 32}  # fmt: skip
    config = LlamaConfig(**wide, dtype="bfloat16", architectures=["LlamaForCausalLM"])
    config.save_pretrained(folder)
    with torch.device("meta"):
        shapes = {name: tuple(weight.shape) for name, weight in LlamaForCausalLM(config).state_dict().items()}
    files = {name: f"s{number}.safetensors" for number, name in enumerate(shapes)}
    for name, shape in shapes.items():
        weight = torch.full(shape, 0.5, dtype=torch.bfloat16)
        save_file({name: weight}, folder / files[name], metadata={"format": "pt"})
    (folder / "model.safetensors.index.json").write_text(json.dumps({"metadata": {}, "weight_map": files}))
    return shapes


def wide_adapter(folder: Path, shapes: dict[str, tuple[int, ...]]) -> Path:
    """A rank-4 adapter on its linears."""
    factors = {}
    for name, shape in shapes.items():
        if "_proj" in name:
            key = f"base_model.model.{name.removesuffix('.weight')}"
            factors[f"{key}.lora_A.weight"] = torch.full((4, shape[1]), 0.01)
            factors[f"{key}.lora_B.weight"] = torch.full((shape[0], 4), 0.01)
    LoraConfig(r=4, target_modules="all-linear").save_pretrained(folder)
    save_file(factors, folder / "adapter_model.safetensors")
    return folder


def gpt2_base(folder: Path) -> Path:
    torch.manual_seed(0)
    GPT2LMHeadModel(GPT2Config(vocab_size=32, n_embd=24, n_layer=2, n_head=4, n_positions=32)).save_pretrained(folder)
    return folder


def opened(folder: Path):
    return AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()


def adapter_on(base: Path, folder: Path, *, seed: int = 1, scale: float = 0.1, **settings) -> Path:
    """A random LoRA adapter, saved by peft: every factor counts, as after training."""
    config = LoraConfig(
        **{"r": 4, "lora_alpha": 8, "target_modules": "all-linear", "task_type": "CAUSAL_LM"} | settings
    )
    model = get_peft_model(opened(base), config)
    torch.manual_seed(seed)
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if "lora_A" in name or "lora_B" in name:
                weight.normal_(std=scale)
            elif "lora_magnitude" in name:
                weight.mul_(1 + scale * torch.rand_like(weight))
    model.save_pretrained(folder)
    return folder


def merge_here(base: Path, adapters: list[Path], into: Path, *, keep_zeros=False, dtype=None, **combination):
    """The merged weights on the disk, and the counts."""
    into.mkdir()
    how = Combination.of(len(adapters), **combination)
    found = [find_adapter(str(adapter)) for adapter in adapters]
    merge = Merge(ModelSection(path=str(base)), found, how, keep_zeros=keep_zeros, dtype=dtype)
    return weights_in(into, merge.write(into, silent))


def weights_in(folder: Path, counts: MergedWeights) -> tuple[dict[str, Tensor], MergedWeights]:
    weights: dict[str, Tensor] = {}
    for file in sorted(folder.glob("*.safetensors")):
        weights |= load_file(file)
    return weights, counts


def by_peft(base: Path, adapters: list[Path], weights=None, kind: str | None = None) -> dict[str, Tensor]:
    """What peft merges in float32, under the names that transformers saves."""
    model = PeftModel.from_pretrained(opened(base), adapters[0], adapter_name="a0")
    names = ["a0"]
    for number, adapter in enumerate(adapters[1:], 1):
        model.load_adapter(adapter, f"a{number}")
        names.append(f"a{number}")
    if kind is not None:
        model.add_weighted_adapter(names, weights, "all", combination_type=kind)
        model.set_adapter("all")
    return model.merge_and_unload().state_dict()


def updates_of(base: Path, adapter: Path) -> dict[str, Tensor]:
    """What an adapter adds to each weight, by peft, in float32."""
    before, after = opened(base).state_dict(), by_peft(base, [adapter])
    return {name: after[name] - before[name] for name in before if not torch.equal(after[name], before[name])}


def largest_gap(found: dict[str, Tensor], expected: dict[str, Tensor]) -> float:
    """The largest difference over all weights; a tied head is stored once."""
    assert set(found) <= set(expected)
    return max(float((found[name].float() - expected[name].float()).abs().max()) for name in found)

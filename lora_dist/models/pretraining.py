"""Making a small Llama from nothing: its tokenizer, its training and its folder."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor
    from transformers import LlamaForCausalLM, PreTrainedTokenizerFast

# Dims: N blocks, B blocks in a batch, T tokens of a block.

Report = Callable[[int, int, str], None]

BOS, EOS, PAD = "<s>", "</s>", "<pad>"


@dataclass(frozen=True)
class Recipe:
    """Everything that shapes a built-in model; another value of any field is another model."""

    documents: int = 5000
    """Documents of the general text, each seen once."""
    vocabulary: int = 640
    """Tokens, the 256 bytes and 3 special ones included."""
    hidden: int = 160
    layers: int = 3
    heads: int = 5
    kv_heads: int = 1
    intermediate: int = 448
    initializer_range: float = 0.06
    """Llama's 0.02 suits widths of thousands; at this width it starts slowly."""
    context: int = 1024
    """Positions that the config promises; training sees `block` of them at a time."""
    block: int = 128
    batch: int = 4
    """Blocks in a step: many small steps teach more in a given time than few large ones."""
    peak_rate: float = 4e-3
    warmup: float = 0.05
    """Share of the steps in which the rate rises from 0; then it falls to 0 on a cosine."""
    weight_decay: float = 0.1
    seed: int = 0


def make_model(recipe: Recipe, texts: Sequence[str], folder: Path, report: Report) -> None:
    """Train tokenizer and model on `texts` and write both to `folder` (safetensors, opened by the Auto classes).

    Leaves the caller's random state, default device and number of threads as it found them. With the same
    versions and kind of processor, the same recipe and texts give the same bytes.
    """
    import torch
    from safetensors.torch import save_file

    from lora_dist.models.device import one_thread

    tokenizer = train_tokenizer(recipe, texts)
    with one_thread(), torch.random.fork_rng(devices=[]), torch.device("cpu"), _gradients():
        torch.manual_seed(recipe.seed)
        model = _untrained(recipe, tokenizer)
        _train(model, _blocks(tokenizer, texts, recipe.block), recipe, report)
    # Piece by piece, because `model.save_pretrained` draws a progress bar of its own (transformers 5.23).
    save_file(model.state_dict(), folder / "model.safetensors", metadata={"format": "pt"})
    model.config.save_pretrained(folder)
    model.generation_config.save_pretrained(folder)
    tokenizer.save_pretrained(folder)


def train_tokenizer(recipe: Recipe, texts: Sequence[str]) -> PreTrainedTokenizerFast:
    """A byte-level BPE over `texts` that keeps digits apart and puts BOS first, as Llama's does."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
    from transformers import PreTrainedTokenizerFast

    backend = Tokenizer(models.BPE())
    backend.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False)]
    )
    backend.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=recipe.vocabulary,
        special_tokens=[BOS, EOS, PAD],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    backend.train_from_iterator(texts, trainer)
    backend.post_processor = processors.TemplateProcessing(
        single=f"{BOS} $A",
        pair=f"{BOS} $A $B",
        special_tokens=[(BOS, backend.token_to_id(BOS))],
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=backend,
        bos_token=BOS,
        eos_token=EOS,
        pad_token=PAD,
        model_max_length=recipe.context,
        clean_up_tokenization_spaces=False,
    )


@contextmanager
def _gradients() -> Iterator[None]:
    """Gradients are taken, whatever mode the caller is in."""
    import torch

    with torch.inference_mode(False), torch.enable_grad():
        yield


def _untrained(recipe: Recipe, tokenizer: PreTrainedTokenizerFast) -> LlamaForCausalLM:
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=recipe.hidden,
        intermediate_size=recipe.intermediate,
        num_hidden_layers=recipe.layers,
        num_attention_heads=recipe.heads,
        num_key_value_heads=recipe.kv_heads,
        max_position_embeddings=recipe.context,
        tie_word_embeddings=False,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
        initializer_range=recipe.initializer_range,
        dtype="float32",
        architectures=["LlamaForCausalLM"],
    )
    return LlamaForCausalLM(config).to(torch.float32)


def _blocks(tokenizer: PreTrainedTokenizerFast, texts: Sequence[str], block: int) -> Tensor:
    """The documents, each from BOS to EOS, laid end to end and cut into ids_NT; a shorter rest is dropped."""
    import torch

    stream = [token for ids in tokenizer(list(texts))["input_ids"] for token in (*ids, tokenizer.eos_token_id)]
    whole = len(stream) // block * block
    return torch.tensor(stream[:whole]).view(-1, block)


def _train(model: LlamaForCausalLM, ids_NT: Tensor, recipe: Recipe, report: Report) -> None:
    import torch

    batches = ids_NT.split(recipe.batch)
    optimizer = torch.optim.AdamW(
        model.parameters(), lr=recipe.peak_rate, betas=(0.9, 0.95), weight_decay=recipe.weight_decay, fused=True
    )
    scheduler = torch.optim.lr_scheduler.LambdaLR(
        optimizer, lambda step: rate_factor(step, len(batches), recipe.warmup)
    )
    model.train()
    for step, ids_BT in enumerate(batches, start=1):
        loss = model(input_ids=ids_BT, labels=ids_BT, use_cache=False).loss
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        scheduler.step()
        optimizer.zero_grad()
        report(step, len(batches), f"loss {loss.item():.2f}")
    model.eval()


def rate_factor(step: int, steps: int, warmup: float) -> float:
    """The share of the peak rate used in `step` of `steps`: a linear rise, then a cosine to 0."""
    rise = max(1, round(steps * warmup))
    if step < rise:
        return (step + 1) / rise
    return 0.5 * (1 + math.cos(math.pi * (step - rise) / max(1, steps - rise)))

"""Small decoders with random weights, one of each family that has something of its own."""

from __future__ import annotations

import torch
import transformers as hf

VOCAB = 97
SMALL = {"vocab_size": VOCAB, "max_position_embeddings": 64, "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2}
LLAMA = SMALL | {
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
}
GPT2 = {"vocab_size": VOCAB, "n_positions": 64, "n_embd": 32, "n_layer": 2, "n_head": 4, "bos_token_id": 1}
FAMILIES = {
    "llama": lambda: hf.LlamaConfig(**LLAMA),
    "llama-tied": lambda: hf.LlamaConfig(**LLAMA, tie_word_embeddings=True),
    "mistral": lambda: hf.MistralConfig(**LLAMA, sliding_window=8),
    "gemma2": lambda: hf.Gemma2Config(**LLAMA, head_dim=8, sliding_window=8, final_logit_softcapping=0.5),
    "gemma3": lambda: hf.Gemma3TextConfig(**LLAMA, head_dim=8, sliding_window=8, final_logit_softcapping=0.5),
    "qwen2": lambda: hf.Qwen2Config(**LLAMA),
    "qwen3": lambda: hf.Qwen3Config(**LLAMA, head_dim=8),
    "opt": lambda: hf.OPTConfig(
        **SMALL, hidden_size=32, ffn_dim=48, num_hidden_layers=2, num_attention_heads=4, word_embed_proj_dim=16
    ),
    "gpt-neox": lambda: hf.GPTNeoXConfig(
        **SMALL, hidden_size=32, intermediate_size=48, num_hidden_layers=2, num_attention_heads=4
    ),
    "gpt2": lambda: hf.GPT2Config(**GPT2, eos_token_id=2),
    "phi": lambda: hf.PhiConfig(**LLAMA),
    "granite": lambda: hf.GraniteConfig(**LLAMA, logits_scaling=0.1),
    "cohere": lambda: hf.CohereConfig(**LLAMA, logit_scale=4.0),
    "llama4": lambda: hf.Llama4TextConfig(**LLAMA, head_dim=8, num_local_experts=2, intermediate_size_mlp=48),
    "mixtral": lambda: hf.MixtralConfig(**LLAMA, num_local_experts=2),
    "mamba": lambda: hf.MambaConfig(vocab_size=VOCAB, hidden_size=32, num_hidden_layers=2, state_size=4),
}


def build(config):
    torch.manual_seed(0)
    model = hf.AutoModelForCausalLM.from_config(config).eval()
    with torch.no_grad():  # far from uniform, so that capping, scaling and biases show
        for name, parameter in model.named_parameters():
            if parameter.ndim > 1 or "bias" in name:
                parameter.add_(torch.randn_like(parameter) * 0.2)
    return model

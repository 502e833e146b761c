"""What some LoRA adapters do beside adding a product B A to each linear's weight."""

from __future__ import annotations

from peft import LoraConfig

_FIELDS = (
    "modules_to_save", "lora_bias", "trainable_token_indices", "target_parameters", "layer_replication",
    "alora_invocation_tokens", "arrow_config", "use_qalora", "use_bdlora", "kasa_config", "velora_config",
    "monteclora_config", "megatron_config",
)  # fmt: skip
"""Fields of LoraConfig (peft 0.21) that train something else, or apply the factors in another way; what peft does with
them in a batch of several adapters differs from field to field."""
_LEAVES_BASE_ALONE = (True, False, "gaussian", "orthogonal", "eva")
"""Values of `init_lora_weights` that only make A and B. The others (pissa, olora, corda, loftq, ...) take something out
of the base's weights when the adapter is made: its factors go with what is left of those."""


def beyond_lora(config: LoraConfig) -> list[str]:
    """The settings, with their values, by which an adapter is more than LoRA; empty for LoRA and for DoRA."""
    found = [f"{name}: {str(value)[:60]}" for name in _FIELDS if (value := getattr(config, name, None))]
    if config.bias != "none":
        found.append(f"bias: {config.bias}")
    if config.init_lora_weights not in _LEAVES_BASE_ALONE:
        found.append(f"init_lora_weights: {config.init_lora_weights}, which changes the base")
    return found

"""What users type wrong of a pruning, for test_bad_input.py."""

from __future__ import annotations

import json

from bad_input_cases import Case, Place, heavy, light, odd_data

HALF = "prune.sparsity=0.5 'prune.calibration={samples: 4, length: 64}'"
DENSE = "prune.mode=dense_inputs"
SHORT = "'prune.calibration.data={task: causal_lm, path: empty.jsonl}'"


def without_blocks(place: Place) -> None:
    """A model whose layers are not in one list: XLM keeps its attentions apart from its feed-forward parts."""
    import transformers as hf

    sizes = {"vocab_size": 640, "emb_dim": 32, "n_layers": 2, "n_heads": 4, "max_position_embeddings": 512}
    folder = place.copy_model("blockless")
    for path in folder.glob("*.safetensors"):
        path.unlink()
    hf.AutoModelForCausalLM.from_config(hf.XLMConfig(**sizes, pad_token_id=0)).save_pretrained(folder)


def experts(place: Place) -> None:
    import transformers as hf

    folder = place.copy_model("mixture")
    sizes = {"vocab_size": 640, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 1}
    heads = {"num_attention_heads": 4, "num_key_value_heads": 2, "num_local_experts": 2}
    hf.AutoModelForCausalLM.from_config(hf.MixtralConfig(**sizes, **heads)).save_pretrained(folder)


def lead_outside(place: Place) -> None:
    folder = place.copy_model("damaged")
    (folder / "model.safetensors").rename(place.path / "outside.safetensors")
    index = {"metadata": {}, "weight_map": {"lm_head.weight": "../outside.safetensors"}}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))


def other_model_there(place: Place) -> None:
    run = place.started("prune.sparsity=0.5", "prune.calibration={samples: 4, length: 64}")
    (run / "pruned").mkdir()
    (run / "pruned" / "config.json").write_text("{}")


FEW = {"calibration": {"samples": 4, "length": 64}}
ODD_PRUNINGS = {
    "a": ({"sparsity": 0.5, "calibration": {"length": 2000}}, "calibration.length", "at most 1024"),
    "b": ({"sparsity": 0.5, "calibration": {"samples": 9999, "length": 64}}, "calibration.samples", "lower it to"),
    "c": ({"sparsity": 0.5, "calibration": {"samples": 1, "length": 1000, "data": {
        "task": "causal_lm", "path": {"train": "short.txt", "validation": "short.txt", "test": "short.txt"}}}},
        "calibration.length", "give more text"),
    "d": ({"pattern": "3:7", **FEW}, "pattern", "another pattern"),
    "e": ({"sparsity": 0.5, **FEW, "skip": ["query"]}, "skip", "q_proj"),
    "f": ({"sparsity": 0.5, **FEW, "overrides": {"up": 0.1}}, "overrides", "up_proj"),
    "g": ({"sparsity": 0.5, **FEW, "dense_first": 1, "dense_last": 1}, "dense_first", "at least one block"),
}  # fmt: skip

PRUNING = [
    light("sparsity of 1", "prune small.yaml prune.sparsity=1.0", "prune.sparsity", "less than 1"),
    light("sparsity below 0", "compare small.yaml prune.sparsity=-1", "prune.sparsity", "or equal to 0"),
    light("pattern of nothing kept", "prune small.yaml prune.pattern=4:2", "prune.pattern", "such as 2:4"),
    light("neither sparsity nor pattern", "compare small.yaml prune.kind=wanda", "prune", "sparsity: 0.5"),
    light("nothing to prune", "prune small.yaml", "prune", "prune.sparsity=0.5"),
    light("several prunings", "prune small.yaml 'arms={a: {grid: {prune.sparsity: [0.5, 0.6]}}}'", "arms", "compare"),
    light("blocks in mode exact", f"prune small.yaml {HALF} --blocks 0:1", "--blocks", "dense_inputs"),
    light("blocks of nonsense", f"prune small.yaml {HALF} {DENSE} --blocks 3:1", "--blocks", "0:8"),
    light("another model there", f"prune small.yaml {HALF}", "runs/small/run-", "move it away", other_model_there),
    light("another model to compare", f"compare small.yaml {HALF}", "runs/small/run-", "move", other_model_there),
    Case(
        "mistakes of several prunings", "compare small.yaml",
        tuple((f"arms.{arm}.prune.{key}", fix) for arm, (_, key, fix) in ODD_PRUNINGS.items()),
        lambda place: place.write("short.txt", "a few words and nothing else"),
        sections={"arms": {arm: {"prune": settings} for arm, (settings, _, _) in ODD_PRUNINGS.items()}}, stack=True,
    ),
    heavy("blocks beyond the model", f"prune small.yaml {HALF} {DENSE} --blocks 1:9", "--blocks", "a part of 0:2"),
    heavy("no calibration tokens", f"prune small.yaml {HALF} {SHORT}", "data.path", "has some", odd_data),
    heavy("model without blocks", f"prune small.yaml {HALF} model.path=blockless", "model.path", "prune to null",
          without_blocks),
    heavy("experts", f"prune small.yaml {HALF} model.path=mixture", "model.path", "prune to null", experts),
    heavy("index that leads outside", f"prune small.yaml {HALF} model.path=damaged", "model.path", "do not use",
          lead_outside),
]  # fmt: skip

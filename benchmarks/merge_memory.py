"""How much memory a merge takes beside the model, and how long, by `lora-dist adapter merge` and by peft.

    python benchmarks/merge_memory.py --json merge.json

Makes a model of random bfloat16 weights on the disk, shard by shard, without ever holding it whole (Llama-3.2-1B's
widths, 22 blocks and untied embeddings: 3.6 GB), and a rank-16 adapter on all linears. Each side merges it in a process
of its own: the real command with --no-evaluate, and a script of peft as a user writes it (from_pretrained,
merge_and_unload, save_pretrained, in bfloat16 as the model is stored). Needs no network and about three times the
model's size of disk.

- peak: ru_maxrss of that process, with the interpreter and the libraries (alone: "imports"); mapped files count.
- seconds: wall-clock of the process, from its start to its end, flushing to the disk included (peft does not flush:
  its files are flushed after it, and that time is added).
- target: the command's peak is below half of the model's size.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

MOST = 0.5
IMPORTS = (
    "import lora_dist.pipeline.merge_scores, lora_dist.pipeline.merge_files, transformers.models.llama.modeling_llama"
)
PEFT = """
import sys, torch
from peft import PeftModel
from transformers import AutoModelForCausalLM, AutoTokenizer
base, adapter, into = sys.argv[1:]
model = AutoModelForCausalLM.from_pretrained(base, dtype=torch.bfloat16)
PeftModel.from_pretrained(model, adapter).merge_and_unload().save_pretrained(into)
AutoTokenizer.from_pretrained(base).save_pretrained(into)
"""


def main(arguments: argparse.Namespace) -> None:
    with tempfile.TemporaryDirectory(prefix="merge_memory-", dir=arguments.work) as name:
        work = Path(name)
        size = make_model(arguments, work / "base")
        make_adapter(arguments, work / "base", work / "adapter")
        command = [sys.executable, "-m", "lora_dist", "adapter", "merge", str(work / "adapter"), "--into"]
        sides = {
            "imports": [sys.executable, "-c", IMPORTS],
            "lora-dist": [*command, str(work / "ours"), "--no-evaluate"],
            "peft": [sys.executable, "-c", PEFT, str(work / "base"), str(work / "adapter"), str(work / "theirs")],
        }
        measured = {}
        for side, words in sides.items():
            found = measured[side] = measure(words, arguments)
            print(f"{side:10} peak {gib(found['peak'])} = {found['peak'] / size:5.1%} of the model's {gib(size)}, "
                  f"{found['seconds']:.1f} s (CPU {found['cpu_seconds']:.1f} s)", flush=True)  # fmt: skip
        print(f"largest difference between the two results: {compare(work / 'ours', work / 'theirs')}")
    share = measured["lora-dist"]["peak"] / size
    print(f"{share:.1%} of the model (target: under {MOST:.0%})")
    if arguments.json:
        document = {"arguments": vars(arguments), "model": size, "measured": measured, "share": share}
        arguments.json.write_text(json.dumps(document, indent=2, default=str) + "\n")
    if share >= MOST:
        sys.exit("the target is missed")


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    shape = {"hidden": 2048, "intermediate": 8192, "blocks": 22, "heads": 32, "kv-heads": 8, "vocabulary": 128256}
    for name, usual in {**shape, "rank": 16}.items():
        parser.add_argument(f"--{name}", type=int, default=usual)
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    parser.add_argument("--work", type=Path, help="put the models on this disk")
    parser.add_argument("--json", type=Path, help="write all measurements there")
    parser.add_argument("--child", nargs=argparse.REMAINDER, help=argparse.SUPPRESS)
    return parser.parse_args()


def block_shapes(arguments: argparse.Namespace) -> dict[str, tuple[int, ...]]:
    hidden, wide = arguments.hidden, arguments.intermediate
    keys = hidden // arguments.heads * arguments.kv_heads
    return {
        "self_attn.q_proj": (hidden, hidden), "self_attn.k_proj": (keys, hidden), "self_attn.v_proj": (keys, hidden),
        "self_attn.o_proj": (hidden, hidden), "mlp.gate_proj": (wide, hidden), "mlp.up_proj": (wide, hidden),
        "mlp.down_proj": (hidden, wide), "input_layernorm": (hidden,), "post_attention_layernorm": (hidden,),
    }  # fmt: skip


def make_model(arguments: argparse.Namespace, folder: Path) -> int:
    """A model folder with a shard for each block and one for the rest; returns the bytes of its weights."""
    import torch
    from safetensors.torch import save_file
    from transformers import LlamaConfig

    from lora_dist.corpora.general_text import documents
    from lora_dist.models.pretraining import Recipe, train_tokenizer

    folder.mkdir(parents=True)
    config = LlamaConfig(
        vocab_size=arguments.vocabulary, hidden_size=arguments.hidden, intermediate_size=arguments.intermediate,
        num_hidden_layers=arguments.blocks, num_attention_heads=arguments.heads,
        num_key_value_heads=arguments.kv_heads, head_dim=arguments.hidden // arguments.heads, dtype="bfloat16",
        architectures=["LlamaForCausalLM"],
    )  # fmt: skip
    shapes = [{f"model.layers.{n}.{name}.weight": shape for name, shape in block_shapes(arguments).items()}
              for n in range(arguments.blocks)]  # fmt: skip
    table = (arguments.vocabulary, arguments.hidden)
    shapes += [{"model.embed_tokens.weight": table}, {"lm_head.weight": table, "model.norm.weight": table[1:]}]
    total = 2 * sum(count(shape) for shard in shapes for shape in shard.values())
    free = shutil.disk_usage(folder).free
    if free < 3.2 * total:  # the model and both results
        sys.exit(f"{folder} has {gib(free)} free, and {gib(3.2 * total)} are needed: choose another disk with --work")
    generator, weight_map = torch.Generator().manual_seed(0), {}
    for number, shard in enumerate(shapes):
        file = f"model-{number + 1:05d}-of-{len(shapes):05d}.safetensors"
        tensors = {name: random_weight(shape, generator) for name, shape in shard.items()}
        save_file(tensors, folder / file, metadata={"format": "pt"})
        weight_map |= dict.fromkeys(tensors, file)
        del tensors
    index = {"metadata": {"total_size": total}, "weight_map": weight_map}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    config.save_pretrained(folder)
    train_tokenizer(Recipe(), documents(200, seed=0)).save_pretrained(folder)
    return total


def make_adapter(arguments: argparse.Namespace, base: Path, folder: Path) -> None:
    import torch
    from peft import LoraConfig
    from safetensors.torch import save_file

    folder.mkdir()
    generator, factors, targets = torch.Generator().manual_seed(1), {}, set()
    for number in range(arguments.blocks):
        for name, shape in block_shapes(arguments).items():
            if len(shape) == 2:
                key = f"base_model.model.model.layers.{number}.{name}"
                sizes = {"A": (arguments.rank, shape[1]), "B": (shape[0], arguments.rank)}
                for part, size in sizes.items():
                    factors[f"{key}.lora_{part}.weight"] = torch.empty(size).normal_(0, 0.02, generator=generator)
                targets.add(name.rpartition(".")[2])
    save_file(factors, folder / "adapter_model.safetensors", metadata={"format": "pt"})
    LoraConfig(
        r=arguments.rank, lora_alpha=2 * arguments.rank, target_modules=targets, task_type="CAUSAL_LM",
        base_model_name_or_path=str(base),
    ).save_pretrained(folder)  # fmt: skip


def random_weight(shape: tuple[int, ...], generator: Any) -> Any:
    import torch

    if len(shape) == 1:
        return torch.ones(shape, dtype=torch.bfloat16)
    return torch.empty(shape, dtype=torch.bfloat16).normal_(0, 0.02, generator=generator)


def count(shape: tuple[int, ...]) -> int:
    number = 1
    for size in shape:
        number *= size
    return number


def measure(words: list[str], arguments: argparse.Namespace) -> dict[str, Any]:
    """Run a command in a process whose only child it is: ru_maxrss of children is the highest of all of them."""
    environment = os.environ | {"OMP_NUM_THREADS": str(arguments.threads), "HF_HUB_OFFLINE": "1",
                                "CUDA_VISIBLE_DEVICES": "", "TOKENIZERS_PARALLELISM": "false"}  # fmt: skip
    done = subprocess.run([sys.executable, __file__, "--child", *words], env=environment, text=True,
                          capture_output=True)  # fmt: skip
    if done.returncode:
        sys.exit(f"{' '.join(words[:4])} ended with {done.returncode}:\n{done.stderr[-3000:]}")
    return json.loads(done.stdout.splitlines()[-1])


def watch(words: list[str]) -> None:
    started = time.perf_counter()
    done = subprocess.run(words, check=False)
    subprocess.run(["sync"], check=True)
    seconds = time.perf_counter() - started
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    cpu = used.ru_utime + used.ru_stime
    print(json.dumps({"peak": used.ru_maxrss * 1024, "seconds": seconds, "cpu_seconds": cpu}))
    sys.exit(done.returncode)


def compare(ours: Path, theirs: Path) -> str:
    """Over all tensors, one at a time."""
    from safetensors import safe_open

    def where(folder: Path) -> dict[str, Path]:
        found = {}
        for path in sorted(folder.glob("*.safetensors")):
            with safe_open(path, framework="pt") as file:
                found |= dict.fromkeys(file.keys(), path)
        return found

    here, there = where(ours), where(theirs)
    if here.keys() != there.keys():
        sys.exit(f"the results differ in their tensors: {sorted(here.keys() ^ there.keys())[:5]}")
    gap = size = 0.0
    for name in here:
        with safe_open(here[name], framework="pt") as a, safe_open(there[name], framework="pt") as b:
            x, y = a.get_tensor(name).float(), b.get_tensor(name).float()
        gap, size = max(gap, float((x - y).abs().max())), max(size, float(x.abs().max()))
    return f"{gap:.3g} (the largest weight is {size:.3g})"


def gib(size: float) -> str:
    return f"{size / 2**30:.2f} GiB"


if __name__ == "__main__":
    given = parse()
    watch(given.child) if given.child else main(given)

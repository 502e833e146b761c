"""How much memory pruning takes beside the checkpoint, and whether it grows with the number of blocks.

    python benchmarks/prune_memory.py --json memory.json

Makes checkpoints of random bfloat16 weights on the disk, without ever holding one in memory: Llama-3.2-1B's shape (16
blocks of 2048 x 8192, 128,256 tokens, head and embedding tied) and the same with 32 blocks. Each is pruned to 50% by
what `lora-dist prune` calls, in a process of its own. Needs no network and about 9 GiB of disk.

- peak: the highest resident set (VmHWM) less what was resident after importing the stack, when it is reset through
  /proc/self/clear_refs. All of the command counts: tokenising, every block, and writing what is in no block. The
  command resets VmHWM itself before its first block, for its record; the value before that is kept and the highest of
  both taken.
- at the peak: what the command told that it was doing when a sampler (every 5 ms) saw most; with anonymous memory
  (tensors) apart from mapped files (libraries, checkpoint).
- terms: tensors that are there at once by arithmetic, at the three places where most is; what the allocator and MKL
  keep is not in them, so less than is measured.
- targets: the larger checkpoint is pruned in under half of its size; twice the blocks add under 5%.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
import threading
from pathlib import Path
from typing import Any

MOST_OF_CHECKPOINT, MOST_GROWTH = 0.5, 0.05
SAMPLE_S = 0.005
PANEL = 512  # of lora_dist.pruning.hessian
CLEAR_REFS, STATUS = Path("/proc/self/clear_refs"), Path("/proc/self/status")


def main(arguments: argparse.Namespace) -> None:
    if not CLEAR_REFS.exists():
        sys.exit("only Linux tells the peak of the resident set")
    measured = []
    with tempfile.TemporaryDirectory(prefix="prune_memory-", dir=arguments.work) as name:
        for blocks in arguments.blocks:
            work = Path(name) / f"{blocks}-blocks"
            checkpoint = make_checkpoint(arguments, blocks, work / "model")
            measured.append(measure(arguments, blocks, work, checkpoint))
            print_one(measured[-1])
            shutil.rmtree(work)
    growth = measured[-1]["peak"] / measured[0]["peak"] - 1
    share = measured[-1]["peak"] / measured[-1]["checkpoint"]
    print(f"\n{arguments.blocks[-1]} blocks: {share:.1%} of the checkpoint (target: under {MOST_OF_CHECKPOINT:.0%}); "
          f"{growth:+.1%} from {arguments.blocks[0]} blocks (target: under {MOST_GROWTH:.0%})")  # fmt: skip
    if arguments.json:
        document = {"arguments": vars(arguments), "measured": measured, "share": share, "growth": growth}
        arguments.json.write_text(json.dumps(document, indent=2, default=str) + "\n")
    if share >= MOST_OF_CHECKPOINT or growth >= MOST_GROWTH:
        sys.exit("a target is missed")


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    shape = {"hidden": 2048, "intermediate": 8192, "heads": 32, "kv-heads": 8, "vocabulary": 128256}
    for name, usual in {**shape, "samples": 8, "length": 512}.items():
        parser.add_argument(f"--{name}", type=int, default=usual)
    parser.add_argument("--blocks", type=int, nargs="+", default=[16, 32], help="of each model, the smaller first")
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    parser.add_argument("--work", type=Path, help="put the checkpoints on this disk")
    parser.add_argument("--json", type=Path, help="write all measurements there")
    parser.add_argument("--child", type=Path, help=argparse.SUPPRESS)  # prune the model in this folder
    return parser.parse_args()


def make_checkpoint(arguments: argparse.Namespace, blocks: int, folder: Path) -> int:
    """A model folder with a shard for each block and one for the rest; returns the bytes of its weights."""
    import torch
    from safetensors.torch import save_file
    from transformers import LlamaConfig

    from lora_dist.corpora.general_text import documents
    from lora_dist.models.pretraining import Recipe, train_tokenizer

    folder.mkdir(parents=True)
    config = LlamaConfig(
        vocab_size=arguments.vocabulary, hidden_size=arguments.hidden, intermediate_size=arguments.intermediate,
        num_hidden_layers=blocks, num_attention_heads=arguments.heads, num_key_value_heads=arguments.kv_heads,
        head_dim=arguments.hidden // arguments.heads, max_position_embeddings=max(2048, arguments.length),
        tie_word_embeddings=True, dtype="bfloat16", architectures=["LlamaForCausalLM"],
    )  # fmt: skip
    shapes = [{f"model.layers.{number}.{name}": shape for name, shape in block_shapes(arguments).items()}
              for number in range(blocks)]  # fmt: skip
    shapes.append({"model.embed_tokens.weight": (arguments.vocabulary, arguments.hidden),
                   "model.norm.weight": (arguments.hidden,)})  # fmt: skip
    total = 2 * sum(count(shape) for shard in shapes for shape in shard.values())
    free = shutil.disk_usage(folder).free
    if free < 2.2 * total:  # the checkpoint, the pruned one, its masks
        sys.exit(f"{folder} has {gib(free)} free, and {gib(2.2 * total)} are needed: choose another disk with --work")
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
    return sum(path.stat().st_size for path in folder.glob("*.safetensors"))


def block_shapes(arguments: argparse.Namespace) -> dict[str, tuple[int, ...]]:
    hidden, wide = arguments.hidden, arguments.intermediate
    keys = hidden // arguments.heads * arguments.kv_heads
    attention = {"q_proj": (hidden, hidden), "k_proj": (keys, hidden), "v_proj": (keys, hidden)}
    mlp = {"gate_proj": (wide, hidden), "up_proj": (wide, hidden), "down_proj": (hidden, wide)}
    return {
        **{f"self_attn.{name}.weight": shape for name, shape in (attention | {"o_proj": (hidden, hidden)}).items()},
        **{f"mlp.{name}.weight": shape for name, shape in mlp.items()},
        **{f"{name}.weight": (hidden,) for name in ("input_layernorm", "post_attention_layernorm")},
    }


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


def measure(arguments: argparse.Namespace, blocks: int, work: Path, checkpoint: int) -> dict[str, Any]:
    words = [f"--{name}={getattr(arguments, name)}" for name in ("samples", "length")]
    environment = os.environ | {"OMP_NUM_THREADS": str(arguments.threads), "HF_HUB_OFFLINE": "1",
                                "CUDA_VISIBLE_DEVICES": "", "TOKENIZERS_PARALLELISM": "false"}  # fmt: skip
    done = subprocess.run([sys.executable, __file__, *words, "--child", str(work)], env=environment, text=True,
                          capture_output=True)  # fmt: skip
    if done.returncode:
        sys.exit(f"pruning {blocks} blocks ended with {done.returncode}:\n{done.stderr[-3000:]}")
    return {"blocks": blocks, "checkpoint": checkpoint, "terms": terms(arguments),
            **json.loads((work / "result.json").read_text())}  # fmt: skip


def prune_here(arguments: argparse.Namespace) -> None:
    """The child: what `lora-dist prune` does, its memory watched."""
    import transformers.models.llama.modeling_llama  # noqa: F401 - imported when a model is built: not pruning's memory

    import lora_dist.pipeline.worker  # noqa: F401 - the stack
    from lora_dist.config.experiment import Experiment
    from lora_dist.pipeline import pruned as stage
    from lora_dist.verbs.prune import prune

    work = arguments.child
    experiment = Experiment.model_validate({
        "name": "memory", "output_dir": str(work / "runs"), "model": {"path": str(work / "model")},
        "data": {"task": "causal_lm", "path": "builtin:general-text", "block_size": arguments.length},
        "method": {"kind": "base"},
        "prune": {"sparsity": 0.5, "calibration": {"samples": arguments.samples, "length": arguments.length}},
    })  # fmt: skip
    sampler, reset = Sampler(), stage.reset_peak_memory

    def note_and_reset(device: Any) -> None:
        sampler.note()
        reset(device)

    stage.reset_peak_memory = note_and_reset
    with sampler:
        prune(experiment, progress=sampler.hear)
    (work / "result.json").write_text(json.dumps(sampler.result()))


class Sampler:
    """The resident set of this process, and what was being done when it was highest."""

    def __init__(self) -> None:
        self.peak, self.text, self.of_text, self._ends = 0, "starting", {}, threading.Event()

    def __enter__(self) -> Sampler:
        CLEAR_REFS.write_text("5")
        self.before = self.resident()
        self._thread = threading.Thread(target=self._sample, daemon=True)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.note()
        self._ends.set()
        self._thread.join()

    def resident(self) -> dict[str, int]:
        rows = (line.split() for line in STATUS.read_text().splitlines())
        wanted = ("VmHWM:", "VmRSS:", "RssAnon:", "RssFile:")
        return {row[0].rstrip(":"): int(row[1]) * 1024 for row in rows if row[0] in wanted}

    def note(self) -> None:
        """Keep VmHWM: it is about to be reset, or this is the end."""
        self.peak = max(self.peak, self.resident()["VmHWM"])

    def hear(self, stage: str, done: int, _total: int, text: str) -> None:
        words = [word for word in text.split() if not word.isdigit() and word != "of"]
        self.text = f"{stage}, {'first block' if not done else 'later block'}: {' '.join(words)}"

    def _sample(self) -> None:
        while not self._ends.wait(SAMPLE_S):
            now, text = self.resident(), self.text
            if now["VmRSS"] > self.of_text.get(text, {"VmRSS": 0})["VmRSS"]:
                self.of_text[text] = now

    def result(self) -> dict[str, Any]:
        rise = {text: {what: now[what] - self.before[what] for what in ("VmRSS", "RssAnon", "RssFile")}
                for text, now in self.of_text.items()}  # fmt: skip
        return {"peak": self.peak - self.before["VmRSS"], "imports": self.before["VmRSS"],
                "highest_by_text": dict(sorted(rise.items(), key=lambda item: -item[1]["VmRSS"]))}  # fmt: skip


def terms(arguments: argparse.Namespace) -> dict[str, dict[str, int]]:
    """Bytes that have to be there at once, at the places where most is."""
    hidden, wide = arguments.hidden, arguments.intermediate
    block = sum(count(shape) for shape in block_shapes(arguments).values())
    tokens = arguments.samples * arguments.length
    states = 4 * tokens * hidden
    grams = [sum((min(start + PANEL, columns) - start) * (columns - start) for start in range(0, columns, PANEL))
             for columns in (hidden, hidden, hidden, wide)]  # fmt: skip
    embedding = arguments.vocabulary * hidden
    held = {"block, float32": 4 * block, "weights as read, bfloat16": 2 * block, "hidden states": states}
    return {
        "embedding": {"float32": 4 * embedding, "a piece of the file": 64 * 2**20, "hidden states": states},
        "inputs": {
            **held,
            "Gram panels of all groups, float64": 8 * sum(grams),
            "products of a pass and thread, float32": 4 * arguments.threads * min(PANEL, wide) * wide,
            "a pass in the MLP, per thread": 4 * arguments.threads * 3 * min(2048, tokens) * wide,
        },
        "solving": {
            **held,
            "its H and factor, float32": 2 * 4 * wide * wide,
            "a matrix of another thread in float32, transposed, joined": 3 * 4 * hidden * wide,
            "pruned matrices, bfloat16": 2 * block,
        },
    }  # fmt: skip


def print_one(measured: dict[str, Any]) -> None:
    share = measured["peak"] / measured["checkpoint"]
    print(f"\n{measured['blocks']} blocks: checkpoint {gib(measured['checkpoint'])}, peak {gib(measured['peak'])} = "
          f"{share:.1%} of it (beside {gib(measured['imports'])} of imports)")  # fmt: skip
    print("  highest while (sampled, of which anonymous + files):")
    for text, rise in list(measured["highest_by_text"].items())[:6]:
        print(f"    {gib(rise['VmRSS'])} ({gib(rise['RssAnon'])} + {gib(rise['RssFile'])})  {text}")
    print("  by arithmetic:")
    for place, parts in measured["terms"].items():
        print(f"    {gib(sum(parts.values()))}  {place}: " + ", ".join(f"{k} {gib(v)}" for k, v in parts.items()))
    sys.stdout.flush()


def gib(size: float) -> str:
    return f"{size / 2**30:.2f} GiB"


if __name__ == "__main__":
    given = parse()
    prune_here(given) if given.child else main(given)

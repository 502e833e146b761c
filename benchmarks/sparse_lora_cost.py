"""What keeping the zeros of a pruned base costs: a plain LoRA and one that keeps them, step by step in turns.

    python benchmarks/sparse_lora_cost.py --json cost.json
    python benchmarks/sparse_lora_cost.py --beside ../other-checkout      # a third side: that checkout's masked update

Both adapters (rank 16 on all linears, the same numbers in them) lie on one Llama of random weights whose linears are
half zeros; a step is the forward and the backward pass of one sequence, without an optimizer. The sides take turns
(A B, B A, ...) in one process, after one step each to warm up. Needs no network; float32 and two blocks unless said.

- step: wall clock, waiting for the device; medians, and the ratio of each pair's times, from the lowest to the highest.
- cpu: the same in CPU seconds of the process, which other work on the machine moves less, with one thread least.
- peak: the most that a step took above what was held when it began: allocated on a GPU, resident (VmHWM) on a CPU, with
  what the allocator had kept given back before each step. Medians.
- losses: of each side the same in all its turns, and of both masked updates the same to 1e-4: it is the same job.
- others: how much of the machine's CPU time went to other processes meanwhile.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import os
import statistics
import sys
import time
from pathlib import Path
from typing import Any

import torch
from peft import LoraConfig, PeftModel, get_peft_model
from transformers import LlamaConfig, LlamaForCausalLM

from lora_dist.models import sparse_lora
from lora_dist.models.device import peak_memory, release_memory, reset_peak_memory, synchronize, trim_memory
from lora_dist.models.masks import pack_bits

VOCABULARY = 1024
ZEROS = ("50%", "2:4")


def main(arguments: argparse.Namespace) -> None:
    torch.set_num_threads(arguments.threads)
    print(f"{arguments.blocks} blocks, {arguments.tokens} tokens, {arguments.dtype} on {arguments.device}, torch "
          f"{torch.__version__}, {arguments.threads} threads")  # fmt: skip
    results = []
    for hidden in arguments.hidden:
        for zeros in ZEROS:
            results.append({"hidden": hidden, "zeros": zeros, **measure(arguments, hidden, zeros)})
            print_result(results[-1])
    if arguments.json:
        arguments.json.write_text(json.dumps({"arguments": vars(arguments), "results": results}, default=str) + "\n")


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--hidden", type=int, nargs="+", default=[1024, 2048], help="widths; the MLP's are 4 times that"
    )
    for name, usual in {"blocks": 2, "tokens": 512, "rank": 16, "repetitions": 9}.items():
        parser.add_argument(f"--{name}", type=int, default=usual)
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--dtype", default="float32", help="of the base; adapters are float32")
    parser.add_argument("--beside", type=Path, help="another checkout, whose masked update is a third side")
    parser.add_argument("--json", type=Path, help="write all measurements there")
    return parser.parse_args()


def measure(arguments: argparse.Namespace, hidden: int, zeros: str) -> dict[str, Any]:
    model = adapted(arguments, hidden, zeros)
    ids = torch.randint(VOCABULARY, (1, arguments.tokens), device=arguments.device)
    ours, sides = sparse_lora.masked_update, {"plain": None, "keeps": sparse_lora.masked_update}
    if arguments.beside:
        sides["beside"] = masked_update_of(arguments.beside)
    steps: dict[str, list[dict[str, float]]] = {side: [] for side in sides}
    busy = Others()
    for repetition in range(arguments.repetitions + 1):
        for side in list(sides)[:: 1 if repetition % 2 else -1]:
            sparse_lora.masked_update = sides[side] or ours
            found = step(model, "plain" if side == "plain" else "keeps", ids)
            if repetition:
                steps[side].append(found)
    sparse_lora.masked_update = ours
    losses = {side: {found["loss"] for found in steps[side]} for side in sides}
    assert all(len(seen) == 1 for seen in losses.values()), f"a side is not always the same: {losses}"
    assert len(losses["keeps"] | losses.get("beside", set())) == 1 or close(losses["keeps"], losses["beside"])
    return {"steps": steps, "mask_bytes": mask_bytes(model), "others": busy.share()}


def adapted(arguments: argparse.Namespace, hidden: int, zeros: str) -> PeftModel:
    """A Llama with zeros, and on it an adapter that keeps them and a plain one, with the same weights."""
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=VOCABULARY, hidden_size=hidden, intermediate_size=4 * hidden, num_hidden_layers=arguments.blocks,
        num_attention_heads=hidden // 64, num_key_value_heads=hidden // 256,
    )  # fmt: skip
    base = LlamaForCausalLM(config).to(arguments.device, getattr(torch, arguments.dtype))
    with torch.no_grad():
        for name, weight in base.named_parameters():
            if "proj" in name:
                fours = weight.view(len(weight), -1, 4)
                chance = torch.rand_like(fours)
                drop = chance < 0.5 if zeros == "50%" else chance.argsort(2) < 2
                fours.masked_fill_(drop, 0)
    made = LoraConfig(r=arguments.rank, lora_alpha=2 * arguments.rank, target_modules="all-linear")
    model = get_peft_model(base, sparse_lora.keep_zeros(made), "keeps")
    model.add_adapter("plain", LoraConfig(r=arguments.rank, lora_alpha=2 * arguments.rank, target_modules="all-linear"))
    weights = dict(model.named_parameters())
    with torch.no_grad():
        for name, weight in weights.items():
            if ".keeps." in name:
                weight.data = torch.randn_like(weight, dtype=torch.float32) * 0.02
                weights[name.replace(".keeps.", ".plain.")].data = weight.clone()
    return model


def step(model: PeftModel, adapter: str, ids: torch.Tensor) -> dict[str, float]:
    """One forward and backward pass under an adapter."""
    model.set_adapter(adapter)
    model.zero_grad(set_to_none=True)
    release_memory()
    trim_memory()
    reset_peak_memory(ids.device)
    before = peak_memory(ids.device).bytes
    synchronize(ids.device)
    started, cpu_before = time.perf_counter(), time.process_time()
    with torch.autocast(ids.device.type, model.dtype, enabled=model.dtype != torch.float32):
        loss = model(ids, labels=ids).loss
    loss.backward()
    synchronize(ids.device)
    seconds, cpu = time.perf_counter() - started, time.process_time() - cpu_before
    return {"seconds": seconds, "cpu": cpu, "bytes": peak_memory(ids.device).bytes - before, "loss": loss.item()}


def mask_bytes(model: PeftModel) -> int:
    return sum(module.kept_bits.numel() for module in model.modules() if hasattr(module, "kept_bits"))


def close(some: set[float], others: set[float]) -> bool:
    return abs(some.copy().pop() - others.copy().pop()) < 1e-4


def masked_update_of(checkout: Path) -> Any:
    """`masked_update` of another checkout, with its own masks.py; checked on one product."""
    names = ("lora_dist.models.masks", "lora_dist.models.masked_update")
    here = {name: sys.modules[name] for name in names}
    try:
        for name in names:
            spec = importlib.util.spec_from_file_location(name, checkout / Path(*name.split(".")).with_suffix(".py"))
            sys.modules[name] = importlib.util.module_from_spec(spec)
            spec.loader.exec_module(sys.modules[name])
        other = sys.modules[names[1]].masked_update
    finally:
        sys.modules.update(here)
    x, a, b, keep = torch.randn(3, 24), torch.randn(2, 24), torch.randn(8, 2), torch.rand(8, 24) < 0.5
    torch.testing.assert_close(other(x, a, b, pack_bits(keep), 2.0), x @ (b @ a * 2 * keep).T)
    return other


class Others:
    """CPU time that other processes took, from /proc/stat."""

    def __init__(self) -> None:
        self.before = self._now()

    def _now(self) -> tuple[float, float]:
        """Seconds of all CPUs that were not idle, and those of this process."""
        stat = Path("/proc/stat")
        if not stat.exists():
            return 0.0, 0.0
        fields = [int(field) for field in stat.read_text().splitlines()[0].split()[1:9]]
        own = os.times()
        return (sum(fields) - fields[3] - fields[4]) / os.sysconf("SC_CLK_TCK"), own.user + own.system

    def share(self) -> float:
        """Of the CPU time that was used since."""
        (all_before, own_before), (all_now, own_now) = self.before, self._now()
        return 1 - (own_now - own_before) / max(all_now - all_before, 1e-9)


def print_result(result: dict[str, Any]) -> None:
    print(f"hidden {result['hidden']:,}, {result['zeros']} zeros; masks {result['mask_bytes'] / 2**20:.1f} MiB; "
          f"{result['others']:.0%} of the CPU time was others'")  # fmt: skip
    plain = result["steps"]["plain"]
    for side, steps in result["steps"].items():
        seconds, taken = (statistics.median(found[name] for found in steps) for name in ("seconds", "bytes"))
        said = {}
        for clock in ("seconds", "cpu"):
            ratios = [found[clock] / base[clock] for found, base in zip(steps, plain, strict=True)]
            said[clock] = f"{statistics.median(ratios):.2f} ({min(ratios):.2f} to {max(ratios):.2f})"
        cpu = statistics.median(found["cpu"] for found in steps)
        print(f"  {side:6} step {seconds:6.3f} s, ratio {said['seconds']}; cpu {cpu:6.3f} s, ratio {said['cpu']}; "
              f"peak {taken / 2**20:6.1f} MiB", flush=True)  # fmt: skip


if __name__ == "__main__":
    main(parse())

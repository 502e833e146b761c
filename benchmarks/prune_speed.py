"""How fast SparseGPT is here: lora_dist against the published loop, and two ranks of lora_dist against one, in turns.

    python benchmarks/prune_speed.py --json speed.json              # against the port, equally many threads
    python benchmarks/prune_speed.py --ranks 2 --json ranks.json    # 2 ranks x 1 thread against 1 rank x 1 thread

The same Llama-shaped decoder blocks with random bfloat16 weights are pruned on the same random tokens, each side in a
process of its own, A B A B. Needs no network. The port is written for this benchmark after the description of the
algorithm (Frantar & Alistarh 2023): one Hessian per matrix; Cholesky, the inverse from it, upper Cholesky of that; a
sort for the threshold; a column loop with outer products on [rows, columns] weights in blocks of 128; two full forward
passes over all samples, one sample at a time. It differs from the published code in nothing that takes time: it prunes
the k smallest instead of k + 1, and rounds its weights to bfloat16 as the files do, so that both do the same job. Held
to that are, for each matrix of the first block, the zeros (0.1% apart at most: the port keeps all weights whose score
is the k-th), the masks (1% of the places) and sum e^2 (1%); of later blocks the zeros and sum e^2 (3%) alone. Their
inputs differ by rounding, which the choice of weights enlarges: the port beside itself, adding the samples up in
another order, was up to 8.2% of the masks apart in the second block at the default widths (0.2% in the first), and up
to 1.1% of sum e^2 at a width of 256 (2026-11).

- overall: wall clock over all blocks, from hidden states to hidden states. Not in it: starting, embedding the samples,
  reading weights and (lora_dist's side) writing shards; for lora_dist those are shown apart.
- cpu: CPU seconds of the whole process over the same time, reading and writing included; less moved by other work on
  the machine.
- forward, hessians, factor, solve: seconds in that stage and in nothing within it. They are wall clock with all
  threads, but for what lora_dist does side by side with one thread each (passes, groups that are dealt): those seconds
  are summed and divided by the threads, which is less than wall clock where some have nothing to do. forward is all
  passes of blocks; hessians the products and the whole H; solve the column loop, the update of later
  columns and the choice of what goes. On an accelerator every stage waits for the device when it begins and ends.
- rest: overall less those four; lora_dist's side holds the waiting of idle threads in those, and casts of weights.
- others: how much of the machine's CPU time went to other processes (or to other machines of the same host) meanwhile,
  from /proc/stat. OpenMP threads wait for each other, so the port suffers far more from it than passes of one thread
  do: a ratio of a busy machine says nothing.
- ranks: wall clock of the whole pruning (reading and writing included), the slower rank's, after all have started. The
  shards and masks of both have to be the same bytes.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from hashlib import sha256
from pathlib import Path
from typing import Any

STAGES = ("forward", "hessians", "factor", "solve")
VOCABULARY = 1024
FIRST_TOLERANCES = {"zeros": 0.001, "masks": 0.01, "errors": 0.01}
LATER_TOLERANCES = {"zeros": 0.001, "masks": 1.0, "errors": 0.03}


def main(arguments: argparse.Namespace) -> None:
    with tempfile.TemporaryDirectory(prefix="prune_speed-", dir=arguments.work) as name:
        work = Path(name)
        child(["--child", "model"], arguments, work, work / "made", threads=os.cpu_count() or 1)
        print(f"{arguments.blocks} blocks of {arguments.hidden} x {arguments.intermediate}, {arguments.samples} x "
              f"{arguments.length} tokens, {arguments.pattern or arguments.sparsity}, {arguments.device}")  # fmt: skip
        pairs = []
        for repetition in range(arguments.repetitions):
            pairs.append((pair_of_ranks if arguments.ranks else pair_with_port)(arguments, work, repetition))
            print(f"pair {repetition + 1}: {json.dumps(pairs[-1]['shown'])}", flush=True)
        summary = summarise(pairs)
    print_summary(summary, pairs)
    if arguments.json:
        document = {"arguments": vars(arguments), "pairs": pairs, "summary": summary}
        arguments.json.write_text(json.dumps(document, indent=2, default=str) + "\n")


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    shape = {"hidden": 2048, "intermediate": 8192, "heads": 32, "kv-heads": 8, "blocks": 2, "samples": 16}
    for name, usual in {**shape, "length": 512, "repetitions": 3}.items():
        parser.add_argument(f"--{name}", type=int, default=usual)
    parser.add_argument("--sparsity", type=float, default=0.5)
    parser.add_argument("--pattern", help="N:M, such as 2:4, instead of a sparsity")
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    parser.add_argument("--ranks", type=int, help="measure so many ranks of one thread against one, instead")
    parser.add_argument("--device", default="cpu", choices=("cpu", "cuda"))
    parser.add_argument("--dtype", default="float32", help="of the forward passes")
    parser.add_argument("--work", type=Path, help="put temporary files on this disk")
    parser.add_argument("--json", type=Path, help="write all measurements there")
    parser.add_argument("--child", choices=("model", "port", "ours"), help=argparse.SUPPRESS)
    parser.add_argument("--model", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--out", type=Path, help=argparse.SUPPRESS)
    return parser.parse_args()


def child(words: list[str], arguments: argparse.Namespace, work: Path, out: Path, *, threads: int, ranks: int = 1):
    """Run this file again with other words, as `ranks` ranks; what it wrote, and its folder."""
    out.mkdir()
    given = {name: value for name, value in vars(arguments).items() if value is not None}
    for name in ("json", "work", "ranks", "child", "repetitions"):
        given.pop(name, None)
    given |= {"threads": threads, "model": work / "model", "out": out}
    options = [f"--{name.replace('_', '-')}={value}" for name, value in given.items()]
    launcher = ["-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={ranks}"] if ranks > 1 else []
    environment = os.environ | {"OMP_NUM_THREADS": str(threads), "HF_HUB_OFFLINE": "1"}
    if arguments.device == "cpu":
        environment["CUDA_VISIBLE_DEVICES"] = ""
    started, before = time.perf_counter(), cpu_of_others()
    done = subprocess.run([sys.executable, *launcher, __file__, *words, *options], env=environment, text=True,
                          capture_output=True)  # fmt: skip
    if done.returncode:
        sys.exit(f"{' '.join(words)} ended with {done.returncode}:\n{done.stderr[-3000:]}")
    others = (cpu_of_others() - before) / (time.perf_counter() - started) / (os.cpu_count() or 1)
    found = [json.loads(path.read_text()) for path in sorted(out.glob("result-*.json"))]
    return [result | {"others": max(0.0, others)} for result in found], out


def cpu_of_others() -> float:
    """CPU seconds since the start of the machine but those of our children that have ended; 0 outside of Linux."""
    stat = Path("/proc/stat")
    if not stat.exists():
        return 0.0
    user, nice, system, _idle, _wait, interrupts, soft, steal = map(int, stat.read_text().split()[1:9])
    mine = resource.getrusage(resource.RUSAGE_CHILDREN)
    busy = (user + nice + system + interrupts + soft + steal) / os.sysconf("SC_CLK_TCK")
    return busy - mine.ru_utime - mine.ru_stime


def pair_with_port(arguments: argparse.Namespace, work: Path, repetition: int) -> dict[str, Any]:
    (port,), _ = child(["--child", "port"], arguments, work, work / f"port-{repetition}", threads=arguments.threads)
    (ours,), _ = child(["--child", "ours"], arguments, work, work / f"ours-{repetition}", threads=arguments.threads)
    agreement = compare(work / f"port-{repetition}", work / f"ours-{repetition}", port["linears"], ours["linears"])
    for side in (port, ours):
        side["seconds"] = {stage: side["seconds"].get(stage, 0.0) for stage in STAGES}
        side["seconds"]["rest"] = side["overall"] - sum(side["seconds"].values())
        side["seconds"] |= {"overall": side["overall"], "cpu": side["cpu"]}
    ratio = {what: port["seconds"][what] / ours["seconds"][what] for what in (*STAGES, "overall", "cpu")}
    shown = {"overall": [round(port["overall"], 1), round(ours["overall"], 1)], "ratio": round(ratio["overall"], 2)}
    shown["others"] = [round(port["others"], 2), round(ours["others"], 2)]
    return {"port": port, "lora_dist": ours, "ratio": ratio, "agreement": agreement, "shown": shown}


def compare(port: Path, ours: Path, of_port: dict[str, Any], of_ours: dict[str, Any]) -> dict[str, float]:
    """How far the two are apart at most over the matrices; ends the benchmark where it is not the same job."""
    from lora_dist.models.masks import read_masks

    masks = [dict(read_masks(folder)) for folder in (port, ours / ".pruned.partial")]
    worst: dict[str, float] = {}
    if not masks[0] or not (of_port.keys() == of_ours.keys() == masks[0].keys() == masks[1].keys()):
        sys.exit("not the same job: other matrices are pruned")
    for name, (zeros, error) in of_port.items():
        apart = {
            "zeros": abs(of_ours[name][0] / zeros - 1),
            "masks": float((masks[0][name] != masks[1][name]).double().mean()),
            "errors": abs(of_ours[name][1] / error - 1),
        }
        which, tolerances = ("first", FIRST_TOLERANCES) if ".layers.0." in name else ("later", LATER_TOLERANCES)
        if any(apart[what] > most for what, most in tolerances.items()):
            sys.exit(f"not the same job: {name} differs by {apart}")
        for what, value in apart.items():
            worst[f"{what}, {which}"] = max(value, worst.get(f"{what}, {which}", 0.0))
    return worst


def pair_of_ranks(arguments: argparse.Namespace, work: Path, repetition: int) -> dict[str, Any]:
    sides, bytes_of = {}, []
    for name, ranks in (("one", 1), ("several", arguments.ranks)):
        found, out = child(["--child", "ours"], arguments, work, work / f"{name}-{repetition}", threads=1, ranks=ranks)
        seconds = {what: max(rank[what] for rank in found) for what in ("whole", "overall", "cpu")}
        sides[name] = {"seconds": seconds, "others": found[0]["others"]}
        files = sorted((out / ".pruned.partial").rglob("*.safetensors"))
        bytes_of.append([(path.name, sha256(path.read_bytes()).hexdigest()) for path in files])
    if not bytes_of[0] or bytes_of[0] != bytes_of[1]:
        sys.exit("the shards of one rank and of several differ")
    ratio = {what: sides["one"]["seconds"][what] / sides["several"]["seconds"][what] for what in ("whole", "overall")}
    shown = {name: round(side["seconds"]["whole"], 1) for name, side in sides.items()}
    return sides | {"ratio": ratio, "shown": shown | {"ratio": round(ratio["whole"], 3), "equal_files": len(files)}}


def summarise(pairs: list[dict[str, Any]]) -> dict[str, Any]:
    sides = [name for name in ("port", "lora_dist", "one", "several") if name in pairs[0]]
    of_side = {name: [pair[name]["seconds"] for pair in pairs] for name in sides} | {
        "ratio": [p["ratio"] for p in pairs]
    }
    return {
        name: {
            what: {"median": statistics.median(values), "min": min(values), "max": max(values)}
            for what in rows[0]
            for values in [[row[what] for row in rows]]
        }
        for name, rows in of_side.items()
    }


def print_summary(summary: dict[str, Any], pairs: list[dict[str, Any]]) -> None:
    columns = list(next(iter(summary.values())))
    print(f"\n| median (min to max) of {len(pairs)} | {' | '.join(columns)} |\n|{' --- |' * (len(columns) + 1)}")
    for side, row in summary.items():
        cells = ["{median:.2f} ({min:.2f} to {max:.2f})".format(**row[what]) if what in row else "" for what in columns]
        print(f"| {side}{'' if side == 'ratio' else ', s'} | {' | '.join(cells)} |")
    if "lora_dist" in pairs[0]:
        aside = {what: statistics.median(pair["lora_dist"]["aside"][what] for pair in pairs)
                 for what in pairs[0]["lora_dist"]["aside"]}  # fmt: skip
        print("\nlora_dist, not in overall: " + ", ".join(f"{what} {value:.2f} s" for what, value in aside.items()))
        worst = {what: max(pair["agreement"][what] for pair in pairs) for what in pairs[0]["agreement"]}
        print("apart at most (first block, later ones): " + "; ".join(f"{k} {v:.4%}" for k, v in worst.items()))
    sides = [name for name in summary if name != "ratio"]
    print(
        "CPU time of others, at most: "
        + ", ".join(f"{side} {max(p[side]['others'] for p in pairs):.0%}" for side in sides)
    )


def make_model(arguments: argparse.Namespace) -> None:
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=VOCABULARY, hidden_size=arguments.hidden, intermediate_size=arguments.intermediate,
        num_hidden_layers=arguments.blocks, num_attention_heads=arguments.heads,
        num_key_value_heads=arguments.kv_heads, head_dim=arguments.hidden // arguments.heads,
        max_position_embeddings=max(2048, arguments.length), tie_word_embeddings=True, dtype="bfloat16",
    )  # fmt: skip
    LlamaForCausalLM(config).to(torch.bfloat16).save_pretrained(arguments.model)


def tokens_of(arguments: argparse.Namespace):
    import torch

    shape = (arguments.samples, arguments.length)
    return torch.randint(VOCABULARY, shape, generator=torch.Generator().manual_seed(0))


def write(arguments: argparse.Namespace, rank: int, result: dict[str, Any]) -> None:
    (arguments.out / f"result-{rank}.json").write_text(json.dumps(result))


def run_ours(arguments: argparse.Namespace) -> None:
    """lora_dist's own stream, its functions timed from outside."""
    import torch
    from sparsegpt_port import BLOCK_SIZE, DAMPING
    from stage_clock import Clock

    from lora_dist.config.pruning import PruneSection
    from lora_dist.config.sections import ModelSection
    from lora_dist.models.skeleton import skeleton
    from lora_dist.models.stored import StoredWeights
    from lora_dist.pruning import share
    from lora_dist.pruning.chain import Call
    from lora_dist.pruning.hessian import Gram
    from lora_dist.pruning.output import PrunedModel
    from lora_dist.pruning.stream import Stream
    from lora_dist.team import Team
    from lora_dist.world import current_world

    clock, found = Clock(arguments.device, arguments.threads if arguments.device == "cpu" else 1), {}
    watched = [(Call, "run", "forward"), (Gram, "add", "hessians"), (Gram, "hessian", "hessians"),
               (share, "factor_with_damping", "factor"), (share, "sparsegpt", "solve"), (Stream, "_embed", "embedding"),
               (StoredWeights, "read", "reading"), (Stream, "_write", "writing")]  # fmt: skip
    for owner, name, stage in watched:
        clock.watch(owner, name, stage)
    team = Team.join(current_world())
    section, dtype = ModelSection(path=str(arguments.model)), getattr(torch, arguments.dtype)
    goal = {"pattern": arguments.pattern} if arguments.pattern else {"sparsity": arguments.sparsity}
    output = PrunedModel(arguments.out / "pruned", arguments.blocks + 1)
    team.first_does(lambda: output.begin({}))
    prune = PruneSection(**goal, damping=DAMPING, block_size=BLOCK_SIZE)
    stream = Stream(prune, skeleton(section, dtype), StoredWeights.of_source(section), output, team,
                    torch.device(arguments.device), dtype, lambda *_: None)  # fmt: skip
    original = stream._find

    def keep(number: int, *rest: Any, **named: Any) -> Any:
        results = original(number, *rest, **named)
        for name, result in results.items():
            zeros = int((result.weight_RC == 0).sum())
            found[f"model.layers.{number}.{name}.weight"] = zeros, result.squared_error
        return results

    stream._find = keep
    ids_NT = tokens_of(arguments)
    team.wait()
    cpu, started = time.process_time(), time.perf_counter()
    stream.run(ids_NT)
    whole, cpu = time.perf_counter() - started, time.process_time() - cpu
    aside = {stage: clock.seconds[stage] for stage in ("embedding", "reading", "writing")}
    write(arguments, team.world.rank, {"seconds": clock.seconds, "aside": aside, "whole": whole, "cpu": cpu,
                                       "overall": whole - sum(aside.values()), "linears": found})  # fmt: skip
    team.leave()


def run_port(arguments: argparse.Namespace) -> None:
    import sparsegpt_port

    write(arguments, 0, sparsegpt_port.run(arguments, tokens_of(arguments)))


if __name__ == "__main__":
    given = parse()
    {"model": make_model, "port": run_port, "ours": run_ours, None: main}[given.child](given)

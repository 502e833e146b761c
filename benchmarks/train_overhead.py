"""What lora_dist's layer costs: one LoRA job by a bare TRL script and by lora_dist's worker, in turns.

    python benchmarks/train_overhead.py --json overhead.json

Both train the same model on the same token file, in the same order, with the same batches, in float32 on the CPU, each
in a process of its own with equally many threads. Their losses are compared, so that it is the same job. Needs no
network: the default model and data are built in.

- tokens/s: non-padding tokens of all steps but the first two, over the time from the end of the second step to the end
  of the last. lora_dist writes a line of metrics and its heartbeat for every step within that time; the bare script
  logs every tenth step, as transformers does by default. Neither saves in it.
- CPU seconds per 1,000 tokens: the same, in CPU time of the process; other work on the machine hardly changes it.
- share between steps: how much of lora_dist's time is after a step's end and before the next one's work, which is where
  a step is logged, its line written and the heartbeat told. Taken within one process, so noise hardly touches it.
- peak memory: VmHWM, reset right before training and read right after it.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

WARM_UP_STEPS = 2
LOGGING_STEPS = 10  # of the bare script: its losses are what both are held to
LOSS_TOLERANCE = 1e-4  # relative; both log float32 means


def main() -> None:
    arguments = parse()
    with tempfile.TemporaryDirectory(prefix="train_overhead-") as name:
        work = Path(name)
        run_folder, job = prepare(arguments, work)
        print(f"{arguments.model}, {arguments.data}: {job['steps']} steps of {job['micro_batch_size']} x "
              f"{job['accumulation']} sequences, {arguments.threads} threads")  # fmt: skip
        pairs = []
        for repetition in range(arguments.repetitions):
            bare = run_bare(job, work / f"bare-{repetition}", arguments.threads)
            ours = run_ours(run_folder, work / f"ours-{repetition}", arguments.threads)
            pairs.append(compare(bare, ours))
            print_pair(repetition, pairs[-1])
    summary = summarise(pairs)
    print_summary(summary)
    if arguments.json:
        document = {"arguments": vars(arguments) | {"json": None}, "job": job, "pairs": pairs, "summary": summary}
        arguments.json.write_text(json.dumps(document, indent=2, default=str) + "\n")


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="builtin:tiny-llama", help="a built-in name, folder or hub id")
    parser.add_argument("--data", default="builtin:word-problems", help="data.path with question and answer columns")
    parser.add_argument("--steps", type=int, default=40)
    parser.add_argument("--batch", type=int, default=16, help="sequences per optimizer step")
    parser.add_argument("--micro-batch", type=int, default=8, help="sequences per forward pass")
    parser.add_argument("--max-length", type=int, default=256)
    parser.add_argument("--rank", type=int, default=16)
    parser.add_argument("--repetitions", type=int, default=5)
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    parser.add_argument("--json", type=Path, help="write all measurements there")
    parser.add_argument("--work", type=Path, help=argparse.SUPPRESS)  # a child: train this run folder
    parser.add_argument("--out", type=Path, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.steps < LOGGING_STEPS or arguments.batch % arguments.micro_batch:
        parser.error(f"--steps has to be {LOGGING_STEPS} at least, and --batch a multiple of --micro-batch")
    return arguments


def prepare(arguments: argparse.Namespace, work: Path) -> tuple[Path, dict[str, Any]]:
    """Make the run folder and the tokens, once; returns the run folder, and the job as the bare script is told it."""
    from lora_dist.config.experiment import Experiment
    from lora_dist.models.loading import source_of
    from lora_dist.pipeline.preflight import Preflight
    from lora_dist.training.arguments import warmup_steps
    from lora_dist.verbs.folders import folder_of, make_run_folders
    from lora_dist.verbs.train import only_run

    train = {
        "max_steps": arguments.steps, "global_batch_size": arguments.batch, "micro_batch_size": arguments.micro_batch,
        "learning_rate": 1e-3, "checkpoint_steps": arguments.steps,
    }  # fmt: skip
    experiment = Experiment.model_validate({
        "name": "overhead",
        "output_dir": str(work),
        "model": {"path": arguments.model, "dtype": "float32"},
        "data": {
            "task": "instruction", "path": arguments.data, "max_length": arguments.max_length, "max_eval_examples": 8,
            "columns": {"prompt": "question", "completion": "answer"},
        },
        "method": {"kind": "lora", "rank": arguments.rank, "alpha": 2 * arguments.rank},
        "train": train,
        "evaluate": {"splits": ["test"], "samples": 0, "bootstrap_samples": 100},
    })  # fmt: skip
    run, folder = only_run(experiment), folder_of(experiment)
    preflight = Preflight(folder.tokens, lambda *_: None)
    preflight.check([run])
    make_run_folders(experiment, [run], folder)
    (tokens,) = preflight.save()
    job = {
        "model": source_of(run.model),
        "tokens": str(tokens.folder / "train.parquet"),
        "steps": arguments.steps,
        "micro_batch_size": arguments.micro_batch,
        "accumulation": arguments.batch // arguments.micro_batch,
        "learning_rate": run.train.learning_rate,
        "warmup_steps": warmup_steps(run.train.warmup_fraction, arguments.steps),
        "max_length": tokens.facts.max_length,
        "rank": arguments.rank,
        "seed": run.seed,
    }
    return folder.run(run.id).path, job


def run_bare(job: dict[str, Any], folder: Path, threads: int) -> dict[str, Any]:
    folder.mkdir()
    script = Path(__file__).with_name("bare_sft.py")
    return run_child([str(script), "--job", json.dumps(job), "--out", str(folder / "result.json")], folder, threads)


def run_ours(run_folder: Path, folder: Path, threads: int) -> dict[str, Any]:
    shutil.copytree(run_folder.parent, folder)  # the experiment: its tokens, and the run as it was prepared
    words = [__file__, "--work", str(folder / run_folder.name), "--out", str(folder / "result.json")]
    return run_child(words, folder, threads)


def run_child(words: list[str], folder: Path, threads: int) -> dict[str, Any]:
    environment = {
        **os.environ,
        "OMP_NUM_THREADS": str(threads),
        "HF_HUB_OFFLINE": "1",
        "TOKENIZERS_PARALLELISM": "false",
    }
    done = subprocess.run([sys.executable, *words], env=environment, capture_output=True, text=True)
    if done.returncode:
        sys.exit(f"{words[0]} ended with {done.returncode}:\n{done.stderr[-3000:]}")
    return json.loads((folder / "result.json").read_text())


def train_here(run_folder: Path, out: Path) -> None:
    """The child of `run_ours`: the worker itself, with its heartbeat, noting when it hears that a step is done."""
    from lora_dist.pipeline.worker import work
    from lora_dist.store.folders import RunFolder
    from lora_dist.store.heartbeat import Heartbeat
    from lora_dist.team import Team

    folder = RunFolder(run_folder)
    heartbeat, ends = Heartbeat(folder.heartbeat), {}

    def progress(stage: str, done: int, total: int, text: str) -> None:
        heartbeat(stage, done, total, text)
        if stage == "train" and done:
            ends[done] = time.perf_counter(), time.process_time()

    work(folder.path, Team(), progress)
    lines = [json.loads(line) for line in folder.metrics.read_text().splitlines()]
    result = {
        "ends": [ends[line["step"]] for line in lines],
        "peak_bytes": json.loads(folder.training.read_text())["train"]["peak_memory_bytes"],
        "seconds": [line["seconds"] for line in lines],
        "losses": [line["loss"] for line in lines],
        "tokens": [line["tokens"] for line in lines],
    }
    out.write_text(json.dumps(result))


def compare(bare: dict[str, Any], ours: dict[str, Any]) -> dict[str, Any]:
    """One pair's figures, after making sure that both did the same job."""
    for step, loss in bare["losses"].items():
        mean = statistics.mean(ours["losses"][int(step) - LOGGING_STEPS : int(step)])
        if abs(mean - loss) > LOSS_TOLERANCE * loss or bare["tokens"][step] != sum(ours["tokens"][: int(step)]):
            sys.exit(f"not the same job: up to step {step} the losses are {loss} and {mean}, the tokens "
                     f"{bare['tokens'][step]} and {sum(ours['tokens'][: int(step)])}")  # fmt: skip
    figures = {"bare": figures_of(bare, ours["tokens"]), "lora_dist": figures_of(ours, ours["tokens"])}
    ratio = {what: figures["lora_dist"][what] / figures["bare"][what] for what in figures["bare"]}
    elapsed = ours["ends"][-1][0] - ours["ends"][WARM_UP_STEPS - 1][0]
    between = 1 - sum(ours["seconds"][WARM_UP_STEPS:]) / elapsed
    return {**figures, "ratio": ratio, "share_between_steps": between}


def figures_of(run: dict[str, Any], tokens_of_step: list[int]) -> dict[str, float]:
    tokens = sum(tokens_of_step[WARM_UP_STEPS:])
    first, last = run["ends"][WARM_UP_STEPS - 1], run["ends"][-1]
    return {
        "tokens_per_second": tokens / (last[0] - first[0]),
        "cpu_seconds": (last[1] - first[1]) / tokens * 1000,
        "peak_bytes": run["peak_bytes"],
    }


def summarise(pairs: list[dict[str, Any]]) -> dict[str, Any]:
    summary = {
        who: {
            what: {"median": statistics.median(values), "min": min(values), "max": max(values)}
            for what in pairs[0]["ratio"]
            for values in [[pair[who][what] for pair in pairs]]
        }
        for who in ("bare", "lora_dist", "ratio")
    }
    return summary | {"share_between_steps": statistics.median(pair["share_between_steps"] for pair in pairs)}


def print_pair(repetition: int, pair: dict[str, Any]) -> None:
    texts = [
        f"{who} {pair[who]['tokens_per_second']:,.0f} tok/s, {pair[who]['peak_bytes'] / 2**20:,.0f} MiB"
        for who in ("bare", "lora_dist")
    ]
    ratios = " ".join(f"{what} {value:.3f}" for what, value in pair["ratio"].items())
    print(f"pair {repetition + 1}: {'; '.join(texts)}; ratios {ratios}", flush=True)


def print_summary(summary: dict[str, Any]) -> None:
    print("\n| median (min to max) | tokens/s | CPU s per 1,000 tokens | peak MiB |\n| --- | --- | --- | --- |")
    for who, forms in (
        ("bare", (",.0f", ".3f", ",.0f")),
        ("lora_dist", (",.0f", ".3f", ",.0f")),
        ("ratio", [".3f"] * 3),
    ):
        cells = []
        for (what, figures), form in zip(summary[who].items(), forms, strict=True):
            scale = 2**20 if what == "peak_bytes" and who != "ratio" else 1
            median, low, high = (format(figures[name] / scale, form) for name in ("median", "min", "max"))
            cells.append(f"{median} ({low} to {high})")
        print(f"| {who} | {' | '.join(cells)} |")
    print(f"\nshare of lora_dist's time between steps: {summary['share_between_steps']:.2%}")


if __name__ == "__main__":
    child = parse()
    if child.work:
        train_here(child.work, child.out)
    else:
        main()

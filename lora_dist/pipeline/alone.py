"""The evaluation of a ZeRO-3 run: in a child process that knows nothing of ranks or of DeepSpeed.

In the process that trained, transformers would share every model that it opens out over the ranks, and generation over
shared-out weights takes a round of messages for each token.
"""

from __future__ import annotations

import json
import logging
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from lora_dist.errors import Interrupted, Problem, Refused, UserError, WorkerCrashed
from lora_dist.models.loading import load_tokenizer, quiet_transformers
from lora_dist.pipeline.fallback import as_decided
from lora_dist.store.atomic import write_json
from lora_dist.store.folders import RunFolder
from lora_dist.store.heartbeat import Heartbeat
from lora_dist.store.record import Record
from lora_dist.team import Team, die_with_parent
from lora_dist.training.stop import StopFlag
from lora_dist.world import World, without_launcher

_POLL_S = 0.1


def measure_alone(folder: RunFolder, stop: StopFlag, *, seconds_before: float, devices: int) -> Record:
    """Measure a trained run in a child process, and wait for it.

    Raises:
        Interrupted: this process was asked to stop, and passed it on.
        Refused: what the child found wrong.
        WorkerCrashed: the child ended without a record.
    """
    with tempfile.TemporaryDirectory(prefix="lora_dist-") as name:
        answer = Path(name) / "answer.json"
        asked = json.dumps({"seconds_before": seconds_before, "devices": devices, "answer": str(answer)})
        child = subprocess.Popen(  # noqa: S603 - this very program
            [sys.executable, "-m", "lora_dist.pipeline.alone", str(folder.path), asked], env=without_launcher()
        )
        try:
            _wait(child, stop)
        finally:
            child.kill()
            child.wait()
        if child.returncode == Interrupted.exit_code or (stop.is_set and child.returncode < 0):
            raise Interrupted  # by a signal: it was asked before it could listen
        if answer.exists():
            problems = json.loads(answer.read_text(encoding="utf-8"))["problems"]
            raise Refused(Problem(**problem) for problem in problems)
    record = folder.read_record()
    if child.returncode != 0 or record is None:
        raise WorkerCrashed(f"the process that measures the run ended with code {child.returncode}; see its log")
    return record


def _wait(child: subprocess.Popen[bytes], stop: StopFlag) -> None:
    told = False
    while child.poll() is None:
        if stop.is_set and not told:
            child.terminate()
            told = True
        time.sleep(_POLL_S)


def main(path: str, asked: str) -> int:
    """The child: measure the run in the folder `path`; returns the exit code."""
    from lora_dist.pipeline.measure import measure_run
    from lora_dist.pipeline.worker import read_run, tokens_of

    die_with_parent()
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s: %(message)s")
    quiet_transformers()
    wishes, folder, stop, team = json.loads(asked), RunFolder(Path(path)), StopFlag(), Team(World())
    beat = Heartbeat(folder.heartbeat)

    def progress(stage: str, done: int = 0, total: int = 0, text: str = "") -> None:
        stop.check()
        beat(stage, done, total, text)

    with stop.listening():
        try:
            run = as_decided(read_run(folder), folder)
            tokenizer = load_tokenizer(run.model)
            tokens = tokens_of(run, folder, tokenizer, progress)
            measure_run(
                run, folder, tokens, tokenizer, team, progress,
                seconds_before=wishes["seconds_before"], devices=wishes["devices"],
            )  # fmt: skip
        except Interrupted as error:
            return error.exit_code
        except UserError as error:
            write_json(Path(wishes["answer"]), {"problems": [vars(problem) for problem in error.problems]})
            return error.exit_code
    return 0


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))

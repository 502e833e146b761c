"""A run made by the real verbs and trained in this process, for the tests of the training and models rooms."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import experiment_document
from safetensors.torch import load_file

from lora_dist.config.experiment import Experiment, Run
from lora_dist.data.tokens import TokenSet
from lora_dist.pipeline.preflight import Preflight
from lora_dist.pipeline.validation import validation_loss
from lora_dist.pipeline.worker import work
from lora_dist.store.folders import RunFolder
from lora_dist.team import Team
from lora_dist.training.stop import StopFlag
from lora_dist.training.trainer import train_run
from lora_dist.verbs.folders import folder_of, make_run_folders
from lora_dist.verbs.train import only_run

ALONE = Team()


@pytest.fixture(autouse=True)
def one_thread():
    """Over tiny tensors threads only wait for each other, and sums of float32 depend on how many there are."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def silent(*_: Any) -> None:
    """Show nothing."""


class Stopped(Exception):
    """The run is to stop here."""


def stop_at(step: int) -> Any:
    """A progress that stops the run as soon as it has logged `step`."""

    def progress(done: int, *_: Any) -> None:
        if done == step:
            raise Stopped

    return progress


@dataclass(frozen=True)
class Case:
    """A run that has been prepared: its folder, its tokens, its tokenizer."""

    run: Run
    folder: RunFolder
    tokens: TokenSet
    tokenizer: Any

    def train(self, progress: Any = silent) -> None:
        """The training stage alone."""
        loss = validation_loss(self.run, self.tokens, self.tokenizer, ALONE)
        train_run(self.run, self.folder, self.tokens, self.tokenizer, ALONE, StopFlag(), progress, loss)

    def work(self) -> Any:
        """All stages, to the record."""
        return work(self.folder.path, ALONE, silent)

    def killed_at(self, step: int) -> None:
        """All stages in a process of its own, which kills itself as soon as it has logged `step`."""
        done = subprocess.run(
            [sys.executable, __file__, str(self.folder.path), str(step)],
            env={**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": os.pathsep.join(sys.path)},
            capture_output=True, text=True, timeout=240,
        )  # fmt: skip
        assert done.returncode == -signal.SIGKILL, done.stderr[-3000:]

    @property
    def lines(self) -> list[dict[str, Any]]:
        """The lines of metrics.jsonl."""
        return [json.loads(line) for line in self.folder.metrics.read_text().splitlines()]

    @property
    def losses(self) -> list[float]:
        """The loss of each step."""
        return [line["loss"] for line in self.lines]

    @property
    def summary(self) -> dict[str, Any]:
        """training.json."""
        return json.loads(self.folder.training.read_text())

    @property
    def weights(self) -> dict[str, torch.Tensor]:
        """The tensors in model/, whether adapter or whole model."""
        (file,) = self.folder.model.glob("*.safetensors")
        return load_file(file)

    @property
    def bytes(self) -> dict[str, bytes]:
        """The safetensors files of model/."""
        return {path.name: path.read_bytes() for path in self.folder.model.glob("*.safetensors")}

    @property
    def checkpoints(self) -> list[str]:
        """The names in checkpoints/."""
        return sorted(path.name for path in self.folder.checkpoints.iterdir())


def prepare(output: Path, source: Path, files: dict[str, Path], *, model: Any = None, **sections: Any) -> Case:
    """Make the folder of a run of the model in `source` over `files`, as `lora-dist train` would."""
    document = experiment_document(source, files, **sections)
    document["model"] |= model or {}
    experiment = Experiment.model_validate({**document, "output_dir": str(output)})
    run = only_run(experiment)
    folder = folder_of(experiment)
    preflight = Preflight(folder.tokens, silent)
    preflight.check([run])
    make_run_folders(experiment, [run], folder)
    (tokens,) = preflight.save()
    return Case(run, folder.run(run.id), tokens, preflight.tokenizer_of(run))


def _work_until(path: Path, step: int) -> None:
    torch.set_num_threads(1)

    def kill(stage: str, done: int, *_: Any) -> None:
        if stage == "train" and done == step:
            os.kill(os.getpid(), signal.SIGKILL)

    work(path, ALONE, kill)


if __name__ == "__main__":
    _work_until(Path(sys.argv[1]), int(sys.argv[2]))

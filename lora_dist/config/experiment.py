"""The experiment: what one YAML file says, and the runs that it expands into."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Annotated, Any

from pydantic import Field, StringConstraints

from lora_dist.assets import user_path
from lora_dist.config.launch import LaunchSection
from lora_dist.config.pruning import PruneSection
from lora_dist.config.sections import (
    DataSection,
    EvaluateSection,
    MethodSection,
    ModelSection,
    Section,
    TrainSection,
    WholeOrZero,
)

# Names become folders: they stay inside their parent and need no quoting in a shell.
Name = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$", max_length=100)]
SECTIONS = ("model", "data", "method", "prune", "train", "evaluate")

# Settings that change where or how a run is done, and never its numbers: outside its identity.
NOT_IDENTITY = {"train": ("checkpoint_steps", "keep_checkpoints", "report_to"), "method": ("fallback",)}


class Arm(Section):
    """A named row of the comparison: overrides of the sections above it, and the points of its sweep."""

    model: dict[str, Any] = {}
    """Overrides of the model section."""
    data: dict[str, Any] = {}
    """Overrides of the data section."""
    method: dict[str, Any] = {}
    """Overrides of the method section."""
    prune: dict[str, Any] | None = {}
    """Overrides of the prune section; null leaves this arm dense."""
    train: dict[str, Any] = {}
    """Overrides of the train section."""
    evaluate: dict[str, Any] = {}
    """Overrides of the evaluate section."""
    points: Annotated[list[dict[str, Any]], Field(min_length=1)] | None = None
    """Settings that go together, such as {method.rank: 4, method.alpha: 16}; one run (times the grid) for each."""
    grid: dict[str, Annotated[list[Any], Field(min_length=1)]] = {}
    """Lists of values by dotted key; every combination is a run."""


class Experiment(Section):
    """One experiment file: base sections, and the arms that vary them."""

    name: Name
    """Folder of the experiment below output_dir; the file's stem unless given."""
    output_dir: Annotated[str, StringConstraints(min_length=1)] = "runs"
    """Where experiment folders are made, relative to the current folder."""
    seeds: Annotated[list[WholeOrZero], Field(min_length=1)] = [0]
    """Every trained run is repeated with each seed."""
    model: ModelSection
    data: DataSection
    method: MethodSection = MethodSection()
    prune: PruneSection | None = None
    """Prune the model before it is trained and measured; null leaves it dense."""
    train: TrainSection = TrainSection()
    evaluate: EvaluateSection = EvaluateSection()
    launch: LaunchSection = LaunchSection()
    arms: dict[Name, Arm | None] = {}
    """Rows of the comparison by name; without arms the experiment is one run."""

    def basis(self) -> dict[str, Any]:
        """What every run in one experiment folder must share for its rows to be comparable and resumable."""
        document = self.model_dump(mode="json", exclude={"name", "output_dir", "seeds", "launch", "arms"})
        return _without_non_identity(document)


class Run(Section):
    """One arm with one point of its grid and one seed, every setting resolved."""

    arm: Name
    point: dict[str, Any] = {}
    """The settings, by dotted key, in which this run differs from its arm's other runs."""
    seed: int
    model: ModelSection
    data: DataSection
    method: MethodSection
    prune: PruneSection | None = None
    train: TrainSection
    evaluate: EvaluateSection

    @property
    def trains(self) -> bool:
        """Whether this run has a training stage."""
        return self.method.kind != "base"

    @property
    def validates(self) -> bool:
        """Whether this run measures the validation loss while it trains."""
        settings = self.train.validation_steps, self.train.early_stopping_patience
        return self.trains and any(setting is not None for setting in settings)

    @property
    def base_is_pruned(self) -> bool:
        """Whether what is trained has zeros to keep: this run prunes it, or its folder says that somebody has."""
        return self.prune is not None or (user_path(self.model.path) / "pruning.json").is_file()

    @property
    def id(self) -> str:
        """`<arm>-<8 hex of the content hash>`: the same settings give the same id on every machine.

        Evaluation settings are left out, so that a trained run can be measured again with others.
        """
        identity: dict[str, Any] = {
            "model": self.model.model_dump(mode="json"),
            "data": self.data.model_dump(mode="json"),
            "method": self.method.relevant(),
            "prune": self.prune.relevant() if self.prune else None,
        }
        if self.trains:
            identity |= {"train": self.train.relevant(), "seed": self.seed}
        return f"{self.arm}-{content_hash(_without_non_identity(identity))[:8]}"

    def located(self) -> Run:
        """The run with local paths made absolute, so that a worker started from any folder finds them."""
        located = {
            "model": self.model.model_copy(update={"path": _absolute(self.model.path)}),
            "data": _located_data(self.data),
        }
        if self.prune and self.prune.calibration.data:
            calibration = {"data": _located_data(self.prune.calibration.data)}
            update = {"calibration": self.prune.calibration.model_copy(update=calibration)}
            located["prune"] = self.prune.model_copy(update=update)
        return self.model_copy(update=located)

    @property
    def pruning_key(self) -> str:
        """16 hex of everything that the pruned weights depend on: runs with the same key share them."""
        if self.prune is None:
            raise ValueError("this run prunes nothing")
        document = {"model": self.model.model_dump(mode="json"), "prune": self.prune.relevant()}
        if self.prune.uses_data and self.prune.calibration.data is None:
            document["data"] = self.data.model_dump(mode="json")
        return content_hash(document)[:16]

    @property
    def label(self) -> str:
        """How a person tells this run from the others: its arm, its point, its seed."""
        point = ", ".join(f"{key.split('.')[-1]}={value}" for key, value in self.point.items())
        seed = f"seed {self.seed}" if self.trains else ""
        return " ".join(part for part in (self.arm, f"({point})" if point else "", seed) if part)


def _located_data(section: DataSection) -> DataSection:
    path = section.path
    if isinstance(path, dict):
        located: Any = {
            split: [_absolute(file) for file in files] if isinstance(files, list) else _absolute(files)
            for split, files in path.items()
        }
    else:
        located = _absolute(path)
    return section.model_copy(update={"path": located})


def _absolute(path: str) -> str:
    """A local path made absolute; a hub id or a built-in name as it is."""
    return str(Path(path).resolve()) if Path(path).exists() else path


def content_hash(document: Any) -> str:
    """sha256 of the canonical JSON of `document`, as hex."""
    text = json.dumps(document, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    return hashlib.sha256(text.encode()).hexdigest()


def _without_non_identity(document: dict[str, Any]) -> dict[str, Any]:
    return {
        section: {key: value for key, value in settings.items() if key not in NOT_IDENTITY.get(section, ())}
        if isinstance(settings, dict)
        else settings
        for section, settings in document.items()
    }

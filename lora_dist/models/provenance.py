"""Where an adapter comes from: the file beside it that says on which weights it was trained, and how."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, ValidationError

from lora_dist.config.experiment import Run
from lora_dist.errors import ModelError
from lora_dist.store.atomic import write_text

FILE = "provenance.json"
PRUNED_BESIDE = "../pruned"
"""The base of an adapter that a run trained on the model that it had pruned, seen from the adapter's folder."""


class _Part(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", protected_namespaces=(), use_attribute_docstrings=True)


class Base(_Part):
    """The 16 or 32-bit weights under an adapter (for QLoRA: those that were quantised)."""

    path: str
    """A hub id, a folder, builtin:NAME, or `../pruned`."""
    revision: str | None = None
    fingerprint: str
    """See models/fingerprint.py."""
    source: str | None = None
    """What was pruned, where `path` is a pruned model."""


class Provenance(_Part):
    """What trained an adapter, on what."""

    version: int = 1
    base: Base
    method: dict[str, Any]
    """kind, and the settings that it uses; preserve_sparsity says whether the update is masked by the base's zeros."""
    task: str
    data: Any
    """`data.path` of the run."""
    run_id: str
    arm: str
    label: str
    seed: int
    classes: list[str] | None = None
    """Of a classifier's adapter: what its outputs 0, 1, ... are called."""

    @property
    def preserves_sparsity(self) -> bool:
        """Whether the update counts only where the base is not zero."""
        return bool(self.method.get("preserve_sparsity"))

    def write(self, folder: Path) -> None:
        """Put the file into an adapter's folder."""
        write_text(folder / FILE, self.model_dump_json(indent=2) + "\n")


def read_provenance(folder: Path) -> Provenance | None:
    """What the file in an adapter's folder says; None for an adapter that somebody else trained.

    Raises:
        ModelError: there is a file, and it cannot be read.
    """
    path = folder / FILE
    if not path.is_file():
        return None
    try:
        return Provenance.model_validate_json(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, ValidationError) as error:
        first = error.errors(include_url=False)[0]["msg"] if isinstance(error, ValidationError) else str(error)
        raise ModelError(
            key=str(path), problem=f"is damaged ({first})", fix="copy the adapter's folder again, or remove this file"
        ) from None


def provenance_of(
    run: Run, pruned: Path | None, run_id: str | None = None, classes: list[str] | None = None
) -> Provenance:
    """The provenance of an adapter that `run` trained, on the model in the folder `pruned` if it pruned one.

    Args:
        run_id: what the run's folder is called. A worker's `run` has absolute paths, which give another id.
        classes: of a classifier.

    Raises:
        ModelError: the base's weights are not there any more.
    """
    from lora_dist.models.fingerprint import fingerprint_of  # with it comes transformers; listings read these files

    if pruned is None:
        base = Base(path=run.model.path, revision=run.model.revision, fingerprint=fingerprint_of(run.model))
    else:
        base = Base(path=PRUNED_BESIDE, fingerprint=fingerprint_of(run.model.at(pruned)), source=run.model.path)
    return Provenance(
        base=base,
        method=run.method.relevant(),
        task=run.data.task,
        data=run.data.path,
        run_id=run_id or run.id,
        arm=run.arm,
        label=run.label,
        seed=run.seed,
        classes=classes,
    )

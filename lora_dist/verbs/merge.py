"""merge: one or several trained adapters into the 16-bit weights of their base, as a model folder of its own."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lora_dist.assets import user_path
from lora_dist.config.combination import Combination
from lora_dist.config.problems import nearest
from lora_dist.config.sections import ModelSection
from lora_dist.errors import ConfigError, Interrupted, StorageError, UserError
from lora_dist.models.publishing import check_push, push
from lora_dist.store.folders import ExperimentFolder, RunFolder
from lora_dist.verbs.folders import check_writable
from lora_dist.verbs.merge_data import run_folder_of, run_to_measure
from lora_dist.verbs.merge_texts import Texts, portable
from lora_dist.verbs.options import TRUST, in_options
from lora_dist.verbs.train import Progress, silent

if TYPE_CHECKING:
    from lora_dist.models.adapter_folder import AdapterFolder
    from lora_dist.models.merge_stream import MergedWeights, StreamedMerge
    from lora_dist.pipeline.merge_scores import Yardstick

_FIXES = {
    TRUST: "merge it with peft's merge_and_unload",
    "choose another output_dir": "choose another --into",
    "choose an output_dir": "choose an --into",
    "name or output_dir": "--into",
    "correct the path": "correct the path, give --data, or --no-evaluate",
}
DTYPES = ("float32", "bfloat16", "float16")


@dataclass(frozen=True)
class MergeRequest:
    """What is to be merged, and how: the options of `lora-dist adapter merge`."""

    adapters: tuple[str, ...]
    """Folders of adapters or of the runs that trained them, or hub ids."""
    into: Path
    """The folder of the merged model: not there yet, or empty."""
    base: str | None = None
    """The base's hub id or folder; the one that the first adapter names, if not given."""
    revision: str | None = None
    """Branch, tag or commit of `base`."""
    combination: Combination | None = None
    """How several become one."""
    keep_zeros: bool = False
    """Mask the update by the base's zeros, although the adapters were not trained so."""
    dtype: str | None = None
    """Of the merged weights: float32, bfloat16 or float16; the base's own, if not given."""
    force: bool = False
    """Merge into a base with another fingerprint than the adapters were trained on."""
    evaluate: bool = True
    """Measure base, adapters and merged model on the same tokens."""
    data: str | None = None
    """What to measure on, if not the data of the run that trained the first adapter."""
    words: tuple[str, ...] = ()
    """Overrides for the measurement, such as data.max_eval_examples=100."""
    push: str | None = None
    """A hub repository that the folder is uploaded to."""

    def check(self) -> None:
        """What can be told before anything is opened.

        Raises:
            UserError: an option is not one.
        """
        if not self.adapters:
            raise ConfigError(key="ADAPTER", problem="is missing", fix="give a folder that a run left, or a hub id")
        (self.combination or Combination.of(len(self.adapters))).check(len(self.adapters))
        if self.dtype is not None and self.dtype not in DTYPES:
            raise ConfigError(key="--dtype", problem=f"'{self.dtype}' is none", fix=nearest(self.dtype, DTYPES))
        if self.revision is not None and self.base is None:
            raise ConfigError(key="--revision", problem="is of a base that is not named", fix="name it (--base)")
        if not self.evaluate and (self.data is not None or self.words):
            given = "--data" if self.data is not None else self.words[0]
            raise ConfigError(key=given, problem="says how to evaluate", fix="leave it or --no-evaluate out")
        if self.into.is_dir() and any(self.into.iterdir()):
            raise StorageError(key="--into", problem=f"'{self.into}' is not empty", fix="name a new folder")
        if self.into.exists() and not self.into.is_dir():
            raise StorageError(key="--into", problem=f"'{self.into}' is a file", fix="name a new folder")
        check_writable(self.into, "--into")


@dataclass(frozen=True)
class MergeResult:
    """A merged model."""

    folder: Path
    document: dict[str, Any]
    """What merge.json says."""
    pushed: str | None = None
    """The address of its repository."""
    evaluation: dict[str, Any] | None = field(init=False)
    """The scores (see pipeline/merge_scores.py); None where it was not measured."""

    def __post_init__(self) -> None:
        object.__setattr__(self, "evaluation", self.document["evaluation"])


def merge_adapters(request: MergeRequest, *, progress: Progress | None = None) -> MergeResult:
    """Merge adapters into their base: checks first, then the folder, then the scores, then the upload.

    The folder is in its place, complete, before it is measured: a measurement that fails does not cost the merge.

    Raises:
        Interrupted: Ctrl-C while the merged model was being measured; it is complete.
        UserError: something the user can mend; but for what is met while measuring or uploading, nothing was written.
    """
    request = replace(request, into=_place(request.into))
    request.check()
    if request.push is not None:
        check_push(request.push)
    show = progress or silent
    with in_options("--base", _FIXES):
        job = _Job.of(request, show)
        merged = job.files.write(lambda found: job.texts.of(found, None, job.why_not), show)
        document, _ = job.texts.of(merged, None, job.why_not)
        if job.yardstick is not None:
            document = job.measure(merged, show)
        pushed = job.push(document) if request.push else None
    return MergeResult(request.into, document, pushed)


def _place(into: Path) -> Path:
    place = user_path(str(into))
    return place.resolve() if place.is_symlink() else place


@dataclass(frozen=True)
class _Job:
    """A merge whose every part has been checked."""

    request: MergeRequest
    adapters: tuple[AdapterFolder, ...]
    files: Any
    """A MergedFolder."""
    yardstick: Yardstick | None
    why_not: str | None
    """Why there is none."""
    texts: Texts

    @classmethod
    def of(cls, request: MergeRequest, show: Progress) -> _Job:
        """Find, open and compare everything; writes nothing."""
        from lora_dist.models.adapter_folder import base_of, find_adapter  # imports the stack, which takes 10 s
        from lora_dist.models.fingerprint import fingerprint_of
        from lora_dist.models.loading import load_tokenizer, quiet_transformers
        from lora_dist.pipeline.merge_files import MergedFolder

        quiet_transformers()
        show("prepare", 0, 0, "looking at the adapters and their base")
        adapters = tuple(find_adapter(name) for name in request.adapters)
        base = (
            ModelSection(path=request.base, revision=request.revision) if request.base else base_of(adapters[0])
        )  # fmt: skip
        found = fingerprint_of(base)
        merge = _merge_of(request, adapters, base, found)
        tokenizer = load_tokenizer(base)
        run_folder = run_folder_of(adapters[0].path) if adapters[0].is_local else None
        texts = Texts.gather(request, merge, found, run_folder)
        files = MergedFolder(merge, request.into, tokenizer)
        yardstick, why_not = _yardstick(request, adapters, base, run_folder, tokenizer, show)
        return cls(request, adapters, files, yardstick, why_not, texts)

    def measure(self, merged: MergedWeights, show: Progress) -> dict[str, Any]:
        """Score what was merged, and write the scores beside it. Returns merge.json with them."""
        from lora_dist.pipeline.merge_files import write_texts
        from lora_dist.pipeline.merge_scores import measure_merge

        names = self.texts.names if len(self.adapters) > 1 else ("adapter",)
        complete = f"the merged model in {self.request.into} is complete"
        try:
            found = measure_merge(self.yardstick, names, self.request.into, show)
        except KeyboardInterrupt:
            raise Interrupted(f"interrupted: {complete}, and not evaluated") from None
        except UserError as error:
            problem = error.problems[0]
            raise type(error)(
                key=problem.key, problem=f"{problem.problem} ({complete}, and not evaluated)", fix=problem.fix
            ) from error
        except Exception as error:
            error.add_note(f"{complete}; its evaluation failed")
            raise
        document, card = self.texts.of(merged, found, None)
        write_texts(self.request.into, document, card)
        return document

    def push(self, document: dict[str, Any]) -> str:
        """Upload the folder; merge.json goes without the folders of this machine."""
        from lora_dist.pipeline.merge_files import DOCUMENT

        instead = {DOCUMENT: portable(document)}
        return push(self.request.into, self.request.push, "Merged by lora-dist", instead)


def _merge_of(
    request: MergeRequest, adapters: Sequence[AdapterFolder], base: ModelSection, found: str
) -> StreamedMerge:
    """Make sure that all adapters are of this base (whose fingerprint is `found`), then that they fit it."""
    import torch

    from lora_dist.models.adapter_folder import refuse_other_base
    from lora_dist.models.merging import open_merge

    if not request.force:
        for adapter in adapters:
            refuse_other_base(adapter, base, found)
    dtype = getattr(torch, request.dtype) if request.dtype else None
    return open_merge(base, adapters, request.combination, keep_zeros=request.keep_zeros, dtype=dtype)


def _yardstick(
    request: MergeRequest,
    adapters: Sequence[AdapterFolder],
    base: ModelSection,
    run_folder: RunFolder | None,
    tokenizer: Any,
    show: Progress,
) -> tuple[Yardstick | None, str | None]:
    """What to measure on, or why there is nothing."""
    from lora_dist.pipeline.merge_scores import Yardstick

    if not request.evaluate:
        return None, "it was asked not to be (--no-evaluate)"
    run = run_to_measure(run_folder, base, request.data, request.words)
    if run is None:
        return None, "no run that trained the adapter was found beside it; to evaluate, give --data PATH data.task=..."
    tokens = (run_folder.experiment if run_folder else ExperimentFolder(request.into)).tokens
    return Yardstick.of(run, adapters, tokenizer, tokens, show), None

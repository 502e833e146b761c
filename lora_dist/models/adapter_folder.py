"""An adapter's folder: found by what a user types, its config read, its base told."""

from __future__ import annotations

import contextlib
import json
import re
from dataclasses import dataclass
from pathlib import Path

from huggingface_hub import hf_hub_download
from huggingface_hub.errors import EntryNotFoundError, HFValidationError
from huggingface_hub.utils import validate_repo_id
from peft import IA3Config, LoraConfig, PeftConfig, PrefixTuningConfig

from lora_dist.assets import user_path
from lora_dist.config.sections import ModelSection
from lora_dist.errors import ModelError
from lora_dist.models import provenance
from lora_dist.models.adapter_files import CONFIG, PEFT_TYPE, WEIGHTS
from lora_dist.models.fingerprint import fingerprint_of
from lora_dist.models.provenance import PRUNED_BESIDE, Provenance, read_provenance
from lora_dist.models.sources import BUILTIN, hub_errors
from lora_dist.models.sparse_lora import allow_kept_zeros, keep_zeros

_MODEL_OF_RUN = "model"
_HUB_ID = re.compile(r"[\w.-]+/[\w.-]+")


@dataclass(frozen=True)
class AdapterFolder:
    """An adapter on the disk, before its weights are read."""

    path: Path
    config: PeftConfig
    provenance: Provenance | None
    """None for one that somebody else trained."""
    name: str
    """What the user typed."""
    is_local: bool
    """Not fetched from a hub, so that folders which it names are the user's own."""

    @property
    def kind(self) -> str:
        """lora (which qlora leaves too), ia3 or prefix."""
        return _KINDS[type(self.config)]

    @property
    def weights(self) -> Path:
        """Its tensors."""
        return self.path / WEIGHTS

    @property
    def keeps_zeros(self) -> bool:
        """Whether its update counts only where its base is not zero."""
        return self.provenance.preserves_sparsity if self.provenance else names_kept_zeros(self.path)


def find_adapter(text: str) -> AdapterFolder:
    """The adapter that a user names: its folder, the folder of the run that trained it, or a hub id.

    Raises:
        ModelError: it is not there, is of a kind that is not opened here, or its config is damaged.
    """
    path = user_path(text)
    if not path.is_dir():
        if path.exists() or not _HUB_ID.fullmatch(text):
            what = "is a file, not an adapter's folder" if path.exists() else "is no folder here"
            raise ModelError(key=text, problem=what, fix=_WHAT_TO_GIVE)
        return _opened(_fetched(text), text, is_local=False)
    for folder in (path, path / _MODEL_OF_RUN):
        if (folder / CONFIG).is_file():
            return _opened(folder.resolve(), text, is_local=True)
    raise ModelError(key=text, problem=f"holds no {CONFIG}", fix=_WHAT_TO_GIVE)


_WHAT_TO_GIVE = "give an adapter's folder, the folder of the run that trained it, or a hub id"


def _fetched(name: str) -> Path:
    """The adapter of a hub id, in the shared cache: its config, weights and, if it is one of ours, its provenance."""
    try:
        validate_repo_id(name)
    except HFValidationError as error:
        raise ModelError(key=name, problem="is neither a folder nor a hub id", fix=_WHAT_TO_GIVE) from error
    with hub_errors(ModelSection(path=name)):
        config = Path(hf_hub_download(name, CONFIG))
        hf_hub_download(name, WEIGHTS)
        with contextlib.suppress(EntryNotFoundError):  # somebody else's has none
            hf_hub_download(name, provenance.FILE)
    return config.parent


def _opened(folder: Path, name: str, *, is_local: bool) -> AdapterFolder:
    if not (folder / WEIGHTS).is_file():
        raise ModelError(key=str(folder / WEIGHTS), problem="is not there", fix="copy the adapter's folder again")
    return AdapterFolder(folder, config_in(folder), read_provenance(folder), name, is_local)


_KINDS: dict[type[PeftConfig], str] = {LoraConfig: "lora", IA3Config: "ia3", PrefixTuningConfig: "prefix"}
_PEFT_TYPES = {"LORA": LoraConfig, PEFT_TYPE: LoraConfig, "IA3": IA3Config, "PREFIX_TUNING": PrefixTuningConfig}


def config_in(folder: Path) -> PeftConfig:
    """The config of an adapter, of one that keeps zeros too.

    Raises:
        ModelError: it is damaged, or that of a kind of adapter that is not opened here.
    """
    path = folder / CONFIG
    try:
        document = json.loads(path.read_text(encoding="utf-8"))
        kind = document["peft_type"]
        if kind not in _PEFT_TYPES:
            fix = "give a LoRA, (IA)^3 or prefix tuning adapter"
            raise ModelError(key=str(path), problem=f"is a {kind} adapter", fix=fix)
        config = _PEFT_TYPES[kind].from_peft_type(**document | {"peft_type": "LORA" if kind == PEFT_TYPE else kind})
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        fix = "copy the adapter's folder again"
        raise ModelError(key=str(path), problem=f"is damaged ({' '.join(str(error).split())})", fix=fix) from error
    if kind == PEFT_TYPE:
        return keep_zeros(config)
    return allow_kept_zeros(config) if kind == "LORA" else config


def names_kept_zeros(folder: Path) -> bool:
    """Whether an adapter's config says that plain LoRA is not what it is; false for one that cannot be read."""
    try:
        document = json.loads((folder / CONFIG).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return False
    return isinstance(document, dict) and document.get("peft_type") == PEFT_TYPE


def base_of(adapter: AdapterFolder) -> ModelSection:
    """The model that an adapter says it was trained on. (For QLoRA: the 16 or 32-bit weights that were quantised.)

    Raises:
        ModelError: it does not say, or names a folder that is not here.
    """
    told = adapter.provenance
    if told is not None and told.base.path == PRUNED_BESIDE:
        folder = (adapter.path / PRUNED_BESIDE).resolve()
        if not folder.is_dir():
            raise _say_base(adapter, f"was trained on the pruned model in {folder}, which is not there")
        return ModelSection(path=str(folder))
    path, revision = (told.base.path, told.base.revision) if told else _named_by_peft(adapter.config)
    if not isinstance(path, str) or not path:
        raise _say_base(adapter, "does not say on which model it was trained")
    is_known = _HUB_ID.fullmatch(path) or path.startswith(BUILTIN) or (adapter.is_local and user_path(path).is_dir())
    if not is_known:
        raise _say_base(adapter, f"was trained on '{path}', which is not there")
    return ModelSection(path=path, revision=revision)


def _named_by_peft(config: LoraConfig) -> tuple[str | None, str | None]:
    """The base and its revision, which a local folder has none of."""
    path = config.base_model_name_or_path
    is_folder = isinstance(path, str) and user_path(path).is_dir()
    return path, None if is_folder else config.revision


def _say_base(adapter: AdapterFolder, problem: str) -> ModelError:
    return ModelError(key=adapter.name, problem=problem, fix="name its base (--base)")


def refuse_other_base(adapter: AdapterFolder, base: ModelSection, found: str | None = None) -> None:
    """Make sure that an adapter was trained on the weights of `base`; one that does not tell passes.

    Args:
        found: the fingerprint of `base`, where it is known.
    Raises:
        ModelError: it was trained on others.
    """
    told = adapter.provenance
    if told is None or told.base.fingerprint == (found or fingerprint_of(base)):
        return
    trained_on = f"a pruned {told.base.source}" if told.base.source else told.base.path
    raise ModelError(
        key=adapter.name,
        problem=f"was trained on other weights than those of '{base.path}' (on {trained_on}, "
        f"{told.base.fingerprint[:12]}...)",
        fix="give the base that it was trained on, or --force if you know better",
    )

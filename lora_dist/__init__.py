"""Is LoRA enough? One command, one honest comparison of fine-tuning methods for your model, data and hardware.

The verbs of `lora-dist` as functions. Names are imported when they are first used, so that `import lora_dist` and
`lora-dist --help` answer at once.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from lora_dist.config.experiment import Experiment, Run
    from lora_dist.config.loading import load_experiment
    from lora_dist.errors import LoraDistError, UserError
    from lora_dist.store.record import Record
    from lora_dist.verbs.adapter_generate import adapter_generate
    from lora_dist.verbs.adapter_list import adapter_list
    from lora_dist.verbs.cancel import cancel
    from lora_dist.verbs.check_data import check_data
    from lora_dist.verbs.clean import clean
    from lora_dist.verbs.compare import compare
    from lora_dist.verbs.evaluate import evaluate, evaluate_model
    from lora_dist.verbs.merge import MergeRequest, MergeResult, merge_adapters
    from lora_dist.verbs.plan import plan
    from lora_dist.verbs.prefetch import prefetch
    from lora_dist.verbs.prune import prune
    from lora_dist.verbs.report import report
    from lora_dist.verbs.retry import retry
    from lora_dist.verbs.status import status
    from lora_dist.verbs.submit import submit
    from lora_dist.verbs.train import train

__version__ = "0.1.0"

_HOMES = {
    "Experiment": "lora_dist.config.experiment",
    "LoraDistError": "lora_dist.errors",
    "MergeRequest": "lora_dist.verbs.merge",
    "MergeResult": "lora_dist.verbs.merge",
    "Record": "lora_dist.store.record",
    "Run": "lora_dist.config.experiment",
    "UserError": "lora_dist.errors",
    "adapter_generate": "lora_dist.verbs.adapter_generate",
    "adapter_list": "lora_dist.verbs.adapter_list",
    "cancel": "lora_dist.verbs.cancel",
    "check_data": "lora_dist.verbs.check_data",
    "clean": "lora_dist.verbs.clean",
    "compare": "lora_dist.verbs.compare",
    "evaluate": "lora_dist.verbs.evaluate",
    "evaluate_model": "lora_dist.verbs.evaluate",
    "load_experiment": "lora_dist.config.loading",
    "merge_adapters": "lora_dist.verbs.merge",
    "plan": "lora_dist.verbs.plan",
    "prefetch": "lora_dist.verbs.prefetch",
    "prune": "lora_dist.verbs.prune",
    "report": "lora_dist.verbs.report",
    "retry": "lora_dist.verbs.retry",
    "status": "lora_dist.verbs.status",
    "submit": "lora_dist.verbs.submit",
    "train": "lora_dist.verbs.train",
}

__all__ = [
    "Experiment",
    "LoraDistError",
    "MergeRequest",
    "MergeResult",
    "Record",
    "Run",
    "UserError",
    "adapter_generate",
    "adapter_list",
    "cancel",
    "check_data",
    "clean",
    "compare",
    "evaluate",
    "evaluate_model",
    "load_experiment",
    "merge_adapters",
    "plan",
    "prefetch",
    "prune",
    "report",
    "retry",
    "status",
    "submit",
    "train",
]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'lora_dist' has no attribute {name!r}")
    return getattr(importlib.import_module(_HOMES[name]), name)


def __dir__() -> list[str]:
    return sorted([*__all__, "__version__"])

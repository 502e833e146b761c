"""The model card of a merged model: what it was made of, how it scores, how to make it again. No torch."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from lora_dist.reporting.merging import SAME
from lora_dist.reporting.words import setting

_HUB_ID = re.compile(r"[\w.-]+/[\w.-]+")
_METHOD = {
    "linear": "LoRA factors added up, each weighted by the square root of its weight",
    "weighted": "updates added up, each times its weight",
    "ties": "TIES (arXiv 2306.01708): each update's largest values, where most agree on the sign",
    "dare": "DARE (arXiv 2311.03099): a random part of each update, scaled up",
}


def model_card(document: Mapping[str, Any], *, command: str, experiment: str | None) -> str:
    """README.md for the folder that merge.json (`document`, with names instead of paths) describes.

    Args:
        command: what was typed, with names instead of paths.
        experiment: the YAML by which the (first) adapter was trained.
    """
    front = yaml.safe_dump(_front_matter(document), sort_keys=False, allow_unicode=True).strip()
    parts = [
        f"---\n{front}\n---",
        f"# {document['name']}",
        _what_it_is(document),
        _adapters(document["adapters"]),
        _scores(document),
        _zeros(document),
        _how_to_make_it(document, command, experiment),
    ]
    return "\n\n".join(part for part in parts if part) + "\n"


def is_hub_id(text: Any) -> bool:
    """Whether a text names a repository of the hub, and no folder of this machine."""
    return isinstance(text, str) and bool(_HUB_ID.fullmatch(text)) and not Path(text).exists()


def _front_matter(document: Mapping[str, Any]) -> dict[str, Any]:
    """What the hub reads. What is not known is left out: the hub refuses a base that is no id of it."""
    front: dict[str, Any] = {}
    base = document["base"]["source"] or document["base"]["path"]
    if is_hub_id(base):
        front |= {
            "base_model": base,
            "base_model_relation": "finetune" if len(document["adapters"]) == 1 else "merge",
        }
    front |= {
        "library_name": "transformers",
        "pipeline_tag": "text-generation",
        "tags": ["lora_dist", f"merged-{document['kind']}"],
    }
    told = [adapter["provenance"]["data"] for adapter in document["adapters"] if adapter["provenance"]]
    if datasets := list(dict.fromkeys(filter(is_hub_id, told))):
        front["datasets"] = datasets
    return front


def _what_it_is(document: Mapping[str, Any]) -> str:
    base, merged = document["base"], document["merged"]
    count = len(document["adapters"])
    name = f"`{base['path']}`" + (f" (revision `{base['revision']}`)" if base["revision"] else "")
    pruned = f", which is `{base['source']}` pruned" if base["source"] else ""
    called = "An (IA)^3 adapter" if document["kind"] == "ia3" else "A LoRA adapter"
    how = "" if count == 1 else f" Method: {_METHOD[document['combination']['method']]}."
    notes = "".join(f"\n- {note}" for note in document["notes"])
    return (
        f"{called if count == 1 else f'{count} LoRA adapters'} merged into {name}{pruned}: "
        f"{merged['linears']} linears, {merged['weights']:,} weights, in {merged['dtype']}. It opens with "
        f"`AutoModelForCausalLM.from_pretrained`.{how}" + (f"\n{notes}" if notes else "")
    )


def _adapters(adapters: Sequence[Mapping[str, Any]]) -> str:
    rows = ["## Adapters", "", "| adapter | weight | trained by | task | data |", "|---|---|---|---|---|"]
    for adapter in adapters:
        told = adapter["provenance"]
        kind = _settings(told["method"]) if told else "unknown"
        task, data = (told["task"], data_name(told["data"])) if told else ("unknown", "unknown")
        rows.append(f"| {adapter['name']} | {adapter['weight']:g} | {kind} | {task} | {data} |")
    return "\n".join(rows)


def _settings(method: Mapping[str, Any]) -> str:
    shown = [f"{name} {method[name]}" for name in ("rank", "alpha") if name in method]
    shown += [name for name in ("dora", "rslora") if method.get(name)]
    shown += ["keeps the zeros"] if method.get("preserve_sparsity") else []
    return ", ".join([str(method.get("kind", "lora")), *shown])


def data_name(data: Any) -> str:
    """The data without the folders in which this machine has them."""
    if isinstance(data, Mapping):
        return ", ".join(f"{split}: {data_name(path)}" for split, path in data.items())
    if isinstance(data, list):
        return " ".join(map(data_name, data))
    return str(data) if is_hub_id(data) or str(data).startswith("builtin:") else Path(str(data)).name


def _scores(document: Mapping[str, Any]) -> str:
    found = document["evaluation"]
    if found is None:
        return f"## Scores\n\nNot evaluated: {document['not_evaluated']}."
    rows = [
        "## Scores",
        "",
        f"Perplexity on {found['rows']:,} rows ({found['scored_tokens']:,} scored tokens, the same ids for each model; "
        f"computed in {found['precision']}), with 95% bootstrap intervals over rows; the difference is paired.",
        "",
        "| model | perplexity | merged minus it |",
        "|---|---|---|",
    ]
    rows += [f"| {model['name']} | {in_words(model)} | {difference_in_words(model)} |" for model in found["models"]]
    return "\n".join(rows)


def in_words(model: Mapping[str, Any]) -> str:
    """A perplexity and its interval."""
    low, high = model["ci95"]
    return f"{model['perplexity']:.4f} [{low:.4f}, {high:.4f}]"


def difference_in_words(model: Mapping[str, Any]) -> str:
    """How far the merged model is from this one."""
    found = model.get("merged_minus")
    if found is None:
        return "-"
    if abs(found["difference"]) <= SAME * model["perplexity"]:
        return f"the same to {setting(SAME)}"
    low, high = found["ci95"]
    shown = "" if found["is_shown"] else ", no difference shown"
    return f"{found['difference']:+.4f} [{low:+.4f}, {high:+.4f}]{shown}"


def _zeros(document: Mapping[str, Any]) -> str:
    merged = document["merged"]
    if not merged["zeros_before"] and not merged["zeros_after"]:
        return ""
    share = f"{merged['zeros_after'] / merged['weights']:.2%} of the weights of these linears are zero"
    mask = "scaling keeps them" if document["kind"] == "ia3" else "the update is masked by them"
    kept = mask if merged["kept_zeros"] else f"{merged['filled']:,} were filled"
    return f"## Zeros\n\n{share}; in the base {merged['zeros_before']:,} are ({kept}), here {merged['zeros_after']:,}."


def _how_to_make_it(document: Mapping[str, Any], command: str, experiment: str | None) -> str:
    parts = ["## How to make it again", ""]
    told = document["adapters"][0]["provenance"]
    if experiment is not None and told is not None:
        which = f"`{document['adapters'][0]['name']}` ({told['label']})"
        parts += [f"{which} is a run of this experiment (`lora-dist compare`):", "", "```yaml"]
        parts += [experiment.strip(), "```", ""]
    parts += [f"With lora_dist {document['lora_dist']}, and the adapters under the names above:"]
    return "\n".join([*parts, "", "```sh", command, "```"])

"""The JSON schema of an experiment file, for editors (`# yaml-language-server: $schema=...`)."""

from __future__ import annotations

import copy
from typing import Any

from lora_dist.config.experiment import SECTIONS, Experiment


def experiment_schema() -> dict[str, Any]:
    """JSON schema (draft 2020-12) of an experiment file; an arm may give any part of a section."""
    schema = Experiment.model_json_schema()
    schema["$schema"] = "https://json-schema.org/draft/2020-12/schema"
    schema["title"] = "lora_dist experiment"
    schema["required"] = [key for key in schema["required"] if key != "name"]  # the file's stem serves
    definitions = schema["$defs"]
    for section in SECTIONS:
        whole = f"{section.capitalize()}Section"
        part = copy.deepcopy(definitions[whole])
        part.pop("required", None)
        part["title"] = f"Part of {section}"
        definitions[f"{whole}Part"] = part
        definitions["Arm"]["properties"][section] = {
            "$ref": f"#/$defs/{whole}Part",
            "description": definitions["Arm"]["properties"][section]["description"],
        }
    return schema

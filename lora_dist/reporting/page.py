"""report.html: the whole report in one file that loads nothing from anywhere."""

from __future__ import annotations

import base64
import re
from collections.abc import Sequence
from importlib import resources
from typing import Any

import jinja2

from lora_dist.reporting.cells import columns_for, groups_of
from lora_dist.reporting.generations import read_samples
from lora_dist.reporting.headline import headlines
from lora_dist.reporting.measured import COSTS, commands, environment_facts, facts, method_words
from lora_dist.reporting.plots import Plot
from lora_dist.reporting.rows import NO_DIFFERENCE, Comparison, Group
from lora_dist.reporting.side_tables import side_tables
from lora_dist.reporting.words import one_line

_TEMPLATE = "page.html.j2"
_CLASSES = {"better": "better", "worse": "worse", NO_DIFFERENCE: "same"}


def page(comparison: Comparison, plots: Sequence[Plot]) -> str:
    """The page as HTML. Everything that is put into the template is escaped: autoescape is on and never turned off."""
    environment = jinja2.Environment(autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True)
    environment.filters |= {"one_line": one_line, "base64": _base64, "minus": _minus}
    template = environment.from_string(_template_text())
    return template.render(
        title=", ".join(source.name for source in comparison.sources),
        headlines=headlines(comparison),
        columns=columns_for(comparison),
        groups=[_group(heading, group) for heading, group in groups_of(comparison)],
        classes=_CLASSES,
        side_tables=side_tables(comparison),
        comparison=comparison,
        plots=plots,
        method=method_words(comparison),
        costs=COSTS,
        environment=environment_facts(comparison.finished),
        commands=commands(comparison),
    )


def _group(heading: str, group: Group) -> dict[str, Any]:
    return {"heading": heading, "rows": group.rows, "samples": read_samples(group), "facts": facts(group)}


def _template_text() -> str:
    return resources.files("lora_dist.reporting").joinpath("templates", _TEMPLATE).read_text(encoding="utf-8")


def _base64(data: bytes) -> str:
    return base64.b64encode(data).decode("ascii")


def _minus(text: str) -> str:
    """A true minus before each negative number, which a hyphen is too short for."""
    return re.sub(r"(?<![\w.])-(?=\d)", "\N{MINUS SIGN}", text)

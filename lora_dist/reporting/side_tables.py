"""The tables beside the comparison, in their order."""

from __future__ import annotations

from lora_dist.reporting.answers import answers_tables
from lora_dist.reporting.cells import SideTable
from lora_dist.reporting.merging import merging_table
from lora_dist.reporting.rows import Comparison
from lora_dist.reporting.steps_table import steps_tables


def side_tables(comparison: Comparison) -> list[SideTable]:
    """Those that there is something to say in."""
    merging = merging_table(comparison)
    return [*answers_tables(comparison), *steps_tables(comparison), *([merging] if merging else [])]

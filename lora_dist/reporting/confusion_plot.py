"""The plot of which class was taken for which: a matrix for the best run of each arm."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from lora_dist.reporting.drawing import DARK, LIGHT, Theme, png_bytes, tiles
from lora_dist.reporting.measures import ACCURACY
from lora_dist.reporting.plots import Plot
from lora_dist.reporting.rows import QUALITY_SPLIT, Comparison, Group, Row, best
from lora_dist.reporting.words import one_line, percent

if TYPE_CHECKING:
    from matplotlib.axes import Axes

FILE_NAME = "confusion.png"
_MOST_CLASSES = 20  # with more the numbers are too small to read
_MOST_ARMS = 6
_LABEL = 14  # signs of a label that are shown


def confusion_plots(comparison: Comparison) -> list[Plot]:
    """The confusion matrices of the classifiers; none where there are none, or too many classes to show."""
    rows = [row for group in comparison.groups if group.measure is ACCURACY for row in _shown(group)]
    if not rows:
        return []
    return [
        Plot(
            FILE_NAME,
            "Which class was taken for which",
            "Rows of the test split by their label (down) and by what they were given (across), for the best run of "
            "each arm; the shade is the share of the label's rows.",
            _draw(rows, LIGHT),
            _draw(rows, DARK),
        )
    ]


def _shown(group: Group) -> list[Row]:
    arms = dict.fromkeys((row.experiment, row.run.arm) for row in group.rows)
    found = [best([row for row in group.rows if (row.experiment, row.run.arm) == arm]) for arm in arms]
    rows = [row for row in found if row and len(row.measured(QUALITY_SPLIT, "confusion")) <= _MOST_CLASSES]
    return rows[:_MOST_ARMS]


def _draw(rows: Sequence[Row], theme: Theme) -> bytes:
    figure, axes = tiles(len(rows), theme)
    for panel, row in zip(axes, rows, strict=True):
        _matrix(panel, row, theme)
    return png_bytes(figure)


def _matrix(panel: Axes, row: Row, theme: Theme) -> None:
    from matplotlib.colors import LinearSegmentedColormap

    counts_CC = np.array(row.measured(QUALITY_SPLIT, "confusion"))
    shares_CC = counts_CC / np.maximum(counts_CC.sum(1, keepdims=True), 1)
    shades = LinearSegmentedColormap.from_list("shares", [theme.ground, theme.color(0)])
    panel.imshow(shares_CC, cmap=shades, vmin=0, vmax=1)
    panel.grid(visible=False)
    labels = [one_line(label, _LABEL) for label in (row.record.data.labels if row.record else None) or []]
    places: dict[str, Any] = {"labels": labels, "color": theme.faint, "fontsize": 8, "parse_math": False}
    panel.set_xticks(range(len(labels)), rotation=30, ha="right", **places)
    panel.set_yticks(range(len(labels)), **places)
    small = 8 if len(labels) <= 8 else 5
    for (true, given), number in np.ndenumerate(counts_CC):
        color = theme.ground if shares_CC[true, given] > 0.5 else theme.ink
        panel.text(given, true, f"{number:,}", ha="center", va="center", fontsize=small, color=color)
    estimate = row.quality()
    told = f" ({percent(estimate.value)})" if estimate else ""
    panel.set_title(f"{row.name}{told}", color=theme.ink, fontsize=10, loc="left", parse_math=False)

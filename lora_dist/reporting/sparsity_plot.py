"""Quality against sparsity: a line for each way of pruning (and training), with the dense base under it."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from typing import TYPE_CHECKING

from lora_dist.reporting.cells import groups_of
from lora_dist.reporting.drawing import (
    DARK,
    LIGHT,
    LINES,
    MARKERS,
    Point,
    Theme,
    label_points,
    legend,
    name_axes,
    panels,
    png_bytes,
)
from lora_dist.reporting.plots import Plot, base_lines, scale
from lora_dist.reporting.pruned import KIND_WORDS, is_approximate
from lora_dist.reporting.rows import Comparison, Group, Row
from lora_dist.reporting.words import METHOD_WORDS

if TYPE_CHECKING:
    from matplotlib.axes import Axes

FILE_NAME = "quality_vs_sparsity.png"


def sparsity_plots(comparison: Comparison) -> list[Plot]:
    """The plot, or none where nothing is pruned."""
    groups = [(heading, group, _pruned(group)) for heading, group in groups_of(comparison)]
    groups = [(heading, group, rows) for heading, group, rows in groups if rows]
    if not groups:
        return []
    title = "Quality against sparsity"
    caption = (
        "Lower is better. Zeros among the weights of the pruned linears, as they are in the pruned model; N:M patterns "
        "are points with their name."
    )
    return [Plot(FILE_NAME, title, caption, _draw(groups, LIGHT), _draw(groups, DARK))]


def _pruned(group: Group) -> list[Row]:
    return [row for row in group.rows if row.record and row.record.prune and row.perplexity()]


def _draw(groups: Sequence[tuple[str, Group, list[Row]]], theme: Theme) -> bytes:
    ways = list(dict.fromkeys(_way(row) for _, _, rows in groups for row in rows))
    figure, axes = panels(len(groups), theme)
    for panel, (heading, group, rows) in zip(axes, groups, strict=True):
        points: list[Point] = []
        by_way: dict[str, list[Row]] = defaultdict(list)
        for row in rows:
            by_way[_way(row)].append(row)
        for way, members in by_way.items():
            points += _line(panel, way, members, theme, ways.index(way))
        base_lines(panel, group, points, theme)
        name_axes(panel, "zeros in the pruned linears (%)", "test perplexity (lower is better)", heading, theme)
        scale(panel, points, log_x=False)
        legend(panel, theme)
        label_points(panel, points, theme)
    return png_bytes(figure)


def _way(row: Row) -> str:
    """What the rows of one line have in common."""
    section = row.run.prune
    kind = KIND_WORDS[section.kind] if section else ""
    trained = "" if row.kind == "base" else f" + {METHOD_WORDS[row.kind]}"
    return f"{kind}{' (dense inputs)' if is_approximate(row) else ''}{trained}"


def _line(panel: Axes, way: str, rows: Sequence[Row], theme: Theme, index: int) -> list[Point]:
    """Draw one way's rows: sparsities joined, patterns apart and named."""
    color, marker = theme.color(index), MARKERS[index % len(MARKERS)]
    points = []
    joined: list[tuple[float, float]] = []
    for row in rows:
        estimate, section, part = row.perplexity(), row.run.prune, row.record.prune if row.record else None
        if estimate is None or section is None or part is None:
            continue
        x, low, high = 100 * part.sparsity, estimate.low or estimate.value, estimate.high or estimate.value
        bars = [[max(0.0, estimate.value - low)], [max(0.0, high - estimate.value)]]
        panel.errorbar([x], [estimate.value], yerr=bars, fmt=marker, color=color, markersize=6, capsize=3, zorder=3)
        points.append(Point(x, estimate.value, low, high, section.pattern or ""))
        if section.pattern is None:
            joined.append((x, estimate.value))
    line = sorted(joined) or [(points[0].x, points[0].y)]
    panel.plot(
        *zip(*line, strict=True),
        color=color,
        linestyle=LINES[index % len(LINES)],
        marker=marker,
        markersize=6,
        label=way,
    )
    return points

"""Quality along one setting: by sparsity and by rank, a line for each way of training, the bases under them.

What rows are compared by has a panel, and what their answers were judged by has one of its own under it.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from lora_dist.reporting.answers import judged_of
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
from lora_dist.reporting.measures import Measure, judged_by
from lora_dist.reporting.names import without_seed
from lora_dist.reporting.plots import Plot, base_lines, scale
from lora_dist.reporting.pruned import KIND_WORDS, is_approximate
from lora_dist.reporting.rows import QUALITY_SPLIT, Comparison, Group, Row
from lora_dist.reporting.words import METHOD_WORDS

if TYPE_CHECKING:
    from matplotlib.axes import Axes

LINE_FILES = SPARSITY, RANK = "quality_vs_sparsity.png", "quality_vs_rank.png"


@dataclass(frozen=True)
class _Along:
    """One setting that rows are drawn along."""

    file_name: str
    title: str
    caption: str
    x_name: str
    x_of: Callable[[Row], float | None]
    """None for a row that does not belong there."""
    way: Callable[[Row], str]
    """What the rows of one line have in common."""
    label: Callable[[Row], str]
    """Written beside a point, which is then left out of the line."""
    fewest: int
    """Different values that there have to be."""
    is_log: bool = False


def line_plots(comparison: Comparison) -> list[Plot]:
    """The plots that there are enough rows for."""
    return [plot for along in _ALONG if (plot := _plot(comparison, along))]


def _plot(comparison: Comparison, along: _Along) -> Plot | None:
    found: list[tuple[str, Group, list[Row], Measure]] = []
    for heading, group in groups_of(comparison):
        rows = [row for row in group.rows if along.x_of(row) is not None and row.quality()]
        if len({along.x_of(row) for row in rows}) >= along.fewest:
            found += [(heading, group, rows, metric) for metric in _measures(group, rows)]
    if not found:
        return None
    return Plot(along.file_name, along.title, along.caption, _draw(along, found, LIGHT), _draw(along, found, DARK))


def _measures(group: Group, rows: Sequence[Row]) -> list[Measure]:
    """What the rows are compared by, and the first that their answers were judged by."""
    tests = [row.record.evaluate[QUALITY_SPLIT] for row in rows if row.record and judged_of(row)]
    return [group.measure, *judged_by(tests)[:1]]


def _draw(along: _Along, found: Sequence[tuple[str, Group, list[Row], Measure]], theme: Theme) -> bytes:
    ways = list(dict.fromkeys(along.way(row) for _, _, rows, _ in found for row in rows))
    figure, axes = panels(len(found), theme)
    for panel, (heading, group, rows, metric) in zip(axes, found, strict=True):
        points: list[Point] = []
        by_way: dict[str, list[Row]] = defaultdict(list)
        for row in rows:
            by_way[along.way(row)].append(row)
        for way, members in by_way.items():
            points += _line(panel, along, way, members, metric, theme, ways.index(way))
        name_axes(panel, along.x_name, metric.axis, heading, theme)
        if metric is group.measure:
            base_lines(panel, group, points, theme)
        scale(panel, points, log_x=along.is_log)
        legend(panel, theme)
        label_points(panel, points, theme)
    return png_bytes(figure)


def _line(
    panel: Axes, along: _Along, way: str, rows: Sequence[Row], metric: Measure, theme: Theme, index: int
) -> list[Point]:
    """Draw one way's rows: joined along the setting, those with a label apart."""
    style = {"color": theme.color(index), "marker": MARKERS[index % len(MARKERS)], "markersize": 6}
    points: list[Point] = []
    joined: list[tuple[float, float]] = []
    for row in rows:
        estimate, x = row.estimate(QUALITY_SPLIT, metric.name), along.x_of(row)
        if estimate is None or x is None:
            continue
        value, low, high = (
            metric.scale * (estimate.value if end is None else end)
            for end in (estimate.value, estimate.low, estimate.high)
        )
        bars = [[max(0.0, value - low)], [max(0.0, high - value)]]
        panel.errorbar([x], [value], yerr=bars, linestyle="", capsize=3, zorder=3, **style)
        points.append(Point(x, value, low, high, along.label(row)))
        if not along.label(row):
            joined.append((x, value))
    line = sorted(joined) or [(point.x, point.y) for point in points[:1]]
    if line:
        panel.plot(*zip(*line, strict=True), linestyle=LINES[index % len(LINES)], label=way, **style)
    return points


def _zeros(row: Row) -> float | None:
    return 100 * row.record.prune.sparsity if row.record and row.record.prune else None


def _pruned_by(row: Row) -> str:
    section = row.run.prune
    kind = KIND_WORDS[section.kind] if section else ""
    trained = "" if row.kind == "base" else f" + {METHOD_WORDS[row.kind]}"
    return f"{kind}{' (dense inputs)' if is_approximate(row) else ''}{trained}"


def _pattern(row: Row) -> str:
    return row.run.prune.pattern or "" if row.run.prune else ""


def _rank(row: Row) -> float | None:
    return row.settings.get("rank") if row.run.prune is None else None


def _arm(row: Row) -> str:
    """The arm, with its alphas apart as multiples of the rank: what they share says how the update is scaled."""
    ratio = row.settings["alpha"] / row.settings["rank"]
    return f"{without_seed(row).split(' ')[0]}, alpha = {ratio:g} x rank"


_ALONG = (
    _Along(
        SPARSITY,
        "Quality against sparsity",
        "Zeros among the weights of the pruned linears, as they are in the pruned model; N:M patterns are points with "
        "their name. Bars are 95% intervals.",
        "zeros in the pruned linears (%)",
        _zeros, _pruned_by, _pattern, fewest=1,
    ),
    _Along(
        RANK,
        "Quality against rank",
        "Every setting and every seed; a line joins those that scale the update alike. Bars are 95% intervals.",
        "rank of the adapter",
        _rank, _arm, lambda _: "", fewest=2, is_log=True,
    ),
)  # fmt: skip

"""The plots: quality against trainable parameters and against time, and the training curves; one panel per group."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from lora_dist.reporting.arms import arm_indices, arm_of, best_of_each_arm
from lora_dist.reporting.cells import groups_of
from lora_dist.reporting.curves_plot import training_curves, validation_caption
from lora_dist.reporting.drawing import (
    DARK,
    LIGHT,
    MARKERS,
    Point,
    Theme,
    is_wide,
    label_points,
    log_axis,
    name_axes,
    nudged,
    panels,
    png_bytes,
)
from lora_dist.reporting.frontier import pareto_line
from lora_dist.reporting.names import without_seed
from lora_dist.reporting.rows import Comparison, Estimate, Group, Row, settings_of
from lora_dist.reporting.words import listed, perplexity

if TYPE_CHECKING:
    from matplotlib.axes import Axes

FILE_NAMES = PARAMETERS, TIME, CURVES = "quality_vs_parameters.png", "quality_vs_time.png", "training_curves.png"

_FAR = 3.0  # a base further above the others than this many times their spread is not drawn to scale
_SAME_X, _NUDGE = 0.02, 9.0  # points closer than 2% of x are drawn beside each other, in 1/72 inch
_LABELS = 10  # with more settings than this only the best of each arm has a label
_UNITS = ((2 * 3600.0, 3600.0, "hours"), (180.0, 60.0, "minutes"), (0.0, 1.0, "seconds"))


@dataclass(frozen=True)
class Plot:
    """One plot as PNG, for light and for dark pages."""

    file_name: str
    title: str
    caption: str
    png: bytes
    png_dark: bytes


def draw_plots(comparison: Comparison) -> list[Plot]:
    """The plots that the finished rows have data for; none for an experiment without finished runs."""
    drawings: list[tuple[str, str, str, Callable[[Comparison, Theme], bytes | None]]] = [
        (
            PARAMETERS,
            "Quality against trainable parameters",
            f"{_better(comparison)} Bars are 95% intervals of each row by itself; bars that overlap do not mean that "
            "no difference was shown, since the table pairs the rows. The grey line joins the Pareto front.",
            _against_parameters,
        ),
        (
            TIME,
            "Quality against training time",
            f"{_better(comparison)} Seconds of optimizer steps alone, without loading, evaluation and saving. The grey "
            "line joins the Pareto front: what no other row beats in both.",
            _against_time,
        ),
        (
            CURVES,
            "Training curves",
            f"Loss of each optimizer step on the train split, lightly smoothed.{validation_caption(comparison)}",
            training_curves,
        ),
    ]
    plots: list[Plot] = []
    for file_name, title, caption, draw in drawings:
        light = draw(comparison, LIGHT)
        if light:
            plots.append(Plot(file_name, title, caption, light, draw(comparison, DARK) or light))
    return plots


def _against_parameters(comparison: Comparison, theme: Theme) -> bytes | None:
    def trainable(row: Row) -> float | None:
        return row.record.model.parameters_trainable or None if row.record else None

    return _scatter(comparison, theme, trainable, "trainable parameters", always_log=True)


def _against_time(comparison: Comparison, theme: Theme) -> bytes | None:
    times = [row.record.train.seconds for row in comparison.finished if row.record and row.record.train]
    longest = max(times, default=0.0)
    unit, name = next((unit, name) for least, unit, name in _UNITS if longest >= least)

    def time(row: Row) -> float | None:
        return row.record.train.seconds / unit or None if row.record and row.record.train else None

    return _scatter(comparison, theme, time, f"training time ({name})", always_log=False)


def _scatter(
    comparison: Comparison, theme: Theme, x_of: Callable[[Row], float | None], x_name: str, *, always_log: bool
) -> bytes | None:
    """Test perplexity (or accuracy) over `x_of`, or None when no row has both."""
    groups = [
        (heading, group, [row for row in group.rows if row.quality() and x_of(row)])
        for heading, group in groups_of(comparison)
    ]
    groups = [(heading, group, rows) for heading, group, rows in groups if rows]
    if not groups:
        return None
    arms = arm_indices(comparison)
    figure, axes = panels(len(groups), theme)
    for panel, (heading, group, rows) in zip(axes, groups, strict=True):
        points: list[Point] = []
        labels = _labels(rows)
        for row in rows:
            points.append(
                _point(panel, row, x_of(row) or 0.0, points, theme, arms[arm_of(row)], labels.get(row.name, ""))
            )
        base_lines(panel, group, points, theme)
        pareto_line(panel, points, theme, higher_is_better=not group.measure.is_lower_better)
        name_axes(panel, x_name, group.measure.axis, heading, theme)
        xs = [point.x for point in points]
        scale(panel, points, log_x=always_log or is_wide(min(xs), max(xs)))
        label_points(panel, points, theme)
    return png_bytes(figure)


def _labels(rows: Sequence[Row]) -> dict[str, str]:
    """What is written beside which row: one label for all seeds of a setting; of many settings, each arm's best."""
    settings = settings_of(rows)
    if len(settings) > _LABELS:
        shown = best_of_each_arm(rows)
        settings = [seeds for seeds in settings if any(row.name in shown for row in seeds)]
    return {seeds[0].name: without_seed(seeds[0]) if len(seeds) > 1 else seeds[0].name for seeds in settings}


def _point(panel: Axes, row: Row, x: float, before: Sequence[Point], theme: Theme, index: int, label: str) -> Point:
    """Draw one row; where others already stand at its x, a little to the side of them."""
    estimate = _shown(row)
    if estimate is None:
        raise ValueError(f"{row.name} has not been measured on the test")
    bars = None
    if estimate.low is not None and estimate.high is not None:
        bars = [[max(0.0, estimate.value - estimate.low)], [max(0.0, estimate.high - estimate.value)]]
    lowest, highest = (estimate.value - bars[0][0], estimate.value + bars[1][0]) if bars else (estimate.value,) * 2
    panel.update_datalim([(x, lowest), (x, highest)])  # what is drawn nudged does not count towards the limits
    twins = sum(abs(other.x / x - 1) < _SAME_X for other in before)
    nudge = _NUDGE * ((twins + 1) // 2) * (1 if twins % 2 else -1)
    panel.errorbar(
        [x], [estimate.value], yerr=bars, fmt=MARKERS[index % len(MARKERS)], color=theme.color(index),
        markersize=7, markeredgecolor=theme.ground, elinewidth=1.4, capsize=3, zorder=3,
        transform=nudged(panel, nudge),
    )  # fmt: skip
    return Point(x, estimate.value, lowest, highest, label, nudge)


def _shown(row: Row) -> Estimate | None:
    """A row's quality on the test as it is drawn."""
    found, scale = row.quality(), row.measure.scale
    if found is None or found.low is None or found.high is None:
        return found and Estimate(found.value * scale)
    return Estimate(found.value * scale, found.low * scale, found.high * scale)


def _better(comparison: Comparison) -> str:
    """Which way is better, where all groups agree."""
    ways = {group.measure.is_lower_better for group in comparison.groups}
    return "" if len(ways) != 1 else "Lower is better." if ways.pop() else "Higher is better."


def base_lines(panel: Axes, group: Group, points: Sequence[Point], theme: Theme) -> None:
    """The zero-shot rows, which train nothing, as horizontal lines; one far above all others only as a note, since
    drawn to scale it would squeeze together what the plot is there to tell apart."""
    lines: dict[float, list[str]] = {}  # bases of several experiments are often one and the same
    for row in group.of_kind("base"):
        if estimate := _shown(row):
            lines.setdefault(estimate.value, []).append(row.name)
    low, high = min(point.low for point in points), max(point.high for point in points)
    for index, (value, names) in enumerate(sorted(lines.items())):
        text = f"{listed(names)}: zero-shot {perplexity(value)}{group.measure.sign}"
        if value > high + _FAR * (high - low):
            place = {"text": f"\u2191 {text}, above this scale", "xy": (0.0, 1.0), "xycoords": "axes fraction"}
            up = -12 * (index + 1)
        else:
            panel.axhline(value, color=theme.faint, linewidth=1.3, linestyle=(0, (5, 3)), zorder=2)
            place = {"text": text, "xy": (0.0, value), "xycoords": ("axes fraction", "data")}
            up = 3
        panel.annotate(
            **place, xytext=(4, up), textcoords="offset points", fontsize=8.5, color=theme.faint, parse_math=False
        )


def scale(panel: Axes, points: Sequence[Point], *, log_x: bool) -> None:
    """Logarithmic axes where values differ widely, and room at the sides for labels."""
    low, high = panel.dataLim.intervaly
    if is_wide(low, high):
        log_axis(panel.yaxis)
        panel.set_ylim(low / 1.25, high * 1.35)
    else:
        room = 0.12 * (high - low) or 0.05 * high
        panel.set_ylim(low - room, high + room)
    xs = [point.x for point in points]
    if log_x:
        log_axis(panel.xaxis)
        reach = max(2.0, (max(xs) / min(xs)) ** 0.15)
        panel.set_xlim(min(xs) / reach, max(xs) * reach)
    else:
        reach = 0.15 * (max(xs) - min(xs)) or 0.5 * max(xs)
        panel.set_xlim(max(0.0, min(xs) - reach), max(xs) + reach)

"""The training curves: loss over optimizer steps, and the validation losses that were measured on the way."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from lora_dist.reporting.arms import arm_indices, arm_of, best_of_each_arm
from lora_dist.reporting.cells import groups_of
from lora_dist.reporting.drawing import LINES, Theme, is_wide, legend, log_axis, name_axes, panels, png_bytes
from lora_dist.reporting.rows import Comparison, Row
from lora_dist.store.lines import read_lines

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_CURVES_IN_LEGEND = 16
_CURVES_WITH_RAW = 6  # with more curves the unsmoothed ones are only clutter
_CURVE_POINTS = 2000

Curve = tuple[np.ndarray, np.ndarray]
"""Steps, and the loss of each."""


def training_curves(comparison: Comparison, theme: Theme) -> bytes | None:
    """One panel per group, a curve for each run of more than one step; None where there is none."""
    groups = [
        (heading, curves)
        for heading, group in groups_of(comparison)
        if (curves := [(row, curve) for row in group.rows if len((curve := _by_step(row, "loss"))[0]) > 1])
    ]
    if not groups:
        return None
    arms, seen = arm_indices(comparison), dict.fromkeys(arm_indices(comparison), 0)
    figure, axes = panels(len(groups), theme)
    for panel, (heading, curves) in zip(axes, groups, strict=True):
        shown = best_of_each_arm([row for row, _ in curves]) if len(curves) > _CURVES_IN_LEGEND else None
        for row, curve in curves:
            color, line = theme.color(arms[arm_of(row)]), LINES[seen[arm_of(row)] % len(LINES)]
            seen[arm_of(row)] += 1
            label = row.name if shown is None or row.name in shown else None
            _draw(panel, row, curve, {"color": color, "linestyle": line, "label": label}, len(curves))
        loss = f"training loss ({curves[0][0].measure.loss_unit})"
        name_axes(panel, "optimizer step", loss, heading, theme)
        panel.xaxis.get_major_locator().set_params(integer=True)
        if is_wide(*panel.dataLim.intervaly):
            log_axis(panel.yaxis)
        legend(panel, theme)
    return png_bytes(figure)


def validation_caption(comparison: Comparison) -> str:
    """What the rings are, where a run has measured its validation loss while it trained."""
    if not any(row.record and row.record.train and row.record.train.validation for row in comparison.finished):
        return ""
    return " Rings: the loss on the validation split at that step."


def _draw(panel: Axes, row: Row, curve: Curve, style: dict[str, str | None], curves: int) -> None:
    steps, losses = curve
    if curves <= _CURVES_WITH_RAW:
        panel.plot(steps, losses, color=style["color"], alpha=0.18, linewidth=1)
    panel.plot(*_thinned(steps, _smoothed(losses)), linewidth=1.7, **style)
    validation = _by_step(row, "validation_loss")
    if len(validation[0]):
        panel.plot(
            *validation, color=style["color"], marker="o", markersize=5, markerfacecolor="none",
            linestyle=(0, (1, 2)), linewidth=1,
        )  # fmt: skip


def _by_step(row: Row, key: str) -> Curve:
    """A step that a resumed run did twice counts as it was done last; what is not finite is not drawn."""
    found = {
        line["step"]: line[key]
        for line in read_lines(row.at.folder.metrics)
        if isinstance(line.get("step"), int) and isinstance(line.get(key), int | float)
    }
    steps = sorted(step for step, loss in found.items() if np.isfinite(loss))
    return np.array(steps), np.array([found[step] for step in steps])


def _smoothed(values: np.ndarray) -> np.ndarray:
    """Running mean over a thirtieth of the curve, at least 3 steps; at the ends over what is there."""
    window = np.ones(min(len(values), max(3, len(values) // 30)))
    return np.convolve(values, window, "same") / np.convolve(np.ones(len(values)), window, "same")


def _thinned(steps: np.ndarray, losses: np.ndarray) -> Curve:
    every = max(1, len(steps) // _CURVE_POINTS)
    return steps[::every], losses[::every]

"""The Pareto front of cost and quality: what no other run beats in both."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from lora_dist.reporting.drawing import Point, Theme

if TYPE_CHECKING:
    from matplotlib.axes import Axes


def front(points: Sequence[tuple[float, float]]) -> list[tuple[float, float]]:
    """The Pareto front of (cost, loss), by rising cost: points that none beats in one and equals in the other."""
    kept: list[tuple[float, float]] = []
    for cost, loss in sorted(set(points)):
        if not kept or loss < kept[-1][1]:
            kept.append((cost, loss))
    return kept


def pareto_line(panel: Axes, points: Sequence[Point], theme: Theme, *, higher_is_better: bool) -> None:
    """Steps along the Pareto front, where it has more than one point."""
    sign = -1 if higher_is_better else 1
    found = [(x, sign * loss) for x, loss in front([(point.x, sign * point.y) for point in points])]
    if len(found) > 1:
        panel.step(*zip(*found, strict=True), where="post", color=theme.faint, linewidth=1.2, alpha=0.7, zorder=1)

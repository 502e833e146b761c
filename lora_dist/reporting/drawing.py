"""Colours, axes and labels of the plots: legible in print, on a phone, in dark mode and without colour vision."""

from __future__ import annotations

import io
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from lora_dist.reporting.words import count

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.axis import Axis
    from matplotlib.figure import Figure
    from matplotlib.text import Text
    from matplotlib.transforms import Bbox, Transform

# Okabe & Ito 2008: told apart with any kind of colour vision; on the dark ground the two darkest are lightened.
_ON_LIGHT = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#6B6B6B")
_ON_DARK = ("#4FA8E0", "#FF8A47", "#2CC79B", "#E39AC4", "#F0B73D", "#8FD0F7", "#A8A8A8")
MARKERS = ("o", "s", "D", "^", "v", "P", "X")
LINES = ("-", "--", ":", "-.")
_DPI, _WIDTH, _HEIGHT = 144, 7.6, 4.3  # inches
_LABEL_SIZE = 8.5
_TILES_ACROSS = 3
_WIDE = 8.0  # the largest over the smallest value from which an axis is logarithmic
# Where a label may stand beside its point, in points (1/72 inch), best first: (x, y, horizontal, vertical).
_PLACES = (
    (8, 0, "left", "center"), (-8, 0, "right", "center"), (7, 7, "left", "bottom"), (7, -7, "left", "top"),
    (-7, 7, "right", "bottom"), (-7, -7, "right", "top"), (0, 10, "center", "bottom"), (0, -10, "center", "top"),
    (8, 16, "left", "bottom"), (8, -16, "left", "top"), (-8, 16, "right", "bottom"), (-8, -16, "right", "top"),
)  # fmt: skip


@dataclass(frozen=True)
class Point:
    """A point in data coordinates; `nudge` (1/72 inch) moves it aside, and an empty label is not drawn."""

    x: float
    y: float
    low: float
    """The ends of its error bar."""
    high: float
    label: str
    nudge: float = 0.0


@dataclass(frozen=True)
class Theme:
    """The colours of one appearance."""

    ground: str
    ink: str
    faint: str
    grid: str
    palette: tuple[str, ...]

    def color(self, index: int) -> str:
        """The colour of the arm with this index; they come round again after seven."""
        return self.palette[index % len(self.palette)]


LIGHT = Theme("#ffffff", "#1d232b", "#5f6b7a", "#e4e8ee", _ON_LIGHT)
DARK = Theme("#171b22", "#e6eaf0", "#9aa6b5", "#2b323d", _ON_DARK)


def panels(number: int, theme: Theme) -> tuple[Figure, list[Axes]]:
    """A figure with `number` panels, one below the other."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(_WIDTH, _HEIGHT * number), dpi=_DPI, layout="constrained", facecolor=theme.ground)
    FigureCanvasAgg(figure)
    axes = [figure.add_subplot(number, 1, index + 1) for index in range(number)]
    for panel in axes:
        panel.set_facecolor(theme.ground)
        panel.grid(color=theme.grid, linewidth=0.8)
        panel.set_axisbelow(True)
        panel.tick_params(which="both", colors=theme.faint, labelsize=9, length=0)
        for side, spine in panel.spines.items():
            spine.set_visible(side == "bottom")
            spine.set_color(theme.grid)
    return figure, axes


def tiles(number: int, theme: Theme) -> tuple[Figure, list[Axes]]:
    """A figure with `number` square panels, up to three beside each other."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    across = min(_TILES_ACROSS, number)
    down = -(-number // across)
    side = _WIDTH / _TILES_ACROSS
    figure = Figure(
        figsize=(side * max(across, 2), (side + 0.4) * down), dpi=_DPI, layout="constrained", facecolor=theme.ground
    )
    FigureCanvasAgg(figure)
    axes = [figure.add_subplot(down, across, index + 1) for index in range(number)]
    for panel in axes:
        panel.set_facecolor(theme.ground)
        panel.tick_params(which="both", colors=theme.faint, length=0)
        for spine in panel.spines.values():
            spine.set_visible(False)
    return figure, axes


def name_axes(panel: Axes, x: str, y: str, title: str, theme: Theme) -> None:
    """Titles in the theme's ink; never read as mathematics, whatever they hold."""
    panel.set_xlabel(x, color=theme.faint, fontsize=9.5)
    panel.set_ylabel(y, color=theme.faint, fontsize=9.5)
    if title:
        panel.set_title(title, color=theme.ink, fontsize=10, loc="left", parse_math=False)


def is_wide(low: float, high: float) -> bool:
    """Whether values differ so widely that their axis is to be logarithmic."""
    return low > 0 and high / low > _WIDE


def log_axis(axis: Axis) -> None:
    """A logarithmic axis with readable numbers (200k, not 2 x 10^5)."""
    from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

    axis.axes.set(**{f"{axis.axis_name}scale": "log"})
    axis.set_major_locator(LogLocator(subs=(1, 2, 5), numticks=12))
    axis.set_major_formatter(FuncFormatter(lambda value, _: _trimmed(count(value))))
    axis.set_minor_formatter(NullFormatter())


def legend(panel: Axes, theme: Theme) -> None:
    """A legend to the right of the panel, out of the data's way."""
    found = panel.legend(
        loc="upper left", bbox_to_anchor=(1.01, 1.0), frameon=False, fontsize=_LABEL_SIZE, labelcolor=theme.ink
    )
    for text in found.get_texts():
        text.set_parse_math(False)


def label_points(panel: Axes, points: Sequence[Point], theme: Theme) -> None:
    """Write the labels beside their points, each at the place where it covers least."""
    figure = panel.get_figure(root=True)
    figure.draw_without_rendering()  # settles the layout, so that places in pixels are the final ones
    taken = [box for point in points for box in _around(panel, point)]
    for point in sorted((point for point in points if point.label), key=lambda point: (point.y, point.x)):
        text = panel.annotate(
            point.label, (point.x, point.y), xytext=(0, 0), textcoords="offset points", fontsize=_LABEL_SIZE,
            color=theme.ink, parse_math=False, zorder=5,
        )  # fmt: skip
        text.set_in_layout(False)
        places = [(across + point.nudge, up, *sides) for across, up, *sides in _PLACES]
        crowding = [_place(text, panel, place, taken) for place in places]
        _place(text, panel, places[crowding.index(min(crowding))], taken)
        taken.append(text.get_window_extent())


def png_bytes(figure: Figure) -> bytes:
    """The figure as a PNG, without the date and version that would make equal plots differ."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", facecolor=figure.get_facecolor(), metadata={"Software": None})
    return buffer.getvalue()


def nudged(panel: Axes, nudge: float) -> Transform:
    """Data coordinates, moved sideways by `nudge` (1/72 inch)."""
    from matplotlib.transforms import ScaledTranslation

    return panel.transData + ScaledTranslation(nudge / 72, 0, panel.get_figure(root=True).dpi_scale_trans)


def _around(panel: Axes, point: Point) -> list[Bbox]:
    """Where the point and its error bar are, in pixels."""
    from matplotlib.transforms import Bbox

    ends = [(point.x, y) for y in (point.low, point.y, point.high)]
    (across, low), (_, up), (_, high) = nudged(panel, point.nudge).transform(ends)
    return [Bbox.from_bounds(across - 8, up - 8, 16, 16), Bbox.from_extents(across - 6, low, across + 6, high)]


def _place(text: Text, panel: Axes, place: tuple[float, float, str, str], taken: Sequence[Bbox]) -> float:
    """Put a label there; how many square pixels it then covers or sticks out of the panel by."""
    across, up, horizontal, vertical = place
    text.set(position=(across, up), horizontalalignment=horizontal, verticalalignment=vertical)
    box = text.get_window_extent()
    covered = sum(_overlap(box, other) for other in taken)
    outside = box.width * box.height - _overlap(box, panel.get_window_extent())
    return covered + 3 * outside  # a label that is cut off is worse than two that touch


def _overlap(one: Bbox, other: Bbox) -> float:
    width = min(one.x1, other.x1) - max(one.x0, other.x0)
    height = min(one.y1, other.y1) - max(one.y0, other.y0)
    return max(0.0, width) * max(0.0, height)


def _trimmed(number: str) -> str:
    """200k for 200.0k, 0.5 for 0.50."""
    digits, letter = (number[:-1], number[-1]) if number[-1:].isalpha() else (number, "")
    return (digits.rstrip("0").rstrip(".") if "." in digits else digits) + letter

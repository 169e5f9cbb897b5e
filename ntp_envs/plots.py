"""What the `plot` methods share: a line with its band, and axes that say in words what is on them.

matplotlib is loaded when something is drawn. Colours are those of Okabe and Ito that can be seen on white.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from ntp_envs.arrays import FloatArray

if TYPE_CHECKING:
    from matplotlib.axes import Axes
else:
    Axes = Any

COLOURS = ("#0072B2", "#D55E00", "#009E73", "#8E3B73", "#000000", "#B07800", "#3C98CF", "#6E6E6E")
WRITTEN = "tokens written, h"


def axes_or_new(ax: Axes | None) -> Axes:
    """``ax`` itself, or those of a new figure of pyplot, which a notebook shows.

    Raises:
        TypeError: something that cannot be drawn on.
    """
    if ax is None:
        import matplotlib.pyplot as plt

        ax = plt.subplots(layout="constrained")[1]
        ax.spines[["top", "right"]].set_visible(False)
        ax.grid(color="#E4E4E4")
        ax.set_axisbelow(True)
    if not hasattr(ax, "fill_between"):
        raise TypeError(f"ax={ax!r} must be a matplotlib Axes, not {type(ax).__name__}; plt.subplots() gives one.")
    return ax


def draw_line(
    ax: Axes, values: FloatArray, lower: FloatArray, upper: FloatArray, *, band: bool, label: str, **look: Any
) -> None:
    """``(H,)`` values over h = 1..H, and what lies between ``lower`` and ``upper``.

    Infinite values are said in the label; where only an end of the band is infinite, it leaves the picture. Each line
    that is on the axes already moves the colour on by one.
    """
    h = np.arange(1, len(values) + 1)
    finite = np.isfinite(values)
    if not finite.all():
        label = f"{label} (infinite from h = {h[~finite][0]})".strip()
    look = {"color": COLOURS[len(ax.lines) % len(COLOURS)], "marker": "o" if finite.sum() == 1 else None, **look}
    (line,) = ax.plot(h, np.where(finite, values, np.nan), label=label or "_nolegend_", **look)
    if band and finite.any():
        roof = 2.0 * float(np.abs(values[finite]).max())
        low, high = (np.where(finite, np.minimum(end, np.maximum(roof, values)), np.nan) for end in (lower, upper))
        ax.fill_between(h, low, high, color=line.get_color(), alpha=0.22, linewidth=0)


def name_axes(ax: Axes, ylabel: str, bands: str = "") -> None:
    """Names of both axes, what the bands are under the lower one, a legend where a line has a name; y begins at 0."""
    from matplotlib.ticker import MaxNLocator

    ax.set_ylim(bottom=0.0, auto=None)
    if isinstance(ticks := ax.xaxis.get_major_locator(), MaxNLocator):
        ticks.set_params(integer=True)
    ax.set(xlabel=f"{WRITTEN}\n(band: {bands})" if bands else WRITTEN, ylabel=ylabel)
    if ax.get_legend_handles_labels()[1]:
        ax.legend(framealpha=0.85, edgecolor="none")

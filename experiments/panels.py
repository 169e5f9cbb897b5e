"""Figures as values: panels of curves, dots and guides.

Most figures of the studies are lines over one label with their names at their ends. They are said as values, and drawn
here. What needs more than that draws itself, with the pieces of `experiments.charts`: a panel is no second matplotlib.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from experiments.charts import (
    COLOURS,
    DISTANCE,
    Axes,
    Figure,
    end_labels,
    factor_axis,
    interval_dot,
    learner_style,
    log_axis,
    log_range,
    log_ticks,
    name_rows,
    named_line,
    new_panels,
    no_data,
    plain_log_axis,
    say,
    say_data,
    text,
    tick_words,
)
from experiments.summary import Series, Summary, SummaryRow

SPELT = {"C_apx": "approximation factor", "hellinger2": DISTANCE}


@dataclass(frozen=True)
class Curve:
    """One line.

    Attributes:
        where: part and labels of the rows that it goes through.
        label: its name, at its end.
        metric: what is drawn; the panel's if empty.
        style: whose colour, marker and dashes it has; by default those of the learner in ``where``, and of its K.
        look: changes to that, as matplotlib names them.
        limit: part and labels of the same number in the population, drawn last, at infinity.
    """

    where: Mapping[str, Any]
    label: str = ""
    metric: str = ""
    style: str = ""
    look: Mapping[str, Any] = field(default_factory=dict)
    limit: Mapping[str, Any] | None = None


@dataclass(frozen=True)
class Guide:
    """A reference to read the curves by, with a note beside it: a level, a place on the x axis, or a line.

    Attributes:
        level, place, points: where; one of them.
        note: what it is.
        at: where the note begins (data coordinates); by default at the guide's end.
        offset: of the note from there, in points; by default above a level, and to the right of anything else.
        align: of the note.
        colour, dashes: of the line.
        style: whose colour the note has.
    """

    level: float | None = None
    place: float | None = None
    points: Sequence[tuple[float, float]] = ()
    note: str = ""
    at: tuple[float, float] | None = None
    offset: tuple[float, float] | None = None
    align: str = "left"
    colour: str = COLOURS["grey"]
    dashes: str = ":"
    style: str = "reference"


@dataclass(frozen=True)
class Panel:
    """Curves over one label.

    Attributes:
        x: the label on the x axis.
        xlabel: what it is.
        metric: what is drawn.
        curves: the lines.
        guides: what to read them by.
        xscale: ``"linear"``, ``"log"`` or ``"log2"``.
        yscale: ``"linear"``, ``"zero"`` (linear from 0), ``"share"`` (0 to 1), ``"log"``, or ``"factor"`` (a log axis
            from just below the best in class).
        ticks: of the x axis; by default everywhere where there are numbers.
        ylim: limits of the y axis, instead of those that follow from the data.
        ylabel: of this panel alone.
        title: of this panel alone.
    """

    x: str
    xlabel: str
    metric: str
    curves: Sequence[Curve]
    guides: Sequence[Guide] = ()
    xscale: str = "log2"
    yscale: str = "factor"
    ticks: Sequence[float] | None = None
    ylim: tuple[float | None, float | None] | None = None
    ylabel: str = ""
    title: str = ""

    def rows(self, summary: Summary) -> list[SummaryRow]:
        """The rows that the curves go through."""
        return [row for curve in self.curves for row in summary.select(curve.metric or self.metric, **curve.where)]

    @property
    def limited(self) -> bool:
        """Whether a curve has a point at infinity."""
        return any(curve.limit is not None for curve in self.curves)

    def series(self, summary: Summary, curve: Curve, infinity: float) -> Series:
        """What a curve goes through; its limit is at this place."""
        metric = curve.metric or self.metric
        found = summary.series(self.x, metric, **curve.where)
        if self.xscale != "linear":
            found = Series(*(column[found.x > 0] for column in found))
        limit = summary.series(self.x, metric, **curve.limit) if curve.limit is not None else found
        if curve.limit is None or not len(limit.x):
            return found
        ends = zip(found[1:], limit[1:], strict=True)
        return Series(np.append(found.x, infinity), *(np.append(column, end[-1]) for column, end in ends))


def chart(summary: Summary, title: str, ylabel: str, *panels: Panel, size: tuple[float, float] | None = None) -> Figure:
    """The figure of these panels, side by side; they share their y axis unless one has a label of its own.

    Args:
        summary: of the study; its timings, for numbers that depend on the machine.
        title: what one sees.
        ylabel: of the first panel.
        panels: at least one.
        size: in inches.
    """
    figure, every = new_panels(
        title,
        [panel.xlabel for panel in panels],
        ylabel,
        size=size or ((8.2, 4.8) if len(panels) == 1 else (11.0, 4.6)),
        share=not any(panel.ylabel for panel in panels),
        titles=[panel.title for panel in panels],
    )
    say_data(figure, [row for panel in panels for row in panel.rows(summary)])
    for axes, panel in zip(every, panels, strict=True):
        axes.set_ylabel(panel.ylabel or axes.get_ylabel())
        draw_panel(axes, summary, panel)
    return figure


def draw_panel(axes: Axes, summary: Summary, panel: Panel) -> None:
    """Curves, guides, scales and labels on axes that are there."""
    log = panel.xscale != "linear"
    at = sorted({float(row[panel.x]) for row in panel.rows(summary) if row[panel.x] > 0 or not log})
    if not at:
        return no_data(axes)
    infinity = 10.0 * at[-1]
    upright = [guide.place for guide in panel.guides if guide.place is not None]
    first, last = min([at[0], *upright]), max([infinity if panel.limited else at[-1], *upright])
    ticks = list(at if panel.ticks is None else panel.ticks)
    if panel.xscale == "log" and panel.ticks is None and not panel.limited and len(at) > 7:
        ticks = log_ticks(at[0], last)
    names = [tick_words(tick) for tick in ticks]
    if panel.limited:
        ticks, names = [*ticks, infinity], [*names, "∞\n(population)"]
    if log:
        axes.set_xscale("log", base=2 if panel.xscale == "log2" else 10)
        margin = (last / first) ** 0.03 if last > first else 1.5
        axes.set_xlim(first / margin, last * margin)
    else:
        margin = 0.03 * (last - first) or 1.0
        axes.set_xlim(first - margin, last + margin)
    axes.set_xticks(ticks, labels=names)
    axes.set_xticks([], minor=True)
    if panel.yscale in ("log", "factor"):
        axes.set_yscale("log")
    for guide in panel.guides:
        _draw_guide(axes, guide, at[0], last)
    for curve in panel.curves:
        learner = curve.style or str(curve.where.get("learner", ""))
        look = {"color": learner_style(learner, curve.where.get("K")).colour, **curve.look}
        named_line(axes, panel.series(summary, curve, infinity), learner, curve.label, **look)
    if panel.yscale == "factor":
        factor_axis(axes)
    elif panel.yscale == "log":
        plain_log_axis(axes)
    elif panel.yscale == "zero":
        axes.set_ylim(0, 1.08 * float(axes.dataLim.y1))
    elif panel.yscale == "share":
        axes.set_ylim(-0.02, 1.05)
    if panel.ylim is not None:
        low, high = (end if given is None else given for end, given in zip(axes.get_ylim(), panel.ylim, strict=True))
        if axes.get_yscale() == "log":
            log_axis(axes, "y", low, high)
        axes.set_ylim(low, high)


def _draw_guide(axes: Axes, guide: Guide, first: float, last: float) -> None:
    look: dict[str, Any] = {"color": guide.colour, "linestyle": guide.dashes, "linewidth": 1.2, "zorder": 1}
    offset, coords = guide.offset or ((8, 0) if guide.level is None else (0, 10)), axes.transData
    if guide.place is not None:
        axes.axvline(guide.place, **look)
        end = (guide.place, 1.0)
        if guide.at is None:  # at the top, wherever that is
            offset, coords = guide.offset or (8, -8), axes.get_xaxis_transform()
    else:
        points = guide.points if guide.level is None else [(first, guide.level), (last, guide.level)]
        axes.plot(*zip(*points, strict=True), **look)
        end = points[-1] if guide.level is None else points[0]
    place = end if guide.at is None else guide.at
    if guide.note and guide.level is not None and place[0] >= last:  # beside the names of the curves
        end_labels(axes, [(*place, guide.note, learner_style(guide.style).colour)])
    elif guide.note:
        axes.annotate(guide.note, place, xycoords=coords, xytext=offset, ha=guide.align, **text(guide.style))


def dots(
    summary: Summary,
    title: str,
    metric: str,
    rows: Mapping[str, tuple[Mapping[str, Any], str]],
    panels: Mapping[str, Mapping[str, Any]],
    *,
    xlabel: str = "",
    xscale: str = "log",
    level: float | None = 1.0,
    digits: int = 2,
    size: tuple[float, float] = (11.0, 4.6),
) -> Figure:
    """A dot with its interval for each row in every panel.

    Args:
        summary: of the study.
        title: what one sees.
        metric: what is drawn.
        rows: by name from the top: labels that pick the number, and the learner whose colour it has.
        panels: by title: labels that they have in common.
        xlabel: what the numbers are; ``metric``, spelt out, if empty.
        xscale: of every x axis.
        level: drawn as a dashed line.
        digits: of the numbers beside the dots.
        size: in inches.
    """
    figure, every = new_panels(title, [xlabel or SPELT.get(metric, metric)] * len(panels), "", size=size)
    say(figure, "broad lines: 95 % intervals")
    heights = name_rows(every[0], {row: learner_style(learner).colour for row, (_, learner) in rows.items()})
    places = [{**where, **place} for where in panels.values() for place, _ in rows.values()]
    say_data(figure, [row for place in places for row in summary.select(metric, **place)])
    for axes, (heading, where) in zip(every, panels.items(), strict=True):
        axes.set_title(heading, fontsize=11)
        axes.set_xscale(xscale)
        axes.grid(visible=False, axis="y")
        if level is not None:
            axes.axvline(level, color="black", linestyle="--", linewidth=1.2)
        for row, (place, learner) in rows.items():
            for found in summary.select(metric, **where, **place):
                words, colour = f"{found.mean:.{digits}g}", learner_style(learner).colour
                interval_dot(axes, found, heights[row], colour, words, fontweight="bold")
        low, high = log_range(axes, "x")
        if xscale == "log" and 0 < low < high:  # room for the numbers
            log_axis(axes, "x", low / (high / low) ** 0.06, high * (high / low) ** 0.3)
    return figure

"""One style for all figures: colours by learner, labels on the lines, and files that are the same every time.

Colours are those of Okabe and Ito, which stay apart for colour-blind readers; a learner has the same one everywhere.
Figures are made without pyplot, so no window system and no global state is involved.
"""

from __future__ import annotations

import io
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from experiments.summary import Series, Summary, SummaryRow

if TYPE_CHECKING:  # matplotlib is loaded when something is drawn: to list or to run studies does not need it
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
else:
    Axes = Figure = Any

COLOURS = {
    "black": "#000000",
    "orange": "#E69F00",
    "sky": "#56B4E9",
    "green": "#009E73",
    "yellow": "#F0E442",
    "blue": "#0072B2",
    "vermilion": "#D55E00",
    "purple": "#CC79A7",
    "grey": "#6E6E6E",
}

STYLE: dict[str, Any] = {
    "figure.dpi": 100,
    "savefig.dpi": 150,
    "font.size": 11,
    "axes.titlesize": 13,
    "axes.titleweight": "bold",
    "axes.titlelocation": "left",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "grid.color": "#E4E4E4",
    "grid.linewidth": 0.8,
    "axes.axisbelow": True,
    "lines.linewidth": 2.0,
    "lines.markersize": 5,
    "legend.frameon": False,
    "svg.hashsalt": "ntp-envs",
    "svg.fonttype": "path",
}
#: of slides: the same picture on a smaller canvas, so that words and lines can be seen from the last row; it is less
#: wide rather than less high, as words along the y axis need their room
SLIDES: dict[str, Any] = {"figure.figsize": (6.4 / 1.4, 4.8 / 1.1), "savefig.dpi": 150 * 1.4}


@contextmanager
def for_slides() -> Iterator[None]:
    """Figures that are styled inside are for slides."""
    paper = dict(STYLE)
    STYLE.update(SLIDES)
    try:
        yield
    finally:
        STYLE.clear()
        STYLE.update(paper)


def inches(size: tuple[float, float]) -> tuple[float, float]:
    """A size on paper as it is in the style that is set."""
    import matplotlib

    width, height = matplotlib.rcParams["figure.figsize"]
    return size[0] * width / 6.4, size[1] * height / 4.8


class LineStyle(NamedTuple):
    """How a learner is drawn, in every figure."""

    colour: str
    marker: str = "o"
    dashes: str = "-"


_STYLES = {
    "log-loss": LineStyle(COLOURS["vermilion"], "o"),
    "smoothed 1/(nH)": LineStyle(COLOURS["orange"], "v", "--"),
    "smoothed 1/H": LineStyle(COLOURS["orange"], "^", ":"),
    "layerwise": LineStyle(COLOURS["purple"], "X", "--"),
    "layerwise, random ties": LineStyle(COLOURS["purple"], "x", ":"),
    "rho": LineStyle(COLOURS["blue"], "s"),
    "rho psi": LineStyle(COLOURS["sky"], "D", "--"),
    "best in class": LineStyle(COLOURS["black"], "", "--"),
}
_CHUNKED = LineStyle(COLOURS["green"], "o")
_CHUNK_KR = LineStyle("#8E3B73", "P")  # a darker purple than that of the layerwise learner
_IMPROPER = LineStyle(COLOURS["grey"], "", ":")


def learner_style(learner: str) -> LineStyle:
    """Colour, marker and dashes of a learner; all chunked rho share one, all ChunkKR another; unknown ones are grey."""
    if learner.startswith("chunked"):
        return _CHUNKED
    if learner.startswith("ChunkKR"):
        return _CHUNK_KR
    if learner.startswith("improper"):
        return _IMPROPER
    return _STYLES.get(learner, LineStyle(COLOURS["grey"], "x", "-."))


@contextmanager
def styled(*, laid_out: bool = True) -> Iterator[None]:
    """Figures made and rendered inside have the shared style; not laid out they are drawn twice as fast, to be read."""
    import matplotlib

    with matplotlib.rc_context():
        matplotlib.rcdefaults()  # whatever the user's matplotlibrc says
        for name, value in {**STYLE, "figure.constrained_layout.use": laid_out}.items():
            matplotlib.rcParams[name] = value  # type: ignore[index]
        yield


def new_figure(title: str, xlabel: str, ylabel: str, *, size: tuple[float, float] = (7.2, 4.4)) -> tuple[Figure, Axes]:
    """A figure with one pair of axes."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=inches(size))
    axes = figure.add_subplot()
    axes.set(title=title, xlabel=xlabel, ylabel=ylabel)
    return figure, axes


def new_grid(title: str, rows: int, columns: int, size: tuple[float, float], **how: Any) -> tuple[Figure, NDArray[Any]]:
    """A figure with ``(rows, columns)`` axes under one title; ``how`` as `matplotlib.figure.Figure.subplots` has it."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=inches(size))
    figure.suptitle(title, x=0.01, ha="left", fontsize=13, fontweight="bold")
    return figure, figure.subplots(rows, columns, squeeze=False, **how)


def new_panels(
    title: str,
    xlabels: Sequence[str],
    ylabel: str,
    *,
    size: tuple[float, float] = (11.0, 4.4),
    share: bool = True,
    titles: Iterable[str] = (),
) -> tuple[Figure, list[Axes]]:
    """A figure with panels side by side that share their y axis (unless ``share`` is false), one for each x label.

    ``titles`` are those of the panels.
    """
    figure, grid = new_grid(title, 1, len(xlabels), size, sharey=share)
    panels = list(grid[0])
    for axes, xlabel in zip(panels, xlabels, strict=True):
        axes.set_xlabel(xlabel)
    for axes, heading in zip(panels, titles):
        axes.set_title(heading, fontsize=11)
    panels[0].set_ylabel(ylabel)
    return figure, panels


def plot_series(axes: Axes, series: Series, learner: str, **changes: Any) -> None:
    """A line with its interval as a band, in the learner's style."""
    if not len(series.x):
        return
    style = learner_style(learner)
    look: dict[str, Any] = {"color": style.colour, "marker": style.marker, "linestyle": style.dashes, **changes}
    axes.plot(series.x, series.mean, **look)
    if series.sampled:
        axes.fill_between(series.x, series.lower, series.upper, color=look["color"], alpha=0.22, linewidth=0)
        say_band(axes)


def say_band(axes: Axes, at: str = "each point") -> None:
    """Under the x axis, once: what the bands are."""
    label, words = axes.get_xlabel(), f"bands: 95 % at {at}"
    if words not in label:
        axes.set_xlabel(f"{label}\n({words})")


def log2_axis(axes: Axes, values: Sequence[float], *, which: str = "x") -> None:
    """A logarithmic axis whose ticks are these values, written out."""
    getattr(axes, f"set_{which}scale")("log", base=2)
    axis = getattr(axes, f"{which}axis")
    axis.set_ticks(list(values), labels=[f"{value:g}" for value in values])
    axis.set_ticks([], minor=True)


def end_labels(axes: Axes, labels: Sequence[tuple[float, float, str, str]], *, gap: float = 1.25) -> None:
    """Text to the right of the last point of each line, moved apart where two would overlap.

    Args:
        axes: with its lines drawn and its scales and limits set.
        labels: ``(x, y, text, colour)`` of each.
        gap: least distance between two baselines, in font heights.
    """
    import matplotlib
    from matplotlib.backends.backend_agg import FigureCanvasAgg

    labels = [label for label in labels if np.isfinite(label[:2]).all()]
    if not labels:
        return
    figure = axes.figure
    FigureCanvasAgg(figure)  # type: ignore[arg-type]
    if (engine := figure.get_layout_engine()) is not None:  # type: ignore[union-attr]
        engine.execute(figure)  # type: ignore[arg-type]
    height = matplotlib.rcParams["font.size"] * figure.dpi / 72 * gap
    wanted = np.array([axes.transData.transform((x, y))[1] for x, y, *_ in labels])
    placed = spread(wanted, height)
    for (x, y, text, colour), at, was in zip(labels, placed, wanted, strict=True):
        axes.annotate(
            text,
            (x, y),
            xytext=(9, (at - was) * 72 / figure.dpi),
            textcoords="offset points",
            color=colour,
            va="center",
            fontweight="bold",
            fontsize=10,
            annotation_clip=False,
        )


def spread(wanted: np.ndarray, gap: float) -> np.ndarray:
    """Positions nearest to ``wanted`` (least squares) in the same order and at least ``gap`` apart."""
    order = np.argsort(wanted, kind="stable")
    shifted = wanted[order] - gap * np.arange(len(wanted))
    blocks: list[list[float]] = []  # pool adjacent violators: [mean, size]
    for value in shifted:
        blocks.append([float(value), 1.0])
        while len(blocks) > 1 and blocks[-2][0] > blocks[-1][0]:
            mean, size = blocks.pop()
            last = blocks[-1]
            last[0], last[1] = (last[0] * last[1] + mean * size) / (last[1] + size), last[1] + size
    flat = np.concatenate([np.full(int(size), mean) for mean, size in blocks])
    placed = np.empty_like(flat)
    placed[order] = flat + gap * np.arange(len(wanted))
    return placed


def additive(distance: NDArray[np.float64]) -> NDArray[np.float64]:
    """``-2 log(1 - D^2 / 2)``: adds up over independent errors."""
    return -2.0 * np.log1p(-np.clip(distance, 0.0, 2.0 - 1e-12) / 2.0)


def additive_inverse(value: NDArray[np.float64]) -> NDArray[np.float64]:
    return -2.0 * np.expm1(-np.asarray(value) / 2.0)


def top_labels(axes: Axes, outs: list[tuple[float, str, str]], top: float) -> None:
    """Slanted words above the places where lines leave through the top, moved apart where they would overlap."""
    if not outs:
        return
    places = spread(np.array([x for x, *_ in outs]), 0.036 * axes.get_xlim()[1])
    slanted: dict[str, Any] = {"rotation": 40, "rotation_mode": "anchor", "ha": "left", "va": "bottom"}
    slanted |= {"fontweight": "bold", "fontsize": 10, "annotation_clip": False}
    for (x, words, colour), at in zip(outs, places, strict=True):
        arrow = {"arrowstyle": "-", "color": colour, "linewidth": 0.8, "shrinkA": 0, "shrinkB": 0}
        where: dict[str, Any] = {"xytext": (at, 1.025), "textcoords": ("data", "axes fraction")}
        axes.annotate(words, (x, top), **where, color=colour, arrowprops=arrow, **slanted)
    axes.set_title(axes.get_title(loc="left"), pad=84)


def render(figure: Figure, *, pdf: bool = False) -> tuple[bytes, ...]:
    """The figure as PNG, SVG and perhaps PDF bytes, without dates: the same figure gives the same bytes."""
    import matplotlib
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.backends.backend_svg import FigureCanvasSVG

    png, svg = io.BytesIO(), io.BytesIO()
    figure.set_dpi(matplotlib.rcParams["savefig.dpi"])
    FigureCanvasAgg(figure).print_png(png, metadata={"Software": None})  # `print_figure` would draw it twice
    figure.set_layout_engine("none")  # the layout of the one is that of the other: laying out takes longer than drawing
    FigureCanvasSVG(figure).print_svg(svg, metadata={"Date": None, "Creator": "ntp-envs"})
    if not pdf:
        return png.getvalue(), svg.getvalue()
    from matplotlib.backends.backend_pdf import FigureCanvasPdf

    document = io.BytesIO()
    dull = {"CreationDate": None, "Creator": "ntp-envs", "Producer": None}
    FigureCanvasPdf(figure).print_pdf(document, metadata=dull)
    return png.getvalue(), svg.getvalue(), document.getvalue()


# -- pieces of figures: lines with labels at their ends, and axes ------------------------------------------------------

GREENS = ("#00402E", "#006B50", "#009E73", "#27AB85", "#4DBB98")  # chunked learners
PURPLES = ("#C58AB3", "#B06C9C", "#8E3B73", "#4A1A3B")  # ChunkKR, from small norm bounds or short chunks to large
BLUES = ("#0B2A45", "#0B4F83", "#0072B2", "#3C98CF", "#6FB8E3")  # few tokens seen to many
ORANGES = ("#7A2E00", "#B04600", "#D55E00", "#E69F00")

FACTOR = "C_apx = distance to the expert / best in class"
DISTANCE = "squared Hellinger distance to the expert"


def text(learner: str) -> dict[str, Any]:
    """Style of a label that is placed by hand, in the learner's colour."""
    colour = learner_style(learner).colour
    return {"textcoords": "offset points", "color": colour, "fontweight": "bold", "fontsize": 10, "va": "center"}


class Line:
    """A line to draw with its label at the end."""

    def __init__(self, series: Series, learner: str, label: str, **changes: Any) -> None:
        self.series, self.learner, self.label, self.changes = series, learner, label, changes


def draw_lines(axes: Axes, lines: Sequence[Line], *, limits: Callable[[Axes], None] | None = None) -> None:
    """Lines, then limits that depend on them, then labels, which are placed for these limits."""
    shown = [line for line in lines if len(line.series.x)]
    for line in shown:
        plot_series(axes, line.series, line.learner, **line.changes)
    if limits is not None:
        limits(axes)
    ends = []
    for line in shown:
        if line.label:
            colour = line.changes.get("color", learner_style(line.learner).colour)
            ends.append((float(line.series.x[-1]), float(line.series.mean[-1]), line.label, colour))
    end_labels(axes, ends)


def no_data(axes: Axes) -> None:
    """Says so in a panel for which nothing was measured."""
    axes.annotate("no data", (0.5, 0.5), xycoords="axes fraction", ha="center", color=COLOURS["grey"])


def errorbars(axes: Axes, x: ArrayLike, rows: Iterable[SummaryRow] | Series, colour: Any, **look: Any) -> None:
    """The intervals of rows, or of a line, as bars; with a marker in ``look`` also the points themselves."""
    points = rows if isinstance(rows, Series) else zip(*((0.0, row.mean, row.lower, row.upper) for row in rows))
    _, mean, lower, upper = (np.asarray(column) for column in points)
    look = {"fmt": "" if "marker" in look else "none", "linestyle": "", "elinewidth": 1.2, "capsize": 2, **look}
    axes.errorbar(x, mean, np.abs(np.stack([mean - lower, upper - mean])), color=colour, ecolor=colour, **look)


def name_rows(axes: Axes, colours: Mapping[str, str]) -> dict[str, int]:
    """The heights of rows, the first one on top, after their names are on the y axis in these colours."""
    heights = {name: len(colours) - place for place, name in enumerate(colours)}
    axes.grid(visible=False, axis="y")
    axes.set_yticks(list(heights.values()), labels=list(heights))
    for label, colour in zip(axes.get_yticklabels(), colours.values(), strict=True):
        label.set(color=colour, fontweight="bold", fontsize=9)
    return heights


def interval_dot(axes: Axes, row: SummaryRow, height: float, colour: str, words: str, **look: Any) -> None:
    """A number as a dot on a broad line that is its interval, with words beside it."""
    axes.plot([row.lower, row.upper], [height] * 2, color=colour, linewidth=6, alpha=0.35, solid_capstyle="butt")
    axes.plot([row.mean], [height], "o", color=colour, markersize=7)
    beside: dict[str, Any] = {"textcoords": "offset points", "xytext": (8, 0), "va": "center", "fontsize": 10}
    axes.annotate(words, (max(row.top, row.mean), height), **{**beside, "color": colour, **look})


def legend_below(figure: Figure, names: Iterable[str], *, size: float = 10) -> None:
    """One legend for all panels, under them: what they have of these names, in this order."""
    found: dict[str, Any] = {}
    for axes in figure.axes:
        found |= {label: handle for handle, label in zip(*axes.get_legend_handles_labels(), strict=True)}
    shown = [name for name in names if name in found]
    handles = [found[name] for name in shown]
    figure.legend(handles, shown, loc="outside lower center", ncols=max(len(shown), 1), fontsize=size)


def factor_axis(axes: Axes) -> None:
    """A logarithmic y axis for factors, from just below the best in class."""
    ticks = [1, 3, 10, 30, 100, 300]
    axes.set_yticks(ticks, labels=[str(tick) for tick in ticks])
    axes.set_yticks([], minor=True)
    axes.set_ylim(0.8, 1.5 * float(axes.dataLim.y1))


def log_range(axes: Axes, axis: str = "y") -> tuple[float, float]:
    """The least and the largest number drawn that a logarithmic axis can show; intervals that reach to 0 run off it."""
    drawn = axes.dataLim
    return (drawn.minposx, drawn.x1) if axis == "x" else (drawn.minposy, drawn.y1)


def plain_log_axis(axes: Axes) -> None:
    """A logarithmic y axis that ends just outside the data, with 1, 3, 10, ... (fewer on a long one) written out."""
    low, high = log_range(axes)
    axes.set_yscale("log")
    bases, every = ((1, 3), 1) if high < 1e4 * low else ((1,), 1 if high < 1e8 * low else 2)
    ticks = [base * 10.0**k for k in range(-16, 17, every) for base in bases if low / 2 < base * 10.0**k < 2 * high]
    axes.set_yticks(ticks, labels=[f"{tick:g}" for tick in ticks])
    axes.set_yticks([], minor=True)
    axes.set_ylim(low / 1.5, high * 1.5)


def round_ticks(axes: Axes, values: Sequence[float]) -> None:
    """A logarithmic x axis with room on both sides of these values, and ticks at a few round numbers."""
    low, high = min(values) / 1.6, max(values) * 1.6
    axes.set_xlim(low, high)
    decades = np.log10(high / low)
    steps = (1, 2, 5) if decades < 1.2 else (1, 3) if decades < 2.2 else (1,)
    exponents = range(int(np.floor(np.log10(low))), int(np.ceil(np.log10(high))) + 1)
    ticks = [step * 10.0**e for e in exponents for step in steps if low <= step * 10.0**e <= high]
    axes.set_xticks(ticks, labels=[f"{tick:g}" for tick in ticks])
    axes.set_xticks([], minor=True)


def shades(values: Sequence[float], ramp: Sequence[str] = GREENS) -> dict[Any, str]:
    """One hue, from the first colour of the ramp for the smallest value (shortest chunks, say) to its last."""
    picks = np.linspace(0, len(ramp) - 1, len(values)).round().astype(int)
    return {value: ramp[i] for value, i in zip(sorted(values), picks, strict=True)}


# -- Figures as values: panels of curves, dots and guides --------------------------------------------------------------
#
# Most figures of the studies are lines over one label with their names at their ends. They are said as values, and
# drawn here. What needs more than that draws itself, with the pieces above: a panel is no second matplotlib.


@dataclass(frozen=True)
class Curve:
    """One line.

    Attributes:
        where: part and labels of the rows that it goes through.
        label: its name, at its end.
        metric: what is drawn; the panel's if empty.
        style: whose colour, marker and dashes it has; by default those of the learner in ``where``.
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
        room: how far the x axis goes on for the names of the curves: a factor, or a share of the range where linear.
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
    room: float = 3.6
    ticks: Sequence[float] | None = None
    ylim: tuple[float | None, float | None] | None = None
    ylabel: str = ""
    title: str = ""


def chart(summary: Summary, title: str, ylabel: str, *panels: Panel, size: tuple[float, float] | None = None) -> Figure:
    """The figure of these panels, side by side; they share their y axis unless one has a label of its own.

    Args:
        summary: of the study; its timings, for numbers that depend on the machine.
        title: what one sees.
        ylabel: of the first panel.
        panels: at least one.
        size: in inches.
    """
    if len(panels) == 1:
        figure, axes = new_figure(title, panels[0].xlabel, ylabel, size=size or (8.2, 4.8))
        every = [axes]
    else:
        share = not any(panel.ylabel for panel in panels)
        labels = [panel.xlabel for panel in panels]
        figure, every = new_panels(title, labels, ylabel, size=size or (11.0, 4.6), share=share)
    for axes, panel in zip(every, panels, strict=True):
        if panel.title:
            axes.set_title(panel.title, fontsize=11)
        if panel.ylabel:
            axes.set_ylabel(panel.ylabel)
        draw_panel(axes, summary, panel)
    return figure


def draw_panel(axes: Axes, summary: Summary, panel: Panel) -> None:
    """Curves, guides, scales and labels on axes that are there."""
    chosen = [summary.select(curve.metric or panel.metric, **curve.where) for curve in panel.curves]
    log = panel.xscale != "linear"
    at = sorted({float(row[panel.x]) for rows in chosen for row in rows if row[panel.x] > 0 or not log})
    if not at:
        return no_data(axes)
    infinity = 10.0 * at[-1] if any(curve.limit is not None for curve in panel.curves) else None
    ticks = list(at if panel.ticks is None else panel.ticks)
    names = [f"{tick:,g}" for tick in ticks]
    last = at[-1]
    if infinity is not None:
        ticks, names, last = [*ticks, infinity], [*names, "∞\n(population)"], infinity
    if log:
        axes.set_xscale("log", base=2 if panel.xscale == "log2" else 10)
        axes.set_xlim(at[0] / 1.15, last * panel.room)
    else:
        width = last - at[0] or 1.0
        axes.set_xlim(at[0] - 0.03 * width, last + panel.room * width)
    axes.set_xticks(ticks, labels=names)
    axes.set_xticks([], minor=True)
    if panel.yscale in ("log", "factor"):
        axes.set_yscale("log")
    for guide in panel.guides:
        _draw_guide(axes, guide, at[0], last)
    lines = []
    for curve in panel.curves:
        series = summary.series(panel.x, curve.metric or panel.metric, **curve.where)
        if log:
            series = Series(*(column[series.x > 0] for column in series))
        if curve.limit is not None and infinity is not None:
            limit = summary.series(panel.x, curve.metric or panel.metric, **curve.limit)
            if len(limit.x):
                ends = zip(series[1:], limit[1:], strict=True)
                series = Series(np.append(series.x, infinity), *(np.append(a, b[-1]) for a, b in ends))
        lines.append(Line(series, curve.style or str(curve.where.get("learner", "")), curve.label, **curve.look))

    def limits(axes: Axes) -> None:
        if panel.yscale == "factor":
            factor_axis(axes)
        elif panel.yscale == "log":
            plain_log_axis(axes)
        elif panel.yscale == "zero":
            axes.set_ylim(0, 1.08 * float(axes.dataLim.y1))
        elif panel.yscale == "share":
            axes.set_ylim(-0.02, 1.05)
        if panel.ylim is not None:
            axes.set_ylim(*panel.ylim)

    draw_lines(axes, lines, limits=limits)


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
    if guide.note:
        place = end if guide.at is None else guide.at
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
        xlabel: what the numbers are; ``metric`` if empty.
        xscale: of every x axis.
        level: drawn as a dashed line.
        digits: of the numbers beside the dots.
        size: in inches.
    """
    figure, every = new_panels(title, [xlabel or metric] * len(panels), "", size=size)
    heights = name_rows(every[0], {row: learner_style(learner).colour for row, (_, learner) in rows.items()})
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
        if xscale == "log" and 0 < low < high:  # room for the numbers, and powers of ten as they are written
            axes.set_xlim(low / 1.4, high * (high / low) ** 0.25)
            ticks = [10.0**k for k in range(-9, 7) if low / 1.4 <= 10.0**k <= high]
            axes.set_xticks(ticks, labels=[f"{tick:g}" for tick in ticks])
            axes.set_xticks([], minor=True)
    return figure

"""One style for all figures: colours by learner, labels beside the lines, and files that are the same every time.

Colours are those of Okabe and Ito, which stay apart for colour-blind readers; a learner has the same one everywhere,
and so has a chunk length. A line has its colour as it is, words have it darkened until they can be read from the last
row (`ink`), and names of the code are spelt out (`spelt`). What stands at the end of a line stands outside the axes, so
that the grid ends where the data end; `settle` finds the room for it when the figure is done, and puts below the title
what is shown.

Figures are made without pyplot, so no window system and no global state is involved.
"""

from __future__ import annotations

import dataclasses
import io
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from experiments.summary import Series, SummaryRow

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
    "legend.edgecolor": "none",
    "legend.framealpha": 0.95,
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


#: of words on white, at least (WCAG 2 asks for 4.5); a little more, for words on a light grey
CONTRAST = 5.2


def luminance(colour: Any) -> float:
    """Relative luminance of a colour, from 0 (black) to 1, as WCAG 2 defines it."""
    from matplotlib.colors import to_rgb

    parts = np.array(to_rgb(colour))
    return float(np.where(parts <= 0.04045, parts / 12.92, ((parts + 0.055) / 1.055) ** 2.4) @ [0.2126, 0.7152, 0.0722])


def contrast(one: Any, two: Any) -> float:
    """Of two colours: from 1, equal, to 21, black on white.

    >>> round(contrast("black", "white"), 6)
    21.0
    """
    low, high = sorted((luminance(one), luminance(two)))
    return (high + 0.05) / (low + 0.05)


def ink(colour: Any) -> str:
    """The colour, darkened until words in it can be read on white.

    >>> ink("black"), contrast(ink(COLOURS["yellow"]), "white") > 4.5
    ('#000000', True)
    """
    from matplotlib.colors import to_hex, to_rgb

    darker = (share * np.array(to_rgb(colour)) for share in np.linspace(1, 0, 101))
    return next(to_hex(each) for each in darker if contrast(each, "white") >= CONTRAST)


#: names of the code and what a reader is told: in a figure (mathtext), and in a page
RAW_NAMES = {
    "C_apx": ("approximation factor", "approximation factor"),
    "D_H^2": ("$D_H^2$", "D²"),
    "eps": (r"$\varepsilon$", "ε"),
    "eta": (r"$\eta$", "η"),
    "lambda": (r"$\lambda$", "λ"),
    "lam": (r"$\lambda$", "λ"),
    "theta": (r"$\theta$", "θ"),
}
_RAW = re.compile(r"(\$[^$]*\$|\w+\([^()]*\))|(?<![\w.])(" + "|".join(map(re.escape, RAW_NAMES)) + r")(?!\w)")


def spelt(text: str, *, page: bool = False) -> str:
    """A text without names of the code, but for calls: ``Task(eps=0.1)`` stays.

    Args:
        text: for a figure.
        page: for a page instead, which has no mathtext.

    >>> spelt("C_apx at eps=.1"), spelt("the C_apx of Task(eps=0.1)", page=True)
    ('Approximation factor at $\\\\varepsilon$=.1', 'the approximation factor of Task(eps=0.1)')
    """

    def word(found: re.Match[str]) -> str:
        if found.group(1):
            return found.group(1)
        said = RAW_NAMES[found.group(2)][page]
        first = found.start() == 0 or text[: found.start()].endswith((". ", "? ", "! "))
        return said[0].upper() + said[1:] if first and len(text) > len(found.group()) and said.isascii() else said

    return _RAW.sub(word, text)


def about(rows: Iterable[SummaryRow], *more: str, what: str = "data sets") -> str:
    """Task, horizon, n and replicates of the numbers that a figure shows, for the line below its title.

    Args:
        rows: what is drawn.
        more: parameters, in words.
        what: what the replicates are.

    >>> about([SummaryRow("a", {"task": "Snowball", "H": 4, "n": 100.0}, "C_apx", 2.0, 1.0, 3.0, 5)], "degree 2")
    'Snowball; degree 2; H = 4; n = 100; 5 data sets'
    """
    rows = list(rows)
    tasks, horizons, sizes = (
        [*dict.fromkeys(v for row in rows if (v := row[k]) is not None)] for k in ("task", "H", "n")
    )
    finite = [n for n in sizes if np.isfinite(n)]
    data = [span("n", finite)] * bool(finite) + ["infinitely many demonstrations"] * (len(finite) < len(sizes))
    seeds = sorted({row.seeds for row in rows if row.seeds > 1})
    over = [f"{'–'.join(str(n) for n in dict.fromkeys((seeds[0], seeds[-1])))} {what}"] if seeds else []
    names = ", ".join(map(str, tasks)) if len(tasks) <= 4 else f"{len(tasks)} tasks"
    return "; ".join(filter(None, [names, *more, span("H", horizons), " and ".join(data), *over]))


def span(name: str, values: Iterable[float]) -> str:
    """``"H = 4–64"``; nothing without values."""
    ends = sorted(values)
    return f"{name} = {'–'.join(f'{end:,g}' for end in dict.fromkeys((ends[0], ends[-1])))}" if ends else ""


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
#: learners on chunks, at K = 1, 4, 16, 64 and 256 tokens (from the few of ChunkKR: at 1, 2, 4, ...); between in between
_CHUNKS = {
    "chunked": ("#00382C", "#006B50", "#009E73", "#6BB53A", "#B5BD00"),
    "ChunkKR": ("#D98CC0", "#B5629C", "#8E3B73", "#5F1F4C", "#2F0A25"),
}


def learner_style(learner: str, K: float | None = None) -> LineStyle:
    """Colour, marker and dashes of a learner; unknown ones are grey.

    All chunked rho share one hue, all ChunkKR another; each chunk length K has its shade of it, in every figure.
    """
    for family, style in (("chunked", _CHUNKED), ("ChunkKR", _CHUNK_KR)):
        if learner.startswith(family):
            return style if K is None else style._replace(colour=_chunk_colour(family, K))
    if learner.startswith("improper"):
        return _IMPROPER
    return _STYLES.get(learner, LineStyle(COLOURS["grey"], "x", "-."))


def _chunk_colour(family: str, K: float) -> str:
    from matplotlib.colors import to_hex, to_rgb

    ramp = np.array([to_rgb(colour) for colour in _CHUNKS[family]])
    at = min(np.log2(K) / (2 if family == "chunked" else 1), len(ramp) - 1.0)
    return to_hex(tuple(float(np.interp(at, range(len(ramp)), part)) for part in ramp.T))  # type: ignore[arg-type]


@contextmanager
def styled(*, laid_out: bool = True) -> Iterator[None]:
    """Figures made and rendered inside have the shared style; not laid out they are drawn twice as fast, to be read."""
    import matplotlib

    with matplotlib.rc_context():
        matplotlib.rcdefaults()  # whatever the user's matplotlibrc says
        for name, value in {**STYLE, "figure.constrained_layout.use": laid_out}.items():
            matplotlib.rcParams[name] = value  # type: ignore[index]
        yield


def say_data(figure: Figure, rows: Iterable[SummaryRow], *more: str, what: str = "data sets") -> None:
    """Below the title: the task, n and seeds of these rows, as `about` has them."""
    say(figure, about(rows, *more, what=what), SHOWN)


def numbers_of(options: Any) -> str:
    """The numbers among the options of a study, in a line: ``"n = 100; seeds = 5; horizons = 4–64"``."""
    found = []
    for each in dataclasses.fields(options):
        value = getattr(options, each.name)
        several = value if isinstance(value, tuple) else (value,)
        if several and all(isinstance(one, (int, float)) and not isinstance(one, bool) for one in several):
            found.append(span(each.name.replace("_", " "), several))
    return "; ".join(found)


def new_figure(title: str, xlabel: str, ylabel: str, *, size: tuple[float, float] = (7.2, 4.4)) -> tuple[Figure, Axes]:
    """A figure with one pair of axes."""
    figure, ((axes,),) = new_grid(title, 1, 1, size)
    axes.set(xlabel=xlabel, ylabel=ylabel)
    return figure, axes


def new_grid(title: str, rows: int, columns: int, size: tuple[float, float], **how: Any) -> tuple[Figure, NDArray[Any]]:
    """A figure with ``(rows, columns)`` axes under one title; ``how`` as `matplotlib.figure.Figure.subplots` has it."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=inches(size))
    figure.suptitle(title, x=0.01, ha="left", fontsize=13, fontweight="bold")
    return figure, figure.subplots(rows, columns, squeeze=False, **how)


#: labels of artists that `settle` puts in their places; they are not drawn
SUBTITLE, SHOWN, END = "subtitle", "what is shown", "at the end of a line"


def say(figure: Figure, words: str, label: str = SUBTITLE) -> None:
    """Below the title, once: what a mark means; or, under the label `SHOWN`, the task, n and seeds."""
    found = [text for text in figure.texts if text.get_label() == label]
    line = found[0] if found else figure.text(0.01, 1.0, "", fontsize=10, color="#505050", va="top", label=label)
    if words and words not in line.get_text():
        line.set_text("; ".join(filter(None, [line.get_text(), words])))


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
    """Below the title, once: what the bands are."""
    say(axes.figure, f"bands: 95 % at {at}")  # type: ignore[arg-type]


def log2_axis(axes: Axes, values: Sequence[float], *, which: str = "x") -> None:
    """A logarithmic axis whose ticks are these values, written out."""
    getattr(axes, f"set_{which}scale")("log", base=2)
    axis = getattr(axes, f"{which}axis")
    axis.set_ticks(list(values), labels=[f"{value:g}" for value in values])
    axis.set_ticks([], minor=True)


def end_labels(axes: Axes, labels: Sequence[tuple[float, float, str, str]]) -> None:
    """Text to the right of the last point of each line; `settle` moves apart what would overlap.

    Args:
        axes: that the lines are in.
        labels: ``(x, y, text, colour)`` of each.
    """
    for x, y, text, colour in labels:
        if text and np.isfinite((x, y)).all():
            arrow: dict[str, Any] = {"arrowstyle": "-", "color": colour, "linewidth": 0.8, "relpos": (0, 0.5)}
            axes.annotate(
                text,
                (x, y),
                xytext=(9, 0),
                textcoords="offset points",
                color=colour,
                va="center",
                fontweight="bold",
                fontsize=10,
                annotation_clip=False,
                arrowprops={**arrow, "shrinkA": 1, "shrinkB": 3},
                label=END,
            )


def named_line(axes: Axes, series: Series, learner: str, label: str = "", **changes: Any) -> None:
    """`plot_series`, with a name at the end."""
    plot_series(axes, series, learner, **changes)
    if label and len(series.x):
        colour = changes.get("color", learner_style(learner).colour)
        end_labels(axes, [(float(series.x[-1]), float(series.mean[-1]), label, colour)])


def settle(figure: Figure, setting: str = "", otherwise: str = "") -> None:
    """The last step of a figure: title, what it shows, and labels get their places, and words are made legible.

    The figure grows by what stands above its panels. It is laid out for good: what is drawn afterwards finds no room.

    Args:
        figure: with all that is in it.
        setting: parameters, for the line below the title, after the task, n and seeds that `say_data` put there.
        otherwise: in their place, where neither says anything.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.patheffects import withStroke
    from matplotlib.text import Text

    renderer = FigureCanvasAgg(figure).get_renderer()
    told = {text.get_label(): text for text in figure.texts if text.get_label() in (SHOWN, SUBTITLE)}
    first, second = (told[label].get_text() if label in told else "" for label in (SHOWN, SUBTITLE))
    for text in told.values():
        text.remove()
    first = first or ("" if setting else otherwise)
    say(figure, "; ".join(filter(None, (first, setting, second))))
    for text in figure.findobj(Text):
        if (words := spelt(text.get_text())) != text.get_text():
            text.set_text(words)
        if contrast(text.get_color(), "white") > 1.3:  # white words are on something dark
            text.set_color(ink(text.get_color()))
    _head(figure, renderer)
    if figure.get_layout_engine() is not None:
        for _ in range(2):  # labels that have moved may need other room
            figure.get_layout_engine().execute(figure)  # type: ignore[union-attr]
            for axes in figure.axes:
                _part(axes, renderer)
        figure.set_layout_engine("none")
    for axes in figure.axes:
        for text in axes.texts:
            plain = text.get_bbox_patch() is None and contrast(text.get_color(), "white") > 1.3
            if plain and Text.get_window_extent(text, renderer).overlaps(axes.bbox):
                text.set_path_effects([withStroke(linewidth=3, foreground="white")])


def _head(figure: Figure, renderer: Any) -> None:
    """Title and subtitle at the top, in lines that fit; the rest below them."""
    height, pad = 0.0, 0.07  # inches
    width = 0.98 * figure.bbox.width
    title = figure._suptitle  # type: ignore[attr-defined]
    heads = [title] if title is not None else []
    heads += [text for text in figure.texts if text.get_label() == SUBTITLE]
    sizes = []
    for text in heads:
        if text.get_text():
            text.set_text(_wrapped(text, width, renderer))
            sizes.append((text, text.get_window_extent(renderer).height / figure.dpi + pad))
    before = title.get_window_extent(renderer).height / figure.dpi if title is not None and title.get_text() else 0.0
    above = sum(size for _, size in sizes) + pad
    full = figure.get_figheight() + max(above - before, 0.0)
    figure.set_figheight(full)
    for text, size in sizes:
        text.set(y=1 - (height + pad) / full, va="top", in_layout=False)
        height += size
    if (engine := figure.get_layout_engine()) is not None and sizes:
        engine.set(rect=(0, 0, 1, 1 - above / full))  # type: ignore[call-arg]


def _wrapped(text: Any, width: float, renderer: Any) -> str:
    """The words of a text in lines that are no wider than this, in pixels."""
    lines = [""]
    for word in re.split(r" (?=(?:[^$]*\$[^$]*\$)*[^$]*$)", text.get_text()):  # not within mathtext
        longer = f"{lines[-1]} {word}".strip()
        text.set_text(longer)
        if text.get_window_extent(renderer).width > width and lines[-1]:
            lines.append(word)
        else:
            lines[-1] = longer
    return "\n".join(lines)


def _part(axes: Axes, renderer: Any, gap: float = 1.2) -> None:
    """Labels at the ends of lines are moved apart where two would overlap, column by column."""
    from matplotlib.text import Text

    labels = [text for text in axes.texts if text.get_label() == END]
    if not labels:
        return
    scale = 72 / axes.figure.dpi
    ends = np.array([axes.transData.transform(text.xy) for text in labels])  # type: ignore[attr-defined]
    sizes = np.array(
        [Text.get_window_extent(text, renderer).size for text in labels]
    )  # without the line that leads to it
    columns: list[list[int]] = []
    for i in np.argsort(ends[:, 0], kind="stable"):  # from the left; a label that reaches into the next column joins it
        if columns and ends[i, 0] < max(ends[j, 0] + sizes[j, 0] + 12 / scale for j in columns[-1]):
            columns[-1].append(i)
        else:
            columns.append([i])
    for column in columns:
        heights = sizes[column, 1]
        for i, at in zip(column, spread(ends[column, 1], gap * float(heights.max())), strict=True):
            labels[i].set_position((9, (at - ends[i, 1]) * scale))
            labels[i].arrow_patch.set_visible(bool(abs(at - ends[i, 1]) > 0.5 * sizes[i, 1]))  # type: ignore[attr-defined]


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


def top_labels(axes: Axes, outs: list[tuple[float, str, str]], top: float) -> None:
    """Slanted words above the places where lines leave through the top, moved apart where they would overlap."""
    if not outs:
        return
    places = spread(np.array([x for x, *_ in outs]), 0.04 * axes.get_xlim()[1])
    slanted: dict[str, Any] = {"rotation": 40, "rotation_mode": "anchor", "ha": "left", "va": "bottom"}
    slanted |= {"fontweight": "bold", "fontsize": 10, "annotation_clip": False}
    for (x, words, colour), at in zip(outs, places, strict=True):
        arrow = {"arrowstyle": "-", "color": colour, "linewidth": 0.8, "shrinkA": 0, "shrinkB": 0}
        where: dict[str, Any] = {"xytext": (at, 1.025), "textcoords": ("data", "axes fraction")}
        axes.annotate(words, (x, top), **where, color=colour, arrowprops=arrow, **slanted)


def render(figure: Figure, *, setting: str = "", otherwise: str = "", pdf: bool = False) -> tuple[bytes, ...]:
    """The figure, settled, as PNG, SVG and perhaps PDF bytes, without dates: the same figure gives the same bytes."""
    import matplotlib
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.backends.backend_svg import FigureCanvasSVG

    png, svg = io.BytesIO(), io.BytesIO()
    figure.set_dpi(matplotlib.rcParams["savefig.dpi"])
    settle(figure, setting, otherwise)
    FigureCanvasAgg(figure).print_png(png, metadata={"Software": None})  # `print_figure` would draw it twice
    FigureCanvasSVG(figure).print_svg(svg, metadata={"Date": None, "Creator": "ntp-envs"})
    if not pdf:
        return png.getvalue(), svg.getvalue()
    from matplotlib.backends.backend_pdf import FigureCanvasPdf

    document = io.BytesIO()
    dull = {"CreationDate": None, "Creator": "ntp-envs", "Producer": None}
    FigureCanvasPdf(figure).print_pdf(document, metadata=dull)
    return png.getvalue(), svg.getvalue(), document.getvalue()


# -- pieces of figures: lines with labels at their ends, and axes ------------------------------------------------------

GREENS = ("#00402E", "#006B50", "#009E73", "#27AB85", "#4DBB98")  # of the hue of chunked learners, not of their lengths
PURPLES = ("#C58AB3", "#B06C9C", "#8E3B73", "#4A1A3B")  # ChunkKR, from small norm bounds to large
BLUES = ("#0B2A45", "#0B4F83", "#0072B2", "#3C98CF", "#6FB8E3")  # few tokens seen to many
ORANGES = ("#7A2E00", "#B04600", "#D55E00", "#E69F00")

FACTOR = "approximation factor (1 = best in class)"
DISTANCE = "squared Hellinger distance to the expert"


def text(learner: str) -> dict[str, Any]:
    """Style of a label that is placed by hand, in the learner's colour."""
    colour = learner_style(learner).colour
    return {"textcoords": "offset points", "color": colour, "fontweight": "bold", "fontsize": 10, "va": "center"}


def no_data(axes: Axes) -> None:
    """Says so in a panel for which nothing was measured."""
    axes.set(xticks=[], yticks=[])
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
    axes.set_yticks(list(heights.values()), labels=[spelt(name) for name in heights])
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
    """One legend for all panels, under them: what they have of these names, in this order; a long one adds height."""
    found: dict[str, Any] = {}
    for axes in figure.axes:
        found |= {label: handle for handle, label in zip(*axes.get_legend_handles_labels(), strict=True)}
    shown = [name for name in names if name in found]
    handles = [found[name] for name in shown]
    if shown:  # as many in a line as fit
        ncols = max(1, min(len(shown), int(figure.get_figwidth() * 72 / (0.62 * size * (5 + max(map(len, shown)))))))
        rows = -(-len(shown) // ncols)
        figure.set_figheight(figure.get_figheight() + max(rows - 4, 0) * 1.45 * size / 72)
        figure.legend(handles, shown, loc="outside lower center", ncols=ncols, fontsize=size)


def log_ticks(low: float, high: float) -> list[float]:
    """Round numbers on a logarithmic axis between these, two to seven where there is any room."""
    from matplotlib.ticker import MaxNLocator

    decades = range(int(np.floor(np.log10(low))), int(np.ceil(np.log10(high))) + 1)
    for steps, every in (((1,), max(1, -(-len(decades) // 7))), ((1, 3), 1), ((1, 2, 5), 1)):
        ticks = [step * 10.0**k for k in decades if k % every == 0 for step in steps]
        ticks = [tick for tick in ticks if low * (1 - 1e-9) <= tick <= high * (1 + 1e-9)]
        if len(ticks) >= 3 or (len(ticks) == 2 and len(steps) == 3):
            return ticks
    return [float(tick) for tick in MaxNLocator(4).tick_values(low, high) if low <= tick <= high]


def tick_words(value: float) -> str:
    """A number at a tick: written out while it is short, else a power of ten in mathtext.

    >>> tick_words(1000.0), tick_words(0.03), tick_words(1e-6), tick_words(3e8)
    ('1,000', '0.03', '$10^{-6}$', '$3\\\\cdot{10}^{8}$')
    """
    if value == 0 or 1e-3 <= abs(value) < 1e6:
        return f"{value:,g}"
    digits, power = f"{value:.3e}".split("e")
    lead = float(digits)
    return f"$10^{{{int(power)}}}$" if lead == 1 else rf"${lead:g}\cdot{{10}}^{{{int(power)}}}$"


def log_axis(axes: Axes, which: str, low: float, high: float) -> None:
    """Limits of a logarithmic axis, and round numbers on it."""
    axis = getattr(axes, f"{which}axis")
    getattr(axes, f"set_{which}scale")("log")
    getattr(axes, f"set_{which}lim")(low, high)
    ticks = log_ticks(low, high)
    axis.set_ticks(ticks, labels=[tick_words(tick) for tick in ticks])
    axis.set_ticks([], minor=True)


def factor_axis(axes: Axes) -> None:
    """A logarithmic y axis for factors, from just below the best in class."""
    low, high = log_range(axes)
    log_axis(axes, "y", min(0.8, low / 1.3) if low > 0.3 else 0.8, max(1.5 * high, 1.6))


def log_range(axes: Axes, axis: str = "y") -> tuple[float, float]:
    """The least and the largest number drawn that a logarithmic axis can show; intervals that reach to 0 run off it."""
    if axis == "x":
        return axes.dataLim.minposx, axes.dataLim.x1
    drawn = [each.dataLim for each in axes.get_shared_y_axes().get_siblings(axes) if each.has_data()] or [axes.dataLim]
    return min(limits.minposy for limits in drawn), max(limits.y1 for limits in drawn)


def plain_log_axis(axes: Axes) -> None:
    """A logarithmic y axis that ends just outside the data."""
    low, high = log_range(axes)
    if 0 < low <= high < np.inf:
        log_axis(axes, "y", low / 1.5, high * 1.5)


def round_ticks(axes: Axes, values: Sequence[float]) -> None:
    """A logarithmic x axis with room on both sides of these values, and ticks at a few round numbers."""
    log_axis(axes, "x", min(values) / 1.6, max(values) * 1.6)


def shades(values: Sequence[float], ramp: Sequence[str] = GREENS) -> dict[Any, str]:
    """One hue, from the first colour of the ramp for the smallest value (shortest chunks, say) to its last."""
    picks = np.linspace(0, len(ramp) - 1, len(values)).round().astype(int)
    return {value: ramp[i] for value, i in zip(sorted(values), picks, strict=True)}

"""What every study must do: `check_study`, to be called from the tests of whoever writes one."""

from __future__ import annotations

import dataclasses
import json
import pickle
import re
import tempfile
from collections.abc import Iterator, Mapping
from concurrent.futures import Executor
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from experiments.cells import Cell, CellResult, ResultStore
from experiments.charts import RAW_NAMES, SUBTITLE, contrast, for_slides, styled
from experiments.executors import local_executor, run_cell
from experiments.run import RunOutcome, run_study
from experiments.study import Analysis, FigureSpec, Options, Study
from experiments.summary import Summary, summarise, summary_lines, write_csv
from ntp_envs.testing import require

#: of the time of the run, for cells that are run again
SHARE = 0.1
#: a number that is missing, and the place that an empty one leaves in a sentence
NAN, GAP = re.compile(r"(?<![a-z])nan(?![a-z])"), re.compile(r"\S  \S|\w [,;)]|\w \.(?!\d)|\( ")


def check_study(
    study: Study, options: Any, *, out: str | Path | None = None, seed: int = 0, workers: int = 1
) -> RunOutcome:
    """Check that a study keeps the contract of `experiments.study.Study`.

    The study is run once, stopped half way and resumed. The quickest cell of every part is then run again, as far as a
    tenth of the time of the run allows, so that the check takes little longer than a run. It is checked that

    - options beyond what an `experiments.study.option` says are refused at construction, in words that name them;
    - a summary without rows is analysed, and its figures are drawn, smaller for slides;
    - where cells fail, titles, captions and findings say what was not measured, instead of ``nan``;
    - every cell succeeds and every figure is drawn, and can be read from the last row (`figure_faults`);
    - cells depend on their parameters and their generator only, not on what was run before them, and can be sent to
      another process;
    - the run that was stopped and resumed has the ``summary.csv`` of one in one go, byte by byte.

    Args:
        study: to check.
        options: small ones; the study is run with them.
        out: folder of the run, which is kept; a temporary one by default.
        seed: of the run.
        workers: processes that run the cells.

    Returns:
        The outcome of the run, to check its numbers.

    Raises:
        AssertionError: the first check that fails; the message names what to fix.
    """
    _check_options(options)
    _check_empty(study, options)
    if out is None:
        with tempfile.TemporaryDirectory() as folder:
            return _checked_run(study, options, Path(folder) / "run", seed, workers)
    return _checked_run(study, options, Path(out), seed, workers)


# -- options -----------------------------------------------------------------------------------------------------------


def _check_options(options: Any) -> None:
    for field in dataclasses.fields(options):
        name, first = field.name, field.default[:1] if isinstance(field.default, tuple) else (field.default,)
        number = any(isinstance(one, (int, float)) and not isinstance(one, bool) for one in first)
        stated = "one_of" in field.metadata
        require(
            stated or not number or not isinstance(options, Options),
            f"{type(options).__name__}.{name} is a number: make it an experiments.study.option, with its bounds.",
        )
        for bad in _refusable(options, field) if stated else ():
            try:
                dataclasses.replace(options, **{name: bad})
            except (TypeError, ValueError) as error:
                require(name in str(error), f"{name}={bad!r} is refused by words that do not name it: {error}")
            else:
                raise AssertionError(f"{type(options).__name__} takes {name}={bad!r}, which its option excludes.")


def _refusable(options: Any, field: dataclasses.Field[Any]) -> Iterator[Any]:
    """Values that the `option` behind a field excludes."""
    if not isinstance(field.default, tuple):
        yield from _refusable_ones(options, field.default, field.metadata)
        return
    if not field.metadata["empty"]:
        yield ()
    for one in getattr(options, field.name)[:1]:
        yield (one, one)
    kind = (field.default or field.metadata["choices"] or ("",))[0]
    yield from ((one,) for one in _refusable_ones(options, kind, field.metadata))


def _refusable_ones(options: Any, kind: Any, rule: Mapping[str, Any]) -> Iterator[Any]:
    if rule["choices"]:
        yield "no such choice"
        return
    if isinstance(kind, bool) or not isinstance(kind, (int, float)):
        return
    yield "no number"
    whole = isinstance(kind, int)
    least = 1 if whole and rule["least"] is None else rule["least"]
    most = getattr(options, rule["most"]) if isinstance(rule["most"], str) else rule["most"]
    if whole:
        yield least + 0.5
    if least is not None:
        yield least - 1
    if most is not None:
        yield most + 1
    yield from (rule[end] for end in ("above", "below") if rule[end] is not None)
    if rule["power_of_two"]:
        yield 2 ** max(1, int(least).bit_length()) + 1
    if rule["one_of"]:
        yield 1 + max(getattr(options, rule["one_of"]))


# -- the analysis ------------------------------------------------------------------------------------------------------


def _check_empty(study: Study, options: Any) -> None:
    try:
        found = study.analyse(options, Summary([]))
        for table in found.tables:
            table.to_rich(), table.to_html()
    except Exception as error:
        raise AssertionError(f"study {study.name!r} does not analyse an empty summary: {error!r}") from error
    names = [figure.name for figure in found.figures]
    require(len(set(names)) == len(names), f"study {study.name!r} has two figures of one name: {names}")
    _check_words(study, found, "nothing was measured")
    for figure in found.figures:
        sizes = []
        for slides in (nullcontext(), for_slides()):
            with slides, styled(laid_out=False):
                sizes.append(figure.draw().get_size_inches())
        follows = (sizes[1] < sizes[0]).all()
        require(follows, f"study {study.name!r}: the figure {figure.name} does not follow --slides: see charts.inches")


def _check_words(study: Study, found: Analysis, where: str, *, figures: bool = True) -> None:
    """No ``nan`` in what is told, the words in the figures included, and no gap."""
    from matplotlib.text import Text

    told = [*found.findings, *(text for figure in found.figures for text in (figure.title, figure.caption))]
    for text in told:
        require(not GAP.search(text), f"study {study.name!r}, where {where}, leaves a gap: {text}")
    for figure in found.figures if figures else ():
        try:
            with styled(laid_out=False):
                written: list[Any] = figure.draw().findobj(Text)
        except Exception as error:
            words = f"study {study.name!r} does not draw its figure {figure.name} where {where}: {error!r}"
            raise AssertionError(words) from error
        told += [text.get_text() for text in written]
    for text in told:
        require(not NAN.search(text), f"study {study.name!r}, where {where}, says: {text}")


def _check_failures(
    study: Study, options: Any, cells: list[Cell], results: Mapping[str, CellResult], seed: int
) -> None:
    """Where all replicates of one cell fail; with the figures, where a whole part does, and the ends of every part."""
    parts: dict[str, dict[str, list[Cell]]] = {}
    for cell in cells:
        place = {name: value for name, value in cell.parameters.items() if name != "replicate"}
        parts.setdefault(cell.part, {}).setdefault(str(place), []).append(cell)
    one = {f"{part} {place} failed": [group] for part, groups in parts.items() for place, group in groups.items()}
    drawn = {f"the part {part} failed": list(groups.values()) for part, groups in parts.items()}
    drawn["the first and last cells failed"] = [list(g.values())[end] for g in parts.values() for end in (0, -1)]
    for where, failed in {**one, **drawn}.items():
        left = {**results}
        for cell in (cell for group in failed for cell in group):
            left.pop(cell.key, None)
        try:
            found = study.analyse(options, summarise(study, cells, left, seed))
        except Exception as error:
            raise AssertionError(f"study {study.name!r} is not analysed where {where}: {error!r}") from error
        _check_words(study, found, where, figures=where in drawn)


# -- the run -----------------------------------------------------------------------------------------------------------


class _Stop(KeyboardInterrupt):
    """Like Ctrl-C, half way."""


def _checked_run(study: Study, options: Any, out: Path, seed: int, workers: int) -> RunOutcome:
    cells = study.checked_cells(options)
    drawn: dict[str, Any] = {}
    with local_executor(min(workers, len(cells))) as executor:
        _run_half(study, options, out, seed, executor, len(cells) // 2)
        outcome = run_study(_watched(study, drawn), options, out=out, seed=seed, executor=executor)
    for failure in outcome.failures:
        raise AssertionError(f"study {study.name!r}, {failure.where}: {failure.error}")
    for figure in outcome.analysis.figures:
        require((out / f"{figure.name}.png").exists(), f"study {study.name!r} has not drawn its figure {figure.name}.")
    for name, figure in drawn.items():
        faults = figure_faults(figure)
        require(not faults, f"study {study.name!r}, figure {name}: {' '.join(faults)}")
    with ResultStore(outcome.folder.results) as store:
        results = store.results()
    _check_failures(study, options, cells, results, seed)
    again = {cell.key: run_cell(cell, study.seeds_of, seed) for cell in _quickest(cells, results)}
    for key, result in again.items():
        require(
            _plain(result) == _plain(results[key]),
            f"study {study.name!r}: the cell {key} had other records when it was run a second time; a cell depends on "
            "its parameters and on rng only, not on a global generator, a cache or the time.",
        )
    summary = summarise(study, cells, {**results, **again}, seed)
    with tempfile.TemporaryDirectory() as folder:
        once = Path(folder) / "summary.csv"
        write_csv(once, *summary_lines(study, Summary([*summary, *study.analyse(options, summary).rows])))
        require(
            once.read_bytes() == outcome.folder.summary.read_bytes(),
            f"study {study.name!r}: a run that was stopped and resumed has another summary.csv than one in one go.",
        )
    return outcome


def _watched(study: Study, drawn: dict[str, Any]) -> Study:
    """The study, and its figures stay in ``drawn`` by name when they have been written."""

    def analyse(options: Any, summary: Summary) -> Analysis:
        found = study.analyse(options, summary)

        def kept(spec: FigureSpec) -> FigureSpec:
            return dataclasses.replace(spec, draw=lambda: drawn.setdefault(spec.name, spec.draw()))

        return dataclasses.replace(found, figures=[kept(spec) for spec in found.figures])

    return dataclasses.replace(study, analyse=analyse)


def _run_half(study: Study, options: Any, out: Path, seed: int, executor: Executor, half: int) -> None:
    def stop(done: int, total: int, result: CellResult) -> None:
        if done == half:
            raise _Stop

    if half:
        try:
            run_study(study, options, out=out, seed=seed, executor=executor, progress=stop)
        except _Stop:
            return
        raise AssertionError(f"study {study.name!r} was not stopped half way: are there results in {out}?")


def _quickest(cells: list[Cell], results: Mapping[str, CellResult]) -> list[Cell]:
    """The quickest cell of every part and function, as another process gets it, the last cell first."""
    seconds = {cell.key: results[cell.key].seconds for cell in cells}
    chosen: dict[tuple[str, Any], Cell] = {}
    for cell in sorted(cells, key=lambda cell: seconds[cell.key]):
        chosen.setdefault((cell.part, cell.function), cell)
    spent, limit = 0.0, max(SHARE * sum(seconds.values()), 1.0)
    taken: set[str] = set()
    for cell in chosen.values():  # from the quickest on
        spent += seconds[cell.key]
        if spent <= limit or not taken:
            taken.add(cell.key)
    return [pickle.loads(pickle.dumps(cell)) for cell in reversed(cells) if cell.key in taken]


def _plain(result: CellResult) -> str:
    """What a cell said, but for what depends on the machine."""
    return json.dumps([record.to_json() for record in result.records if not record.machine]) + str(result.error)


# -- the figures -------------------------------------------------------------------------------------------------------

CONTRAST = 4.5
#: names of the code that are spelt out for a reader; in a call, as in ``Task(eps=0.1)``, they may stand
RAW = re.compile(rf"(?<!\w)({'|'.join(map(re.escape, RAW_NAMES))})(?!\w)")
CALL = re.compile(r"\w+\([^()]*\)|\$[^$]*\$")


def figure_faults(figure: Any) -> list[str]:
    """What a reader in the last row would stumble over in a figure that `experiments.charts.render` has laid out.

    Text whose contrast to what is behind it is below 4.5 (WCAG 2, from the colours of both); two texts that overlap; a
    text that is struck through by a line of the grid or of another colour and has no white of its own around it; a text
    that leaves the canvas; an axis of numbers with one tick; names of the code (``C_apx``, ``eta``); and no line below
    the title that says what is shown.

    Returns:
        A sentence each; none if all is well.

    >>> from experiments.charts import new_figure, render, styled
    >>> with styled():
    ...     figure, axes = new_figure("What does C_apx do?", "x", "y")
    ...     _ = render(figure)
    >>> figure_faults(figure)
    ['no line below the title says task, parameters, n and seeds.']
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.text import Text

    figure.draw_without_rendering()
    renderer = FigureCanvasAgg(figure).get_renderer()
    off, boxes = hidden(figure), {}
    for text in figure.findobj(Text):
        drawn = text.get_text().strip() and text.get_visible() and text not in off
        if drawn and (corners := corners_of(text, renderer)) is not None:
            boxes[text] = corners
    told = [f"{words(text)} names {found.group()} of the code." for text in boxes if (found := raw(text.get_text()))]
    for text, corners in boxes.items():
        low, high = corners.min(axis=0), corners.max(axis=0)
        if (low < -1).any() or (high > np.array(figure.bbox.size) + 1).any():
            told.append(f"{words(text)} leaves the canvas.")
        ratio = contrast(text.get_color(), behind(text, corners, figure))
        if ratio < CONTRAST:
            told.append(f"{words(text)} has a contrast of {ratio:.1f} to what is behind it.")
        told += [f"{words(text)} is struck through by {line}." for line in strikes(text, corners, figure, renderer)]
    every = list(boxes.items())
    for i, (one, here) in enumerate(every):
        told += [f"{words(one)} overlaps {words(two)}." for two, there in every[i + 1 :] if meet(here, there)]
    for axes in figure.axes:
        for axis in (axes.xaxis, axes.yaxis):
            ticks = [label.get_text() for label in axis.get_ticklabels(which="both") if label in boxes]
            if len(ticks) == 1 and is_number(ticks[0]) and axes.has_data():
                told.append(f"the axis {axis.get_label_text()!r} has one tick, {ticks[0]}.")
    if not any(text.get_label() == SUBTITLE for text in boxes):
        told.append("no line below the title says task, parameters, n and seeds.")
    return told


def words(text: Any) -> str:
    return repr(" ".join(text.get_text().split()))


def raw(text: str) -> re.Match[str] | None:
    return RAW.search(CALL.sub("", text))


def is_number(text: str) -> bool:
    return bool(re.fullmatch(r"[-\u2212+]?[\d.,]+(e[-+]?\d+)?%?|\$.*\d.*\$", text.strip()))


def hidden(figure: Any) -> set[Any]:
    """Texts that are not drawn: of axes that are off, and of ticks outside the limits."""
    from matplotlib.text import Text

    off: set[Any] = set()
    for axes in figure.axes:
        if not axes.get_visible():
            off |= {*axes.findobj(Text)}
        for axis in (axes.xaxis, axes.yaxis):
            if not (axes.axison and axis.get_visible()):
                off |= {*axis.findobj(Text)}
            low, high = sorted(axis.get_view_interval())
            slack = 1e-9 * (high - low)
            for tick in (*axis.get_major_ticks(), *axis.get_minor_ticks()):
                if not low - slack <= tick.get_loc() <= high + slack:
                    off |= {tick.label1, tick.label2}
    return off


def corners_of(text: Any, renderer: Any) -> NDArray[np.float64] | None:
    """``(4, 2)`` corners in pixels of the words without their margin, turned as they are; ``None`` where not drawn."""
    from matplotlib.text import Annotation, Text

    if isinstance(text, Annotation) and not text._check_xy(renderer):  # type: ignore[attr-defined]
        return None
    if isinstance(text, Annotation):
        text.update_positions(renderer)
    angle = text.get_rotation()
    turned = angle % 90 != 0
    if turned:
        text.set_rotation(0)
    box = Text.get_window_extent(text, renderer)
    if turned:
        text.set_rotation(angle)
    if box.width == 0 or box.height == 0:
        return None
    corners = np.array([[box.x0, box.y0], [box.x1, box.y0], [box.x1, box.y1], [box.x0, box.y1]])
    if turned:
        pivot = text.get_transform().transform(text.get_unitless_position())
        turn = np.deg2rad(angle)
        corners = (corners - pivot) @ np.array([[np.cos(turn), np.sin(turn)], [-np.sin(turn), np.cos(turn)]]) + pivot
    middle = corners.mean(axis=0)
    side = np.maximum(np.abs(corners - middle).max(axis=0), 1e-9)
    return middle + (corners - middle) * np.maximum(1 - 1.5 / side, 0.5)


def meet(one: NDArray[np.float64], two: NDArray[np.float64]) -> bool:
    """Whether two convex polygons (or a polygon and a segment) overlap: no edge of either tells them apart."""
    for corners in (one, two):
        edges = np.roll(corners, -1, axis=0) - corners
        for normal in np.stack([-edges[:, 1], edges[:, 0]], axis=1):
            a, b = one @ normal, two @ normal
            if a.max() <= b.min() or b.max() <= a.min():
                return False
    return True


def behind(text: Any, corners: NDArray[np.float64], figure: Any) -> Any:
    """The colour behind the middle of a text: a box of its own, or the faces of axes and patches from below."""
    from matplotlib.colors import to_rgba

    if (box := text.get_bbox_patch()) is not None and box.get_facecolor()[3] > 0.9:
        return box.get_facecolor()[:3]
    if strokes(text):
        return "white"
    middle, colour = corners.mean(axis=0), np.array(to_rgba(figure.get_facecolor())[:3])
    faces = []
    for axes in figure.axes:
        if axes.axison and axes.bbox.contains(*middle):
            faces += [(-1.0, axes.patch), *((patch.get_zorder(), patch) for patch in axes.patches)]
    for _, patch in sorted(faces, key=lambda pair: pair[0]):
        *face, alpha = patch.get_facecolor()
        if alpha > 0 and inside(patch, corners):
            colour = (1 - alpha) * colour + alpha * np.array(face)
    return colour


def inside(patch: Any, corners: NDArray[np.float64]) -> bool:
    """Whether the middle of a text is on a patch."""
    return bool(patch.get_path().transformed(patch.get_transform()).contains_point(corners.mean(axis=0)))


def strokes(text: Any) -> bool:
    """Whether a white border is drawn around the letters."""
    from matplotlib.patheffects import Stroke, withStroke

    return any(isinstance(effect, Stroke | withStroke) for effect in text.get_path_effects())


def strikes(text: Any, corners: NDArray[np.float64], figure: Any, renderer: Any) -> Iterator[str]:
    """The lines of the grid, and of another colour, that go through a text without white around it."""
    legends = filter(None, (*figure.legends, *(axes.get_legend() for axes in figure.axes)))
    framed = any(legend.get_frame_on() and text in legend.findobj() for legend in legends)
    if framed or strokes(text) or text.get_bbox_patch() is not None:
        return
    covered = any(
        patch.get_facecolor()[3] == 1 and inside(patch, corners) for axes in figure.axes for patch in axes.patches
    )
    middle, half = corners.mean(axis=0), 0.7
    inner = middle + (corners - middle) * half
    for axes in figure.axes:
        frame = axes.bbox
        for axis, grid in ((axes.xaxis, 0), (axes.yaxis, 1)):
            low, high = sorted(axis.get_view_interval())
            for tick in axis.get_major_ticks() if axes.axison and axis.get_visible() else ():
                if not covered and tick.gridline.get_visible() and low <= tick.get_loc() <= high:
                    at = axes.transData.transform([[tick.get_loc()] * 2])[0][grid]
                    ends = [[at, frame.y0], [at, frame.y1]] if grid == 0 else [[frame.x0, at], [frame.x1, at]]
                    if meet(inner, np.array(ends)):
                        yield "a line of the grid"
        for line in axes.lines if axes.get_visible() else ():
            away = line.get_clip_on() and not meet(inner, box_of(frame))
            if away or not line.get_visible() or line.get_linestyle() in ("None", "", " ") or same(line, text):
                continue
            points = line.get_transform().transform(np.array(line.get_xydata(), dtype=float).reshape(-1, 2))
            if any(meet(inner, part) for part in segments(points, inner)):
                yield f"a line of colour {line.get_color()}"


def segments(points: NDArray[np.float64], near: NDArray[np.float64]) -> NDArray[np.float64]:
    """``(m, 2, 2)``: the pieces of a line that may reach a polygon."""
    pieces = np.stack([points[:-1], points[1:]], axis=1)
    pieces = pieces[np.isfinite(pieces).all(axis=(1, 2))]
    return pieces[((pieces.max(axis=1) >= near.min(axis=0)) & (pieces.min(axis=1) <= near.max(axis=0))).all(axis=1)]


def box_of(frame: Any) -> NDArray[np.float64]:
    return np.array([[frame.x0, frame.y0], [frame.x1, frame.y0], [frame.x1, frame.y1], [frame.x0, frame.y1]])


def same(line: Any, text: Any) -> bool:
    """Whether a text is about this line: of its colour, or of that darkened."""
    from matplotlib.colors import rgb_to_hsv, to_rgb

    one, two = rgb_to_hsv(to_rgb(line.get_color())), rgb_to_hsv(to_rgb(text.get_color()))
    if min(one[1], two[1]) < 0.1:
        return bool(one[1] < 0.1 and two[1] < 0.1)
    return bool(abs((one[0] - two[0] + 0.5) % 1.0 - 0.5) < 0.03)

"""What every study must do: `check_study`, to be called from the tests of whoever writes one."""

from __future__ import annotations

import dataclasses
import json
import pickle
import re
import tempfile
from collections.abc import Iterator, Mapping
from concurrent.futures import Executor
from pathlib import Path
from typing import Any

from experiments.cells import Cell, CellResult, ResultStore
from experiments.charts import styled
from experiments.executors import local_executor, run_cell
from experiments.run import RunOutcome, run_study
from experiments.study import Analysis, Options, Study
from experiments.summary import Summary, summarise, summary_lines, write_csv

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
    - a summary without rows is analysed, and its figures are drawn;
    - where cells fail, titles, captions and findings say what was not measured, instead of ``nan``;
    - every cell succeeds and every figure is drawn;
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


def _require(condition: Any, message: str) -> None:
    if not condition:
        raise AssertionError(message)


# -- options -----------------------------------------------------------------------------------------------------------


def _check_options(options: Any) -> None:
    for field in dataclasses.fields(options):
        name, first = field.name, field.default[:1] if isinstance(field.default, tuple) else (field.default,)
        number = any(isinstance(one, (int, float)) and not isinstance(one, bool) for one in first)
        stated = "one_of" in field.metadata
        _require(
            stated or not number or not isinstance(options, Options),
            f"{type(options).__name__}.{name} is a number: make it an experiments.study.option, with its bounds.",
        )
        for bad in _refusable(options, field) if stated else ():
            try:
                dataclasses.replace(options, **{name: bad})
            except (TypeError, ValueError) as error:
                _require(name in str(error), f"{name}={bad!r} is refused by words that do not name it: {error}")
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
    _require(len(set(names)) == len(names), f"study {study.name!r} has two figures of one name: {names}")
    _check_words(study, found, "nothing was measured")


def _check_words(study: Study, found: Analysis, where: str, *, figures: bool = True) -> None:
    """No ``nan`` in what is told, the words in the figures included, and no gap."""
    from matplotlib.text import Text

    told = [*found.findings, *(text for figure in found.figures for text in (figure.title, figure.caption))]
    for text in told:
        _require(not GAP.search(text), f"study {study.name!r}, where {where}, leaves a gap: {text}")
    for figure in found.figures if figures else ():
        try:
            with styled(laid_out=False):
                written: list[Any] = figure.draw().findobj(Text)
        except Exception as error:
            words = f"study {study.name!r} does not draw its figure {figure.name} where {where}: {error!r}"
            raise AssertionError(words) from error
        told += [text.get_text() for text in written]
    for text in told:
        _require(not NAN.search(text), f"study {study.name!r}, where {where}, says: {text}")


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
    with local_executor(min(workers, len(cells))) as executor:
        _run_half(study, options, out, seed, executor, len(cells) // 2)
        outcome = run_study(study, options, out=out, seed=seed, executor=executor)
    for failure in outcome.failures:
        raise AssertionError(f"study {study.name!r}, {failure.where}: {failure.error}")
    for figure in outcome.analysis.figures:
        _require((out / f"{figure.name}.png").exists(), f"study {study.name!r} has not drawn its figure {figure.name}.")
    with ResultStore(outcome.folder.results) as store:
        results = store.results()
    _check_failures(study, options, cells, results, seed)
    again = {cell.key: run_cell(cell, study.seeds_of, seed) for cell in _quickest(cells, results)}
    for key, result in again.items():
        _require(
            _plain(result) == _plain(results[key]),
            f"study {study.name!r}: the cell {key} had other records when it was run a second time; a cell depends on "
            "its parameters and on rng only, not on a global generator, a cache or the time.",
        )
    summary = summarise(study, cells, {**results, **again}, seed)
    with tempfile.TemporaryDirectory() as folder:
        once = Path(folder) / "summary.csv"
        write_csv(once, *summary_lines(study, Summary([*summary, *study.analyse(options, summary).rows])))
        _require(
            once.read_bytes() == outcome.folder.summary.read_bytes(),
            f"study {study.name!r}: a run that was stopped and resumed has another summary.csv than one in one go.",
        )
    return outcome


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

"""Runs a study from settings to report: `run_study`."""

from __future__ import annotations

import dataclasses
import shlex
import traceback
from collections.abc import Callable
from concurrent.futures import Executor
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from experiments.folder import OutputFolder, run_settings
from experiments.report import Failure, report_html
from experiments.runner import local_executor, run_cells
from experiments.store import CellResult, ResultStore
from experiments.study import Analysis, Cell, Study
from experiments.summary import Summary, summarise, summary_lines, write_csv
from experiments.threads import one_thread

__all__ = ["RunOutcome", "run_study"]

#: called after every cell with the number of cells done so far, of all, and the result
Progress = Callable[[int, int, CellResult], None]


@dataclass(frozen=True)
class RunOutcome:
    """What a run left behind.

    Attributes:
        folder: where everything is.
        summary: all rows of ``summary.csv``.
        analysis: tables, figures and findings.
        failures: cells, figures or the analysis that failed; empty if all went well.
        reused: cells taken from an earlier, interrupted run.
    """

    folder: OutputFolder
    summary: Summary
    analysis: Analysis
    failures: tuple[Failure, ...]
    reused: int


@one_thread()
def run_study(
    study: Study,
    options: Any = None,
    *,
    out: str | Path,
    quick: bool = False,
    seed: int = 0,
    workers: int = 1,
    executor: Executor | None = None,
    overwrite: bool = False,
    progress: Progress | None = None,
) -> RunOutcome:
    """Run a study, or finish one that was interrupted, and write its summary, figures and report.

    Args:
        study: what to run.
        options: an instance of ``study.options``; by default the full or the quick ones.
        out: output folder. One that holds a run with the same settings is continued.
        quick: enters the settings, and picks the default options.
        seed: of the whole run; every cell has its own stream.
        workers: processes on this machine; 1 runs everything here. With more than one, call this from a module that
            guards its top level with ``if __name__ == "__main__"``.
        executor: run on this one instead (Dask, Slurm); it is not shut down.
        overwrite: throw away a run with other settings in ``out``.
        progress: told of every finished cell.

    Returns:
        The outcome; cells that failed are in it, not raised.

    Raises:
        FolderError: ``out`` must not be written to.
        ValueError: options without cells, or a study that contradicts itself.
        KeyboardInterrupt: after Ctrl-C; the cells finished until then are kept.
    """
    options = study.default_options(quick=quick) if options is None else options
    settings = run_settings(study, options, quick=quick, seed=seed)
    cells = study.checked_cells(options)
    folder = OutputFolder(Path(out))
    settings = folder.prepare(settings, overwrite=overwrite)
    with ResultStore(folder.results) as store:
        kept = store.results()
        todo = [cell for cell in cells if cell.key not in kept or kept[cell.key].error is not None]
        done = len(cells) - len(todo)

        def keep(cell: Cell, result: CellResult) -> None:
            nonlocal done
            store.put(cell, result)
            done += 1
            if progress is not None:
                progress(done, len(cells), result)

        place: AbstractContextManager[Executor]
        place = local_executor(min(workers, max(len(todo), 1))) if executor is None else nullcontext(executor)
        with place as chosen:
            run_cells(
                todo,
                study=study.name,
                seed=seed,
                executor=chosen,
                on_result=keep,
                checkpoints=folder.checkpoints,
            )
        results = store.results()
    summary, analysis, failures = _analyse(study, options, cells, results, seed)
    failures += _write(study, options, cells, results, summary, analysis, failures, settings, folder)
    return RunOutcome(folder, summary, analysis, tuple(failures), len(cells) - len(todo))


def _analyse(
    study: Study, options: Any, cells: list[Cell], results: Any, seed: int
) -> tuple[Summary, Analysis, list[Failure]]:
    failures = [
        Failure(f"{cell.part} {dict(cell.parameters)}", error)
        for cell in cells
        if (error := results[cell.key].error) is not None
    ]
    summary = summarise(study, cells, results, seed)
    try:
        analysis = study.analyse(options, summary)
    except Exception:
        failures.append(Failure("the analysis", traceback.format_exc()))
        analysis = Analysis()
    return Summary([*summary, *analysis.rows], summary.timings), analysis, failures


def _write(
    study: Study,
    options: Any,
    cells: list[Cell],
    results: Any,
    summary: Summary,
    analysis: Analysis,
    failures: list[Failure],
    settings: dict[str, Any],
    folder: OutputFolder,
) -> list[Failure]:
    """Write every output; returns the figures that could not be drawn."""
    from experiments.figures import render, styled

    write_csv(folder.summary, *summary_lines(study, summary))
    _write_timings(folder.timings, study, cells, results)
    drawn, undrawn = [], []
    for spec in analysis.figures:
        try:
            with styled():
                png, svg = render(spec.draw())
        except Exception:
            undrawn.append(Failure(f"figure {spec.name}", traceback.format_exc()))
            continue
        (folder.path / f"{spec.name}.png").write_bytes(png)
        (folder.path / f"{spec.name}.svg").write_bytes(svg)
        drawn.append((spec, png))
    page = report_html(
        title=f"{study.name}{' (quick)' if settings['quick'] else ''}",
        question=study.question,
        command=reproduce_command(study, options, quick=settings["quick"], seed=settings["seed"]),
        findings=analysis.findings,
        figures=drawn,
        tables=analysis.tables,
        failures=[*failures, *undrawn],
        settings=settings,
        cells=len(cells),
    )
    folder.report.write_text(page, encoding="utf-8")
    return undrawn


def _write_timings(path: Path, study: Study, cells: list[Cell], results: Any) -> None:
    """Wall time of every cell, and the numbers that depend on the machine."""
    lines: list[list[Any]] = []
    for cell in cells:
        result = results[cell.key]
        lines.append([cell.part, cell.key, "", "seconds", result.seconds])
        for record in result.records:
            if record.machine:
                place = " ".join(f"{name}={value}" for name, value in record.labels.items())
                lines.append([cell.part, cell.key, place, record.metric, record.value])
    write_csv(path, ["part", "cell", "labels", "metric", "value"], lines)


def reproduce_command(study: Study, options: Any, *, quick: bool, seed: int) -> str:
    """The command line that gives this run."""
    words = ["ntp-bench", "run", study.name, *(["--quick"] if quick else []), "--seed", str(seed)]
    default = study.default_options(quick=quick)
    for field in dataclasses.fields(options):
        value = getattr(options, field.name)
        if value == getattr(default, field.name):
            continue
        flag = f"--{field.name.replace('_', '-')}"
        if isinstance(value, bool):
            words.append(flag if value else flag.replace("--", "--no-", 1))
        else:
            words += [flag, *(str(item) for item in (value if isinstance(value, tuple | list) else [value]))]
    return shlex.join(words)

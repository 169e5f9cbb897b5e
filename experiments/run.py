"""Runs a study from settings to report: the output folder, workers, seeds, interruption and `run_study`."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import math
import multiprocessing
import os
import platform
import re
import shlex
import shutil
import signal
import sys
import tempfile
import threading
import time
import traceback
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import FIRST_COMPLETED, Executor, Future, ProcessPoolExecutor, wait
from contextlib import AbstractContextManager, contextmanager, nullcontext, suppress
from dataclasses import dataclass
from datetime import datetime, timezone
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from experiments.cells import Cell, CellResult, ResultStore, cell_rng, write_whole
from experiments.fingerprints import code_behind, commit_of, fingerprint, look_again
from experiments.report import Failure, report_html
from experiments.study import Analysis, Study
from experiments.summary import Summary, summarise, summary_lines, write_csv
from experiments.threads import THREADS, kernels, one_thread

# -- the output folder, and when it may be written to ------------------------------------------------------------------

PACKAGES = ("numpy", "scipy", "gymnasium", "ntp-envs")
#: settings that may change when a run goes on. Other kernels round otherwise, and no result hangs on rounding; other
#: options ask for other cells, and those that are there already are taken
KERNELS, MADE = "kernels", "made"
GROWING = ("options.", "quick", KERNELS, f"{MADE}.")
#: what a task's parameters in an option may hold
QUOTED = re.compile(r"'([^']*)'|\"([^\"]*)\"")


class FolderError(ValueError):
    """An output folder that must not be written to; the message names the ways out."""


def run_settings(study: Study, options: Any, *, quick: bool, seed: int) -> dict[str, Any]:
    """What ``config.json`` holds: everything a result depends on, but for the code, which every cell keeps for itself.

    ``kernels`` decide the last bits only. A run may go on where they are others; all that had a part in it are listed.
    """
    versions = {"python": platform.python_version(), **{name: _version(name) for name in PACKAGES}}
    settings = {
        "study": study.name,
        "quick": quick,
        "seed": seed,
        "options": dataclasses.asdict(options),
        "versions": versions,
        "platform": f"{platform.system()} {platform.machine()}",
        "threads": THREADS,
        KERNELS: kernels(),
    }
    if files := _read_files(study, dataclasses.asdict(options)):
        settings["files"] = files
    return json.loads(json.dumps(settings))  # tuples become lists, as they will be when read back


def _read_files(study: Study, options: Mapping[str, Any]) -> dict[str, str]:
    """The sha256 of every file that is read: one that `Study.reads` names, or that a task of ``tasks`` quotes."""
    names = [options[name] for name in study.reads]
    names += [quoted for task in options.get("tasks", ()) for pair in QUOTED.findall(task) for quoted in pair]
    return {name: _sha256(name) for name in names if name and os.path.isfile(os.path.expanduser(name))}


def _sha256(name: str) -> str:
    digest = hashlib.sha256()
    with open(os.path.expanduser(name), "rb") as file:
        while piece := file.read(1 << 20):
            digest.update(piece)
    return digest.hexdigest()


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return "not installed"


def _flat(settings: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for name, value in settings.items():
        flat.update(_flat(value, f"{prefix}{name}.") if isinstance(value, Mapping) else {f"{prefix}{name}": value})
    return flat


def settings_differ(there: Mapping[str, Any], now: Mapping[str, Any]) -> dict[str, tuple[Any, Any]]:
    """The settings of two runs that differ, but for the dates, by name: there and now."""
    there, now, absent = _flat(there), _flat(now), "absent"
    return {
        name: (there.get(name, absent), now.get(name, absent))
        for name in sorted({*there, *now} - {f"{MADE}.first", f"{MADE}.last"})
        if there.get(name, absent) != now.get(name, absent)
    }


def _refused(there: Mapping[str, Any], now: Mapping[str, Any]) -> dict[str, tuple[Any, Any]]:
    """The settings that differ and must not. Files are compared where both name them."""
    common = {f"files.{name}" for name in {*there.get("files", {})} & {*now.get("files", {})}}
    return {
        name: ends
        for name, ends in settings_differ(there, now).items()
        if not name.startswith(GROWING) and (not name.startswith("files.") or name in common)
    }


@dataclass(frozen=True)
class OutputFolder:
    """Where a run keeps its settings, results, figures and report.

    Attributes:
        path: the folder.
    """

    path: Path

    @property
    def config(self) -> Path:
        return self.path / "config.json"

    @property
    def results(self) -> Path:
        return self.path / "results.sqlite"

    @property
    def summary(self) -> Path:
        return self.path / "summary.csv"

    @property
    def timings(self) -> Path:
        return self.path / "timings.csv"

    @property
    def report(self) -> Path:
        return self.path / "report.html"

    @property
    def checkpoints(self) -> Path:
        """What unfinished cells have left to go on from (`experiments.cells.Cell.scratch`)."""
        return (self.path / "checkpoints").absolute()

    def prepare(self, settings: Mapping[str, Any], *, overwrite: bool = False) -> dict[str, Any]:
        """Make the folder ready for a run with these settings, or for going on with one.

        Args:
            settings: from `run_settings`.
            overwrite: throw away the results of a run with other settings.

        Returns:
            The settings as they are written: with the kernels of the run that is continued, too.

        Raises:
            FolderError: the folder holds something else, or a run with other settings and ``overwrite`` is false.
        """
        try:
            return self._prepared(dict(settings), overwrite)
        except OSError as error:
            raise FolderError(
                f"{self.path} cannot be written to ({error.strerror or error}); choose another folder with --out."
            ) from error

    def _prepared(self, settings: dict[str, Any], overwrite: bool) -> dict[str, Any]:
        if self.path.exists() and not self.path.is_dir():
            raise FolderError(f"{self.path} is a file; choose another folder with --out.")
        if self.path.is_dir() and any(self.path.iterdir()):
            there = self.settings()
            differing = _refused(there, settings)
            if differing and not overwrite:
                changes = "\n".join(f"  {name}: {old} there, {new} now" for name, (old, new) in differing.items())
                raise FolderError(
                    f"{self.path} holds a run with other settings:\n{changes}\n"
                    "Choose another folder with --out, or throw that run away with --overwrite."
                )
            if overwrite:
                self._clear()
            else:
                settings[KERNELS] = sorted({*map(str, there.get(KERNELS, ())), *settings[KERNELS]})
                if files := {**there.get("files", {}), **settings.get("files", {})}:
                    settings["files"] = files
                if first := there.get(MADE, {}).get("first"):
                    settings[MADE] = {**settings.get(MADE, {}), "first": first}
        self.path.mkdir(parents=True, exist_ok=True)
        self.write_config(settings)
        return settings

    def write_config(self, settings: Mapping[str, Any]) -> None:
        write_whole(self.config, json.dumps(settings, indent=2, sort_keys=True) + "\n")

    def settings(self) -> dict[str, Any]:
        """The settings of the run in the folder; where ``config.json`` was lost, those that its results keep.

        Raises:
            FolderError: there are none.
        """
        try:
            there = json.loads(self.config.read_text(encoding="utf-8"))
            there["study"], there["seed"], set(there.get(KERNELS, ()))
            return there
        except FileNotFoundError:
            problem = f"{self.path} is not empty and holds no run of ours (no config.json)"
        except Exception as error:  # a damaged file raises whatever json and what is read from it do
            problem = f"{self.config} is not the config.json of a run ({error!r})"
        if self.results.is_file():
            with suppress(ValueError), ResultStore(self.results) as store:
                if there := store.settings():
                    return there
        raise FolderError(f"{problem}; choose another folder with --out.")

    def _clear(self) -> None:
        """Remove what a run writes, and nothing else."""
        for path in (self.config, self.results, self.summary, self.timings, self.report):
            path.unlink(missing_ok=True)
        for beside in ("results.sqlite-journal", "results.lock", "results.lock-journal"):
            (self.path / beside).unlink(missing_ok=True)
        shutil.rmtree(self.checkpoints, ignore_errors=True)
        for ending in ("*.png", "*.svg", "*.pdf", "table-*"):
            for path in self.path.glob(ending):
                path.unlink()


# -- cells on an executor ----------------------------------------------------------------------------------------------
#
# Local processes are the default. Dask (``Client.get_executor()``) or submitit for Slurm go in at the same place:
# `run_cells` asks nothing of an executor but ``submit``.


def run_cell(cell: Cell, study: str, seed: int, checkpoints: Path | None = None) -> CellResult:
    """Run one cell, on one thread; an exception becomes a result with its traceback.

    A cell that wants a scratch folder has the one of its name in ``checkpoints``, or a temporary one.
    """
    start = time.perf_counter()
    try:
        with one_thread(), _scratch(cell, checkpoints) as extra:
            records = tuple(cell.function(**cell.parameters, **extra, rng=cell_rng(seed, study, cell)))
        error = None
    except Exception:
        records, error = (), traceback.format_exc()
    return CellResult(cell.key, records, error, time.perf_counter() - start)


@contextmanager
def _scratch(cell: Cell, checkpoints: Path | None) -> Iterator[dict[str, Path]]:
    """The cell's folder as a keyword argument; it survives an exception, and is removed otherwise."""
    if not cell.scratch:
        yield {}
    elif checkpoints is None:
        with tempfile.TemporaryDirectory() as folder:
            yield {"scratch": Path(folder)}
    else:
        own = checkpoints / hashlib.sha256(cell.key.encode()).hexdigest()[:16]
        own.mkdir(parents=True, exist_ok=True)
        yield {"scratch": own}
        shutil.rmtree(own, ignore_errors=True)
        with suppress(OSError):  # another cell's folder is still in it
            checkpoints.rmdir()


class InlineExecutor(Executor):
    """Runs each call at once, in this process: one worker, easy to debug."""

    def submit(self, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Future[Any]:
        future: Future[Any] = Future()
        future.set_result(fn(*args, **kwargs))
        return future


def _begin_worker() -> None:
    """Ctrl-C reaches every process of the terminal, and only the parent acts on it; no worker outlives its parent."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    parent = multiprocessing.parent_process()

    def watch() -> None:
        if parent is not None:
            parent.join()
            os._exit(1)

    threading.Thread(target=watch, daemon=True).start()


class LocalPool(Executor):
    """So many processes of this machine; `renew` replaces those of a pool that broke, as it does when one dies."""

    def __init__(self, workers: int) -> None:
        self.workers = workers
        self._context = multiprocessing.get_context("spawn")
        self._others = set(multiprocessing.active_children())
        self.renew()

    def renew(self) -> None:
        self._pool = ProcessPoolExecutor(self.workers, mp_context=self._context, initializer=_begin_worker)

    def submit(self, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Future[Any]:
        return self._pool.submit(fn, *args, **kwargs)

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        self._pool.shutdown(wait, cancel_futures=cancel_futures)

    def stop(self) -> None:
        """Drop what has not started, and stop the processes at once."""
        # the pool may not know one yet that was being started when Ctrl-C came; Python would wait for it for ever
        processes = set(multiprocessing.active_children()) - self._others
        manager = getattr(self._pool, "_executor_manager_thread", None)
        self._pool.shutdown(wait=False, cancel_futures=True)
        for process in processes:
            process.terminate()
        for process in processes:
            process.join(timeout=5.0)
        if manager is not None:  # it closes a pipe that the interpreter, when it ends, writes to while it is alive
            manager.join(timeout=5.0)


@contextmanager
def local_executor(workers: int) -> Iterator[Executor]:
    """An executor of this machine: in this process for one worker, else that many new processes.

    On an exception - Ctrl-C included - cells that have not started are dropped and the processes are stopped at once.
    """
    if workers == 1:
        yield InlineExecutor()
        return
    pool = LocalPool(workers)
    try:
        yield pool
    except BaseException:
        pool.stop()
        raise
    pool.shutdown()


def run_cells(
    cells: Iterable[Cell],
    *,
    study: str,
    seed: int,
    executor: Executor,
    on_result: Callable[[Cell, CellResult], None],
    checkpoints: Path | None = None,
    in_flight: int = 64,
) -> None:
    """Run every cell and call ``on_result`` in this process, in the order they finish.

    A cell whose worker is lost is run once more, alone; if that worker is lost too, the cell has failed, and the others
    go on. Of an executor nothing is asked but ``submit``, and ``renew`` where it has that and may break as a whole.

    Args:
        cells: independent of each other.
        study: name, which enters the seeds.
        seed: of the run.
        executor: where they run.
        on_result: keeps the result.
        checkpoints: folder that holds the scratch folders of cells that want one.
        in_flight: cells given to the executor and not yet back, at most; an `InlineExecutor` gets one at a time.
    """
    limit = 1 if isinstance(executor, InlineExecutor) else in_flight
    pending: dict[Future[CellResult], Cell] = {}
    lost: list[Cell] = []

    def submit(cell: Cell) -> Future[CellResult]:
        return executor.submit(run_cell, cell, study, seed, checkpoints)

    def collect_finished() -> None:
        for future in wait(pending, return_when=FIRST_COMPLETED).done:
            cell = pending.pop(future)
            try:
                result = future.result()
            except Exception:  # a worker died, perhaps another's, or the cell could not be sent to it
                lost.append(cell)
            else:
                on_result(cell, result)

    def run_lost() -> None:
        while pending:
            collect_finished()
        renew = getattr(executor, "renew", lambda: None)
        renew()
        while lost:
            cell = lost.pop()
            try:
                result = submit(cell).result()
            except Exception as error:
                renew()
                again = f"the worker was lost, and another one when the cell was run again alone: {error!r}"
                result = CellResult(cell.key, (), again, 0.0)
            on_result(cell, result)

    try:
        for cell in cells:
            try:
                pending[submit(cell)] = cell
            except RuntimeError:  # a pool that broke takes no more work
                lost.append(cell)
            while len(pending) >= limit:
                collect_finished()
            if lost:
                run_lost()
        while pending:
            collect_finished()
        if lost:
            run_lost()
    finally:
        for future in pending:  # none are left unless an exception is on its way, such as Ctrl-C
            future.cancel()


# -- code that was edited since ----------------------------------------------------------------------------------------


def code_of_cells(cells: Iterable[Cell]) -> dict[str, dict[str, str]]:
    """What code makes each cell, by key; read once for all cells of one function and one `Cell.code`."""
    look_again()
    known: dict[Any, dict[str, str]] = {}
    found: dict[str, dict[str, str]] = {}
    for cell in cells:
        function = f"{cell.function.__module__}:{cell.function.__qualname__.partition('.')[0]}"
        if (function, cell.code) not in known:
            named = cell.code is None
            known[function, cell.code] = code_behind(cell.code or (), parts=(function,), through_names=named)
        found[cell.key] = known[function, cell.code]
    return found


def edited(cells: Iterable[Cell], made: Mapping[str, Mapping[str, str]], code: Mapping[str, Any]) -> Iterator[str]:
    """A sentence on each group of cells whose code was edited: how many, of what, and which files changed."""
    groups: dict[tuple[str, tuple[str, ...]], int] = {}
    for cell in cells:
        old, new = made[cell.key], code[cell.key]
        changed = sorted(name for name in {*old, *new} if old.get(name) != new.get(name))
        owners = [name for name in cell.code or () if f"{name.partition(':')[0].replace('.', '/')}.py" in changed]
        place = (", ".join(owners) or cell.part, tuple(changed))
        groups[place] = groups.get(place, 0) + 1
    for (owner, files), count in groups.items():
        more = f" and {len(files) - 3} more" * (len(files) > 3)
        cells_of = f"{count} cell{'s' * (count > 1)} of {owner}"
        yield f"{cells_of} run{'s' * (count == 1)} again: {', '.join(files[:3])}{more} changed."


# -- the whole run -----------------------------------------------------------------------------------------------------

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
    reuse_stale: bool = False,
    pdf: bool = False,
    progress: Progress | None = None,
    tell: Callable[[str], None] | None = None,
) -> RunOutcome:
    """Run a study, or go on with one, and write its summary, figures and report.

    A folder is a set of cells: those of an earlier run with the same seed and versions are taken as they are, unless
    their code was edited since, so that one more option value costs its own cells only. What is written is about the
    cells that these options ask for.

    Args:
        study: what to run.
        options: an instance of ``study.options``; by default the full or the quick ones.
        out: output folder. One that holds a run of the study is continued.
        quick: enters the settings, and picks the default options.
        seed: of the whole run; every cell has its own stream.
        workers: processes on this machine; 1 runs everything here. With more than one, call this from a module that
            guards its top level with ``if __name__ == "__main__"``.
        executor: run on this one instead (Dask, Slurm); it is not shut down.
        overwrite: throw away the run in ``out``.
        reuse_stale: take cells as they are although their code was edited.
        pdf: write every figure as PDF too.
        progress: told of every finished cell.
        tell: told, in a sentence, of cells that run again because their code was edited.

    Returns:
        The outcome; cells that failed are in it, not raised.

    Raises:
        FolderError: ``out`` must not be written to.
        ValueError: options without cells, or a study that contradicts itself.
        KeyboardInterrupt: after Ctrl-C; the cells finished until then are kept.
    """
    options = study.default_options(quick=quick) if options is None else options
    cells = study.checked_cells(options)
    code = code_of_cells(cells)
    settings = run_settings(study, options, quick=quick, seed=seed)
    settings[MADE] = _made(cells, code)
    folder = OutputFolder(Path(out))
    settings = folder.prepare(settings, overwrite=overwrite)
    with ResultStore(folder.results) as store:
        store.keep_settings(settings)
        kept, made = store.results(), store.code()
        there = [cell for cell in cells if cell.key in kept and kept[cell.key].error is None]
        stale = [] if reuse_stale else [cell for cell in there if made[cell.key] != code[cell.key]]
        if tell is not None:
            for sentence in edited(stale, made, code):
                tell(sentence)
        taken = {cell.key for cell in there} - {cell.key for cell in stale}
        todo = [cell for cell in cells if cell.key not in taken]
        done = len(taken)

        def keep(cell: Cell, result: CellResult) -> None:
            nonlocal done
            store.put(cell, result, code[cell.key])
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
    failures += _write(study, options, cells, results, summary, analysis, failures, settings, folder, pdf)
    return RunOutcome(folder, summary, analysis, tuple(failures), len(cells) - len(todo))


@dataclass(frozen=True)
class PlannedPart:
    """A part of a study before it is run.

    Attributes:
        name: of the part.
        cells, todo: how many it has, and how many of them are not there yet.
        seconds: mean of its finished cells, whatever their parameters; ``nan`` where there is none.
        megabytes: the most that a process had used by the end of one of them; ``nan`` where there is none.
    """

    name: str
    cells: int
    todo: int
    seconds: float
    megabytes: float


def plan(study: Study, options: Any, *, out: str | Path, seed: int = 0) -> list[PlannedPart]:
    """What `run_study` would run in this folder; nothing is written.

    Raises:
        FolderError: the folder holds something else.
    """
    cells, folder = study.checked_cells(options), OutputFolder(Path(out))
    kept: Mapping[str, CellResult] = {}
    made: Mapping[str, Mapping[str, str]] = {}
    parts: Mapping[str, str] = {}
    memory: Mapping[str, float] = {}
    if os.path.isfile(folder.results) and folder.settings()["seed"] == seed:
        with ResultStore(folder.results) as store:
            kept, made, parts, memory = store.results(), store.code(), store.parts(), store.memory()
    code, found = code_of_cells(cells), []
    for name in dict.fromkeys(cell.part for cell in cells):
        own = [cell for cell in cells if cell.part == name]
        done = [c for c in own if c.key in kept and kept[c.key].error is None and made[c.key] == code[c.key]]
        seconds = [result.seconds for key, result in kept.items() if parts[key] == name and result.error is None]
        mean = sum(seconds) / len(seconds) if seconds else math.nan
        most = max((memory[key] for key in kept if parts[key] == name and key in memory), default=math.nan)
        todo = len(own) - len(done)
        found.append(PlannedPart(name, len(own), todo, mean if todo else 0.0, most if todo else 0.0))
    return found


def _made(cells: list[Cell], code: Mapping[str, Mapping[str, str]]) -> dict[str, Any]:
    """When, and from what code: nothing that a result is refused for."""
    now = datetime.now(timezone.utc).isoformat(timespec="seconds")
    files = {name: mark for behind in code.values() for name, mark in behind.items()}
    sources = sorted({cell.function.__module__.partition(".")[0] for cell in cells} | {"experiments"})
    commits = {name: commit_of(file) for name in sources if (file := getattr(sys.modules.get(name), "__file__", None))}
    return {
        "first": now,
        "last": now,
        "commit": {name: commit for name, commit in commits.items() if commit is not None},
        "distributions": {name: version for name, version in files.items() if not Path(name).suffix},
        "code": fingerprint(files),
    }


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
    pdf: bool,
) -> list[Failure]:
    """Write every output; returns the figures that could not be drawn."""
    from experiments.charts import render, styled

    write_csv(folder.summary, *summary_lines(study, summary))
    _write_timings(folder.timings, study, cells, results)
    drawn, undrawn = [], []
    for spec in analysis.figures:
        try:
            with styled():
                png, *others = render(spec.draw(), pdf=pdf)
        except Exception:
            undrawn.append(Failure(f"figure {spec.name}", traceback.format_exc()))
            continue
        for ending, drawing in zip(("png", "svg", "pdf"), (png, *others)):
            write_whole(folder.path / f"{spec.name}.{ending}", drawing)
        drawn.append((spec, png))
    page = report_html(
        title=f"{study.name}{' (quick)' if settings['quick'] else ''}",
        question=study.question,
        command=reproduce_command(study, options, quick=settings["quick"], seed=settings["seed"]),
        findings=analysis.findings,
        figures=drawn,
        tables=analysis.tables,
        failures=[*failures, *undrawn],
        settings={name: value for name, value in settings.items() if name != MADE},
        cells=len(cells),
    )
    write_whole(folder.report, page)
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

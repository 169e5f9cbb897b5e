"""Runs a study from settings to report: the output folder, workers, seeds, interruption and `run_study`."""

from __future__ import annotations

import dataclasses
import json
import math
import os
import platform
import re
import shlex
import shutil
import sys
import traceback
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import Executor
from contextlib import nullcontext, suppress
from dataclasses import dataclass
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from experiments.cells import Cell, CellResult, ResultStore, write_whole
from experiments.clusters import Needs, Place, code_of_cells, executor_at, versions
from experiments.executors import run_cells
from experiments.fingerprints import commit_of, distribution_mark, file_hash, fingerprint
from experiments.report import Failure, report_html
from experiments.study import Analysis, Study
from experiments.summary import Summary, summarise, summary_lines, write_csv
from experiments.threads import THREADS, kernels, one_thread

# -- the output folder, and when it may be written to ------------------------------------------------------------------

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
    settings = {
        "study": study.name,
        "quick": quick,
        "seed": seed,
        "options": dataclasses.asdict(options),
        "versions": dict(versions()),
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
    return {name: file_hash(name) for name in names if name and os.path.isfile(os.path.expanduser(name))}


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


def _of_a_run(settings: dict[str, Any]) -> dict[str, Any]:
    """These, where they are those of a run."""
    kinds = {"study": str, "seed": int, KERNELS: list, "files": dict, MADE: dict}
    wrong = {name for name, kind in kinds.items() if not isinstance(settings.get(name, kind()), kind)}
    wrong |= {"study", "seed"} - settings.keys()
    if wrong:
        raise ValueError(f"its {' and '.join(sorted(wrong))} cannot be right")
    return settings


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
        """The settings of the run in the folder: those that its results keep; without any, those in ``config.json``.

        Raises:
            FolderError: there are none.
        """
        if self.results.is_file():
            with suppress(ValueError), ResultStore(self.results) as store:
                return _of_a_run(store.settings())
        try:
            return _of_a_run(json.loads(self.config.read_text(encoding="utf-8")))
        except FileNotFoundError:
            problem = f"{self.path} is not empty and holds no run of ours (no config.json)"
        except Exception as error:  # a damaged file raises whatever json and what is read from it do
            problem = f"{self.config} is not the config.json of a run ({error!r:.200})"
        raise FolderError(f"{problem}; choose another folder with --out.")

    def _clear(self) -> None:
        """Remove what a run writes, and nothing else."""
        for path in (self.config, self.results, self.summary, self.timings, self.report):
            path.unlink(missing_ok=True)
        for beside in ("sqlite-journal", "lock", "lock-journal", "damaged"):
            (self.path / f"results.{beside}").unlink(missing_ok=True)
        for inside in (self.checkpoints, self.path / "slurm"):
            shutil.rmtree(inside, ignore_errors=True)
        for ending in ("*.png", "*.svg", "*.pdf", "table-*", "submission-*.json"):
            for path in self.path.glob(ending):
                path.unlink()


# -- code that was edited since ----------------------------------------------------------------------------------------


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
    place: Place | None = None,
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
        executor: run on this one instead; it is not shut down.
        place: run there instead, on Dask or Slurm, say.
        overwrite: throw away the run in ``out``.
        reuse_stale: take cells as they are although their code was edited.
        pdf: write every figure as PDF too.
        progress: told of every finished cell.
        tell: told, in a sentence, of cells that run again because their code was edited, or their file damaged.

    Returns:
        The outcome; cells that failed are in it, not raised.

    Raises:
        FolderError: ``out`` must not be written to.
        ValueError: options without cells, or a study that contradicts itself.
        OSError: there is nobody at ``place``.
        KeyboardInterrupt: after Ctrl-C; the cells finished until then are kept.
    """
    options = study.default_options(quick=quick) if options is None else options
    cells = study.checked_cells(options)
    code = code_of_cells(cells)
    settings = run_settings(study, options, quick=quick, seed=seed)
    settings[MADE] = _made(cells, code)
    folder = OutputFolder(Path(out))
    settings = folder.prepare(settings, overwrite=overwrite)
    with ResultStore(folder.results, recover=True) as store:
        if store.recovered and tell is not None:
            tell(store.recovered)
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
        where = place or Place(workers=workers)
        if todo and executor is None and where.executor == "local" and study.check_machine is not None:
            study.check_machine(options, where.processes(len(todo)))

        def keep(cell: Cell, result: CellResult) -> None:
            nonlocal done
            store.put(cell, result, code[cell.key])
            if result.kernels and not {*result.kernels} <= {*settings[KERNELS]}:
                settings[KERNELS] = sorted({*result.kernels, *settings[KERNELS]})
                folder.write_config(settings)
                store.keep_settings(settings)
            done += 1
            if progress is not None:
                progress(done, len(cells), result)

        needs = Needs(settings["versions"], settings.get("files", {}), code)
        with nullcontext(executor) if executor else executor_at(where, folder.path, needs, len(todo)) as chosen:
            run_cells(
                todo,
                study=study.seeds_of,
                seed=seed,
                executor=chosen,
                on_result=keep,
                checkpoints=folder.checkpoints,
            )
        results = store.results()
    summary, analysis, failures = _analyse(study, options, cells, results, seed)
    failures += _write(study, options, cells, results, summary, analysis, failures, settings, folder, pdf)
    for name, content in study.exports(options, cells, results, code, settings).items() if study.exports else ():
        write_whole(folder.path / name, content)
    return RunOutcome(folder, summary, analysis, tuple(failures), len(cells) - len(todo))


@dataclass(frozen=True)
class PlannedPart:
    """A part of a study before it is run.

    Attributes:
        name: of the part.
        cells, todo: how many it has, and how many of them are not there yet.
        seconds: mean of its finished cells, whatever their parameters; where there is none, of what the study expects,
            or ``nan``.
        megabytes: the most that a process had used by the end of one of them; ``nan`` where there is none.
    """

    name: str
    cells: int
    todo: int
    seconds: float
    megabytes: float


def plan(study: Study, options: Any, *, out: str | Path, seed: int = 0, reuse_stale: bool = False) -> list[PlannedPart]:
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
        there = [cell for cell in own if cell.key in kept and kept[cell.key].error is None]
        done = [cell for cell in there if reuse_stale or made[cell.key] == code[cell.key]]
        seconds = [result.seconds for key, result in kept.items() if parts[key] == name and result.error is None]
        if not seconds and study.seconds is not None:
            seconds = [study.seconds(options, cell) for cell in own]
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
        "distributions": {
            **{name: distribution_mark(name) for name in versions() if name != "python"},
            **{name: mark for name, mark in files.items() if not Path(name).suffix},
        },
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
    from experiments.charts import numbers_of, render, styled

    write_csv(folder.summary, *summary_lines(study, summary))
    _write_timings(folder.timings, study, cells, results)
    drawn, undrawn = [], []
    for spec in analysis.figures:
        try:
            with styled():
                png, svg, *others = render(spec.draw(), setting=spec.setting, otherwise=numbers_of(options), pdf=pdf)
        except Exception:
            undrawn.append(Failure(f"figure {spec.name}", traceback.format_exc()))
            continue
        for ending, drawing in zip(("png", "svg", "pdf"), (png, svg, *others)):
            write_whole(folder.path / f"{spec.name}.{ending}", drawing)
        drawn.append((spec, svg))
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
        made=settings[MADE],
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

"""The command line: ``ntp-bench list``, ``run``, ``evaluate`` and ``distance``, also as ``python -m experiments``."""

from __future__ import annotations

import dataclasses
import importlib
import os
import signal
import sqlite3
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any

import tyro
from rich.console import Console
from rich.markup import escape
from rich.table import Table as RichTable

from experiments.run import FolderError
from experiments.study import Study

# -- is the package ``agents`` that Python finds ours? many people have one of their own -------------------------------


def shadowed_agents() -> str | None:
    """A message with the way round if something else is imported as ``agents``; ``None`` if all is well."""
    ours = Path(__file__).resolve().parent.parent / "agents"
    try:
        found = importlib.import_module("agents")
    except Exception as error:
        return _message(f"`import agents` fails ({type(error).__name__}: {error})", ours)
    file = getattr(found, "__file__", None)
    places = [file] if file else list(getattr(found, "__path__", []))
    is_ours = any(ours in (Path(place).resolve(), Path(place).resolve().parent) for place in places)
    if is_ours and hasattr(found, "Agent"):
        return None
    if is_ours:
        return (
            f"the package `agents` at {ours} was imported without its contents; the installation is stale or another "
            "distribution has replaced files of it. Install ntp-envs again, in an environment of its own."
        )
    return _message(f"the package `agents` that Python finds is {', '.join(places) or found!r}", ours)


def _message(what: str, ours: Path) -> str:
    return (
        f"{what}, not the one of ntp-envs ({ours}). Something that comes earlier on sys.path shadows it: a folder or "
        "file named agents in the current folder or on PYTHONPATH, or another installed distribution. Run "
        f"`ntp-bench` from another folder, or put ours first: PYTHONPATH={ours.parent} ntp-bench ...; or install "
        "ntp-envs in an environment of its own. `ntp_envs` works without it."
    )


# -- the commands ------------------------------------------------------------------------------------------------------

USAGE = """\
ntp-bench: measure how next-token prediction drifts with the horizon

  ntp-bench list                          studies, tasks and agents
  ntp-bench run STUDY [--quick] [options] run a study; --quick takes about a minute
  ntp-bench run STUDY --help              its options
  ntp-bench evaluate TASK [AGENT]         what a policy gets right, forced and free-running
  ntp-bench distance FILE                 how far two models' texts are apart, from their log-probabilities
  ntp-bench --version
"""

SHOWN = 10  # failures listed on the terminal; all are in the report


@dataclasses.dataclass(frozen=True)
class RunSettings:
    """Where and how a study runs."""

    quick: bool = False
    """The small variant of the study, about a minute on two cores, with the same outputs."""
    out: Path | None = None
    """Output folder; runs/STUDY or runs/STUDY-quick by default. A run in it goes on: what it has is not run again."""
    seed: int = 0
    """Seed of the whole run."""
    workers: int = min(os.cpu_count() or 1, 8)
    """Processes; 1 runs everything in this one. The numbers do not depend on it."""
    overwrite: bool = False
    """Throw away the run in the output folder."""
    reuse_stale: bool = False
    """Take finished cells as they are, although the code that made them was edited since."""

    def __post_init__(self) -> None:
        if self.workers < 1:
            raise ValueError(f"workers={self.workers} must be an integer >= 1.")
        if self.seed < 0:
            raise ValueError(f"seed={self.seed} must be an integer >= 0.")


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line and return its exit code: 0 well, 1 something failed, 2 wrong use, 130 interrupted."""
    words = list(sys.argv[1:] if argv is None else argv)
    stderr = Console(stderr=True, highlight=False)
    if not words or words[0] in ("-h", "--help", "help"):
        print(USAGE, end="")
        return 0
    if words[0] == "--version":
        from ntp_envs import __version__

        print(f"ntp-bench {__version__}")
        return 0
    commands: dict[str, Callable[[list[str]], int]] = {
        "list": _list,
        "run": _run,
        "evaluate": _evaluate,
        "distance": _distance,
    }
    try:
        if words[0] not in commands:
            from ntp_envs.checks import did_you_mean

            raise UsageError(f"unknown command {words[0]!r}.{did_you_mean(words[0], commands)}")
        if message := shadowed_agents():
            raise UsageError(message)
        return commands[words[0]](words[1:])
    except (UsageError, FolderError) as error:
        stderr.print(f"[bold red]ntp-bench:[/] {escape(str(error))}", soft_wrap=True)
        return 2
    except KeyboardInterrupt:
        stderr.print("interrupted.")
        return 130


class UsageError(ValueError):
    """The command line was used wrongly; shown without a traceback, exit code 2."""


def _list(words: list[str]) -> int:
    if words:
        raise UsageError(f"list takes no arguments, not {' '.join(words)!r}.")
    from agents.registry import agent_class, agent_names
    from experiments.studies import load_study, study_names
    from ntp_envs import task_names
    from ntp_envs.tasks.registry import task_class

    console = Console(highlight=False)

    def section(title: str, lines: list[tuple[str, str]]) -> None:
        console.print(f"[bold]{title}[/]")
        width = max((len(name) for name, _ in lines), default=0)
        for name, text in lines:
            console.print(f"  [cyan]{name:{width}}[/]  {escape(text)}", soft_wrap=True)

    section("Studies  (ntp-bench run NAME)", [(name, _line(load_study, name)) for name in study_names()])
    section("Tasks  (ntp_envs.make_task)", [(name, _line(task_class, name)) for name in task_names()])
    section("Agents  (agents.make_agent)", [(name, _line(agent_class, name)) for name in agent_names()])
    return 0


def _line(load: Callable[[str], Any], name: str) -> str:
    """One line on a study, task or agent; a package that announces what it cannot deliver does not hide the rest."""
    try:
        item = load(name)
    except Exception as error:
        return f"(cannot be loaded: {error})"
    return getattr(item, "question", None) or (item.__doc__ or "").strip().partition("\n")[0]


def _run(words: list[str]) -> int:
    from experiments.studies import load_study, study_names

    if not words or words[0] in ("-h", "--help"):
        print(f"ntp-bench run STUDY [--help] [--quick] [options]\nstudies: {', '.join(study_names())}")
        return 0 if words else 2
    if words[0].startswith("-"):
        raise UsageError(f"the study comes first: ntp-bench run STUDY {' '.join(words)}")
    try:
        study = load_study(words[0])
    except ValueError as error:
        raise UsageError(str(error)) from error
    try:
        settings, options = parse_run(study, words[1:])
    except SystemExit as stop:  # tyro has printed the help, or the error with the nearest option
        return int(stop.code or 0)
    except (ValueError, TypeError) as error:
        raise UsageError(str(error)) from error
    return _run_and_show(study, settings, options)


def _evaluate(words: list[str]) -> int:
    from experiments.evaluation import show_evaluation

    return _shown(show_evaluation, words)


def _distance(words: list[str]) -> int:
    from experiments.log_probs import show_distance

    return _shown(show_distance, words)


def _shown(show: Callable[[list[str]], int], words: list[str]) -> int:
    from experiments.threads import one_thread

    try:
        with one_thread():
            return show(words or ["--help"])
    except SystemExit as stop:
        return int(stop.code or 0)
    except (ValueError, TypeError, OSError, ImportError) as error:
        raise UsageError(str(error)) from error


def parse_run(study: Study, words: list[str]) -> tuple[RunSettings, Any]:
    """Settings and study options from the words after the study's name; ``--quick`` changes the options' defaults."""
    flat = tyro.conf.arg(name="")
    quick = "--quick" in words
    command = dataclasses.make_dataclass(
        "Command",
        [
            ("settings", Annotated[RunSettings, flat], dataclasses.field(default_factory=RunSettings)),
            (
                "options",
                Annotated[study.options, flat],  # type: ignore[name-defined]
                dataclasses.field(default_factory=lambda: study.default_options(quick=quick)),
            ),
        ],
    )
    parsed: Any = tyro.cli(
        command,
        args=words,
        prog=f"ntp-bench run {study.name}",
        description=study.question,
        config=(tyro.conf.FlagCreatePairsOff,),
    )
    return parsed.settings, parsed.options


def _run_and_show(study: Study, settings: RunSettings, options: Any) -> int:
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

    from experiments.cells import CellResult
    from experiments.run import run_study

    out = settings.out or Path("runs") / (study.name + ("-quick" if settings.quick else ""))
    stdout, stderr = Console(highlight=False), Console(stderr=True, highlight=False)
    bar = Progress(
        TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn(), console=stderr
    )
    task = bar.add_task(study.name, total=None)

    def progress(done: int, total: int, result: CellResult) -> None:
        bar.start()  # only now: nothing is drawn if the run is refused
        bar.update(task, completed=done, total=total)
        if result.error is not None:
            bar.update(task, description=f"{study.name} [red](some failed)[/]")

    try:
        with _stopped_like_ctrl_c():
            outcome = run_study(
                study,
                options,
                out=out,
                quick=settings.quick,
                seed=settings.seed,
                workers=settings.workers,
                overwrite=settings.overwrite,
                reuse_stale=settings.reuse_stale,
                progress=progress,
                tell=lambda sentence: stderr.print(escape(sentence), soft_wrap=True),
            )
    except ValueError as error:
        raise UsageError(str(error)) from error
    except (KeyboardInterrupt, OSError, sqlite3.Error) as error:
        reason = (
            "interrupted." if isinstance(error, KeyboardInterrupt) else f"[bold red]stopped:[/] {escape(str(error))}."
        )
        stderr.print(
            f"{reason} What is finished is kept in {escape(str(out))}; the same command goes on from there.",
            soft_wrap=True,
        )
        return 130 if isinstance(error, KeyboardInterrupt) else 1
    finally:
        bar.stop()
    if outcome.reused:
        stderr.print(f"{outcome.reused} cells were taken from the earlier run in {escape(str(out))}.")
    for table in outcome.analysis.tables[:1]:
        _print_whole(table.to_rich())
    for finding in outcome.analysis.findings:
        stdout.print(f"  {escape(finding)}", soft_wrap=True)
    stdout.print(f"report: {escape(str(outcome.folder.report))}", soft_wrap=True)
    if outcome.failures:
        stderr.print(f"[bold red]{len(outcome.failures)} failed:[/]")
        for failure in outcome.failures[:SHOWN]:
            stderr.print(f"  {escape(failure.where)}: {escape(failure.last_line)}", soft_wrap=True)
        if len(outcome.failures) > SHOWN:
            stderr.print(f"  ... and {len(outcome.failures) - SHOWN} more")
        stderr.print("They are in the report with their tracebacks; the same command tries them again.")
        return 1
    return 0


@contextmanager
def _stopped_like_ctrl_c() -> Iterator[None]:
    """Inside, SIGTERM (schedulers) and SIGHUP (a terminal that is closed) stop the workers too, as Ctrl-C does."""

    def stop(number: int, frame: Any) -> None:
        raise KeyboardInterrupt

    if threading.current_thread() is not threading.main_thread():  # where signals cannot be handled
        yield
        return
    names = [name for name in ("SIGTERM", "SIGHUP") if hasattr(signal, name)]
    before = [(getattr(signal, name), signal.signal(getattr(signal, name), stop)) for name in names]
    try:
        yield
    finally:
        for number, handler in before:
            signal.signal(number, handler)


def _print_whole(table: RichTable) -> None:
    """Print a table as wide as it is: a number cut short is worse than a line that wraps."""
    console = Console(highlight=False)
    wanted = console.measure(table, options=console.options.update(max_width=10_000)).maximum
    console.width = max(console.width, wanted)
    console.print(table)


if __name__ == "__main__":
    sys.exit(main())

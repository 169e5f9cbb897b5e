"""The command line: ``ntp-bench run``, and the commands of `COMMANDS`; also as ``python -m experiments``."""

from __future__ import annotations

import dataclasses
import errno
import importlib
import json
import math
import os
import signal
import sqlite3
import sys
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Annotated, Any, Literal

import tyro
from rich.console import Console
from rich.markup import escape

from experiments.cells import write_whole
from experiments.clusters import Place
from experiments.run import FolderError, Progress, RunOutcome
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
    if is_ours and hasattr(found, "make_agent"):  # not every Agent is one of ours
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
  ntp-bench info NAME                     what a task, agent or study is, with a sample episode
  ntp-bench run STUDY [--quick] [options] run a study; --quick takes about a minute
  ntp-bench run STUDY --help              its options
  ntp-bench evaluate TASK [AGENT]         what a policy gets right, forced and free-running
  ntp-bench diff RUN1 RUN2                what changed from one run to another, with intervals
  ntp-bench leaderboard DIR               submissions of the suite, checked, as a page
  ntp-bench distance FILE                 how far two models' texts are apart, from their log-probabilities
  ntp-bench advise DATA --class CLASS     which learner for this data and this budget, in four sentences
  ntp-bench play [TASK]                   guess text, or write in a task, and see the expert's law: Shannon's game
  ntp-bench explore --out FILE            a page with sliders: curves, the factor, documents side by side
  ntp-bench completion bash|zsh           a script that completes commands, names and options where Tab is pressed
  ntp-bench --version
"""

#: every command but ``run``; nothing is imported before it is called
COMMANDS = {
    "list": "experiments.info:show_list",
    "info": "experiments.info:show_info",
    "evaluate": "experiments.evaluation:show_evaluation",
    "diff": "experiments.difference:show_diff",
    "leaderboard": "experiments.leaderboard:show_leaderboard",
    "distance": "experiments.log_probs:show_distance",
    "advise": "experiments.advise_command:show_advice",
    "play": "experiments.play:show_play",
    "explore": "experiments.explore:show_explore",
    "completion": "experiments.cli:show_completion",
}
LINE_EVERY = 10.0  # seconds from one line of progress to the next, where there is no terminal
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
    place: Annotated[Place, tyro.conf.arg(name="")] = dataclasses.field(default_factory=Place)
    overwrite: bool = False
    """Throw away the run in the output folder."""
    reuse_stale: bool = False
    """Take finished cells as they are, although the code that made them was edited since."""
    dry_run: bool = False
    """Say what would be run, and how long and how much memory it takes where an earlier run in the folder knows."""
    quiet: bool = False
    """No progress, tables or findings: the place of the report, and what failed."""
    json: bool = False
    """Print tables and findings as JSON."""
    table: Literal["markdown", "latex", "csv", "none"] = "none"
    """Print the first table in this form, and keep all of them in the folder."""
    pdf: bool = False
    """Write every figure as PDF too."""
    slides: bool = False
    """Draw the figures for slides: larger words and lines."""

    def __post_init__(self) -> None:
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
    try:
        if words[0] != "run" and words[0] not in COMMANDS:
            from ntp_envs.checks import did_you_mean

            raise UsageError(f"unknown command {words[0]!r}.{did_you_mean(words[0], ['run', *COMMANDS])}")
        if message := shadowed_agents():
            raise UsageError(message)
        if words[0] == "run":
            code = _run(words[1:])
        else:
            code = _shown(COMMANDS[words[0]], words[1:] or ([] if words[0] in ("list", "play") else ["--help"]))
        sys.stdout.flush()
        return code
    except (UsageError, FolderError) as error:
        stderr.print(f"[bold red]ntp-bench:[/] {escape(str(error))}", soft_wrap=True)
        return 2
    except BrokenPipeError:  # who reads has had enough, as `head` does
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except OSError as error:  # standard output is a full disk
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        stderr.print(f"[bold red]ntp-bench:[/] nothing can be printed ({escape(str(error))}).", soft_wrap=True)
        return 1
    except KeyboardInterrupt:
        stderr.print("interrupted.")
        return 130


class UsageError(ValueError):
    """The command line was used wrongly; shown without a traceback, exit code 2."""


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


def _shown(command: str, words: list[str]) -> int:
    from experiments.threads import one_thread

    module, _, name = command.partition(":")
    try:
        with one_thread():
            return getattr(importlib.import_module(module), name)(words)
    except SystemExit as stop:
        return int(stop.code or 0)
    except BrokenPipeError:
        raise
    except (ValueError, TypeError, OSError, ImportError) as error:
        if isinstance(error, OSError) and error.errno == errno.ENOSPC and error.filename is None:
            raise  # standard output, see `main`: what is written elsewhere is named
        raise UsageError(str(error)) from error
    except MemoryError as error:
        raise UsageError(f"not enough memory ({error}); use smaller sizes.") from error


def show_completion(words: list[str]) -> int:
    """Print a completion script, which knows these commands."""
    from experiments.completion import script

    print(script(words, ["run", *COMMANDS], RunSettings), end="")
    return 0


def parse_run(study: Study, words: list[str]) -> tuple[RunSettings, Any]:
    """Settings and study options from the words after the study's name; ``--quick`` changes the options' defaults."""
    flat = tyro.conf.arg(name="")
    quick = "--quick" in words
    names = {field.name.replace("_", "-"): field.default for field in dataclasses.fields(study.options)}
    words = gathered(words, {f"--{name}": isinstance(default, tuple) for name, default in names.items()})
    makers: dict[str, tuple[Any, Any]] = {"settings": (RunSettings, RunSettings)}
    makers["options"] = (study.options, lambda: study.default_options(quick=quick))
    fields = [(n, Annotated[kind, flat], dataclasses.field(default_factory=make)) for n, (kind, make) in makers.items()]
    command, prog = dataclasses.make_dataclass("Command", fields), f"ntp-bench run {study.name}"
    how: dict[str, Any] = {"description": study.question, "config": (tyro.conf.FlagCreatePairsOff,)}
    parsed: Any = tyro.cli(command, args=words, prog=prog, **how)
    return parsed.settings, parsed.options


def gathered(words: Sequence[str], options: Mapping[str, bool]) -> list[str]:
    """The words with the values of each option that takes several in one place, though they were given one by one.

    That is by its singular (``--learner A --learner B``); of an option that is given again the last values count.

    Args:
        words: of the command line.
        options: the study's, and whether each takes several values; such a one answers to its singular, too.

    >>> gathered(["--learner", "a", "--quick", "--learner", "b", "c"], {"--learners": True})
    ['--learners', 'a', 'b', 'c', '--quick']
    """
    groups: dict[Any, list[str]] = {}
    for word in words:
        if word.startswith("--"):
            name, _, value = word.partition("=")
            several = name if options.get(name) else f"{name}s" if name not in options else ""
            key: Any = several if options.get(several) else len(groups)
            start = [several, *([value] if value else [])] if key == several else [word]
            groups[key] = [*groups[key], *start[1:]] if key in groups and name != several else start
            last = groups[key]
        elif groups:
            last.append(word)
        else:
            groups[0] = last = [word]
    return [word for group in groups.values() for word in group]


def _run_and_show(study: Study, settings: RunSettings, options: Any) -> int:
    from experiments.charts import for_slides
    from experiments.run import run_study

    out = settings.out or Path("runs") / (study.name + ("-quick" if settings.quick else ""))
    stderr = Console(stderr=True, highlight=False)
    try:
        if settings.dry_run:
            return _plan(study, options, out, settings)
        with _stopped_like_ctrl_c(), _progress(study.name, stderr, settings.quiet) as progress:
            same = ("quick", "seed", "place", "overwrite", "reuse_stale", "pdf")
            how: dict[str, Any] = {name: getattr(settings, name) for name in same}
            how["tell"] = lambda sentence: stderr.print(escape(sentence), soft_wrap=True)
            with for_slides() if settings.slides else nullcontext():
                outcome = run_study(study, options, out=out, progress=progress, **how)
    except (ValueError, ImportError) as error:
        raise UsageError(str(error)) from error
    except BrokenPipeError:
        raise
    except (KeyboardInterrupt, OSError, sqlite3.Error, MemoryError) as error:
        interrupted = isinstance(error, KeyboardInterrupt)
        reason = "interrupted." if interrupted else f"[bold red]stopped:[/] {escape(str(error))}."
        kept = f"What is finished is kept in {escape(str(out))}; the same command goes on from there."
        if not os.path.isdir(out):
            kept = f"The folder {escape(str(out))} is gone, and what was finished with it."
        elif getattr(error, "errno", None) == errno.ENOSPC:
            reason += " That is the disk, or /dev/shm, which worker processes need: --workers 1 does without."
        stderr.print(f"{reason} {kept}", soft_wrap=True)
        return 130 if interrupted else 1
    if outcome.reused and not settings.quiet:
        stderr.print(f"{outcome.reused} cells were taken from the earlier run in {escape(str(out))}.", soft_wrap=True)
    _show(outcome, settings)
    if outcome.failures:
        stderr.print(f"[bold red]{len(outcome.failures)} failed:[/]")
        for failure in outcome.failures[:SHOWN]:
            stderr.print(f"  {escape(failure.where)}: {escape(failure.last_line)}", soft_wrap=True)
        if len(outcome.failures) > SHOWN:
            stderr.print(f"  ... and {len(outcome.failures) - SHOWN} more")
        stderr.print("They are in the report with their tracebacks; the same command tries them again.")
        return 1
    return 0


def _show(outcome: RunOutcome, settings: RunSettings) -> None:
    """What was found, in the form that was asked for."""
    from experiments.terminal import plain, print_whole

    tables, stdout = outcome.analysis.tables, Console(highlight=False)
    if settings.table != "none":
        kind, ending = settings.table, {"markdown": "md", "latex": "tex", "csv": "csv"}[settings.table]
        for i, table in enumerate(tables, start=1):
            write_whole(outcome.folder.path / f"table-{i}.{ending}", getattr(table, f"to_{kind}")())
    if settings.json:
        shown = [{"title": table.title, "columns": table.columns, "rows": table.text_rows()} for table in tables]
        failed = [failure.where for failure in outcome.failures]
        found = {"folder": str(outcome.folder.path), "findings": outcome.analysis.findings, "failed": failed}
        print(json.dumps(plain({**found, "tables": shown}), indent=1))
        return
    for table in tables[:1]:
        if settings.table != "none":
            print(getattr(table, f"to_{settings.table}")(), end="")
        elif not settings.quiet:
            print_whole(table.to_rich())
    if not settings.quiet:
        for finding in outcome.analysis.findings:
            stdout.print(f"  {escape(finding)}", soft_wrap=True)
    stdout.print(f"report: {escape(str(outcome.folder.report))}", soft_wrap=True)


def _plan(study: Study, options: Any, out: Path, settings: RunSettings) -> int:
    """What `_run_and_show` would run, and how long, by the finished cells of the same parts."""
    from experiments.cells import peak_memory
    from experiments.run import plan

    stdout = Console(highlight=False)
    parts = plan(study, options, out=out, seed=settings.seed, reuse_stale=settings.reuse_stale)
    planned = [part for part in parts if part.cells]
    for part in planned:
        each = "time and memory not known"
        if part.todo == 0:
            each = "nothing to do"
        elif not math.isnan(part.seconds):
            each = f"about {part.seconds:.2g} s each"
            each += "" if math.isnan(part.megabytes) else f" and up to {part.megabytes:.0f} MB a process"
        stdout.print(f"{escape(part.name)}: {part.todo} of {part.cells} cells to run, {each}", soft_wrap=True)
    todo = sum(part.todo for part in planned)
    total, most = sum(part.todo * part.seconds for part in planned), [part.megabytes for part in planned]
    long = f"about {total:.3g} s of one processor"
    if math.isnan(total):
        long = "how long is known when a cell of each part is finished"
    workers = settings.place.processes(todo)
    stdout.print(f"{study.name}: {todo} cells to run in {escape(str(out))}, {long}", soft_wrap=True)
    if todo:
        used = f"{workers} x {max(most):.0f} MB, the most that a process of finished cells had used"
        least = f"more than {workers} x {peak_memory():.0f} MB, which is what this process takes before any cell"
        stdout.print(f"memory: {least if any(map(math.isnan, most)) else used}", soft_wrap=True)
    return 0


@contextmanager
def _progress(name: str, stderr: Console, quiet: bool) -> Iterator[Progress | None]:
    """A bar on a terminal; elsewhere a line now and then, with the time that is left."""
    from experiments.cells import CellResult

    if quiet:
        yield None
    elif stderr.is_terminal:
        from rich import progress as rich

        columns = (rich.TextColumn("{task.description}"), rich.BarColumn(), rich.MofNCompleteColumn())
        bar = rich.Progress(*columns, rich.TimeElapsedColumn(), console=stderr)
        task = bar.add_task(name, total=None)

        def draw(done: int, total: int, result: CellResult) -> None:
            bar.start()  # only now: nothing is drawn if the run is refused
            bar.update(task, completed=done, total=total)
            if result.error is not None:
                bar.update(task, description=f"{name} [red](some failed)[/]")

        try:
            yield draw
        finally:
            bar.stop()
    else:
        start, first, last = time.monotonic(), -1, time.monotonic()

        def say(done: int, total: int, result: CellResult) -> None:
            nonlocal first, last
            now = time.monotonic()
            first = done - 1 if first < 0 else first
            if now - last >= LINE_EVERY or done == total:
                last = now
                left = (now - start) / (done - first) * (total - done)
                failed = " (the last one failed)" if result.error is not None else ""
                stderr.print(f"{name}: {done} of {total} cells, about {left:.0f} s left{failed}", soft_wrap=True)

        yield say


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


if __name__ == "__main__":
    sys.exit(main())

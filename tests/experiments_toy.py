"""Studies small enough to test the machinery with. Not a test module: worker processes import it by name."""

import os
import time
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pytest
import threadpoolctl
from small_studies import SMALL

from experiments import measure
from experiments.cells import Cell, Record
from experiments.charts import end_labels, new_figure, plot_series
from experiments.cli import parse_run
from experiments.run import run_study
from experiments.studies import load_study
from experiments.study import Analysis, FigureSpec, Study
from experiments.summary import Table, derived


@dataclass(frozen=True)
class ToyOptions:
    sizes: tuple[int, ...] = (1, 2, 4)
    seeds: int = 3
    mood: str = "calm"
    log: str = ""  # a file to which every cell that runs adds a line

    @classmethod
    def quick(cls):
        return cls(sizes=(1, 2))


def noisy_square(*, size, replicate, mood, log, rng):
    if log:
        with Path(log).open("a") as file:
            file.write(f"{size} {replicate}\n")
    time.sleep({"slow": 0.2, "long": 2.0}.get(mood, 0.0))
    if size == 2 and replicate == 1:
        if mood == "failing":
            raise ArithmeticError("two is <b>odd</b>")
        if mood == "dying":
            os._exit(3)
    value = size**2 + 0.1 * rng.normal()
    return [Record("square", value, {"K": size}), Record("seconds", time.perf_counter(), {"K": size}, machine=True)]


def cells(options):
    for size in options.sizes:
        for replicate in range(options.seeds):
            parameters = {"size": size, "replicate": replicate, "mood": options.mood, "log": options.log}
            yield Cell("squares", noisy_square, parameters)


def analyse(options, summary):
    def draw():
        figure, axes = new_figure("Squares grow", "size", "square")
        series = summary.series("K", "square")
        plot_series(axes, series, "rho")
        ends = zip(series.x[-1:], series.mean[-1:])  # none where nothing was measured
        end_labels(axes, [(x, y, name, "black") for x, y in ends for name in ("one", "two")])
        return figure

    def broken():
        raise RuntimeError("no ink")

    total = derived("squares", "total", sum(row.mean for row in summary), "sum")
    if options.mood == "confused":
        raise RuntimeError("no idea")
    return Analysis(
        rows=[total],
        tables=[Table("Squares <i>", ["size", "square"], [[row["K"], row.mean] for row in summary])],
        figures=[
            FigureSpec("squares", "Do squares grow?", "They do & fast.", draw),
            *([FigureSpec("broken", "?", "?", broken)] if options.mood == "inkless" else []),
        ],
        findings=["squares grow"],
    )


STUDY = Study("toy", "Do squares grow?", ToyOptions, cells, analyse)
#: where nobody looks at the figure, which takes longer than all the rest
UNDRAWN = replace(STUDY, analyse=lambda options, summary: replace(analyse(options, summary), figures=()))


@dataclass(frozen=True)
class LongOptions:
    steps: int = 4
    stop: str = ""  # a file: while it is there, a cell stops half way

    @classmethod
    def quick(cls):
        return cls()


def counted(*, start, steps, stop, rng, scratch):
    """Adds up, with a checkpoint after every step; says in a record how many steps were made in this call."""
    state = scratch / "state"
    done, total = (int(word) for word in state.read_text().split()) if state.exists() else (0, start)
    made = 0
    for step in range(done, steps):
        if stop and Path(stop).exists() and step == steps // 2:
            raise KeyboardInterrupt
        total += step
        made += 1
        state.write_text(f"{step + 1} {total}")
    return [Record("total", total, {"K": start}), Record("steps made", made, {"K": start}, machine=True)]


def long_cells(options):
    for start in (10, 20):
        yield Cell("sums", counted, {"start": start, "steps": options.steps, "stop": options.stop}, scratch=True)


def killing(*, start, steps, stop, rng, scratch):
    """`counted`, but in the middle it ends its process, once; so that what was sent of the folder arrives, it waits."""
    if start == 10 and Path(stop).exists():
        (scratch / "state").write_text(f"{steps // 2} {start + sum(range(steps // 2))}")
        time.sleep(1.0)
        Path(stop).unlink()
        os._exit(3)
    return counted(start=start, steps=steps, stop="", rng=rng, scratch=scratch)


def killing_cells(options):
    return [replace(cell, function=killing) for cell in long_cells(options)]


LONG = Study("long", "Do sums add up?", LongOptions, long_cells, lambda options, summary: Analysis())


@dataclass(frozen=True)
class ThreadedOptions:
    sizes: tuple[int, ...] = (200, 300, 400)

    @classmethod
    def quick(cls):
        return cls()


def product(*, size, rng):
    """A product large enough for several threads, whose last bits show how many there were; and how many there are."""
    a = rng.normal(size=(size, 3 * size))
    bits = np.linalg.norm(np.round(a @ a.T * 2.0**30) - a @ a.T * 2.0**30)
    threads = max((library["num_threads"] for library in threadpoolctl.threadpool_info()), default=1)
    return [Record("bits", bits, {"K": size}), Record("threads", threads, {"K": size})]


def threaded_cells(options):
    for size in options.sizes:
        yield Cell("products", product, {"size": size})


THREADED = Study("threaded", "Who adds?", ThreadedOptions, threaded_cells, lambda options, summary: Analysis())


def small_options(study):
    """The options of a study's small form, as the command line reads them."""
    return parse_run(load_study(study), SMALL[study].split())[1]


def resumed(cell, folder):
    """The records of a training, which are the same when it goes on from its checkpoints and when it is made anew."""
    first, again, fresh = (
        cell.function(**cell.parameters, rng=np.random.default_rng(1), scratch=scratch)
        for scratch in (folder / "run", folder / "run", folder / "anew")
    )
    assert list(folder.rglob("*.pt"))
    assert [record.value for record in first] == [record.value for record in again]
    assert [record.value for record in first] == [record.value for record in fresh]
    return first


def one(outcome, metric, **labels):
    """The one row in this place."""
    (row,) = outcome.summary.select(metric, **labels)
    return row


def stopped_and_resumed(monkeypatch, study, options, folder, draw, evaluation):
    """A run that is stopped at this draw or evaluation of a training and goes on, and the draws of both, in a list."""
    from agents.neural.training import OnlineBatches

    draws = stopping(monkeypatch, OnlineBatches, "draw", draw)
    stopping(monkeypatch, measure, "evaluate", evaluation)
    with pytest.raises(KeyboardInterrupt):
        run_study(study, options, out=folder)
    assert list(folder.glob("checkpoints/*/evaluation-*.json")), "nothing was kept"
    return run_study(study, options, out=folder), draws


def check_without_torch(monkeypatch, study, options, outcome, finding):
    """Without torch the rest runs, and the last finding says how to get it; networks that are asked for are refused."""
    monkeypatch.setattr(measure, "without_torch", lambda: 'pip install "ntp-envs[neural]"')
    auto = replace(options, neural="auto")
    assert len(list(study.cells(auto))) == len(list(study.cells(options)))
    assert study.analyse(auto, outcome.summary).findings[-1] == f'{finding}: pip install "ntp-envs[neural]".'
    with pytest.raises(ValueError, match="--neural no"):
        list(study.cells(replace(options, neural="yes")))


def stopping(monkeypatch, owner, name, at=None):
    """The calls of a function from now on, in a list that grows; the one with the number ``at`` is like Ctrl-C."""
    calls, function = [], getattr(owner, name)

    def counted(*args, **kwargs):
        calls.append(1)
        if len(calls) == at:
            raise KeyboardInterrupt
        return function(*args, **kwargs)

    monkeypatch.setattr(owner, name, counted)
    return calls

"""Speed against named peers: ``python -m experiments.benchmarks [NAMES] [--quick] [--markdown FILE]``.

A benchmark is a file of this folder with a function ``rows(quick)`` that gives `Row`s: what is done, by whom, and what
both must agree on. All else is here: everyone does the work in turn, A B A B; the results are compared; what counts is
processor time on one thread, so that other work on the machine disturbs it little; the least time is the best estimate,
and the median says how steady it was. A peer, or an extra, that is not installed is named.
"""

from __future__ import annotations

import argparse
import importlib
import os
import pkgutil
import platform
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np

from experiments.threads import kernels, one_thread


class Clock:
    """What a side spends inside ``with clock():``; what it makes ready outside is not counted."""

    def __init__(self) -> None:
        self.seconds = 0.0

    @contextmanager
    def __call__(self, share: float = 1.0) -> Iterator[None]:
        """Processor seconds of the block, divided by the share of the work that is done in it."""
        before = time.process_time()
        yield
        self.seconds += (time.process_time() - before) / share


#: does the work, timed by the clock, and returns what came out
Side = Callable[[Clock], Any]


def timed(work: Callable[[], Any]) -> Side:
    """A side all of whose work counts."""

    def side(clock: Clock) -> Any:
        with clock():
            return work()

    return side


def optional(make: Callable[[], Any]) -> Any:
    """A peer that may not be installed: ``make`` imports it and gives the side, or the error is the peer."""
    try:
        return make()
    except ImportError as error:
        return error


@dataclass(frozen=True)
class Row:
    """A line of the table.

    Attributes:
        work: what is done; the same with ``quick``.
        size: how much of it.
        ours: our side.
        peers: the other sides by name; an `optional` one may be missing.
        agree: whether our result is that of a peer.
        goal: of the ratio, or of our time.
        note: what is to be said of our result.
    """

    work: str
    size: str
    ours: Side
    peers: Mapping[str, Side | ImportError]
    agree: Callable[[Any, Any], bool]
    goal: str = "1x"
    note: Callable[[Any], str] = lambda found: ""

    def cells(self, *, quick: bool = False) -> list[str]:
        """Measure, in 3 to 9 turns, for about 5 seconds (20 if there are no 3 before); once if ``quick``.

        Raises:
            RuntimeError: the results differ; the times would be of different work.
        """
        sides = {
            name: side for name, side in {"": self.ours, **self.peers}.items() if not isinstance(side, ImportError)
        }
        spent: dict[str, list[float]] = {name: [] for name in sides}
        results: dict[str, Any] = {}
        for turn in range(1 if quick else 9):
            if sum(map(sum, spent.values())) > (5 if turn >= 3 else 20):
                break
            for name, side in sides.items():
                clock = Clock()
                results[name] = side(clock)
                spent[name].append(clock.seconds)
            for peer in [*sides][1:]:
                if not self.agree(results[""], results[peer]):
                    raise RuntimeError(f"{self.work}: ours and {peer} differ; the times would be of different work.")
        ours, ratios = spent[""], []
        for peer, given in self.peers.items():
            if isinstance(given, ImportError):
                ratios.append(f"{peer} is missing ({given})")
            else:
                least, middle = (round_to_two(f(spent[peer]) / f(ours)) for f in (min, median))
                ratios.append(f"{peer} {least}x ({middle}x)")
        size = "; ".join(filter(None, [self.size, self.note(results[""])]))
        return [self.work, size, f"{min(ours):.2g} ({median(ours):.2g})", ", ".join(ratios), self.goal]


def round_to_two(number: float) -> str:
    """Two digits, without an exponent.

    >>> round_to_two(1234.5), round_to_two(0.0512)
    ('1200', '0.051')
    """
    return np.format_float_positional(number, precision=2, fractional=False, trim="-")


COLUMNS = ("work", "size", "ours, s: least (median)", "times as long: least (median)", "goal", "benchmark")
#: around the table in a page that has more than it
MARKS = ("<!-- benchmarks: written by the command below -->", "<!-- benchmarks end -->")


# -- the command -------------------------------------------------------------------------------------------------------


def names() -> list[str]:
    """The benchmarks of this folder."""
    return sorted(module.name for module in pkgutil.iter_modules(__path__) if not module.name.startswith("_"))


def table(chosen: Iterable[str], *, quick: bool, failures: list[str]) -> Iterator[str]:
    """The lines of a Markdown table, each as soon as it is measured; what could not be is added to ``failures``."""
    yield from (_line(COLUMNS), _line(["-"] * len(COLUMNS)))
    for name in chosen:
        try:
            for row in importlib.import_module(f"{__name__}.{name}").rows(quick):
                try:
                    yield _line([*row.cells(quick=quick), f"`{name}`"])
                except RuntimeError as error:
                    failures.append(str(error))
        except ImportError as error:
            failures.append(f"{name} was not measured: {error}")


def _line(cells: Iterable[str]) -> str:
    return f"| {' | '.join(cells)} |"


def _load() -> str:
    return f"{os.getloadavg()[0]:.1f}" if hasattr(os, "getloadavg") else "unknown"


def put(path: Path, text: str) -> None:
    """Write it between the `MARKS` of a page, or, where there are none, as the page."""
    before, _, rest = (path.read_text(encoding="utf-8") if path.exists() else "").partition(MARKS[0])
    _, marked, after = rest.partition(MARKS[1])
    path.write_text(f"{before}{MARKS[0]}\n{text}\n{MARKS[1]}{after}" if marked else f"{text}\n", encoding="utf-8")


def main(arguments: list[str] | None = None) -> None:
    """The command line."""
    parser = argparse.ArgumentParser("python -m experiments.benchmarks", description="Speed against named peers.")
    parser.add_argument("names", nargs="*", help=f"which ones, of {', '.join(names())}; all by default")
    parser.add_argument("--quick", action="store_true", help="once, at tiny sizes: whether it works, not how fast")
    parser.add_argument("--markdown", type=Path, metavar="FILE", help="write the table there, between its marks if any")
    given = parser.parse_args(arguments)
    if unknown := set(given.names) - set(names()):
        parser.error(f"no benchmark is called {', '.join(sorted(unknown))}; there are {', '.join(names())}.")
    if given.markdown and (given.quick or given.names) and given.markdown.exists():
        parser.error(f"{given.markdown} is there; only the table of all benchmarks, not --quick, is written over it.")
    lines: list[str] = []
    failures: list[str] = []
    load = _load()
    with one_thread():
        for line in table(given.names or names(), quick=given.quick, failures=failures):
            print(line, flush=True)
            lines.append(line)
        versions = f"Python {platform.python_version()}, numpy {np.__version__}, {', '.join(kernels())}"
    about = f"One thread of {os.cpu_count()} cores; load {load} at the beginning, {_load()} at the end. {versions}."
    print(f"\n{about}")
    if given.markdown:
        put(given.markdown, "\n".join([*lines, "", about]))
    if failures:
        sys.exit("\n".join(failures))

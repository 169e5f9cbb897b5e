"""Speed against named peers: one way to time, to check and to print for every file of this folder.

``python -m experiments.benchmarks.NAME [--quick]`` runs one, ``python -m experiments.benchmarks [--quick]`` all of
them. A benchmark is a function ``measure(quick)`` that gives `Row`s; what is timed and with whom it is compared is all
that its file says. Times are processor seconds on one thread, so that other work on the machine disturbs them little;
ours and the peers' are taken in turn, A B A B, and both must have given the same results.
"""

from __future__ import annotations

import argparse
import importlib
import os
import pkgutil
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from statistics import median
from typing import Any

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


@dataclass(frozen=True)
class Row:
    """A line of the table.

    Attributes:
        work: what was done.
        ours: seconds of every repetition.
        peer: who else did it; empty if nobody.
        theirs: seconds of every repetition.
        note: what a reader must know beside the times.
    """

    work: str
    ours: Sequence[float]
    peer: str = ""
    theirs: Sequence[float] = ()
    note: str = ""

    def cells(self) -> list[str]:
        """As the table shows it."""
        ratio = f"{min(self.theirs) / min(self.ours):.3g}x" if self.theirs else ""
        return [self.work, shown(self.ours), self.peer, shown(self.theirs), ratio, self.note]


COLUMNS = ("work", "ours: least (median) s", "peer", "peer: least (median) s", "ratio", "note")


def shown(seconds: Sequence[float]) -> str:
    """The least and, in brackets, the median.

    >>> shown([0.3, 0.1, 0.2])
    '0.1 (0.2)'
    """
    return f"{min(seconds):.4g} ({median(seconds):.4g})" if seconds else ""


def compare(
    work: str,
    ours: Side,
    peers: Mapping[str, Side],
    *,
    agree: Callable[[Any, Any], bool],
    repeats: int,
    note: Callable[[Any], str] = lambda result: "",
) -> list[Row]:
    """Time both sides in turn, ours first.

    Args:
        work: what is done.
        ours: our side.
        peers: the other sides, by name.
        agree: whether our result is that of a peer.
        repeats: how often everyone does it.
        note: what is to be said of our result.

    Returns:
        A row for each peer.

    Raises:
        RuntimeError: the results differ; the times would be of different work.
    """
    sides = {"": ours, **peers}
    spent: dict[str, list[float]] = {name: [] for name in sides}
    for _ in range(repeats):
        results = {}
        for name, side in sides.items():
            clock = Clock()
            results[name] = side(clock)
            spent[name].append(clock.seconds)
        for peer in peers:
            if not agree(results[""], results[peer]):
                raise RuntimeError(f"{work}: ours and {peer} differ; the times would compare different work.")
    return [Row(work, spent[""], peer, spent[peer], note(results[""])) for peer in peers]


# -- the command -------------------------------------------------------------------------------------------------------


def names() -> list[str]:
    """The benchmarks of this folder."""
    return sorted(module.name for module in pkgutil.iter_modules(__path__) if not module.name.startswith("_"))


def write_table(rows: Iterable[Row]) -> None:
    """A Markdown table, each row as soon as it is measured, with the load of the machine before and after."""
    with one_thread():
        print(f"{os.cpu_count()} cores, one thread, load {_load()}; {', '.join(kernels())}\n")
        print(_line(COLUMNS), _line(["-"] * len(COLUMNS)), sep="\n", flush=True)
        for row in rows:
            print(_line(row.cells()), flush=True)
        print(f"\nload at the end: {_load()}\n", flush=True)


def _line(cells: Iterable[str]) -> str:
    return f"| {' | '.join(cells)} |"


def _load() -> str:
    return f"{os.getloadavg()[0]:.2f}" if hasattr(os, "getloadavg") else "unknown"


def main(*chosen: str) -> None:
    """The command line of these benchmarks; ``--quick`` makes them a smoke test."""
    modules = {name: importlib.import_module(f"{__name__}.{name}") for name in chosen}
    about = " ".join((module.__doc__ or "").partition("\n")[0] for module in modules.values())
    parser = argparse.ArgumentParser(description=about)
    parser.add_argument("--quick", action="store_true", help="smaller sizes and fewer repetitions")
    quick = parser.parse_args().quick
    missing = []
    for name, module in modules.items():
        print(f"{name}: {(module.__doc__ or '').partition(chr(10))[0]}\n")
        try:
            write_table(module.measure(quick))
        except ImportError as error:
            missing.append(f"{name} was not measured: {error}")
    if missing:
        sys.exit("\n".join(missing))

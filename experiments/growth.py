"""How time and memory grow with size, and where that ends: ``python -m experiments.growth`` writes ``docs/scaling.md``.

A `Work` is done at sizes that span a decade and more. Seconds are the processor's on one thread, the least of some
repetitions; memory is the most that Python and NumPy held during one more, on top of what was there before. Exponents
are slopes of least squares on log-log axes; where the size is an exponent itself, what is fitted is the factor of one
step. Limits are extrapolated from the largest size.
"""

from __future__ import annotations

import argparse
import gc
import math
import sys
import tempfile
import time
import tracemalloc
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from agents import ChunkedRhoBC, ChunkKR, LogLossBC, NGramBC, RhoEstimatorBC
from experiments.cells import Cell, Record, write_whole
from experiments.run import run_study
from experiments.study import Analysis, Study
from experiments.threads import one_thread
from ntp_envs import (
    BernoulliClass,
    Demonstrations,
    NGramClass,
    NGramPolicy,
    TokenVectorEnv,
    collect,
    distance,
    evaluate,
    make_task,
)

SECONDS, BYTES = 600.0, 8e9
PAGE = Path(__file__).resolve().parent.parent / "docs" / "scaling.md"
#: a fit of a size that grows less than this does not end by it
FLAT = 0.1


@dataclass(frozen=True)
class Work:
    """Something whose size grows.

    Attributes:
        name: what is done, with the sizes that stay.
        size: the letter of the one that grows.
        sizes: which.
        ready: makes all that is not measured, at a size, and gives what is.
        beyond: the way past the limit.
        steps: the size is an exponent (tokens of a tree): growth is a factor a step.
    """

    name: str
    size: str
    sizes: Sequence[int]
    ready: Callable[[int], Callable[[], Any]]
    beyond: str
    steps: bool = False


@dataclass(frozen=True)
class Growth:
    """What was measured of a work: at every size seconds and bytes."""

    work: Work
    sizes: Sequence[int]
    seconds: Sequence[float]
    bytes: Sequence[float]

    def slope(self, values: Sequence[float]) -> float:
        """The exponent, or the logarithm of the factor a step."""
        sizes = np.asarray(self.sizes, dtype=np.float64)
        return float(np.polyfit(sizes if self.work.steps else np.log(sizes), np.log(values), 1)[0])

    def limit(self, values: Sequence[float], most: float) -> float:
        """The size at which so much is reached."""
        slope, room = self.slope(values), math.log(most / values[-1])
        if slope < (FLAT / 10 if self.work.steps else FLAT):
            return math.inf
        return self.sizes[-1] + room / slope if self.work.steps else self.sizes[-1] * math.exp(room / slope)

    def cells(self) -> list[str]:
        """A line of the page."""
        slopes = [self.slope(values) for values in (self.seconds, self.bytes)]
        exponents = [f"x{math.exp(slope):.2g}" if self.work.steps else f"{slope:.2f}" for slope in slopes]
        by_time, by_memory = self.limit(self.seconds, SECONDS), self.limit(self.bytes, BYTES)
        first = min(by_time, by_memory)
        why = "ten minutes" if by_time <= by_memory else "8 GB"
        ends = "neither" if math.isinf(first) else f"{self.work.size} = {first:.2g} ({why})"
        span = f"{self.work.size} = {self.sizes[0]} to {self.sizes[-1]}"
        time_, memory = f"{self.seconds[-1]:.2g} s", f"{self.bytes[-1] / 1e6:.2g} MB"
        return [self.work.name, span, exponents[0], time_, exponents[1], memory, ends, self.work.beyond]


COLUMNS = ("work", "sizes", "seconds grow", "at the largest", "memory grows", "at the largest", "ends at", "beyond")


def measured(work: Work, shrink: int = 1, repeats: int = 2) -> Growth:
    """Do it at every size, or at one ``shrink``-th of the first two."""
    sizes = list(work.sizes)
    if shrink > 1:
        sizes = [size if work.steps else max(size // shrink, 2 + place) for place, size in enumerate(sizes[:2])]
    seconds, held = [], []
    for size in sizes:
        do, spent = work.ready(size), []
        for _ in range(repeats):
            before = time.process_time()
            do()
            spent.append(time.process_time() - before)
            if spent[-1] > 5.0:
                break
        gc.collect()
        tracemalloc.start()
        do()
        held.append(float(max(tracemalloc.get_traced_memory()[1], 1)))
        tracemalloc.stop()
        seconds.append(max(min(spent), 1e-6))
    return Growth(work, sizes, seconds, held)


# -- what grows --------------------------------------------------------------------------------------------------------


def rng() -> np.random.Generator:
    return np.random.default_rng(0)


def text(vocab_size: int, tokens: int, horizon: int) -> Demonstrations:
    """Sequences whose tokens follow Zipf's law, 4 tokens of each as prompts."""
    line = np.minimum(rng().zipf(1.2, (tokens // horizon, horizon + 4)), vocab_size) - 1
    return Demonstrations(line[:, :4], line[:, 4:], vocab_size=vocab_size)


def trigrams(demos: Demonstrations) -> NGramPolicy:
    return NGramPolicy.fit(demos.prompts, demos.tokens, demos.vocab_size, 3)


def fit(agent: Any, family: str = "ARLinear", policy_class: Any = None, n: int = 0, **parameters: Any) -> Any:
    """The fit of an agent to n demonstrations of a task."""
    task = make_task(family, **parameters)
    demos = collect(task, n, rng())
    return lambda: agent.clone().fit(demos, policy_class or task.policy_class, rng=rng())


def fit_text(vocab_size: int) -> Callable[[], Any]:
    demos = text(vocab_size, 1 << 17, 16)
    return lambda: NGramBC().fit(demos, NGramClass(vocab_size, 3))


def between(method: str, n: int = 2000, **parameters: Any) -> Callable[[], Any]:
    """A distance from the expert of Contamination to a member of its class."""
    task = make_task("Contamination", **parameters)
    policy = task.policy_class.policy(0.01)
    return lambda: distance(task.expert, policy, task, method=method, n=n)


def between_tables(horizon: int) -> Callable[[], Any]:
    task = make_task("ARLinear", horizon=horizon)
    policy = task.best_in_class().policy
    return lambda: distance(task.expert, policy, task, method="enumeration")


def sampled(vocab_size: int, rows: int) -> Callable[[], Any]:
    policy, prompts = trigrams(text(vocab_size, 1 << 17, 16)), np.zeros((rows, 4), dtype=np.int64)
    return lambda: policy.sample(prompts, 16, rng())


def forced(vocab_size: int) -> Callable[[], Any]:
    demos = text(vocab_size, 1 << 10, 16)
    policy = trigrams(demos)

    def read() -> None:
        for _ in policy.each_forced_law(demos.prompts, demos.tokens):
            pass

    return read


def measured_by(n: int) -> Callable[[], Any]:
    task = make_task("ARLinear", horizon=64)
    demos, policy = collect(task, n, rng()), task.best_in_class().policy
    return lambda: evaluate(policy, task, demonstrations=demos, rng=rng())


def stepped(num_envs: int, horizon: int, **options: Any) -> Callable[[], Any]:
    """An episode."""
    envs = TokenVectorEnv(num_envs, "Contamination", horizon=horizon, **options)
    actions = rng().integers(0, 2, (horizon, num_envs))

    def episode() -> None:
        envs.reset(seed=0)
        for row in actions:
            envs.step(row)

    return episode


def nothing(*, number: int, rng: np.random.Generator) -> list[Record]:
    """A cell that costs nothing itself."""
    return [Record("draw", rng.normal(), {"K": number // 10})]


@dataclass(frozen=True)
class Cells:
    """How many."""

    count: int = 10

    @classmethod
    def quick(cls) -> Cells:
        return cls(10)


def _cells(options: Cells) -> Iterator[Cell]:
    return (Cell("all", nothing, {"number": number}) for number in range(options.count))


STUDY = Study("nothing", "What do cells cost?", Cells, _cells, lambda options, summary: Analysis())


def study(count: int, *, again: bool) -> Callable[[], Any]:
    """A study from nothing, or one that is all there."""
    kept = tempfile.TemporaryDirectory()

    def run() -> Any:
        if again:
            return run_study(STUDY, Cells(count), out=kept.name)
        with tempfile.TemporaryDirectory() as fresh:
            return run_study(STUDY, Cells(count), out=fresh)

    with tempfile.TemporaryDirectory() as first:
        run_study(STUDY, out=first)  # what is imported when it is first used
    if again:
        run()
    return run


STREAMS = "`collect(..., out=FOLDER)`: fits and distances read it in blocks"
CLUSTER = "`--executor dask` or `slurm`"
FEWER = "fewer draws: the error falls as one over the root of n"
SHORTER = '`method="monte carlo"`'


def works() -> list[Work]:
    """All of them, those of one kind together."""
    n, h = [30_000, 100_000, 300_000], [64, 256, 1024]
    a, b = [1000, 5000, 20_000, 50_000], [256, 1024, 4096]
    some, few = [16_000, 50_000, 160_000], [300, 1000, 3000]
    return [
        Work(
            "collect, ARLinear, H=64",
            "n",
            [3000, 10_000, 30_000],
            lambda n: lambda: collect(make_task("ARLinear"), n, rng()),
            "a byte a token from 2^25 on: n = 1e8; `out=FOLDER`",
        ),
        Work("fit LogLossBC, linear, H=64", "n", n, lambda n: fit(LogLossBC(), n=n, horizon=64), STREAMS),
        Work(
            "fit LogLossBC, linear, n=1000",
            "H",
            [1024, 4096, 10_240],
            lambda h: fit(LogLossBC(), n=1000, horizon=h),
            STREAMS,
        ),
        Work(
            "fit LogLossBC, Bernoulli, H=64",
            "n",
            n,
            lambda n: fit(LogLossBC(), "Contamination", BernoulliClass(), n, horizon=64),
            STREAMS,
        ),
        Work(
            "fit NGramBC, order 5, A=2, H=64",
            "n",
            some,
            lambda n: fit(NGramBC(), policy_class=NGramClass(2, 5), n=n, horizon=64),
            STREAMS,
        ),
        Work(
            "fit NGramBC, order 3, 131,072 tokens",
            "A",
            a,
            fit_text,
            "A is no limit; distinct contexts are: a lower order",
        ),
        Work(
            "fit RhoEstimatorBC, Bernoulli, H=64",
            "n",
            few,
            lambda n: fit(RhoEstimatorBC(), "Contamination", n=n, horizon=64),
            "distances are of the class: a subset of the data",
        ),
        Work(
            "fit ChunkedRhoBC, Bernoulli, H=64, n=1000",
            "K",
            [2, 8, 32, 64],
            lambda k: fit(ChunkedRhoBC(chunk=k), "Contamination", n=1000, horizon=64),
            "longer chunks are cheaper",
        ),
        Work(
            "fit ChunkKR, linear, n=1000, H=K",
            "K",
            [7, 9, 12, 15],
            lambda k: fit(ChunkKR(chunk=k), n=1000, horizon=k),
            "`max_points`; a shorter chunk",
            steps=True,
        ),
        Work(
            "distance, automaton, Contamination",
            "H",
            [100, 300, 1000],
            lambda h: between("automaton", horizon=h),
            SHORTER,
        ),
        Work("distance, enumeration, A=2", "H", [12, 14, 16, 18], between_tables, SHORTER, steps=True),
        Work("distance, Monte Carlo, H=64", "n", n, lambda n: between("monte carlo", n, horizon=64), FEWER),
        Work("distance, Monte Carlo, n=2000", "H", h, lambda h: between("monte carlo", horizon=h), FEWER),
        Work("evaluate, linear, H=64", "n", [16_500, 50_000, 165_000], measured_by, "fewer demonstrations"),
        Work("sample n-grams, order 3, 16 tokens, B=1024", "A", a, lambda a: sampled(a, 1024), "A is no limit"),
        Work("sample n-grams, order 3, 16 tokens, A=1000", "B", [*b, 16_384], lambda b: sampled(1000, b), "in parts"),
        Work(
            "laws of next tokens, n-grams, 1024 tokens",
            "A",
            a,
            forced,
            "8 MB at a time; score tokens (`log_probs`) instead",
        ),
        Work("step Contamination, H=64", "B", b, lambda b: stepped(b, 64), "several processes"),
        Work("step Contamination, B=256", "H", h, lambda h: stepped(256, h), "several processes"),
        Work(
            "step, the expert's law in info, H=64",
            "B",
            b,
            lambda b: stepped(b, 64, expert_info=True),
            "`expert_info=False`",
        ),
        Work(
            "study of empty cells, one process",
            "cells",
            [100, 300, 1000],
            lambda c: study(c, again=False),
            CLUSTER,
        ),
        Work("the same study, all cells there", "cells", [100, 300, 1000], lambda c: study(c, again=True), CLUSTER),
    ]


INTRODUCTION = """# How it scales

`python -m experiments.growth` makes this page (on one core, in some minutes). A line is one kind of work at sizes that
span a decade or more: the exponents of its growth (seconds ~ size^e; "x2" is a factor for each further token), what
the largest size took (processor seconds on one thread, and the most memory that was allocated for the work, on top of
the data it starts from), where it reaches ten minutes or 8 GB by extrapolation, and the way past that. Times are of
one machine; exponents and memory are what carries over.
"""


def page(shrink: int = 1) -> str:
    """The page, from measurements of now."""
    lines = [INTRODUCTION, f"| {' | '.join(COLUMNS)} |", f"|{'-|' * len(COLUMNS)}"]
    with one_thread():
        for work in works():
            lines.append(f"| {' | '.join(measured(work, shrink).cells())} |")
            print(lines[-1], file=sys.stderr, flush=True)
    return "\n".join(lines) + "\n"


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--out", type=Path, default=PAGE, help="where to write the page")
    parser.add_argument("--shrink", type=int, default=1, help="divide all sizes, for a test of the command")
    given = parser.parse_args()
    write_whole(given.out, page(given.shrink))


if __name__ == "__main__":
    main()

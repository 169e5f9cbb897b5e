"""How often the intervals of the suite cover the truth, cell by cell: the table in ``docs/calibration.md``.

    python -m experiments.calibration

draws every cell anew (fixed seeds) and writes the table; a few minutes on one core. A cell is an interval, a case it is
documented for, and the truth there, by closed form or enumeration. Cells beyond what n draws can show, where the
documentation says that no interval can cover, stand in a table of their own.
"""

from __future__ import annotations

import argparse
import itertools
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
from scipy import stats

from agents import NGramBC
from experiments.aggregate import QUARTER, pooled_score
from experiments.cells import keyed_rng
from experiments.summary import mean_interval, paired_difference, slope_interval
from ntp_envs import (
    BernoulliPolicy,
    Demonstrations,
    NGramClass,
    Policy,
    TableAutomaton,
    Task,
    UniformPolicy,
    collect,
    make_task,
)
from ntp_envs.arrays import FloatArray
from ntp_envs.distances import (
    DistanceCurve,
    bridge_distances,
    distance_curves,
    monte_carlo_distances,
    score_interval,
    two_sample_test,
)
from ntp_envs.evaluation import SearchResult, evaluate
from ntp_envs.tasks import Contamination, Text
from ntp_envs.text.score import BitsPerChar

Ends = tuple[FloatArray, FloatArray]

COMMAND = "python -m experiments.calibration"
#: coverage of a documented 95 % cell below this is a bug
LEAST = 0.93


@dataclass(frozen=True)
class CalibrationCell:
    """An interval in one case.

    Attributes:
        interval: what gives it.
        case: in words.
        draw: the lower and upper ends of so many repetitions less the truth, ``(R,)`` or ``(R, H)`` each; several
            columns must hold together.
        repetitions: how many.
        documented: whether the interval is documented to cover here.
    """

    interval: str
    case: str
    draw: Callable[[np.random.Generator, int], Ends]
    repetitions: int = 2000
    documented: bool = True


@dataclass(frozen=True)
class Calibrated:
    """What a cell gave: the share of repetitions that cover, miss above (the truth is below) and below, and the median
    width."""

    cell: CalibrationCell
    repetitions: int
    coverage: float
    too_high: float
    too_low: float
    width: float


def run_cell(cell: CalibrationCell, repetitions: int | None = None) -> Calibrated:
    """Draw it; an interval that is ``nan`` covers nothing."""
    count = cell.repetitions if repetitions is None else repetitions
    lower, upper = cell.draw(keyed_rng(0, f"{cell.interval}: {cell.case}"), count)
    lower, upper = (end.reshape(count, -1) for end in (lower, upper))
    covered = ((lower <= 0.0) & (upper >= 0.0)).all(axis=1)
    width = float(np.median((upper - lower)[:, -1]))
    return Calibrated(
        cell, count, covered.mean(), (lower > 0.0).any(axis=1).mean(), (upper < 0.0).any(axis=1).mean(), width
    )


def _repeated(once: Callable[[np.random.Generator], tuple[Any, Any]], truth: Any) -> Callable[..., Ends]:
    def draw(rng: np.random.Generator, repetitions: int) -> Ends:
        lower, upper = zip(*(once(rng) for _ in range(repetitions)))
        return np.asarray(lower, dtype=np.float64) - truth, np.asarray(upper, dtype=np.float64) - truth

    return draw


# -- the cases ---------------------------------------------------------------------------------------------------------


def _shares() -> Iterator[CalibrationCell]:
    for n, p in itertools.product((20, 100, 1000), (0.5, 0.05)):
        yield CalibrationCell("`score_interval`, a share", f"n={n}, p={p}", _binomial(n, p), 2000)
    for n, events in itertools.product((100, 1000), (0.17, 0.5, 1.0, 2.0, 5.0)):
        yield CalibrationCell("`score_interval`, a share", f"n={n}, p={events}/n", _binomial(n, events / n), 2000)

    def searched(rng: np.random.Generator) -> tuple[float, float]:
        accepted, n = rng.random(60) < 0.9, 60
        nothing = np.zeros(n, dtype=np.int64)
        return SearchResult(np.zeros((n, 1), dtype=np.int64), accepted, nothing, nothing, nothing, nothing).interval()

    yield CalibrationCell("`SearchResult.interval`", "60 prompts, 90 % answered", _repeated(searched, 0.9))


def _binomial(n: int, p: float) -> Callable[..., Ends]:
    def draw(rng: np.random.Generator, repetitions: int) -> Ends:
        share = rng.binomial(n, p, size=repetitions) / n
        lower, upper = score_interval(share, np.sqrt(share * (1.0 - share) / n), n)
        return lower - p, upper - p

    return draw


def _pairs() -> dict[str, tuple[Policy, Policy, Task, int]]:
    """Two policies, a task and a number of draws, by name."""
    contaminated = Contamination(horizon=10, eps=0.02, p=0.005, q=0.6, theta_min=0.005)
    default = Contamination(horizon=8)
    mean = BernoulliPolicy(default.eps * default.q + (1.0 - default.eps) * default.p, on="flips")
    rope = make_task("Tightrope", horizon=4, eps=1.6e-4)
    excluded = (  # after a 1 in the first state one goes on with 0, the other with 1
        TableAutomaton([[0.98, 0.02], [1.0, 0.0]], [[0, 1], [1, 1]]),
        TableAutomaton([[0.99, 0.01], [0.0, 1.0]], [[0, 1], [1, 1]]),
    )
    short = make_task("Tightrope", horizon=6)  # only its vocabulary and horizon matter
    flips = contaminated.eps * contaminated.q + (1.0 - contaminated.eps) * contaminated.p
    return {
        "2 % of other documents, n=1000": (contaminated.expert, BernoulliPolicy(flips, on="flips"), contaminated, 1000),
        "default Contamination, n=1000": (default.expert, mean, default, 1000),
        "default Contamination, n=4000": (default.expert, mean, default, 4000),
        "slips of 1 in 1562, n=500": (rope.expert, rope.policy_class.policy(1.6e-4), rope, 500),
        "slips of 1 in 1562, n=4000": (rope.expert, rope.policy_class.policy(1.6e-4), rope, 4000),
        "coins of .3 and .31, n=1000": (BernoulliPolicy(0.3), BernoulliPolicy(0.31), short, 1000),
        "a pair that excludes now and then, n=1000": (*excluded, short, 1000),
    }


@cache
def _curves(name: str, estimator: str, repetitions: int) -> dict[str, Ends]:
    """``(R,)`` ends of the intervals of every metric at the full length, all from the same draws."""
    p, q, task, n = _pairs()[name]
    options: dict[str, Any] = {"n": n, "thresholds": [2.0], "estimator": estimator}
    options["rng"] = keyed_rng(0, f"distance, {estimator}: {name}")
    runs = [monte_carlo_distances(p, q, task, **options) for _ in range(repetitions)]
    ends = {metric: np.array([_ends(run[metric]) for run in runs]) for metric in runs[0]}
    return {metric: (found[:, 0], found[:, 1]) for metric, found in ends.items()}


def _distances() -> Iterator[CalibrationCell]:
    for estimator, (name, (p, q, task, _)) in itertools.product(("bridge", "one-sided"), _pairs().items()):
        exact = distance_curves(p, q, task, method="enumeration", thresholds=[2.0])
        for metric, curve in exact.items():
            truth = float(curve.values.flat[-1])
            if np.isinf(truth) or (metric == "coverage" and truth == 0.0):
                continue

            def draw(
                _: Any, repetitions: int, at: Any = (name, estimator), metric: str = metric, t: float = truth
            ) -> Ends:
                lower, upper = _curves(*at, repetitions)[metric]
                return lower - t, upper - t

            hidden = metric == "kl" and name.startswith("default")
            yield CalibrationCell(f'`distance`, "{metric}", {estimator}', name, draw, documented=not hidden)
    p, q, task, n = next(iter(_pairs().values()))
    whole = distance_curves(p, q, task, method="enumeration")["tv"].values
    for simultaneous in (True, False):

        def band(rng: np.random.Generator, simultaneous: bool = simultaneous) -> tuple[Any, Any]:
            options: dict[str, Any] = {"n": n, "rng": rng, "metrics": ["tv"], "simultaneous": simultaneous}
            curve = monte_carlo_distances(p, q, task, **options)["tv"]
            return curve.lower, curve.upper

        yield CalibrationCell(
            f"band of `distance`, {'simultaneous=True' if simultaneous else 'at each h'}",
            f"all {task.horizon} h together; tv, {next(iter(_pairs()))}",
            _repeated(band, whole),
            documented=simultaneous,
        )
    for n_p, n_q, slip in ((1000, 4, 0.2), (1000, 20, 0.1), (5000, 50, 0.02), (200, 200, 0.05), (20, 1000, 0.01)):
        for metric, truth in (("hellinger2", 2.0 - 2.0 * np.sqrt(1.0 - slip)), ("tv", slip)):
            case = f"{n_p} sequences of P, {n_q} of Q, which slips with probability {slip}"
            drawn = _repeated(_unequal(n_p, n_q, slip, metric), truth)
            yield CalibrationCell(f'`bridge_distances`, "{metric}"', case, drawn)


def _ends(curve: DistanceCurve) -> tuple[float, float]:
    return curve.lower.flat[-1], curve.upper.flat[-1]


def _coins(rng: np.random.Generator, n: int, probability: float, horizon: int = 1) -> Demonstrations:
    tokens = (rng.random((n, horizon)) < probability).astype(np.int64)
    return Demonstrations(np.zeros((n, 0), dtype=np.int64), tokens, vocab_size=2)


def _unequal(n_p: int, n_q: int, slip: float, metric: str) -> Callable[[np.random.Generator], tuple[Any, Any]]:
    p, q = (BernoulliPolicy(probability) for probability in (0.0, slip))

    def once(rng: np.random.Generator) -> tuple[Any, Any]:
        samples = _coins(rng, n_p, 0.0), _coins(rng, n_q, slip)
        return _ends(bridge_distances(*samples, p=p, q=q, metrics=[metric])[metric])

    return once


def _two_samples() -> Iterator[CalibrationCell]:
    cases = [
        (n_p, n_q, 1, 0.0, events / min(n_p, n_q))
        for n_p, n_q in ((300, 300), (300, 30), (1000, 30))
        for events in (0.5, 1.0, 2.0, 4.0)
    ]
    cases += [(30, 300, 1, 0.0, 0.05), (150, 160, 4, 0.1, 0.1), (150, 160, 4, 0.1, 0.2), (150, 160, 4, 0.1, 0.5)]
    for method, (n_p, n_q, horizon, a, b) in itertools.product(("n-gram", "mmd", "classifier"), cases):
        if method == "classifier" and (horizon == 1 and n_q != n_p):
            continue
        yield CalibrationCell(
            f'`two_sample_test`, "{method}"',
            f"{n_p} and {n_q} sequences of {horizon}, coins of {a:g} and {b:.3g}",
            _repeated(_tested(method, n_p, n_q, horizon, a, b), _coin_truth(method, horizon, a, b)),
            200 if method == "classifier" else 2000,
        )


def _tested(
    method: str, n_p: int, n_q: int, horizon: int, a: float, b: float
) -> Callable[[np.random.Generator], tuple[Any, Any]]:
    every: dict[str, dict[str, Any]] = {"mmd": {"permutations": 49}, "n-gram": {"permutations": 1, "order": 1}}
    options = every.get(method, {})

    def once(rng: np.random.Generator) -> tuple[Any, Any]:
        samples = _coins(rng, n_p, a, horizon), _coins(rng, n_q, b, horizon)
        return _ends(two_sample_test(*samples, rng=rng, method=method, lengths=[horizon], **options).curve)

    return once


def _coin_truth(method: str, horizon: int, a: float, b: float) -> float:
    """What the test estimates, for independent tokens."""
    if method == "n-gram":
        return abs(a - b)
    if method == "classifier":
        k = np.arange(horizon + 1)
        return 0.5 * float(np.abs(stats.binom.pmf(k, horizon, a) - stats.binom.pmf(k, horizon, b)).sum())
    alike = [x * y + (1 - x) * (1 - y) for x, y in ((a, a), (b, b), (a, b))]
    return float(sum(alike[0] ** t + alike[1] ** t - 2.0 * alike[2] ** t for t in range(1, horizon + 1)))


def _evaluations() -> Iterator[CalibrationCell]:
    task = Contamination(horizon=8)
    mean = BernoulliPolicy(task.eps * task.q + (1.0 - task.eps) * task.p, on="flips")
    log_loss = _mean_cross_entropy(task, mean)
    for n in (100, 1000):
        for measure, truth in (("mean_cross_entropy", log_loss), ("perplexity", float(np.exp(log_loss)))):
            case, drawn = f"default Contamination, the mean flip rate, n={n}", _evaluated(task, mean, n, measure)
            yield CalibrationCell(f'`evaluate`, "{measure}"', case, _repeated(drawn, truth), 1000)
    spread = make_task("Contamination", horizon=8, eps=0.1, p=0.05, q=0.7, theta_min=0.05)
    coin = BernoulliPolicy(0.3, on="flips")
    known = {"mean_cross_entropy": _mean_cross_entropy(spread, coin), "sampled_token_accuracy": 0.5}
    for n, weighted in ((100, False), (100, True), (1000, True)):
        case = f"10 % of other documents, n={n}, {'log-normal weights' if weighted else 'no weights'}"
        for measure, truth in {**known, "sampled_exact": 0.5**8}.items():
            policy = coin if measure == "mean_cross_entropy" else UniformPolicy(2)
            drawn = _repeated(_evaluated(spread, policy, n, measure, weighted=weighted), truth)
            yield CalibrationCell(f'`evaluate`, "{measure}"', case, drawn, 1000)

    def read(rng: np.random.Generator) -> tuple[float, float]:
        cost = np.log(np.where(rng.random(3200) < 0.3, 0.2, 0.8))
        return BitsPerChar.of(cost, np.ones(3200, dtype=np.int64)).interval

    truth = -(0.3 * np.log2(0.2) + 0.7 * np.log2(0.8))
    yield CalibrationCell("`Text.bits_per_char`, interval", "3200 independent characters", _repeated(read, truth), 2000)
    for length, documented in ((40_000, True), (2000, False)):
        case = f"{length} letters of an order-6 model, read by bigrams"
        yield CalibrationCell("`Text.bits_per_char`, interval", case, _letters(length), 300, documented=documented)


@cache
def _bits_of_letters() -> tuple[FloatArray, float]:
    """``(300, 40000)`` bits that a bigram model gives the letters of 300 texts of an n-gram model, and their mean."""
    task, rng = Text(horizon=40_000), np.random.default_rng(0)
    windows = Text(horizon=256).windows(4000, rng)
    bigrams = NGramBC().fit(windows, NGramClass(task.vocab_size, 2)).policy_
    prompts = task.sample_prompts(300, rng)
    log_probs = bigrams.log_probs(prompts, task.expert.sample(prompts, task.horizon, rng))
    return log_probs, -float(log_probs.mean()) / np.log(2.0)


def _letters(length: int) -> Callable[..., Ends]:
    """Intervals of the first letters of those texts."""

    def draw(_: np.random.Generator, repetitions: int) -> Ends:
        log_probs, truth = _bits_of_letters()
        ones = np.ones(length, dtype=np.int64)
        ends = np.array([BitsPerChar.of(row[:length], ones).interval for row in log_probs[:repetitions]]) - truth
        return ends[:, 0], ends[:, 1]

    return draw


def _mean_cross_entropy(task: Task, policy: Policy) -> float:
    tokens = np.array(list(itertools.product(range(task.vocab_size), repeat=task.horizon)))
    prompts = np.zeros((len(tokens), task.prompt_length), dtype=np.int64)
    law = np.exp(task.expert.log_probs(prompts, tokens).sum(axis=1))
    return float(-law @ policy.log_probs(prompts, tokens).mean(axis=1))


def _evaluated(
    task: Task, policy: Policy, n: int, measure: str, *, weighted: bool = False
) -> Callable[[np.random.Generator], tuple[Any, Any]]:
    def once(rng: np.random.Generator) -> tuple[Any, Any]:
        demos = collect(task, n, rng)
        if weighted:
            weights = rng.lognormal(size=n)
            demos = Demonstrations(demos.prompts, demos.tokens, vocab_size=demos.vocab_size, weights=weights)
        return evaluate(policy, task, demonstrations=demos, rng=rng, samples=0).interval(measure)

    return once


def _replicates() -> Iterator[CalibrationCell]:
    def jumpy(rng: np.random.Generator, n: int) -> FloatArray:
        return rng.normal(1.0, 0.01, size=n) + 30.0 * (rng.random(n) < 0.2)

    #: name, draws, their mean, numbers of replicates, and from how many on the interval holds
    kinds: tuple[tuple[str, Callable[[np.random.Generator, int], FloatArray], float, tuple[int, ...], int], ...] = (
        ("normal", lambda rng, n: rng.normal(size=n), 0.0, (2, 3, 5, 10, 20), 2),
        ("exponential", lambda rng, n: rng.exponential(size=n), 1.0, (5, 10, 20, 50), 50),
        ("one in five jumps", jumpy, 7.0, (5, 20), 20),
    )
    for name, draw, truth, sizes, honest in kinds:
        for n in sizes:

            def averaged(rng: np.random.Generator, draw: Any = draw, n: int = n) -> Any:
                return mean_interval(draw(rng, n), rng, resamples=999)[1:]

            case = f"{n} replicates, {name}"
            yield CalibrationCell("`mean_interval`", case, _repeated(averaged, truth), 1000, n >= honest)

    def paired(rng: np.random.Generator) -> Any:
        common = 10.0 * rng.normal(size=5)
        return paired_difference(common + rng.normal(1.0, 0.1, size=5), common, rng)[1:]

    yield CalibrationCell("`paired_difference`", "5 data sets", _repeated(paired, 1.0), 2000)
    x = np.array([8.0, 16.0, 32.0])
    for s in (3, 5, 20):

        def sloped(rng: np.random.Generator, s: int = s) -> Any:
            return slope_interval(x, x[:, None] ** 0.7 * rng.gamma(20.0, 0.05, size=(3, s)))[1:]

        yield CalibrationCell("`slope_interval`", f"{s} replicates, H = 8, 16, 32", _repeated(sloped, 0.7), 2000)
    middle, alike, alone = 0.2 + 0.2 * np.arange(4)[:, None], np.full((4, 1), 0.08), np.array([[0.2], *[[0.01]] * 3])
    for name, trim, N, spread in (
        ("mean", 0.0, 3, alike),
        ("mean", 0.0, 5, alone),
        ("interquartile mean", QUARTER, 3, alike),
        ("interquartile mean", QUARTER, 10, alike),
        ("interquartile mean", QUARTER, 5, alone),
    ):
        many = middle + spread * keyed_rng(0, "truth of the pooled score").normal(size=(4, 100_000))
        truth = float(stats.trim_mean(many, trim, axis=None))

        def pooled(rng: np.random.Generator, trim: float = trim, N: int = N, spread: Any = spread) -> Any:
            return pooled_score(middle + spread * rng.normal(size=(4, N)), rng, trim=trim, resamples=999)[1:]

        case = f"{name}, {N} runs on each of 4 tasks" + (", one with all the spread" if spread is alone else "")
        yield CalibrationCell("`pooled_score`", case, _repeated(pooled, truth), 1000, not (trim and spread is alone))


def calibration_cells() -> list[CalibrationCell]:
    """All of them, in the order of the table."""
    return [*_shares(), *_distances(), *_two_samples(), *_evaluations(), *_replicates()]


# -- the table ---------------------------------------------------------------------------------------------------------


def table(found: list[Calibrated]) -> str:
    """The page, as Markdown."""
    documented = [result for result in found if result.cell.documented]
    beyond = [result for result in found if not result.cell.documented]
    short = sum(result.coverage < LEAST for result in documented)
    parts = (
        "# Do the intervals hold?",
        f"Made by `{COMMAND}`; the level is 95 %. *Covers*: share of the repetitions whose interval contains the "
        "truth (closed form or enumeration). *Above*, *below*: share whose whole interval is above, or below, the "
        "truth. *Width*: the median. With 2000 repetitions a coverage of 95 % is seen as 94.0 to 95.9 %. No "
        "interval is narrower than what n draws can show, so many cover more often than they say.",
        f"## {len(documented)} documented cells",
        f"{f'{short} of them cover' if short else 'None of them covers'} less than {100 * LEAST:g} %.",
        "\n".join(_lines(documented)),
        "## Beyond what the draws can show",
        "Here the documentation says that the intervals do not hold: KL may rest on sequences that no draw has "
        "shown and has no upper bound; few replicates show neither skewness nor jumps; an interquartile mean may "
        "change its tasks; a short text is of one kind; bands at each h do not hold at all h together unless asked to.",
        "\n".join(_lines(beyond)),
    )
    return "\n\n".join(parts) + "\n"


def _lines(found: list[Calibrated]) -> list[str]:
    rows = [
        f"| {result.cell.interval} | {result.cell.case} | {result.repetitions} | {100 * result.coverage:.1f} % "
        f"| {100 * result.too_high:.1f} % | {100 * result.too_low:.1f} % | {result.width:.3g} |"
        for result in found
    ]
    return ["| interval | case | repetitions | covers | above | below | width |", "|-|-|-|-|-|-|-|", *rows]


def main(words: list[str] | None = None) -> int:
    """Write the page; 1 if a documented cell covers less than 93 %."""
    parser = argparse.ArgumentParser(prog=COMMAND, description="How often the intervals of the suite cover.")
    parser.add_argument("--out", type=Path, default=Path("docs/calibration.md"), help="the page to write")
    parser.add_argument("--repetitions", type=int, default=None, help="of every cell; by default 200 to 2000")
    parser.add_argument("--only", default="", help="only intervals whose name contains this")
    options = parser.parse_args(words)
    found = []
    for cell in calibration_cells():
        if options.only in cell.interval:
            found.append(run_cell(cell, options.repetitions))
            print(_lines(found[-1:])[-1], flush=True)
    options.out.write_text(table(found), encoding="utf-8")
    return int(any(result.cell.documented and result.coverage < LEAST for result in found))


if __name__ == "__main__":
    raise SystemExit(main())

"""Exact distances at every prefix length: by a forward recursion over pairs of automaton states, or by enumeration.

The recursion costs O(H * pairs * A) at any horizon, for two automata; of many pairs those of negligible mass are
dropped. Enumeration is for any two policies: each prefix of the tree is visited once and costs one step of each
policy's cursor. The tree is walked in blocks of prefixes of one length, the deepest block first, so memory stays
bounded; a prefix that both policies exclude is cut off with all that follows.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import ArrayLike

from ntp_envs.arrays import FloatArray, IntArray, kl_terms
from ntp_envs.automata import AutomatonPolicy, of_events
from ntp_envs.checks import NotTractableError, check_int
from ntp_envs.distances.curve import DistanceCurve, Question, ask
from ntp_envs.distances.metrics import CHI2, COVERAGE, DEFAULT_THRESHOLDS, HELLINGER2, KL, METRICS, TV, Metric
from ntp_envs.policies import Cursor, Policy
from ntp_envs.tasks.base import Task

#: prefixes of all lengths (prompts counted) visited by default: some seconds for a fast policy
MAX_PREFIXES = 2**24

#: prefixes read together; keeps a block's arrays in cache
BLOCK = 2**12
#: next tokens of all of them, at most
BLOCK_CELLS = 2**22


def tree_size(task: Task, n_prompts: int) -> int:
    """The most prefixes, of lengths 1..H, that ``n_prompts`` prompts can have: ``M (A + A^2 + ... + A^H)``."""
    a, h = task.vocab_size, task.horizon
    return n_prompts * (h if a == 1 else (a ** (h + 1) - a) // (a - 1))


def enumeration_distances(
    p: Policy,
    q: Policy,
    task: Task,
    *,
    metrics: Any = METRICS,
    thresholds: ArrayLike = DEFAULT_THRESHOLDS,
    max_prefixes: int = MAX_PREFIXES,
) -> dict[str, DistanceCurve]:
    """Distances between the laws of two policies, prompts drawn from the task, at every prefix length.

    Squared Hellinger is ``sum (sqrt P - sqrt Q)^2`` in [0, 2], a sum of squares (never 2 minus something), as accurate
    as differences of the policies' log-probabilities are. KL is in nats, ``p`` first; KL and chi-squared ``sum (P -
    Q)^2 / Q`` are ``inf`` where p gives mass to a prefix that q excludes.

    Args:
        p, q: any policies over the task's vocabulary, for at least its horizon.
        task: gives the prompt law and the horizon H.
        metrics: which ones: names, or functions of the log-ratio (`register_metric`).
        thresholds: ``(T,)`` N of the coverage profile ``P(P / Q >= N)``.
        max_prefixes: refuse to visit more prefixes than this, over all lengths and prompts. What counts is those
            that at least one policy can produce, which may be few at any horizon.

    Returns:
        One curve a metric.

    Raises:
        NotTractableError: more prefixes than ``max_prefixes``, or a prompt law that cannot be listed.
        TypeError, ValueError: a policy that does not fit the task, one that returns NaN, an unknown metric.

    >>> from ntp_envs import BernoulliPolicy, make_task
    >>> task = make_task("Contamination", horizon=4)
    >>> enumeration_distances(task.expert, BernoulliPolicy(0.5), task)["tv"].final.__round__(4)
    0.9365
    """
    max_prefixes = check_int("max_prefixes", max_prefixes, minimum=1)
    return enumerated(ask(p, q, task, metrics, thresholds), max_prefixes)


def enumerated(asked: Question, max_prefixes: int = MAX_PREFIXES) -> dict[str, DistanceCurve]:
    """`enumeration_distances` of a question that has been checked."""
    p, q, task = asked.p, asked.q, asked.task
    prompts, masses = asked.prompts
    sums: dict[Metric, FloatArray] = {
        metric: np.zeros((task.horizon, len(asked.levels)) if metric is COVERAGE else task.horizon)
        for metric in asked.metrics
    }
    log_masses = np.log(masses)
    stack = [
        _Block(p.cursor(prompts[rows]), q.cursor(prompts[rows]), log_masses[rows], log_masses[rows])
        for rows in _pieces(len(prompts), task.vocab_size)
    ]
    visited = 0
    while stack:
        block = stack.pop()
        step = block.of_p.step
        log_p, log_q = _extend(block.log_p, block.of_p.log_probs()), _extend(block.log_q, block.of_q.log_probs())
        cells = np.flatnonzero(np.maximum(log_p, log_q) > -np.inf)  # of (B, A): the prefixes that are possible
        log_p, log_q = log_p.ravel()[cells], log_q.ravel()[cells]
        visited += len(cells)
        if visited + len(cells) * (task.horizon - step - 1) > max_prefixes:  # each goes on to the end
            full = tree_size(task, len(prompts))
            many = str(full) if full < 10**15 else f"about 1e{int(math.log10(full))}"  # it may not fit into a float
            raise NotTractableError(
                f"enumeration would visit more than max_prefixes={max_prefixes} prefixes (there are "
                f"{many} for A={task.vocab_size}, H={task.horizon}, "
                f"{len(prompts)} prompts). Use method='monte carlo', a shorter horizon, or a larger max_prefixes."
            )
        _accumulate(sums, step, log_p, log_q, asked.log_levels)
        if step + 1 < task.horizon:
            parents, tokens = np.divmod(cells, task.vocab_size)
            stack += [
                _Block(
                    block.of_p.branch(parents[rows], tokens[rows]),
                    block.of_q.branch(parents[rows], tokens[rows]),
                    log_p[rows],
                    log_q[rows],
                )
                for rows in _pieces(len(cells), task.vocab_size)
            ]
    for metric, values in sums.items():
        np.minimum(values, 1.0 if metric is COVERAGE else metric.most, out=values)
    return asked.exact(sums, "enumeration")


class _Block(NamedTuple):
    """B prefixes of one length, read by both policies, with their log-probabilities ``(B,)``."""

    of_p: Cursor
    of_q: Cursor
    log_p: FloatArray
    log_q: FloatArray


def _pieces(n: int, vocab_size: int) -> Iterator[slice]:
    size = max(1, min(BLOCK, BLOCK_CELLS // vocab_size))
    return (slice(start, start + size) for start in range(0, n, size))


def _extend(log_prefix: FloatArray, log_next: FloatArray) -> FloatArray:
    """``(B, A)`` log-probabilities of the prefixes one token longer; nothing follows an impossible prefix."""
    out = log_prefix[:, None] + log_next
    impossible = np.isneginf(log_prefix)
    if impossible.any():
        out[impossible] = -np.inf
    if np.isnan(out).any():
        raise ValueError("a policy returned NaN for a log-probability after a prefix that it can produce.")
    return out


def _accumulate(
    sums: dict[Metric, FloatArray], step: int, log_p: FloatArray, log_q: FloatArray, log_levels: FloatArray
) -> None:
    """Add what these prefixes of ``step + 1`` tokens contribute to each metric."""
    with np.errstate(invalid="ignore"):
        ratio = log_p - log_q
    # with e = sqrt(low / high) - 1: sqrt high - sqrt low = -e sqrt high, and high - low = -e (2 + e) high
    high = np.exp(np.maximum(log_p, log_q))
    e = np.expm1(-0.5 * np.abs(ratio))
    he, more_in_p = high * e, ratio >= 0
    change = -he * (2.0 + e)  # |P - Q|
    low = high - change  # loses digits only where it is negligible next to high
    p = np.where(more_in_p, high, low)
    for metric, total in sums.items():
        if metric is HELLINGER2:
            total[step] += (he * e).sum()  # not a dot product: BLAS would start threads for it
        elif metric is TV:
            total[step] += 0.5 * change.sum()
        elif metric is KL:
            total[step] += kl_terms(log_p, log_q, p, np.where(more_in_p, low, high)).sum()
        elif metric is CHI2:
            with np.errstate(over="ignore"):  # (P - Q)^2 / Q is high^2 / Q times (1 - low / high)^2
                scale = np.exp(np.where(more_in_p, 2.0 * log_p - log_q, log_q))
                total[step] += (scale * (e * (2.0 + e)) ** 2).sum()
        elif metric is COVERAGE:
            near = ratio >= log_levels.min()
            covered, reached = p[near], ratio[near]
            total[step] += [covered[reached >= level].sum() for level in log_levels]
        else:
            total[step] += _mean_of(metric, ratio, 0.5 * (high + low)).sum()


def _mean_of(metric: Metric, ratio: FloatArray, masses: FloatArray) -> FloatArray:
    """``masses`` under (P + Q) / 2 times the metric's function; infinite there too where the mass has underflown."""
    with np.errstate(invalid="ignore", over="ignore"):
        values = metric.of_ratio(ratio)
        return np.where(np.isposinf(values), np.inf, masses * values)


# Two automata. After a prefix only the pair (state of p, state of q) matters for what follows, so sums over all A^h
# prefixes are sums over reachable pairs. Squared Hellinger, KL and chi-squared are additive over the prefixes that lead
# to a pair. Total variation, coverage and metrics that are registered are not, unless the log-ratio of a prefix is
# decided by its pair; the recursion carries the range of log-ratios into each pair, and gives these wherever that range
# certifies them (always where the pair is a sufficient statistic, such as the number of flips in `Contamination`).


#: reachable pairs of states at one prefix length beyond which the recursion refuses (about 1 GB)
MAX_PAIRS = 2**21

#: the recursion is exact up to this horizon, and beyond it while no more pairs than this are reached; of larger layers
#: it drops the least probable pairs, to which P and Q together give so much at the full horizon
EXACT_HORIZON = 2**10
EXACT_PAIRS = 2**11
DROPPED = 1e-12

#: largest error in total variation or coverage that the range of log-ratios may leave open
SLACK = 1e-13


def automaton_distances(
    p: AutomatonPolicy,
    q: AutomatonPolicy,
    task: Task,
    *,
    metrics: Any = METRICS,
    thresholds: ArrayLike = DEFAULT_THRESHOLDS,
) -> dict[str, DistanceCurve]:
    """Distances between the laws of two automata, prompts drawn from the task, at every prefix length.

    Squared Hellinger is ``sum (sqrt P - sqrt Q)^2`` in [0, 2] and is never formed by a subtraction from 2: however
    small, it keeps the relative accuracy that the log-probabilities of the policies leave to their differences (their
    rounding, 2e-16 or more, over ``|log p - log q|``). KL is in nats, ``p`` first; ``inf`` where p gives mass to a
    prefix that q excludes. Chi-squared is ``sum (P - Q)^2 / Q``, ``inf`` likewise or where it exceeds the largest
    float.

    Args:
        p, q: automata over the task's vocabulary, for at least its horizon.
        task: gives the prompt law and the horizon H.
        metrics: which ones: names, or functions of the log-ratio (`register_metric`).
        thresholds: ``(T,)`` N of the coverage profile ``P(P / Q >= N)``.

    Beyond H = 1024, once more than 2048 pairs of states are reached, the least probable ones are dropped where the
    metric has a largest value; those that P and Q together give 1e-12 at most, up to the full
    horizon. What that can add is in ``upper``, and ``method`` says so.

    Returns:
        A curve for each metric asked for, except that ``"tv"``, ``"coverage"`` and metrics that are not the suite's are
        left out where pairs of states do not decide them (errors of more than 1e-13 cannot be excluded): use
        enumeration or sampling there.

    Raises:
        NotTractableError: more than ``MAX_PAIRS`` reachable pairs, or a prompt law that cannot be listed.
        TypeError, ValueError: a policy that is not an automaton or does not fit the task; an unknown metric.

    >>> from ntp_envs import make_task
    >>> task = make_task("Contamination", horizon=256)
    >>> round(automaton_distances(task.expert, task.policy_class.policy(0.001), task)["hellinger2"].final, 6)
    0.197969
    """
    asked = ask(p, q, task, metrics, thresholds)
    for name, policy in (("p", p), ("q", q)):
        check_automaton(name, policy)
    return by_pairs(asked)


def check_automaton(name: str, policy: Policy) -> None:
    """``TypeError`` if it is none."""
    if not isinstance(policy, AutomatonPolicy):
        kind = type(getattr(policy, "of", policy)).__name__  # of the policy inside, if it is checked as it is read
        raise TypeError(f"{name} must be an AutomatonPolicy, not {kind}; use enumeration.")


def by_pairs(asked: Question) -> dict[str, DistanceCurve]:
    """`automaton_distances` of a question that has been checked, between two automata."""
    asked = replace(asked, **dict(zip("pq", of_events(asked.p, asked.q))))  # type: ignore[arg-type]
    bounded = tuple(metric for metric in asked.metrics if metric is COVERAGE or np.isfinite(metric.most))
    rest = tuple(metric for metric in asked.metrics if metric not in bounded)
    if asked.task.horizon <= EXACT_HORIZON:
        return _by_pairs(asked, 0.0)
    try:
        return _by_pairs(asked, None if bounded and rest else DROPPED if bounded else 0.0)
    except _ManyPairs:  # what has no largest value is followed to the last pair, and by itself
        one, two = (replace(asked, metrics=metrics) for metrics in (bounded, rest))
        found = _by_pairs(one, DROPPED) | _by_pairs(two, 0.0)
    return {metric.name: found[metric.name] for metric in asked.metrics if metric.name in found}


class _ManyPairs(Exception):
    """More than `EXACT_PAIRS` of them."""


def _by_pairs(asked: Question, tolerance: float | None) -> dict[str, DistanceCurve]:
    """``tolerance``: what may be dropped; ``None`` raises `_ManyPairs` where that would matter."""
    columns: dict[Metric, list[float | FloatArray]] = {metric: [] for metric in asked.metrics}
    dropped = []
    for layer in _layers(asked.p, asked.q, asked, tolerance or 0.0):  # type: ignore[arg-type]
        if tolerance is None and len(layer.pairs) > EXACT_PAIRS:
            raise _ManyPairs
        dropped.append(layer.dropped)
        for metric in list(columns):
            if metric is COVERAGE:
                value: float | FloatArray | None = layer.coverage(asked.log_levels)
            elif metric in _OF_LAYER:
                value = _OF_LAYER[metric](layer)
            else:
                value = layer.mean_of(metric)
            if value is None:
                del columns[metric]
            else:
                columns[metric].append(value)
    return asked.exact({metric: np.array(values) for metric, values in columns.items()}, "automaton", np.array(dropped))


@dataclass
class _Layer:
    """Sums over the prefixes of one length that lead to each of n pairs; P and Q are the prefix's probabilities.

    With a = sqrt P and b = sqrt Q: ``gap`` = sum (a - b)^2, ``total`` = sum (a + b)^2, ``excess`` = sum (a^2 - b^2),
    ``mass`` = sum P, ``chi`` = sum (P - Q)^2 / Q. ``low`` and ``high`` bound log P - log Q (like ``mass`` empty where
    nobody asks). All ``(n,)``. ``dropped`` is what P and Q together give to the prefixes that are followed no longer.
    """

    pairs: IntArray
    gap: FloatArray
    total: FloatArray
    excess: FloatArray
    mass: FloatArray
    chi: FloatArray | None  # None: not asked for
    low: FloatArray
    high: FloatArray
    kl_so_far: float | None  # None: not asked for
    dropped: float = 0.0

    def without_the_least(self, most: float) -> _Layer:
        """Without the least probable pairs, as many as leave ``dropped`` at most at ``most``."""
        weights = 0.5 * (self.gap + self.total)  # P and Q together
        order = np.argsort(weights, kind="stable")
        masses = self.dropped + np.cumsum(weights[order])
        count = int(np.searchsorted(masses, most, side="right"))
        if not count:
            return self
        rows = np.sort(order[count:])
        names = [name for name in ("pairs", "gap", "total", "excess", "mass", "chi", "low", "high") if self._has(name)]
        kept = {name: getattr(self, name)[rows] for name in names}
        return replace(self, dropped=float(masses[count - 1]), **kept)

    def _has(self, name: str) -> bool:
        """Whether anybody asks for these sums."""
        return getattr(self, name) is not None and len(getattr(self, name)) > 0

    def hellinger2(self) -> float:
        return min(float(self.gap.sum()), 2.0)

    def kl(self) -> float:
        return np.inf if self.kl_so_far is None or np.isposinf(self.high).any() else self.kl_so_far

    def chi2(self) -> float:
        with np.errstate(over="ignore"):
            value = 0.0 if self.chi is None else float(self.chi.sum())
        return value if np.isfinite(value) and not np.isposinf(self.high).any() else np.inf

    def tv(self) -> float | None:
        """Half the sum of |sum P - sum Q| over pairs, if no pair joins prefixes whose P - Q have opposite signs.

        Where they do, the error is at most the smaller of the two parts, and each is bounded by the log-ratios.
        """
        value = 0.5 * float(np.abs(self.excess).sum())
        mixed = (self.low < 0.0) & (self.high > 0.0)
        if mixed.any():
            q_mass = np.maximum(self.mass - self.excess, 0.0)[mixed]
            above = -self.mass[mixed] * np.expm1(-self.high[mixed])
            below = -q_mass * np.expm1(self.low[mixed])
            if float(np.minimum(above, below).sum()) > SLACK + 1e-10 * value:
                return None
        return min(value, 1.0)

    def mean_of(self, metric: Metric) -> float | None:
        """The mean of the metric's function over pairs, if the range of log-ratios into each leaves nothing open."""
        with np.errstate(invalid="ignore"):
            ratio = np.where(self.low == self.high, self.high, 0.5 * (self.low + self.high))
        masses = self.mass - 0.5 * self.excess
        value = float(_mean_of(metric, ratio, masses).sum())
        apart = self.low != self.high
        if apart.any():
            ends = [_mean_of(metric, end[apart], masses[apart]) for end in (self.low, self.high)]
            straddles = ((self.low < 0.0) & (self.high > 0.0))[apart]
            low = np.where(straddles, 0.0, np.minimum(*ends))
            with np.errstate(invalid="ignore"):
                undecided = float((np.maximum(*ends) - low).sum())
            if not undecided <= SLACK + 1e-10 * value:
                return None
        return min(value, metric.most)

    def coverage(self, log_levels: FloatArray) -> FloatArray | None:
        """P-mass of the pairs whose log-ratio reaches each level, if no pair has prefixes on both sides of one."""
        reached = self.low[:, None] >= log_levels  # (n, T)
        unsure = ~reached & (self.high[:, None] >= log_levels)
        if unsure.any() and (self.mass @ unsure).max() > SLACK:
            return None
        return np.minimum(self.mass @ reached, 1.0)


_OF_LAYER: dict[Metric, Callable[[_Layer], float | None]] = {
    HELLINGER2: _Layer.hellinger2,
    TV: _Layer.tv,
    KL: _Layer.kl,
    CHI2: _Layer.chi2,
}


def _layers(p: AutomatonPolicy, q: AutomatonPolicy, asked: Question, tolerance: float) -> Iterator[_Layer]:
    prompts, masses = asked.prompts
    codes = p.initial_states(prompts) * (q.n_states + 1) + q.initial_states(prompts)
    grouping = _Grouping(codes, _code_space(p, q))
    mass = grouping.sum(masses)
    zero = np.zeros_like(mass)
    ranged = any(metric is not HELLINGER2 for metric in asked.metrics)  # the others look at log-ratios and P
    layer = _Layer(
        grouping.codes,
        gap=zero,
        total=4.0 * mass,
        excess=zero,
        mass=mass if ranged else zero[:0],
        chi=zero if CHI2 in asked.metrics else None,
        low=zero if ranged else zero[:0],
        high=zero if ranged else zero[:0],
        kl_so_far=0.0 if KL in asked.metrics else None,
    )
    many, step, horizon = EXACT_PAIRS, 0, asked.task.horizon
    steps: _Steps | None = None
    while step < horizon:
        steps = _Steps.after(layer.pairs, p, q, range(step, horizon), steps)
        for found in steps.layers(layer):
            layer = found
            step += 1
            if len(layer.pairs) > MAX_PAIRS:
                raise NotTractableError(
                    f"{len(layer.pairs)} pairs of states can be reached after {step} tokens; the limit is {MAX_PAIRS}. "
                    "Use method='monte carlo'."
                )
            yield layer
        if tolerance and len(layer.pairs) > many:
            layer = layer.without_the_least(tolerance * step / horizon)
            many = len(layer.pairs) + max(16, len(layer.pairs) // 8)  # from now on it is done whenever it pays


#: next tokens of all pairs, at all steps that are worked out together: keeps their arrays in cache
STEPS_CELLS = 2**15


@dataclass
class _Steps:
    """The next K steps: the N pairs that a layer leads to meanwhile, and E edges (a pair and a token) between them.

    What does not depend on the sums is worked out for all K at once.
    """

    pairs: IntArray  # (N,)
    places: IntArray  # (n,) of the pairs that go on within these steps, those of the layer first
    parent: IntArray  # (E,) place of an edge's pair
    child: IntArray  # (E,) place where it leads to
    edges: IntArray | slice  # (E,) of n A
    log_p: FloatArray  # (K, n, A)
    log_q: FloatArray
    open: bool  # whether no token is excluded
    most: int  # steps that the next ones may be

    @classmethod
    def after(
        cls, pairs: IntArray, p: AutomatonPolicy, q: AutomatonPolicy, steps: range, before: _Steps | None
    ) -> _Steps:
        """As many steps as have one graph of few more pairs, and fit into `STEPS_CELLS`; at least one."""
        open_, most = (True, 32) if before is None else (before.open, before.most)
        sources, children, log_p, log_q = _reach(pairs, p, q, steps[:most], open_)
        if open_ and not (np.isfinite(log_p).all() and np.isfinite(log_q).all()):  # what is excluded leads elsewhere
            open_ = False
            sources, children, log_p, log_q = _reach(pairs, p, q, steps[:most], open_)
        read = len(log_p)
        if not open_ and read > 1:
            differs = np.zeros(read, dtype=bool)
            for log in (log_p, log_q):
                differs |= ((log == -np.inf) != (log[0] == -np.inf)).any(axis=(1, 2)) | np.isnan(log).any(axis=(1, 2))
            same = max(int(np.argmax(differs)), 1) if differs.any() else read
            n = len(pairs) if same == 1 else len(sources)
            sources, children, log_p, log_q = sources[:n], children[:n], log_p[:same, :n], log_q[:same, :n]
        n, space = len(sources), _code_space(p, q)
        grouping = _Grouping(np.concatenate([sources, children.ravel()]), space)
        places, parent, child = grouping.group[:n], np.repeat(grouping.group[:n], p.vocab_size), grouping.group[n:]
        edges: IntArray | slice = slice(None)
        if grouping.codes[-1] == space - 1:  # excluded by both
            edges = np.flatnonzero(children.ravel() != space - 1)
        most = max(2 * read if len(log_p) == read else len(log_p), 1)
        return cls(grouping.codes, places, parent[edges], child[edges], edges, log_p, log_q, open_, most)

    def layers(self, layer: _Layer) -> Iterator[_Layer]:
        """The layers after each of the steps; only the last without the pairs that it cannot be in, if none asks."""
        size, here, steps = len(self.pairs), self.places[: len(layer.pairs)], len(self.log_p)
        log_p, log_q = (log.reshape(steps, -1)[:, self.edges] for log in (self.log_p, self.log_q))
        with np.errstate(invalid="ignore"):
            log_ratio = np.where(log_p == -np.inf, -np.inf, log_p - log_q)  # (K, E)
        ranged = len(layer.low) > 0
        prob_p, prob_q = (np.exp(log) if ranged else log for log in (log_p, log_q))
        # one step of the prefix multiplies a by m + d and b by m - d; new a -+ b mix the old a -+ b
        m, d = _half_sum_and_difference(np.maximum(log_p, log_q), log_ratio)
        mm, twice_md, dd = m * m, 2.0 * m * d, d * d
        many = 4 if ranged else 3
        into = (np.arange(many)[:, None] * size + self.child).ravel()
        terms = None
        if layer.kl_so_far is not None:  # the chain rule; a token that only q excludes shows in the log-ratios
            terms = kl_terms(self.log_p, self.log_q, np.exp(self.log_p), np.exp(self.log_q))
            terms = np.where(np.isposinf(terms), 0.0, terms).sum(axis=2)  # (K, n)

        kl, low, high = layer.kl_so_far, np.full(size, np.nan), np.full(size, np.nan)
        sums: FloatArray = np.zeros((many, size))
        sums[:, here] = (layer.gap, layer.total, layer.excess, layer.mass)[:many]
        chi: FloatArray | None = None
        if layer.chi is not None:
            chi = np.zeros(size)
            chi[here] = layer.chi
        if ranged:  # nan: no prefix leads there yet
            low[here], high[here] = layer.low, layer.high
        parts = np.empty((many, len(self.parent)))
        rows: IntArray | slice = slice(None)
        for k in range(steps):
            if terms is not None and kl is not None:
                kl += float(sums[3, self.places] @ terms[k])
            gap, total, excess, *masses = np.take(sums, self.parent, axis=1)
            cross = twice_md[k] * excess
            parts[0] = mm[k] * gap + cross + dd[k] * total
            parts[1] = mm[k] * total + cross + dd[k] * gap
            parts[2] = (mm[k] + dd[k]) * excess + 0.5 * twice_md[k] * (total + gap)
            for mass in masses:
                parts[3] = mass * prob_p[k]
            if chi is not None:
                grown = _chi2_step(chi[self.parent], excess, masses[0], prob_p[k], prob_q[k], 2.0 * twice_md[k])
                chi = np.bincount(self.child, weights=grown, minlength=size).astype(np.float64, copy=False)
            sums = np.bincount(into, parts.ravel(), many * size).astype(np.float64, copy=False).reshape(many, size)
            np.maximum(sums[0], 0.0, out=sums[0])
            if ranged:
                low, high = (
                    self._extreme(best, end[self.parent] + log_ratio[k])
                    for best, end in ((np.fmin, low), (np.fmax, high))
                )
                rows = np.flatnonzero(~np.isnan(low))
            elif k + 1 == steps:
                rows = np.flatnonzero(sums[0] + sums[1] > 0.0)
            yield _Layer(
                self.pairs[rows],
                gap=sums[0, rows],
                total=sums[1, rows],
                excess=sums[2, rows],
                mass=sums[3, rows] if ranged else low[:0],
                chi=None if chi is None else chi[rows],
                low=low[rows] if ranged else low[:0],
                high=high[rows] if ranged else high[:0],
                kl_so_far=kl,
                dropped=layer.dropped,
            )

    def _extreme(self, best: np.ufunc, values: FloatArray) -> FloatArray:
        """``(N,)`` of the ``(E,)`` values of the edges into each pair; nan where there is none."""
        out = np.full(len(self.pairs), np.nan)
        best.at(out, self.child, values)
        return out


def _reach(
    pairs: IntArray, p: AutomatonPolicy, q: AutomatonPolicy, steps: range, open_: bool
) -> tuple[IntArray, IntArray, FloatArray, FloatArray]:
    """``(n,)`` pairs that go on within K steps, ``(n, A)`` pairs they lead to, and ``(K, n, A)`` log-probabilities.

    Args:
        pairs: at the beginning.
        steps: K is at most their number.
        open_: as if no token were excluded; else those are that the first step excludes.
    """
    policies, moves = (p, q), (p.transitions(steps[0]), q.transitions(steps[0]))
    width, nowhere = q.n_states + 1, _code_space(p, q) - 1

    def laws(pairs: IntArray, during: range) -> list[FloatArray]:
        return [_laws(policy, states, during) for policy, states in zip(policies, np.divmod(pairs, width))]

    def onwards(pairs: IntArray, logs: list[FloatArray]) -> IntArray:
        """``(n, A)`` pairs; ``logs`` at the first step are read where tokens are excluded."""
        of_p, of_q = np.divmod(pairs, width)
        if open_:
            return moves[0][of_p] * width + moves[1][of_q]
        to_p, to_q = (
            np.where(log[0] == -np.inf, policy.n_states, table[np.minimum(states, policy.n_states - 1)])
            for policy, states, table, log in zip(policies, (of_p, of_q), moves, logs)
        )
        return to_p * width + to_q

    logs = [] if open_ else laws(pairs, steps[:1])
    sources, children = [pairs], [onwards(pairs, logs)]
    size, count, most = len(pairs), 1, len(pairs) + len(pairs) // 4 + 64
    seen = set(pairs.tolist()) if 2 * children[0].size <= STEPS_CELLS else set()
    while count < len(steps) and size * p.vocab_size * (count + 1) <= STEPS_CELLS:
        if not all(_same(table, policy.transitions(steps[count])) for table, policy in zip(moves, (p, q))):
            break
        new = set(children[-1].ravel().tolist()) - seen - {nowhere}
        if size + len(new) > most:
            break
        seen |= new
        sources.append(np.array(sorted(new), dtype=np.int64))
        children.append(onwards(sources[-1], [] if open_ else laws(sources[-1], steps[:1])))
        size += len(new)
        count += 1
    found = np.concatenate(sources)
    log_p, log_q = logs if logs and count == 1 else laws(found, steps[:count])
    return found, np.concatenate(children), log_p, log_q


def _same(one: IntArray, two: IntArray) -> bool:
    return one is two or (one.size <= 4096 and np.array_equal(one, two))


def _code_space(p: AutomatonPolicy, q: AutomatonPolicy) -> int:
    """One more state each, the last: where a prefix leads that the policy excludes. Nothing leads out of it."""
    return (p.n_states + 1) * (q.n_states + 1)


def _laws(policy: AutomatonPolicy, states: IntArray, steps: range) -> FloatArray:
    """``(K, n, A)`` log-probabilities of the next token at these steps, none after an excluded prefix."""
    excluded = states == policy.n_states
    if not excluded.any():
        return policy.emissions_during(states, steps)
    log_probs = policy.emissions_during(np.where(excluded, 0, states), steps)
    log_probs[:, excluded] = -np.inf
    return log_probs


def _half_sum_and_difference(log_larger: FloatArray, log_ratio: FloatArray) -> tuple[FloatArray, FloatArray]:
    """``(sqrt p + sqrt q) / 2`` and ``(sqrt p - sqrt q) / 2``, the latter accurate when p and q nearly agree."""
    root = np.exp(0.5 * log_larger)
    shrink = 0.5 * root * np.expm1(-0.5 * np.abs(log_ratio))  # minus half the gap of the roots
    return root + shrink, -np.copysign(1.0, log_ratio) * shrink


def _chi2_step(
    chi: FloatArray, excess: FloatArray, mass: FloatArray, prob_p: FloatArray, prob_q: FloatArray, change: FloatArray
) -> FloatArray:
    """The next sum (P - Q)^2 / Q: with r = P / Q and s = p / q, r s - 1 = s (r - 1) + (s - 1); ``change`` = p - q."""
    possible = prob_q > 0
    q = np.where(possible, prob_q, 1.0)
    with np.errstate(over="ignore", invalid="ignore"):
        ratio = np.where(possible, prob_p / q, 0.0)
        grown = np.where(ratio > 0, ratio * prob_p * chi, 0.0)  # not 0 * inf
        return grown + 2.0 * ratio * change * excess + change * change / q * np.maximum(mass - excess, 0.0)


class _Grouping:
    """Codes, each once and in order, and the place among them of each that was given."""

    def __init__(self, given: IntArray, code_space: int) -> None:
        if code_space <= 8 * len(given) + 4096:  # a table of all codes is cheaper than sorting
            seen = np.zeros(code_space, dtype=bool)
            seen[given] = True
            self.codes: IntArray = np.flatnonzero(seen)
            self.group: IntArray = (np.cumsum(seen) - 1)[given]
        else:
            self.codes, self.group = np.unique(given, return_inverse=True)

    def sum(self, values: FloatArray) -> FloatArray:
        return np.bincount(self.group, weights=values, minlength=len(self.codes)).astype(np.float64, copy=False)

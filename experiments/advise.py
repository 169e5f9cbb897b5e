"""``ntp-bench advise``: which learner for these demonstrations, this class and this budget? Four answers, measured.

No expert is known: there are demonstrations, cut in two halves at random. What is fitted sees the first, and what is
said of a fit is tested on the second.

1. *Is the class misspecified?* By universal inference (Wasserman, Ramdas and Balakrishnan 2020, arXiv 1912.11436):
   rivals fitted to one half are compared on the other with the class's own maximum likelihood *there*. The mean over
   rivals of the likelihood ratios is an e-value, at most 1 in the mean if the class holds the truth, at any n; so is
   the average of both ways round, and its inverse is a p-value. And how far away are the fit's own texts? An event that
   tells them from held-out ones bounds the total variation from below; several are tried, which is paid for.
2. *Is the horizon long?* The fit against the best rival, in the expert's place.
3. *What can be afforded?* Each learner is fitted to ever more demonstrations until its law of growth shows.
4. *Which one?* Those that can be afforded meet in a tournament on the second half.
"""

from __future__ import annotations

import dataclasses
import math
import re
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, NamedTuple

import numpy as np

from agents import Agent, tournament
from agents.fit_class import fit_class
from agents.selection import TournamentResult, holdout_split
from experiments.aggregate import nats_per_token
from experiments.measure import costed_fit, doublings, passing, powers_of_two, titled
from experiments.terminal import plain
from ntp_envs import (
    ARLinearClass,
    Demonstrations,
    DistanceCurve,
    EndedClass,
    MixturePolicy,
    NGramClass,
    NotTractableError,
    Policy,
    PolicyClass,
    ended_class,
    two_sample_test,
)
from ntp_envs.arrays import FloatArray, IntArray
from ntp_envs.checks import check_generator, check_int, check_kind, check_real
from ntp_envs.distances.sampled import bridge_distances
from ntp_envs.distances.two_sample import hellinger2_bound, tv_lower_bound
from ntp_envs.features import ContextFeatureMap, PairwiseProducts
from ntp_envs.intervals import CONFIDENCE, each_of, least_share, unseen_probability

LEAST = 50  # demonstrations: with fewer, nothing can be said that is worth saying
LEVEL = 0.05  # of the verdict
ORDERS = range(1, 7)  # of the n-grams among the rivals
TESTS = ("classifier", "n-gram", "mmd")

Interval = tuple[float, float, float]
UNKNOWN: Interval = (math.nan, math.nan, math.nan)


# -- what is found out -------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Cost:
    """What a learner takes with all demonstrations.

    Attributes:
        learner: its name.
        seconds, megabytes: of processor time, and the peak; ``nan`` where it cannot be fitted at all.
        seen: demonstrations of the largest probe; the numbers are measured, not predicted, where these were all.
        why_not: why it cannot be afforded; empty if it can.
    """

    learner: str
    seconds: float
    megabytes: float
    seen: int
    why_not: str = ""


@dataclass(frozen=True)
class Advice:
    """Four answers with their numbers. Distances are of whole texts of h tokens; ``(value, lower, upper)`` at 95 %.

    Attributes:
        n, horizon, vocab_size: of the demonstrations.
        budget: seconds.
        log_e_value: natural logarithm of the e-value against the class.
        p_value: ``min(1, 1 / e)``, valid at any n.
        certified: the maximum likelihood behind the e-value is proved, not only a local one.
        rival: the policy that explains held-out demonstrations best, by name.
        lengths: ``(L,)`` prefix lengths 1, 2, 4, ..., H.
        tv_lower: ``(L,)`` lower bounds on the total variation between demonstrations and the fit's own texts, which
            hold for all lengths together with 95 %.
        test: what showed most at H.
        detectable: a total variation under which not even the most telling event would have been seen (power 80 %).
        curve: squared Hellinger distance of the fit from the rival, at every length; ``None`` if nothing is known.
        nats_per_token: ``-log(1 - D / 2) / h`` of it, at the longest h where D is not saturated.
        tokens_until_one: h where D reaches 1.
        amplification: D of log-loss at H over that of the best candidate.
        costs: of every learner of the class.
        losses: worst loss of each affordable learner in the tournament on held-out demonstrations.
        recommended, runner_up: names of learners.
        reached: after ``--run``, D at H from the rival, of the recommended learner and of log-loss fitted to all.
        sentences: the four answers.
    """

    n: int
    horizon: int
    vocab_size: int
    log_e_value: float = math.nan
    p_value: float = math.nan
    certified: bool = True
    rival: str = ""
    lengths: IntArray = field(default_factory=lambda: np.empty(0, dtype=np.int64))
    tv_lower: FloatArray = field(default_factory=lambda: np.empty(0))
    test: str = ""
    detectable: float = math.nan
    curve: DistanceCurve | None = None
    nats_per_token: Interval = UNKNOWN
    tokens_until_one: Interval = UNKNOWN
    amplification: Interval = UNKNOWN
    costs: tuple[Cost, ...] = ()
    losses: Mapping[str, float] = field(default_factory=dict)
    recommended: str = ""
    runner_up: str = ""
    reached: Mapping[str, Interval] = field(default_factory=dict)
    budget: float = math.nan
    sentences: tuple[str, ...] = ()

    @property
    def misspecified(self) -> bool:
        """Whether it is shown, at 5 %, that no member of the class wrote the demonstrations."""
        return bool(self.p_value <= LEVEL)

    @property
    def hellinger2_lower(self) -> FloatArray:
        """``(L,)`` lower bounds on the squared Hellinger distance: ``2 (1 - sqrt(1 - TV^2))``."""
        return hellinger2_bound(self.tv_lower)

    def to_dict(self) -> dict[str, Any]:
        """Everything as JSON has it; what is not finite is text."""
        found = {name: value for name, value in vars(self).items() if name not in ("curve", "costs")}
        found |= {"misspecified": self.misspecified, "hellinger2_lower": self.hellinger2_lower}
        found["costs"] = [dataclasses.asdict(cost) for cost in self.costs]
        found["hellinger2"] = None if self.curve is None else self.curve.values
        return plain(found, missing="nan")


# -- 1. is the class misspecified? -------------------------------------------------------------------------------------


def log_e_value(
    first: Demonstrations, second: Demonstrations, policy_class: PolicyClass, rivals: Mapping[str, Policy]
) -> tuple[float, bool, dict[str, float]]:
    """Evidence against a class, from rivals that were fitted to ``first``, on ``second``.

    Returns:
        The natural logarithm of the mean over rivals of ``prod q(x) / sup_class prod pi(x)``, whether that supremum is
        certified, and the log-likelihoods of the rivals.
    """
    _, report = fit_class(policy_class, second, tol=1e-6)
    n, certified = len(second), not math.isnan(report.gap)
    best_of_class = n * (-report.objective + (report.gap if certified else 0.0))
    found = {name: float(policy.log_probs(second.prompts, second.tokens).sum()) for name, policy in rivals.items()}
    values = np.array(list(found.values()))
    if math.isinf(best_of_class):  # no member could have written this
        return (math.inf if np.isfinite(values).any() else 0.0), certified, found
    return float(np.logaddexp.reduce(values - best_of_class) - math.log(len(values))), certified, found


class Evidence(NamedTuple):
    """Of both halves against the class; the rivals are those fitted to the first."""

    log_e_value: float
    certified: bool
    rivals: dict[str, Policy]
    best: str  # of them, on the second half


def evidence(
    first: Demonstrations, second: Demonstrations, policy_class: PolicyClass, *, network: bool = False
) -> Evidence:
    """`log_e_value` both ways round, and their mean, which is an e-value as well."""
    rivals, backwards = (fit_rivals(half, policy_class, network=network) for half in (first, second))
    one, certified, scores = log_e_value(first, second, policy_class, rivals)
    other = log_e_value(second, first, policy_class, backwards)[0]
    mean = float(np.logaddexp(one, other) - math.log(2.0))
    return Evidence(mean, certified, rivals, max(scores, key=lambda name: scores[name]))


def fit_rivals(
    demonstrations: Demonstrations, policy_class: PolicyClass, *, network: bool = False
) -> dict[str, Policy]:
    """Richer policies than those of the class, or other ones: n-grams, mixtures of two members, a small transformer."""
    from agents import NGramBC

    size, end = demonstrations.vocab_size, demonstrations.end_token
    longest = min(demonstrations.prompt_length + demonstrations.horizon, ORDERS[-1])
    found: dict[str, Policy] = {}
    for order in range(1, longest + 1):
        grams = ended_class(NGramClass(size, order), end)
        found[f"{order}-gram"] = NGramBC(order=order).fit(demonstrations, grams).policy_
    if (mixture := _two_of(policy_class, demonstrations)) is not None:
        found["two members of the class"] = mixture
    inside = policy_class.members if isinstance(policy_class, EndedClass) else policy_class
    features = getattr(inside, "features", None)
    if isinstance(inside, ARLinearClass) and isinstance(features, ContextFeatureMap) and features.n_context <= 24:
        wider = ended_class(ARLinearClass(PairwiseProducts(features), 4.0 * inside.radius), end)
        found["products of two features"] = fit_class(wider, demonstrations, tol=1e-3)[0]
    if network:
        found["transformer"] = _small_transformer(demonstrations)
    return found


def _small_transformer(demonstrations: Demonstrations) -> Policy:
    """Sees all of a sequence, which no n-gram does. Extra ``neural``."""
    from agents.neural import NetworkClass, NeuralBC

    shape: dict[str, Any] = {name: getattr(demonstrations, name) for name in ("prompt_length", "horizon")}
    network = NetworkClass("transformer", demonstrations.vocab_size, width=32, **shape)
    networks = ended_class(network, demonstrations.end_token)
    agent = NeuralBC(steps=400, batch_size=min(64, len(demonstrations.pooled())), learning_rate=5e-3)
    return agent.fit(demonstrations, networks, rng=np.random.default_rng(0)).policy_


def _two_of(policy_class: PolicyClass, demonstrations: Demonstrations, rounds: int = 8) -> MixturePolicy | None:
    """A mixture of two members by expectation maximisation: some documents from one, the rest from the other."""
    prompts, tokens = demonstrations.prompts, demonstrations.tokens
    first = fit_class(policy_class, demonstrations, tol=1e-3)[0].log_probs(prompts, tokens).sum(axis=1)
    shares = np.where(first < first.mean(), 0.9, 0.1)  # of the second, which starts where the fit is worst
    mixture = None
    for _ in range(rounds):
        weights = np.array([1.0 - shares.mean(), shares.mean()])
        if not (weights > 1e-9).all():
            return mixture
        pair = [
            fit_class(policy_class, replace(demonstrations, weights=part, exactness=None), tol=1e-3)[0]
            for part in (1.0 - shares, shares)
        ]
        mixture = MixturePolicy(pair, weights)
        scores = np.stack([one.log_probs(prompts, tokens).sum(axis=1) for one in pair], axis=1) + np.log(weights)
        total = np.logaddexp.reduce(scores, axis=1)
        shares = np.where(np.isfinite(total), np.exp(scores[:, 1] - np.where(np.isfinite(total), total, 0.0)), 0.5)
    return mixture


def tv_bounds(
    held_out: Demonstrations, fitted: Policy, rivals: Mapping[str, Policy], lengths: IntArray, rng: np.random.Generator
) -> tuple[FloatArray, str]:
    """``(L,)`` lower bounds on the total variation between the law of held-out texts and a fit's own, and by what.

    Each rival q gives an event, ``q(text) > fit(text)``; the others are `ntp_envs.two_sample_test`'s. All bounds of all
    tests at all lengths hold together with 95 %. One text is written after each held-out prompt, so both samples are
    independent draws.
    """
    n, horizon = len(held_out), held_out.horizon
    own = replace(held_out, tokens=fitted.sample(held_out.prompts, horizon, rng), source={"by": "fit"})
    level = each_of(CONFIDENCE, len(rivals) + len(TESTS))
    found: dict[str, FloatArray] = {}
    by_fit = [_cumulative(fitted, sample)[:, lengths - 1] for sample in (held_out, own)]
    for name, rival in rivals.items():
        hits, alarms = (
            (_cumulative(rival, sample)[:, lengths - 1] > log_fit).sum(axis=0)
            for sample, log_fit in zip((held_out, own), by_fit)
        )
        found[name] = tv_lower_bound(hits, alarms, n, level=1.0 - each_of(level, len(lengths)))
    for test in TESTS:
        result = two_sample_test(
            held_out,
            own,
            rng=rng,
            method=test,
            lengths=lengths.tolist(),
            confidence=level,
            simultaneous=True,
            **({"discount": 0.5} if test == "mmd" else {}),
        )
        lower = np.maximum(np.nan_to_num(result.curve.lower[lengths - 1]), 0.0)
        # its kernel lies between 0 and sum_{t<=h} 2^-t <= 1, so MMD^2 <= 2 TV^2
        found[test] = np.sqrt(lower / 2.0) if test == "mmd" else lower
    bounds = np.array(list(found.values()))
    # a longer text is no nearer
    return np.maximum.accumulate(bounds.max(axis=0)), list(found)[int(bounds[:, -1].argmax())]


def _cumulative(policy: Policy, sample: Demonstrations) -> FloatArray:
    return np.cumsum(policy.log_probs(sample.prompts, sample.tokens), axis=1)


def smallest_seen(n: int, tests: int, lengths: int) -> float:
    """A total variation that even an event which never happens to the fit would show with probability .8 only."""
    level = 1.0 - each_of(CONFIDENCE, tests * lengths)
    counts = np.arange(n + 1)
    shown = np.flatnonzero(tv_lower_bound(counts, np.zeros_like(counts), n, level=level) > 0)
    # least_share is the share at which so many or more come with this probability
    return float(least_share(shown[0], n, 0.8)) if len(shown) else 1.0


# -- 2. is the horizon long? -------------------------------------------------------------------------------------------


def against(rival: Policy, policy: Policy, prompts: IntArray, horizon: int, seed: int) -> DistanceCurve:
    """Squared Hellinger distance of a policy from a rival in the expert's place, from texts of both."""
    rng = np.random.default_rng(seed)

    def texts(writer: Policy) -> Demonstrations:
        return Demonstrations(prompts, writer.sample(prompts, horizon, rng), vocab_size=writer.vocab_size)

    of = texts(rival), texts(policy)
    return bridge_distances(*of, p=rival, q=policy, metrics=["hellinger2"])["hellinger2"]


def nats_a_token(curve: DistanceCurve) -> tuple[Interval, int]:
    """``-log(1 - D / 2) / h`` with its interval at the longest h where the interval is below saturation, and h."""
    open_ = np.flatnonzero(curve.upper < 1.98)
    h = int(open_[-1]) + 1 if len(open_) else 1
    return nats_per_token(curve, h), h


#: the largest power of n that a fit's cost grows with, where that is not 1: pairs of prefixes, and their eigenvectors
STEEPEST = {"ChunkKR": 3.0}


def tokens_until_one(curve: DistanceCurve) -> Interval:
    """The length at which D reaches 1, and those at which its upper and its lower end do."""
    value, sooner, later = (passing(ends) for ends in (curve.values, curve.upper, curve.lower))
    return value, sooner, later


def reached_words(until: Interval, horizon: int) -> str:
    """When D reaches 1, if it does."""
    if math.isinf(until[0]):
        return f"D_H^2 stays below 1 up to {horizon} tokens"
    value, sooner, later = (f"{length:.3g}" for length in until)
    return f"D_H^2 reaches 1 after {value} [{sooner}, {later}] tokens, so {horizon} are long"


# -- 3. what can be afforded? ------------------------------------------------------------------------------------------


def learners(policy_class: PolicyClass, horizon: int) -> dict[str, Agent]:
    """Every learner of the class, the simplest first: log-loss, smoothed, chunks from short to long, whole texts."""
    from agents import ChunkedRhoBC, LogLossBC, NGramBC, NGramDialBC, RhoEstimatorBC, SmoothedLogLossBC
    from agents.chunk_kr import ChunkKR

    chunks = [k for k in powers_of_two(horizon) if 1 < k < horizon]
    found: dict[str, Agent] = {"log-loss": LogLossBC(tol=1e-6)}
    if horizon > 1:
        found["smoothed 1/H"] = SmoothedLogLossBC(tol=1e-6)
    found |= {"n-gram": NGramBC(), "n-gram dial, log-loss": NGramDialBC(LogLossBC())}
    found["n-gram dial, rho"] = NGramDialBC(RhoEstimatorBC())
    found |= {titled("chunked rho", k): ChunkedRhoBC(chunk=k) for k in chunks}
    found["rho"] = RhoEstimatorBC()
    found |= {titled("ChunkKR", k): ChunkKR(chunk=k) for k in chunks}
    return {name: agent for name, agent in found.items() if agent.takes(policy_class)}


def probe(
    name: str, agent: Agent, demonstrations: Demonstrations, policy_class: PolicyClass, total: int, seconds: float
) -> tuple[Cost, Policy | None]:
    """Fit to ever more demonstrations, four times as many each time, while the next fit takes less than ``seconds``.

    The cost of ``total`` demonstrations follows as a power of their number; the policy is that of the last fit.
    """
    n, sizes, times, policy = min(32, len(demonstrations)), [], [], None
    power = STEEPEST.get(family(name), 1.0)
    try:
        while True:
            fit = costed_fit(agent.clone(), demonstrations.subset(np.arange(n)), policy_class, 0, memory=False)
            policy = fit.agent.policy_
            sizes.append(n)
            times.append(max(fit.seconds, 1e-4))
            following = min(4 * n, len(demonstrations))
            if following == n or _extrapolated(sizes, times, following, power) > seconds:
                break
            n = following
        # once more with all allocations traced, which is slow
        traced = sorted({sizes[0], sizes[-1]})
        peaks = [
            costed_fit(agent.clone(), demonstrations.subset(np.arange(n)), policy_class, 0, memory=True).megabytes
            for n in traced
        ]
    except (NotTractableError, ValueError, TypeError, MemoryError) as error:
        return Cost(name, math.nan, math.nan, 0, f"cannot be fitted ({str(error).partition('. ')[0]})"), None
    predicted = _extrapolated(sizes, times, total, power), _extrapolated(traced, peaks, total, power)
    return Cost(name, *predicted, sizes[-1]), policy


def _extrapolated(sizes: Sequence[int], values: Sequence[float], size: int, steepest: float) -> float:
    """The last value times the ratio of sizes to a power, that of the last two, between 0 and ``steepest``."""
    power = steepest
    if len(sizes) > 1:
        power = math.log(max(values[-1], 1e-6) / max(values[-2], 1e-6)) / math.log(sizes[-1] / sizes[-2])
    return values[-1] * (size / sizes[-1]) ** min(max(power, 0.0), steepest)


def probe_all(
    table: Mapping[str, Agent], demonstrations: Demonstrations, policy_class: PolicyClass, total: int, budget: float
) -> dict[str, tuple[Cost, Policy | None]]:
    """`probe` of each learner, until half of the budget is gone; of longer chunks until one is beyond the budget."""
    found: dict[str, tuple[Cost, Policy | None]] = {}
    over: dict[str, str] = {}
    start, seconds = time.process_time(), min(max(budget / 20.0, 0.5), 4.0)
    for name, agent in table.items():
        kind = family(name)
        if time.process_time() - start > budget / 2.0:
            found[name] = (
                Cost(name, math.nan, math.nan, 0, "not tried: half of the budget had gone into the others"),
                None,
            )
            continue
        if kind in over:
            found[name] = Cost(name, math.nan, math.nan, 0, f"takes longer than {over[kind]}"), None
            continue
        found[name] = probe(name, agent, demonstrations, policy_class, total, seconds)
        cost = found[name][0]
        if not cost.seconds * 2.0 < budget:
            over[kind] = name
    return found


def family(learner: str) -> str:
    """A learner without its chunk length.

    >>> family("chunked rho, K=4")
    'chunked rho'
    """
    return learner.partition(", K=")[0]


# -- all of it ---------------------------------------------------------------------------------------------------------


def advise(
    demonstrations: Demonstrations,
    policy_class: PolicyClass,
    *,
    horizon: int | None = None,
    budget: float = 600.0,
    memory: float = 8e9,
    run: bool = False,
    network: bool = False,
    rng: np.random.Generator | None = None,
) -> Advice:
    """What the demonstrations say about a class and its learners; see the head of this module.

    Args:
        demonstrations: at least 50 independent draws, unweighted.
        policy_class: what a learner may choose from; one that `agents.LogLossBC` can fit.
        horizon: tokens wanted, at most those of the demonstrations; all by default.
        budget: seconds of processor time that a fit may take.
        memory: bytes that it may take.
        run: fit the recommended learner and log-loss to all demonstrations, and compare.
        network: set a small transformer beside the n-grams against the class too, which sees a whole sequence; needs
            the extra ``neural``.
        rng: splits and texts; seeded with 0 by default.

    Raises:
        ValueError, TypeError: arguments out of range, too few demonstrations or weighted ones, a horizon longer than
            them, a class that log-loss cannot fit or that has no texts of its own.

    >>> from ntp_envs import MarkovClass, collect, make_task
    >>> task = make_task("Contamination", horizon=8, eps=0.2)
    >>> advise(collect(task, 400, np.random.default_rng(0)), task.policy_class, budget=2.0).misspecified
    True
    """
    check_kind("demonstrations", demonstrations, Demonstrations)
    check_kind("policy_class", policy_class, PolicyClass)
    budget, memory = check_real("budget", budget, minimum=1e-3), check_real("memory", memory, minimum=1e6)
    rng = np.random.default_rng(0) if rng is None else check_generator(rng)
    data = _checked(demonstrations, horizon)
    table = learners(policy_class, data.horizon)
    if "log-loss" not in table:
        raise TypeError(f"{policy_class!r} has no maximum likelihood here: LogLossBC does not know it.")
    first, second = holdout_split(data, 0.5, rng)
    seed = int(rng.integers(1 << 32))

    log_e, certified, rivals, rival = evidence(first, second, policy_class, network=network)
    probes = probe_all(table, first, policy_class, len(data), budget)
    costs = tuple(_judged(cost, budget, memory) for cost, _ in probes.values())
    fitted = {name: policy for name, (_, policy) in probes.items() if policy is not None}
    allowed = [cost.learner for cost in costs if not cost.why_not]
    loss_fit = fitted.get("log-loss") or fit_class(policy_class, first, tol=1e-3)[0]

    lengths = np.array(doublings(data.horizon))
    bounds, test = tv_bounds(second, loss_fit, rivals, lengths, rng)
    prompts = second.prompts[rng.integers(len(second), size=2000)]
    curves = {name: against(rivals[rival], fitted[name], prompts, data.horizon, seed) for name in allowed}
    curve = curves.get("log-loss") or against(rivals[rival], loss_fit, prompts, data.horizon, seed)
    nats, at = nats_a_token(curve)
    ratio = _over_nearest(curve, curves)
    game = tournament({name: fitted[name] for name in allowed}, second, tau="psi") if allowed else None
    ranked = _ranked(game) if game is not None else []
    found = Advice(
        n=len(data),
        horizon=data.horizon,
        vocab_size=data.vocab_size,
        budget=budget,
        log_e_value=log_e,
        p_value=min(1.0, math.exp(min(-log_e, 0.0))),
        certified=certified,
        rival=rival,
        lengths=lengths,
        tv_lower=bounds,
        test=test,
        detectable=smallest_seen(len(second), len(rivals) + len(TESTS), len(lengths)),
        curve=curve,
        nats_per_token=nats,
        tokens_until_one=tokens_until_one(curve),
        amplification=ratio,
        costs=costs,
        losses={} if game is None else dict(zip(game.names, game.worst.tolist())),
        recommended=ranked[0] if ranked else "",
        runner_up=ranked[1] if len(ranked) > 1 else "",
    )
    if run and ranked:
        found = replace(found, reached=_reached(found, table, data, policy_class, rivals[rival], prompts, seed))
    return replace(found, sentences=tuple(_sentences(found, at, game)))


def _over_nearest(curve: DistanceCurve, curves: Mapping[str, DistanceCurve]) -> Interval:
    """D at H over the least of some candidates: 1 where none is clearly nearer, infinite where one is the rival."""
    nearest = min(curves.values(), key=lambda found: found.final, default=curve)
    if nearest is curve or nearest.upper[-1] >= curve.lower[-1]:
        return (1.0, 1.0, 1.0)
    above = np.array([curve.final, curve.lower[-1], curve.upper[-1]])
    with np.errstate(divide="ignore"):
        value, lower, upper = above / np.array([nearest.final, nearest.upper[-1], nearest.lower[-1]])
    return float(value), float(lower), float(upper)


def _checked(demonstrations: Demonstrations, horizon: int | None) -> Demonstrations:
    if not demonstrations.are_draws:
        raise ValueError("the demonstrations are weighted or a population; independent draws are needed: collect.")
    if len(demonstrations) < LEAST:
        raise ValueError(
            f"there are {len(demonstrations)} demonstrations; at least {LEAST} are needed. Cut a long sequence into "
            "shorter ones, or collect more."
        )
    wanted = demonstrations.horizon if horizon is None else check_int("horizon", horizon, minimum=1)
    if wanted > demonstrations.horizon:
        raise ValueError(
            f"horizon={wanted} is longer than the demonstrations, which have {demonstrations.horizon} tokens; what "
            "nobody has shown cannot be tested."
        )
    return replace(demonstrations, tokens=demonstrations.tokens[:, :wanted], expert_log_probs=None, weights=None)


def _judged(cost: Cost, budget: float, memory: float) -> Cost:
    """The cost, and whether it can be afforded."""
    why = [cost.why_not] if cost.why_not else []
    if cost.seconds > budget:
        why.append(f"{cost.seconds:,.0f} s are {cost.seconds / budget:.2g} times the budget")
    if cost.megabytes * 1e6 > memory:
        why.append(f"{cost.megabytes / 1000:.2g} GB are {cost.megabytes * 1e6 / memory:.2g} times the memory")
    return replace(cost, why_not=" and ".join(why))


def _ranked(game: TournamentResult) -> list[str]:
    """Learners from the recommended one on: log-loss, the first, unless one beats it clearly; then the winner's order.

    Clearly: by more than a standard error, and than an event which no held-out demonstration has shown may weigh.
    """
    order = [game.index, *(i for i in np.argsort(game.worst, kind="stable").tolist() if i != game.index)]
    margin = np.nan_to_num(game.standard_errors[0]) + float(unseen_probability(game.n))
    if (game.losses[0] <= margin).all():
        order = [0, *(i for i in order if i)]
    return [game.names[i] for i in order]


def _reached(
    found: Advice,
    table: Mapping[str, Agent],
    data: Demonstrations,
    policy_class: PolicyClass,
    rival: Policy,
    prompts: IntArray,
    seed: int,
) -> dict[str, Interval]:
    """D at H from the rival after fits to all demonstrations, and the difference on the same random numbers."""
    out: dict[str, Interval] = {}
    for name in dict.fromkeys((found.recommended, "log-loss")):
        policy = table[name].clone().fit(data, policy_class, rng=np.random.default_rng(0)).policy_
        curve = against(rival, policy, prompts, found.horizon, seed)
        out[name] = (curve.final, float(curve.lower[-1]), float(curve.upper[-1]))
    return out


# -- in words ----------------------------------------------------------------------------------------------------------


def _sentences(found: Advice, at: int, game: TournamentResult | None) -> Iterator[str]:
    ten = found.log_e_value / math.log(10.0)
    evidence = f"e-value 10^{ten:.1f}, p {'= ' + format(found.p_value, '.2g') if found.p_value >= 1e-12 else '< 1e-12'}"
    evidence += "" if found.certified else ", the maximum likelihood of the class being local only"
    tv, hellinger = float(found.tv_lower[-1]), float(found.hellinger2_lower[-1])
    far = (
        f"by {found.horizon} tokens at least {tv:.2g} of the mass of the fit's own texts is elsewhere "
        f"(D_H^2 at least {hellinger:.2g}; seen by: {found.test})"
    )
    unseen = f"with n = {found.n} a total variation under {found.detectable:.2g} could not have been seen"
    if found.misspecified:
        told = far if tv > 0 else f"no test on texts shows it: {unseen}"
        yield f"1. The class is misspecified ({evidence}; best rival: {found.rival}): {told}."
    elif tv > 0:
        yield f"1. No proof of misspecification ({evidence}), yet {far}: more demonstrations bring the fit nearer."
    else:
        yield f"1. No sign of misspecification ({evidence}): {unseen}."

    value, lower, upper = found.nats_per_token
    ratio = found.amplification
    grows = "no candidate is clearly nearer than log-loss"
    if math.isinf(ratio[0]):
        grows = "another learner of the class is as good as the rival"
    elif ratio[0] > 1.0:
        grows = f"log-loss is {ratio[0]:.2g} [{ratio[1]:.2g}, {ratio[2]:.2g}] times as far as the nearest candidate"
    yield (
        f"2. With the best rival in the expert's place, log-loss drifts by {value:.2g} [{lower:.2g}, {upper:.2g}] nats "
        f"a token (at h = {at}); {reached_words(found.tokens_until_one, found.horizon)}; {grows}."
    )
    yield _affordable(found)
    if game is None:
        yield "4. Nothing can be afforded: raise the budget or the memory, or take fewer demonstrations."
        return
    told = f"4. Take {found.recommended}"
    for name in dict.fromkeys(("log-loss", found.runner_up)):
        if name in game.names and name != found.recommended:
            told += f"{':' if told[-1] != ')' else ' and'} {_beats(game, found.recommended, name)}"
    told += ". More demonstrations would change it" + (
        ", or a larger budget" if len(game.names) < len(found.costs) else ""
    )
    told += ", or a larger class."
    for name, (end, low, high) in found.reached.items():
        told += f" Fitted to all, {name} is at D_H^2 = {end:.3g} [{low:.3g}, {high:.3g}] from the rival."
    yield told


def _affordable(found: Advice) -> str:
    """The third answer; chunk lengths of one family together."""
    groups: dict[tuple[str, str], list[Cost]] = {}
    for cost in found.costs:
        why = re.sub(r"K=\d+", "K", cost.why_not) if "cannot" in cost.why_not else cost.why_not[:7]
        groups.setdefault((family(cost.learner), why), []).append(cost)
    fine, over = [], []
    for (name, _), costs in groups.items():
        chunks = [cost.learner.partition("K=")[2] for cost in costs]
        name += f" (K = {', '.join(chunks)})" if chunks[0] else ""
        if costs[0].why_not:
            over.append(f"{name}: {costs[0].why_not}")
        else:
            ends = sorted({f"{end(cost.seconds for cost in costs):.2g}" for end in (min, max)}, key=float)
            fine.append(f"{name} {' to '.join(ends)} s")
    return f"3. Within {found.budget:g} s: {', '.join(fine) or 'nothing'}." + (
        f" Not: {'; '.join(over)}." if over else ""
    )


def _beats(game: TournamentResult, winner: str, other: str) -> str:
    i, j = game.names.index(winner), game.names.index(other)
    gain, error = float(game.losses[j, i]), float(game.standard_errors[i, j])
    if gain > error + float(unseen_probability(game.n)):
        return f"on held-out texts it beats {other} by {gain:.2g} +- {error:.1g} of at most 1 a text (rho)"
    return f"{other} does not beat it clearly on held-out texts ({-gain:.1g} +- {error:.1g} of at most 1 a text)"

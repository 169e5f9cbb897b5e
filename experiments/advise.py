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
4. *Which one?* Those that can be afforded meet in a tournament on the second half. Beside it stand their factors, as
   theory and these small fits predict them, and what would change the answer.
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
from agents.rho_game import rho_tau
from agents.selection import TournamentResult, holdout_split
from experiments.aggregate import nats_per_token
from experiments.measure import costed_fit, doublings, passing, powers_of_two, quiet_fit, titled
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
from ntp_envs.distances.curve import additive_distance
from ntp_envs.distances.sampled import bridge_distances
from ntp_envs.distances.two_sample import hellinger2_bound, tv_lower_bound
from ntp_envs.features import ContextFeatureMap, PairwiseProducts
from ntp_envs.intervals import CONFIDENCE, each_of, least_share, normal_interval, unseen_probability

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
class Prediction:
    """How many times as far as need be a learner ends, as theory and a small pilot predict it.

    Attributes:
        learner: its name.
        order: of the approximation factor in a misspecified class, as theory has it: H, H / K or 1, up to a constant;
            ``nan`` where nothing is known.
        theory: the same in words, with its place in docs/theory.md.
        hellinger2: squared Hellinger distance at H of the pilot's fit from the rival, in the expert's place.
        pilot: how many times as far as the nearest candidate, at least 1; infinite where one is the rival itself. On
            the scale on which errors add up, ``-log(1 - D / 2)``, at the longest h where no candidate is saturated.
            The intervals of all learners hold together with 95 %.
    """

    learner: str
    order: float
    theory: str
    hellinger2: Interval
    pilot: Interval


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
        held_out: nats a token that the rival gains on the log-loss fit on held-out texts.
        held_out_rho: the same as the rho tournament counts it, from -1 to 1 a text.
        impossible: share of the held-out texts to which the fit gives probability 0.
        curve: squared Hellinger distance of the fit from the rival, at every length; ``None`` if nothing is known.
        nats_per_token: ``-log(1 - D / 2) / h`` of it, at the longest h where D is not saturated.
        power: p of ``-log(1 - D / 2) ~ h^p`` from a quarter of that h on; 1 is growth like H.
        tokens_until_one: h where D reaches 1.
        amplification: how many times as far as the nearest candidate log-loss is, as `Prediction` has it.
        costs: of every learner of the class.
        networks: costs of a small transformer instead of the class, where one was asked for.
        predictions: of every affordable one.
        losses: worst loss of each affordable learner in the tournament on held-out demonstrations.
        recommended, runner_up: names of learners.
        chance: share of the recommended fit's distance from the rival that is chance of the pilot's sample: half of
            the distance between fits to two samples of its size, which are as far from their limit each.
        would_change: what would change the recommendation, with numbers; empty if nothing that was measured would.
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
    held_out: Interval = UNKNOWN
    held_out_rho: Interval = UNKNOWN
    impossible: float = math.nan
    curve: DistanceCurve | None = None
    nats_per_token: Interval = UNKNOWN
    power: Interval = UNKNOWN
    tokens_until_one: Interval = UNKNOWN
    amplification: Interval = UNKNOWN
    costs: tuple[Cost, ...] = ()
    networks: tuple[Cost, ...] = ()
    predictions: tuple[Prediction, ...] = ()
    losses: Mapping[str, float] = field(default_factory=dict)
    recommended: str = ""
    runner_up: str = ""
    chance: Interval = UNKNOWN
    would_change: tuple[str, ...] = ()
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
        found = {name: value for name, value in vars(self).items() if name != "curve"}
        found |= {"misspecified": self.misspecified, "hellinger2_lower": self.hellinger2_lower}
        found |= {
            name: [dataclasses.asdict(one) for one in found[name]] for name in ("costs", "networks", "predictions")
        }
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
        found["mixture of two members"] = mixture
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
    from agents.neural import NeuralBC

    agent = NeuralBC(steps=400, batch_size=min(64, len(demonstrations.pooled())), learning_rate=5e-3)
    return agent.fit(demonstrations, small_transformers(demonstrations), rng=np.random.default_rng(0)).policy_


def small_transformers(demonstrations: Demonstrations) -> PolicyClass:
    """Those of width 32 that read and write such texts."""
    from agents.neural import NetworkClass

    shape: dict[str, Any] = {name: getattr(demonstrations, name) for name in ("prompt_length", "horizon")}
    network = NetworkClass("transformer", demonstrations.vocab_size, width=32, **shape)
    return ended_class(network, demonstrations.end_token)


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


def held_out_gain(held_out: Demonstrations, fitted: Policy, rival: Policy) -> tuple[Interval, Interval, float]:
    """What a rival gains on a fit on texts that neither was fitted to.

    Returns:
        Nats a token, infinite where the fit gives a text probability 0; the mean of tau = tanh(l / 4) over texts, l
        their log-ratio; and the share of texts to which the fit gives probability 0.
    """
    ours, theirs = (policy.log_probs(held_out.prompts, held_out.tokens).sum(axis=1) for policy in (fitted, rival))

    def interval(values: FloatArray) -> Interval:
        mean = float(values.mean())
        lower, upper = normal_interval(mean, values.std(ddof=1) / math.sqrt(len(values)))
        return mean, float(lower), float(upper)

    impossible = float(np.isneginf(ours).mean())
    nats = UNKNOWN if np.isneginf(theirs).any() else (math.inf, math.inf, math.inf)
    if np.isfinite(ours).all() and np.isfinite(theirs).all():
        nats = interval((theirs - ours) / held_out.horizon)
    return nats, interval(rho_tau(ours, theirs, "psi")), impossible


def smallest_seen(n: int, tests: int, lengths: int) -> float:
    """A total variation that even an event which never happens to the fit would show with probability .8 only."""
    level = 1.0 - each_of(CONFIDENCE, tests * lengths)
    counts = np.arange(n + 1)
    shown = np.flatnonzero(tv_lower_bound(counts, np.zeros_like(counts), n, level=level) > 0)
    # least_share is the share at which so many or more come with this probability
    return float(least_share(shown[0], n, 0.8)) if len(shown) else 1.0


# -- 2. is the horizon long? -------------------------------------------------------------------------------------------


def against(
    rival: Policy, policy: Policy, prompts: IntArray, horizon: int, seed: int, confidence: float = CONFIDENCE
) -> DistanceCurve:
    """Squared Hellinger distance of a policy from a rival in the expert's place, from texts of both."""
    rng = np.random.default_rng(seed)

    def texts(writer: Policy) -> Demonstrations:
        return Demonstrations(prompts, writer.sample(prompts, horizon, rng), vocab_size=writer.vocab_size)

    of = texts(rival), texts(policy)
    found = bridge_distances(*of, p=rival, q=policy, metrics=["hellinger2"], confidence=confidence)
    return found["hellinger2"]


def longest_open(*curves: DistanceCurve) -> int:
    """The longest h at which no interval reaches saturation; 1 if there is none."""
    open_ = np.flatnonzero(np.max([curve.upper for curve in curves], axis=0) < 1.98)
    return int(open_[-1]) + 1 if len(open_) else 1


def nats_a_token(curve: DistanceCurve) -> tuple[Interval, int]:
    """``-log(1 - D / 2) / h`` with its interval at the longest h where the interval is below saturation, and h."""
    h = longest_open(curve)
    return nats_per_token(curve, h), h


def power_of_h(curve: DistanceCurve) -> Interval:
    """p of ``-log(1 - D / 2) ~ h^p`` between a quarter of the longest unsaturated h and that h: 1 is growth like H.

    ``nan`` where that h is below 4 or nothing is seen at its quarter. The ends are those of the two intervals, so that
    they hold at least with the level at which these do together.
    """
    h = longest_open(curve)
    early, late = (h // 4 * np.array(nats_per_token(curve, max(h // 4, 1))), h * np.array(nats_per_token(curve, h)))
    if h < 4 or not early[0] > 0:
        return UNKNOWN
    with np.errstate(divide="ignore"):
        value, lower, upper = np.log(late / early[[0, 2, 1]]) / math.log(h / (h // 4))
    return float(value), float(lower), float(upper)


def over_nearest(distances: Mapping[str, Interval]) -> dict[str, Interval]:
    """Each distance over the least of them, at least 1; these intervals hold if those of all distances do together.

    >>> over_nearest({"a": (4.0, 2.0, 6.0), "b": (1.0, 0.5, 2.0)})
    {'a': (4.0, 1.0, 12.0), 'b': (1.0, 1.0, 4.0)}
    """

    def ratio(distance: float, least: float) -> float:
        return 1.0 if distance <= least else distance / least if least > 0 else math.inf

    value, lower, upper = (min(ends) for ends in zip(*distances.values()))
    return {name: (ratio(d[0], value), ratio(d[1], upper), ratio(d[2], lower)) for name, d in distances.items()}


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

#: the largest power of n that a fit's cost grows with, where that is not 1: pairs of prefixes, and their eigenvectors
STEEPEST = {"ChunkKR": 3.0}
PATIENCE = 4.0  # with the second fit of a learner, over all others


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

    The second takes up to ``PATIENCE`` times as long: the first says nothing of growth, and a search may well take
    longest where there is little to tell the members of a class apart. The cost of ``total`` demonstrations follows as
    a power of their number; the policy is that of the last fit.
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
            patience = PATIENCE if len(sizes) == 1 else 1.0
            if following == n or _extrapolated(sizes, times, following, power) > patience * seconds:
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
                Cost(name, math.nan, math.nan, 0, "not tried: half of the budget was gone"),
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


def network_costs(demonstrations: Demonstrations, agents: Mapping[str, Agent] | None = None) -> tuple[Cost, ...]:
    """What a small transformer takes with its learners as they come, from next tokens and from whole texts.

    A step takes as long as the next, so that a few of each kind say what all of them do; torch's memory is not seen.
    """
    from agents.neural import NeuralBC, NeuralRhoBC

    found, networks = [], small_transformers(demonstrations)
    for name, agent in (agents or {"log-loss": NeuralBC(), "whole texts, rho": NeuralRhoBC(tol=1.0)}).items():
        few = dict.fromkeys((one for one in ("steps", "game_steps") if hasattr(agent, one)), 2)
        first, *more = (
            costed_fit(agent.clone().set_params(**steps), demonstrations, networks, 0, memory=False).seconds
            for steps in (few, *({**few, one: 8} for one in few))
        )
        rest = sum((seconds - first) / 6 * (getattr(agent, one) - 2) for one, seconds in zip(few, more))
        found.append(Cost(f"transformer, {name}", max(first + rest, first), math.nan, len(demonstrations)))
    return tuple(found)


def family(learner: str) -> str:
    """A learner without its chunk length.

    >>> family("chunked rho, K=4")
    'chunked rho'
    """
    return learner.partition(", K=")[0]


# -- 4. which one? -----------------------------------------------------------------------------------------------------


def theory(learner: str, horizon: int) -> tuple[float, str]:
    """The order of the approximation factor in a misspecified class, and in words, with the sections of docs/theory.md.

    >>> theory("chunked rho, K=4", 64)[0], theory("rho", 64)[0], theory("n-gram", 64)[0]
    (16.0, 1.0, nan)
    """
    kind, _, chunk = learner.partition(", K=")
    over_chunk = horizon / int(chunk) if chunk else math.nan
    return {
        "log-loss": (float(horizon), "H and more (4 to 6)"),
        "smoothed 1/H": (float(horizon), "H at most (4)"),
        "chunked rho": (over_chunk, f"H/K = {over_chunk:g} (6, 7)"),
        "rho": (1.0, "a constant (7)"),
        "ChunkKR": (over_chunk, f"H/K = {over_chunk:g} (8)"),
    }.get(kind, (math.nan, "none known"))


def chance(apart: DistanceCurve, away: DistanceCurve) -> Interval:
    """The share of a fit's distance from the rival that is chance of its sample, in [0, 1].

    On the scale on which errors add up, ``-log(1 - D / 2)``, at the longest h where neither is saturated.

    Args:
        apart: distance of fits to two samples of one size: of two errors, so that half of it is one fit's.
        away: that of one of them from the rival.
    """
    h = longest_open(apart, away) - 1
    both, one = (additive_distance([c.values[h], c.lower[h], c.upper[h]]) for c in (apart, away))
    with np.errstate(divide="ignore", invalid="ignore"):
        value, lower, upper = np.minimum(both / 2.0 / one[[0, 2, 1]], 1.0)
    return float(value), float(lower), float(upper)


def demonstrations_to_tell(game: TournamentResult, one: str, other: str, n: int) -> float:
    """How many it takes until a lead like this one is clear, its error falling as one over their root: n if it is."""
    i, j = game.names.index(one), game.names.index(other)
    lead = abs(float(game.losses[i, j]))
    return n * max(_margin(game, i, j) / lead, 1.0) ** 2 if lead > 0 else math.inf


def _margin(game: TournamentResult, i: int, j: int) -> float:
    """A lead beyond this is clear: a standard error, and what an event that no held-out text has shown may weigh."""
    return float(np.nan_to_num(game.standard_errors[i, j]) + unseen_probability(game.n))


def _would_change(found: Advice, game: TournamentResult, seen: int, apart: DistanceCurve) -> Iterator[str]:
    """Only what the numbers speak for; chance is taken to fall as one over the demonstrations."""
    _, least, most = (2.0 * seen / found.n * share for share in found.chance)  # as it is with all of them
    if least > 0.1:
        yield (
            f"more demonstrations ({found.recommended} fitted to two samples of {seen} is D_H^2 = {apart.final:.2g} "
            f"apart, so that {found.chance[0]:.0%} [{found.chance[1]:.0%}, {found.chance[2]:.0%}] of its distance was "
            "chance)"
        )
    if found.runner_up:
        needed = demonstrations_to_tell(game, found.recommended, found.runner_up, found.n)
        if found.n < needed <= 100 * found.n:
            yield f"about {float(f'{needed:.1g}'):,.0f} demonstrations, to tell it from {found.runner_up}"
    if most >= 0.5 or math.isnan(most):
        return
    if found.misspecified:
        yield f"a larger class (of its distance from the {found.rival} at most {most:.0%} is chance)"
    over = [cost for cost in found.costs if cost.why_not and math.isfinite(cost.seconds)]
    if over:
        next_ = min(over, key=lambda cost: (family(cost.learner) != family(found.recommended), cost.seconds))
        yield f"a budget of {next_.seconds:,.0f} s and {next_.megabytes / 1000:.2g} GB, to try {next_.learner}"


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
        network: set a small transformer beside the n-grams against the class too, which sees a whole sequence, and
            say what its learners take; needs the extra ``neural``.
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
    gain, gain_rho, impossible = held_out_gain(second, loss_fit, rivals[rival])
    prompts = second.prompts[rng.integers(len(second), size=2000)]
    joint = each_of(CONFIDENCE, max(len(allowed), 2))  # all curves together
    curves = {
        name: against(rivals[rival], policy, prompts, data.horizon, seed, joint)
        for name, policy in {"log-loss": loss_fit, **{name: fitted[name] for name in allowed}}.items()
    }
    curve = against(rivals[rival], loss_fit, prompts, data.horizon, seed)
    nats, at = nats_a_token(curve)
    finals = {name: (one.final, float(one.lower[-1]), float(one.upper[-1])) for name, one in curves.items()}
    h = longest_open(*curves.values())
    ratios = over_nearest({name: nats_per_token(one, h) for name, one in curves.items()})
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
        held_out=gain,
        held_out_rho=gain_rho,
        impossible=impossible,
        curve=curve,
        nats_per_token=nats,
        power=power_of_h(curves["log-loss"]),
        tokens_until_one=tokens_until_one(curve),
        amplification=ratios["log-loss"],
        costs=costs,
        networks=tuple(_judged(cost, budget, memory) for cost in network_costs(data)) if network else (),
        predictions=tuple(
            Prediction(name, *theory(name, data.horizon), finals[name], ratios[name]) for name in allowed
        ),
        losses={} if game is None else dict(zip(game.names, game.worst.tolist())),
        recommended=ranked[0] if ranked else "",
        runner_up=ranked[1] if len(ranked) > 1 else "",
    )
    if game is not None:
        agent, seen = table[ranked[0]], probes[ranked[0]][0].seen
        other = quiet_fit(agent.clone(), second.subset(np.arange(seen)), policy_class, np.random.default_rng(0))
        apart = against(fitted[ranked[0]], other, prompts, data.horizon, seed, joint)
        found = replace(found, chance=chance(apart, curves[ranked[0]]))
        found = replace(found, would_change=tuple(_would_change(found, game, seen, apart)))
    if run and ranked:
        found = replace(found, reached=_reached(found, table, data, policy_class, rivals[rival], prompts, seed))
    return replace(found, sentences=tuple(_sentences(found, at, game)))


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
        why.append(f"{cost.seconds:,.0f} s are {_short(cost.seconds / budget)} times the budget")
    if cost.megabytes * 1e6 > memory:
        why.append(f"{cost.megabytes / 1000:.2g} GB are {_short(cost.megabytes * 1e6 / memory)} times the memory")
    return replace(cost, why_not=" and ".join(why))


def _ranked(game: TournamentResult) -> list[str]:
    """Learners from the recommended one on: log-loss, the first, unless one beats it clearly; then the winner's order.

    Clearly: by more than a standard error, and than an event which no held-out demonstration has shown may weigh.
    """
    order = [game.index, *(i for i in np.argsort(game.worst, kind="stable").tolist() if i != game.index)]
    if all(game.losses[0, i] <= _margin(game, 0, i) for i in order):
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


def ends(interval: Interval) -> str:
    """``value [lower, upper]``."""
    value, lower, upper = (_short(end) for end in interval)
    return f"{value} [{lower}, {upper}]"


def _short(number: float) -> str:
    """Two digits, or three from 1 to 2, without a power of ten where it is large.

    >>> _short(184.2), _short(1.049), _short(2.14e-5)
    ('180', '1.05', '2.1e-05')
    """
    return f"{float(format(number, '.3g' if 1.0 <= number < 2.0 else '.2g')):,.12g}"


def _sentences(found: Advice, at: int, game: TournamentResult | None) -> Iterator[str]:
    yield f"1. {_verdict(found)}."
    yield (
        f"2. With the best rival ({found.rival}) in the expert's place, log-loss drifts by "
        f"{ends(found.nats_per_token)} nats a token (at h = {at}), which {growth_words(found.power)}; "
        f"{reached_words(found.tokens_until_one, found.horizon)}; {_floor(found)}."
    )
    yield _affordable(found)
    if game is None:
        tried = [cost for cost in found.costs if math.isfinite(cost.seconds)]
        least = min(tried, key=lambda cost: cost.seconds)
        yield (
            f"4. Nothing can be afforded: raise the budget or the memory ({least.learner} takes "
            f"{least.seconds:.2g} s and {least.megabytes:.2g} MB), or take fewer demonstrations."
        )
        return
    others = [name for name in dict.fromkeys(("log-loss", found.runner_up)) if name in game.names]
    leads = [_lead(game, found.recommended, name) for name in others if name != found.recommended]
    told = f"4. Take {found.recommended}"
    if leads:
        told += f": on held-out texts, as rho counts them (at most 1 each), it {' and it '.join(leads)}"
    told += f". {_factors(found)}."
    told += f" What would change this: {'; '.join(found.would_change) or 'nothing that was measured here'}."
    for name, (end, low, high) in found.reached.items():
        told += f" Fitted to all, {name} is at D_H^2 = {end:.3g} [{low:.3g}, {high:.3g}] from the rival."
    yield told


def _verdict(found: Advice) -> str:
    ten = found.log_e_value / math.log(10.0)
    evidence = f"e-value 10^{ten:.1f}, p {'= ' + format(found.p_value, '.2g') if found.p_value >= 1e-12 else '< 1e-12'}"
    evidence += "" if found.certified else ", the maximum likelihood of the class being local only"
    tv, hellinger = float(found.tv_lower[-1]), float(found.hellinger2_lower[-1])
    far = (
        f"by {found.horizon} tokens at least {tv:.2g} of the mass of the fit's own texts is elsewhere "
        f"(squared Hellinger distance D_H^2 at least {hellinger:.2g} of 2; seen by: {found.test})"
    )
    unseen = f"with n = {found.n} a total variation under {found.detectable:.2g} could not have been seen"
    if not found.misspecified and tv > 0:
        return f"No proof of misspecification ({evidence}), yet {far}, as where demonstrations are too few"
    if not found.misspecified:
        return f"No sign of misspecification ({evidence}): {unseen}"
    told = far if tv > 0 else f"no test on texts shows it: {unseen}"
    gain = f"on held-out texts the {found.rival} gains {ends(found.held_out)} nats a token"
    if found.impossible > 0:
        gain = f"{found.impossible:.0%} of the held-out texts have probability 0 under log-loss's fit"
    return f"The class is misspecified ({evidence}; {gain}): {told}"


def growth_words(power: Interval) -> str:
    """An interval of the power of h that the drift of whole texts grows with, in words."""
    _, lower, upper = power
    if math.isnan(lower) or (lower <= 1.0 <= upper and not upper - lower < 1.0):
        return "may be like H or not: too little is seen of it"
    kind = "more slowly than H" if upper < 1.0 else "faster than H" if lower > 1.0 else "like H"
    return f"adds up {kind} (as h^p, p = {power[0]:.2f} [{lower:.2f}, {upper:.2f}])"


def _floor(found: Advice) -> str:
    """Whether log-loss is farther than it need be, by more than the 20 % that the advice is scored with."""
    ratio = found.amplification
    if not found.predictions:
        return "no candidate could be afforded"
    if ratio[2] <= 1.2:
        most = max(math.ceil(100.0 * (ratio[2] - 1.0)), 1)
        return f"no candidate is nearer by more than {most} %: the floor that these learners reach"
    near = min(found.predictions, key=lambda one: one.pilot[0]).learner  # as the ratio is: at 2 all distances are alike
    if ratio[1] > 1.2:
        return f"that is {ends(ratio)} times the distance of the nearest candidate, {near}: amplified"
    return f"no candidate is clearly nearer (the nearest: {near})"


def _factors(found: Advice) -> str:
    """Pilot's and theory's factors of the recommended learner, of log-loss and of the runner-up."""
    shown = {one.learner: one for one in found.predictions}
    names = [name for name in dict.fromkeys((found.recommended, "log-loss", found.runner_up)) if name in shown]
    told = ", ".join(f"{ends(shown[name].pilot)} of {name}" for name in names)
    orders = [f"{shown[name].order:g} of {name}" for name in names if not math.isnan(shown[name].order)]
    told = f"Distance from the rival over the nearest candidate's in the pilot: {told}"
    return told + (f"; order of the factor in theory: {', '.join(orders)}" if found.misspecified and orders else "")


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
    told = f"3. Within {found.budget:g} s: {', '.join(fine) or 'nothing'}." + (
        f" Not: {'; '.join(over)}." if over else ""
    )
    networks = [f"{one.learner} {one.seconds:.2g} s" + " (over)" * bool(one.why_not) for one in found.networks]
    return told + (f" Instead of the class: {', '.join(networks)}." if networks else "")


def _lead(game: TournamentResult, winner: str, other: str) -> str:
    i, j = game.names.index(winner), game.names.index(other)
    gain, error = float(game.losses[j, i]), float(game.standard_errors[i, j])
    if gain == error == 0.0:
        return f"is no different from {other}"
    by = f"{gain:.2g} +- {error:.1g}"
    return f"beats {other} by {by}" if gain > _margin(game, i, j) else f"has no clear lead over {other} ({by})"

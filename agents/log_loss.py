"""Next-token log-loss: maximum likelihood, one function for each kind of policy class."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from functools import singledispatch
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.special import xlogy

from agents.base import Agent, FitReport
from ntp_envs import (
    ARLinearClass,
    BernoulliClass,
    Demonstrations,
    FiniteClass,
    MarkovClass,
    Policy,
    PolicyClass,
    ProductClass,
)
from ntp_envs.arrays import ROUNDING, FloatArray, IntArray
from ntp_envs.checks import check_in, check_int, check_real
from ntp_envs.ngram import NGramLevel, NGramPolicy
from ntp_envs.policy_classes import NGramClass


@singledispatch
def maximise_likelihood(
    policy_class: PolicyClass, demonstrations: Demonstrations, *, smoothing: float = 0.0, tol: float = 1e-8
) -> tuple[Policy, FitReport]:
    """The member of a class with the largest weighted log-likelihood of the demonstrations, token by token.

    A generic function (`functools.singledispatch`): ``maximise_likelihood.register(YourClass)`` teaches it, and with
    it `LogLossBC` and `SmoothedLogLossBC`, another class.

    Args:
        policy_class: what to choose from; the function dispatches on its type.
        demonstrations: their weights multiply the log-likelihoods.
        smoothing: lambda in [0, 1). The likelihood is that of ``(1 - lambda) pi(. | prefix) + lambda / A`` at every
            token; the policy returned is pi itself.
        tol: for classes where the maximum is found by iteration; ignored where it is exact.

    Returns:
        The policy and a report whose ``objective`` is the mean log-loss of a sequence, in nats: ``inf`` if every member
        gives some demonstration probability zero, and ``details`` then has the two parts that are compared,
        ``"zero_density_tokens"`` and ``"log_loss_elsewhere"``.

    >>> import numpy as np
    >>> demos = Demonstrations(np.zeros((1, 0), int), np.array([[0, 0, 0, 1]]), vocab_size=2)
    >>> policy, report = maximise_likelihood(BernoulliClass(), demos)
    >>> policy.theta, round(report.objective, 3)
    (0.25, 2.249)
    """
    raise TypeError(
        f"maximum likelihood does not know {type(policy_class).__name__}; write a function for it and register it "
        "with agents.log_loss.maximise_likelihood.register."
    )


class RegisteredClasses:
    """The value of `Agent.supports` for learners that dispatch: the classes registered with a generic function."""

    def __init__(self, function: Any) -> None:
        self.function = function

    def __get__(self, instance: Any, owner: Any = None) -> tuple[type[PolicyClass], ...]:
        return tuple(kind for kind in self.function.registry if kind is not object)


class LogLossBC(Agent):
    """Behaviour cloning with next-token log-loss: ``argmax_pi sum_i sum_h log pi(a_h^i | x^i, a_<h^i)``.

    Exact for finite, product, Bernoulli, Markov and n-gram classes; to ``tol`` for autoregressive linear ones.

    * Infinite losses. A member that gives a demonstrated token probability zero is preferred to another by the mass of
      such tokens first, then by the log-likelihood of the rest: the limit of smoothing with lambda -> 0
      (`SmoothedLogLossBC`). So a choice is made even when every member has infinite loss.
    * Ties, up to a relative rounding of 1e-12, go to the smallest index, in each layer of a product class.
    * Markov contexts that do not occur in the data get the uniform distribution.

    Args:
        tol: how far from optimal a fit may end in classes where it is iterative, in nats a sequence.

    >>> from ntp_envs import make_task
    >>> task = make_task("Contamination", horizon=64)
    >>> round(LogLossBC().fit(task.population(), task.policy_class).policy_.theta, 12)  # (1 - eps) p + eps q
    0.00100998
    """

    supports = RegisteredClasses(maximise_likelihood)  # type: ignore[assignment]

    def __init__(self, *, tol: float = 1e-8) -> None:
        self.tol = tol

    def _fit(
        self, demonstrations: Demonstrations, policy_class: PolicyClass, rng: np.random.Generator
    ) -> tuple[Policy, FitReport]:
        tol = check_real("tol", self.tol, minimum=0.0)
        return maximise_likelihood(policy_class, demonstrations, tol=tol)


# -- classes of candidates ---------------------------------------------------------------------------------------------


def _evidence(log_probs: FloatArray, weights: FloatArray, smoothing: float, vocab_size: int) -> FloatArray:
    """``(2, C)`` for ``(B, C)`` token log-probabilities: weight of zeros, log-likelihood of the rest."""
    if smoothing > 0.0:
        log_probs = np.logaddexp(np.log1p(-smoothing) + log_probs, np.log(smoothing / vocab_size))
    zero = np.isneginf(log_probs)
    return np.stack([weights @ zero, weights @ np.where(zero, 0.0, log_probs)])


def _best(evidence: FloatArray) -> IntArray:
    """The columns of ``(2, M)`` evidence that nothing beats: least weight of zeros, then largest log-likelihood."""
    zeros, rest = evidence
    alive = zeros <= zeros.min() * (1 + ROUNDING)
    top = rest[alive].max()
    return np.flatnonzero(alive & (rest >= top - ROUNDING * abs(top)))


def _report(evidence: FloatArray, ties: int) -> FitReport:
    """The report for the ``(2,)`` evidence of what was chosen."""
    zeros, rest = (float(part) for part in evidence)
    details = {"zero_density_tokens": zeros, "log_loss_elsewhere": -rest, "ties": ties}
    return FitReport(objective=np.inf if zeros > 0 else -rest, gap=0.0, details=details)


@maximise_likelihood.register
def _finite(
    policy_class: FiniteClass, demonstrations: Demonstrations, *, smoothing: float = 0.0, tol: float = 0.0
) -> tuple[Policy, FitReport]:
    data = demonstrations.pooled()
    weights = data.normalised_weights()
    evidence = np.stack(
        [
            _evidence(policy.log_probs(data.prompts, data.tokens), weights, smoothing, data.vocab_size).sum(axis=1)
            for policy in policy_class.readers()
        ],
        axis=1,
    )  # (2, M)
    best = _best(evidence)
    return policy_class.policy(int(best[0])), _report(evidence[:, best[0]], len(best) - 1)


def choose_layers(
    policy_class: ProductClass,
    demonstrations: Demonstrations,
    *,
    smoothing: float = 0.0,
    pick: Callable[[IntArray], int] = lambda best: best[0],
) -> tuple[Policy, FitReport]:
    """The best option at each layer, from that layer's tokens and what precedes them; ``pick`` settles ties."""
    data = demonstrations.pooled()
    weights = data.normalised_weights()
    total, chosen, ties = np.zeros(2), np.zeros(len(policy_class.n_options), dtype=np.int64), 0
    for layer in range(data.horizon):
        log_probs = policy_class.option_log_probs(layer, data.prompts, data.tokens)
        evidence = _evidence(log_probs, weights, smoothing, data.vocab_size)
        best = _best(evidence)
        chosen[layer] = pick(best)
        total += evidence[:, chosen[layer]]
        ties += len(best) > 1
    return policy_class.policy(chosen), _report(total, ties)


@maximise_likelihood.register
def _product(
    policy_class: ProductClass, demonstrations: Demonstrations, *, smoothing: float = 0.0, tol: float = 0.0
) -> tuple[Policy, FitReport]:
    return choose_layers(policy_class, demonstrations, smoothing=smoothing)


# -- classes with a closed form ----------------------------------------------------------------------------------------


def _counted(counts: FloatArray, probs: FloatArray, smoothing: float) -> FitReport:
    """The report from ``(C, A)`` expected counts a sequence and the next-token probabilities chosen for them."""
    smoothed = (1 - smoothing) * probs + smoothing / probs.shape[1]
    impossible = smoothed == 0.0
    zeros = float(counts[impossible].sum())
    rest = -float(xlogy(counts, np.where(impossible, 1.0, smoothed)).sum())
    details = {"zero_density_tokens": zeros, "log_loss_elsewhere": rest}
    return FitReport(objective=np.inf if zeros > 0 else rest, gap=0.0, details=details)


@maximise_likelihood.register
def _bernoulli(
    policy_class: BernoulliClass, demonstrations: Demonstrations, *, smoothing: float = 0.0, tol: float = 0.0
) -> tuple[Policy, FitReport]:
    """The frequency m of events; smoothed, ``(m - lambda/2) / (1 - lambda)``. Both clipped to the class.

    The loss is ``-m log q - (1 - m) log(1 - q)`` in q = (1 - lambda) theta + lambda/2, convex in q and so in theta
    (an affine function of q), with its minimum at q = m: over an interval the minimum is at the nearest point.
    """
    events = policy_class.events(demonstrations.prompts, demonstrations.tokens)
    mean = float(demonstrations.normalised_weights() @ events.sum(axis=1)) / demonstrations.horizon
    theta = policy_class.clip((mean - smoothing / 2) / (1 - smoothing))
    counts = demonstrations.horizon * np.array([[1 - mean, mean]])
    return policy_class.policy(theta), _counted(counts, np.array([[1 - theta, theta]]), smoothing)


@maximise_likelihood.register
def _markov(
    policy_class: MarkovClass, demonstrations: Demonstrations, *, smoothing: float = 0.0, tol: float = 0.0
) -> tuple[Policy, FitReport]:
    """Normalised counts; smoothed, the best vector whose entries are at least lambda/A, then the floor taken off."""
    weights = demonstrations.normalised_weights()
    counts = policy_class.counts(demonstrations.prompts, demonstrations.tokens, weights)
    floor = smoothing / policy_class.vocab_size
    probs = (_likeliest_above(counts, floor) - floor) / (1 - smoothing)
    probs = np.maximum(probs, 0.0)
    probs /= probs.sum(axis=1, keepdims=True)
    return policy_class.policy(probs), _counted(counts, probs, smoothing)


def _likeliest_above(counts: FloatArray, floor: float) -> FloatArray:
    """Rows q of the simplex with entries >= ``floor`` that maximise ``sum_a counts[a] log q[a]``; ``(C, A)``.

    The optimality conditions are q_a = max(floor, s counts_a) for one s a row ("water filling"). If the k largest
    counts are above the floor, s = (1 - (A - k) floor) / (their sum); k is the largest that is consistent. A row of
    zeros is uniform.
    """
    size = counts.shape[1]
    falling = -np.sort(-counts, axis=1)  # (C, A)
    with np.errstate(divide="ignore", invalid="ignore"):
        scales = (1 - floor * np.arange(size - 1, -1, -1)) / np.cumsum(falling, axis=1)  # column k - 1 is for k
        consistent = falling * scales >= floor
    largest = size - 1 - np.argmax(consistent[:, ::-1], axis=1)
    scale = scales[np.arange(len(counts)), largest]
    seen = falling[:, :1] > 0
    return np.where(seen, np.maximum(floor, counts * np.where(seen, scale[:, None], 0.0)), 1.0 / size)


# -- by iteration ------------------------------------------------------------------------------------------------------


@maximise_likelihood.register
def _ar_linear(
    policy_class: ARLinearClass, demonstrations: Demonstrations, *, smoothing: float = 0.0, tol: float = 1e-8
) -> tuple[Policy, FitReport]:
    """Certified to ``tol``; smoothed, a stationary point that is reached from there."""
    from agents.linear_likelihood import maximum_likelihood, minimise_smoothed

    theta, report = maximum_likelihood(policy_class.features, policy_class.radius, demonstrations, tol=tol)
    if smoothing > 0.0:
        theta, report = minimise_smoothed(policy_class, demonstrations, smoothing, start=theta, tol=tol)
    return policy_class.policy(theta), report


# -- Learning n-gram models: the maximum likelihood, and the smoothed estimate of Witten and Bell ---------------------


#: (context, token) cells that are made dense together
BLOCK_CELLS = 1 << 20


class NGramBC(Agent):
    """The interpolated Witten-Bell n-gram model of the demonstrations: `ntp_envs.ngram.NGramPolicy`.

    The standard smoothed estimate. It is not the maximum likelihood (that is ``LogLossBC``, which gives tokens not seen
    after a context probability zero), but a consistent estimate of it: the share of shorter contexts vanishes as counts
    grow. Every token keeps positive probability (but for an exact population, see below). Prompts are context; their
    tokens are not counted. A demonstration of weight w counts as w copies, so the total weight matters; of an exact
    population, which stands for infinitely many samples, nothing is smoothed. Source: our reading of Witten and Bell
    (1991), method C.

    Args:
        order: n, at most that of the class; ``None`` is the class's own.

    Attributes:
        fit_report_: ``objective`` is the mean log-loss of a demonstration in nats, which this estimate does not
            minimise: ``gap`` is ``nan``.

    >>> import numpy as np
    >>> demos = Demonstrations(np.zeros((1, 0), int), np.array([[0, 0, 0, 1]]), vocab_size=2)
    >>> policy = NGramBC().fit(demos, NGramClass(2, order=1)).policy_
    >>> np.exp(policy.next_log_probs(np.zeros((1, 0), int), np.zeros((1, 0), int))).round(4).tolist()  # (3 + 1)/6
    [[0.6667, 0.3333]]
    """

    supports = (NGramClass,)

    def __init__(self, *, order: int | None = None) -> None:
        self.order = order

    def _fit(
        self, demonstrations: Demonstrations, policy_class: PolicyClass, rng: np.random.Generator
    ) -> tuple[Policy, FitReport]:
        largest = policy_class.order  # type: ignore[attr-defined]
        order = largest if self.order is None else check_int("order", self.order, minimum=1, maximum=largest)
        policy = _fitted(demonstrations, order, escape=1.0 if demonstrations.exactness is None else 0.0)
        details = {"objective": "Witten-Bell estimate; its mean log-loss is reported, not minimised", "order": order}
        return policy, FitReport(_log_loss(policy, demonstrations), gap=np.nan, details=details)


@maximise_likelihood.register
def _ngram(
    policy_class: NGramClass, demonstrations: Demonstrations, *, smoothing: float = 0.0, tol: float = 0.0
) -> tuple[Policy, FitReport]:
    """Relative frequencies; smoothed, the best vector with entries >= lambda/A, then the floor taken off.

    Contexts that do not occur in the data, which the likelihood says nothing about, get the law of the longest part
    that does.
    """
    policy = _fitted(demonstrations, policy_class.order, escape=0.0)
    if smoothing > 0.0:
        levels = [_floored(level, policy.vocab_size, smoothing) for level in policy.levels]
        policy = NGramPolicy(levels, policy.vocab_size)
    return policy, FitReport(_log_loss(policy, demonstrations, smoothing), gap=0.0)


def _fitted(demonstrations: Demonstrations, order: int, *, escape: float) -> NGramPolicy:
    return NGramPolicy.fit(
        demonstrations.prompts,
        demonstrations.tokens,
        demonstrations.vocab_size,
        order,
        weights=demonstrations.weights,
        escape=escape,
    )


def _log_loss(policy: NGramPolicy, demonstrations: Demonstrations, smoothing: float = 0.0) -> float:
    """Mean log-loss of a demonstration in nats, under ``(1 - smoothing) policy + smoothing / A``."""
    log_probs = policy.log_probs(demonstrations.prompts, demonstrations.tokens)
    if smoothing > 0.0:
        log_probs = np.logaddexp(np.log1p(-smoothing) + log_probs, np.log(smoothing / policy.vocab_size))
    weights = demonstrations.normalised_weights()
    return -float(weights[weights > 0] @ log_probs[weights > 0].sum(axis=1))


def _floored(level: NGramLevel, vocab_size: int, smoothing: float) -> NGramLevel:
    """The frequencies of one level, changed as the smoothed likelihood wants; tokens never seen stay at zero."""
    floor = smoothing / vocab_size
    owner, token = level.keys // vocab_size, level.keys % vocab_size
    own: NDArray[Any] = np.zeros(len(level.keys))
    contexts = np.flatnonzero(np.bincount(owner, weights=level.own, minlength=len(level.keep)))
    rows = max(1, BLOCK_CELLS // vocab_size)
    for block in np.split(contexts, range(rows, len(contexts), rows)):
        here = np.flatnonzero((owner >= block[0]) & (owner <= block[-1]) & (level.own > 0))
        place = np.searchsorted(block, owner[here])
        dense = np.zeros((len(block), vocab_size))
        dense[place, token[here]] = level.own[here]
        probs = np.maximum(_likeliest_above(dense, floor) - floor, 0.0)
        own[here] = (probs / probs.sum(axis=1, keepdims=True))[place, token[here]]
    return replace(level, own=own)


# -- Robustified next-token prediction: log-loss after mixing every candidate with the uniform distribution -----------


RULES = ("1/H", "1/(nH)")


class SmoothedLogLossBC(Agent):
    """Fit ``(1 - lam) pi + lam / A`` at every token by log-loss, and return pi itself, unsmoothed.

    Our reading of the robustified next-token prediction of Rohatgi et al. (arXiv 2502.12465), whose full text we do
    not follow. A token that a candidate calls impossible costs it at most ``log(A / lam)`` instead of infinity.
    Returning the smoothed policy instead would cost up to about ``H lam (1 - 1/A)`` in squared Hellinger distance,
    which deterministic policies reach; next to nothing where pi is nearly uniform.

    Exact for finite, product, Bernoulli and Markov classes. For autoregressive linear classes the objective is not
    concave: see `agents.linear_likelihood` for what is certified there.

    Args:
        lam: ``"1/H"``; ``"1/(nH)"``, n being the number of demonstrations (the sum of their weights, which count as
            repetitions; in a population n is infinite, so that lam is 0 and the learner is `LogLossBC`); or a number
            in [0, 1).
        tol: as in `LogLossBC`.

    Raises:
        ValueError: on `fit`, an unknown rule, or a lam outside [0, 1). At H = 1 the rule ``"1/H"`` gives 1, which
            would leave nothing to learn from.

    >>> from ntp_envs import make_task
    >>> task = make_task("Contamination", horizon=64)
    >>> SmoothedLogLossBC().fit(task.population(), task.policy_class).policy_.theta
    1e-05
    """

    supports = RegisteredClasses(maximise_likelihood)  # type: ignore[assignment]

    def __init__(self, lam: float | str = "1/H", *, tol: float = 1e-8) -> None:
        self.lam = lam
        self.tol = tol

    def smoothing(self, demonstrations: Demonstrations) -> float:
        """The number that ``lam`` stands for with these demonstrations."""
        if isinstance(self.lam, str):
            rule = check_in("lam", self.lam, RULES)
            n = 1.0
            if rule == "1/(nH)" and demonstrations.exactness is not None:
                n = math.inf
            elif rule == "1/(nH)":
                n = float(len(demonstrations) if demonstrations.weights is None else demonstrations.weights.sum())
            lam = 1.0 / (n * demonstrations.horizon)
        else:
            lam = check_real("lam", self.lam, minimum=0.0)
        if not lam < 1.0:
            raise ValueError(
                f"lam={self.lam!r} is {lam:g} for these demonstrations (H={demonstrations.horizon}); it must be in "
                "[0, 1): at 1 all policies look alike. Give a number."
            )
        return lam

    def _fit(
        self, demonstrations: Demonstrations, policy_class: PolicyClass, rng: np.random.Generator
    ) -> tuple[Policy, FitReport]:
        lam = self.smoothing(demonstrations)
        tol = check_real("tol", self.tol, minimum=0.0)
        policy, report = maximise_likelihood(policy_class, demonstrations, smoothing=lam, tol=tol)
        report.details.update(objective="log-loss of the smoothed policy", lam=lam)
        return policy, report


# -- Learning each layer of a product class by itself -----------------------------------------------------------------


class LayerwiseBC(Agent):
    """Behaviour cloning layer by layer: option h of a product class is chosen from layer-h data only.

    It sees, for layer h, the law of (prompt, a_1:h) and the options of that layer, and takes the one with the least
    log-loss; infinite losses are compared as in `LogLossBC`. In a product class no parameters are shared, so with
    ``tie_break="first"`` it *is* `LogLossBC`. It stands for every next-token learner in the halving game, where ties
    are all it can go by: there "first" keeps a set for as long as it is offered, which no learner of this kind beats.

    Args:
        tie_break: ``"first"`` takes the smallest index among equals, ``"random"`` draws one uniformly.

    >>> import numpy as np
    >>> from ntp_envs import BernoulliPolicy
    >>> demos = Demonstrations(np.zeros((1, 0), int), np.array([[0, 1]]), vocab_size=2)
    >>> options = [BernoulliPolicy(0.1), BernoulliPolicy(0.9)]
    >>> agent = LayerwiseBC().fit(demos, ProductClass([options, options]))
    >>> agent.policy_.log_probs(demos.prompts, demos.tokens).round(3).tolist()
    [[-0.105, -0.105]]
    """

    supports = (ProductClass,)

    def __init__(self, *, tie_break: str = "first") -> None:
        self.tie_break = tie_break

    def unit(self, demonstrations: Demonstrations) -> int | None:
        return None

    def _fit(
        self, demonstrations: Demonstrations, policy_class: PolicyClass, rng: np.random.Generator
    ) -> tuple[Policy, FitReport]:
        assert isinstance(policy_class, ProductClass)  # `supports` says so
        if check_in("tie_break", self.tie_break, ("first", "random")) == "first":
            return choose_layers(policy_class, demonstrations)

        def draw(best: NDArray[np.int64]) -> int:
            return int(rng.choice(best))

        return choose_layers(policy_class, demonstrations, pick=draw)

"""The member of a policy class nearest to targets: the step that all learners from single tokens share.

`fit_class` takes hard targets (demonstrated tokens) and soft ones (laws), in either divergence, summed over prefixes:

* forward, ``KL(target || pi)``. Of hard targets it is log-loss, so that maximum likelihood is the projection of one-hot
  laws; of soft ones it needs the same counts, which need not be whole then. Smoothed, pi is mixed with the uniform law
  before it is compared.
* reverse, ``KL(pi || target)``: over a context with total weight W and mean log-law l it is ``W KL(pi || exp l)`` and a
  constant, so that the best pi is the geometric mean of the laws, normalised. A token that some laws exclude is left
  out; where they exclude every token, those excluded by the least weight stay, and the mean is over the laws that
  allow each.

One function a kind of class, `best_member`, registered below: lists of candidates, closed forms, linear classes in a
ball, and any `ntp_envs.ParametricClass`, which is how a class from elsewhere joins.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import singledispatch
from typing import Any

import numpy as np

from agents.ball import descend, minimise_in_ball, newton_in_ball
from agents.base import ConvergenceWarning, FitReport
from agents.linear_likelihood import maximum_likelihood, minimise_smoothed
from agents.linear_rows import SoftmaxRows, check_dimension
from agents.targets import Contexts, Targets, pooled_sums
from ntp_envs import (
    ARLinearClass,
    BernoulliClass,
    Demonstrations,
    EndedClass,
    EndedPolicy,
    FiniteClass,
    MarkovClass,
    NGramClass,
    ParametricClass,
    Policy,
    PolicyClass,
    ProductClass,
)
from ntp_envs.arrays import ROUNDING, BoolArray, FloatArray, IntArray, written
from ntp_envs.automata import markov_contexts
from ntp_envs.checks import check_in
from ntp_envs.demonstrations import kept
from ntp_envs.ngram import NGramLevel, NGramPolicy

DIVERGENCES = ("forward", "reverse")
#: (context, token) cells of an n-gram model, or laws of a parametric class, that are made dense together
BLOCK_CELLS = 1 << 20


def fit_class(
    policy_class: PolicyClass,
    targets: Targets | Demonstrations,
    *,
    divergence: str = "forward",
    smoothing: float = 0.0,
    tol: float = 1e-8,
) -> tuple[Policy, FitReport]:
    """The member of a class nearest to the targets, prefix by prefix: ``argmin_pi sum_ih w_ih KL`` at their prefixes.

    Exact for finite, product, Bernoulli, Markov and n-gram classes. For autoregressive linear classes the forward
    divergence is convex and certified to ``tol``; smoothed or reverse it is not convex, and a stationary point is
    returned (``gap`` is ``nan``), reached from the forward solution or, reverse, the better of that from there and that
    from the uniform policy. So it is for parametric classes, from their ``starts``, in either divergence.

    A member with an infinite divergence is preferred to another by the mass that makes it infinite first, then by the
    rest: the limit of smoothing that vanishes. Ties, up to a relative rounding of 1e-12, go to the smallest index.
    Contexts without targets get the uniform law; in n-gram classes, that of their longest part with targets.

    Args:
        policy_class: what to choose from.
        targets: demonstrations, or any targets; only ratios of weights matter.
        divergence: ``"forward"``, ``KL(target || pi)``, or ``"reverse"``, ``KL(pi || target)``.
        smoothing: lambda in [0, 1), forward only: ``(1 - lambda) pi + lambda / A`` is compared, and pi returned.
        tol: where the minimum is found by iteration, in nats a sequence; ignored where it is exact.

    Returns:
        The policy and a report. Its ``objective`` is the divergence summed over the layers with targets, in nats a
        sequence: of demonstrations the mean log-loss. It is ``inf`` if a mass is infinitely far, and ``details`` has
        both parts: ``"zero_density_tokens"`` and ``"log_loss_elsewhere"`` of hard targets, ``"excluded_mass"`` and
        ``"divergence_elsewhere"`` of soft ones or in reverse.

    Raises:
        TypeError: a class that no function is registered for.
        NotTractableError: autoregressive linear classes of more than 8192 weights, but for forward KL with indicator
            features (`ntp_envs.features.WindowOneHot`) of more than two tokens.
        ValueError: an unknown divergence, one that cannot be smoothed; reverse KL in a linear or parametric class to
            targets that exclude a token which its members do not.

    >>> demos = Demonstrations(np.zeros((1, 0), int), np.array([[0, 0, 0, 1]]), vocab_size=2)
    >>> policy, report = fit_class(BernoulliClass(), demos)
    >>> policy.theta, round(report.objective, 3)
    (0.25, 2.249)
    >>> laws = np.log([[[0.9, 0.1]], [[0.5, 0.5]]])  # two sequences of one token
    >>> targets = Targets(np.zeros((2, 0), int), np.zeros((2, 1), int), laws, np.ones((2, 1)))
    >>> [round(fit_class(BernoulliClass(), targets, divergence=kind)[0].theta, 2) for kind in DIVERGENCES]
    [0.3, 0.25]
    """
    check_in("divergence", divergence, DIVERGENCES)
    if smoothing > 0.0 and divergence == "reverse":
        raise ValueError("smoothing is for the forward divergence; reverse KL compares the policy itself.")
    given = Targets.of(targets).normalised()
    return best_member(policy_class, given, divergence=divergence, smoothing=smoothing, tol=tol)


@singledispatch
def best_member(
    policy_class: PolicyClass, targets: Targets, *, divergence: str, smoothing: float, tol: float
) -> tuple[Policy, FitReport]:
    """`fit_class` after its arguments are checked and the weights normalised: a function a kind of class.

    ``best_member.register(YourClass)`` teaches `fit_class`, and with it every learner that uses it, another class that
    is better fitted by a method of its own than as a `ParametricClass`.
    """
    raise TypeError(
        f"nothing is known of {type(policy_class).__name__}; derive it from ntp_envs.ParametricClass or "
        "FiniteClass, or write a function for it and register it with agents.fit_class.best_member.register."
    )


class RegisteredClasses:
    """The value of `Agent.supports` for learners that dispatch: the classes registered with a generic function."""

    def __init__(self, function: Any) -> None:
        self.function = function

    def __get__(self, instance: Any, owner: Any = None) -> tuple[type[PolicyClass], ...]:
        return tuple(kind for kind in self.function.registry if kind is not object)


# -- losses in two parts -----------------------------------------------------------------------------------------------


def smoothed(log_probs: FloatArray, smoothing: float, vocab_size: int) -> FloatArray:
    """Log-probabilities after mixing with the uniform law."""
    if smoothing == 0.0:
        return log_probs
    return np.logaddexp(np.log1p(-smoothing) + log_probs, np.log(smoothing / vocab_size))


def token_parts(
    log_probs: FloatArray, *, divergence: str = "forward", smoothing: float = 0.0, vocab_size: int = 0
) -> FloatArray:
    """``(2, ...)``: the mass where the divergence from a hard target is infinite, and the divergence elsewhere.

    Args:
        log_probs: ``(...)`` of the tokens that are the targets.
        divergence, smoothing: as for `fit_class`.
        vocab_size: A; needed with ``smoothing``.
    """
    log_probs = smoothed(log_probs, smoothing, vocab_size)
    zero = np.isneginf(log_probs)
    finite = np.where(zero, 0.0, log_probs)
    if divergence == "forward":
        return np.stack([zero.astype(np.float64), -finite])
    return np.stack([-np.expm1(log_probs), np.exp(log_probs) * finite])


def law_parts(
    log_laws: FloatArray, log_probs: FloatArray, weights: FloatArray, divergence: str, axis: int | tuple[int, ...]
) -> FloatArray:
    """``(2, ...)``: the mass where the divergence is infinite, and the divergence elsewhere, summed over ``axis``.

    Args:
        log_laws, log_probs: ``(..., A)`` log-probabilities of the targets and of the policy, which broadcast.
        weights: ``(...)`` of the prefixes.
        divergence: which of the two comes first.
        axis: to sum over.
    """
    first, second = (log_laws, log_probs) if divergence == "forward" else (log_probs, log_laws)
    mass = np.exp(first) * weights[..., None]
    excluded = (mass > 0) & np.isneginf(second)
    with np.errstate(invalid="ignore"):
        terms = np.where((mass > 0) & ~excluded, mass * (first - second), 0.0)
    return np.stack([np.where(excluded, mass, 0.0).sum(axis=axis), terms.sum(axis=axis)])


def policy_parts(policy: Policy, targets: Targets, divergence: str = "forward", smoothing: float = 0.0) -> FloatArray:
    """``(2,)`` the two parts of a policy's divergence from normalised targets; soft ones are read left to right."""
    size = targets.vocab_size
    if targets.log_laws is None:
        log_probs = targets.answer_log_probs(policy)
        return targets.total(token_parts(log_probs, divergence=divergence, smoothing=smoothing, vocab_size=size))
    total, reader, layers = np.zeros(2), policy.cursor(targets.prompts), set(targets.layers.tolist())
    for h in range(max(layers) + 1):
        if h in layers:
            log_probs = smoothed(reader.log_probs(), smoothing, size)
            total += law_parts(targets.soft[:, h], log_probs, targets.per_token[:, h], divergence, (0, 1))
        if h < max(layers):
            reader = reader.advance(targets.tokens[:, h])
    return total


def least(parts: FloatArray) -> IntArray:
    """The columns of ``(2, M)`` parts that nothing beats: least infinite mass first, then the least of the rest."""
    infinite, rest = parts
    alive = infinite <= infinite.min() * (1 + ROUNDING)
    bottom = rest[alive].min()
    return np.flatnonzero(alive & (rest <= bottom + ROUNDING * abs(bottom)))


def report_of(
    parts: FloatArray, targets: Targets, divergence: str = "forward", *, gap: float = 0.0, **details: Any
) -> FitReport:
    """The report for the ``(2,)`` parts of what was chosen."""
    infinite, rest = (float(part) for part in parts)
    as_log_loss = targets.log_laws is None and divergence == "forward"
    names = ("zero_density_tokens", "log_loss_elsewhere") if as_log_loss else ("excluded_mass", "divergence_elsewhere")
    return FitReport(
        np.inf if infinite > 0 else rest, gap=gap, details={**dict(zip(names, (infinite, rest))), **details}
    )


def parts_of(report: FitReport) -> FloatArray:
    """``(2,)`` the parts of a report of `fit_class`, whatever they are called; those that are not told are finite."""
    told = report.details
    infinite = told.get("excluded_mass", told.get("zero_density_tokens", 0.0))
    return np.array([infinite, told.get("divergence_elsewhere", told.get("log_loss_elsewhere", report.objective))])


# -- classes of candidates ---------------------------------------------------------------------------------------------


@best_member.register
def _finite(
    policy_class: FiniteClass, targets: Targets, *, divergence: str, smoothing: float, tol: float
) -> tuple[Policy, FitReport]:
    return nearest(policy_class, member_parts(policy_class, targets, divergence, smoothing), targets, divergence)


def member_parts(
    policy_class: FiniteClass, targets: Targets, divergence: str = "forward", smoothing: float = 0.0
) -> FloatArray:
    """``(2, M)`` the parts of every member; those of several sets of targets add up."""
    data = targets.pooled()
    return np.stack([policy_parts(each, data, divergence, smoothing) for each in policy_class.readers()], axis=1)


def nearest(
    policy_class: FiniteClass, parts: FloatArray, targets: Targets, divergence: str = "forward"
) -> tuple[Policy, FitReport]:
    """The member of the least ``(2, M)`` parts, which targets of this kind have."""
    best = least(parts)
    return policy_class.policy(int(best[0])), report_of(parts[:, best[0]], targets, divergence, ties=len(best) - 1)


@best_member.register
def _product(
    policy_class: ProductClass, targets: Targets, *, divergence: str, smoothing: float, tol: float
) -> tuple[Policy, FitReport]:
    return choose_layers(policy_class, targets, divergence=divergence, smoothing=smoothing)


def choose_layers(
    policy_class: ProductClass,
    targets: Targets,
    *,
    divergence: str = "forward",
    smoothing: float = 0.0,
    pick: Callable[[IntArray], int] = lambda best: best[0],
) -> tuple[Policy, FitReport]:
    """The best option at each layer with targets, from those and what precedes them; ``pick`` settles ties."""
    data = targets.pooled()
    total, options, ties = np.zeros(2), np.zeros(len(policy_class.n_options), dtype=np.int64), 0
    for layer in data.layers.tolist():
        parts = _option_parts(policy_class, layer, data, divergence, smoothing)
        best = least(parts)
        options[layer] = pick(best)
        total += parts[:, options[layer]]
        ties += len(best) > 1
    return policy_class.policy(options), report_of(total, data, divergence, ties=ties)


def best_option(policy_class: ProductClass, layer: int, targets: Targets) -> tuple[int, FloatArray]:
    """The option of one layer nearest to that layer's targets, and its ``(2,)`` parts of the forward divergence."""
    parts = _option_parts(policy_class, layer, targets, "forward", 0.0)
    chosen = int(least(parts)[0])
    return chosen, parts[:, chosen]


def _option_parts(
    policy_class: ProductClass, layer: int, targets: Targets, divergence: str, smoothing: float
) -> FloatArray:
    """``(2, n_options)`` parts of the options of one layer."""
    size, weights, tokens = targets.vocab_size, targets.per_token[:, layer], targets.tokens
    if targets.log_laws is None:
        if not targets.demonstrated:
            tokens = np.column_stack([tokens[:, :layer], targets.hard[:, layer]])
        log_probs = policy_class.option_log_probs(layer, targets.prompts, tokens)  # (n, n_options)
        return weights @ token_parts(log_probs, divergence=divergence, smoothing=smoothing, vocab_size=size)
    tokens, laws = tokens[:, : layer + 1].copy(), []
    for token in range(size):
        tokens[:, layer] = token
        laws.append(policy_class.option_log_probs(layer, targets.prompts, tokens).T)  # (n_options, n)
    log_probs = smoothed(np.stack(laws, axis=2), smoothing, size)
    return law_parts(targets.soft[:, layer], log_probs, weights, divergence, (1, 2))


@best_member.register
def _ending(
    policy_class: EndedClass, targets: Targets, *, divergence: str, smoothing: float, tol: float
) -> tuple[Policy, FitReport]:
    """What is inside is fitted to what was written: after the end all members agree."""
    weights = targets.per_token * written(targets.prompts, targets.tokens, policy_class.end_token)
    inside = replace(targets, weights=weights)
    policy, report = best_member(policy_class.members, inside, divergence=divergence, smoothing=smoothing, tol=tol)
    return EndedPolicy(policy, policy_class.end_token), report


# -- classes with a closed form ----------------------------------------------------------------------------------------


def _nearest(
    targets: Targets, contexts: IntArray | Contexts, n_contexts: int, divergence: str, smoothing: float,
    answers: Contexts | None = None,
) -> tuple[FloatArray, FloatArray]:  # fmt: skip
    """``(n_contexts, A)`` the law nearest to the targets in every context, among all laws; and the counts there.

    Of hard targets ``answers`` says what is taught instead, a few sequences at a time.
    """
    counts = targets.counts(contexts, n_contexts, answers=answers)
    if divergence == "forward":
        return likeliest(counts, smoothing), counts
    targets = targets if answers is None else replace(targets, answers=answers(targets))
    places = contexts(targets) if callable(contexts) else contexts
    excluded, sums = targets.log_law_sums(places, n_contexts)
    least_excluded = excluded.min(axis=1, keepdims=True)
    allowed = excluded <= least_excluded * (1 + ROUNDING)
    others = targets.totals(places, n_contexts)[:, None] - least_excluded  # each token is excluded by as much
    logits = np.where(allowed, sums / np.where(others > 0, others, 1.0), -np.inf)
    probs = np.exp(logits - logits.max(axis=1, keepdims=True))
    return probs / probs.sum(axis=1, keepdims=True), counts


def likeliest(counts: FloatArray, smoothing: float = 0.0, vocab_size: int | None = None) -> FloatArray:
    """``(C, A)`` laws p that maximise ``sum_a counts[a] log((1 - lambda) p[a] + lambda / A)`` in each row.

    With ``q = (1 - lambda) p + lambda / A``, q is the best vector of the simplex with entries >= f = lambda / A; its
    optimality conditions are q_a = max(f, s counts_a) for one s a row ("water filling"). If the k largest counts are
    above the floor, s = (1 - (A - k) f) / (their sum); k is the largest that is consistent. A row of zeros is uniform.
    With a ``vocab_size`` above the columns the tokens that are left out have counts of zero, and p = 0.
    """
    size, columns = vocab_size or counts.shape[1], counts.shape[1]
    floor = smoothing / size
    counts = np.ldexp(counts, -np.frexp(counts.max(axis=1, keepdims=True))[1])  # exact; a row may weigh next to nothing
    falling = -np.sort(-counts, axis=1)  # (C, A)
    with np.errstate(divide="ignore", invalid="ignore"):
        scales = (1 - floor * (size - np.arange(1, columns + 1))) / np.cumsum(falling, axis=1)  # column k - 1 is for k
        consistent = falling * scales >= floor
    largest = columns - 1 - np.argmax(consistent[:, ::-1], axis=1)
    scale = scales[np.arange(len(counts)), largest]
    seen = falling[:, :1] > 0
    mixed = np.where(seen, np.maximum(floor, counts * np.where(seen, scale[:, None], 0.0)), 1.0 / size)
    probs = np.maximum((mixed - floor) / (1 - smoothing), 0.0)
    return probs / probs.sum(axis=1, keepdims=True)


def _report(
    policy: Policy, targets: Targets, divergence: str, smoothing: float, counts: FloatArray, probs: FloatArray
) -> FitReport:
    """The log-loss of hard targets from ``(C, A)`` counts and the laws there; anything else by reading the policy."""
    if targets.log_laws is not None or divergence == "reverse":
        return report_of(policy_parts(policy, targets, divergence, smoothing), targets, divergence)
    from scipy.special import xlogy

    mixed = (1 - smoothing) * probs + smoothing / probs.shape[1]
    impossible = mixed == 0.0
    rest = -float(xlogy(counts, np.where(impossible, 1.0, mixed)).sum())
    return report_of(np.array([counts[impossible].sum(), rest]), targets)


@best_member.register
def _bernoulli(
    policy_class: BernoulliClass, targets: Targets, *, divergence: str, smoothing: float, tol: float
) -> tuple[Policy, FitReport]:
    """The frequency m of events; smoothed, ``(m - lambda/2) / (1 - lambda)``. Both clipped to the class.

    The loss is ``-m log q - (1 - m) log(1 - q)`` in q = (1 - lambda) theta + lambda/2, convex in q and so in theta
    (an affine function of q), with its minimum at q = m: over an interval the minimum is at the nearest point. The
    reverse divergence is convex in theta as well.
    """

    def one(part: Targets) -> BoolArray:  # where token 1 is the event
        return policy_class.events(part.prompts, part.tokens) == part.tokens.astype(bool)

    def happened(part: Targets) -> IntArray:
        return (part.hard == one(part)).astype(np.int64)

    def nowhere(part: Targets) -> IntArray:
        return np.zeros(part.shape, dtype=np.int64)

    events, answers = targets, happened if targets.log_laws is None else None
    if targets.log_laws is not None:
        swapped = np.where(one(targets)[:, :, None], targets.soft, targets.soft[:, :, ::-1])
        events = replace(targets, log_laws=swapped)
    nearest, counts = _nearest(events, nowhere, 1, divergence, smoothing, answers)
    theta = policy_class.clip(float(nearest[0, 1]))
    policy = policy_class.policy(theta)
    return policy, _report(policy, targets, divergence, smoothing, counts, np.array([[1 - theta, theta]]))


@best_member.register
def _markov(
    policy_class: MarkovClass, targets: Targets, *, divergence: str, smoothing: float, tol: float
) -> tuple[Policy, FitReport]:
    def contexts(part: Targets) -> IntArray:
        return markov_contexts(part.prompts, part.tokens, part.vocab_size, policy_class.order)[:, :-1]

    probs, counts = _nearest(targets, contexts, policy_class.n_contexts, divergence, smoothing)
    policy = policy_class.policy(probs)
    return policy, _report(policy, targets, divergence, smoothing, counts, probs)


@best_member.register
def _ngram(
    policy_class: NGramClass, targets: Targets, *, divergence: str, smoothing: float, tol: float
) -> tuple[Policy, FitReport]:
    """As for Markov classes, context by context, and the same for the shorter contexts that unseen ones back off to."""
    if targets.demonstrated and targets.of_sequences and divergence == "forward":
        weights = targets.weights[:, 0]
        even = weights.min() == weights.max()  # then relative frequencies of whole numbers
        policy = NGramPolicy.fit(
            kept(targets, "prompts"),
            kept(targets, "tokens"),
            policy_class.vocab_size,
            policy_class.order,
            weights=None if even else weights,
            escape=0.0,
        )
    else:
        policy = policy_class.policy(_levels(policy_class, targets, divergence))
    if smoothing > 0.0:
        policy = NGramPolicy(
            [_floored(level, policy.vocab_size, smoothing) for level in policy.levels], policy.vocab_size
        )
    if targets.demonstrated and targets.of_sequences and divergence == "forward":
        return policy, FitReport(log_loss(policy, targets, smoothing), gap=0.0)
    return policy, report_of(policy_parts(policy, targets, divergence, smoothing), targets, divergence)


def log_loss(policy: Policy, targets: Targets, smoothing: float = 0.0) -> float:
    """Mean log-loss of demonstrated sequences in nats, under ``(1 - smoothing) policy + smoothing / A``."""

    def summed(part: Targets) -> FloatArray:
        return smoothed(policy.log_probs(part.prompts, part.tokens), smoothing, policy.vocab_size).sum(axis=1)

    weights, log_probs = targets.weights[:, 0], np.concatenate([summed(part) for part in targets.blocks()])
    return -float(weights[weights > 0] @ log_probs[weights > 0])


def _levels(policy_class: NGramClass, targets: Targets, divergence: str) -> list[NGramLevel]:
    """The tables of all context lengths, whatever the targets are."""
    size, longest = policy_class.vocab_size, policy_class.order - 1
    line = np.concatenate([targets.prompts[:, max(targets.prompts.shape[1] - longest, 0) :], targets.tokens], axis=1)
    levels, nodes, n_contexts = [], np.zeros(line.shape, dtype=np.int64), 1
    for _ in range(policy_class.order):
        level = _level(targets, nodes, line, n_contexts, divergence)
        levels.append(level)
        n_contexts = len(level.keys) + 1
        edges = np.searchsorted(level.keys, nodes * size + line)
        nodes = np.column_stack([np.full(len(line), len(level.keys)), edges[:, :-1]])  # the last: before the beginning
    return levels


def _level(targets: Targets, nodes: IntArray, line: IntArray, n_contexts: int, divergence: str) -> NGramLevel:
    """What to know of contexts of one length, given the number of that context before each token of the line.

    The keys are the tokens taught and those read, in each context: a longer context then has its parts in the tables.
    """
    size, weighted = targets.vocab_size, targets.per_token > 0
    at = nodes[:, line.shape[1] - targets.tokens.shape[1] :]
    if targets.log_laws is None and divergence == "forward":
        cells = np.unique((at * size + targets.hard)[weighted])
        place = np.searchsorted(cells, at * size + targets.hard)
        place = np.where(weighted, place, len(cells))  # a last cell for what has no weight
        mass = np.bincount(place.ravel(), targets.per_token.ravel(), len(cells) + 1)[:-1]
        owner = cells // size
        own = mass / np.bincount(owner, mass)[owner]
    else:
        contexts, at = np.unique(at, return_inverse=True)
        at = at.reshape(targets.tokens.shape)
        teaches = weighted[:, :, None] & ~np.isneginf(targets.laws())
        taught = pooled_sums(at, teaches.astype(np.float64), len(contexts)) > 0
        laws = np.where(taught, _nearest(targets, at, len(contexts), divergence, 0.0)[0], 0.0)
        labelled = taught.any(axis=1)
        laws[labelled] /= laws[labelled].sum(axis=1, keepdims=True)  # what weighs next to nothing may underflow
        cells, own = (contexts[:, None] * size + np.arange(size))[taught], laws[taught]
    keys = np.union1d(cells, nodes * size + line)
    all_own, keep = np.zeros(len(keys)), np.ones(n_contexts)
    all_own[np.searchsorted(keys, cells)] = own
    keep[cells // size] = 0.0
    return NGramLevel(keys, all_own, keep)


def _floored(level: NGramLevel, vocab_size: int, smoothing: float) -> NGramLevel:
    """The frequencies of one level, changed as the smoothed likelihood wants; tokens never seen stay at zero."""
    used, own = np.flatnonzero(level.own > 0), np.zeros(len(level.keys))
    _, starts, lengths = np.unique(level.keys[used] // vocab_size, return_index=True, return_counts=True)
    left = np.argsort(lengths, kind="stable")  # contexts with as many tokens go together
    while len(left):
        longest = lengths[left[-1]]
        left, block = np.split(left, [-max(1, BLOCK_CELLS // longest)])
        seen = np.arange(longest) < lengths[block, None]
        here = used[(starts[block, None] + np.arange(longest))[seen]]
        counts = np.zeros(seen.shape)
        counts[seen] = level.own[here]
        own[here] = likeliest(counts, smoothing, vocab_size)[seen]
    return replace(level, own=own)


# -- by iteration ------------------------------------------------------------------------------------------------------


@best_member.register
def _ar_linear(
    policy_class: ARLinearClass, targets: Targets, *, divergence: str, smoothing: float, tol: float
) -> tuple[Policy, FitReport]:
    """Forward, certified to ``tol``; smoothed or reverse, a stationary point that is reached from there."""
    features, radius = policy_class.features, policy_class.radius
    if divergence == "reverse":
        return _reverse_linear(policy_class, targets, tol)
    theta, report = maximum_likelihood(features, radius, targets, tol=tol)
    if smoothing > 0.0:
        theta, report = minimise_smoothed(policy_class, targets, smoothing, start=theta, tol=tol)
    policy = policy_class.policy(theta)
    if targets.log_laws is not None:
        objective = report_of(policy_parts(policy, targets, divergence, smoothing), targets)
        report = replace(report, objective=objective.objective, details={**report.details, **objective.details})
    return policy, report


def _reverse_linear(policy_class: ARLinearClass, targets: Targets, tol: float) -> tuple[Policy, FitReport]:
    features, radius = policy_class.features, policy_class.radius
    check_dimension(features, "reverse KL")
    states = features.states()
    if states is not None:
        contexts, table = states.path(targets.prompts, targets.tokens), states.features
    else:
        contexts = np.arange(targets.tokens.size).reshape(targets.tokens.shape)
        table = features.path(targets.prompts, targets.tokens).reshape(-1, *features.feature_shape)
    totals = targets.totals(contexts, len(table))
    seen = totals > 0
    excluded, sums = targets.log_law_sums(contexts, len(table))
    if excluded.any():
        raise ValueError(
            "reverse KL is infinite for every autoregressive linear policy: the targets exclude a token at a "
            "visited prefix. Use divergence='forward', or mix a little of the uniform law in: floor=1e-3."
        )
    rows = SoftmaxRows(features, table[seen], targets.counts(contexts, len(table))[seen])
    forward = newton_in_ball(rows, radius, np.zeros(features.dimension), tol, max_iterations=200)
    loss = _ReverseLoss(policy_class, table[seen], totals[seen], sums[seen])
    fits = [
        minimise_in_ball(loss, radius, start, tol, name="reverse KL", advice="or lower the class's radius")
        for start in (forward.theta, np.zeros(features.dimension))
    ]
    theta, best = min(fits, key=lambda fit: fit[1].objective)
    policy = policy_class.policy(theta)
    report = report_of(policy_parts(policy, targets, "reverse"), targets, "reverse")
    return policy, FitReport(report.objective, best.gap, best.converged, best.iterations, report.details)


class _ReverseLoss:
    """``sum_contexts (W sum_a pi_a log pi_a - <pi, sum of log-laws>)`` in nats a sequence, and its gradient."""

    def __init__(self, policy_class: ARLinearClass, values: FloatArray, totals: FloatArray, sums: FloatArray) -> None:
        self.features, self.values, self.totals, self.sums = policy_class.features, values, totals[:, None], sums

    def __call__(self, theta: FloatArray) -> tuple[float, FloatArray]:
        log_probs = self.features.log_probs(theta, self.values)  # (N, A)
        probs = np.exp(log_probs)
        slopes = self.totals * log_probs - self.sums  # d loss / d pi, up to a constant in every context
        mean = (probs * slopes).sum(axis=1, keepdims=True)
        return float(mean.sum()), self.features.pull_back(self.values, probs * (slopes - mean))


@best_member.register
def _parametric(
    policy_class: ParametricClass, targets: Targets, *, divergence: str, smoothing: float, tol: float
) -> tuple[Policy, FitReport]:
    theta, report = fit_parametric(policy_class, targets, divergence=divergence, smoothing=smoothing, tol=tol)
    return policy_class.policy(theta), report


def fit_parametric(
    policy_class: ParametricClass,
    targets: Targets,
    *,
    divergence: str = "forward",
    smoothing: float = 0.0,
    tol: float = 1e-8,
) -> tuple[FloatArray, FitReport]:
    """Projected gradient descent from each of the class's starts; nothing is assumed of the shape of the loss.

    ``details["projected_gradient"]`` is the certificate, ``||project(theta - gradient) - theta||`` in nats a sequence:
    zero exactly at stationary points.
    """
    loss = ParametricLoss(policy_class, targets.pooled(), divergence, smoothing)
    theta, report = minimise_parametric(loss, policy_class, tol, name=f"the fit of {type(policy_class).__name__}")
    final = report_of(loss.parts(theta), targets, divergence, **report.details)
    return theta, replace(report, objective=final.objective, details=final.details)


def minimise_parametric(
    loss: Callable[[FloatArray], tuple[float, FloatArray]],
    policy_class: ParametricClass,
    tol: float,
    *,
    name: str,
    starts: FloatArray | None = None,
) -> tuple[FloatArray, FitReport]:
    """The best of the points where descents of ``loss`` from the class's starts (or these) end, and how that ended."""

    def stationarity(theta: FloatArray, gradient: FloatArray) -> float:
        return float(np.linalg.norm(policy_class.project(theta - gradient) - theta))

    ends = [
        descend(loss, policy_class.project, np.asarray(start, dtype=np.float64), tol, stationarity)
        for start in (policy_class.starts() if starts is None else starts)
    ]
    best = min(ends, key=lambda end: end.loss)
    if best.stationarity > tol:
        warnings.warn(
            f"{name} ended after {best.iterations} iterations with a projected gradient of {best.stationarity:.3g} "
            f"nats a sequence (tol={tol:g}); raise tol, or see what ntp_envs.testing.check_policy_class says.",
            ConvergenceWarning,
            stacklevel=4,
        )
    details = {"certificate": "projected gradient", "projected_gradient": best.stationarity, "starts": len(ends)}
    return best.theta, FitReport(best.loss, float("nan"), best.stationarity <= tol, best.iterations, details)


class ParametricLoss:
    """The divergence of a parametric class's members from normalised targets, in nats a sequence, and its gradient.

    Mass that is infinitely far counts nothing and has no slope, but no step may add to what the first point left there.
    """

    def __init__(self, policy_class: ParametricClass, targets: Targets, divergence: str, smoothing: float) -> None:
        self.policy_class, self.targets = policy_class, targets
        self.divergence, self.smoothing = divergence, smoothing
        self.infinite = np.inf

    def __call__(self, theta: FloatArray) -> tuple[float, FloatArray]:
        parts, gradient = np.zeros(2), np.zeros(self.policy_class.dimension)
        for part, laws in self._laws(theta):
            weights = np.broadcast_to(part.weights, part.tokens.shape)
            parts += self._parts(part, laws, weights)
            if self.divergence == "reverse" and parts[0] > 0:
                raise ValueError(
                    "reverse KL is infinite: the targets exclude a token that members of "
                    f"{type(self.policy_class).__name__} do not. Use divergence='forward', or mix a little of the "
                    "uniform law in: floor=1e-3."
                )
            gradient += self.policy_class.pull_back(theta, part.prompts, part.tokens, self._slopes(part, laws, weights))
        infinite, rest = parts
        if infinite > self.infinite * (1 + ROUNDING):
            return np.inf, gradient
        self.infinite = min(self.infinite, infinite)
        return rest, gradient

    def parts(self, theta: FloatArray) -> FloatArray:
        """``(2,)`` mass that is infinitely far, and the divergence elsewhere."""
        found = [
            self._parts(part, laws, np.broadcast_to(part.weights, part.tokens.shape))
            for part, laws in self._laws(theta)
        ]
        return np.sum(found, axis=0)

    def _laws(self, theta: FloatArray) -> Iterator[tuple[Targets, FloatArray]]:
        """A few sequences at a time, and their ``(n, H, A)`` laws."""
        n, horizon = self.targets.tokens.shape
        size = max(BLOCK_CELLS // (horizon * self.targets.vocab_size), 1)
        for start in range(0, n, size):
            part = self.targets.rows(slice(start, start + size))
            laws = self.policy_class.laws(theta, part.prompts, part.tokens)
            if laws.shape != (*part.tokens.shape, self.targets.vocab_size) or np.isnan(laws).any():
                raise ValueError(
                    f"{type(self.policy_class).__name__}.laws gave shape {laws.shape}, or NaN, at {theta}; "
                    f"{(*part.tokens.shape, self.targets.vocab_size)} log-probabilities are needed."
                )
            yield part, laws

    def _chosen(self, part: Targets, laws: FloatArray) -> FloatArray:
        return np.take_along_axis(laws, part.hard[:, :, None], axis=2)[:, :, 0]

    def _parts(self, part: Targets, laws: FloatArray, weights: FloatArray) -> FloatArray:
        if part.log_laws is not None:
            mixed = smoothed(laws, self.smoothing, part.vocab_size)
            return law_parts(part.soft, mixed, weights, self.divergence, (0, 1, 2))
        log_probs, size = self._chosen(part, laws), part.vocab_size
        parts = token_parts(log_probs, divergence=self.divergence, smoothing=self.smoothing, vocab_size=size)
        return (weights * parts).sum(axis=(1, 2))

    def _slopes(self, part: Targets, laws: FloatArray, weights: FloatArray) -> FloatArray:
        """``(n, H, A)`` derivatives in the log-probabilities."""
        if self.divergence == "reverse":
            target = part.laws()
            with np.errstate(invalid="ignore"):
                return np.where(np.isneginf(laws), 0.0, weights[:, :, None] * np.exp(laws) * (laws - target + 1.0))
        if part.log_laws is not None:
            kept = np.exp(np.log1p(-self.smoothing) + laws - smoothed(laws, self.smoothing, part.vocab_size))
            return np.where(np.isneginf(laws), 0.0, -weights[:, :, None] * np.exp(part.soft) * kept)
        log_probs, out = self._chosen(part, laws), np.zeros(laws.shape)
        with np.errstate(invalid="ignore"):
            kept = np.exp(np.log1p(-self.smoothing) + log_probs - smoothed(log_probs, self.smoothing, part.vocab_size))
        slopes = np.where(np.isneginf(log_probs), 0.0, -weights * kept)
        np.put_along_axis(out, part.hard[:, :, None], slopes[:, :, None], axis=2)
        return out

"""Prefixes with the law that the next token should have there: what learners that ask an expert fit to."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import singledispatch

import numpy as np

from agents.ball import newton_cg_in_ball, newton_in_ball
from agents.base import ConvergenceWarning, FitReport
from agents.linear_likelihood import minimise_in_ball, pull_back
from agents.linear_rows import SoftmaxRows, check_dimension, is_large, soft_indicator_rows
from agents.log_loss import _best, _likeliest_above
from ntp_envs import (
    ARLinearClass,
    BernoulliClass,
    Demonstrations,
    FiniteClass,
    MarkovClass,
    NGramClass,
    Policy,
    PolicyClass,
    ProductClass,
)
from ntp_envs.arrays import ROUNDING, FloatArray, IntArray, sample_categorical
from ntp_envs.automata import markov_contexts
from ntp_envs.checks import check_in
from ntp_envs.ngram import NGramLevel
from ntp_envs.policies import one_hot_log_probs
from ntp_envs.policy_classes import linear_log_probs


@dataclass(frozen=True, eq=False)
class Labels:
    """A weighted law of the next token at every prefix of n sequences.

    Demonstrations say which token came next; labels say with what probability each token should. They are what a
    log-loss needs to be exact in the expert's conditionals, and more than weighted demonstrations can say: the token
    that continues a prefix (``tokens[i, h]``, which only later prefixes see) need not be the one that is taught.

    Attributes:
        prompts: ``(n, P)`` int64.
        tokens: ``(n, H)`` int64; prefix h of sequence i is ``tokens[i, :h]``.
        log_laws: ``(n, H, A)`` float64 log-probabilities taught at each prefix, in nats.
        weights: ``(n, H)`` float64, >= 0; a prefix of weight 0 is not labelled.
    """

    prompts: IntArray
    tokens: IntArray
    log_laws: FloatArray
    weights: FloatArray

    @classmethod
    def from_demonstrations(cls, demonstrations: Demonstrations) -> Labels:
        """The demonstrated tokens, each with probability one; the weights of each layer sum to one."""
        tokens = demonstrations.tokens
        weights = np.repeat(demonstrations.normalised_weights()[:, None], tokens.shape[1], axis=1)
        return cls(demonstrations.prompts, tokens, one_hot_log_probs(tokens, demonstrations.vocab_size), weights)

    @classmethod
    def join(cls, parts: Sequence[Labels]) -> Labels:
        """All labels of several sets."""
        return cls(
            *(
                np.concatenate([getattr(part, name) for part in parts])
                for name in ("prompts", "tokens", "log_laws", "weights")
            )
        )

    @property
    def vocab_size(self) -> int:
        """A."""
        return self.log_laws.shape[2]

    @property
    def layers(self) -> IntArray:
        """The positions h where some prefix is labelled."""
        return np.flatnonzero(self.weights.any(axis=0))

    @property
    def scale(self) -> float:
        """What the weights must be divided by for losses to be in nats a sequence: their mean total a layer."""
        return float(self.weights.sum()) / len(self.layers)

    def scaled(self, factor: float) -> Labels:
        """The same labels with all weights multiplied."""
        return replace(self, weights=factor * self.weights)

    def drawn(self, rng: np.random.Generator) -> Labels:
        """One token drawn from each law instead of the law: what an expert who only acts would show."""
        flat = sample_categorical(self.log_laws.reshape(-1, self.vocab_size), rng)
        return replace(self, log_laws=one_hot_log_probs(flat.reshape(self.weights.shape), self.vocab_size))


# -- The member of a policy class nearest to given next-token laws, in forward or reverse KL: the step all learners
# share.
#
# `project` is to `Labels` what `agents.log_loss.maximise_likelihood` is to demonstrations, and uses its pieces. Both
# divergences need only sums over the prefixes that a class cannot tell apart:
#
# * forward, ``KL(law || pi)``: log-loss with soft labels. Sums of probabilities are counts, which need not be whole.
# * reverse, ``KL(pi || law)``: over a context with total weight W and mean log-law l it is ``W KL(pi || exp l)`` and a
#   constant, so that the best pi is the geometric mean of the laws, normalised. A token that some laws exclude is left
#   out; where they exclude every token, those excluded by the least weight stay, and the mean is over the laws that
#   allow each.


DIVERGENCES = ("forward", "reverse")


@singledispatch
def project(
    policy_class: PolicyClass, labels: Labels, *, divergence: str = "forward", tol: float = 1e-8
) -> tuple[Policy, FitReport]:
    """The member of a class nearest to the labels, prefix by prefix: ``argmin_pi sum_ih w_ih KL`` at their prefixes.

    Exact for finite, product, Bernoulli, Markov and n-gram classes. For autoregressive linear classes the forward
    divergence is convex and certified to ``tol``; the reverse one is not convex, and a stationary point is returned
    (``gap`` is ``nan``), the better of those reached from the forward solution and from the uniform policy.

    A member with infinite divergence is preferred to another by the mass that makes it infinite first, then by the
    rest, as in `agents.LogLossBC`; ties go to the smallest index. Contexts without labels get the uniform law; in
    n-gram classes, that of their longest part with labels.

    Args:
        policy_class: what to choose from; the function dispatches on its type.
        labels: prefixes and laws.
        divergence: ``"forward"``, ``KL(law || pi)``, or ``"reverse"``, ``KL(pi || law)``.
        tol: for autoregressive linear classes, in nats a sequence.

    Returns:
        The policy and a report whose ``objective`` is the divergence summed over the labelled layers, in nats a
        sequence (``inf`` if the mass in ``details["excluded_mass"]`` is positive; the rest is in
        ``details["divergence_elsewhere"]``).

    Raises:
        NotTractableError: autoregressive linear classes of more than 8192 weights, but for forward KL with indicator
            features (`ntp_envs.features.WindowOneHot`) of more than two tokens.
        ValueError: an unknown divergence; reverse KL in an autoregressive linear class, whose members exclude no
            token, to laws that do.

    >>> import numpy as np
    >>> laws = np.log([[[0.9, 0.1]], [[0.5, 0.5]]])  # two sequences of one token
    >>> labels = Labels(np.zeros((2, 0), int), np.zeros((2, 1), int), laws, np.ones((2, 1)))
    >>> [round(project(BernoulliClass(), labels, divergence=kind)[0].theta, 2) for kind in DIVERGENCES]
    [0.3, 0.25]
    """
    raise TypeError(
        f"no projection onto {type(policy_class).__name__} is known; write a function for it and register it with "
        "agents.interactive.project.register."
    )


def kl_parts(
    log_laws: FloatArray, log_probs: FloatArray, weights: FloatArray, divergence: str, axis: int | tuple[int, ...]
) -> FloatArray:
    """``(2, ...)``: the mass where the divergence is infinite, and the divergence elsewhere, summed over ``axis``.

    Args:
        log_laws, log_probs: ``(..., A)`` log-probabilities of the labels and of the policy, which broadcast.
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


def _parts_along(policy: Policy, labels: Labels, divergence: str) -> FloatArray:
    """``(2,)`` `kl_parts` of a policy at all labels, read once from left to right."""
    total, reader, layers = np.zeros(2), policy.cursor(labels.prompts), set(labels.layers.tolist())
    for h, column in enumerate(labels.tokens.T):
        if h in layers:
            total += kl_parts(labels.log_laws[:, h], reader.log_probs(), labels.weights[:, h], divergence, (0, 1))
        if h < max(layers):
            reader = reader.advance(column)
        else:
            break
    return total / labels.scale


def _report(parts: FloatArray) -> FitReport:
    excluded, rest = (float(part) for part in parts)
    details = {"excluded_mass": excluded, "divergence_elsewhere": rest}
    return FitReport(objective=np.inf if excluded > 0 else rest, gap=0.0, details=details)


# -- classes of candidates ---------------------------------------------------------------------------------------------


@project.register
def _finite(
    policy_class: FiniteClass, labels: Labels, *, divergence: str = "forward", tol: float = 0.0
) -> tuple[Policy, FitReport]:
    check_in("divergence", divergence, DIVERGENCES)
    parts = np.stack([_parts_along(policy, labels, divergence) for policy in policy_class.readers()], axis=1)  # (2, M)
    chosen = int(_best(parts * [[1], [-1]])[0])
    return policy_class.policy(chosen), _report(parts[:, chosen])


def best_option(
    policy_class: ProductClass, layer: int, labels: Labels, *, divergence: str = "forward"
) -> tuple[int, FloatArray]:
    """The option of one layer nearest to that layer's labels, and its ``(2,)`` `kl_parts` in nats a sequence."""
    tokens = labels.tokens[:, : layer + 1].copy()
    laws = []
    for token in range(labels.vocab_size):
        tokens[:, layer] = token
        laws.append(policy_class.option_log_probs(layer, labels.prompts, tokens).T)  # (n_options, n)
    log_probs = np.stack(laws, axis=2)
    parts = kl_parts(labels.log_laws[:, layer], log_probs, labels.weights[:, layer], divergence, (1, 2)) / labels.scale
    chosen = int(_best(parts * [[1], [-1]])[0])
    return chosen, parts[:, chosen]


@project.register
def _product(
    policy_class: ProductClass, labels: Labels, *, divergence: str = "forward", tol: float = 0.0
) -> tuple[Policy, FitReport]:
    check_in("divergence", divergence, DIVERGENCES)
    options, total = np.zeros(len(policy_class.n_options), dtype=np.int64), np.zeros(2)
    for layer in labels.layers:
        options[layer], parts = best_option(policy_class, int(layer), labels, divergence=divergence)
        total += parts
    return policy_class.policy(options), _report(total)


# -- classes with a closed form ----------------------------------------------------------------------------------------


def _pooled(contexts: IntArray, values: FloatArray, n_contexts: int) -> FloatArray:
    """``(n_contexts, A)`` sums of ``(n, H, A)`` values over prefixes with the same ``(n, H)`` context."""
    flat = contexts.ravel()
    columns = [np.bincount(flat, weights=column, minlength=n_contexts) for column in values.reshape(flat.size, -1).T]
    return np.stack(columns, axis=1)


def _log_law_sums(labels: Labels, contexts: IntArray, log_laws: FloatArray, n_contexts: int) -> FloatArray:
    """``(2, n_contexts, A)``: the weight of prefixes that exclude a token, and the sum of the other log-laws."""
    weights, excluded = labels.weights[:, :, None], np.isneginf(log_laws)
    return np.stack(
        [
            _pooled(contexts, weights * excluded, n_contexts),
            _pooled(contexts, weights * np.where(excluded, 0.0, log_laws), n_contexts),
        ]
    )


def _nearest(labels: Labels, contexts: IntArray, log_laws: FloatArray, n_contexts: int, divergence: str) -> FloatArray:
    """``(n_contexts, A)`` the law nearest to the labels in every context, among all laws."""
    if check_in("divergence", divergence, DIVERGENCES) == "forward":
        counts = _pooled(contexts, labels.weights[:, :, None] * np.exp(log_laws), n_contexts)
        largest = counts.max(axis=1, keepdims=True)  # a row may weigh next to nothing, as in steps by vanishing slopes
        return _likeliest_above(counts / np.where(largest > 0, largest, 1.0), 0.0)
    excluded, sums = _log_law_sums(labels, contexts, log_laws, n_contexts)
    least = excluded.min(axis=1, keepdims=True)
    allowed = excluded <= least * (1 + ROUNDING)
    others = _pooled(contexts, labels.weights[:, :, None], n_contexts) - least  # each token is excluded by as much
    logits = np.where(allowed, sums / np.where(others > 0, others, 1.0), -np.inf)
    probs = np.exp(logits - logits.max(axis=1, keepdims=True))
    return probs / probs.sum(axis=1, keepdims=True)


@project.register
def _bernoulli(
    policy_class: BernoulliClass, labels: Labels, *, divergence: str = "forward", tol: float = 0.0
) -> tuple[Policy, FitReport]:
    """Both divergences are convex in theta: the best over an interval is the point of it nearest to the best of all."""
    event = policy_class.events(labels.prompts, labels.tokens) == labels.tokens.astype(bool)  # token 1 is the event
    log_laws = np.where(event[:, :, None], labels.log_laws, labels.log_laws[:, :, ::-1])
    nearest = _nearest(labels, np.zeros_like(labels.tokens), log_laws, 1, divergence)
    policy = policy_class.policy(policy_class.clip(float(nearest[0, 1])))
    return policy, _report(_parts_along(policy, labels, divergence))


@project.register
def _markov(
    policy_class: MarkovClass, labels: Labels, *, divergence: str = "forward", tol: float = 0.0
) -> tuple[Policy, FitReport]:
    contexts = markov_contexts(labels.prompts, labels.tokens, labels.vocab_size, policy_class.order)[:, :-1]
    policy = policy_class.policy(_nearest(labels, contexts, labels.log_laws, policy_class.n_contexts, divergence))
    return policy, _report(_parts_along(policy, labels, divergence))


# -- by iteration ------------------------------------------------------------------------------------------------------


@project.register
def _ar_linear(
    policy_class: ARLinearClass, labels: Labels, *, divergence: str = "forward", tol: float = 1e-8
) -> tuple[Policy, FitReport]:
    check_in("divergence", divergence, DIVERGENCES)
    features, radius = policy_class.features, policy_class.radius
    labels = labels.scaled(1.0 / labels.scale)
    if divergence == "forward" and is_large(features):
        counts = labels.weights[:, :, None] * np.exp(labels.log_laws)
        rows = soft_indicator_rows(features, labels.prompts, labels.tokens, counts)
        fit = newton_cg_in_ball(rows, radius, tol, max_iterations=200)
        theta = np.ascontiguousarray(fit.weights.T).ravel()
        return _certified(policy_class, labels, theta, fit.gap, fit.iterations, tol)
    check_dimension(features, f"{divergence} KL")
    states = features.states()
    if states is not None:
        contexts, table = states.path(labels.prompts, labels.tokens), states.features
    else:
        contexts = np.arange(labels.tokens.size).reshape(labels.tokens.shape)
        table = features.path(labels.prompts, labels.tokens).reshape(-1, *features.feature_shape)
    totals = _pooled(contexts, labels.weights[:, :, None], len(table))[:, 0]
    seen = totals > 0
    counts = _pooled(contexts, labels.weights[:, :, None] * np.exp(labels.log_laws), len(table))[seen]
    forward = newton_in_ball(
        SoftmaxRows(features, table[seen], counts), radius, np.zeros(features.dimension), tol, max_iterations=200
    )
    if divergence == "forward":
        return _certified(policy_class, labels, forward.theta, forward.gap, forward.iterations, tol)
    excluded, sums = _log_law_sums(labels, contexts, labels.log_laws, len(table))
    if excluded.any():
        raise ValueError(
            "reverse KL is infinite for every autoregressive linear policy: the labels exclude a token at a "
            "visited prefix. Use divergence='forward', or mix a little of the uniform law in: floor=1e-3."
        )
    loss = _ReverseLoss(policy_class, table[seen], totals[seen], sums[seen])
    fits = [
        minimise_in_ball(loss, radius, start, tol, name="reverse KL", advice="or lower the class's radius")
        for start in (forward.theta, np.zeros(features.dimension))
    ]
    theta, best = min(fits, key=lambda fit: fit[1].objective)
    policy = policy_class.policy(theta)
    report = _report(_parts_along(policy, labels, divergence))
    return policy, FitReport(report.objective, best.gap, best.converged, best.iterations, report.details)


def _certified(
    policy_class: ARLinearClass, labels: Labels, theta: FloatArray, gap: float, iterations: int, tol: float
) -> tuple[Policy, FitReport]:
    """The policy of a forward fit, and its report; warns where ``tol`` was not reached."""
    if gap > tol:
        warnings.warn(
            f"soft-label log-loss stopped after {iterations} iterations with a certified gap of {gap:.3g} nats a "
            f"sequence (tol={tol:g}); raise tol, or lower the class's radius {policy_class.radius:g}.",
            ConvergenceWarning,
            stacklevel=3,
        )
    policy = policy_class.policy(theta)
    report = _report(_parts_along(policy, labels, "forward"))
    return policy, FitReport(report.objective, gap, gap <= tol, iterations, report.details)


class _ReverseLoss:
    """``sum_contexts (W sum_a pi_a log pi_a - <pi, sum of log-laws>)`` in nats a sequence, and its gradient."""

    def __init__(self, policy_class: ARLinearClass, values: FloatArray, totals: FloatArray, sums: FloatArray) -> None:
        self.features, self.values, self.totals, self.sums = policy_class.features, values, totals[:, None], sums

    def __call__(self, theta: FloatArray) -> tuple[float, FloatArray]:
        log_probs = linear_log_probs(self.features, theta, self.values)  # (N, A)
        probs = np.exp(log_probs)
        slopes = self.totals * log_probs - self.sums  # d loss / d pi, up to a constant in every context
        mean = (probs * slopes).sum(axis=1, keepdims=True)
        return float(mean.sum()), pull_back(self.features, self.values, probs * (slopes - mean))


# -- `project` for n-gram classes: a law for every context that the labels have, and for the parts of it --------------


__all__: list[str] = []


@project.register
def _ngram(
    policy_class: NGramClass, labels: Labels, *, divergence: str = "forward", tol: float = 0.0
) -> tuple[Policy, FitReport]:
    """As for Markov classes, context by context, and the same for the shorter contexts that unseen ones back off to."""
    size, longest = policy_class.vocab_size, policy_class.order - 1
    line = np.concatenate([labels.prompts[:, max(labels.prompts.shape[1] - longest, 0) :], labels.tokens], axis=1)
    levels, nodes, n_contexts = [], np.zeros(line.shape, dtype=np.int64), 1
    for _ in range(policy_class.order):
        level = _level(labels, nodes, line, n_contexts, divergence)
        levels.append(level)
        n_contexts = len(level.keys) + 1
        edges = np.searchsorted(level.keys, nodes * size + line)
        nodes = np.column_stack([np.full(len(line), len(level.keys)), edges[:, :-1]])  # the last: before the beginning
    policy = policy_class.policy(levels)
    return policy, _report(_parts_along(policy, labels, divergence))


def _level(labels: Labels, nodes: IntArray, line: IntArray, n_contexts: int, divergence: str) -> NGramLevel:
    """What to know of contexts of one length, given the number of that context before each token of the line.

    The keys are the tokens taught and those read, in each context: a longer context then has its parts in the tables.
    """
    size = labels.vocab_size
    contexts, at = np.unique(nodes[:, line.shape[1] - labels.tokens.shape[1] :], return_inverse=True)
    at = at.reshape(labels.tokens.shape)
    teaches = (labels.weights > 0)[:, :, None] & ~np.isneginf(labels.log_laws)
    taught = _pooled(at, teaches.astype(np.float64), len(contexts)) > 0
    laws = np.where(taught, _nearest(labels, at, labels.log_laws, len(contexts), divergence), 0.0)
    labelled = taught.any(axis=1)
    laws[labelled] /= laws[labelled].sum(axis=1, keepdims=True)  # what weighs next to nothing may underflow
    cells = contexts[:, None] * size + np.arange(size)
    keys = np.union1d(cells[taught], nodes * size + line)
    own, keep = np.zeros(len(keys)), np.ones(n_contexts)
    own[np.searchsorted(keys, cells[taught])] = laws[taught]
    keep[contexts[labelled]] = 0.0
    return NGramLevel(keys, own, keep)

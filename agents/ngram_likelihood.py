"""Learning n-gram models: the maximum likelihood, and the smoothed estimate of Witten and Bell."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from agents.base import Agent, FitReport
from agents.log_loss import _likeliest_above, maximise_likelihood
from ntp_envs import Demonstrations, Policy, PolicyClass
from ntp_envs._validation import check_int
from ntp_envs.ngram import NGramLevel, NGramPolicy
from ntp_envs.policy_classes.ngram import NGramClass

__all__ = ["NGramBC"]

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

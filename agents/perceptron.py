"""The multiclass perceptron: updates where the wrong token scores highest, and nowhere else."""

from __future__ import annotations

import math
import warnings
from typing import ClassVar, NamedTuple

import numpy as np

from agents.base import COUNT, Agent, Checks, ConvergenceWarning, FitReport
from agents.linear_rows import MEMORY_BYTES, SoftmaxRows, rows_of
from agents.targets import Targets
from ntp_envs import ARLinearClass, Demonstrations, Policy, PolicyClass
from ntp_envs.arrays import ROUNDING, TIE, FloatArray, IntArray, first_best
from ntp_envs.checks import check_flag
from ntp_envs.features import ContextFeatureMap, FeatureMap

LARGEST_BLOCK = 1024


class PerceptronBC(Agent):
    """Multiclass perceptron on the next token, for autoregressive linear classes (Crammer and Singer 2003).

    It passes over the distinct pairs of a context and the token that followed. Where some other token scores as high
    as the one that followed, or higher, the features of that other token (the smallest of the highest) are taken from
    theta and those of the right one added. Features that are whole multiples of one number, as indicators are, are
    counted in it, so that on data where the answer is a function of the context every score is a whole number and
    exact. Whatever the features, scores that differ by at most 1e-9 of the largest that vectors of those lengths can
    have are equal: which token scores highest does not hang on the order in which a processor adds. Equal contexts
    count once, whatever their frequency: the step is the share of the context's weight that is on the token, so 1 where
    the answer is a function of the context. On such data, if some theta is right on all contexts with a margin, it
    stops after at most (spread of the features / margin)^2 updates and is right on all contexts; then greedy decoding
    (`ntp_envs.GreedyPolicy`) follows every demonstration.

    Only the direction of theta is learned in this way. Its length is then chosen by maximum likelihood on the same
    data, a convex problem in one variable, up to the radius of the class; on separated data it is the radius.

    ``fit_report_``: ``objective`` is the number of tokens of a demonstration, on average, that the policy's greedy
    choice misses (ties, as above, count as missed), ``gap`` is 0 where that is 0 and ``nan`` otherwise; ``details`` has
    the ``mistakes`` in the last pass of ``pairs``, the ``updates`` in all passes and the mean log-loss of a sequence.

    Args:
        max_epochs: passes over the data.
        averaged: where there are still mistakes in the last pass, return the average of theta over all presentations,
            not the last one. (A pass without mistakes ends with a theta that is right on all contexts; the average
            need not be.)
        shuffle: draw the order anew for every pass; otherwise that of the contexts' numbering, or of the data.

    Warns:
        ConvergenceWarning: there were mistakes in the last pass.

    >>> from ntp_envs import collect, make_task
    >>> task = make_task("TuringMachine", inputs="random", steps=1)
    >>> demonstrations = collect(task, 200, np.random.default_rng(0))
    >>> PerceptronBC().fit(demonstrations, task.policy_class).fit_report_.objective
    0.0
    """

    supports = (ARLinearClass,)

    allowed: ClassVar[Checks] = {"max_epochs": COUNT, "averaged": check_flag, "shuffle": check_flag}

    def __init__(self, *, max_epochs: int = 200, averaged: bool = True, shuffle: bool = True) -> None:
        self.max_epochs = max_epochs
        self.averaged = averaged
        self.shuffle = shuffle

    def _fit(
        self, demonstrations: Demonstrations, policy_class: PolicyClass, rng: np.random.Generator
    ) -> tuple[Policy, FitReport]:
        assert isinstance(policy_class, ARLinearClass)
        data = _gathered(rows_of(policy_class.features, Targets.of(demonstrations), written_out=True))
        passes = _Passes(policy_class.features, data)
        epochs, mistakes = 0, 1
        while mistakes and epochs < self.max_epochs:
            mistakes = passes.run(rng.permutation(passes.n_pairs) if self.shuffle else np.arange(passes.n_pairs))
            epochs += 1
        theta = _sized(data, passes.theta(averaged=bool(self.averaged and mistakes)), policy_class.radius)
        loss, _ = data.loss_and_gradient(theta)
        missed = passes.missed(theta)
        details = {
            "objective": "tokens of a demonstration that the greedy choice misses",
            "mistakes": mistakes,
            "pairs": passes.n_pairs,
            "updates": passes.updates,
            "log_loss": loss,
            "norm": float(np.linalg.norm(theta)),
        }
        if mistakes:
            warnings.warn(
                f"PerceptronBC made {mistakes} mistakes on {passes.n_pairs} pairs of context and token in the last of "
                f"{self.max_epochs} passes: raise max_epochs, or no theta is right on all of them.",
                ConvergenceWarning,
                stacklevel=3,
            )
        gap = 0.0 if missed == 0.0 else math.nan
        return policy_class.policy(theta), FitReport(missed, gap, mistakes == 0 and missed == 0.0, epochs, details)


def _gathered(rows: SoftmaxRows) -> SoftmaxRows:
    """The rows with equal features added up; ``ValueError`` if they do not fit in memory."""
    if rows.values is None or rows.counts is None:
        raise ValueError(
            f"the features of {rows.n_rows} tokens take {rows.n_rows * rows.width * 8 >> 20} MB, more than the "
            f"{MEMORY_BYTES >> 20} MB that PerceptronBC keeps; take fewer demonstrations."
        )
    flat = np.ascontiguousarray(rows.values.reshape(rows.n_rows, -1)) + 0.0  # no negative zeros
    keys = flat.view(np.dtype((np.void, flat.dtype.itemsize * flat.shape[1]))).ravel()
    _, first, place = np.unique(keys, return_index=True, return_inverse=True)
    order = np.argsort(first)  # as they come, not by their bytes: those of a sine differ between processors
    counts = np.zeros((len(first), rows.vocab_size))
    np.add.at(counts, np.argsort(order)[place.ravel()], rows.counts)
    return SoftmaxRows(rows.features, rows.values[first[order]], counts)


def _in_units(values: FloatArray) -> FloatArray:
    """The values as multiples of the smallest of them, where all are whole ones, else as they are.

    Floats that hold whole numbers add up exactly in any order (below 2**53).
    """
    sizes = np.abs(values)
    if not sizes.any():
        return values
    multiples = values / sizes[sizes > 0].min()
    whole = np.rint(multiples)
    return whole if np.abs(multiples - whole).max() <= TIE else values


class _Examples(NamedTuple):
    """Pairs of a context and a token that followed it."""

    context: IntArray
    token: IntArray
    step: FloatArray


class _Passes:
    """The perceptron's state, and its passes over the pairs.

    Scores are those of one weight vector a token, ``(A, c)``, for a map of contexts (for two tokens the second less
    the first is theta), and of theta itself for a joint map.
    """

    def __init__(self, features: FeatureMap, data: SoftmaxRows) -> None:
        assert data.values is not None and data.counts is not None
        self.features, self.values, self.counts = features, _in_units(data.values), data.counts
        self.sizes = np.sqrt(np.square(self.values).sum(axis=-1).reshape(len(self.values), -1).max(axis=1))  # (N,)
        self.by_context = isinstance(features, ContextFeatureMap)
        context, token = np.nonzero(self.counts)
        step = self.counts[context, token] / self.counts[context].sum(axis=1)
        self.pairs, self.n_pairs = _Examples(context, token, step), len(context)
        self.weights = np.zeros(
            (features.vocab_size, features.feature_shape[0]) if self.by_context else features.dimension
        )
        self.total = np.zeros_like(self.weights)
        self.presented = self.updates = 0

    def rivals(self, weights: FloatArray, contexts: IntArray, tokens: IntArray) -> IntArray:
        """``(N,)`` the first other token of the highest score, or -1 where the token itself scores higher."""
        scores = self.values[contexts] @ (weights.T if self.by_context else weights)  # (N, A)
        slack = TIE * np.sqrt(np.square(weights).sum(axis=-1).max()) * self.sizes[contexts]
        rows = np.arange(len(scores))
        own = scores[rows, tokens]
        scores[rows, tokens] = -np.inf
        rivals = first_best(scores, slack=slack[:, None])
        return np.where(scores[rows, rivals] >= own - slack, rivals, -1)

    def run(self, order: IntArray) -> int:
        """One pass over the pairs in this order: the number of mistakes.

        Scores are computed for a block ahead and hold up to the first mistake in it; the result is that of one pair
        at a time.
        """
        mistakes, start, size = 0, 0, 16
        while start < len(order):
            block = order[start : start + size]
            contexts, tokens = self.pairs.context[block], self.pairs.token[block]
            rivals = self.rivals(self.weights, contexts, tokens)
            wrong = rivals >= 0
            if not wrong.any():
                start, self.presented = start + len(block), self.presented + len(block)
                size = min(2 * size, LARGEST_BLOCK)
                continue
            first = int(wrong.argmax())
            start, self.presented = start + first + 1, self.presented + first + 1
            self._update(int(block[first]), int(rivals[first]))
            mistakes += 1
            size = max(size // 2, 4)
        self.updates += mistakes
        return mistakes

    def _update(self, pair: int, rival: int) -> None:
        values, token = self.values[self.pairs.context[pair]], self.pairs.token[pair]
        step = self.pairs.step[pair]
        for weights, scale in ((self.weights, step), (self.total, step * (self.presented - 1))):
            if self.by_context:
                weights[token] += scale * values
                weights[rival] -= scale * values
            else:
                weights += scale * (values[token] - values[rival])

    def theta(self, *, averaged: bool) -> FloatArray:
        """``(d,)`` parameters: the last, or the average over presentations."""
        weights = self.weights - self.total / max(self.presented, 1) if averaged else self.weights
        if self.by_context and self.features.vocab_size == 2:
            return weights[1] - weights[0]
        return weights.ravel()

    def missed(self, theta: FloatArray) -> float:
        """The weight of the pairs that theta does not put first."""
        weights = theta
        if self.by_context and self.features.vocab_size == 2:
            weights = np.stack([-0.5 * theta, 0.5 * theta])
        elif self.by_context:
            weights = theta.reshape(self.features.vocab_size, -1)
        everything = self.pairs.context
        wrong = self.rivals(weights, everything, self.pairs.token) >= 0
        return float(self.counts[everything, self.pairs.token] @ wrong)


def _sized(data: SoftmaxRows, direction: FloatArray, radius: float) -> FloatArray:
    """The multiple of a direction, of length at most ``radius``, with the largest likelihood."""
    from scipy.optimize import brentq

    assert data.counts is not None
    norm = float(np.linalg.norm(direction))
    if norm == 0.0:
        return direction
    unit = direction / norm

    def slope(size: float) -> float:
        return float(data.loss_and_gradient(size * unit)[1] @ unit)

    if slope(radius) <= ROUNDING * float(data.counts.sum()):  # flat at the end, on separated data
        return radius * unit
    return (brentq(slope, 0.0, radius, xtol=1e-9 * radius) if slope(0.0) < 0.0 else 0.0) * unit

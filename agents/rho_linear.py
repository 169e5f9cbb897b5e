"""The rho game over a ball of autoregressive linear policies: densities of chunks, candidates, local moves, the search.

A chunk i has log-density ``l_i(theta) = sum_(context c, token a) N[i, c, a] log pi_theta(a | c)``, with N its counts of
next tokens in the contexts it passes through. Where the features number their contexts (`FeatureMap.codes`), contexts
are shared by all chunks, and chunks with equal counts are merged: they are alike to every member of the class.
Otherwise every token of a chunk is a context of its own, handled in blocks of chunks.
"""

from __future__ import annotations

import math
import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from agents.ball import Curvature, minimise_quadratic_in_ball, newton_in_ball
from agents.linear_rows import SoftmaxRows, check_dimension, features_met_first
from agents.rho_game import TAU_SCALE, OneParameterSolution, distinct_units, solve_finite_game, solve_one_parameter_game
from ntp_envs import ARLinearClass, Demonstrations, NotTractableError
from ntp_envs.arrays import FloatArray, IntArray
from ntp_envs.features import ContextFeatureMap, FeatureMap

BLOCK_ENTRIES = 1 << 20  # of a temporary array: 8 MB
DENSE_FROM = 0.1  # share of counts that are not zero from which they are kept in a dense matrix
DENSE_ENTRIES = 1 << 24


@dataclass(frozen=True, eq=False)
class _Block:
    """Some chunks, and the contexts they pass through.

    ``counts`` is ``(U, C A)``, dense or sparse; ``values`` ``(C, c)`` or ``(C, A, d)`` features.
    """

    chunks: slice
    contexts: slice
    counts: Any


class ChunkLikelihood:
    """The distinct chunks of weighted demonstrations as seen by the policies of an autoregressive linear class.

    Args:
        features: the feature map phi.
        demonstrations: their weights are normalised.
        chunk: K; the last chunk is shorter where it does not divide H.

    Attributes:
        weights: ``(U,)`` positive weights of the distinct chunks; they sum to the number of chunks of a sequence.
        values: ``(C, c)`` or ``(C, A, d)`` features of the contexts.
    """

    def __init__(self, features: FeatureMap, demonstrations: Demonstrations, chunk: int) -> None:
        self.features, self.vocab_size = features, features.vocab_size
        self.by_context = isinstance(features, ContextFeatureMap)
        self.binary = self.by_context and self.vocab_size == 2
        codes = features.codes(demonstrations.prompts, demonstrations.tokens)
        build = (
            _one_each(features, demonstrations, chunk)
            if codes is None
            else _shared(features, demonstrations, chunk, codes)
        )
        self.values, self.weights, self.blocks = build
        if not np.isfinite(self.values).all():
            raise ValueError("the features hold a value that is not finite (NaN or inf); mend the feature map.")

    def __len__(self) -> int:
        return len(self.weights)

    def line(self) -> tuple[FloatArray, Any, FloatArray]:
        """In dimension 1: features, counts and weights, as `agents.rho_game` takes them.

        Contexts whose laws are the same, up to the names of the tokens, are pooled; and so are chunks that this makes
        alike, where that leaves few numbers.
        """
        from scipy.sparse import csr_array, vstack

        contexts, vocab_size = len(self.values), self.vocab_size
        values = self.values * [0.0, 1.0] if self.binary else self.values[:, :, 0]  # (C, A)
        order = np.argsort(values, axis=1, kind="stable")
        values = np.take_along_axis(values, order, axis=1)
        features, group = np.unique(values - values[:, :1], axis=0, return_inverse=True)
        entries = vocab_size * group.reshape(-1, 1) + np.argsort(order, axis=1)  # for those of all contexts
        every = np.arange(contexts * vocab_size)
        pool = csr_array((np.ones(len(every)), (every, entries.ravel())), shape=(len(every), features.size))
        parts = [slice(vocab_size * block.contexts.start, vocab_size * block.contexts.stop) for block in self.blocks]
        counts = _dense_if_full(
            vstack([csr_array(block.counts) @ pool[part] for block, part in zip(self.blocks, parts)])
        )
        if not isinstance(counts, np.ndarray):
            return features, counts, self.weights
        counts, group = np.unique(counts, axis=0, return_inverse=True)
        return features, counts, np.bincount(group.ravel(), weights=self.weights).astype(np.float64)

    # -- passes --------------------------------------------------------------------------------------------------------

    def log_densities(self, thetas: FloatArray) -> FloatArray:
        """``(U, M)`` log-densities, in nats, under ``(M, d)`` parameters."""
        out = np.empty((len(self), len(thetas)))
        for block in self.blocks:
            for some in self._some(block, len(thetas)):
                log_law = self._log_law(block, thetas[some])
                out[block.chunks, some] = block.counts @ log_law.reshape(-1, log_law.shape[2])
        return out

    def gradients(self, theta: FloatArray, slopes: FloatArray) -> FloatArray:
        """``(R, d)`` gradients at ``(d,)`` theta of the R functions ``sum_i slopes[i, r] l_i``."""
        out = np.zeros((slopes.shape[1], self.features.dimension))
        for block in self.blocks:
            law = np.exp(self._log_law(block, theta[None]))  # (C, A, 1)
            counts = block.counts.T @ slopes[block.chunks]  # (C A, R)
            counts = counts.reshape(*law.shape[:2], -1)
            out += self._pull_back(block, counts - law * counts.sum(axis=1, keepdims=True))
        return out

    def counts(self, weights: FloatArray) -> FloatArray:
        """``(C, A)`` next-token counts of all contexts, chunks weighted by ``(U,)`` weights."""
        out = np.zeros((len(self.values), self.vocab_size))
        for block in self.blocks:
            out[block.contexts] += (block.counts.T @ weights[block.chunks]).reshape(-1, self.vocab_size)
        return out

    def scores(self, theta: FloatArray) -> FloatArray:
        """``(U, d)`` gradients of every l_i at ``(d,)`` theta."""
        out = np.empty((len(self), self.features.dimension))
        for block in self.blocks:
            values = self.values[block.contexts]
            law = np.exp(self._log_law(block, theta[None]))[:, :, 0]  # (C, A)
            out[block.chunks] = block.counts @ self._token_scores(values, law)
        return out

    def _token_scores(self, values: FloatArray, law: FloatArray) -> FloatArray:
        """``(C A, d)`` gradients of log pi(a | c)."""
        c, a = law.shape
        if self.binary:
            residual = np.array([0.0, 1.0]) - law[:, 1:]  # (C, A)
            return (residual[:, :, None] * values[:, None]).reshape(c * a, -1)
        if self.by_context:
            residual = np.eye(a) - law[:, None, :]  # (C, token, A)
            return (residual[:, :, :, None] * values[:, None, None]).reshape(c * a, -1)
        return (values - np.einsum("ca,cad->cd", law, values)[:, None]).reshape(c * a, -1)

    def _log_law(self, block: _Block, thetas: FloatArray) -> FloatArray:
        """``(C, A, M)`` log-probabilities of next tokens."""
        values = self.values[block.contexts]
        if self.binary:
            log_odds = values @ thetas.T  # (C, M)
            soft = np.maximum(log_odds, 0.0) + np.log1p(np.exp(-np.abs(log_odds)))
            return np.stack([-soft, log_odds - soft], axis=1)
        if self.by_context:
            weights = thetas.reshape(len(thetas), self.vocab_size, -1)
            logits = np.einsum("cf,maf->cam", values, weights, optimize=True)
        else:
            logits = values @ thetas.T
        logits -= logits.max(axis=1, keepdims=True)
        return logits - np.log(np.exp(logits).sum(axis=1, keepdims=True))

    def _pull_back(self, block: _Block, by_logit: FloatArray) -> FloatArray:
        """``(R, d)`` gradients in theta from ``(C, A, R)`` gradients in the logits."""
        values = self.values[block.contexts]
        if self.binary:
            return by_logit[:, 1].T @ values
        if self.by_context:
            return np.einsum("car,cf->raf", by_logit, values, optimize=True).reshape(by_logit.shape[2], -1)
        return by_logit.reshape(-1, by_logit.shape[2]).T @ values.reshape(-1, self.features.dimension)

    def _some(self, block: _Block, number: int) -> Iterator[slice]:
        contexts = block.contexts.stop - block.contexts.start
        size = max(BLOCK_ENTRIES // (contexts * self.vocab_size), 1)
        for start in range(0, number, size):
            yield slice(start, min(start + size, number))


def _shared(
    features: FeatureMap, demonstrations: Demonstrations, chunk: int, codes: IntArray
) -> tuple[FloatArray, FloatArray, list[_Block]]:
    """Contexts numbered by the features; chunks with equal counts merged, found by two 64-bit hashes of the counts."""
    tokens, vocab_size = demonstrations.tokens, features.vocab_size
    distinct, first, inverse = np.unique(codes, return_index=True, return_inverse=True)
    cells = inverse.reshape(codes.shape) * vocab_size + tokens  # (n, H)
    marks = np.random.default_rng(0).integers(0, 1 << 63, size=(2, len(distinct) * vocab_size), dtype=np.uint64)
    units = list(distinct_units(demonstrations, chunk))
    written = demonstrations.written
    keys = []
    for unit in units:
        passed, counts = (each[unit.rows, unit.positions] for each in (cells, written))
        keys.append(np.stack([(mark[passed] * counts).sum(axis=1) for mark in marks], axis=1))
    weights = np.concatenate([unit.weights for unit in units])
    _, leader, group = np.unique(np.concatenate(keys), axis=0, return_index=True, return_inverse=True)
    ends = np.cumsum([0, *(len(unit.rows) for unit in units)])
    rows, columns, counted = [], [], []
    for unit, start, stop in zip(units, ends[:-1], ends[1:]):
        chosen = np.flatnonzero((leader >= start) & (leader < stop))
        places = unit.rows[leader[chosen] - start], unit.positions
        seen = cells[places]
        rows.append(np.repeat(chosen, seen.shape[1]))
        columns.append(seen.ravel())
        counted.append(written[places].ravel())
    shape = len(leader), len(distinct) * vocab_size
    counts = _matrix(np.concatenate(rows), np.concatenate(columns), np.concatenate(counted), shape)
    values = features_met_first(features, demonstrations, first)
    merged = np.bincount(group.ravel(), weights=weights).astype(np.float64)
    return values, merged, [_Block(slice(0, shape[0]), slice(0, len(distinct)), counts)]


def _one_each(
    features: FeatureMap, demonstrations: Demonstrations, chunk: int
) -> tuple[FloatArray, FloatArray, list[_Block]]:
    """A context for each token of each distinct chunk."""
    prompts, tokens, vocab_size = demonstrations.prompts, demonstrations.tokens, features.vocab_size
    units = list(distinct_units(demonstrations, chunk))
    lengths, written = [unit.positions.stop - unit.positions.start for unit in units], demonstrations.written
    values = np.empty((sum(len(unit.rows) * k for unit, k in zip(units, lengths)), *features.feature_shape))
    blocks, chunks, contexts = [], 0, 0
    for unit, length in zip(units, lengths):
        size = max(BLOCK_ENTRIES // (32 * vocab_size * length), 1)
        for start in range(0, len(unit.rows), size):
            rows = unit.rows[start : start + size]
            here = slice(contexts, contexts + len(rows) * length)
            for offset in range(length):
                h = unit.positions.start + offset
                values[here][offset::length] = features.prefix_features(prompts[rows], tokens[rows, :h])
            columns = np.arange(len(rows) * length) * vocab_size + tokens[rows, unit.positions].ravel()
            shape = len(rows), len(rows) * length * vocab_size
            counted = written[rows, unit.positions].ravel()
            counts = _matrix(np.repeat(np.arange(len(rows)), length), columns, counted, shape)
            blocks.append(_Block(slice(chunks, chunks + len(rows)), here, counts))
            chunks, contexts = chunks + len(rows), here.stop
    return values, np.concatenate([unit.weights for unit in units]), blocks


def _matrix(rows: IntArray, columns: IntArray, counted: NDArray[np.bool_], shape: tuple[int, int]) -> Any:
    """Counts of the (row, column) pairs that are counted, dense where many are not zero."""
    from scipy.sparse import csr_array

    counts = csr_array((np.ones(int(counted.sum())), (rows[counted], columns[counted])), shape=shape)
    counts.sum_duplicates()
    return _dense_if_full(counts)


def _dense_if_full(counts: Any) -> Any:
    entries = math.prod(counts.shape)
    return counts.toarray() if entries <= DENSE_ENTRIES and counts.nnz >= DENSE_FROM * entries else counts


# -- Candidates for a rho game over a ball of autoregressive linear policies: maximum likelihood on parts of the data -
#
# Contaminated data have several modes. Refitting without the chunks that the last fit found least likely walks to the
# mode of the rest; so does maximum likelihood on a few chunks that happen to be all of one kind (the concentration
# steps of least trimmed squares: Rousseeuw and Van Driessen, 2006, "Computing LTS regression for large data sets").


TRIMMED = (0.02, 0.05, 0.1, 0.2, 0.35, 0.5)  # share of the weight that is dropped
TRIM_ROUNDS = 6
ROUGH = 1e-6  # relative accuracy of candidates


def likeliest(data: ChunkLikelihood, weights: FloatArray, radius: float, start: FloatArray, tol: float) -> FloatArray:
    """``(d,)`` maximum likelihood in the ball on chunks weighted by ``(U,)`` weights, from ``(d,)`` start."""
    counts = data.counts(weights)
    met = np.flatnonzero(counts.sum(axis=1) > 0)
    if not len(met):
        return start
    rows = SoftmaxRows(data.features, data.values[met], counts[met])
    return newton_in_ball(rows, radius, start, tol, 50).theta


def initial_candidates(
    data: ChunkLikelihood, radius: float, number: int, tol: float, rng: np.random.Generator
) -> FloatArray:
    """``(M, d)``, M at most ``number``: the fit to all the data first, then to trimmed data, to what was trimmed away,
    and to random parts of the data, trimmed in turn."""
    everything = likeliest(data, data.weights, radius, np.zeros(data.features.dimension), tol)
    found = [everything]
    for share in TRIMMED:
        kept = _trimmed(data, radius, everything, share, found, number)
        if len(found) < number and kept is not None:
            found.append(_rough(data, data.weights - kept, radius, everything))
    total, part = data.weights.sum(), 0
    while len(found) < number:
        size = min(max(2, data.features.dimension) * 4 ** (part % 4), len(data))
        chosen = rng.choice(len(data), size=size, p=data.weights / total)
        some = np.bincount(chosen, minlength=len(data)).astype(np.float64) * (total / size)
        found.append(_rough(data, some, radius, np.zeros_like(everything)))
        if part % 2:
            _trimmed(data, radius, found[-1], TRIMMED[part // 2 % len(TRIMMED)], found, number)
        part += 1
    return np.stack(found)


def _rough(data: ChunkLikelihood, weights: FloatArray, radius: float, start: FloatArray) -> FloatArray:
    return likeliest(data, weights, radius, start, ROUGH * float(weights.sum()))


def _trimmed(
    data: ChunkLikelihood, radius: float, theta: FloatArray, share: float, found: list[FloatArray], number: int
) -> FloatArray | None:
    """Appends the fit after dropping the least likely ``share`` again and again; returns the weights it kept."""
    kept = last = None
    for _ in range(TRIM_ROUNDS):
        order = np.argsort(data.log_densities(theta[None])[:, 0], kind="stable")
        dropped = np.minimum(np.cumsum(data.weights[order]), share * data.weights.sum())
        kept = data.weights.copy()
        kept[order] -= np.diff(dropped, prepend=0.0)
        if last is not None and np.array_equal(kept, last):
            break
        theta, last = _rough(data, kept, radius, theta), kept
    if len(found) < number:
        found.append(theta)
    return kept


# -- Local moves of the two players of a rho game over a ball of autoregressive linear policies -----------------------
#
# ``F(theta, theta') = sum_i w_i tanh(s (l_i(theta') - l_i(theta)))`` over chunks i: the first player minimises, the
# second replies. F is neither convex in theta nor concave in theta', so both moves are local.


CLIMB_STEPS = 60
FLAT = 1e-12  # of the total weight: rounding in F


class RhoPayoffs:
    """F with its derivatives.

    Args:
        data: the chunks.
        radius: of the ball.
        tau: ``"ratio"`` or ``"psi"``.
    """

    def __init__(self, data: ChunkLikelihood, radius: float, tau: str) -> None:
        self.data, self.radius, self.tau, self.scale = data, radius, tau, TAU_SCALE[tau]
        self.noise = FLAT * float(data.weights.sum())

    def into_ball(self, thetas: FloatArray) -> FloatArray:
        """``(M, d)`` parameters, those outside the ball scaled to its surface."""
        norms = np.linalg.norm(thetas, axis=1, keepdims=True)
        return thetas * np.minimum(1.0, self.radius / np.maximum(norms, 1e-300))

    def against(self, own: FloatArray, replies: FloatArray) -> FloatArray:
        """``(M,)`` F from ``(U,)`` log-densities of theta and ``(U, M)`` of replies."""
        step = max((1 << 20) // len(own), 1)
        parts = [replies[:, start : start + step] - own[:, None] for start in range(0, replies.shape[1], step)]
        return np.concatenate([self.data.weights @ np.tanh(self.scale * part) for part in parts])

    def at_reply(self, own: FloatArray, reply: FloatArray) -> tuple[float, FloatArray, FloatArray, FloatArray]:
        """F at ``(d,)`` reply; its slopes and curvatures in each l_i(reply), ``(U,)``; and its ``(d,)`` gradient."""
        tanh = np.tanh(self.scale * (self.data.log_densities(reply[None])[:, 0] - own))
        slopes = self.data.weights * self.scale * (1 - tanh**2)
        gradient = self.data.gradients(reply, slopes[:, None])[0]
        return float(self.data.weights @ tanh), slopes, -2 * self.scale * tanh * slopes, gradient

    def reply_hessian(self, reply: FloatArray, slopes: FloatArray, curvatures: FloatArray) -> FloatArray:
        """``(d, d)`` second derivatives of F in the reply."""
        data = self.data
        scores = data.scores(reply)
        rows = SoftmaxRows(data.features, data.values, data.counts(slopes))
        return (scores * curvatures[:, None]).T @ scores - rows.hessian(reply)


def best_reply_from(game: RhoPayoffs, own: FloatArray, start: FloatArray, tol: float) -> tuple[FloatArray, float]:
    """A local maximum of F(theta, .) in the ball, by Newton's method with line search from ``(d,)`` start.

    Directions in which F is not concave are treated as if they were (absolute eigenvalues). Ends when the linearised F
    promises less than ``tol`` within the ball, or nothing more is gained.

    Args:
        own: ``(U,)`` log-densities of theta.

    Returns:
        The reply and its F, no less than that of the start.
    """
    theta = start
    value, slopes, curvatures, gradient = game.at_reply(own, theta)
    for _ in range(CLIMB_STEPS):
        if game.radius * float(np.linalg.norm(gradient)) - float(gradient @ theta) <= tol:
            break
        eigenvalues, vectors = np.linalg.eigh(-game.reply_hessian(theta, slopes, curvatures))
        floor = 1e-9 * max(float(np.abs(eigenvalues).max()), 1e-300)
        model = Curvature(theta, np.maximum(np.abs(eigenvalues), floor), vectors, exact=False)
        linear = -gradient - vectors @ (model.eigenvalues * (vectors.T @ theta))
        move = minimise_quadratic_in_ball(model, linear, game.radius)[0] - theta
        slope, scale = float(gradient @ move), 1.0
        while scale > 1e-8:
            trial = game.at_reply(own, theta + scale * move)
            if trial[0] >= value + 1e-4 * scale * slope:
                break
            scale *= 0.3
        else:
            break
        theta, gain = theta + scale * move, trial[0] - value
        value, slopes, curvatures, gradient = trial
        if gain <= game.noise:
            break
    return theta, value


def descend(game: RhoPayoffs, theta: FloatArray, replies: FloatArray, value: float) -> FloatArray:
    """A local minimum of ``max_r F(theta, reply_r)`` from ``(d,)`` theta, for ``(U, R)`` log-densities of the replies.

    SLSQP on the epigraph form with exact gradients; ``value``, that of the start, sets the scale.
    """
    from scipy.optimize import minimize

    data, unit, square = game.data, max(value, game.noise), game.radius**2
    seen: dict[bytes, tuple[FloatArray, FloatArray]] = {}

    def payoffs(x: FloatArray) -> tuple[FloatArray, FloatArray]:
        """``(R,)`` F / unit, and its ``(R, d)`` Jacobian in theta."""
        key = x[:-1].tobytes()
        if key not in seen:
            seen.clear()
            tanh = np.tanh(game.scale * (replies - data.log_densities(x[None, :-1])))  # (U, R)
            slopes = -game.scale * data.weights[:, None] * (1 - tanh**2)
            seen[key] = data.weights @ tanh / unit, data.gradients(x[:-1], slopes) / unit
        return seen[key]

    below = {
        "type": "ineq",
        "fun": lambda x: x[-1] - payoffs(x)[0],
        "jac": lambda x: np.column_stack([-payoffs(x)[1], np.ones(replies.shape[1])]),
    }
    ball = {
        "type": "ineq",
        "fun": lambda x: 1 - x[:-1] @ x[:-1] / square,
        "jac": lambda x: np.append(-2 * x[:-1] / square, 0.0),
    }
    top = np.append(np.zeros(len(theta)), 1.0)
    start = np.append(theta, payoffs(np.append(theta, 0.0))[0].max())
    result = minimize(
        lambda x: (x[-1], top),
        start,
        jac=True,
        constraints=[below, ball],
        method="SLSQP",
        options={"maxiter": 60, "ftol": 1e-9},
    )
    found = result.x[:-1] if np.isfinite(result.x).all() else theta
    return game.into_ball(found[None])[0]


def nearby(game: RhoPayoffs, theta: FloatArray, number: int, rng: np.random.Generator) -> FloatArray:
    """``(number, d)`` parameters around theta, within the ball, in random directions.

    The distances are such that log-densities of chunks change by between 0.01 and 30 (root mean square, to first
    order): of order 1 / sqrt(K) to 1 / K in theta, where best replies sit.
    """
    scores = game.data.scores(theta)  # (U, d)
    law = game.data.weights / game.data.weights.sum()
    directions = rng.normal(size=(number, len(theta)))
    change = np.sqrt(law @ (scores @ directions.T) ** 2)
    sizes = np.geomspace(0.01, 30.0, 8)[np.arange(number) % 8]
    return game.into_ball(theta + directions * (sizes / np.maximum(change, 1e-12))[:, None])


# -- The rho game in autoregressive linear classes: local search, an exact finite game, a certificate -----------------
#
# In one dimension `solve_linear_game_on_line` solves it to a proved gap over the whole class, by branch and bound
# (`agents.rho_game`). From two dimensions on `solve_linear_game` searches.
#
# The game ``min_theta max_theta' sum_i w_i tau(P_theta(i), P_theta'(i))`` over a ball is not convex in theta, and
# solving it is hard in general: for this class no efficient algorithm has an approximation factor below every
# polynomial in the horizon, if learning parities with noise is hard (Rohatgi et al., 2025, arXiv:2502.12465). What is
# done:
#
# 1. Candidates: maximum likelihood on all the data, on trimmed data, on what was trimmed away, on random parts, and
#    points on segments between those that differ.
# 2. Rounds. The finite game on all candidates so far is solved exactly (`agents.rho_game`); local best replies to its
#    winner join the candidates; so does what a local descent makes of the winner, against all replies known. The rounds
#    end when the winner has been tested so, no better reply was found, and descent gains nothing, from the winner or
#    from candidates unlike it.
# 3. Certificate: the winner meets all candidates, random members of the class at every scale, and local best replies
#    from many starts. If one is better, the rounds go on with it.
#
# Guaranteed: the exact solution of the finite game over the candidates (if the search was cut short, by the number of
# candidates or by time: the best of those that were tested). Measured: the best reply that the certificate found, a
# *lower* bound on the worst case over the ball. Not guaranteed: that no better reply, or no better theta, exists.
#
# One fact helps. F(theta, .) has a local maximum at theta itself exactly if theta is a local maximum of the likelihood,
# for either tau: at theta' = theta the gradient of F is a multiple of the likelihood's and so is its Hessian. So
# maximum likelihood is *the* rho-estimator, with value 0, unless a reply some way off beats it.


FLOOR = 1e-9  # a chunk: differences in F below it count as none (the likelihood is maximised to 1e-10)
ROUNDS = 60
ACTIVE = 32  # replies that a descent starts with
WIDENINGS = 2
OTHER_STARTS = 5  # of descents
REFINEMENTS = 8  # of one descent: replies that it had overlooked join in
GROWTH = 32  # candidates at the end, at most, as a multiple of those at the start
RANDOM = 8  # random replies of each of two kinds in the certificate, likewise
POLES = 6
MOST_WEIGHTS = 2048  # thousands of Hessians are diagonalised
ALONG = np.array([0.125, 0.25, 0.5, 0.75, 0.875])
BEYOND = np.array([0.5, 2.0, 4.0, 8.0])


@dataclass(frozen=True, eq=False)
class LinearSolution:
    """The winner of the finite game, and what it was tested against.

    Attributes:
        theta: ``(d,)`` parameters of the winner.
        value: its worst case over the candidates: the value of the finite game if ``settled``.
        reply_value: its worst case over all replies tried, at least ``value``; a lower bound on that over the ball.
        reply: ``(d,)`` where that is attained.
        settled: the rounds ended by themselves. Otherwise theta is the best of the candidates that were tested.
        converged: settled, and no reply tried is better than ``value`` by more than the tolerance. It is a statement
            about theta alone: another theta with a smaller worst case may have been missed.
        candidates: how many.
        replies: how many replies theta was tested against in the end.
        rounds: finite games solved.
        points: distinct chunks.
        predicted_seconds: what the cost model said before the search started; in a large ball, where likelihoods are
            all but flat, it may take ten times as long.
    """

    theta: FloatArray
    value: float
    reply_value: float
    reply: FloatArray
    settled: bool
    converged: bool
    candidates: int
    replies: int
    rounds: int
    points: int
    predicted_seconds: float


def solve_linear_game(
    policy_class: ARLinearClass,
    demonstrations: Demonstrations,
    chunk: int,
    tau: str,
    *,
    tol: float = 1e-6,
    candidates: int = 32,
    memory_gb: float = 4.0,
    time_limit: float = 60.0,
    rng: np.random.Generator,
) -> LinearSolution:
    """A theta in the ball with a small worst case; see above for what is guaranteed.

    Args:
        policy_class: features and radius.
        demonstrations: weights are normalised; equal demonstrations, and chunks alike to the class, are pooled.
        chunk: K, tokens a chunk.
        tau: ``"ratio"`` or ``"psi"``.
        tol: replies better by less than ``tol`` times the value (and 1e-9 a chunk) are not followed up.
        candidates: how many to start with. The search ends with at most 32 times as many.
        memory_gb: refuse to start if more is needed.
        time_limit: processor seconds; past it the best of the candidates that were tested is returned, not ``settled``,
            with its certificate as always. Looked at between local searches, so that a fit may take a few of these, and
            the certificate, longer.
        rng: source of the random parts of the data and of the random replies. One seed is taken from it: how many
            steps the search takes changes nothing that is drawn from it afterwards.

    Raises:
        NotTractableError: the predicted memory is above ``memory_gb``, or there are more than 2048 weights.
        ValueError: features that are not finite.

    >>> from ntp_envs import make_task
    >>> from ntp_envs.features import FlipSign
    >>> task = make_task("Contamination", horizon=16)
    >>> flips = ARLinearClass(FlipSign(), radius=11.5129)
    >>> game = solve_linear_game(flips, task.population(), 16, "ratio", rng=np.random.default_rng(0))
    >>> game.theta.round(3).tolist(), game.settled
    ([-8.406], True)
    """
    data, cost = _data(policy_class, demonstrations, chunk, GROWTH * candidates, memory_gb)
    predicted = cost.check_game(data)
    own = np.random.default_rng(rng.integers(1 << 32, size=4))
    search = _Search(RhoPayoffs(data, policy_class.radius, tau), tol, candidates, time_limit, own)
    search.run()
    replies, values = search.certificate()
    best = int(values.argmax())
    return LinearSolution(
        theta=search.thetas[search.winner],
        value=search.value,
        reply_value=max(float(values[best]), search.value),
        reply=replies[best],
        settled=search.settled,
        converged=search.settled and not search.better(float(values[best]), search.value),
        candidates=len(search.thetas),
        replies=len(replies),
        rounds=search.rounds,
        points=len(data),
        predicted_seconds=predicted,
    )


def solve_linear_game_on_line(
    policy_class: ARLinearClass,
    demonstrations: Demonstrations,
    chunk: int,
    tau: str,
    *,
    tol: float = 1e-6,
    memory_gb: float = 4.0,
    time_limit: float = 60.0,
) -> OneParameterSolution:
    """The theta of a class of dimension 1 with the smallest worst case, and a proved gap.

    Arguments and errors are those of `solve_linear_game`; past the time limit the gap may be large.

    >>> from ntp_envs import make_task
    >>> from ntp_envs.features import FlipSign
    >>> task = make_task("Contamination", horizon=16)
    >>> flips = ARLinearClass(FlipSign(), radius=11.5129)
    >>> game = solve_linear_game_on_line(flips, task.population(), 16, "ratio")
    >>> round(game.theta, 3), game.gap <= 1e-6 * game.value
    (-8.406, True)
    """
    data, cost = _data(policy_class, demonstrations, chunk, 1, memory_gb)
    cost.check_game(data)
    features, counts, weights = data.line()
    radius, tol_start = policy_class.radius, 0.1 * FLOOR * float(weights.sum())
    return solve_one_parameter_game(
        features,
        counts,
        weights,
        (-radius, radius),
        tau,
        start=float(likeliest(data, data.weights, radius, np.zeros(1), tol_start)[0]),
        tol=tol,
        time_limit=time_limit,
    )


def _data(
    policy_class: ARLinearClass, demonstrations: Demonstrations, chunk: int, most: int, memory_gb: float
) -> tuple[ChunkLikelihood, _Cost]:
    """The distinct chunks of positive weight, if their features fit in memory."""
    used = demonstrations if demonstrations.weights is None else demonstrations.subset(demonstrations.weights > 0)
    used = used.pooled()
    cost = _Cost(policy_class, used, chunk, most, memory_gb)
    cost.check_data()
    return ChunkLikelihood(policy_class.features, used, chunk), cost


class _Cost:
    """What a fit would take, known before it starts."""

    def __init__(
        self, policy_class: ARLinearClass, demonstrations: Demonstrations, chunk: int, most: int, memory_gb: float
    ) -> None:
        self.features, self.most, self.memory_gb = policy_class.features, most, memory_gb
        self.n, self.horizon, self.chunk = len(demonstrations), demonstrations.horizon, chunk
        self.entries = int(np.prod(self.features.feature_shape))
        self.shared = self.features.codes(demonstrations.prompts[:1], demonstrations.tokens[:1]) is not None

    def check_data(self) -> None:
        """Numbers for contexts and counts, and features if every prefix has its own."""
        check_dimension(self.features, "the rho game", MOST_WEIGHTS)
        per_token = 6 if self.shared else 6 + self.entries
        self._check(8.0 * self.n * self.horizon * per_token, "the features of the data")

    def check_game(self, data: ChunkLikelihood) -> float:
        """Log-densities of the candidates, the copy that the finite game makes, scores, the work of a descent.

        Returns the seconds to expect.
        """
        seconds = _seconds(data)
        self._check(
            8.0 * len(data) * (2 * self.most + 2 * self.features.dimension + 4 * ACTIVE),
            f"{len(data)} distinct chunks under up to {self.most} candidates (and perhaps {seconds:.0f} s)",
        )
        return seconds

    def _check(self, needed: float, what: str) -> None:
        if needed / 1e9 <= self.memory_gb:
            return
        raise NotTractableError(
            f"the rho game with n={self.n} distinct sequences, H={self.horizon}, K={self.chunk} and "
            f"d={self.features.dimension} needs about {needed / 1e9:.3g} GB for {what}, more than "
            f"memory_gb={self.memory_gb:g}. Use fewer candidates, a subset of the demonstrations or longer chunks, "
            "raise memory_gb, or fit this class with LogLossBC (or ChunkKR) instead."
        )


def _seconds(data: ChunkLikelihood) -> float:
    """The order of magnitude where maximum likelihood is beaten (4000 second-order passes over the data, on
    one core of 2020 or later), and much too high where it is not."""
    entries = sum(b.counts.size if isinstance(b.counts, np.ndarray) else b.counts.nnz for b in data.blocks)
    d, contexts = data.features.dimension, len(data.values)
    return 4000 * (2e-4 + 1e-9 * (d * entries + 2 * d * d * (contexts + len(data)) + 100 * len(data)))


class _Search:
    """Candidates, their log-densities, and which of them have been tested by a search for replies."""

    def __init__(self, game: RhoPayoffs, tol: float, number: int, time_limit: float, rng: np.random.Generator) -> None:
        self.deadline = time.thread_time() + time_limit
        self.game, self.tol, self.rng = game, tol, rng
        self.number, self.most = number, GROWTH * number
        total = float(game.data.weights.sum())
        self.floor = FLOOR * total
        self.thetas = np.empty((0, game.data.features.dimension))
        self.log_densities = np.empty((len(game.data), 0))
        self.tested: list[int] = []
        self.widened_from: list[int] = []
        self.rounds, self.settled, self.winner, self.value = 0, False, 0, np.inf
        self.add(initial_candidates(game.data, game.radius, number, 0.1 * FLOOR * total, rng))

    def add(self, thetas: FloatArray) -> None:
        """Further candidates, as far as there is room."""
        thetas = thetas[: self.most - len(self.thetas)]
        if len(thetas):
            self.thetas = np.concatenate([self.thetas, thetas])
            self.log_densities = np.hstack([self.log_densities, self.game.data.log_densities(thetas)])

    def full(self) -> bool:
        """Whether there is no room, or no time, for more candidates."""
        return len(self.thetas) >= self.most or time.thread_time() >= self.deadline

    def payoffs(self, index: int) -> FloatArray:
        """``(M,)`` F of a candidate against all."""
        return self.game.against(self.log_densities[:, index], self.log_densities)

    def better(self, value: float, than: float) -> bool:
        return value > than * (1 + self.tol) + self.floor

    # -- rounds --------------------------------------------------------------------------------------------------------

    def run(self) -> None:
        """Rounds until one changes nothing and the certificate agrees, or there is no room for more candidates."""
        self.test(0)
        self.add(self._between(self._poles(0)))
        widenings = 0
        while self.rounds < ROUNDS and not self.full():
            self.rounds += 1
            solution = solve_finite_game(self.log_densities, self.game.data.weights, self.game.tau)
            self.winner, self.value = solution.index, solution.value
            replies, values = self.test(self.winner)
            best = float(values.max())
            if self.better(best, self.value):
                here = self.thetas[self.winner]
                self.add(self.game.into_ball(here + BEYOND[:, None] * (replies[int(values.argmax())] - here)))
            if best > self.floor and self.descend(self.winner):
                continue
            if not self.better(best, self.value):
                if best > self.floor and widenings < WIDENINGS:
                    widenings += 1
                    self.widen()
                    continue
                replies, values = self.certificate()
                self.settled = not self.better(float(values.max()), self.value)
                if self.settled:
                    return
                self.add(replies[[int(values.argmax())]])
        self._choose_tested()

    def test(self, index: int) -> tuple[FloatArray, FloatArray]:
        """Local best replies to a candidate, which join the candidates if they beat it; and their F."""
        replies, values = self.replies(index, tops=3, number=32, climbs=2)
        self.add(replies[values > max(0.5 * float(values.max()), self.floor)])
        self.tested.append(index)
        return replies, values

    def descend(self, start: int) -> bool:
        """Whether a local descent from a (tested) candidate found a better one."""
        payoffs = self.payoffs(start)
        value = float(payoffs.max())
        active = set(np.argsort(-payoffs)[:ACTIVE].tolist())
        for _ in range(REFINEMENTS):
            chosen = np.array(sorted(active))
            theta = descend(self.game, self.thetas[start], self.log_densities[:, chosen], value)
            new = len(self.thetas)
            self.add(theta[None])
            if self.full():
                return False
            if not self.better(value, float(self.payoffs(new)[chosen].max())):
                return False
            self.test(new)
            payoffs = self.payoffs(new)
            if self.better(value, float(payoffs.max())):
                return True
            active |= set(np.argsort(-payoffs)[:8].tolist())
        return False

    def widen(self) -> None:
        """Descents from candidates unlike the winner: F is not convex, and the rounds follow the winner alone.

        They start where the worst case against the winner's best replies, and against maximum likelihood, is smallest.
        """
        against = np.unique(np.append(np.argsort(-self.payoffs(self.winner))[:ACTIVE], 0))
        worst = np.max([-self.payoffs(int(k)) for k in against], axis=0)  # F is antisymmetric
        seen = [self.winner, *self.widened_from]
        for start in self._distinct(np.argsort(worst, kind="stable"), seen, OTHER_STARTS):
            if self.full():
                return
            self.widened_from.append(int(start))
            self.test(int(start))
            self.descend(int(start))

    def _choose_tested(self) -> None:
        """Without room for more: the candidate with the smallest worst case among those with a search for replies."""
        worst = {index: float(self.payoffs(index).max()) for index in self.tested}
        self.winner = min(worst, key=lambda index: worst[index])
        self.value = worst[self.winner]

    # -- replies -------------------------------------------------------------------------------------------------------

    def replies(self, index: int, *, tops: int, number: int, climbs: int) -> tuple[FloatArray, FloatArray]:
        """Local best replies to a candidate ``(R, d)`` and their F: from ``tops`` candidates, itself, and ``climbs`` of
        ``number`` random members nearby."""
        own = self.log_densities[:, index]
        near = nearby(self.game, self.thetas[index], number, self.rng)
        order = np.argsort(-self.game.against(own, self.game.data.log_densities(near)), kind="stable")
        starts = [self.thetas[index], *self.thetas[self._poles(index, tops)], *near[order[:climbs]]]
        tol = 0.1 * max(self.tol * max(self.value if np.isfinite(self.value) else 0.0, 0.0), 0.1 * self.floor)
        found = [best_reply_from(self.game, own, start, tol) for start in starts]
        return np.stack([theta for theta, _ in found]), np.array([value for _, value in found])

    def certificate(self) -> tuple[FloatArray, FloatArray]:
        """``(R, d)`` replies to the winner, and their F: local best replies from many starts, random members near it
        and anywhere in the ball, and all candidates."""
        climbed, values = self.replies(self.winner, tops=8, number=RANDOM * self.number, climbs=8)
        anywhere = self.rng.normal(size=(RANDOM * self.number, self.thetas.shape[1]))
        anywhere *= self.game.radius * self.rng.random((len(anywhere), 1)) / np.linalg.norm(anywhere, axis=1)[:, None]
        random = np.concatenate([nearby(self.game, self.thetas[self.winner], RANDOM * self.number, self.rng), anywhere])
        own = self.log_densities[:, self.winner]
        step = max((1 << 22) // len(own), 1)
        met = [
            self.game.against(own, self.game.data.log_densities(random[start : start + step]))
            for start in range(0, len(random), step)
        ]
        return (
            np.concatenate([climbed, random, self.thetas]),
            np.concatenate([values, *met, self.payoffs(self.winner)]),
        )

    def _poles(self, index: int, number: int = POLES) -> IntArray:
        """Up to ``number`` candidates with the largest F against this one, unlike it and one another."""
        return self._distinct(np.argsort(-self.payoffs(index), kind="stable"), [index], number)

    def _distinct(self, order: IntArray, seen: list[int], number: int) -> IntArray:
        """The first ``number`` candidates in this order whose log-densities differ from those ``seen`` and from one
        another: by 0.02 nats a chunk on average, differences counting at most 1."""
        law = self.game.data.weights / self.game.data.weights.sum()
        chosen: list[int] = []
        for k in order:
            if len(chosen) == number:
                break
            others = self.log_densities[:, [*chosen, *seen]] - self.log_densities[:, [k]]
            if (law @ np.minimum(np.abs(others), 1.0)).min() > 0.02:
                chosen.append(int(k))
        return np.array(chosen, dtype=np.int64)

    def _between(self, poles: IntArray) -> FloatArray:
        """Points on the segments between maximum likelihood (candidate 0) and its best replies, and between those."""
        ends = self.thetas[np.concatenate([[0], poles])]
        pairs = [(i, j) for i in range(len(ends)) for j in range(i + 1, len(ends))]
        points = [ends[i] + ALONG[:, None] * (ends[j] - ends[i]) for i, j in pairs]
        return np.concatenate([np.empty((0, ends.shape[1])), *points])

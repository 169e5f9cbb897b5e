"""The space of ChunkKR's functions: prefixes as features see them, data points, the kernel, and coordinates."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cached_property, lru_cache

import numpy as np
from numpy.typing import NDArray
from scipy.linalg import eigh, hadamard, solve_triangular
from scipy.sparse.linalg import LinearOperator

from ntp_envs import BernoulliClass, Demonstrations, NotTractableError, PolicyClass
from ntp_envs.arrays import FloatArray, IntArray, all_sequences, first_best, prefix_codes
from ntp_envs.features import ContextFeatureMap, FeatureMap, FlipSign, WindowOneHot
from ntp_envs.saved import Savable

Tree = list[FloatArray]  # entry t: (B, 2**t, d), the features after each string of t tokens
Contexts = tuple[IntArray, ...]  # (states,) where the features have finite memory, else (prompts, tokens)

#: slack on ||u|| <= 1 for rounding
NORM_SLACK = 1e-9


def binary_features(policy_class: PolicyClass) -> FeatureMap:
    """The feature map of an autoregressive linear class over two tokens (the Bernoulli classes have d = 1).

    Raises:
        NotTractableError: a vocabulary of another size, of which a chunk would have A^K points.
        TypeError: a class that has no feature map.
    """
    if policy_class.vocab_size != 2:
        raise NotTractableError(
            f"ChunkKR is for binary tokens, and the policy class has vocab_size={policy_class.vocab_size}; "
            "write each token as log2(A) bits, or use a learner for general A (LogLossBC, RhoEstimatorBC)."
        )
    if isinstance(policy_class, BernoulliClass):
        return FlipSign() if policy_class.on == "flips" else WindowOneHot(2, 0)
    features = getattr(policy_class, "features", None)
    if not isinstance(features, FeatureMap):
        raise TypeError(
            f"ChunkKR needs an autoregressive linear class with a FeatureMap in .features, or a BernoulliClass; "
            f"{type(policy_class).__name__} has none."
        )
    return features


class PrefixReader(Savable):
    """Tells prefixes apart as a feature map does, and gives their features along every continuation.

    Where the features have finite memory (`ntp_envs.features.FeatureMap.states`) a prefix is a state of their
    automaton; otherwise it is kept whole.
    """

    def __init__(self, features: FeatureMap) -> None:
        self.features = features
        self.states = features.states()
        if self.states is not None:
            table = self.states.features
            self._signed = table if isinstance(features, ContextFeatureMap) else table[:, 1] - table[:, 0]

    def distinct(self, prompts: NDArray[np.integer], tokens: NDArray[np.integer]) -> tuple[Contexts, IntArray]:
        """Distinct prefixes, and which of them each of the B rows ``(B, P)``, ``(B, t)`` is: ``(B,)``."""
        width = np.shape(prompts)[1]
        if self.states is None:
            line: IntArray = np.concatenate([prompts, tokens], axis=1).astype(np.int64)
            rows, inverse = line[:1], np.zeros(len(line), dtype=np.int64)
            if line.shape[1]:
                rows, inverse = np.unique(line, axis=0, return_inverse=True)
            return (rows[:, :width], rows[:, width:]), inverse.reshape(-1)
        window = self.features.window
        if window is not None and tokens.shape[1] > window:
            tokens = tokens[:, tokens.shape[1] - window :]
        beyond = np.zeros((len(tokens), 1), dtype=np.int64)
        state = self.states.path(prompts, np.concatenate([tokens, beyond], axis=1))[:, -1]
        distinct, inverse = np.unique(state, return_inverse=True)
        return (distinct,), inverse.reshape(-1)

    def tree(self, contexts: Contexts, length: int) -> Tree:
        """u(prefix + string) for every string of fewer than ``length`` tokens: entry t has shape ``(B, 2**t, d)``.

        Raises:
            ValueError: a feature that is not finite, or a row with norm above 1 (they are not rescaled silently: the
                kernel is only defined on the unit ball, and rescaling changes what the class's radius means).
        """
        tree: Tree = []
        n = len(contexts[0])
        state = contexts[0][:, None]
        for t in range(length):
            if self.states is None:
                strings = np.tile(all_sequences(2, t), (n, 1))
                before = np.repeat(contexts[1], 2**t, axis=0)
                u = self.features.signed(
                    np.repeat(contexts[0], 2**t, axis=0), np.concatenate([before, strings], axis=1)
                )
                level = np.asarray(u, dtype=np.float64).reshape(n, 2**t, -1)
            else:
                level = self._signed[state]
                state = self.states.transitions[state].reshape(n, -1)
            _check_unit_ball(level)
            tree.append(level + 0.0)  # + 0.0: no negative zeros
        return tree


def _check_unit_ball(level: FloatArray) -> None:
    if not np.isfinite(level).all():
        bad = level[~np.isfinite(level).all(axis=2)][0]
        raise ValueError(f"the features of a prefix are {bad.tolist()}; they must be finite numbers.")
    norm = float(np.sqrt(np.square(level).sum(axis=2).max(initial=0.0)))
    if norm > 1.0 + NORM_SLACK:
        raise ValueError(
            f"a feature vector has norm {norm:.6g}; ChunkKR's kernel is defined for norms <= 1. Divide the features "
            f"by {norm:.6g} (and multiply the class's radius by it)."
        )


def canonical_order(tree: Tree) -> tuple[Tree, IntArray]:
    """The same trees with strings renamed so that every feature vector's first non-zero entry is positive.

    The kernel sees tokens only through v = (2a - 1) u, so a prefix where u changes sign is the same prefix with the
    two tokens exchanged. Renaming pools such prefixes: all of them, in a class of flips.

    Returns:
        The renamed tree, and ``(B, 2**K)`` integers: the true string behind each renamed one.
    """
    batch = np.arange(len(tree[0]))[:, None]
    order = np.zeros((len(tree[0]), 1), dtype=np.int64)
    renamed: Tree = []
    for level in tree:
        u = level[batch, order]  # (B, 2**t, d)
        lead = np.take_along_axis(u, (u != 0).argmax(axis=2)[:, :, None], axis=2)[:, :, 0]
        swap = lead < 0
        renamed.append(np.where(swap[:, :, None], -u, u) + 0.0)
        children = 2 * order[:, :, None] + (np.arange(2) ^ swap[:, :, None])  # (B, 2**t, 2)
        order = children.reshape(len(order), -1)
    return renamed, order


def tree_keys(tree: Tree) -> list[bytes]:
    """One key a prefix: equal features along every continuation give equal keys."""
    flat = np.concatenate([level.reshape(len(level), -1) for level in tree], axis=1)
    return [row.tobytes() for row in np.ascontiguousarray(flat)]


# -- Data points of ChunkKR: every data prefix with every continuation, equal prefixes pooled -------------------------


#: floats of features held at once
POINTS_BLOCK = 2**21
#: points at most, by default: in general, and where the kernel is stationary
MAX_POINTS, MAX_STATIONARY = 50_000, 2**16


@dataclass
class ChunkPoints:
    """Pooled prefixes with the empirical law of the strings that follow them.

    Attributes:
        length: K, tokens a chunk.
        tree: K arrays ``(n, 2**t, d)`` of features, in the order of `canonical_order`.
        weights: ``(n, 2**K)`` empirical frequencies of (prefix, string), summing to one.
        rows: the number of each pooled prefix, by its features.
        raw: prefixes before pooling by features, summed over the chunk positions.
        positions: chunks a sequence.
    """

    length: int
    tree: Tree
    weights: FloatArray
    rows: dict[bytes, int] = field(repr=False)
    raw: int
    positions: int

    @property
    def n_prefixes(self) -> int:
        return len(self.weights)

    @property
    def n_points(self) -> int:
        return self.weights.size

    @cached_property
    def stationary(self) -> bool:
        """Whether the kernel is `stationary`, and diagonalised by `walsh_embedding`."""
        return stationary(self.tree)


def chunk_groups(demonstrations: Demonstrations, chunk: int) -> dict[int, list[slice]]:
    """Chunk positions by their length: K, and the remainder where K does not divide H."""
    groups: dict[int, list[slice]] = {}
    for where in demonstrations.chunks(chunk):
        groups.setdefault(where.stop - where.start, []).append(where)
    return groups


def collect_points(
    demonstrations: Demonstrations,
    reader: PrefixReader,
    positions: list[slice],
    *,
    max_points: int | None,
    exchangeable: bool = False,
) -> ChunkPoints:
    """Pool the chunks at these positions (all of one length).

    Args:
        demonstrations: the data; their weights are used.
        reader: of the class's features.
        positions: chunk positions, of equal length K.
        max_points: refuse more than this many pooled prefixes * 2**K; by default `MAX_POINTS`, and `MAX_STATIONARY`
            where the kernel is.
        exchangeable: the demonstrations hold one representative a number of events (populations of the Bernoulli
            tasks): spread its weight evenly over the strings with as many, as the expert does.

    Raises:
        NotTractableError: too many points; the message has the numbers and the ways round.
        ValueError: features that are not finite or leave the unit ball.
    """
    length = positions[0].stop - positions[0].start
    size = 2**length
    limit = MAX_STATIONARY if max_points is None else max_points
    if size > limit:
        raise _too_many(length, 1, limit)
    row_weights = demonstrations.normalised_weights() / len(positions)
    rows: dict[bytes, int] = {}
    trees: list[Tree] = []
    weights: list[FloatArray] = []
    raw = 0
    for where in positions:
        contexts, inverse = reader.distinct(demonstrations.prompts, demonstrations.tokens[:, : where.start])
        cells = inverse * size + prefix_codes(demonstrations.tokens[:, where], 2)
        table = np.bincount(cells, weights=row_weights, minlength=len(contexts[0]) * size).reshape(-1, size)
        used = np.flatnonzero(table.sum(axis=1) > 0)
        raw += len(used)
        step = max(1, POINTS_BLOCK // (size * reader.features.dimension))
        for start in range(0, len(used), step):
            block = used[start : start + step]
            tree, order = canonical_order(reader.tree(tuple(part[block] for part in contexts), length))
            renamed = np.take_along_axis(table[block], order, axis=1)
            for i, key in enumerate(tree_keys(tree)):
                row = rows.setdefault(key, len(rows))
                if row < len(weights):
                    weights[row] += renamed[i]
                    continue
                if len(rows) * size > limit or len(rows) ** 2 * size > 2**8 * MAX_STATIONARY:
                    raise _too_many(length, len(rows), limit)
                trees.append([level[i] for level in tree])
                weights.append(renamed[i].copy())
    pooled = np.stack(weights)
    if exchangeable:
        pooled = _spread(pooled, length)
    tree = [np.stack([one[t] for one in trees]) for t in range(length)]
    points = ChunkPoints(length, tree, pooled / pooled.sum(), rows, raw, len(positions))
    if max_points is None and points.n_points > MAX_POINTS and not points.stationary:
        raise _too_many(length, points.n_prefixes, MAX_POINTS)
    return points


def _spread(weights: FloatArray, length: int) -> FloatArray:
    """Weights averaged over strings with equally many ones; in canonical order a one is an event."""
    ones = np.array([s.bit_count() for s in range(2**length)])
    total = np.stack([np.bincount(ones, weights=row, minlength=length + 1) for row in weights])
    return total[:, ones] / np.array([math.comb(length, k) for k in ones], dtype=np.float64)


def _too_many(length: int, prefixes: int, max_points: int) -> NotTractableError:
    return NotTractableError(
        f"ChunkKR with chunk={length} needs at least {prefixes} prefixes * 2**{length} strings = "
        f"{prefixes * 2**length} points, above max_points={max_points} (a low-rank fit of 50000 points at rank 1024 "
        "takes about 2 GB). Use a shorter chunk, fewer demonstrations, features with a finite window (equal contexts "
        "are pooled), or raise max_points."
    )


# -- The chunk kernel: a product over tokens of 1 / (1 - <v, v'> / 2), accumulated in log space -----------------------


@dataclass
class KernelRange:
    """The smallest and largest log-products seen, to tell how far the kernel is from overflow (|log| near 700)."""

    low: float = math.inf
    high: float = -math.inf

    def see(self, log_products: FloatArray) -> None:
        """Widen the range to these values."""
        if log_products.size:
            self.low = min(self.low, float(log_products.min()))
            self.high = max(self.high, float(log_products.max()))


def sequence_features(tree: Tree, points: NDArray[np.integer]) -> FloatArray:
    """``(m, K, d)`` rows v_t = (2 a_t - 1) u_t of single points, numbered prefix * 2**K + string."""
    length = len(tree)
    prefix, string = points >> length, points & (2**length - 1)
    rows = []
    for t, level in enumerate(tree):
        sign = 2.0 * ((string >> (length - 1 - t)) & 1) - 1.0
        rows.append(sign[:, None] * level[prefix, string >> (length - t)])
    return np.stack(rows, axis=1)


def log_chunk_kernel(tree: Tree, sequences: FloatArray, seen: KernelRange | None = None) -> FloatArray:
    """Log-kernel between every (prefix, string) of a tree and single points.

    kappa(t) = 1 / (1 - t / 2) on t = <v, v'> in [-1, 1] is the kernel of Shalev-Shwartz, Shamir and Sridharan (2011);
    its product over the K tokens of a chunk is our reading of the kernel of ChunkKR. Every factor lies in [2/3, 2],
    so the log-product lies in [K log(2/3), K log 2].

    Args:
        tree: K arrays ``(B, 2**t, d)``.
        sequences: ``(m, K, d)`` rows of `sequence_features`.
        seen: widened to the values met.

    Returns:
        ``(B * 2**K, m)`` log-kernel.
    """
    log_kernel = np.zeros((len(tree[0]), sequences.shape[0]))
    for t, level in enumerate(tree):
        half = 0.5 * (level.reshape(-1, level.shape[2]) @ sequences[:, t].T)  # (B 2**t, m)
        grown = np.empty((len(half), 2, half.shape[1]))
        np.subtract(log_kernel, np.log1p(half), out=grown[:, 0])  # token 0: v = -u
        np.subtract(log_kernel, np.log1p(-half), out=grown[:, 1])
        log_kernel = grown.reshape(2 * len(half), half.shape[1])
    if seen is not None:
        seen.see(log_kernel)
    return log_kernel


# -- Coordinates for the functions of ChunkKR's kernel space: f = Phi c on the data points, ||f|| = ||c|| -------------


#: eigenvalues (or pivots) below this fraction of the largest are dropped
EIGEN_CUT = 1e-9
#: kernel entries evaluated at once
BLOCK = 2**23
#: entries of ``phi`` formed at most where it is an operator
MATRIX = 2**24


@dataclass(frozen=True, eq=False)
class Expansion(Savable):
    """A function of (prefix, string): ``constant + sum_j coefficients[j] k(., landmark_j)``.

    Attributes:
        landmarks: ``(m, K, d)`` rows v_t of the landmark points.
        coefficients: ``(m,)``.
        constant: the constants belong to the kernel space, with norm their absolute value.
    """

    landmarks: FloatArray
    coefficients: FloatArray
    constant: float

    @property
    def cost(self) -> int:
        """Kernel evaluations for each value."""
        return max(1, len(self.landmarks))

    def __call__(self, tree: Tree, seen: KernelRange | None = None) -> FloatArray:
        """``(B, 2**K)`` values at every string after B prefixes."""
        n, size = len(tree[0]), 2 ** len(tree)
        out = np.empty((n, size))
        step = max(1, BLOCK // (size * max(1, len(self.landmarks))))
        for start in range(0, n, step):
            block = slice(start, start + step)
            kernel = np.exp(log_chunk_kernel([level[block] for level in tree], self.landmarks, seen))
            out[block] = (kernel @ self.coefficients + self.constant).reshape(-1, size)
        return out


@dataclass(frozen=True, eq=False)
class WalshExpansion(Savable):
    """The same, where the kernel is stationary: all values after a prefix at once, by Walsh transforms.

    Attributes:
        tree: K arrays ``(n, 2**t, d)``, the features after the data prefixes.
        coefficients: ``(2**K, n)`` Walsh transform, over strings, of the kernel coefficients of the data points.
        constant: as for `Expansion`.
    """

    tree: Tree
    coefficients: FloatArray
    constant: float

    @property
    def cost(self) -> int:
        return self.coefficients.shape[1] * len(self.tree)

    def __call__(self, tree: Tree, seen: KernelRange | None = None) -> FloatArray:
        size, n = self.coefficients.shape
        out = np.empty((len(tree[0]), size))
        step = max(1, BLOCK // (size * n))
        for start in range(0, len(out), step):
            block = [level[start : start + step] for level in tree]
            if stationary([np.concatenate(levels) for levels in zip(self.tree, block, strict=True)]):
                kernel = walsh_kernel(block, self.tree, seen)
                values = walsh(np.einsum("wpq,wq->pw", kernel, self.coefficients)) + self.constant
            else:  # it is between the data, and not beyond them
                landmarks = sequence_features(self.tree, np.arange(size * n))
                values = Expansion(landmarks, walsh(self.coefficients.T).ravel(), self.constant)(block, seen)
            out[start : start + step] = values
        return out


@dataclass(frozen=True, eq=False)
class Embedding:
    """``phi (N, r)`` with ``phi.T @ phi`` diagonal: f = phi c on the data and ``||c||`` is the norm of f.

    Attributes:
        phi: ``(N, r)``, points in the order prefix * 2**K + string; a linear operator for ``method`` Walsh.
        eigenvalues: ``(r,)`` the diagonal of ``phi.T @ phi``.
        size: 2**K.
        condition: largest over smallest eigenvalue of the full Gram matrix (of the kept ones for ``method`` Cholesky).
        trace_error: what the coordinates leave out of the trace of the Gram matrix, as a fraction.
        kernel: smallest and largest log-product of the kernel seen.
        method: ``"eigen"``, ``"walsh"`` or ``"cholesky"``.
        expansion: the function with given coordinates ``(r,)``, for points that are not in the data.
    """

    phi: FloatArray | LinearOperator
    eigenvalues: FloatArray
    size: int
    condition: float
    trace_error: float
    kernel: KernelRange
    method: str
    expansion: Callable[[FloatArray], Expansion | WalshExpansion]

    @property
    def rank(self) -> int:
        return self.phi.shape[1]

    def matrix(self) -> FloatArray:
        """``phi`` as an array, for solvers that need its entries.

        Raises:
            NotTractableError: it has more than `MATRIX` of them.
        """
        if isinstance(self.phi, np.ndarray):
            return self.phi
        if math.prod(self.phi.shape) > MATRIX:
            raise NotTractableError(
                f"that needs the {self.phi.shape[0]} x {self.phi.shape[1]} coordinates of all points, more than "
                f"{MATRIX} numbers; use solver='admm' with a larger norm_bound, or a shorter chunk."
            )
        return self.phi @ np.eye(self.rank)


def gram_matrix(points: ChunkPoints, seen: KernelRange | None = None) -> FloatArray:
    """``(N, N)`` kernel between all data points."""
    n = points.n_points
    out = np.empty((n, n))
    step = max(1, BLOCK // n)
    for start in range(0, n, step):
        block = slice(start, min(start + step, n))
        columns = sequence_features(points.tree, np.arange(n)[block])
        np.exp(log_chunk_kernel(points.tree, columns, seen), out=out[:, block])
    return out


def eigen_embedding(points: ChunkPoints) -> Embedding:
    """Exact up to the eigenvalues of the Gram matrix below 1e-9 of the largest, which are dropped.

    If any are, the constant function, which is always feasible, is kept as a coordinate of its own: its part outside
    the span of the others, divided by an upper bound on its norm (the norm of a constant is its absolute value). The
    set of functions is then still a subset of the true one.
    """
    seen = KernelRange()
    gram = gram_matrix(points, seen)
    trace = float(np.trace(gram))
    values, vectors = eigh(gram, overwrite_a=True, check_finite=False)
    keep = values > EIGEN_CUT * values[-1]
    kept = values[keep]
    basis = vectors[:, keep] / np.sqrt(kept)  # coordinate functions as kernel sums
    phi = vectors[:, keep] * np.sqrt(kept)
    constants = np.zeros(len(kept))
    if not keep.all():
        inside = basis.sum(axis=0)  # <1, e_k>, since <1, k(., x)> = 1
        outside = 1.0 - phi @ inside
        norm = math.sqrt(max(1.0 - float(inside @ inside), 0.0))
        if norm > 1e-8 and float(np.abs(outside).max()) > 1e-14:
            phi = np.column_stack([phi, outside / norm])
            basis = np.column_stack([basis, -(basis @ inside) / norm])
            constants = np.append(constants, 1.0 / norm)
            kept = np.append(kept, float(outside @ outside) / norm**2)
    return Embedding(
        phi=np.ascontiguousarray(phi),
        eigenvalues=kept,
        size=2**points.length,
        condition=float(values[-1] / max(values[0], np.finfo(np.float64).eps * values[-1])),
        trace_error=max(0.0, 1.0 - float(kept.sum()) / trace),
        kernel=seen,
        method="eigen",
        expansion=_by_landmarks(sequence_features(points.tree, np.arange(points.n_points)), basis, constants),
    )


def _by_landmarks(
    landmarks: FloatArray, basis: FloatArray, constants: FloatArray
) -> Callable[[FloatArray], Expansion | WalshExpansion]:
    """From coordinates to `Expansion`.

    Args:
        landmarks: ``(m, K, d)``.
        basis: ``(m, r)`` kernel coefficients of each coordinate function.
        constants: ``(r,)`` its constant part.
    """
    return lambda c: Expansion(landmarks, basis @ c, float(constants @ c))


# Where <u, u'> of any two prefixes depends on the strings that follow them through the tokens in which these differ
# alone, so does the kernel: it is stationary on the group of strings under exclusive or, and Walsh transforms, which
# are its characters, make it diagonal in them.


#: inner products that ought to vanish may differ from zero by this much
STATIONARY = 1e-12


def stationary(tree: Tree) -> bool:
    """Whether <u(p, s), u(q, s')> is a function of p, q and s XOR s' at every token.

    So it is where each feature is an indicator or the sign of a token, the same one counted from the chunk after every
    prefix, a product of such, or blind to the chunk. It says that the Walsh transforms of u over strings are orthogonal
    at different indices, so that at most d of these are there.
    """
    for level in tree:
        n, size, dimension = level.shape
        if bool((level == level[:, :1]).all()):
            continue
        spectrum = walsh(np.moveaxis(level, 1, 2)) / math.sqrt(size)
        present = np.flatnonzero(np.abs(spectrum).max(axis=(0, 1)) > STATIONARY)
        if len(present) > dimension:
            return False
        parts = np.moveaxis(spectrum[:, :, present], 2, 0)  # (indices, n, d)
        moments = np.moveaxis(parts, 1, 2) @ parts
        if np.abs(parts @ (moments.sum(axis=0) - moments)).max() > STATIONARY * n:
            return False
    return True


def walsh(values: FloatArray) -> FloatArray:
    """Orthonormal Walsh-Hadamard transform over the last axis, of length 2**K; its own inverse.

    >>> walsh(np.array([1.0, 0.0, 0.0, 0.0])).tolist()
    [0.5, 0.5, 0.5, 0.5]
    """
    size = values.shape[-1]
    high = 2 ** ((size.bit_length() - 1) // 2)
    square = values.reshape(-1, high, size // high)
    return (_signs(high) @ square @ _signs(size // high) / math.sqrt(size)).reshape(values.shape)


@lru_cache(maxsize=32)
def _signs(size: int) -> FloatArray:
    """The Walsh-Hadamard matrix, 1 and -1; the solver asks for it at every step."""
    return hadamard(size, dtype=np.float64)


def walsh_kernel(tree: Tree, other: Tree, seen: KernelRange | None = None) -> FloatArray:
    """``(2**K, n, m)`` eigenvalues over strings of the stationary kernel between the prefixes of two trees."""
    n, m, size = len(tree[0]), len(other[0]), 2 ** len(tree)
    origins = sequence_features(other, size * np.arange(m))
    kernel = np.exp(log_chunk_kernel(tree, origins, seen)).reshape(n, size, m)
    return np.moveaxis(walsh(np.moveaxis(kernel, 1, 2)), 2, 0) * math.sqrt(size)


class _WalshCoordinates(LinearOperator):
    """``phi`` of `walsh_embedding`: coordinate functions are supported on one index w of the transform each.

    Args:
        factors: ``(2**K, n, n)``, column j of entry w the function (w, j) at the data prefixes.
        kept: flat indices (w, j) that are coordinates.
        constant: ``(n, 0 or 1)`` values at the data prefixes of one more coordinate, constant over strings; the last.
    """

    def __init__(self, factors: FloatArray, kept: IntArray, constant: FloatArray) -> None:
        size, n, _ = factors.shape
        super().__init__(np.float64, (n * size, len(kept) + constant.shape[1]))
        self.factors, self.kept, self.constant = factors, kept, constant

    def _matvec(self, c: FloatArray) -> FloatArray:
        c = c.ravel()
        size, n, _ = self.factors.shape
        spread = np.zeros(size * n)
        spread[self.kept] = c[: len(self.kept)]
        values = np.einsum("wpj,wj->pw", self.factors, spread.reshape(size, n))
        return (walsh(values) + (self.constant @ c[len(self.kept) :])[:, None]).ravel()

    def _rmatvec(self, values: FloatArray) -> FloatArray:
        size, n, _ = self.factors.shape
        rows = values.reshape(n, size)
        found = np.einsum("wpj,pw->wj", self.factors, walsh(rows)).ravel()[self.kept]
        return np.append(found, rows.sum(axis=1) @ self.constant)  # nothing, or one


def walsh_embedding(points: ChunkPoints) -> Embedding:
    """The coordinates of `eigen_embedding` where the kernel is `stationary`.

    One eigendecomposition of the n prefixes for each of the 2**K indices of the transform: O(2**K n^3) in place of
    O(2**(3 K) n^3) time, O(2**K n^2) memory, and O(2**K (n^2 + K n)) for a product with ``phi``.
    """
    seen = KernelRange()
    kernel = walsh_kernel(points.tree, points.tree, seen)
    values, vectors = np.linalg.eigh(kernel)
    largest, smallest = float(values.max()), float(values.min())
    kept = np.flatnonzero(values.ravel() > EIGEN_CUT * largest)
    roots = np.sqrt(np.maximum(values, 0.0))
    factors = vectors * roots[:, None, :]
    strings = kernel.shape[0]
    # the constant function lies in index 0, where its values are sqrt(2**K); of it, what was dropped there
    first = values[0] > EIGEN_CUT * largest
    inside = math.sqrt(strings) * (vectors[0][:, first] / roots[0][first]).sum(axis=0)  # <1, e_k>
    outside = 1.0 - factors[0][:, first] @ inside / math.sqrt(strings)
    norm = math.sqrt(max(1.0 - float(inside @ inside), 0.0))
    worth = norm > 1e-8 and float(np.abs(outside).max()) > 1e-14 and not bool(first.all())
    constant = outside[:, None] / norm if worth else np.zeros((len(outside), 0))
    flat = values.ravel()[kept]

    def expansion(c: FloatArray) -> WalshExpansion:
        spread = np.zeros(values.size)
        spread[kept] = c[: len(kept)] / np.sqrt(flat)
        coefficients = np.einsum("wpj,wj->wp", vectors, spread.reshape(values.shape))
        own = 0.0
        if worth:
            own = float(c[-1]) / norm
            coefficients[0] -= own * (vectors[0][:, first] / roots[0][first]) @ inside
        return WalshExpansion(points.tree, coefficients, own)

    return Embedding(
        phi=_WalshCoordinates(factors, kept, constant),
        eigenvalues=np.append(flat, strings * np.square(constant).sum(axis=0)),
        size=strings,
        condition=largest / max(smallest, np.finfo(np.float64).eps * largest),
        trace_error=max(0.0, 1.0 - float(flat.sum()) / float(values.sum())),
        kernel=seen,
        method="walsh",
        expansion=expansion,
    )


def cholesky_embedding(points: ChunkPoints, rank: int) -> Embedding:
    """The constant function and pivoted Cholesky on at most ``rank - 1`` landmark points; memory O(N rank).

    The functions are those spanned by the constant and the landmarks, with their true norms: a subset of the space,
    so that every certificate holds *within the subset*; ``trace_error`` says how much of the space it misses.
    """
    seen = KernelRange()
    n = points.n_points
    everywhere = sequence_features(points.tree, np.arange(n))
    diagonal = np.exp(-np.log1p(-0.5 * np.square(everywhere).sum(axis=2)).sum(axis=1)) - 1.0
    trace, start = float(diagonal.sum()) + n, float(diagonal.max()) + 1.0
    factor = np.zeros((n, min(rank - 1, n)), order="F")
    pivots: list[int] = []
    for j in range(factor.shape[1]):
        pivot = int(first_best(diagonal, slack=1e-6 * diagonal.max()))  # any of the largest will do: always the same
        if diagonal[pivot] <= EIGEN_CUT * start:
            break
        column = np.expm1(log_chunk_kernel(points.tree, everywhere[[pivot]], seen)[:, 0])
        column -= factor[:, :j] @ factor[pivot, :j]
        factor[:, j] = column / math.sqrt(diagonal[pivot])
        diagonal = np.maximum(diagonal - factor[:, j] ** 2, 0.0)
        diagonal[pivot] = 0.0
        pivots.append(pivot)
    whole = np.column_stack([np.ones(n), factor[:, : len(pivots)]])
    del factor
    values, rotation = eigh(whole.T @ whole)
    phi = np.ascontiguousarray(whole @ rotation)
    coordinates = np.zeros((0, phi.shape[1]))
    if pivots:
        triangle = np.tril(whole[pivots, 1:])
        coordinates = solve_triangular(triangle, rotation[1:], lower=True, trans="T")
    return Embedding(
        phi=phi,
        eigenvalues=np.maximum(values, 0.0),
        size=2**points.length,
        condition=float(values[-1] / max(values[0], np.finfo(np.float64).eps * values[-1])),
        trace_error=float(diagonal.sum()) / trace,
        kernel=seen,
        method="cholesky",
        expansion=_by_landmarks(everywhere[pivots], coordinates, rotation[0] - coordinates.sum(axis=0)),
    )

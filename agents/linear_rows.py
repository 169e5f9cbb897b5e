"""The data of an autoregressive linear likelihood as rows (features, weighted token counts), and passes over them.

The loss is ``f(theta) = sum_rows sum_a counts_a * -log softmax(<theta, phi>)_a``, in nats. Rows are contexts pooled
over the data where the features have a finite memory, positions of sequences otherwise; in the second case they are
kept in memory up to `MEMORY_BYTES`, indicators of two tokens as digits, and computed anew in every pass beyond that.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from copy import copy
from dataclasses import replace
from functools import cached_property
from typing import Any, TypeGuard

import numpy as np
from numpy.typing import NDArray

from agents.targets import Targets
from ntp_envs import NotTractableError
from ntp_envs.arrays import FloatArray, IntArray
from ntp_envs.demonstrations import TokenRows, row_blocks
from ntp_envs.features import ContextFeatureMap, FeatureMap, IndexArray, IndicatorFeatureMap, normalised_logits

MEMORY_BYTES = 1 << 29
PASS_BYTES = 1 << 21  # rows handled at once in a pass: fits in cache
MANY_ROWS = 1 << 16  # so many or more: how they are kept decides how long a pass takes
DENSE_LIMIT = 8192  # weights: a Hessian takes half a gigabyte, and minutes to diagonalise


def check_dimension(features: FeatureMap, what: str, limit: int = DENSE_LIMIT) -> None:
    """``NotTractableError`` where d is above ``limit``: ``what`` would take hours, or more memory than there is.

    >>> from ntp_envs.features import FlipSign
    >>> check_dimension(FlipSign(), "maximum likelihood")
    """
    if features.dimension > limit:
        raise NotTractableError(
            f"{what} is limited to {limit} weights in an autoregressive linear class, and {features!r} has "
            f"d={features.dimension}. Use a smaller window or vocabulary, or LogLossBC with indicator features (such "
            "as WindowOneHot) of more than two tokens, which has no limit."
        )


class SoftmaxRows:
    """Rows of features and counts with the three passes a second-order method needs.

    Args:
        features: decides how ``theta`` meets the features (binary, one weight vector a token, or joint).
        values: ``(N, c)`` or ``(N, A, d)`` features, or ``None`` if ``source`` gives them.
        counts: ``(N, A)`` weighted token counts.
    """

    def __init__(self, features: FeatureMap, values: FloatArray | None, counts: FloatArray | None) -> None:
        self.features, self.values, self.counts = features, values, counts
        self.vocab_size = features.vocab_size
        self.by_context = isinstance(features, ContextFeatureMap)
        self.width = math.prod(features.feature_shape)
        self.gradient_passes = self.hessian_passes = 0

    @property
    def n_rows(self) -> int:
        return 0 if self.counts is None else len(self.counts)

    def blocks(self) -> Iterator[tuple[FloatArray, FloatArray]]:
        """``(values, counts)`` of a few rows at a time."""
        if self.values is None or self.counts is None:
            raise NotImplementedError("rows without stored features need their own blocks().")
        yield from _cut(self.values, self.counts, self.width)

    def gradient_work(self) -> float:
        """Multiplications of one gradient pass, counted eightfold: it waits for memory where a Hessian does not."""
        return 16.0 * self.n_rows * self.width * (self.vocab_size if self.by_context and self.vocab_size > 2 else 1)

    def hessian_work(self) -> float:
        """Multiplications of one Hessian pass."""
        return float(self.n_rows * self.features.dimension**2 * (1 if self.by_context else self.vocab_size))

    def loss_and_gradient(self, theta: FloatArray) -> tuple[float, FloatArray]:
        """``f(theta)`` and its ``(d,)`` gradient."""
        self.gradient_passes += 1
        loss, gradient = 0.0, np.zeros(self.features.dimension)
        for values, counts in self.blocks():
            if self.by_context and self.vocab_size == 2:
                log_odds = values @ theta  # (N,)
                total = counts[:, 0] + counts[:, 1]
                small = np.exp(-np.abs(log_odds))
                # log(1 + e^z) = max(z, 0) + log1p(e^-|z|)
                soft = np.maximum(log_odds, 0.0) + np.log1p(small)
                loss += float(total @ soft - counts[:, 1] @ log_odds)
                law = np.where(log_odds < 0.0, small, 1.0) / (1.0 + small)
                gradient += (total * law - counts[:, 1]) @ values
                continue
            probs, part = self._softmax(theta, values, counts)
            loss += part
            residual = probs * counts.sum(axis=1, keepdims=True) - counts  # (N, A)
            gradient += self.features.pull_back(values, residual)
        if not math.isfinite(loss):
            raise ValueError("the features hold a value that is not finite (NaN or inf); mend the feature map.")
        return loss, gradient

    def hessian(self, theta: FloatArray) -> FloatArray:
        """``(d, d)`` second derivatives of f; ``NotTractableError`` where d is above `DENSE_LIMIT`."""
        from scipy.special import expit

        check_dimension(self.features, "Newton's method")
        self.hessian_passes += 1
        d, a, c = self.features.dimension, self.vocab_size, self.width
        out = np.zeros((d, d))
        for values, counts in self.blocks():
            total = counts.sum(axis=1)
            if self.by_context and a == 2:
                p = expit(values @ theta)
                roots = values * np.sqrt(total * p * (1 - p))[:, None]
                out += roots.T @ roots  # of one array: numpy works out half of it
                continue
            probs, _ = self._softmax(theta, values, counts)
            weighted = probs * total[:, None]
            if self.by_context:
                roots = probs * np.sqrt(total)[:, None]
                spread = (roots[:, :, None] * values[:, None, :]).reshape(len(values), d)
                out -= spread.T @ spread
                for i in range(a):
                    part = slice(i * c, (i + 1) * c)
                    out[part, part] += (values * weighted[:, i, None]).T @ values
            else:
                mean = np.einsum("na,nad->nd", probs, values)
                flat = values.reshape(-1, d)
                out += (flat * weighted.reshape(-1, 1)).T @ flat
                out -= (mean * total[:, None]).T @ mean
        return 0.5 * (out + out.T)

    def _softmax(self, theta: FloatArray, values: FloatArray, counts: FloatArray) -> tuple[FloatArray, float]:
        logits = self.features.logits(theta, values)  # (N, A)
        logits -= logits.max(axis=1, keepdims=True)
        probs = np.exp(logits)
        norm = probs.sum(axis=1, keepdims=True)
        loss = float(counts.sum(axis=1) @ np.log(norm[:, 0]) - np.vdot(counts, logits))
        probs /= norm
        return probs, loss


def _cut(values: FloatArray, counts: FloatArray, width: int) -> Iterator[tuple[FloatArray, FloatArray]]:
    size = max(PASS_BYTES // (8 * width), 64)
    for start in range(0, len(values), size):
        yield values[start : start + size], counts[start : start + size]


class _SequenceRows(SoftmaxRows):
    """One row a token, the features computed anew in every pass."""

    def __init__(self, features: FeatureMap, targets: Targets) -> None:
        super().__init__(features, None, None)
        self.targets = targets

    @property
    def n_rows(self) -> int:
        return math.prod(self.targets.shape)

    def blocks(self) -> Iterator[tuple[FloatArray, FloatArray]]:
        for part in self.targets.blocks():
            for rows, path in self.features.blocks(part.prompts, part.tokens, max_bytes=PASS_BYTES):
                values = path.reshape(-1, *self.features.feature_shape)
                yield from _cut(values, part.rows(rows).masses(), self.width)

    def in_memory(self) -> SoftmaxRows:
        """The same rows with their features stored."""
        values, first = np.empty((self.n_rows, *self.features.feature_shape)), 0
        for part in self.targets.blocks():
            for _, path in self.features.blocks(part.prompts, part.tokens, max_bytes=PASS_BYTES):
                last = first + path.shape[0] * path.shape[1]
                values[first:last] = path.reshape(-1, *self.features.feature_shape)
                first = last
        return SoftmaxRows(self.features, values, self.targets.masses())


def rows_of(
    features: FeatureMap, targets: Targets, *, max_rows: int | None = None, written_out: bool = False
) -> SoftmaxRows:
    """The rows of targets, hard or soft.

    Args:
        features: the feature map.
        targets: with their weights.
        max_rows: use only about this many tokens: the heaviest sequences, or evenly spaced ones if all weigh the
            same, scaled to the same total weight.
        written_out: as features, if they fit in memory, also where digits would do.
    """
    weights = targets.weights.sum(axis=1)
    if max_rows is not None:
        wanted = max(max_rows // targets.shape[1], 1)
        if weights.min() == weights.max():
            chosen = np.linspace(0, len(weights) - 1, min(wanted, len(weights))).astype(np.int64)
        else:
            chosen = np.argsort(-weights, kind="stable")[:wanted]
        part = targets.rows(chosen)
        factor = targets.weights.sum() / part.weights.sum()
        return _SequenceRows(features, replace(part, weights=part.weights * factor)).in_memory()
    targets = targets.met()
    pooled = _pooled(features, targets)
    if pooled is not None:
        return pooled
    rows = _SequenceRows(features, targets)
    if not written_out and isinstance(features, IndicatorFeatureMap) and features.vocab_size == 2:
        digits = _digits(features, targets) if rows.n_rows >= MANY_ROWS else None
        if digits is not None:
            return DigitRows(features, digits, targets.masses())
    return rows.in_memory() if rows.n_rows * rows.width * 8 <= MEMORY_BYTES else rows


def _pooled(features: FeatureMap, targets: Targets) -> SoftmaxRows | None:
    """One row a context, where the features number their contexts; ``None`` where they do not."""
    states, (n, horizon) = features.states(), targets.shape
    if states is not None:
        counts = targets.counts(lambda part: states.path(part.prompts, part.tokens), len(states.transitions))
        seen = np.flatnonzero(counts.sum(axis=1) > 0)
        return SoftmaxRows(features, states.features[seen], counts[seen])
    size = next(row_blocks(n, horizon), slice(0, 0)).stop
    some = np.linspace(0, n - 1, size).astype(np.int64)  # all, of a few
    codes = features.codes(*targets.block(some))
    if codes is None or _mostly_distinct(codes):
        return None
    unique, first, counts = np.empty(0, codes.dtype), np.empty(0, np.int64), np.empty((0, features.vocab_size))
    for number, part in enumerate(targets.blocks()):
        codes = codes if size == n else features.codes(part.prompts, part.tokens)
        assert codes is not None  # as those of some were not
        mine, met, which = np.unique(codes, return_index=True, return_inverse=True)
        new = part.counts(which.reshape(codes.shape), len(mine))
        if number == 0:
            unique, first, counts = mine, met, new
        else:
            known, met = len(unique), met + number * size * horizon
            unique, here, at = np.unique(np.concatenate([unique, mine]), return_index=True, return_inverse=True)
            before, counts = counts, np.zeros((len(unique), features.vocab_size))
            counts[at[:known]] = before
            counts[at[known:]] += new
            first = np.concatenate([first, met])[here]
        if len(unique) * math.prod(features.feature_shape) * 8 > MEMORY_BYTES:
            return None
    return SoftmaxRows(features, features_met_first(features, targets, first), counts)


def features_met_first(features: FeatureMap, data: TokenRows, first: IntArray) -> FloatArray:
    """``(C, c)`` or ``(C, A, d)`` features of the prefixes before the tokens numbered ``first``, of n H row by row."""
    values = np.empty((len(first), *features.feature_shape))
    row, position = np.divmod(first, data.shape[1])
    for h in np.unique(position):  # one evaluation for all contexts first met at this position
        here = np.flatnonzero(position == h)
        prompts, tokens = data.block(row[here])
        values[here] = features.prefix_features(prompts, tokens[:, :h])
    return values


def _mostly_distinct(codes: IntArray) -> bool:
    """Whether pooling would gain little: in a seventh of a large data set, evenly spread, few codes occur twice."""
    flat = codes.ravel()
    sample = flat[::7]
    return len(flat) >= MANY_ROWS and len(np.unique(sample)) > 0.7 * len(sample)


# -- Rows of two tokens and indicator features, in digits --------------------------------------------------------------


DIGITS = 256  # at a place: a byte
CODES = 1 << 12  # that a digit may be made of: features of several places, those that occur and those that do not


class _Digits:
    """``(b, c)`` indicator features as digits, which are multiplied as arrays are.

    Args:
        digits: ``(G, b)`` bytes.
        tables: for each of the G which features its digits hold, and those as ``(D, k)``, a row a digit.
        width: c.
    """

    __array_ufunc__ = None  # so that ``array @ self`` comes here

    def __init__(self, digits: NDArray[np.uint8], tables: list[tuple[IntArray, FloatArray]], width: int) -> None:
        self.digits, self.tables, self.width = digits, tables, width

    def __matmul__(self, theta: FloatArray) -> FloatArray:
        out = np.zeros(self.digits.shape[1])
        for digit, (places, table) in zip(self.digits, self.tables):
            out += (table @ theta[places])[digit]
        return out

    def __rmatmul__(self, by_row: FloatArray) -> FloatArray:
        out = np.zeros(self.width)
        for digit, (places, table) in zip(self.digits, self.tables):
            out[places] += np.bincount(digit, by_row, len(table)) @ table
        return out

    def squared(self, weights: FloatArray) -> FloatArray:
        """``(c, c)``: the sum of ``w phi phi'`` over rows of weights w, ``(b,)``."""
        out = np.zeros((self.width, self.width))
        for i, (digit, (places, table)) in enumerate(zip(self.digits, self.tables)):
            alone = np.bincount(digit, weights, len(table))
            out[np.ix_(places, places)] += (table * alone[:, None]).T @ table
            first = DIGITS * digit.astype(np.intp)
            for other, (others, of_other) in zip(self.digits[:i], self.tables):
                pairs = np.bincount(first + other, weights, len(table) * DIGITS).reshape(-1, DIGITS)
                part = table.T @ pairs[:, : len(of_other)] @ of_other
                out[np.ix_(places, others)] += part
                out[np.ix_(others, places)] += part.T
        return out


class DigitRows(SoftmaxRows):
    """One row a token: two tokens, and indicator features of which several at once are kept as a digit.

    A product with theta looks every digit up in a table; what is summed over rows is summed by digit first, and the
    Hessian by pairs of digits. A window of 31 bits, with 63 features, is five bytes.
    """

    def __init__(self, features: IndicatorFeatureMap, digits: _Digits, counts: FloatArray) -> None:
        super().__init__(features, None, counts)
        self.digits = digits

    def blocks(self) -> Iterator[tuple[Any, FloatArray]]:
        assert self.counts is not None
        size = PASS_BYTES // 128
        for start in range(0, len(self.counts), size):
            rows = slice(start, start + size)
            yield _Digits(self.digits.digits[:, rows], self.digits.tables, self.width), self.counts[rows]

    def hessian(self, theta: FloatArray) -> FloatArray:
        check_dimension(self.features, "Newton's method")
        self.hessian_passes += 1
        parts = []
        for values, counts in self.blocks():
            small = np.exp(-np.abs(values @ theta))
            parts.append((counts[:, 0] + counts[:, 1]) * small / (1.0 + small) ** 2)
        return self.digits.squared(np.concatenate(parts))

    def hessian_work(self) -> float:
        """As measured: no more than two gradients, however many features a digit has."""
        return 2.0 * self.gradient_work()


def _digits(features: IndicatorFeatureMap, targets: Targets) -> _Digits | None:
    """The features before every token, each digit of as many places as fit; ``None`` where a place alone does not."""
    (n, horizon), n_active, nothing = targets.shape, features.n_active, features.n_context
    if n * horizon * (n_active + 64) > MEMORY_BYTES:
        return None
    columns, first = np.empty((n_active, n * horizon), np.min_scalar_type(nothing)), 0
    for part in targets.blocks():
        size = max(PASS_BYTES // (8 * horizon * n_active), 1)
        for start in range(0, len(part.tokens), size):
            path = features.active_path(part.prompts[start : start + size], part.tokens[start : start + size])
            last = first + path.shape[0] * horizon
            columns[:, first:last] = np.moveaxis(path, 2, 0).reshape(n_active, -1)
            first = last
    digits, tables, start = [], [], 0
    while start < n_active:
        codes = [np.zeros(n * horizon, np.uint16)]
        read: list[IntArray] = []
        for column in columns[start:]:
            least, most = column.min(), np.where(column == nothing, 0, column).max()
            number = np.minimum(column - least, max(int(most) + 1 - int(least), 0))  # the last: nothing
            values = np.append(np.arange(int(least), int(most) + 1), nothing)[: int(number.max()) + 1]
            if len(values) * math.prod(len(one) for one in read) > CODES:
                break
            codes.append(codes[-1] * np.uint16(len(values)) + number)
            read.append(values)
        while read and len(used := np.flatnonzero(np.bincount(codes[-1]))) > DIGITS:
            codes.pop(), read.pop()
        if not read:
            return None
        start += len(read)
        digit = np.zeros(used[-1] + 1, np.uint8)
        digit[used] = np.arange(len(used))
        digits.append(digit[codes[-1]])
        table, rest = np.zeros((len(used), nothing + 1)), used
        for values in reversed(read):
            rest, which = np.divmod(rest, len(values))
            table[np.arange(len(used)), values[which]] = features.scale
        held = np.flatnonzero(table[:, :nothing].any(axis=0))
        tables.append((held, table[:, held]))
    return _Digits(np.stack(digits), tables, nothing)


# -- Rows of few features among many, kept as their places -------------------------------------------------------------
#
# Features are never written out (`ntp_envs.features`): a pass over N contexts with K features costs N K A additions and
# N A exponentials, and memory of 12 N K bytes; probabilities are kept in memory up to `MEMORY_BYTES`.


GRAM_LIMIT = 2048  # features: their Gram matrix is diagonalised in seconds
GRAM_ACTIVE = 5  # so many at once or more: on English text, windows of 4 tokens take as many passes either way
DENSE_DIMENSION = 512  # weights above which features are not written out and no Hessian is formed


def is_large(features: FeatureMap) -> TypeGuard[IndicatorFeatureMap]:
    """Whether a likelihood is better fitted on places: indicator features of three tokens or more, many weights."""
    return (
        isinstance(features, IndicatorFeatureMap) and features.vocab_size > 2 and features.dimension > DENSE_DIMENSION
    )


class _Sparse:
    """Sparse ``(b, c)`` features that feature maps take as they take arrays; with their transpose, made once."""

    __array_ufunc__ = None  # so that ``array @ self`` comes here

    def __init__(self, features: Any) -> None:
        self.features, self.transpose = features, features.T

    @cached_property
    def single(self) -> _Sparse:
        """The same in single precision; the places are shared."""
        from scipy.sparse import csr_array

        parts = (self.features.data.astype(np.float32), self.features.indices, self.features.indptr)
        return _Sparse(csr_array(parts, shape=self.features.shape, copy=False))

    def __matmul__(self, weights: FloatArray) -> FloatArray:
        return self.features @ weights

    def __rmatmul__(self, by_logit: FloatArray) -> FloatArray:
        return (self.transpose @ by_logit.T).T


class IndicatorRows(SoftmaxRows):
    """Rows of indicator features, with the passes of a Newton-CG method: products with the Hessian, and its diagonal.

    They are taken where the loss was last. Theta holds a weight a feature for each token, ``(A, c)``.

    Args:
        features: more than two tokens.
        active: ``(N, K)`` places of the features of each context.
        counts: ``(N, A)`` weighted token counts, sparse.
    """

    features: IndicatorFeatureMap

    def __init__(self, features: IndicatorFeatureMap, active: NDArray[np.integer], counts: Any) -> None:
        super().__init__(features, None, counts)
        self.scale, self.totals = features.scale, counts.sum(axis=1)
        self._blocks = [
            (_Sparse(values), counts[rows], self.totals[rows, None]) for rows, values in features.matrices(active)
        ]
        self._keeps = len(self.totals) * self.vocab_size * 8 <= MEMORY_BYTES
        self._laws: list[FloatArray] = []
        self._at = np.zeros(features.dimension)

    @property
    def n_rows(self) -> int:
        return len(self.totals)

    def thinned(self, every: int) -> IndicatorRows:
        """One row in ``every``, evenly spaced, with the weight of all."""
        from scipy.sparse import vstack

        found = copy(self)
        vars(found).pop("_gram", None)
        found.gradient_passes, found.hessian_passes, found._laws, found._blocks = 0, 0, [], []
        found.totals = np.concatenate([totals[::every, 0] for *_, totals in self._blocks])
        factor = self.totals.sum() / found.totals.sum()
        found.totals *= factor
        for first in range(0, len(self._blocks), every):
            values, counts, totals = zip(*self._blocks[first : first + every])
            features = _Sparse(vstack([block.features[::every] for block in values]).tocsr())
            weighted = factor * vstack([block[::every] for block in counts]).tocsr()
            found._blocks.append((features, weighted, factor * np.concatenate([block[::every] for block in totals])))
        return found

    def blocks(self) -> Iterator[tuple[Any, FloatArray]]:
        for values, counts, _ in self._blocks:
            yield values, counts.toarray()

    def loss_and_gradient(self, theta: FloatArray) -> tuple[float, FloatArray]:
        self._at, self._laws = theta, []
        return super().loss_and_gradient(theta)

    def _softmax(self, theta: FloatArray, values: Any, counts: FloatArray) -> tuple[FloatArray, float]:
        law, loss = super()._softmax(theta, values, counts)
        if self._keeps:
            self._laws.append(law)
        return law, loss

    def _by_feature(self, theta: FloatArray) -> FloatArray:
        """``(c, A)`` of ``(d,)``."""
        return np.ascontiguousarray(theta.reshape(self.vocab_size, -1).T)

    def _passed(self) -> Iterator[tuple[_Sparse, FloatArray, FloatArray]]:
        """Features of a few rows with their ``(b, 1)`` weights and ``(b, A)`` laws."""
        at = self._by_feature(self._at) if not self._laws else None
        for i, (values, _, totals) in enumerate(self._blocks):
            yield values, totals, self._laws[i] if at is None else np.exp(normalised_logits(values @ at))

    def hessian_times(self, direction: FloatArray, *, single: bool = False) -> FloatArray:
        """``(d,)``: the second derivatives of f applied to a ``(d,)`` direction.

        ``single``: to seven digits of the largest, in half the time.
        """
        self.hessian_passes += 1
        size = float(np.abs(direction).max(initial=0.0)) if single else 1.0
        if size == 0.0:
            return np.zeros_like(direction)
        dtype: Any = np.float32 if single else np.float64
        along = self._by_feature(direction / size).astype(dtype, copy=False)
        out = np.zeros(along.shape)
        for values, totals, law in self._passed():
            values, law = (values.single if single else values), law.astype(dtype, copy=False)
            change = values @ along
            change -= np.einsum("na,na->n", law, change)[:, None]
            change *= law
            change *= totals.astype(dtype, copy=False)
            out += values.transpose @ change
        return size * out.T.ravel()

    def inverse(self, diagonal: FloatArray) -> Callable[[FloatArray, float], FloatArray]:
        """``(right, mu) -> (H + mu I)^-1 right``, about: for conjugate gradients; ``diagonal`` is that of H.

        As if the law of the next token did not depend on the context, H is the Kronecker product of the mean of
        ``diag(p) - p p'`` and the Gram matrix of the features, which windows of many tokens make nearly singular: a
        diagonal sees nothing of that. Of few features each tells much of the law, and the diagonal is nearer; it is
        also what is left where a Gram matrix is too large.
        """
        if self.features.n_active < GRAM_ACTIVE or self.width > GRAM_LIMIT:
            return lambda right, mu: right / (diagonal + mu)
        spread = np.zeros((self.vocab_size, self.vocab_size))
        for _, totals, law in self._passed():
            weighted = totals * law
            spread += np.diag(weighted.sum(axis=0)) - weighted.T @ law
        by_token, tokens = np.linalg.eigh(spread / self.totals.sum())
        by_feature, features = self._gram
        products = np.maximum(np.multiply.outer(by_token, by_feature), 0.0)
        least = 1e-7 * float(products.max())  # below it products in single precision are noise

        def solve(right: FloatArray, mu: float) -> FloatArray:
            turned = tokens.T @ right.reshape(products.shape) @ features
            turned /= products + max(mu, least)
            return (tokens @ turned @ features.T).ravel()

        return solve

    @cached_property
    def _gram(self) -> tuple[FloatArray, FloatArray]:
        """Eigenvalues and eigenvectors of the weighted ``(c, c)`` sum of ``phi phi'``."""
        from scipy.sparse import vstack

        values = vstack([block.features for block, *_ in self._blocks]).tocsr()
        weights = np.repeat(self.totals, np.diff(values.indptr))
        weighted = values.copy()
        weighted.data = weights * values.data
        eigenvalues, vectors = np.linalg.eigh((values.T @ weighted).toarray())
        return eigenvalues, vectors

    def hessian_diagonal(self) -> FloatArray:
        """``(d,)`` second derivatives in each weight alone."""
        found = sum(values.transpose @ (law * (1.0 - law) * totals) for values, totals, law in self._passed())
        return self.scale * found.T.ravel()


def indicator_rows(features: IndicatorFeatureMap, targets: Targets) -> IndicatorRows:
    """The rows of targets, hard or soft; contexts that occur more than once are pooled."""
    from scipy.sparse import csr_array

    targets = targets.met()
    active = _places(features, targets.prompts, targets.tokens)
    first, which = distinct_rows(active, features.n_context + 1)
    if targets.log_laws is not None:
        counts = csr_array(targets.counts(which.reshape(targets.tokens.shape), len(first)))
    else:
        entries = (targets.per_token.ravel(), (which, targets.hard.ravel()))
        counts = csr_array(entries, shape=(len(first), features.vocab_size))
    return IndicatorRows(features, active[first], counts)


def _places(features: IndicatorFeatureMap, prompts: NDArray[np.integer], tokens: NDArray[np.integer]) -> IndexArray:
    """``(n H, K)`` places before every token."""
    horizon = tokens.shape[1]
    active = np.empty((tokens.size, features.n_active), dtype=np.int32)
    size = max((1 << 20) // horizon, 1)
    for start in range(0, len(tokens), size):
        path = features.active_path(prompts[start : start + size], tokens[start : start + size])
        active[start * horizon : start * horizon + path.shape[0] * horizon] = path.reshape(-1, features.n_active)
    return active


def distinct_rows(rows: NDArray[np.integer], base: int) -> tuple[IntArray, IntArray]:
    """Where each of the U distinct rows of ``(N, K)`` integers in [0, base) comes first, ``(U,)``, and the number in
    [0, U) of every row, ``(N,)``.

    Rows are read as base-``base`` numbers, renumbered whenever the next digit would not fit in 62 bits.

    >>> distinct_rows(np.array([[2, 0], [0, 1], [2, 0]]), 3)
    (array([1, 0]), array([1, 0, 1]))
    """
    codes, many = np.zeros(len(rows), dtype=np.int64), 1
    for column in rows.T:
        if many > (1 << 62) // base:
            codes = np.unique(codes, return_inverse=True)[1].ravel()
            many = int(codes.max(initial=0)) + 1
        codes = codes * base + column
        many *= base
    _, first, which = np.unique(codes, return_index=True, return_inverse=True)
    return first, which.ravel()

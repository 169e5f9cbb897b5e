"""The array types, once, and the small numerical pieces of everything: in log space and float64."""

from __future__ import annotations

from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

FloatArray = NDArray[np.float64]
IntArray = NDArray[np.int64]
BoolArray = NDArray[np.bool_]

#: log-probabilities that are nearer than this (in nats) are equal, and so are sums over data that differ by less than
#: `ROUNDING` of the size of what is added up: no choice hangs on the last bits
TIE = 1e-9
ROUNDING = 1e-12


def log_bernoulli(theta: float) -> tuple[float, float]:
    """``(log(1 - theta), log theta)``, exact at the ends (``-inf``) and accurate near them."""
    with np.errstate(divide="ignore"):
        return float(np.log1p(-theta)), float(np.log(theta))


def all_sequences(vocab_size: int, length: int) -> NDArray[np.int64]:
    """All ``(A**length, length)`` token sequences, in the order of `prefix_codes`."""
    place = vocab_size ** np.arange(length - 1, -1, -1, dtype=np.int64)
    return np.arange(vocab_size**length, dtype=np.int64)[:, None] // place % vocab_size


@lru_cache(maxsize=8)
def binomial_log_coefficients(n: int) -> FloatArray:
    """``log C(n, k)`` for k = 0..n, shape ``(n + 1,)``; not to be written to, as searches ask for the same n."""
    from scipy.special import gammaln

    k = np.arange(n + 1)
    found = gammaln(n + 1) - gammaln(k + 1) - gammaln(n - k + 1)
    found.flags.writeable = False
    return found


def log_softmax(logits: FloatArray, *, axis: int = -1) -> FloatArray:
    """scipy's, imported when it is first asked for: it would be half the time of importing the package."""
    from scipy.special import log_softmax as of_scipy

    found: FloatArray = of_scipy(logits, axis=axis)
    return found


def first_best(values: FloatArray, *, slack: FloatArray | float = TIE) -> NDArray[np.int64]:
    """The tie rule: along the last axis, the first index whose value is within ``slack`` of the largest.

    Two tokens, members or candidates that are equal by symmetry differ in the last bits of what was computed, and by
    which of them is ahead, with the order in which a processor adds. So the bare ``argmax`` of floats is for places
    where any of the best will do.

    >>> first_best(np.array([[0.0, 0.1 + 0.2, 0.3], [-np.inf, -np.inf, -np.inf]])).tolist()
    [1, 0]
    >>> int(first_best(np.array([0.3, 0.1 + 0.2]))), int(np.argmax([0.3, 0.1 + 0.2]))
    (0, 1)
    """
    return np.argmax(values >= values.max(axis=-1, keepdims=True) - slack, axis=-1)


def squared_sqrt_gap(log_p: FloatArray, log_q: FloatArray) -> FloatArray:
    """``(sqrt p - sqrt q)^2`` from log-densities, with full relative accuracy when p and q nearly agree.

    Both zero (``-inf``) gives 0. Works elementwise on any shape.
    """
    high = np.maximum(log_p, log_q)
    low = np.minimum(log_p, log_q)
    with np.errstate(invalid="ignore"):
        gap = np.where(np.isneginf(high), 0.0, low - high)
    return np.exp(high) * np.expm1(0.5 * gap) ** 2


def kl_terms(log_p: FloatArray, log_q: FloatArray, p: FloatArray, q: FloatArray) -> FloatArray:
    """``p log(p / q) - p + q`` elementwise: non-negative terms that sum to KL(p, q) where p and q have equal mass.

    Accurate relative to each term when p and q nearly agree (``p u^2 / 2 (1 + u / 3 (1 + ...))``, u = log q - log p).
    0 where p = q = 0, q where only p is 0, and ``inf`` where only q is 0.
    """
    with np.errstate(invalid="ignore"):
        u = log_q - log_p
        plain = q - p - p * u
    out = np.where(np.isneginf(log_p), q, plain)
    small = np.abs(u) < 0.1  # false for nan
    v = u[small]
    tail = np.ones_like(v)
    for k in range(10, 2, -1):
        tail = 1.0 + v / k * tail
    out[small] = 0.5 * p[small] * v * v * tail
    return out


def sample_categorical(log_probs: FloatArray, rng: np.random.Generator) -> NDArray[np.int64]:
    """One token a row of ``(B, A)`` log-probabilities, by inversion: one uniform a row, always the same count."""
    return at_levels(log_probs, rng.random(len(log_probs)))


def check_law(sums: FloatArray) -> None:
    """``ValueError`` where a sum over the law of the next token is NaN."""
    if np.isnan(sums).any():
        raise ValueError("a policy returned NaN for the law of the next token, so that nothing can be drawn from it.")


def at_levels(log_probs: FloatArray, levels: FloatArray) -> NDArray[np.int64]:
    """One token a row of ``(B, A)`` log-probabilities: where the cumulative law passes a level in [0, 1).

    A token of probability zero is never drawn.
    """
    cumulative = np.cumsum(np.exp(log_probs), axis=1)
    level = levels * cumulative[:, -1]
    check_law(level)
    return np.minimum((cumulative <= level[:, None]).sum(axis=1), log_probs.shape[1] - 1)


def written(prompts: NDArray[np.integer], tokens: NDArray[np.integer], end_token: int | None) -> NDArray[np.bool_]:
    """``(n, H)`` which tokens were written: all up to the first end token, which is written too (none if the ``(n, P)``
    prompt has one).

    >>> written(np.empty((2, 0)), np.array([[0, 1, 1], [0, 0, 0]]), 1).tolist()
    [[True, True, False], [True, True, True]]
    """
    if end_token is None:
        return np.ones(np.shape(tokens), dtype=np.bool_)
    open_before = np.column_stack(
        [(np.asarray(prompts) != end_token).all(axis=1), np.asarray(tokens)[:, :-1] != end_token]
    )
    return np.logical_and.accumulate(open_before, axis=1)


def filled(tokens: NDArray[np.integer], length: int, end_token: int | None) -> IntArray:
    """``(..., length)`` from the ``(..., t)`` tokens of texts that have ended: the end token where none was written."""
    out = np.full((*tokens.shape[:-1], length), -1 if end_token is None else end_token, dtype=np.int64)
    out[..., : tokens.shape[-1]] = tokens
    return out


def onto_ball(theta: FloatArray, radius: float) -> FloatArray:
    """The nearest point with ``||theta|| <= radius``."""
    return theta * min(1.0, radius / max(float(np.linalg.norm(theta)), 1e-300))


def prefix_codes(tokens: NDArray[np.integer], vocab_size: int) -> NDArray[np.int64]:
    """Each row of ``(B, t)`` tokens read as a base-``vocab_size`` number, first token most significant: ``(B,)``."""
    codes = np.zeros(len(tokens), dtype=np.int64)
    for column in np.asarray(tokens).T:
        codes = codes * vocab_size + column
    return codes

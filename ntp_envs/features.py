"""Feature maps of prefixes, for autoregressive linear models. Every map keeps its norms at most 1."""

from __future__ import annotations

import inspect
import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import combinations
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from ntp_envs.arrays import BoolArray, FloatArray, IntArray, all_sequences, prefix_codes
from ntp_envs.automata import markov_contexts
from ntp_envs.checks import as_array, check_callable, check_fits, check_flag, check_int, check_list
from ntp_envs.saved import Savable

# -- What a feature map is: features of a prefix for every next token, one batch or whole sequences at a time ---------


MAX_STATES = 1 << 16
MAX_STATE_ENTRIES = 1 << 24
BLOCK_BYTES = 1 << 26


@dataclass(frozen=True, eq=False)
class FeatureStates(Savable):
    """Features that depend on the prefix through the state of a finite automaton.

    Attributes:
        transitions: ``(S, A)`` next states.
        features: ``(S, c)`` context features of each state, or ``(S, A, d)`` joint ones.
        order: the states are the contexts of a Markov chain of this order (`ntp_envs.MarkovPolicy`'s numbering), or
            ``None``.
        initial: where ``order`` is ``None``: ``(A**P,)`` first states, one a prompt, or ``(1,)`` for all prompts.
    """

    transitions: IntArray
    features: FloatArray
    order: int | None = None
    initial: IntArray | None = None

    def initial_states(self, prompts: NDArray[np.integer]) -> IntArray:
        """``(B,)`` states after ``(B, P)`` prompts."""
        vocab_size = self.transitions.shape[1]
        if self.order is not None:
            nothing = np.empty((len(prompts), 0), dtype=np.int64)
            return markov_contexts(prompts, nothing, vocab_size, self.order)[:, 0]
        starts = np.zeros(1, dtype=np.int64) if self.initial is None else self.initial
        return starts[prefix_codes(prompts, vocab_size) if len(starts) > 1 else np.zeros(len(prompts), dtype=np.int64)]

    def path(self, prompts: NDArray[np.integer], tokens: NDArray[np.integer]) -> IntArray:
        """``(B, H)`` states before each token."""
        if self.order is not None:
            return markov_contexts(prompts, tokens, self.transitions.shape[1], self.order)[:, :-1]
        out = np.empty(np.shape(tokens), dtype=np.int64)
        state = self.initial_states(prompts)
        for h, column in enumerate(np.asarray(tokens).T):
            out[:, h] = state
            state = self.transitions[state, column]
        return out


class FeatureMap(Savable, ABC):
    """phi(x, a_1:h) in R^d for every possible next token: the model is softmax over a_h of <theta, phi>.

    Features need not depend on the next token: a `ContextFeatureMap` has c of them a prefix, and theta c weights for
    each token.

    Constructor parameters are stored under their own names; two maps are equal when they are of one type with equal
    parameters. Norms are at most 1.

    Attributes:
        vocab_size: A.
        dimension: d, the length of theta.
        window: the features see only this many of the last tokens (the prompt's tail included) and nothing else, so
            that equal contexts can be pooled; ``None`` if they may see the whole prefix or the position.
        horizon: the longest sequence they are defined for, or ``None``.
        spread: a bound on ``||phi(., a) - phi(., b)||``.
    """

    window: int | None = None
    horizon: int | None = None
    spread: float = 2.0

    def __init__(self, vocab_size: int, dimension: int) -> None:
        self.vocab_size = check_int("vocab_size", vocab_size, minimum=2)
        self.dimension = check_int("dimension", dimension, minimum=1)

    @abstractmethod
    def joint(self, prompts: NDArray[np.integer], tokens: NDArray[np.integer]) -> FloatArray:
        """``(B, A, d)`` features of each next token after ``(B, P)`` prompts and ``(B, t)`` tokens; norms <= 1."""

    def signed(self, prompts: NDArray[np.integer], tokens: NDArray[np.integer]) -> FloatArray:
        """Binary tokens: u = phi(., 1) - phi(., 0), shape ``(B, d)``, so that P(1 | prefix) = sigmoid(<theta, u>)."""
        phi = self.joint(prompts, tokens)
        return phi[:, 1] - phi[:, 0]

    # -- how theta meets features ------------------------------------------------------------------------------------

    def logits(self, theta: FloatArray, values: FloatArray) -> FloatArray:
        """``(..., A)`` logits at features that `prefix_features`, `path` or a table of states hold.

        Args:
            theta: ``(d,)``.
            values: ``(..., A, d)``; ``(..., c)`` for a `ContextFeatureMap`.
        """
        return values @ theta

    def log_probs(self, theta: FloatArray, values: FloatArray) -> FloatArray:
        """``(..., A)`` log-probabilities of the next token: `logits`, normalised."""
        return normalised_logits(self.logits(theta, values))

    def pull_back(self, values: FloatArray, by_logit: FloatArray) -> FloatArray:
        """``(d,)`` gradient in theta from the ``(N, A)`` one in the logits at N prefixes: the transpose of `logits`.

        Rows of ``by_logit`` sum to zero, as those of whatever depends on the law alone do.
        """
        return by_logit.ravel() @ values.reshape(-1, values.shape[-1])

    # -- whole sequences ---------------------------------------------------------------------------------------------

    def prefix_features(self, prompts: NDArray[np.integer], tokens: NDArray[np.integer]) -> FloatArray:
        """Features of one prefix a row, as `path` and `FeatureStates.features` hold them: ``(B, A, d)``."""
        return self.joint(prompts, tokens)

    @property
    def feature_shape(self) -> tuple[int, ...]:
        """Shape of the features of one prefix: ``(A, d)``, or ``(c,)`` for a `ContextFeatureMap`."""
        return (self.vocab_size, self.dimension)

    def path(self, prompts: NDArray[np.integer], tokens: NDArray[np.integer]) -> FloatArray:
        """Teacher-forced features before each token: ``(B, H, A, d)``; ``(B, H, c)`` for a `ContextFeatureMap`."""
        tokens = np.asarray(tokens)
        out = np.empty((*tokens.shape, *self.feature_shape))
        for h in range(tokens.shape[1]):
            out[:, h] = self.prefix_features(prompts, tokens[:, :h])
        return out

    def blocks(
        self, prompts: NDArray[np.integer], tokens: NDArray[np.integer], *, max_bytes: int = BLOCK_BYTES
    ) -> Iterator[tuple[slice, FloatArray]]:
        """`path` in blocks of sequences that take about ``max_bytes`` of memory each (at least one sequence).

        Yields:
            ``(rows, features)``: a slice of the sequences, and their features as `path` gives them.
        """
        sequence = max(tokens.shape[1] * math.prod(self.feature_shape) * 8, 1)
        size = max(max_bytes // sequence, 1)
        for start in range(0, len(tokens), size):
            rows = slice(start, min(start + size, len(tokens)))
            yield rows, self.path(prompts[rows], tokens[rows])

    def next_log_probs(
        self, theta: FloatArray, prompts: NDArray[np.integer], tokens: NDArray[np.integer]
    ) -> FloatArray:
        """``(B, A)`` log-probabilities of the next token after one prefix a row."""
        return self.log_probs(theta, self.prefix_features(prompts, tokens))

    def forced_log_probs(
        self, theta: FloatArray, prompts: NDArray[np.integer], tokens: NDArray[np.integer]
    ) -> Iterator[tuple[slice, FloatArray]]:
        """Teacher-forced: ``(b, H, A)`` log-probabilities of a few sequences at a time, with their rows."""
        for rows, values in self.blocks(prompts, tokens):
            yield rows, self.log_probs(theta, values)

    # -- finite memory -----------------------------------------------------------------------------------------------

    def states(self) -> FeatureStates | None:
        """The features as a table over the states of an automaton; ``None`` if there are none, or too many (65536)."""
        return self._window_states

    @cached_property
    def _window_states(self) -> FeatureStates | None:
        if self.window is None:
            return None
        base, entries = self.vocab_size + 1, math.prod(self.feature_shape)
        n_states = base**self.window
        if n_states > MAX_STATES or n_states * entries > MAX_STATE_ENTRIES:
            return None
        table = np.zeros((n_states, *self.feature_shape))  # contexts with a gap are never reached: zero
        for length in range(self.window + 1):
            tails = all_sequences(self.vocab_size, length)
            nothing = np.empty((len(tails), 0), dtype=np.int64)
            codes = markov_contexts(nothing, tails, self.vocab_size, self.window)[:, -1]
            table[codes] = self.prefix_features(nothing, tails)
        transitions = (np.arange(n_states)[:, None] * base + np.arange(self.vocab_size)) % n_states
        return FeatureStates(transitions.astype(np.int64), table, order=self.window)

    def codes(self, prompts: NDArray[np.integer], tokens: NDArray[np.integer]) -> IntArray | None:
        """``(B, H)`` integers such that equal ones mean equal features; ``None`` if no such numbering is known."""
        states = self.states()
        if states is not None:
            return states.path(prompts, tokens)
        if self.window is not None and self.window * math.log2(self.vocab_size + 1) < 62:
            return markov_contexts(prompts, tokens, self.vocab_size, self.window)[:, :-1]
        return None

    # -- identity ----------------------------------------------------------------------------------------------------

    def parameters(self) -> dict[str, Any]:
        """The constructor's arguments by name."""
        names = [name for name in inspect.signature(type(self).__init__).parameters if name != "self"]
        return {name: getattr(self, name) for name in names if hasattr(self, name)}

    def __eq__(self, other: object) -> bool:
        return type(self) is type(other) and self.parameters() == other.parameters()  # type: ignore[attr-defined]

    def __hash__(self) -> int:
        return hash(repr(self))

    def __repr__(self) -> str:
        inside = ", ".join(f"{name}={_show(value)}" for name, value in self.parameters().items())
        return f"{type(self).__name__}({inside})"


def normalised_logits(logits: FloatArray) -> FloatArray:
    """``(..., A)`` log-probabilities: the logits less ``log sum exp``."""
    logits = logits - logits.max(axis=-1, keepdims=True)
    return logits - np.log(np.exp(logits).sum(axis=-1, keepdims=True))


def _show(value: Any) -> str:
    if callable(value) and hasattr(value, "__qualname__"):
        return f"{value.__module__}.{value.__qualname__}"
    return repr(value)


class ContextFeatureMap(FeatureMap):
    """Features of the prefix alone, u(prefix) in R^c with norm <= 1.

    For binary tokens d = c and phi(a) = (a - 1/2) u, so the log-odds of a one are <theta, u>. For A > 2 there is one
    weight vector a token: d = A c, phi(a) = e_a (x) u.
    """

    def __init__(self, vocab_size: int, n_context: int) -> None:
        self.n_context = check_int("n_context", n_context, minimum=1)
        vocab_size = check_int("vocab_size", vocab_size, minimum=2)
        super().__init__(vocab_size, self.n_context if vocab_size == 2 else self.n_context * vocab_size)
        self.spread = 1.0 if self.vocab_size == 2 else math.sqrt(2.0)

    @abstractmethod
    def context(self, prompts: NDArray[np.integer], tokens: NDArray[np.integer]) -> FloatArray:
        """``(B, c)`` features u of the prefix, norms <= 1."""

    def signed(self, prompts: NDArray[np.integer], tokens: NDArray[np.integer]) -> FloatArray:
        return self.context(prompts, tokens) if self.vocab_size == 2 else super().signed(prompts, tokens)

    def joint(self, prompts: NDArray[np.integer], tokens: NDArray[np.integer]) -> FloatArray:
        u = self.context(prompts, tokens)  # (B, c)
        if self.vocab_size == 2:
            return np.array([-0.5, 0.5])[None, :, None] * u[:, None, :]
        blocks = np.einsum("ab,nc->nabc", np.eye(self.vocab_size), u)  # (B, A, A, c)
        return blocks.reshape(len(u), self.vocab_size, self.dimension)

    def logits(self, theta: FloatArray, values: FloatArray) -> FloatArray:
        if self.vocab_size == 2:
            log_odds = values @ theta
            return np.stack([-0.5 * log_odds, 0.5 * log_odds], axis=-1)
        return values @ theta.reshape(self.vocab_size, self.n_context).T

    def log_probs(self, theta: FloatArray, values: FloatArray) -> FloatArray:
        if self.vocab_size > 2:
            return super().log_probs(theta, values)
        log_odds = values @ theta
        return -np.logaddexp(0.0, np.stack([log_odds, -log_odds], axis=-1))

    def pull_back(self, values: FloatArray, by_logit: FloatArray) -> FloatArray:
        return by_logit[:, 1] @ values if self.vocab_size == 2 else (by_logit.T @ values).ravel()

    def prefix_features(self, prompts: NDArray[np.integer], tokens: NDArray[np.integer]) -> FloatArray:
        """`context`: ``(B, c)``."""
        return self.context(prompts, tokens)

    @property
    def feature_shape(self) -> tuple[int, ...]:
        return (self.n_context,)


# -- Feature maps that are a few equal entries among many zeros, kept as the places of those entries ------------------


IndexArray = NDArray[np.int32]

BLOCK_ENTRIES = 1 << 16  # logits handled at once: half a megabyte stays in cache
LAWS_BYTES = 1 << 25  # of laws and places of features held at once


class IndicatorFeatureMap(ContextFeatureMap):
    """Context features that are ``scale = 1 / sqrt(K)`` at K places at most, different ones, and zero elsewhere.

    With thousands of features and tens of tokens such a map is never written out: policies gather the K rows of
    weights that count, and maximum likelihood keeps places instead of features (`agents.linear_rows`). A subclass
    gives `active` (and `active_path`, if whole sequences can be had faster than prefix by prefix).

    Args:
        vocab_size: A.
        n_context: c, the number of features.
        n_active: K.

    >>> import numpy as np
    >>> from ntp_envs.features import WindowOneHot
    >>> WindowOneHot(3, 2).active_path(np.zeros((1, 0), int), np.array([[2, 0, 1]])).tolist()  # 7: not seen yet
    [[[0, 7, 7], [0, 3, 7], [0, 1, 6]]]
    """

    def __init__(self, vocab_size: int, n_context: int, n_active: int) -> None:
        super().__init__(vocab_size, n_context)
        self.n_active = check_int("n_active", n_active, minimum=1)
        self.scale = 1.0 / math.sqrt(self.n_active)

    @abstractmethod
    def active(self, prompts: NDArray[np.integer], tokens: NDArray[np.integer]) -> IndexArray:
        """``(B, K)`` int32 places of one prefix a row, after ``(B, P)`` prompts and ``(B, t)`` tokens; c: nothing."""

    def active_path(self, prompts: NDArray[np.integer], tokens: NDArray[np.integer]) -> IndexArray:
        """Teacher-forced: ``(B, H, K)`` int32 places before each token."""
        tokens = np.asarray(tokens)
        out = np.empty((*tokens.shape, self.n_active), dtype=np.int32)
        for h in range(tokens.shape[1]):
            out[:, h] = self.active(prompts, tokens[:, :h])
        return out

    def matrices(self, active: NDArray[np.integer]) -> list[tuple[slice, Any]]:
        """The ``(N, K)`` places of N prefixes as sparse ``(b, c)`` features of a few rows each, and which rows."""
        from scipy.sparse import csr_array

        size = max(BLOCK_ENTRIES // self.vocab_size, 16)
        values = np.full(min(size, len(active)) * active.shape[1], self.scale)
        found = []
        for start in range(0, len(active), size):
            places = active[start : start + size]
            seen = places.astype(np.int32, copy=False).view(np.uint32) < self.n_context  # nor below 0: C would not look
            ends = np.concatenate([[0], np.cumsum(seen.sum(axis=1))]).astype(np.int32)
            parts = (values[: ends[-1]], places[seen].astype(np.int32, copy=False), ends)
            features = csr_array(parts, shape=(len(places), self.n_context), copy=False)
            found.append((slice(start, start + len(places)), features))
        return found

    def next_log_probs(
        self, theta: FloatArray, prompts: NDArray[np.integer], tokens: NDArray[np.integer]
    ) -> FloatArray:
        if self.vocab_size == 2:
            return super().next_log_probs(theta, prompts, tokens)
        return self._law_at(theta, self.active(prompts, tokens))

    def forced_log_probs(
        self, theta: FloatArray, prompts: NDArray[np.integer], tokens: NDArray[np.integer]
    ) -> Iterator[tuple[slice, FloatArray]]:
        if self.vocab_size == 2:
            yield from super().forced_log_probs(theta, prompts, tokens)
            return
        sequence = tokens.shape[1] * (8 * self.vocab_size + 4 * self.n_active)
        size = max(LAWS_BYTES // max(sequence, 1), 1)
        for start in range(0, len(tokens), size):
            rows = slice(start, min(start + size, len(tokens)))
            active = self.active_path(prompts[rows], tokens[rows])
            law = self._law_at(theta, active.reshape(-1, self.n_active))
            yield rows, law.reshape(*active.shape[:2], self.vocab_size)

    def _law_at(self, theta: FloatArray, active: IndexArray) -> FloatArray:
        """``(N, A)`` log-probabilities from ``(N, K)`` places."""
        weights = np.ascontiguousarray(theta.reshape(self.vocab_size, -1).T)  # (c, A)
        out = np.empty((len(active), self.vocab_size))
        for rows, features in self.matrices(active):
            out[rows] = normalised_logits(features @ weights)
        return out

    def context(self, prompts: NDArray[np.integer], tokens: NDArray[np.integer]) -> FloatArray:
        return self._written_out(self.active(prompts, tokens))

    def path(self, prompts: NDArray[np.integer], tokens: NDArray[np.integer]) -> FloatArray:
        return self._written_out(self.active_path(prompts, tokens))

    def _written_out(self, active: IndexArray) -> FloatArray:
        out = np.zeros((*active.shape[:-1], self.n_context + 1))
        np.put_along_axis(out, active.astype(np.int64), self.scale, axis=-1)
        return out[..., :-1]


# -- Feature maps that see a few of the last tokens -------------------------------------------------------------------


def _last_tokens(prompts: NDArray[np.integer], tokens: NDArray[np.integer], vocab_size: int, width: int) -> NDArray:
    """``(B, width + P + t)`` tokens after ``width`` places of padding, which is the digit A."""
    padding = np.full((len(tokens), width), vocab_size, dtype=np.int64)
    return np.concatenate([padding, prompts, tokens], axis=1)


class WindowOneHot(IndicatorFeatureMap):
    """The last ``width`` tokens, each as a one-hot block, the most recent first; optionally a constant before them.

    The prompt's tail counts; places before the beginning are zero. All is divided by ``sqrt(width + bias)``, so the
    norm is exactly 1 once ``width`` tokens have been seen and smaller before.

    Large windows over tens of tokens are made for: policies and maximum likelihood work on `active`, the places of the
    ``width + bias`` entries that are not zero.

    Args:
        vocab_size: A.
        width: number of tokens seen, >= 0 (at least 1 without a bias).
        bias: prepend a constant feature.

    >>> import numpy as np
    >>> WindowOneHot(2, 1).context(np.zeros((1, 0), int), np.array([[0, 1]])).round(3).tolist()
    [[0.707, 0.0, 0.707]]
    """

    def __init__(self, vocab_size: int, width: int, bias: bool = True) -> None:
        vocab_size = check_int("vocab_size", vocab_size, minimum=2)
        check_fits("vocab_size", vocab_size, 24.0 * vocab_size, "one-hot rows")
        self.width = self.window = check_int(
            "width", width, minimum=0 if check_flag("bias", bias) else 1, maximum=1 << 20
        )
        self.bias = bool(bias)
        super().__init__(vocab_size, int(self.bias) + vocab_size * self.width, self.width + self.bias)
        # several lags are looked up at once: one table row for each string of ``group`` digits, the most recent first
        self._group = max(g for g in range(1, 9) if g == 1 or (self.vocab_size + 1) ** g <= 256)
        digit = np.vstack([np.eye(self.vocab_size), np.zeros(self.vocab_size)]) * self.scale  # (A + 1, A)
        self._table = digit[all_sequences(self.vocab_size + 1, self._group)].reshape(-1, self._group * self.vocab_size)

    def _features(self, line: NDArray, first: int, count: int) -> FloatArray:
        """``(B, count, c)`` features before the tokens at ``first``, ``first + 1``, ... of a `_last_tokens` line."""
        out = np.empty((len(line), count, self.n_context))
        if self.bias:
            out[:, :, 0] = self.scale
        for lag in range(0, self.width, self._group):
            size = min(self._group, self.width - lag)
            code = np.zeros((len(line), count), dtype=np.int64)
            for k in range(lag, lag + size):
                code = code * (self.vocab_size + 1) + line[:, first - 1 - k : first - 1 - k + count]
            code *= (self.vocab_size + 1) ** (self._group - size)
            start = int(self.bias) + lag * self.vocab_size
            out[:, :, start : start + size * self.vocab_size] = self._table[code, : size * self.vocab_size]
        return out

    def context(self, prompts: NDArray[np.integer], tokens: NDArray[np.integer]) -> FloatArray:
        line = _last_tokens(prompts, tokens, self.vocab_size, self.width)
        return self._features(line, line.shape[1], 1)[:, 0]

    def path(self, prompts: NDArray[np.integer], tokens: NDArray[np.integer]) -> FloatArray:
        line = _last_tokens(prompts, tokens, self.vocab_size, self.width)
        return self._features(line, self.width + np.shape(prompts)[1], np.shape(tokens)[1])

    def _active(self, line: NDArray, first: int, count: int) -> IndexArray:
        """``(B, count, K)`` places of the entries of `_features` that are not zero; c where there is no token."""
        out, line = np.zeros((self.n_active, len(line), count), dtype=np.int32), line.astype(np.int32)
        for lag in range(self.width):
            tokens = line[:, first - 1 - lag : first - 1 - lag + count]
            place = tokens + (int(self.bias) + lag * self.vocab_size)
            out[int(self.bias) + lag] = np.where(tokens == self.vocab_size, self.n_context, place)
        return np.moveaxis(out, 0, 2)

    def active(self, prompts: NDArray[np.integer], tokens: NDArray[np.integer]) -> IndexArray:
        line = _last_tokens(prompts, tokens, self.vocab_size, self.width)
        return self._active(line, line.shape[1], 1)[:, 0]

    def active_path(self, prompts: NDArray[np.integer], tokens: NDArray[np.integer]) -> IndexArray:
        line = _last_tokens(prompts, tokens, self.vocab_size, self.width)
        return self._active(line, self.width + np.shape(prompts)[1], np.shape(tokens)[1])


class FlipSign(ContextFeatureMap):
    """+1 after the token 0, -1 after the token 1, 0 if there is no token before (binary tokens, d = 1).

    With it ``theta`` is the log-odds of a flip: the class of `ntp_envs.tasks.Contamination` as an autoregressive
    linear class of dimension one, ``||theta|| <= logit(1 - theta_min)``. Norms are 0 or 1.

    >>> import numpy as np
    >>> FlipSign().context(np.array([[0], [1]]), np.zeros((2, 0), int)).tolist()
    [[1.0], [-1.0]]
    """

    window = 1

    def __init__(self) -> None:
        super().__init__(2, 1)

    def path(self, prompts: NDArray[np.integer], tokens: NDArray[np.integer]) -> FloatArray:
        before = _last_tokens(prompts, tokens, 2, 1)[:, np.shape(prompts)[1] : -1]
        return np.array([1.0, -1.0, 0.0])[before][:, :, None]

    def context(self, prompts: NDArray[np.integer], tokens: NDArray[np.integer]) -> FloatArray:
        return np.array([1.0, -1.0, 0.0])[_last_tokens(prompts, tokens, 2, 1)[:, -1:]]


# -- A feature map that sees a few tokens at fixed distances before the next one --------------------------------------


class OffsetsOneHot(IndicatorFeatureMap):
    """The tokens at chosen offsets before the next one, each as a one-hot block; optionally a constant before them.

    Offset -1 is the last token, -2 the one before it, as in Python's indexing; the prompt counts, and places before
    its beginning are zero. All is divided by ``sqrt(len(offsets) + bias)``, so the norm is 1 once all places exist.
    What a linear predictor needs to run a Turing machine (`ntp_envs.tasks.TuringMachine`), where all but three of
    the tokens of a wide window are beside the point.

    Args:
        vocab_size: A.
        offsets: distinct negative integers, in the order of the blocks; at least one without a bias.
        bias: prepend a constant feature.

    Raises:
        ValueError: an offset that is not negative or occurs twice, or no feature at all.

    >>> import numpy as np
    >>> OffsetsOneHot(2, (-2,), bias=False).context(np.zeros((1, 0), int), np.array([[0, 1, 1]])).tolist()
    [[0.0, 1.0]]
    """

    def __init__(self, vocab_size: int, offsets: Sequence[int], bias: bool = True) -> None:
        vocab_size = check_int("vocab_size", vocab_size, minimum=2)
        if isinstance(offsets, (str, bytes)) or not hasattr(offsets, "__iter__"):
            raise TypeError(f"offsets={offsets!r} must be a sequence of negative integers such as (-3, -1).")
        lags = [-check_int("offset", offset, minimum=-(1 << 24), maximum=-1) for offset in offsets]
        if len(set(lags)) < len(lags):
            raise ValueError(f"offsets={tuple(offsets)} must be distinct.")
        self.offsets, self.bias = tuple(-lag for lag in lags), check_flag("bias", bias)
        if not lags and not self.bias:
            raise ValueError("offsets is empty and bias=False: there is no feature; give an offset or bias=True.")
        self._reach = self.window = max(lags, default=0)
        super().__init__(vocab_size, int(self.bias) + vocab_size * len(lags), int(self.bias) + len(lags))

    def _seen(self, prompts: NDArray[np.integer], tokens: NDArray[np.integer], count: int) -> IntArray:
        """``(B, count, len(offsets))`` digits before the last ``count`` of the places up to the one after ``tokens``.

        The digit of a place before the beginning is A.
        """
        line = _last_tokens(prompts, tokens, self.vocab_size, self._reach)
        first = line.shape[1] + 1 - count
        columns = [line[:, first + offset : first + offset + count] for offset in self.offsets]
        return np.stack(columns, axis=2) if columns else np.empty((len(line), count, 0), dtype=np.int64)

    def _places(self, seen: IntArray) -> IndexArray:
        out = np.zeros((*seen.shape[:2], self.n_active), dtype=np.int32)  # the constant's place is 0
        starts = int(self.bias) + self.vocab_size * np.arange(len(self.offsets))
        out[:, :, int(self.bias) :] = np.where(seen == self.vocab_size, self.n_context, seen + starts)
        return out

    def active(self, prompts: NDArray[np.integer], tokens: NDArray[np.integer]) -> IndexArray:
        return self._places(self._seen(prompts, tokens, 1))[:, 0]

    def active_path(self, prompts: NDArray[np.integer], tokens: NDArray[np.integer]) -> IndexArray:
        return self._places(self._seen(prompts, tokens, np.shape(tokens)[1] + 1)[:, :-1])

    def codes(self, prompts: NDArray[np.integer], tokens: NDArray[np.integer]) -> IntArray | None:
        """The digits seen, as one number; ``None`` where it would not fit 62 bits."""
        base = self.vocab_size + 1
        if len(self.offsets) * math.log2(base) >= 62:
            return None
        seen = self._seen(prompts, tokens, np.shape(tokens)[1] + 1)[:, :-1]
        return seen @ base ** np.arange(len(self.offsets), dtype=np.int64)


# -- Feature maps that see the position, the prompt, or the place within an episode -----------------------------------


class Position(ContextFeatureMap):
    """The position of the next token as a one-hot vector of norm 1; ``wrap`` counts modulo ``length``.

    Args:
        vocab_size: A.
        length: number of positions; without ``wrap`` sequences are at most this long (``ValueError`` beyond).
        wrap: position modulo ``length``.

    >>> import numpy as np
    >>> Position(2, 3).context(np.zeros((1, 0), int), np.zeros((1, 1), int)).tolist()
    [[0.0, 1.0, 0.0]]
    """

    def __init__(self, vocab_size: int, length: int, wrap: bool = False) -> None:
        self.length, self.wrap = check_int("length", length, minimum=1), check_flag("wrap", wrap)
        self.horizon = None if self.wrap else self.length
        super().__init__(vocab_size, self.length)

    def context(self, prompts: NDArray[np.integer], tokens: NDArray[np.integer]) -> FloatArray:
        step = np.shape(tokens)[1]
        if step >= self.length and not self.wrap:
            raise ValueError(f"{self!r} has no feature for position {step}; raise length, or use wrap=True.")
        return np.tile(np.eye(self.length)[step % self.length], (len(tokens), 1))

    def path(self, prompts: NDArray[np.integer], tokens: NDArray[np.integer]) -> FloatArray:
        n, horizon = np.shape(tokens)
        if horizon > self.length and not self.wrap:
            raise ValueError(f"{self!r} has no feature for position {self.length}; raise length, or use wrap=True.")
        return np.tile(np.eye(self.length)[np.arange(horizon) % self.length], (n, 1, 1))

    def states(self) -> FeatureStates | None:
        if self.length**2 > MAX_STATES:
            return None
        following = (np.arange(self.length) + 1) % self.length
        return FeatureStates(np.tile(following[:, None], (1, self.vocab_size)), np.eye(self.length))


class PromptFeatures(ContextFeatureMap):
    """The P prompt tokens as one-hot blocks (and a constant), whatever has been generated; norm exactly 1.

    Args:
        vocab_size: A.
        prompt_length: P >= 1.
        bias: prepend a constant feature.

    Raises:
        ValueError: on use, a prompt of another length.

    >>> import numpy as np
    >>> PromptFeatures(2, 1, bias=False).context(np.array([[1]]), np.zeros((1, 5), int)).tolist()
    [[0.0, 1.0]]
    """

    def __init__(self, vocab_size: int, prompt_length: int, bias: bool = True) -> None:
        vocab_size = check_int("vocab_size", vocab_size, minimum=2)
        self.prompt_length = check_int("prompt_length", prompt_length, minimum=1)
        self.bias = check_flag("bias", bias)
        super().__init__(vocab_size, int(self.bias) + vocab_size * self.prompt_length)

    def context(self, prompts: NDArray[np.integer], tokens: NDArray[np.integer]) -> FloatArray:
        prompts = np.asarray(prompts)
        if prompts.shape[1] != self.prompt_length:
            raise ValueError(f"the prompts have {prompts.shape[1]} tokens; {self!r} needs {self.prompt_length}.")
        one_hot = np.eye(self.vocab_size)[prompts].reshape(len(prompts), -1)
        return np.column_stack([np.ones((len(prompts), int(self.bias))), one_hot]) / math.sqrt(
            self.prompt_length + self.bias
        )

    def path(self, prompts: NDArray[np.integer], tokens: NDArray[np.integer]) -> FloatArray:
        return np.repeat(self.context(prompts, tokens)[:, None, :], np.shape(tokens)[1], axis=1)

    def states(self) -> FeatureStates | None:
        n = self.vocab_size**self.prompt_length
        if n > MAX_STATES:
            return None
        prompts = all_sequences(self.vocab_size, self.prompt_length)
        stay = np.tile(np.arange(n)[:, None], (1, self.vocab_size))
        return FeatureStates(stay, self.context(prompts, np.empty((n, 0), dtype=np.int64)), initial=np.arange(n))


class EpisodeBits(ContextFeatureMap):
    """Episodes of ``bits`` free bits and one answer: before the answer (1, +-1 bits) / sqrt(bits + 1), else zero.

    The bits enter as +1 for a one and -1 for a zero, so the norm is exactly 1 before an answer; it is 0 before a free
    bit, where every policy of a linear class is therefore uniform. Binary tokens; any prompt is ignored.

    Args:
        bits: free bits an episode, 1 to 14.

    >>> import numpy as np
    >>> (EpisodeBits(2).context(np.zeros((1, 0), int), np.array([[1, 0]])) * 3**0.5).round(9).tolist()
    [[1.0, 1.0, -1.0]]
    """

    def __init__(self, bits: int) -> None:
        self.bits = check_int("bits", bits, minimum=1, maximum=14)
        super().__init__(2, self.bits + 1)

    def _answer_features(self, seen: NDArray[np.integer]) -> FloatArray:
        """``(..., bits + 1)`` features from the ``(..., bits)`` bits of the episode."""
        ones = np.ones((*seen.shape[:-1], 1))
        return np.concatenate([ones, 2.0 * seen - 1.0], axis=-1) / math.sqrt(self.bits + 1)

    def context(self, prompts: NDArray[np.integer], tokens: NDArray[np.integer]) -> FloatArray:
        tokens = np.asarray(tokens)
        if tokens.shape[1] % (self.bits + 1) != self.bits:
            return np.zeros((len(tokens), self.n_context))
        return self._answer_features(tokens[:, -self.bits :])

    def path(self, prompts: NDArray[np.integer], tokens: NDArray[np.integer]) -> FloatArray:
        tokens = np.asarray(tokens)
        out = np.zeros((*tokens.shape, self.n_context))
        for answer in range(self.bits, tokens.shape[1], self.bits + 1):
            out[:, answer] = self._answer_features(tokens[:, answer - self.bits : answer])
        return out

    def states(self) -> FeatureStates:
        """One state for each string of fewer than ``bits + 1`` bits, shorter strings first."""
        n_free = (1 << self.bits) - 1  # states before a free bit
        state = np.arange(2 * n_free + 1)
        transitions = np.where(state[:, None] < n_free, 2 * state[:, None] + 1 + np.arange(2), 0)
        features = np.zeros((len(state), self.n_context))
        features[n_free:] = self._answer_features(all_sequences(2, self.bits))
        return FeatureStates(transitions, features)


# -- Separate weights for every output position: a context feature map, one block a position --------------------------


class ByPosition(ContextFeatureMap):
    """The features of another map in the block of the next token's position, zeros elsewhere; the norm is kept.

    A linear model on it has weights of its own for each of ``length`` output positions.

    Args:
        of: a context feature map.
        length: number of positions; longer sequences are refused (``ValueError``).

    >>> import numpy as np
    >>> from ntp_envs.features import FlipSign
    >>> ByPosition(FlipSign(), 3).context(np.zeros((1, 0), int), np.array([[0, 1]])).tolist()
    [[0.0, 0.0, -1.0]]
    """

    def __init__(self, of: ContextFeatureMap, length: int) -> None:
        if not isinstance(of, ContextFeatureMap):
            raise TypeError(f"of must be a ContextFeatureMap, not {type(of).__name__}.")
        self.of = of
        self.length = self.horizon = check_int("length", length, minimum=1, maximum=of.horizon)
        self.prompt_length: int | None = getattr(of, "prompt_length", None)
        super().__init__(of.vocab_size, of.n_context * self.length)

    def context(self, prompts: NDArray[np.integer], tokens: NDArray[np.integer]) -> FloatArray:
        step = self._checked(np.shape(tokens)[1] + 1) - 1
        out = np.zeros((len(tokens), self.length, self.of.n_context))
        out[:, step] = self.of.context(prompts, tokens)
        return out.reshape(len(tokens), self.n_context)

    def path(self, prompts: NDArray[np.integer], tokens: NDArray[np.integer]) -> FloatArray:
        n, horizon = np.shape(tokens)
        steps = np.arange(self._checked(horizon))
        out = np.zeros((n, horizon, self.length, self.of.n_context))
        out[:, steps, steps] = self.of.path(prompts, tokens)
        return out.reshape(n, horizon, self.n_context)

    def codes(self, prompts: NDArray[np.integer], tokens: NDArray[np.integer]) -> IntArray | None:
        inner = self.of.codes(prompts, tokens)
        return None if inner is None else inner * self.length + np.arange(self._checked(np.shape(tokens)[1]))

    def _checked(self, positions: int) -> int:
        if positions > self.length:
            raise ValueError(f"{self!r} has no block for position {positions - 1}; raise length={self.length}.")
        return positions


# -- Feature maps made from others, and from a plain function ---------------------------------------------------------


class PairwiseProducts(ContextFeatureMap):
    """All products u_i u_j, i <= j, of another map's features.

    Those with i < j are multiplied by sqrt 2, so that ``<v, v'> = <u, u'>^2`` and the norm is ``||u||^2 <= 1``. With a
    bias among the u the linear terms are included.

    Args:
        of: a context feature map.

    >>> from ntp_envs.features import WindowOneHot
    >>> PairwiseProducts(WindowOneHot(2, 2)).n_context
    15
    """

    def __init__(self, of: ContextFeatureMap) -> None:
        if not isinstance(of, ContextFeatureMap):
            raise TypeError(f"of must be a ContextFeatureMap, not {type(of).__name__}.")
        self.of, self.window, self.horizon = of, of.window, of.horizon
        self._first, self._second = np.triu_indices(of.n_context)
        self._factor = np.where(self._first == self._second, 1.0, math.sqrt(2.0))
        super().__init__(of.vocab_size, len(self._first))

    def _products(self, u: FloatArray) -> FloatArray:
        return u[..., self._first] * u[..., self._second] * self._factor

    def context(self, prompts: NDArray[np.integer], tokens: NDArray[np.integer]) -> FloatArray:
        return self._products(self.of.context(prompts, tokens))

    def path(self, prompts: NDArray[np.integer], tokens: NDArray[np.integer]) -> FloatArray:
        return self._products(self.of.path(prompts, tokens))

    def states(self) -> FeatureStates | None:
        inner = self.of.states()
        if inner is None:
            return None
        return FeatureStates(inner.transitions, self._products(inner.features), inner.order, inner.initial)


class Concatenated(ContextFeatureMap):
    """Several context feature maps side by side, divided by the square root of their number: norms stay <= 1.

    The window is the widest of theirs, where all have one.

    Args:
        maps: context feature maps over one vocabulary.

    >>> from ntp_envs.features import PromptFeatures, WindowOneHot
    >>> Concatenated([WindowOneHot(2, 1), PromptFeatures(2, 1)]).n_context
    6
    """

    def __init__(self, maps: Sequence[ContextFeatureMap]) -> None:
        self.maps = check_list("maps", maps, ContextFeatureMap)
        sizes = {part.vocab_size for part in self.maps}
        if len(sizes) > 1:
            raise ValueError(f"the maps have different vocabulary sizes {sorted(sizes)}; one is needed.")
        windows = [part.window for part in self.maps if part.window is not None]
        horizons = [part.horizon for part in self.maps if part.horizon is not None]
        self.window = max(windows) if len(windows) == len(self.maps) else None
        self.horizon = min(horizons, default=None)
        super().__init__(sizes.pop(), sum(part.n_context for part in self.maps))

    def _joined(self, parts: list[FloatArray]) -> FloatArray:
        return np.concatenate(parts, axis=-1) / math.sqrt(len(self.maps))

    def context(self, prompts: NDArray[np.integer], tokens: NDArray[np.integer]) -> FloatArray:
        return self._joined([part.context(prompts, tokens) for part in self.maps])

    def path(self, prompts: NDArray[np.integer], tokens: NDArray[np.integer]) -> FloatArray:
        return self._joined([part.path(prompts, tokens) for part in self.maps])


class CallableFeatures(ContextFeatureMap):
    """Context features from a plain function ``(prompts (B, P), tokens (B, t)) -> (B, c)``.

    Every answer is checked: right shape, finite, norms at most 1 (to 1e-9). A longer row is refused, or with
    ``rescale`` divided by its norm (shorter rows stay as they are).

    Args:
        function: the map; a module-level function if it is to be pickled.
        vocab_size: A.
        n_context: c.
        window: promise that the function sees only this many of the last tokens; trusted, it lets contexts be pooled.
        rescale: divide rows longer than 1 by their norm instead of refusing them.

    Raises:
        ValueError: on use, a wrong shape, a value that is not finite, or a norm above 1 without ``rescale``.

    >>> import numpy as np
    >>> count = CallableFeatures(lambda x, a: a.mean(axis=1, keepdims=True) if a.size else np.zeros((len(a), 1)), 2, 1)
    >>> count.context(np.zeros((1, 0), int), np.array([[0, 1]])).tolist()
    [[0.5]]
    """

    def __init__(
        self,
        function: Callable[[NDArray[np.integer], NDArray[np.integer]], ArrayLike],
        vocab_size: int,
        n_context: int,
        window: int | None = None,
        rescale: bool = False,
    ) -> None:
        self.function = check_callable("function", function, "(prompts, tokens) -> (B, c) features")
        self.rescale = check_flag("rescale", rescale)
        self.window = None if window is None else check_int("window", window, minimum=0)
        super().__init__(vocab_size, n_context)

    def context(self, prompts: NDArray[np.integer], tokens: NDArray[np.integer]) -> FloatArray:
        u = as_array("what the function returned", self.function(prompts, tokens), np.float64)
        if u.shape != (len(tokens), self.n_context):
            raise ValueError(f"the features have shape {u.shape}; {(len(tokens), self.n_context)} is needed.")
        norms = np.sqrt((u * u).sum(axis=1))
        if not np.isfinite(norms).all():
            row = int(np.flatnonzero(~np.isfinite(norms))[0])
            raise ValueError(
                f"the features of row {row} after {np.shape(tokens)[1]} tokens are not finite: {u[row]}; "
                "mend the function (a division by zero at the empty prefix is the usual cause)."
            )
        if norms.max(initial=0.0) <= 1 + 1e-9:
            return u
        if not self.rescale:
            row = int(norms.argmax())
            raise ValueError(
                f"the features of row {row} have norm {norms[row]:.6g}; norms are at most 1. Divide by a bound, or "
                "use rescale=True, which divides each longer row by its own norm."
            )
        return u / np.maximum(norms, 1.0)[:, None]


# -- Feature maps for chains of thought about the bits of a prompt: what has been written so far, and the bits --------


MAX_MONOMIALS = 1 << 14


def _checked_prompts(prompts: NDArray[np.integer], features: ContextFeatureMap, length: int) -> NDArray[np.integer]:
    prompts = np.asarray(prompts)
    if prompts.shape[1] != length:
        raise ValueError(f"the prompts have {prompts.shape[1]} tokens; {features!r} needs {length}.")
    if prompts.size and (prompts.max() > 1 or prompts.min() < 0):
        raise ValueError(f"the prompts hold {prompts.max() if prompts.max() > 1 else prompts.min()}; bits are 0 or 1.")
    return prompts


def n_monomials(places: int, degree: int) -> int:
    """Products of up to ``degree`` different signs out of ``places``, the empty one included; or too many."""
    found = 0
    for order in range(min(degree, places) + 1):
        found += math.comb(places, order)
        if found > MAX_MONOMIALS:
            break
    return found


class PrefixSigns(ContextFeatureMap):
    """A constant, the prompt's bits as signs, and every token so far at its own place: the whole prefix, linearly.

    A sign is +1 for a one and -1 for a zero; the prompt holds zeros and ones only. Tokens so far are signs as well if
    the vocabulary is {0, 1} and one-hot blocks otherwise; those not yet written are zero. With ``degree`` q (binary
    tokens) also all products of 2 to q different signs. Divided by the square root of the largest number of non-zero
    entries, so that norms are at most 1 (exactly 1 before the last token).

    Args:
        vocab_size: A.
        prompt_length: P >= 1.
        length: positions; longer sequences are refused (``ValueError``).
        degree: of the products; more than 16384 features are refused.

    >>> import numpy as np
    >>> PrefixSigns(2, 1, 3).context(np.array([[1]]), np.array([[0]])).round(3).tolist()
    [[0.5, 0.5, -0.5, 0.0]]
    """

    def __init__(self, vocab_size: int, prompt_length: int, length: int, degree: int = 1) -> None:
        vocab_size = check_int("vocab_size", vocab_size, minimum=2)
        self.prompt_length = check_int("prompt_length", prompt_length, minimum=1)
        self.length = self.horizon = check_int("length", length, minimum=1)
        self.degree = check_int("degree", degree, minimum=1)
        if self.degree > 1 and vocab_size != 2:
            raise ValueError(f"degree={degree} is for binary tokens, not a vocabulary of {vocab_size}; use degree=1.")
        self._token_width = 1 if vocab_size == 2 else vocab_size
        places = self.prompt_length + self.length - 1
        size = n_monomials(places, self.degree)
        if size > MAX_MONOMIALS:
            raise ValueError(
                f"degree={degree} gives {size} products of {places} signs, or more; at most {MAX_MONOMIALS} are kept. "
                "Lower degree, prompt_length or length."
            )
        self._monomials = [
            np.array(list(combinations(range(places), order)), dtype=np.int64)
            for order in range(2, min(self.degree, places) + 1)
        ]
        self._scale = 1.0 / math.sqrt(size)
        n_linear = 1 + self.prompt_length + (self.length - 1) * self._token_width
        super().__init__(vocab_size, n_linear + sum(len(indices) for indices in self._monomials))

    def index(self, *places: int) -> int:
        """Where the product of the signs at these ascending places is; the constant for no place.

        Places 0..P-1 are the prompt's, P + j is the token written at 0-based position j (binary tokens).
        """
        if len(places) < 2:
            return 1 + places[0] if places else 0
        start = 1 + self.prompt_length + self.length - 1
        for indices in self._monomials:
            if indices.shape[1] == len(places):
                return start + int(np.flatnonzero((indices == np.array(places)).all(axis=1))[0])
            start += len(indices)
        raise ValueError(f"a product of {len(places)} signs is not among those of degree {self.degree}.")

    @property
    def scale(self) -> float:
        """What every entry is multiplied by."""
        return self._scale

    def _linear(self, prompts: NDArray[np.integer], tokens: NDArray[np.integer]) -> tuple[FloatArray, FloatArray]:
        """Prompt ``(B, P)`` and written tokens ``(B, t, width)`` as signs or one-hot rows."""
        prompts = _checked_prompts(prompts, self, self.prompt_length)
        written = np.asarray(tokens)
        if written.shape[1] >= self.length:
            raise ValueError(f"{self!r} has no features for position {written.shape[1]}; raise length={self.length}.")
        coded = 2.0 * written[:, :, None] - 1.0 if self.vocab_size == 2 else np.eye(self.vocab_size)[written]
        return 2.0 * prompts.astype(np.float64) - 1.0, coded

    def _features(self, linear: FloatArray) -> FloatArray:
        """``(..., c)`` features from ``(..., places)`` signs and one-hot entries: products appended, scaled."""
        ones = np.ones((*linear.shape[:-1], 1))
        products = [linear[..., indices].prod(axis=-1) for indices in self._monomials]
        return np.concatenate([ones, linear, *products], axis=-1) * self._scale

    def context(self, prompts: NDArray[np.integer], tokens: NDArray[np.integer]) -> FloatArray:
        bits, written = self._linear(prompts, tokens)
        n, seen = written.shape[:2]
        later = np.zeros((n, (self.length - 1 - seen) * self._token_width))
        return self._features(np.concatenate([bits, written.reshape(n, -1), later], axis=1))

    def path(self, prompts: NDArray[np.integer], tokens: NDArray[np.integer]) -> FloatArray:
        n, horizon = np.shape(tokens)
        bits, written = self._linear(prompts, np.asarray(tokens)[:, : max(horizon - 1, 0)])
        places = np.zeros((n, horizon, self.length - 1, self._token_width))
        for h in range(1, horizon):
            places[:, h, :h] = written[:, :h]
        repeated = np.repeat(bits[:, None, :], horizon, axis=1)
        return self._features(np.concatenate([repeated, places.reshape(n, horizon, -1)], axis=2))


class ChainProducts(ContextFeatureMap):
    """A constant, the signs x_i of the prompt's bits, their products z x_i with the last token, and "it has ended".

    Tokens are 0 (sign +1), 1 (sign -1) and 2, the end; products of signs are thus exclusive ors of bits. z is the
    sign of the last token: before the first one, and after the end, the products are zero. After the end only the
    constant, the x_i and the last entry are there. All is divided by ``sqrt(2 P + 1)``; norms are at most 1.

    With them one step of a running product, z x_i, is linear, and so is "the last token is x_1", z x_1; a product of
    more than two bits is not.

    Args:
        prompt_length: P >= 1.

    >>> import numpy as np
    >>> (ChainProducts(1).context(np.array([[1]]), np.array([[1]])) * 3**0.5).round(9).tolist()
    [[1.0, -1.0, 1.0, 0.0]]
    """

    def __init__(self, prompt_length: int) -> None:
        self.prompt_length = check_int("prompt_length", prompt_length, minimum=1)
        super().__init__(3, 2 * self.prompt_length + 2)

    def _features(self, prompts: NDArray[np.integer], last: NDArray[np.integer]) -> FloatArray:
        """``(B, h, c)`` from ``(B, P)`` prompts and ``(B, h)`` last tokens, 3 where there is none."""
        signs = 1.0 - 2.0 * _checked_prompts(prompts, self, self.prompt_length)[:, None, :]
        z = np.array([1.0, -1.0, 0.0, 0.0])[last][:, :, None]
        signs = np.broadcast_to(signs, (*last.shape, self.prompt_length))
        parts = [np.ones((*last.shape, 1)), signs, z * signs, (last == 2)[:, :, None]]
        return np.concatenate(parts, axis=2) / math.sqrt(2 * self.prompt_length + 1)

    def context(self, prompts: NDArray[np.integer], tokens: NDArray[np.integer]) -> FloatArray:
        tokens = np.asarray(tokens)
        last = tokens[:, -1:] if tokens.shape[1] else np.full((len(tokens), 1), 3)
        return self._features(prompts, last)[:, 0]

    def path(self, prompts: NDArray[np.integer], tokens: NDArray[np.integer]) -> FloatArray:
        return self._features(prompts, self._last(tokens))

    def codes(self, prompts: NDArray[np.integer], tokens: NDArray[np.integer]) -> IntArray | None:
        if self.prompt_length > 40:
            return None
        return prefix_codes(prompts, 2)[:, None] * 4 + self._last(tokens)

    @staticmethod
    def _last(tokens: NDArray[np.integer]) -> IntArray:
        """``(B, H)`` token before each one, 3 before the first."""
        tokens = np.asarray(tokens, dtype=np.int64)
        return np.concatenate([np.full((len(tokens), 1), 3), tokens[:, :-1]], axis=1)


# -- Prompts that list the edges of a star of paths, and pointer features of the nodes in them ------------------------


FIXED_NAMES = ("source", "goal", "child_of_source", "child_of_previous", "parent_of_previous", "internal")
MAX_ACTIVE = 4  # features of one candidate at once in a star: child of source, internal, child or parent, ancestor


@dataclass(frozen=True, eq=False)
class StarPrompts:
    """Prompts ``u v | u v | ... / start goal =`` taken apart by place; any token is believed in any place.

    Attributes:
        tails, heads: ``(B, E)`` u and v of each edge, in the prompt's order.
        start, goal: ``(B,)``.

    >>> star = StarPrompts.read(np.array([[3, 1, 4, 1, 2, 6, 3, 2, 5]]), 2)  # 3 1 | 1 2 / 3 2 =
    >>> star.ancestors(2).tolist()
    [[2, 1, 3]]
    """

    tails: IntArray
    heads: IntArray
    start: IntArray
    goal: IntArray

    @classmethod
    def read(cls, prompts: NDArray[np.integer], n_edges: int) -> StarPrompts:
        """``(B, 3 E + 3)`` prompts of E edges.

        Raises:
            ValueError: prompts of another length.
        """
        line: IntArray = np.asarray(prompts).astype(np.int64, copy=False)
        if line.ndim != 2 or line.shape[1] != 3 * n_edges + 3:
            raise ValueError(f"the prompts have shape {line.shape}; (B, {3 * n_edges + 3}) is needed.")
        edges = line[:, : 3 * n_edges].reshape(len(line), n_edges, 3)
        return cls(edges[:, :, 0], edges[:, :, 1], line[:, -3], line[:, -2])

    def children(self, nodes: NDArray[np.integer], vocab_size: int) -> BoolArray:
        """``(B, A)`` whether an edge leads from the row's node, one of ``(B,)``, to each token."""
        return _across(self.tails, self.heads, nodes, vocab_size)

    def parents(self, nodes: NDArray[np.integer], vocab_size: int) -> BoolArray:
        """``(B, A)`` whether an edge leads from each token to the row's node."""
        return _across(self.heads, self.tails, nodes, vocab_size)

    def ancestors(self, hops: int) -> IntArray:
        """``(B, hops + 1)`` the goal, its parent, its parent's parent ... a node that no edge leads to stays put.

        Where several edges lead to a node, as in no star, the first in the prompt counts.
        """
        out = np.empty((len(self.goal), hops + 1), dtype=np.int64)
        out[:, 0] = self.goal
        rows = np.arange(len(out))
        largest = max((int(ends.max()) for ends in (self.tails, self.heads, self.goal) if ends.size), default=0)
        parents = np.tile(np.arange(largest + 1), (len(out), 1))
        heads, tails = (ends[:, ::-1].copy() for ends in (self.heads, self.tails))  # copies: written in this order
        parents[rows[:, None], heads] = tails  # the first in the prompt is the last written
        for hop in range(hops):
            out[:, hop + 1] = parents[rows, out[:, hop]]
        return out


def _across(ends: IntArray, others: IntArray, nodes: NDArray[np.integer], vocab_size: int) -> BoolArray:
    out = np.zeros((len(nodes), vocab_size), dtype=bool)
    rows, edges = np.nonzero(ends == nodes[:, None])
    out[rows, others[rows, edges]] = True
    return out


class PathPointers(FeatureMap):
    """What a pointer sees of each candidate next token in a path-star prompt, with separate weights a position.

    Features of a candidate, each 0 or 1/2: it is the source; the goal; a child of the source; a child of the previous
    token; a parent of the previous token; internal (edges lead to it and from it); and for each j = 1..hops, it is the
    ancestor of the goal j edges back. At output position t only block t of theta is used, so that a position may have
    its own rule.

    In a star at most four are active at once, so norms are at most 1; in a prompt that is no star a candidate with more
    than four has norm exactly 1.

    Args:
        degree: d, arms of the star.
        length: L, nodes on an arm, the source included: also the number of output positions.
        nodes: N; the vocabulary is the nodes and ``|``, ``=``, ``/``, ``$``, A = N + 4.
        hops: how many ancestors of the goal are seen, 0 to L - 2 (all of those that are neither goal nor source).
        teacherless: what was written is replaced by the dummy ``$``, so nothing of the previous token is seen.

    >>> import numpy as np
    >>> phi = PathPointers(degree=1, length=3, nodes=4, hops=1)
    >>> prompt = np.array([[3, 1, 4, 1, 2, 6, 3, 2, 5]])  # 3 1 | 1 2 / 3 2 =
    >>> phi.active(prompt, np.array([[3]]), token=1)
    ['child_of_source', 'child_of_previous', 'internal', 'ancestor_1']
    """

    def __init__(self, degree: int, length: int, nodes: int, hops: int = 0, teacherless: bool = False) -> None:
        self.degree = check_int("degree", degree, minimum=1)
        self.length = self.horizon = check_int("length", length, minimum=2)
        self.nodes = check_int("nodes", nodes, minimum=2)
        self.hops = check_int("hops", hops, minimum=0, maximum=self.length - 2)
        self.teacherless = check_flag("teacherless", teacherless)
        self.n_edges = self.degree * (self.length - 1)
        self.prompt_length = 3 * self.n_edges + 3
        self.names = (*FIXED_NAMES, *(f"ancestor_{hop}" for hop in range(1, self.hops + 1)))
        super().__init__(self.nodes + 4, self.length * len(self.names))

    def block(self, position: int) -> slice:
        """Where the weights of an output position are in theta, in the order of ``names``."""
        width = len(self.names)
        return slice(position * width, (position + 1) * width)

    def active(self, prompts: NDArray[np.integer], tokens: NDArray[np.integer], token: int) -> list[str]:
        """Names of the features that are on for ``token`` after the first of these prompts and prefixes."""
        values = self.joint(prompts, tokens)[0, token, self.block(np.shape(tokens)[1])]
        return [name for name, value in zip(self.names, values) if value]

    def joint(self, prompts: NDArray[np.integer], tokens: NDArray[np.integer]) -> FloatArray:
        values, block = self._next(np.asarray(prompts), np.asarray(tokens))
        out = np.zeros((*values.shape[:2], self.dimension))
        out[:, :, block] = values
        return out

    def path(self, prompts: NDArray[np.integer], tokens: NDArray[np.integer]) -> FloatArray:
        tokens = np.asarray(tokens)
        out = np.zeros((*tokens.shape, self.vocab_size, self.dimension))
        for step, (values, block) in enumerate(self._along(np.asarray(prompts), tokens)):
            out[:, step, :, block] = values
        return out

    def next_log_probs(
        self, theta: FloatArray, prompts: NDArray[np.integer], tokens: NDArray[np.integer]
    ) -> FloatArray:
        """From the position's own features; the others', which are zero, are not written out."""
        values, block = self._next(np.asarray(prompts), np.asarray(tokens))
        return self.log_probs(theta[block], values)

    def forced_log_probs(
        self, theta: FloatArray, prompts: NDArray[np.integer], tokens: NDArray[np.integer]
    ) -> Iterator[tuple[slice, FloatArray]]:
        size = max(BLOCK_BYTES // (8 * self.vocab_size * max(tokens.shape[1], len(self.names))), 1)
        for start in range(0, len(tokens), size):
            rows = slice(start, min(start + size, len(tokens)))
            laws = np.empty((*tokens[rows].shape, self.vocab_size))
            for step, (values, block) in enumerate(self._along(prompts[rows], tokens[rows])):
                laws[:, step] = self.log_probs(theta[block], values)
            yield rows, laws

    def _next(self, prompts: NDArray[np.integer], tokens: NDArray[np.integer]) -> tuple[FloatArray, slice]:
        """``(B, A, k)`` features at the position after the tokens, and where their weights are."""
        step = tokens.shape[1]
        if step >= self.length:
            raise ValueError(f"{self!r} has no feature for position {step}; sequences have {self.length} tokens.")
        star = StarPrompts.read(prompts, self.n_edges)
        previous = tokens[:, -1] if step else prompts[:, -1]
        return self._seen(star, self._of_prompt(star), previous), self.block(step)

    def _along(self, prompts: NDArray[np.integer], tokens: NDArray[np.integer]) -> Iterator[tuple[FloatArray, slice]]:
        """The same before every token in turn; the prompts are read once."""
        if tokens.shape[1] > self.length:
            raise ValueError(f"{self!r} is for {self.length} tokens, not {tokens.shape[1]}.")
        star = StarPrompts.read(prompts, self.n_edges)
        of_prompt = self._of_prompt(star)
        for step in range(tokens.shape[1]):
            previous = tokens[:, step - 1] if step else prompts[:, -1]
            yield self._seen(star, of_prompt, previous), self.block(step)

    def _of_prompt(self, star: StarPrompts) -> BoolArray:
        """``(B, A, k)`` the features, those of the previous token still off."""
        rows = np.arange(len(star.start))
        on = np.zeros((len(rows), self.vocab_size, len(self.names)), dtype=bool)
        on[rows, star.start, 0] = True
        on[rows, star.goal, 1] = True
        on[:, :, 2] = star.children(star.start, self.vocab_size)
        left, entered = np.zeros((2, len(rows), self.vocab_size), dtype=bool)
        left[rows[:, None], star.tails] = True
        entered[rows[:, None], star.heads] = True
        on[:, :, 5] = left & entered
        for hop, node in enumerate(star.ancestors(self.hops).T[1:]):
            on[rows, node, len(FIXED_NAMES) + hop] = True
        return on

    def _seen(self, star: StarPrompts, of_prompt: BoolArray, previous: NDArray[np.integer]) -> FloatArray:
        """``(B, A, k)`` scaled features after ``(B,)`` previous tokens."""
        on = of_prompt.copy()
        if not self.teacherless:
            on[:, :, 3] = star.children(previous, self.vocab_size)
            on[:, :, 4] = star.parents(previous, self.vocab_size)
        return on / np.sqrt(np.maximum(on.sum(axis=2, keepdims=True), MAX_ACTIVE))

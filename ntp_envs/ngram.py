"""Interpolated n-gram models: a smoothed law of the next token after any context, sparse and fast."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from ntp_envs.arrays import FloatArray, IntArray, written
from ntp_envs.checks import as_array, check_any_tokens, check_int, check_real, check_tokens, check_weights
from ntp_envs.policies import Cursor, SequentialPolicy, check_given, check_prompts
from ntp_envs.saved import Savable

#: no context is longer than that less one
MAX_ORDER = 64
#: (context, token) cells up to which a lookup goes through a table instead of a binary search
TABLE_CELLS = 1 << 22
#: tokens that are counted together; more are counted in turn, and what is kept is what has been seen
COUNTED_TOGETHER = 1 << 20
#: cells of the dense laws of short contexts that a cursor keeps (8 MB)
DENSE_CELLS = 1 << 20


@dataclass(frozen=True, eq=False)
class NGramLevel(Savable):
    """What a model knows about contexts of k tokens, k = 0, 1, ...

    The contexts are numbered: ``keys[j] = context * A + token`` says that token may follow that context, and the
    longer context that arises is number ``j`` of level k + 1. The last context of level k is "k places before the
    beginning", so level k + 1 has ``len(keys) + 1`` contexts, and level 0 has one.

    Attributes:
        keys: ``(E,)`` int64, ascending.
        own: ``(E,)`` probability that this level itself gives the token.
        keep: ``(N,)`` probability that is left to the shorter context; 1 for a context never followed by anything.
            ``own`` over a context and its ``keep`` sum to one.
    """

    keys: IntArray
    own: FloatArray
    keep: FloatArray


class NGramPolicy(SequentialPolicy):
    """The next token given the last n - 1: ``P(a | w) = own(w, a) + keep(w) P(a | w without its oldest token)``.

    The recursion ends with the uniform law. Contexts reach into the prompt; places before its beginning are a symbol
    of their own. A context that was never seen leaves everything to the shorter one. `fit` gives the tables of the
    interpolated Witten-Bell model,

        ``P(a | w) = (c(w, a) + T(w) P(a | shorter w)) / (c(w) + T(w))``,

    with c(w, a) how often a followed w, c(w) their sum and T(w) the number of different tokens that did: our reading
    of method C of Witten and Bell (1991, IEEE Trans. Inf. Theory 37, "The zero-frequency problem"), in the
    interpolated form of Chen and Goodman (1999, section 2.6). Every token has positive probability after every
    context, as long as ``escape`` is positive and no weight is so large that its share underflows.

    Args:
        levels: tables for contexts of 0, 1, ..., n - 1 tokens.
        vocab_size: A.

    Raises:
        ValueError: tables whose sizes do not fit together or whose rows do not sum to one.

    >>> model = NGramPolicy.fit_text(np.array([0, 1, 0, 1, 0]), vocab_size=2, order=2)
    >>> np.exp(model.next_log_probs(np.array([[0]]), np.empty((1, 0), int))).round(4).tolist()  # (0 + 1/2)/3, ...
    [[0.1667, 0.8333]]
    """

    at_once = 1 << 16  # no law is written out for draws, nor to score tokens

    def __init__(self, levels: Sequence[NGramLevel], vocab_size: int) -> None:
        super().__init__(vocab_size)
        self.levels = tuple(levels)
        if not self.levels:
            raise ValueError("levels is empty; a table for the empty context is needed.")
        contexts = 1
        for k, level in enumerate(self.levels):
            _check_level(k, level, contexts, self.vocab_size)
            contexts = len(level.keys) + 1
        self._prepare()

    def __repr__(self) -> str:
        return f"NGramPolicy(order={self.order}, vocab_size={self.vocab_size})"

    @property
    def order(self) -> int:
        """n: the law depends on the last n - 1 tokens."""
        return len(self.levels)

    # -- fitting -------------------------------------------------------------------------------------------------------

    @classmethod
    def fit(
        cls,
        prompts: ArrayLike,
        tokens: ArrayLike,
        vocab_size: int,
        order: int,
        *,
        weights: ArrayLike | None = None,
        escape: float = 1.0,
        end: int | None = None,
    ) -> NGramPolicy:
        """The Witten-Bell model of some sequences. Prompts are context only; their tokens are not counted.

        Args:
            prompts: ``(B, P)`` integer tokens.
            tokens: ``(B, H)`` integer tokens.
            vocab_size: A.
            order: n >= 1.
            weights: ``(B,)`` non-negative; a sequence of weight w counts as w copies, so their total matters. c is then
                a sum of weights, and T the number of different tokens of positive weight.
            escape: multiplies T. 1 is Witten and Bell's; 0 gives relative frequencies, the maximum likelihood, where
                the context was seen, and the longest seen part of it elsewhere.
            end: the end token, where texts may end: what fills up the row after it is not counted.

        Raises:
            ValueError, TypeError: tokens outside the vocabulary, no tokens, bad weights, order or escape.
        """
        vocab_size = check_int("vocab_size", vocab_size, minimum=1, maximum=1 << 31)
        order = check_int("order", order, minimum=1, maximum=MAX_ORDER)
        escape = check_real("escape", escape, minimum=0.0)
        after = check_any_tokens("tokens", tokens, vocab_size)
        before = check_any_tokens("prompts", prompts, vocab_size)
        if not after.size or len(before) != len(after):
            raise ValueError(
                f"prompts has shape {before.shape} and tokens {after.shape}; the same number of rows, and at least "
                "one token, are needed."
            )
        weights, found = _sequence_weights(weights, len(after)), None
        size = max(COUNTED_TOGETHER // after.shape[1], 1)
        for start in range(0, len(after), size):
            prompt, text = (array[start : start + size].astype(np.int64, copy=False) for array in (before, after))
            line = np.concatenate([prompt[:, max(prompt.shape[1] - order + 1, 0) :], text], axis=1)
            mass = np.zeros(line.shape)
            mass[:, line.shape[1] - text.shape[1] :] = weights[start : start + size, None] * written(prompt, text, end)
            starts = np.arange(len(line)) * line.shape[1]
            counts = _counted(line.ravel(), mass.ravel(), starts, vocab_size, order)
            found = counts if found is None else _together(found, counts, vocab_size)
        assert found is not None  # there is at least one token
        return cls(_witten_bell(found, vocab_size, escape), vocab_size)

    @classmethod
    def fit_documents(
        cls, text: ArrayLike, starts: ArrayLike, vocab_size: int, order: int, *, escape: float = 1.0
    ) -> NGramPolicy:
        """The model of documents of any lengths, one after another in ``(L,)`` tokens; all tokens are counted.

        Args:
            text: the tokens.
            starts: ``(D,)`` where each document begins, ascending from 0; no context reaches across.
            vocab_size, order, escape: as for `fit`.

        >>> model = NGramPolicy.fit_documents([0, 1, 0, 0, 1], [0, 2], vocab_size=2, order=2)
        >>> np.exp(model.next_log_probs(np.empty((1, 0), int), np.empty((1, 0), int))).round(3).tolist()
        [[0.857, 0.143]]
        """
        vocab_size, order = (
            check_int("vocab_size", vocab_size, minimum=1, maximum=1 << 31),
            check_int("order", order, minimum=1, maximum=MAX_ORDER),
        )
        escape = check_real("escape", escape, minimum=0.0)
        line, begins = np.asarray(text), np.asarray(starts)
        if line.ndim != 1 or begins.ndim != 1 or not len(begins) or begins[0] != 0 or (np.diff(begins) <= 0).any():
            raise ValueError(f"text has shape {line.shape} and starts {begins!r}; one row and ascending places from 0.")
        line = check_tokens("text", line[None], vocab_size)[0]
        found = _counted(line, np.ones(len(line)), begins, vocab_size, order)
        return cls(_witten_bell(found, vocab_size, escape), vocab_size)

    @classmethod
    def fit_text(cls, text: ArrayLike, vocab_size: int, order: int, *, escape: float = 1.0) -> NGramPolicy:
        """The model of one long ``(L,)`` text; its first n - 1 tokens are context only. L >= n is needed."""
        line = as_array("text", text)
        order = check_int("order", order, minimum=1, maximum=MAX_ORDER)
        if line.ndim != 1 or len(line) < order:
            raise ValueError(f"text has shape {line.shape}; one row of at least order={order} tokens is needed.")
        return cls.fit(line[None, : order - 1], line[None, order - 1 :], vocab_size, order, escape=escape)

    # -- reading -------------------------------------------------------------------------------------------------------

    def cursor(self, prompts: NDArray[np.integer]) -> Cursor:
        return self._after(check_prompts(self, prompts))

    def _after(self, seen: NDArray[np.integer]) -> Cursor:
        seen = seen.astype(np.int64, copy=False)
        nodes = np.repeat(self._beginning[:, None], len(seen), axis=1)
        for column in seen[:, max(seen.shape[1] - self.order + 1, 0) :].T:
            nodes = self._step(nodes, column)
        return _NGramCursor(self, nodes, 0)

    def prefix_law(self, prompts: NDArray[np.integer], tokens: NDArray[np.integer]) -> FloatArray:
        return self._after(np.concatenate([prompts, tokens], axis=1)).log_probs()

    def log_probs(self, prompts: NDArray[np.integer], tokens: NDArray[np.integer]) -> FloatArray:
        prompts, tokens = check_given(self, prompts, tokens)
        line = np.concatenate([prompts[:, max(prompts.shape[1] - self.order + 1, 0) :], tokens], axis=1, dtype=np.int64)
        nodes, probs = np.zeros(line.shape, dtype=np.int64), np.full(line.shape, 1.0 / self.vocab_size)
        for k in range(self.order):
            edges = self._find(k, nodes, line)
            probs = probs * self._keep[k][nodes] + self._own[k][edges]
            if k + 1 < self.order:
                nodes[:, :1] = self._beginning[k + 1]
                nodes[:, 1:] = edges[:, :-1]
        with np.errstate(divide="ignore"):
            return np.log(probs[:, line.shape[1] - tokens.shape[1] :])

    def _find(self, k: int, nodes: IntArray, tokens: NDArray[np.integer]) -> IntArray:
        """Number of the context that arises at level k + 1, -1 for one never seen; ``nodes`` may be -1 too."""
        keys, wanted = self.levels[k].keys, nodes * self.vocab_size + tokens
        table = self._tables[k]
        if table is not None:
            return table[np.maximum(wanted, -1)]
        at = np.minimum(np.searchsorted(keys, wanted), len(keys) - 1)
        return np.where(keys[at] == wanted, at, -1)

    def _step(self, nodes: IntArray, tokens: IntArray) -> IntArray:
        """``(n, B)`` contexts of each length, after one more token each."""
        after = np.zeros_like(nodes)
        for k in range(self.order - 1):
            after[k + 1] = self._find(k, nodes[k], tokens)
        return after

    def _law(self, nodes: IntArray) -> FloatArray:
        """``(B, A)`` probabilities of the next token."""
        laws, first = self._dense
        at = np.zeros(nodes.shape[1], dtype=np.int64)
        for k in range(1, len(first)):
            at = np.where(nodes[k] >= 0, first[k] + nodes[k], at)
        probs = laws[at]
        for k in range(len(first), self.order):
            seen = np.flatnonzero(nodes[k] >= 0)
            if not len(seen):
                break
            context = nodes[k][seen]
            probs[seen] *= self._keep[k][context, None]
            starts, lengths = self._starts[k][context], np.diff(self._starts[k])[context]
            rows = np.repeat(seen, lengths)
            edges = np.arange(len(rows)) + np.repeat(starts - (np.cumsum(lengths) - lengths), lengths)
            probs[rows, self.levels[k].keys[edges] % self.vocab_size] += self.levels[k].own[edges]
        return probs

    def _probs(self, nodes: IntArray, tokens: NDArray[np.integer]) -> FloatArray:
        """``(B,)`` probabilities of these next tokens."""
        probs = np.full(len(tokens), 1.0 / self.vocab_size)
        for k in range(self.order):
            probs = probs * self._keep[k][nodes[k]] + self._own[k][self._find(k, nodes[k], tokens)]
        return probs

    def _draw(self, nodes: IntArray, levels: FloatArray) -> IntArray:
        """``(B,)`` next tokens: a level in [0, 1) picks who gives the token, from the longest context down, and what is
        left of it the token, so that no law is written out."""
        cumulative, edge_tokens, ends, shares = self._draws
        found, rest, rows, parts = np.empty(len(levels), dtype=np.int64), levels, np.arange(len(levels)), []
        for k in range(self.order - 1, -1, -1):
            context = nodes[k, rows]
            share = shares[k][context]
            given = rest < share
            here = np.flatnonzero(given)
            if len(here):
                start, stop = (cumulative[ends[k][context[here] + side]] for side in (0, 1))
                at = start + (rest[here] / share[here] * (stop - start)).astype(np.int64)
                parts.append((rows[here], np.minimum(at, stop - 1)))
                below = np.flatnonzero(~given)
                rows, rest, share = rows[below], rest[below], share[below]
            rest = (rest - share) / (1.0 - share)
        found[rows] = (rest * self.vocab_size).astype(np.int64)
        if parts:
            chosen, at = np.concatenate([part[0] for part in parts]), np.concatenate([part[1] for part in parts])
            order = np.argsort(at)  # searching in order is twice as fast
            found[chosen[order]] = edge_tokens[np.searchsorted(cumulative, at[order], side="right") - 1]
        return found

    @cached_property
    def _draws(self) -> tuple[IntArray, IntArray, list[IntArray], list[FloatArray]]:
        """Of all levels together: cumulative shares before each edge and after the last, in integers, so that no sum is
        rounded, and the edges' tokens. Of each: where a context's edges begin, and the share that it gives itself."""
        scale = 2.0 ** (62 - sum(len(level.keep) for level in self.levels).bit_length())  # so that none overflows
        own = np.rint(np.concatenate([level.own for level in self.levels]) * scale).astype(np.int64)
        cumulative = np.cumsum(np.append(0, own))
        first = np.cumsum([0, *(len(level.keys) for level in self.levels)])
        ends, shares = [starts + offset for starts, offset in zip(self._starts, first)], []
        for level, edges in zip(self.levels, ends):
            given = np.diff(cumulative[edges])
            shares.append(np.append(given / np.maximum(given + np.rint(level.keep * scale), 1.0), 0.0))
        return cumulative, np.concatenate([level.keys % self.vocab_size for level in self.levels]), ends, shares

    # -- what is derived from the tables -------------------------------------------------------------------------------

    def _prepare(self) -> None:
        """Lookup tables. A context or token that was never seen has number -1, the last entry of each array."""
        size, sizes = self.vocab_size, [len(level.keep) for level in self.levels]
        self._own = [np.append(level.own, 0.0) for level in self.levels]
        self._keep = [np.append(level.keep, 1.0) for level in self.levels]
        self._beginning = np.array(sizes, dtype=np.int64) - 1
        self._starts = [np.searchsorted(level.keys, np.arange(n + 1) * size) for level, n in zip(self.levels, sizes)]
        self._tables: list[NDArray[Any] | None] = []
        for level, n in zip(self.levels, sizes):
            table = None
            if n * size <= TABLE_CELLS:
                table = np.full(n * size + 1, -1, dtype=np.int32)
                table[level.keys] = np.arange(len(level.keys))
            self._tables.append(table)
        self._dense = self._dense_laws()

    def _dense_laws(self) -> tuple[FloatArray, list[int]]:
        """The laws after all contexts of the shortest lengths, stacked, and the first row of each length."""
        laws = [self._extended(0, np.full((1, self.vocab_size), 1.0 / self.vocab_size))]
        shorter, cells = np.zeros(1, dtype=np.int64), self.vocab_size
        for k in range(1, self.order):
            below = self.levels[k - 1]
            cells += len(self.levels[k].keep) * self.vocab_size
            if cells > DENSE_CELLS:
                break
            if k > 1:  # number of each context without its oldest token, one level below
                last = self._find(k - 2, shorter[below.keys // self.vocab_size], below.keys % self.vocab_size)
                shorter = np.append(last, self._beginning[k - 1])
            else:
                shorter = np.zeros(len(below.keys) + 1, dtype=np.int64)
            if (shorter < 0).any():
                raise ValueError(f"levels[{k}] has a context whose last {k - 1} tokens are not in levels[{k - 1}].")
            laws.append(self._extended(k, laws[-1][shorter]))
        first = np.cumsum([0, *map(len, laws[:-1])])
        return np.concatenate(laws), [int(row) for row in first]

    def _extended(self, k: int, laws: FloatArray) -> FloatArray:
        """The laws after every context of k tokens, from those after its last k - 1."""
        level = self.levels[k]
        laws = laws * level.keep[:, None]
        laws[level.keys // self.vocab_size, level.keys % self.vocab_size] += level.own
        return laws

    def __copy__(self) -> NGramPolicy:
        """A shallow copy: the tables, which nobody writes to, are shared."""
        other = object.__new__(type(self))
        vars(other).update(vars(self))
        return other

    def __getstate__(self) -> dict[str, Any]:
        derived = {"_own", "_keep", "_beginning", "_starts", "_draws", "_tables", "_dense"}
        return {name: value for name, value in vars(self).items() if name not in derived}

    def __setstate__(self, state: dict[str, Any]) -> None:
        vars(self).update(state)
        self._prepare()


class _NGramCursor(Cursor):
    """The number of the current context at each length, ``(n, B)``."""

    def __init__(self, policy: NGramPolicy, nodes: IntArray, step: int) -> None:
        self.policy, self.nodes, self.step = policy, nodes, step

    def log_probs(self) -> FloatArray:
        with np.errstate(divide="ignore"):
            return np.log(self.policy._law(self.nodes))

    def token_log_probs(self, tokens: NDArray[np.integer]) -> FloatArray:
        with np.errstate(divide="ignore"):
            return np.log(self.policy._probs(self.nodes, np.asarray(tokens)))

    def draw(self, levels: FloatArray) -> IntArray:
        return self.policy._draw(self.nodes, levels)

    def branch(self, rows: IntArray, tokens: IntArray) -> Cursor:
        return _NGramCursor(self.policy, self.policy._step(self.nodes[:, rows], np.asarray(tokens)), self.step + 1)

    def advance(self, tokens: IntArray) -> Cursor:
        return _NGramCursor(self.policy, self.policy._step(self.nodes, np.asarray(tokens)), self.step + 1)


#: of every context length, the keys of a level (`NGramLevel`) and the mass of each, both ``(E,)``
Counts = list[tuple[IntArray, FloatArray]]


def _counted(line: IntArray, mass: FloatArray, starts: IntArray, vocab_size: int, order: int) -> Counts:
    """Of sequences, one after another in ``(L,)`` tokens, that begin at ``starts``; each token has a mass."""
    found, nodes, contexts = [], np.zeros(len(line), dtype=np.int64), 1
    for k in range(order):
        keys, edges = _number(nodes * vocab_size + line, contexts * vocab_size)
        found.append((keys, np.bincount(edges, weights=mass, minlength=len(keys)).astype(np.float64)))
        contexts = len(keys) + 1
        if k + 1 < order:
            nodes[1:] = edges[:-1]
            nodes[starts] = len(keys)
    return found


def _together(one: Counts, two: Counts, vocab_size: int) -> Counts:
    """The counts of two sets of sequences: their contexts are numbered anew, level by level."""
    found, numbers = [], [np.zeros(1, dtype=np.int64)] * 2  # of every context of each, in the union
    for levels in zip(one, two):
        wide = [of[keys // vocab_size] * vocab_size + keys % vocab_size for of, (keys, _) in zip(numbers, levels)]
        union = np.union1d(*wide)
        places, mass = [np.searchsorted(union, keys) for keys in wide], np.zeros(len(union))
        for at, (_, counts) in zip(places, levels):
            mass[at] += counts
        found.append((union, mass))
        numbers = [np.append(at, len(union)) for at in places]
    return found


def _number(keys: IntArray, universe: int) -> tuple[IntArray, IntArray]:
    """The distinct keys in [0, universe), ascending, and the position of each key among them, same shape."""
    if universe <= TABLE_CELLS:
        present = np.zeros(universe, dtype=bool)
        present[keys] = True
        return np.flatnonzero(present), (np.cumsum(present) - 1)[keys]
    distinct, at = np.unique(keys, return_inverse=True)
    return distinct, at.reshape(keys.shape)


def _witten_bell(found: Counts, vocab_size: int, escape: float) -> list[NGramLevel]:
    levels, contexts = [], 1
    for keys, counts in found:
        owner = keys // vocab_size
        total = np.bincount(owner, weights=counts, minlength=contexts)
        left = escape * np.bincount(owner, weights=counts > 0, minlength=contexts)
        whole = np.where(total > 0, total + left, 1.0)
        levels.append(NGramLevel(keys, counts / whole[owner], np.where(total > 0, left / whole, 1.0)))
        contexts = len(keys) + 1
    return levels


def _sequence_weights(weights: ArrayLike | None, count: int) -> FloatArray:
    return np.ones(count) if weights is None else check_weights(weights, count)


def _check_level(k: int, level: NGramLevel, contexts: int, vocab_size: int) -> None:
    keys, own, keep = level.keys, level.own, level.keep
    if keep.shape != (contexts,) or own.shape != keys.shape or keys.ndim != 1 or not len(keys):
        raise ValueError(
            f"levels[{k}] has keep of shape {keep.shape}, own {own.shape} and keys {keys.shape}; keep must be "
            f"({contexts},), own and keys of one length >= 1."
        )
    if (np.diff(keys) <= 0).any() or keys[0] < 0 or keys[-1] >= contexts * vocab_size:
        raise ValueError(f"levels[{k}].keys must ascend within [0, {contexts * vocab_size - 1}].")
    sums = np.bincount(keys // vocab_size, weights=own, minlength=contexts) + keep
    if not (own >= 0).all() or not (keep >= 0).all() or not np.abs(sums - 1.0).max() < 1e-9:
        raise ValueError(f"levels[{k}]: own and keep of a context must be non-negative and sum to one.")

"""The policies that ChunkKR returns: independent chunks, each from the law of its prefix."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from agents.chunk_kr.features import PrefixReader, Tree, canonical_order, tree_keys
from agents.chunk_kr.gram import Expansion
from ntp_envs import AutomatonPolicy
from ntp_envs._numerics import all_sequences
from ntp_envs.policies import Cursor, SequentialPolicy

__all__ = ["ChunkKRAutomaton", "ChunkKRPolicy", "ChunkLaw", "chunk_policy"]

FloatArray = NDArray[np.float64]
IntArray = NDArray[np.int64]

#: the automaton form is used up to this many states, and this many prompts
MAX_STATES = 2**16
MAX_PROMPTS = 2**12
#: kernel evaluations spent on the automaton form at most
MAX_EVALUATIONS = 2**28


@dataclass(eq=False)
class ChunkLaw:
    """The law of the next K tokens after any prefix.

    At a data prefix it is the fitted row. Elsewhere the function is evaluated at every string, clipped at 0 and
    divided by its sum (our reading of the extension); uniform if nothing is left.

    Attributes:
        length: K.
        reader: of the class's features.
        expansion: the fitted function.
        rows: numbers of the pooled data prefixes, by their features.
        law: ``(n, 2**K)`` fitted probabilities.
    """

    length: int
    reader: PrefixReader
    expansion: Expansion
    rows: dict[bytes, int] = field(repr=False)
    law: FloatArray = field(repr=False)

    def __call__(self, prompts: NDArray[np.integer], tokens: NDArray[np.integer]) -> FloatArray:
        """``(B, 2**K)`` probabilities of every string after ``(B, P)`` prompts and ``(B, t)`` tokens."""
        contexts, inverse = self.reader.distinct(prompts, tokens)
        return self.at(contexts)[inverse]

    def at(self, contexts: tuple[IntArray, ...]) -> FloatArray:
        """``(B, 2**K)`` probabilities after the contexts of a `PrefixReader`."""
        tree, order = canonical_order(self.reader.tree(contexts, self.length))
        out = np.empty((len(tree[0]), 2**self.length))
        np.put_along_axis(out, order, self.renamed(tree), axis=1)
        return out

    def renamed(self, tree: Tree) -> FloatArray:
        """``(B, 2**K)`` probabilities in the order of `canonical_order`, at trees in that order."""
        numbers = np.array([self.rows.get(key, -1) for key in tree_keys(tree)])
        renamed = self.law[np.maximum(numbers, 0)]
        unseen = np.flatnonzero(numbers < 0)
        if len(unseen):
            values = np.maximum(self.expansion([level[unseen] for level in tree]), 0.0)
            total = values.sum(axis=1, keepdims=True)
            renamed[unseen] = np.where(total > 0, values / np.where(total > 0, total, 1.0), 1.0 / values.shape[1])
        return renamed


class ChunkKRPolicy(SequentialPolicy):
    """Chunks of K tokens drawn one after the other, each from a `ChunkLaw`; the last is shorter where K does not
    divide H.

    Args:
        laws: `ChunkLaw` by chunk length.
        chunk: K.
        horizon: H; positions of the chunks are counted from its beginning.
        prompt_length: P.
    """

    def __init__(self, laws: dict[int, ChunkLaw], chunk: int, horizon: int, prompt_length: int) -> None:
        super().__init__(2, horizon=horizon, prompt_length=prompt_length)
        self.laws, self.chunk = laws, chunk

    def chunk_length(self, step: int) -> int:
        """Length of the chunk that holds token number ``step`` (0-based)."""
        start = step - step % self.chunk
        assert self.horizon is not None
        return min(self.chunk, self.horizon - start)

    def cursor(self, prompts: NDArray[np.integer]) -> Cursor:
        whole: IntArray = np.asarray(prompts).astype(np.int64)
        return _ChunkCursor(self, whole, np.empty((len(prompts), 0), dtype=np.int64), None)


class _ChunkCursor(Cursor):
    """Keeps the masses of the strings still possible in the current chunk, ``(B, 2**left)``, up to a factor."""

    def __init__(self, policy: ChunkKRPolicy, prompts: IntArray, tokens: IntArray, masses: FloatArray | None) -> None:
        self.policy, self.prompts, self.tokens, self.step = policy, prompts, tokens, tokens.shape[1]
        if masses is None:
            policy._check_length(self.step + 1)
            masses = policy.laws[policy.chunk_length(self.step)](prompts, tokens)
        self.masses = masses

    def log_probs(self) -> FloatArray:
        return _conditional(self.masses)

    def branch(self, rows: IntArray, tokens: IntArray) -> Cursor:
        grown = np.column_stack([self.tokens[rows], tokens])
        halves = self.masses.reshape(len(self.masses), 2, -1)
        left = None if halves.shape[2] == 1 else halves[rows, tokens]
        return _ChunkCursor(self.policy, self.prompts[rows], grown, left)


def _conditional(masses: FloatArray) -> FloatArray:
    """``(..., 2)`` log-probabilities of the next token from string masses ``(..., S)``; uniform if all are 0."""
    halves = masses.reshape(*masses.shape[:-1], 2, -1).sum(axis=-1)
    total = halves.sum(axis=-1, keepdims=True)
    with np.errstate(divide="ignore"):
        return np.log(np.where(total > 0, halves / np.where(total > 0, total, 1.0), 0.5))


class ChunkKRAutomaton(ChunkKRPolicy, AutomatonPolicy):
    """A `ChunkKRPolicy` over features with finite memory: exact distances at any H.

    A state is the features' state at the beginning of the chunk and the tokens since. Args as for `ChunkKRPolicy`,
    and ``starts``: the ``(m,)`` states of the features that a chunk can begin in.
    """

    def __init__(
        self, laws: dict[int, ChunkLaw], chunk: int, horizon: int, prompt_length: int, starts: IntArray
    ) -> None:
        super().__init__(laws, chunk, horizon, prompt_length)
        self._starts = starts
        self._width = 2 ** (chunk - 1)
        self.n_states = len(starts) * self._width
        self._emissions: dict[tuple[int, int], FloatArray] = {}
        for length, law in laws.items():
            masses = law.at((starts,))  # (m, 2**length)
            for place in range(length):
                table = np.full((len(starts), self._width, 2), np.log(0.5))
                table[:, : 2**place] = _conditional(masses.reshape(len(starts), 2**place, -1))
                self._emissions[length, place] = table.reshape(-1, 2)

    def initial_states(self, prompts: NDArray[np.integer]) -> IntArray:
        states = self._features.initial_states(np.asarray(prompts))
        return np.searchsorted(self._starts, states) * self._width

    @property
    def _features(self):  # type: ignore[no-untyped-def]
        states = self.laws[min(self.laws)].reader.states
        assert states is not None
        return states

    def emissions(self, step: int) -> FloatArray:
        return self._emissions[self.chunk_length(step), step % self.chunk]

    def transitions(self, step: int) -> IntArray:
        place, moves = step % self.chunk, np.zeros((len(self._starts), self._width, 2), dtype=np.int64)
        if place < self.chunk_length(step) - 1:
            grown = 2 * np.arange(2**place)[:, None] + np.arange(2)
            moves[:, : 2**place] = grown + (np.arange(len(self._starts)) * self._width)[:, None, None]
        elif place == self.chunk - 1:
            after = np.searchsorted(self._starts, _after(self._features.transitions, self._starts, self.chunk))
            moves[:] = after.reshape(moves.shape) * self._width
        return moves.reshape(-1, 2)

    cursor = AutomatonPolicy.cursor


def _after(transitions: IntArray, starts: IntArray, length: int) -> IntArray:
    """``(m, 2**length)`` states of the features after every string."""
    state = starts[:, None]
    for _ in range(length):
        state = transitions[state].reshape(len(starts), -1)
    return state


def chunk_policy(laws: dict[int, ChunkLaw], chunk: int, horizon: int, prompt_length: int) -> ChunkKRPolicy:
    """The automaton form where the features have finite memory and few states, else the general one."""
    law = laws[max(laws)]
    states = law.reader.states
    if states is None or 2**prompt_length > MAX_PROMPTS:
        return ChunkKRPolicy(laws, chunk, horizon, prompt_length)
    reached = np.unique(states.initial_states(all_sequences(2, prompt_length)))
    fresh = reached
    for _ in range(horizon // chunk):
        fresh = np.setdiff1d(_after(states.transitions, fresh, chunk), reached)
        reached = np.union1d(reached, fresh)
        cost = len(reached) * 2**chunk * max(1, len(law.expansion.landmarks))
        if len(reached) * 2 ** (chunk - 1) > MAX_STATES or cost > MAX_EVALUATIONS:
            return ChunkKRPolicy(laws, chunk, horizon, prompt_length)
        if not len(fresh):
            break
    return ChunkKRAutomaton(laws, chunk, horizon, prompt_length, reached)

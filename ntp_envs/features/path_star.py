"""Prompts that list the edges of a star of paths, and pointer features of the nodes in them."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ntp_envs._validation import check_int
from ntp_envs.features.base import FeatureMap, FloatArray, IntArray

__all__ = ["PathPointers", "StarPrompts"]

BoolArray = NDArray[np.bool_]

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
        for hop in range(hops):
            arriving = self.heads == out[:, hop, None]  # (B, E)
            out[:, hop + 1] = np.where(arriving.any(axis=1), self.tails[rows, arriving.argmax(axis=1)], out[:, hop])
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
        self.teacherless = bool(teacherless)
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
        tokens = np.asarray(tokens)
        step = tokens.shape[1]
        if step >= self.length:
            raise ValueError(f"{self!r} has no feature for position {step}; sequences have {self.length} tokens.")
        prompts = np.asarray(prompts)
        star = StarPrompts.read(prompts, self.n_edges)
        previous = tokens[:, -1] if step else prompts[:, -1]
        out = np.zeros((len(prompts), self.vocab_size, self.dimension))
        out[:, :, self.block(step)] = self._seen(star, self._of_prompt(star), previous)
        return out

    def path(self, prompts: NDArray[np.integer], tokens: NDArray[np.integer]) -> FloatArray:
        prompts, tokens = np.asarray(prompts), np.asarray(tokens)
        if tokens.shape[1] > self.length:
            raise ValueError(f"{self!r} is for {self.length} tokens, not {tokens.shape[1]}.")
        star = StarPrompts.read(prompts, self.n_edges)
        of_prompt = self._of_prompt(star)
        out = np.zeros((*tokens.shape, self.vocab_size, self.dimension))
        for step in range(tokens.shape[1]):
            previous = tokens[:, step - 1] if step else prompts[:, -1]
            out[:, step, :, self.block(step)] = self._seen(star, of_prompt, previous)
        return out

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

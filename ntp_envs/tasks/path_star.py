"""PathStar: a path to plan, of which every token but one can be copied from the one before."""

from __future__ import annotations

import itertools
import math
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from ntp_envs.arrays import FloatArray, IntArray
from ntp_envs.checks import NotTractableError, check_flag, check_generator, check_int, check_positive, check_tokens
from ntp_envs.demonstrations import Demonstrations
from ntp_envs.features import PathPointers, StarPrompts
from ntp_envs.policies import PrefixPolicy, one_hot_log_probs
from ntp_envs.policy_classes import ARLinearClass
from ntp_envs.tasks.base import FOLLOWS, BestInClass, TargetTask

SYMBOLS = ("|", "=", "/", "$")  # tokens N, N + 1, N + 2, N + 3
MAX_PROMPTS = 1 << 14
MAX_NODES, MAX_PATH = 1 << 16, 1 << 10


@dataclass(frozen=True)
class PathStar(TargetTask):
    """Find the path from the start to the goal in a star: d arms of L - 1 nodes that meet in the start.

    Tokens: the nodes 0..N-1, then ``|``, ``=``, ``/`` and the dummy ``$``. The prompt lists the d(L-1) directed edges
    in random order, joined by ``|``, then the question: ``u v | u v | ... / start goal =``, 3d(L-1) + 3 tokens. The
    1 + d(L-1) labels are distinct, drawn uniformly. The answer is the L nodes from start to goal, the start included;
    ``reverse`` flips the answer and nothing else. The expert walks from the goal back, parent by parent, and writes
    what it passed. Success is exact match.

    Source: the path-star graphs of Bachmann and Nagarajan (2024), "The pitfalls of next-token prediction",
    arXiv:2403.06963. Published there for a GPT of 12 layers under teacher forcing: 49.4, 18.6 and 12.6 % on
    (d, L) = (2, 10), (5, 5) and (7, 7), which is 1/d.

    What it shows: failure in learning, as opposed to errors of execution that add up. Given the true prefix every token
    but the second is the child of the one before (`CleverHansPolicy`), so the second is all that is left to learn, and
    it is the one that needs the whole path.

    The policy class is autoregressive linear over `ntp_envs.features.PathPointers`. What it misses is known exactly
    (derived here). Two candidates with equal features get equal probability from every member, so the right token has
    at most one over the number of its equals, and a large ball attains this in the limit. With h = ``hops``:

    * teacher forcing: every position has one candidate, but the second has the d children of the source as long as the
      ancestor L - 2 hops from the goal is not seen: 1/d for h <= L - 3, and 1 for h = L - 2;
    * ``reverse``: the parent of the previous token is the only candidate everywhere: 1;
    * ``teacherless``: the start, the goal and its h ancestors are known; the second node is one of d; each of the
      L - 3 - h between is any internal node but the children of the source and the known ancestors, d(L-3) - h of them:
      ``(1/d) (d (L-3) - h)^-(L-3-h)`` for h <= L - 3, and 1 for h = L - 2. For d = 2, L = 5: 1/32, 1/6, 1/2 and 1
      for h = 0, 1, 2, 3.

    A loss of the second token alone ends in the same place: d equal candidates.

    These are probabilities that a *sampled* answer is right (`class_exact_match`). Greedy decoding takes the smallest
    label among equals, which is right as often as any other, so it has the same exact match but for one case: where
    L - 3 - h >= 2 a teacherless learner writes the same label at each of the positions between, and is never right
    (0 instead of 1/32).

    A prompt given from outside (``reset(options={"prompt": ...})``) need not be a star. Nothing is refused: tokens are
    read by their places, whatever they are; of several edges to a node the first counts, and a node that no edge leads
    to is its own parent, so that the expert writes L tokens in any case.

    Args:
        degree: d >= 1, number of arms.
        length: L >= 2, nodes on the path from start to goal, both included; the horizon. By default 5, more where
            ``hops`` needs it, fewer where ``nodes`` does.
        nodes: N >= 1 + d(L-1), labels to draw from; by default 20, or as many as the star needs.
        reverse: the answer runs from goal to start.
        hops: ancestors of the goal that the policy class sees, 0 to L - 2.
        teacherless: the policy class sees nothing of what was written.
        radius: of the ball of theta.

    Raises:
        ValueError, TypeError: a parameter outside its range.

    >>> PathStar().prompt_length, PathStar().class_exact_match
    (27, 0.5)
    >>> prompt = np.array([[3, 1, 5, 1, 2, 7, 3, 2, 6]])  # 3 1 | 1 2 / 3 2 =
    >>> PathStar(degree=1, length=3, nodes=5).targets(prompt).tolist()
    [[3, 1, 2]]
    """

    degree: int = 2
    length: int = FOLLOWS
    nodes: int = FOLLOWS
    reverse: bool = False
    hops: int = 0
    teacherless: bool = False
    radius: float = 100.0

    has_verifier = True

    def __post_init__(self) -> None:
        check_int("degree", self.degree, minimum=1, maximum=MAX_NODES)
        check_int("hops", self.hops, minimum=0, maximum=MAX_PATH - 2)
        if self.nodes is not None:
            check_int("nodes", self.nodes, minimum=2, maximum=MAX_NODES)
        longest = 5 if self.nodes is None else min(5, 1 + (self.nodes - 1) // self.degree)
        self._follow(length=max(longest, self.hops + 2))
        check_int("length", self.length, minimum=2, maximum=MAX_PATH)
        check_int("hops", self.hops, minimum=0, maximum=self.length - 2)
        self._follow(nodes=max(20, self.n_labels))
        for name in ("reverse", "teacherless"):
            check_flag(name, getattr(self, name))
        if self.nodes < self.n_labels:
            raise ValueError(
                f"nodes={self.nodes} is too few: a star of degree={self.degree} and length={self.length} has "
                f"1 + degree * (length - 1) = {self.n_labels} distinct nodes; use nodes={self.n_labels} or more."
            )
        check_positive("radius", self.radius, "leaves only the uniform policy")

    @property
    def vocab_size(self) -> int:  # type: ignore[override]
        """A = N + 4: the nodes and four symbols."""
        return self.nodes + len(SYMBOLS)

    @property
    def horizon(self) -> int:  # type: ignore[override]
        """H = L: set ``length`` to change it."""
        return self.length

    @property
    def prompt_length(self) -> int:  # type: ignore[override]
        """P = 3d(L-1) + 3."""
        return 3 * self.n_edges + 3

    @property
    def n_edges(self) -> int:
        """E = d(L-1)."""
        return self.degree * (self.length - 1)

    @property
    def n_labels(self) -> int:
        """Nodes of a star, 1 + d(L-1)."""
        return 1 + self.n_edges

    @cached_property
    def features(self) -> PathPointers:
        """What the policy class sees."""
        return PathPointers(self.degree, self.length, self.nodes, self.hops, self.teacherless)

    @cached_property
    def policy_class(self) -> ARLinearClass:
        return ARLinearClass(self.features, self.radius)

    # -- prompts and answers -------------------------------------------------------------------------------------------

    def targets(self, prompts: NDArray[np.integer]) -> IntArray:
        """``(B, L)`` the path to the goal, found from the goal back."""
        back = StarPrompts.read(prompts, self.n_edges).ancestors(self.length - 1)
        return back if self.reverse else back[:, ::-1].copy()

    def sample_prompts(self, n: int, rng: np.random.Generator) -> IntArray:
        """``(n, P)`` independent prompts, N + E variates each: drawn together or one by one they are the same."""
        check_generator(rng)
        variates = rng.random((n, self.nodes + self.n_edges))
        labels = variates[:, : self.nodes].argsort(axis=1)[:, : self.n_labels]
        return self._written(labels, variates[:, self.nodes :].argsort(axis=1))

    def _written(self, labels: IntArray, order: IntArray) -> IntArray:
        """``(B, P)`` prompts from ``(B, 1 + E)`` labels and ``(B, E)`` orders of the edges.

        Labels: the start, then arm by arm from the start outwards; the goal ends the first arm.
        """
        place = np.arange(1, self.n_labels)
        before = np.where(
            (place - 1) % (self.length - 1) == 0, 0, place - 1
        )  # the place an edge to each one comes from
        edges = np.stack([before, place], axis=1)[order]  # (B, E, 2) places
        bar, equals, slash, _ = range(self.nodes, self.vocab_size)
        prompts = np.empty((len(labels), self.prompt_length), dtype=np.int64)
        rows = np.arange(len(labels))[:, None]
        prompts[:, 0 : 3 * self.n_edges : 3] = labels[rows, edges[:, :, 0]]
        prompts[:, 1 : 3 * self.n_edges : 3] = labels[rows, edges[:, :, 1]]
        prompts[:, 2 : 3 * self.n_edges : 3] = bar
        prompts[:, -4] = slash
        prompts[:, -3] = labels[:, 0]
        prompts[:, -2] = labels[:, self.length - 1]
        prompts[:, -1] = equals
        return prompts

    def prompt_law(self) -> tuple[IntArray, FloatArray]:
        """All prompts, equally likely, where there are at most 16384: N! E! / ((N-1-E)! (d-1)!) of them.

        Raises:
            NotTractableError: there are more.
        """
        n_prompts = self._n_prompts
        if n_prompts > MAX_PROMPTS:
            raise NotTractableError(
                f"{self.name} has about 10^{math.log10(n_prompts):.0f} prompts at these parameters, more than the "
                f"{MAX_PROMPTS} that are listed; use sample_prompts(n, rng)."
            )
        labels = np.array(list(itertools.permutations(range(self.nodes), self.n_labels)))
        others = labels[:, self.length :: self.length - 1]  # where the arms without the goal begin; they have no order
        labels = labels[(np.diff(others, axis=1) > 0).all(axis=1)]
        order = np.array(list(itertools.permutations(range(self.n_edges))))
        prompts = self._written(np.repeat(labels, len(order), axis=0), np.tile(order, (len(labels), 1)))
        return prompts, np.full(n_prompts, 1.0 / n_prompts)

    @property
    def _n_prompts(self) -> int:
        labellings = math.perm(self.nodes, self.n_labels) // math.factorial(self.degree - 1)
        return labellings * math.factorial(self.n_edges)

    # -- what is known exactly -----------------------------------------------------------------------------------------

    @property
    def class_exact_match(self) -> float:
        """The supremum over all radii of the probability that a sampled answer of the policy class is right.

        The same for every prompt; its negative logarithm is the infimum of the log-loss of a sequence, in nats. The
        class docstring has the derivation.
        """
        d, between = self.degree, self.length - 3
        if self.hops == self.length - 2 or (self.reverse and not self.teacherless):
            return 1.0
        if not self.teacherless:
            return 1.0 / d
        return 1.0 / (d * (d * between - self.hops) ** (between - self.hops))

    @cached_property
    def _representative(self) -> IntArray:
        """``(1, P)`` one prompt. Members and expert do not care for labels or the order of edges, so one says all."""
        return self._written(np.arange(self.n_labels)[None], np.arange(self.n_edges)[None])

    def population(self, chunk: int | None = None) -> Demonstrations:
        """The complete law where `prompt_law` lists it; else one demonstration.

        Every member of the policy class gives the answers to all prompts the same probability, token by token, because
        the features do not depend on labels or on the order of the edges. One demonstration is therefore exact for
        chunks of any length in the task's own class; ``chunk`` does not change it.
        """
        complete = self._n_prompts <= MAX_PROMPTS
        prompts, weights = self.prompt_law() if complete else (self._representative, np.ones(1))
        everywhere = frozenset(range(1, self.length + 1))
        units = None if complete else everywhere
        return self._weighted(prompts, self.targets(prompts), weights, units=units, expert_units=everywhere)

    def best_in_class(self) -> BestInClass:
        """A member written down, with a certificate: no member is nearer than ``hellinger2 - tolerance``.

        The expert puts all its mass on one answer, so BC is the mean root of the probability of that answer, at most
        the root of `class_exact_match`. ``tolerance`` is 1.4e-8 at the default parameters, more in a smaller ball.
        """
        policy = self.policy_class.policy(self._pointing_weights())
        prompt = self._representative
        log_prob = float(policy.log_probs(prompt, self.targets(prompt)).sum())
        hellinger2 = -2.0 * math.expm1(0.5 * log_prob)
        bound = -2.0 * math.expm1(0.5 * math.log(self.class_exact_match))
        return BestInClass(policy, hellinger2, "explicit weights", tolerance=max(hellinger2 - bound, 0.0))

    def _pointing_weights(self) -> FloatArray:
        """``(d,)`` theta of norm ``radius`` that points, at every position, at all that looks like the right node."""
        theta = np.zeros(self.features.dimension)
        for position in range(self.length):
            weights = self._pointer(self.length - 1 - position if self.reverse else position)
            block = theta[self.features.block(position)]
            for name, weight in weights.items():
                block[self.features.names.index(name)] = weight
            block /= np.linalg.norm(block)
        return theta * (self.radius / math.sqrt(self.length) * (1 - 1e-12))

    def _pointer(self, depth: int) -> dict[str, float]:
        """Weights of the features that single out the node this deep in the goal's arm, as well as they can."""
        height = self.length - 1 - depth
        if depth == 0:
            return {"source": 1.0}
        if height == 0:
            return {"goal": 1.0}
        if height <= self.hops:
            return {f"ancestor_{height}": 1.0}
        if not self.teacherless:
            return {"parent_of_previous" if self.reverse else "child_of_previous": 1.0}
        if depth == 1:
            return {"child_of_source": 1.0}
        return {"internal": 1.0, "child_of_source": -1.0} | {f"ancestor_{hop}": -1.0 for hop in range(1, self.hops + 1)}

    # -- verification and reading --------------------------------------------------------------------------------------

    def verify(self, prompts: NDArray[np.integer], tokens: NDArray[np.integer]) -> NDArray[np.bool_]:
        """``(B,)`` whether the tokens begin at the start and follow edges; at full length, also end at the goal.

        With ``reverse``: begin at the goal, follow edges backwards, end at the start. That an arm leads to the goal is
        not checked before its end.

        Raises:
            ValueError: more than L tokens, or prompts of another length.
        """
        tokens = np.asarray(tokens)
        if tokens.ndim != 2 or tokens.shape[1] > self.length:
            raise ValueError(f"tokens has shape {tokens.shape}; (B, t) with t <= length={self.length} is needed.")
        star = StarPrompts.read(prompts, self.n_edges)
        first, last = (star.goal, star.start) if self.reverse else (star.start, star.goal)
        good = np.ones(len(tokens), dtype=bool)
        if tokens.shape[1]:
            good &= tokens[:, 0] == first
        if tokens.shape[1] > 1:
            before, after = tokens[:, :-1], tokens[:, 1:]
            above, below = (after, before) if self.reverse else (before, after)
            rows = np.arange(len(tokens))[:, None]
            parents = np.full((len(tokens), self.vocab_size), -1)
            parents[rows, star.heads] = star.tails
            follows = parents[rows, below] == above
            several = (parents[rows, star.heads] != star.tails).any(axis=1)  # a node with two parents is in no star
            if several.any():
                edges = star.tails[several, None] * self.vocab_size + star.heads[several, None]
                steps = above[several] * self.vocab_size + below[several]
                follows[several] = (edges == steps[:, :, None]).any(axis=2)
            good &= follows.all(axis=1)
        if tokens.shape[1] == self.length:
            good &= tokens[:, -1] == last
        return good

    def decode(self, tokens: NDArray[np.integer]) -> str:
        """Labels and symbols: ``7 3 | 2 7 / 2 3 =``. ``ValueError`` for what is not a row of tokens."""
        row = check_tokens("tokens", np.asarray(tokens)[None], self.vocab_size)[0].tolist()
        return " ".join(str(token) if token < self.nodes else SYMBOLS[token - self.nodes] for token in row)


class CleverHansPolicy(PrefixPolicy):
    """Copies the next node from the previous one and plans nothing: what teacher forcing rewards.

    It writes the start (with ``reverse`` the goal), then always a child (a parent) of its previous token, uniformly
    where there are several; after a token that has none, any token of the vocabulary.

    Exact for every star (derived here): with the true prefix it is right with probability (1, 1/d, 1, ..., 1) by
    position, with the whole answer with probability 1/d whether forced or free, and its cross-entropy is ln(d)/L nats
    a token, the least that copying can reach. With ``reverse`` nothing has to be guessed: all ones, 1 and 0. For L = 2
    the second token is the goal, which the prompt names and this policy does not look at.

    Args:
        task: the stars.

    >>> hans = CleverHansPolicy(PathStar(degree=4, length=3))
    >>> hans.forced_accuracy.tolist(), hans.exact_match, round(hans.cross_entropy, 4)
    ([1.0, 0.25, 1.0], 0.25, 0.4621)
    """

    def __init__(self, task: PathStar) -> None:
        if not isinstance(task, PathStar):
            raise TypeError(f"task must be a PathStar, not {type(task).__name__}.")
        super().__init__(task.vocab_size, horizon=task.horizon, prompt_length=task.prompt_length)
        self.task = task

    def __repr__(self) -> str:
        return f"CleverHansPolicy({self.task!r})"

    @property
    def forced_accuracy(self) -> FloatArray:
        """``(L,)`` probability of the right token after the true prefix."""
        accuracy = np.ones(self.task.length)
        accuracy[1] = self.exact_match
        return accuracy

    @property
    def exact_match(self) -> float:
        """Probability of the whole right answer, forced or free."""
        return 1.0 if self.task.reverse else 1.0 / self.task.degree

    @property
    def cross_entropy(self) -> float:
        """Nats a target token."""
        return abs(math.log(self.exact_match)) / self.task.length

    def prefix_law(self, prompts: NDArray[np.integer], tokens: NDArray[np.integer]) -> FloatArray:
        step = tokens.shape[1]
        star, reverse = StarPrompts.read(prompts, self.task.n_edges), self.task.reverse
        if step == 0:
            return one_hot_log_probs(star.goal if reverse else star.start, self.vocab_size)
        beside = (star.parents if reverse else star.children)(tokens[:, -1], self.vocab_size)
        beside[~beside.any(axis=1)] = True
        with np.errstate(divide="ignore"):
            return np.log(beside / beside.sum(axis=1, keepdims=True))

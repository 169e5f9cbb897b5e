"""NoisyParity: an answer that no linear function of the prefix predicts."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray
from scipy.special import expit, logit

from ntp_envs._numerics import ROUNDING, all_sequences, first_best
from ntp_envs._validation import check_int, check_positions, check_real
from ntp_envs.automata import TableAutomaton
from ntp_envs.demonstrations import Demonstrations, Exactness
from ntp_envs.features import EpisodeBits
from ntp_envs.policy_classes import ARLinearClass
from ntp_envs.tasks.base import FOLLOWS, BestInClass, FloatArray, IntArray, Task, check_population_size

__all__ = ["NoisyParity"]

MAX_COMPLETE_LAW = 1 << 14
LOCAL_STARTS = 12


@dataclass(frozen=True)
class NoisyParity(Task):
    """Episodes of n uniform bits, then their parity over a hidden subset S, flipped with probability ``noise``.

    There is no prompt; R episodes follow one another, H = R (n + 1). The class is autoregressive linear over
    `ntp_envs.features.EpisodeBits`, (1, +-1 bits)/sqrt(n + 1) before an answer: it is uniform on the free bits, as it
    should be, and linear in the bits for the answer.

    What it shows: a limit of representation, not of estimation. For |S| >= 2 the population optimum of log-loss is
    theta = 0, the uniform guess, and its distance to the expert grows with R; within the class nothing (or, at small
    noise and in a large ball, not much) is better. Learning parities with noise is what makes the linear class hard
    for efficient learners in Rohatgi et al. (2025, arXiv:2502.12465); a kernel on the features (ChunkKR) solves this
    small instance.

    Args:
        bits: n, free bits an episode, 1 to 14; by default 4, or what ``subset`` needs.
        subset: S, distinct positions in 0..n-1, at least one; stored as a sorted tuple. By default the first three,
            or all where there are fewer.
        noise: probability that the answer is wrong, in [0, 1/2).
        episodes: R.
        radius: of the ball of theta.

    >>> task = NoisyParity()
    >>> task.horizon, round(task.best_in_class().hellinger2, 6)
    (5, 0.211146)
    """

    bits: int = FOLLOWS
    subset: Sequence[int] = FOLLOWS
    noise: float = 0.1
    episodes: int = 1
    radius: float = 4.0

    vocab_size = 2
    prompt_length = 0
    has_success = True

    def __post_init__(self) -> None:
        if self.bits is not None:
            check_int("bits", self.bits, minimum=1, maximum=14)
        check_int("episodes", self.episodes, minimum=1)
        self._follow(subset=range(min(3, self.bits or 3)))
        object.__setattr__(self, "subset", check_positions("subset", self.subset, self.bits or 14))
        self._follow(bits=max(4, 1 + self.subset[-1]))
        if not 0.0 <= check_real("noise", self.noise) < 0.5:
            raise ValueError(f"noise={self.noise} must lie in [0, 1/2); at 1/2 the answer says nothing.")
        if check_real("radius", self.radius, minimum=0.0) == 0.0:
            raise ValueError("radius=0 leaves only the uniform policy; it must be positive.")

    @property
    def horizon(self) -> int:  # type: ignore[override]
        """H = R (n + 1): set ``episodes`` (and ``bits``) to change it."""
        return self.episodes * (self.bits + 1)

    @cached_property
    def expert(self) -> TableAutomaton:
        """States: 2 i + parity so far, i = 0..n bits of the episode seen."""
        state = np.arange(2 * (self.bits + 1))
        seen, parity = state // 2, state % 2
        answering = seen == self.bits
        one = np.where(answering, np.where(parity == 1, 1 - self.noise, self.noise), 0.5)
        counts = np.isin(seen, self.subset)
        moves = 2 * (seen + 1)[:, None] + (parity[:, None] ^ (counts[:, None] & (np.arange(2) == 1)))
        moves[answering] = 0
        return TableAutomaton(np.column_stack([1 - one, one]), moves)

    @cached_property
    def policy_class(self) -> ARLinearClass:
        return ARLinearClass(EpisodeBits(self.bits), self.radius)

    def prompt_law(self) -> tuple[IntArray, FloatArray]:
        return np.empty((1, 0), dtype=np.int64), np.ones(1)

    def true_parities(self, tokens: NDArray[np.integer]) -> IntArray:
        """``(B, R)`` noiseless answers to the bits of each complete episode in ``(B, H)`` tokens."""
        episodes = np.asarray(tokens).reshape(len(tokens), -1, self.bits + 1)
        return episodes[:, :, list(self.subset)].sum(axis=2, dtype=np.int64) % 2

    def success(self, prompts: NDArray[np.integer], tokens: NDArray[np.integer]) -> FloatArray:
        """1 where the answer of every episode is the true parity, 0 otherwise. Shape ``(B,)``."""
        answers = np.asarray(tokens)[:, self.bits :: self.bits + 1]
        return (answers == self.true_parities(tokens)).all(axis=1).astype(np.float64)

    # -- closed forms --------------------------------------------------------------------------------------------------

    def uniform_hellinger2(self) -> float:
        """Squared Hellinger distance, in [0, 2], of the uniform guess: ``2 (1 - (sqrt(eta/2) + sqrt((1-eta)/2))^R)``.

        For |S| >= 2 this is what population log-loss ends with.
        """
        return self._hellinger2(math.sqrt(self.noise / 2) + math.sqrt((1 - self.noise) / 2))

    def member_hellinger2(self, theta: FloatArray) -> float:
        """Squared Hellinger distance, in [0, 2], of the member with these ``(n + 1,)`` parameters.

        For any R, to rounding: about 1e-15 R, absolute.
        """
        signs, features = self._answer_prefixes
        return self._hellinger2(float(self._agreement(signs * (features @ np.asarray(theta)))[0].mean()))

    def _hellinger2(self, affinity: float) -> float:
        """Episodes are independent under both laws, so the Bhattacharyya coefficient is a power."""
        return 2.0 if affinity <= 0.0 else abs(2.0 * math.expm1(self.episodes * math.log(min(affinity, 1.0))))

    @cached_property
    def _answer_prefixes(self) -> tuple[IntArray, FloatArray]:
        """Sign of the true answer (+1 for a one) and features, for each of the 2^n strings of bits."""
        strings = all_sequences(2, self.bits)
        signs = 2 * (strings[:, list(self.subset)].sum(axis=1) % 2) - 1
        return signs, self.policy_class.features.prefix_features(np.empty((len(strings), 0), dtype=np.int64), strings)

    def _agreement(self, margin: NDArray[np.float64]) -> tuple[FloatArray, FloatArray]:
        """Affinity of one answer when the true one has log-odds ``margin``, and its derivative."""
        right, wrong = np.sqrt((1 - self.noise) * expit(margin)), np.sqrt(self.noise * expit(-margin))
        return right + wrong, 0.5 * (right * expit(-margin) - wrong * expit(margin))

    @cached_property
    def _best_in_class(self) -> BestInClass:
        """Closed form where a tangent proves it, else a local search.

        With chi the sign of the true answer and g the affinity of one answer, BC = E g(chi <theta, u>). The mean of
        chi <theta, u> is 0 for |S| >= 2, and theta_s / sqrt(n + 1) <= radius / sqrt(n + 1) for S = {s}. So the
        largest BC is g(t), t = 0 or min(radius / sqrt(n + 1), logit(1 - noise)), whenever g lies below its tangent at
        t on [-radius, radius], as long as the tangent rises (compared at 20001 points). With S = {s} and t at the
        log-odds of the expert, the expert is a member.
        """
        theta, top = np.zeros(self.bits + 1), 0.0
        if len(self.subset) == 1:
            right = float(logit(1 - self.noise)) if self.noise > 0 else math.inf
            top = min(self.radius / math.sqrt(self.bits + 1), right)
            theta[1 + self.subset[0]] = min(top * math.sqrt(self.bits + 1), self.radius)
            if top == right:
                return BestInClass(self.policy_class.policy(theta), 0.0, "closed form")
        margins = np.linspace(-self.radius, self.radius, 20001)
        height, slope = (float(part) for part in self._agreement(np.float64(top)))  # type: ignore[arg-type]
        tangent = height + slope * (margins - top)
        if bool((self._agreement(margins)[0] <= tangent + 1e-15).all()):
            return BestInClass(self.policy_class.policy(theta), self.member_hellinger2(theta), "closed form")
        return self._search()

    def best_in_class(self) -> BestInClass:
        """The nearest member: theta = 0 for |S| >= 2 where that is proved, else by a local search from many starts.

        ``method`` says which; after a search ``tolerance`` is ``nan``.
        """
        return self._best_in_class

    def _search(self) -> BestInClass:
        from scipy.optimize import minimize

        signs, features = self._answer_prefixes
        rows = signs[:, None] * features

        def loss(theta: FloatArray) -> tuple[float, FloatArray]:
            value, slope = self._agreement(rows @ theta)
            return -float(value.mean()), -(slope @ rows) / len(rows)

        rng = np.random.default_rng(0)
        starts = [np.zeros(self.bits + 1)]
        pattern = np.zeros((2, self.bits + 1))
        pattern[0, [1 + s for s in self.subset]] = 1.0
        pattern[1] = pattern[0]
        pattern[1, 0] = 1.0
        for direction in (*pattern, *-pattern, *rng.normal(size=(LOCAL_STARTS, self.bits + 1))):
            starts.append(direction / np.linalg.norm(direction) * 0.7 * self.radius)
        ball = {
            "type": "ineq",
            "fun": lambda theta: self.radius**2 - theta @ theta,
            "jac": lambda theta: -2.0 * theta,
        }
        candidates = [np.zeros(self.bits + 1)]
        for start in starts:
            found = minimize(
                loss, start, jac=True, constraints=[ball], method="SLSQP", options={"maxiter": 300, "ftol": 1e-14}
            )
            candidates.append(found.x * min(1.0, self.radius / max(float(np.linalg.norm(found.x)), 1e-300)))
        values = np.array([self.member_hellinger2(theta) for theta in candidates])
        best = int(first_best(-values, slack=ROUNDING))  # the uniform guess, where it ties
        return BestInClass(self.policy_class.policy(candidates[best]), values[best], "local search", math.nan)

    # -- population ----------------------------------------------------------------------------------------------------

    def population(self, chunk: int | None = None) -> Demonstrations:
        """The complete law while it has at most 2**14 sequences; else each episode repeated R times, weighted.

        Representatives are exact for tokens and for chunks whose length divides n + 1, the length of an episode, in
        the task's own class; ``chunk`` does not change them.
        """
        strings = all_sequences(2, self.bits + 1)
        complete = len(strings) ** self.episodes <= MAX_COMPLETE_LAW
        if not complete:
            check_population_size(self, len(strings))
        drawn = all_sequences(2, self.horizon) if complete else strings
        nothing = np.empty((len(drawn), 0), dtype=np.int64)
        weights = np.exp(self.expert.log_probs(nothing, drawn).sum(axis=1))
        tokens = drawn if complete else np.tile(strings, (1, self.episodes))
        divisors = frozenset(k for k in range(1, self.bits + 2) if (self.bits + 1) % k == 0)
        exactness = (
            Exactness(everything=True)
            if complete
            else Exactness(units=divisors, statistic=self.policy_class.statistic, expert_units=divisors)
        )
        keep = weights > 0
        return Demonstrations(
            nothing[keep],
            tokens[keep],
            vocab_size=2,
            weights=weights[keep],
            source={"task": self.name, "parameters": self.parameters(), "by": "population"},
            exactness=exactness,
        )

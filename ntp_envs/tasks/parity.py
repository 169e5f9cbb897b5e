"""Parities: NoisyParity, whose answer no linear predictor has; ParityCoT and ParityMix, where some chains have it.

First the ways to write a parity down step by step: what each step says, and the linear rule that computes it. Places
are numbered as in a prefix of the chosen bits alone: 0..k-1 the k bits, k + j the token written at position j.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import chain as chained

import numpy as np
from numpy.typing import NDArray
from scipy.special import expit, logit

from ntp_envs.arrays import ROUNDING, FloatArray, IntArray, all_sequences, first_best
from ntp_envs.automata import TableAutomaton
from ntp_envs.checks import (
    NotTractableError,
    check_in,
    check_int,
    check_positions,
    check_positive,
    check_probability,
    check_real,
)
from ntp_envs.demonstrations import Demonstrations
from ntp_envs.features import MAX_MONOMIALS, ByPosition, ChainProducts, EpisodeBits, PrefixSigns, n_monomials
from ntp_envs.policies import MixturePolicy, TargetPolicy
from ntp_envs.policy_classes import ARLinearClass, ARLinearPolicy
from ntp_envs.tasks.base import FOLLOWS, BestInClass, TargetTask, Task, check_population_size

#: weights of products of signs (+1 for a one, -1 for a zero): the next token is a one where their sum is positive
Rule = dict[tuple[int, ...], float]

FORMATS = ("none", "prefix", "count", "andxor", "token", "xor_q")


class ParityChain(ABC):
    """A format for the parity of k bits.

    Attributes:
        length: T, tokens written.
        vocab_size: of the tokens, the bits of the prompt included.
        degree: least degree of products of signs in which every step is linear.
    """

    def __init__(self, k: int, length: int, *, vocab_size: int = 2, degree: int = 1) -> None:
        self.k, self.length, self.vocab_size, self.degree = k, length, vocab_size, degree

    @abstractmethod
    def write(self, bits: IntArray) -> IntArray:
        """``(B, T)`` tokens from ``(B, k)`` bits."""

    def rules(self) -> list[Rule]:
        """One rule a position (binary formats), each right with a margin of at least 1/2."""
        raise NotImplementedError

    def predictable(self, degree: int) -> list[bool]:
        """Which steps are functions of what is linear in products of up to ``degree`` signs; the others are fair."""
        return [True] * self.length


class Running(ParityChain):
    """Each token is the exclusive or of a group of places; `none`, `prefix` and `xor_q` differ in the groups."""

    def __init__(self, k: int, groups: list[tuple[int, ...]]) -> None:
        super().__init__(k, len(groups), degree=max(map(len, groups)))
        self.groups = groups

    def write(self, bits: IntArray) -> IntArray:
        line = bits
        for group in self.groups:
            line = np.column_stack([line, line[:, list(group)].sum(axis=1) % 2])
        return line[:, self.k :]

    def rules(self) -> list[Rule]:
        return [{tuple(sorted(group)): 0.5 if len(group) % 2 else -0.5} for group in self.groups]

    def predictable(self, degree: int) -> list[bool]:
        return [len(group) <= degree for group in self.groups]


def _running(k: int, fan_in: int) -> Running:
    """Groups of ``fan_in``: the first takes bits only, the others the last token and new bits."""
    groups: list[tuple[int, ...]] = [tuple(range(min(fan_in, k)))]
    for first in range(fan_in, k, fan_in - 1):
        groups.append((k + len(groups) - 1, *range(first, min(first + fan_in - 1, k))))
    return Running(k, groups)


def _threshold(constant: float, weights: dict[int, float]) -> Rule:
    """The rule of ``constant + sum weights * bit > 0`` in signs."""
    rule: Rule = {(place,): 0.5 * weight for place, weight in weights.items()}
    return {(): constant + sum(rule.values()), **rule}


class Count(ParityChain):
    """The number of ones in binary, most significant bit first: each bit is a threshold of what is left to count."""

    def __init__(self, k: int) -> None:
        super().__init__(k, k.bit_length())
        self.powers = [1 << i for i in reversed(range(self.length))]

    def write(self, bits: IntArray) -> IntArray:
        return bits.sum(axis=1)[:, None] // np.array(self.powers) % 2

    def rules(self) -> list[Rule]:
        ones = dict.fromkeys(range(self.k), 1.0)
        taken = [{self.k + j: -float(power) for j, power in enumerate(self.powers[:i])} for i in range(self.length)]
        return [_threshold(0.5 - power, {**ones, **less}) for power, less in zip(self.powers, taken)]


class AndXor(ParityChain):
    """For every further bit x: a = z and x, then z xor x, with z the parity so far; each a threshold."""

    def __init__(self, k: int) -> None:
        super().__init__(k, 2 * (k - 1))

    def write(self, bits: IntArray) -> IntArray:
        parity, columns = bits[:, 0], []
        for bit in bits[:, 1:].T:
            columns += [parity & bit, parity ^ bit]
            parity = parity ^ bit
        return np.column_stack(columns)

    def rules(self) -> list[Rule]:
        """a = 1[z + x > 1.5] and z' = 1[z + x - 2a > .5]."""
        parities = [0, *(self.k + 2 * j + 1 for j in range(self.k - 2))]
        steps = zip(parities, range(1, self.k), range(self.k, self.k + self.length, 2))
        both = [(_threshold(-1.5, {z: 1.0, x: 1.0}), _threshold(-0.5, {z: 1.0, x: 1.0, a: -2.0})) for z, x, a in steps]
        return list(chained.from_iterable(both))


class Token(ParityChain):
    """The number of ones as one token, then its parity."""

    def __init__(self, k: int) -> None:
        super().__init__(k, 2, vocab_size=k + 1)

    def write(self, bits: IntArray) -> IntArray:
        count = bits.sum(axis=1)
        return np.column_stack([count, count % 2])


def chain_of(cot: str, k: int, fan_in: int) -> ParityChain:
    """The chain of a format; ``fan_in`` matters to ``xor_q`` only."""
    if cot == "prefix":
        return Running(k, [(0,), *((k + j, j + 1) for j in range(k - 1))])
    if cot in ("none", "xor_q"):
        return _running(k, fan_in if cot == "xor_q" else max(k, 2))
    if cot == "token":
        return Token(k)
    return Count(k) if cot == "count" else AndXor(k)


MAX_COMPLETE_LAW = 1 << 14
LOCAL_STARTS = 12


@dataclass(frozen=True)
class NoisyParity(Task):
    """Episodes of n uniform bits, then their parity over a hidden subset S, flipped with probability ``noise``.

    There is no prompt; R episodes follow one another, H = R (n + 1). The class is autoregressive linear over
    `ntp_envs.features.EpisodeBits`, (1, +-1 bits)/sqrt(n + 1) before an answer: it is uniform on the free bits, as it
    should be, and linear in the bits for the answer.

    What it shows: a limit of representation, not of estimation. For ``|S| >= 2`` the population optimum of log-loss is
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
        check_int("episodes", self.episodes, minimum=1, maximum=2**20)
        self._follow(subset=range(min(3, self.bits or 3)))
        object.__setattr__(self, "subset", check_positions("subset", self.subset, self.bits or 14))
        self._follow(bits=max(4, 1 + self.subset[-1]))
        if not 0.0 <= check_real("noise", self.noise) < 0.5:
            raise ValueError(f"noise={self.noise} must lie in [0, 1/2); at 1/2 the answer says nothing.")
        check_positive("radius", self.radius, "leaves only the uniform policy")

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

        For ``|S| >= 2`` this is what population log-loss ends with.
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

    def best_in_class(self) -> BestInClass:
        """The nearest member: theta = 0 for ``|S| >= 2`` where that is proved, else by a local search from many starts.

        ``method`` says which; after a search ``tolerance`` is ``nan``.

        With chi the sign of the true answer and g the affinity of one answer, BC = E g(chi <theta, u>). The mean of
        chi <theta, u> is 0 for ``|S| >= 2``, and theta_s / sqrt(n + 1) <= radius / sqrt(n + 1) for S = {s}. So the
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
        keep = weights > 0
        return self._weighted(
            nothing[keep], tokens[keep], weights[keep], units=None if complete else divisors, expert_units=divisors
        )


MAX_LISTED_BITS = 12


@dataclass(frozen=True)
class ParityCoT(TargetTask):
    """Say the parity of k hidden bits out of n, after a chain of thought in one of six formats.

    The prompt x is uniform in {0, 1}^n. A set S of k positions is fixed and not told. The answer ends with the parity
    of x over S; what comes before it depends on ``cot`` (z_j is the parity of the first j bits of S):

    * ``none``: nothing. T = 1.
    * ``prefix``: z_1, z_2, ..., z_k. T = k.
    * ``xor_q``: the parity of the first q = ``fan_in`` bits, of q - 1 more, and so on. T = ceil((k - 1)/(q - 1)).
    * ``andxor``: for j = 2..k the pair a = z_{j-1} and x_j, then z_j. T = 2 (k - 1).
    * ``count``: the number of ones in S in binary, most significant bit first. T = ceil(log2(k + 1)).
    * ``token``: the number of ones as one token, then its parity. T = 2 with a vocabulary of k + 1.

    The policy class is linear in the whole prefix with weights of its own for every output position
    (`ntp_envs.features.PrefixSigns` in blocks by position). ``degree`` adds products of up to that many signs.

    What it shows: the length complexity of Malach (2023, arXiv:2309.06979). A linear predictor, decoded greedily,
    computes what each step says linearly from the steps before. ``count``, ``andxor`` and ``token`` are such chains
    (`linear_solution`); ``count`` is the O(log n) of that paper. An exclusive or of two or more fair bits is not a
    linear step: for k >= 2 ``none``, ``prefix`` and ``xor_q`` stay at a guess, whatever the number of samples
    (`population_accuracy`); a chain is no help by being longer. They are linear from ``degree`` k, 2 and q on, at the
    price of the order of n^degree features: the trade of T against samples and computation. That the formats are
    linear or not, and the numbers named here, are derived here.

    Success is that the LAST token is the parity. It is not exact match of the chain: a policy that writes a wrong
    chain and guesses is right half of the time.

    Args:
        bits: n, at least 1. By default 20, or what ``subset`` and ``subset_size`` need; fewer where ``degree`` would
            give too many products.
        subset_size: k, 1 to n; at least 2 for ``andxor``, ``token`` and ``xor_q``. By default 6, within what ``bits``
            and ``fan_in`` allow. Set to the length of ``subset`` if that is given.
        subset: S, distinct positions in 0..n-1, stored sorted; ``None`` draws it with ``seed``.
        cot: the format.
        fan_in: q of ``xor_q``, 2 to k; the other formats ignore it.
        degree: of the products in the features; above 1 only for formats with two tokens.
        radius: of the ball of theta.
        seed: of S.

    >>> task = ParityCoT(bits=5, subset=(0, 1, 3), cot="count")
    >>> task.targets(np.array([[1, 1, 0, 1, 0], [1, 0, 0, 1, 1]])).tolist()
    [[1, 1], [1, 0]]
    """

    bits: int = FOLLOWS
    subset_size: int = FOLLOWS
    subset: Sequence[int] | None = None
    cot: str = "count"
    fan_in: int = 2
    degree: int = 1
    radius: float = 200.0
    seed: int = 0

    def __post_init__(self) -> None:
        check_in("cot", self.cot, FORMATS)
        least = 2 if self.cot in ("andxor", "token", "xor_q") else 1
        if self.bits is not None:
            check_int("bits", self.bits, minimum=least, maximum=1 << 14)
        check_int("fan_in", self.fan_in, minimum=2)
        check_int("degree", self.degree, minimum=1)
        if self.subset is not None:
            named = check_positions("subset", self.subset, self.bits)
            object.__setattr__(self, "subset", named)
            object.__setattr__(self, "subset_size", FOLLOWS)  # whatever it was
            self._follow(subset_size=len(named))
        usual = max(6, self.fan_in) if self.cot == "xor_q" else 6
        self._follow(subset_size=usual if self.bits is None else min(usual, self.bits))
        k = check_int("subset_size", self.subset_size, minimum=least, maximum=self.bits)
        check_int("fan_in", self.fan_in, minimum=2, maximum=k if self.cot == "xor_q" else None)
        self._follow(bits=self._usual_bits(1 + max(self.subset or (k - 1,))))
        check_int("degree", self.degree, minimum=1, maximum=self.bits + self.horizon)
        if self.degree > 1 and self.vocab_size > 2:
            raise ValueError(f"degree={self.degree} is for formats with two tokens; use degree=1 with cot='token'.")
        if self.degree > 1 and n_monomials(self.bits + self.horizon - 1, self.degree) > MAX_MONOMIALS:
            raise ValueError(
                f"degree={self.degree} gives more than {MAX_MONOMIALS} products of the {self.bits} bits and the "
                f"{self.horizon - 1} tokens before the last; lower degree, bits or subset_size."
            )
        check_int("seed", self.seed, minimum=0, maximum=math.inf)
        check_positive("radius", self.radius, "leaves only the uniform policy")

    def _usual_bits(self, least: int) -> int:
        """20, or as many as are needed; fewer where that makes the products of ``degree`` signs few enough."""
        sizes = range(max(20, least), least - 1, -1)
        fits = (n for n in sizes if n_monomials(n + self.horizon - 1, self.degree) <= MAX_MONOMIALS)
        return sizes[0] if self.degree == 1 else next(fits, sizes[0])

    @cached_property
    def chosen(self) -> tuple[int, ...]:
        """S, ascending."""
        if self.subset is not None:
            return tuple(self.subset)
        drawn = np.random.default_rng(self.seed).choice(self.bits, size=self.subset_size, replace=False)
        return tuple(int(place) for place in np.sort(drawn))

    @cached_property
    def _chain(self) -> ParityChain:
        return chain_of(self.cot, self.subset_size, self.fan_in)

    @property
    def horizon(self) -> int:  # type: ignore[override]
        """T, set by the format and ``subset_size``."""
        return self._chain.length

    @property
    def vocab_size(self) -> int:  # type: ignore[override]
        """2; for ``token`` k + 1, the bits of the prompt being the tokens 0 and 1."""
        return self._chain.vocab_size

    @property
    def prompt_length(self) -> int:  # type: ignore[override]
        """P, the number of bits."""
        return self.bits

    def sample_prompts(self, n: int, rng: np.random.Generator) -> IntArray:
        return rng.integers(2, size=(n, self.bits))

    def prompt_law(self) -> tuple[IntArray, FloatArray]:
        """All 2^n prompts for n up to 12; beyond ``NotTractableError``."""
        if self.bits > MAX_LISTED_BITS:
            return super().prompt_law()
        prompts = all_sequences(2, self.bits)
        return prompts, np.full(len(prompts), 1.0 / len(prompts))

    def targets(self, prompts: NDArray[np.integer]) -> IntArray:
        return self._chain.write(np.asarray(prompts, dtype=np.int64)[:, list(self.chosen)])

    def success(self, prompts: NDArray[np.integer], tokens: NDArray[np.integer]) -> FloatArray:
        """1 where the last token is the parity, whatever the chain before it; ``(B,)``."""
        parity = np.asarray(prompts)[:, list(self.chosen)].sum(axis=1) % 2
        return (np.asarray(tokens)[:, -1] == parity).astype(np.float64)

    def decode(self, tokens: NDArray[np.integer]) -> str:
        """Digits without spaces where every token is one digit."""
        return ("" if self.vocab_size <= 10 else " ").join(str(int(token)) for token in tokens)

    # -- the linear class ----------------------------------------------------------------------------------------------

    @cached_property
    def _step_features(self) -> PrefixSigns:
        return PrefixSigns(self.vocab_size, self.bits, self.horizon, self.degree)

    @cached_property
    def policy_class(self) -> ARLinearClass:
        return ARLinearClass(ByPosition(self._step_features, self.horizon), self.radius)

    @property
    def is_linear(self) -> bool:
        """Whether the class has a member whose greedy decoding writes every chain right."""
        return self.degree >= self._chain.degree

    def linear_solution(self) -> tuple[ARLinearPolicy, float]:
        """A member of the class, of norm ``radius``, whose greedy decoding is the expert: explicit weights.

        ``andxor``: a = 1[z + x > 1.5] and z' = 1[z + x - 2a > .5]. ``count``: bit i is 1 where the number of ones, less
        what the bits before it count, is above 2^i - .5. ``token``: token c scores c s - c^2 / 2 where s is the number
        of ones, then the count's one-hot block picks its parity. The others, where ``degree`` allows: the product of
        the signs.

        Returns:
            The policy, and its margin in nats: along every right chain the right token has at least this log-odds
            over any other token.

        Raises:
            NotTractableError: a step of the format is not linear at this ``degree``.
        """
        if not self.is_linear:
            raise NotTractableError(
                f"a step of cot={self.cot!r} is a product of {self._chain.degree} signs, not linear at "
                f"degree={self.degree}; use degree={self._chain.degree}, or cot='count', 'andxor' or 'token'."
            )
        step = self._step_features
        theta = self._token_weights() if self.cot == "token" else self._binary_weights()
        theta /= step.scale
        gain = self.radius / float(np.linalg.norm(theta))
        return self.policy_class.policy(gain * theta.ravel()), 0.5 * gain

    def _binary_weights(self) -> FloatArray:
        """``(T, c)`` weights of the unscaled features, margin 1/2."""
        step, places = self._step_features, [*self.chosen, *range(self.bits, self.bits + self.horizon)]
        theta = np.zeros((self.horizon, step.n_context))
        for row, rule in zip(theta, self._chain.rules()):
            for product, weight in rule.items():
                row[step.index(*sorted(places[place] for place in product))] += weight
        return theta

    def _token_weights(self) -> FloatArray:
        """``(A, T, c)`` weights of the unscaled features, margin 1/2."""
        step, counts = self._step_features, np.arange(self.vocab_size)
        theta = np.zeros((self.vocab_size, 2, step.n_context))
        theta[:, 0, [step.index(place) for place in self.chosen]] = 0.5 * counts[:, None]  # s = (k + signs) / 2
        theta[:, 0, step.index()] = 0.5 * counts * self.subset_size - 0.5 * counts**2
        first = step.index(self.bits)  # of the one-hot block of the count
        theta[counts % 2, 1, first + counts] = 0.5
        return theta

    # -- what is known of it -------------------------------------------------------------------------------------------

    def population_accuracy(self) -> tuple[float, float]:
        """Of the population log-loss optimum: mean forced accuracy a token, and how often the free answer is right.

        A step that is a product of more signs than ``degree`` is uncorrelated with every feature, so theta = 0 is
        optimal for it and its accuracy is 1/2; after one such step the answer is a guess. The other steps are
        separable: accuracy 1 (in a ball large enough). For ``prefix`` and k >= 2, ((1 + (k - 1)/2)/k, 1/2). Derived
        here.
        """
        known = self._chain.predictable(self.degree)
        return float(np.where(known, 1.0, 0.5).mean()), 1.0 if all(known) else 0.5

    def threshold_accuracy(self) -> float:
        """The best accuracy of a linear threshold function of the bits on their parity: what degree 1 may reach.

        ``1/2 + C(k - 1, floor((k - 1)/2)) / 2^k``: 1, .75, .75, .6875, .6875 for k = 1..5 (derived here). The
        log-loss optimum does not use it: it guesses.
        """
        k = self.subset_size
        return 0.5 + math.comb(k - 1, (k - 1) // 2) / 2**k


END = 2
#: greedy decoding of the log-loss optimum writes the chain for p above this
GREEDY_THRESHOLD = 1 / 3


def filtered_share(p: float, rounds: int = 1) -> float:
    """The share of chains after ``rounds`` of sampling, keeping what is right, and fitting again: odds double.

    A chain is always right, a direct answer half of the time: p becomes ``p / (p + (1 - p)/2) = 2 p / (1 + p)``. This
    is the population's map. From samples the share comes to differ between prompts, and as the map is concave the mean
    lags behind (most at d = 4, where such differences grow from round to round).

    >>> filtered_share(0.2)
    0.3333333333333333
    """
    direct = 0.5 ** check_int("rounds", rounds, minimum=0) * (1.0 - check_probability("p", p))
    return p / (p + direct)


def rounds_to_pass(p: float, threshold: float = GREEDY_THRESHOLD) -> int:
    """The least number of filtered rounds after which the share of chains is above ``threshold``.

    >>> [rounds_to_pass(p) for p in (0.01, 0.05, 0.1)]
    [6, 4, 3]
    """
    odds = check_probability("p", p) / (1.0 - p)
    wanted = check_probability("threshold", threshold) / (1.0 - threshold)
    rounds = max(math.floor(math.log2(wanted / odds)) - 1, 0)
    while odds * 2.0**rounds <= wanted * (1 + 1e-12):
        rounds += 1
    return rounds


@dataclass(frozen=True)
class ParityMix(Task):
    """With probability p the demonstration is (x_1, x_1 x_2, ..., x_1...x_d, end), otherwise (x_1...x_d, end).

    The prompt x is uniform in {+1, -1}^d. Token 0 is +1, token 1 is -1 and token 2 the end; products of signs are
    exclusive ors of bits. H = d + 1, and the sequence is filled up with the end token.

    The expert draws one of the two documents and writes it to its end. As a policy it is the mixture of the two laws
    (`ntp_envs.MixturePolicy`): after a prefix that both call impossible the two have their first shares p and 1 - p
    again, and go on with the token of their own document at that position.

    The class is linear over `ntp_envs.features.ChainProducts`, (1, x_i, z x_i, ended) with z the last token, with
    weights of its own for each position. A step of the chain, z x_i, is linear in it; the product of all is not.

    What it shows (after Tsilivis et al., arXiv:2510.11495; the numbers are derived here): why outcome
    rewards make answers longer. The log-loss optimum cannot tell the direct answer from a fair coin, so

    * its first token is x_1 with probability (1 + p)/2, and after x_1 it goes on with probability 2 p/(1 + p);
    * decoded greedily it writes the chain, and is always right, if and only if p > 1/3; sampled it is right with
      probability (1 + p)/2 (`sampled_accuracy`), at a mean length of 1 + p (d - 1) tokens before the end;
    * a round of sampling, keeping what is right and fitting again doubles the odds of the chain
      (`filtered_share`): 6, 4, 3 rounds pass 1/3 from p = .01, .05, .1 (`rounds_to_pass`). Answers grow because
      right ones are longer, with nothing in the reward about length.

    Success is that the token before the first end is the product of all signs.

    Args:
        d: bits of the prompt, 4 or more: with three, given the next sign of the chain, whether the first token was the
            whole answer is linear, and the facts above do not hold.
        p: share of chains, in (0, 1).
        radius: of the ball of theta.

    >>> task = ParityMix(d=4, p=0.2)
    >>> [tokens.tolist() for tokens in task.documents(np.array([[1, 1, 0, 1]]))]
    [[[1, 0, 0, 1, 2]], [[1, 2, 2, 2, 2]]]
    """

    d: int = 6
    p: float = 0.2
    radius: float = 200.0

    vocab_size = 3
    has_success = True
    savable_methods = frozenset({"chains", "answers"})

    def __post_init__(self) -> None:
        check_int("d", self.d, minimum=4, maximum=1000)
        check_probability("p", self.p)
        check_positive("radius", self.radius, "leaves only the uniform policy")

    @property
    def horizon(self) -> int:  # type: ignore[override]
        """H = d + 1."""
        return self.d + 1

    @property
    def prompt_length(self) -> int:  # type: ignore[override]
        """P, the number of bits."""
        return self.d

    def sample_prompts(self, n: int, rng: np.random.Generator) -> IntArray:
        return rng.integers(2, size=(n, self.d))

    def prompt_law(self) -> tuple[IntArray, FloatArray]:
        """All 2^d prompts for d up to 12; beyond ``NotTractableError``."""
        if self.d > MAX_LISTED_BITS:
            raise NotTractableError(f"2^{self.d} prompts are too many to list; use sample_prompts(n, rng).")
        prompts = all_sequences(2, self.d)
        return prompts, np.full(len(prompts), 1.0 / len(prompts))

    def chains(self, prompts: NDArray[np.integer]) -> IntArray:
        """``(B, H)`` running products, then the end."""
        running = np.cumsum(np.asarray(prompts, dtype=np.int64), axis=1) % 2
        return np.column_stack([running, np.full(len(running), END)])

    def answers(self, prompts: NDArray[np.integer]) -> IntArray:
        """``(B, H)`` the product of all, then the end."""
        product = np.asarray(prompts, dtype=np.int64).sum(axis=1) % 2
        return np.column_stack([product, np.full((len(product), self.d), END)])

    def documents(self, prompts: NDArray[np.integer]) -> tuple[IntArray, IntArray]:
        """The chain, of probability p, and the direct answer, each ``(B, H)``."""
        return self.chains(prompts), self.answers(prompts)

    @cached_property
    def expert(self) -> MixturePolicy:
        parts = [
            TargetPolicy(write, self.vocab_size, horizon=self.horizon, prompt_length=self.d)
            for write in (self.chains, self.answers)
        ]
        return MixturePolicy(parts, [self.p, 1.0 - self.p])

    @cached_property
    def policy_class(self) -> ARLinearClass:
        return ARLinearClass(ByPosition(ChainProducts(self.d), self.horizon), self.radius)

    def best_in_class(self) -> BestInClass:
        raise NotTractableError(f"the best in class of {self.name} is not known.")

    def population(self, chunk: int | None = None) -> Demonstrations:
        """The complete law for d up to 12: every prompt with both documents."""
        prompts, masses = self.prompt_law()
        return self._weighted(
            np.concatenate([prompts, prompts]),
            np.concatenate(self.documents(prompts)),
            np.concatenate([self.p * masses, (1.0 - self.p) * masses]),
        )

    # -- reading an answer ---------------------------------------------------------------------------------------------

    def lengths(self, tokens: NDArray[np.integer]) -> IntArray:
        """``(B,)`` tokens before the first end; H where there is none."""
        ended = np.asarray(tokens) == END
        return np.where(ended.any(axis=1), ended.argmax(axis=1), ended.shape[1])

    def success(self, prompts: NDArray[np.integer], tokens: NDArray[np.integer]) -> FloatArray:
        """1 where the token before the first end is the product of all signs; 0 also without one. ``(B,)``."""
        tokens, lengths = np.asarray(tokens), self.lengths(tokens)
        said = tokens[np.arange(len(tokens)), np.maximum(lengths - 1, 0)]
        right = said == np.asarray(prompts).sum(axis=1) % 2
        return (right & (lengths > 0) & (lengths < tokens.shape[1])).astype(np.float64)

    def decode(self, tokens: NDArray[np.integer]) -> str:
        """``+`` and ``-`` for the signs, ``.`` for the end."""
        return "".join("+-."[int(token)] for token in tokens)

    # -- closed forms --------------------------------------------------------------------------------------------------

    def sampled_accuracy(self) -> float:
        """Of the log-loss optimum: (1 + p)/2."""
        return (1.0 + self.p) / 2

    def greedy_accuracy(self) -> float:
        """Of the log-loss optimum: 1 for p above 1/3, where it writes the chain, else 1/2."""
        return 1.0 if self.p > GREEDY_THRESHOLD else 0.5

    def mean_length(self) -> float:
        """Tokens before the end, in the demonstrations and in samples of the log-loss optimum: 1 + p (d - 1)."""
        return 1.0 + self.p * (self.d - 1)

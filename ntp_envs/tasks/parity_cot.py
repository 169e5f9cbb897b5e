"""ParityCoT: a parity that no linear predictor can say at once, and that some chains of thought make linear."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from ntp_envs._numerics import all_sequences
from ntp_envs._validation import check_in, check_int, check_positions, check_real
from ntp_envs.errors import NotTractableError
from ntp_envs.features.by_position import ByPosition
from ntp_envs.features.chain import MAX_MONOMIALS, PrefixSigns, n_monomials
from ntp_envs.policy_classes import ARLinearClass
from ntp_envs.policy_classes.ar_linear import ARLinearPolicy
from ntp_envs.tasks._parity_chains import FORMATS, ParityChain, chain_of
from ntp_envs.tasks.base import FOLLOWS, FloatArray, IntArray
from ntp_envs.tasks.target import TargetTask

__all__ = ["ParityCoT"]

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
            check_int("bits", self.bits, minimum=least)
        check_int("fan_in", self.fan_in, minimum=2)
        check_int("degree", self.degree, minimum=1)
        if self.subset is not None:
            named = check_positions("subset", self.subset, self.bits)
            object.__setattr__(self, "subset", named)
            object.__setattr__(self, "subset_size", len(named))
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
        check_int("seed", self.seed, minimum=0)
        if check_real("radius", self.radius, minimum=0.0) == 0.0:
            raise ValueError("radius=0 leaves only the uniform policy; it must be positive.")

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

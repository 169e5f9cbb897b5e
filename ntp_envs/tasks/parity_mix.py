"""ParityMix: a few demonstrations think step by step, the others say the answer at once."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from ntp_envs._numerics import all_sequences
from ntp_envs._validation import check_int, check_probability, check_real
from ntp_envs.demonstrations import Demonstrations, Exactness
from ntp_envs.deterministic import TargetPolicy
from ntp_envs.errors import NotTractableError
from ntp_envs.features.by_position import ByPosition
from ntp_envs.features.chain import ChainProducts
from ntp_envs.policies import MixturePolicy
from ntp_envs.policy_classes import ARLinearClass
from ntp_envs.tasks.base import BestInClass, FloatArray, IntArray, Task

__all__ = ["GREEDY_THRESHOLD", "ParityMix", "filtered_share", "rounds_to_pass"]

END = 2
MAX_LISTED_BITS = 12
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

    def __post_init__(self) -> None:
        check_int("d", self.d, minimum=4)
        check_probability("p", self.p)
        if check_real("radius", self.radius, minimum=0.0) == 0.0:
            raise ValueError("radius=0 leaves only the uniform policy; it must be positive.")

    @property
    def horizon(self) -> int:  # type: ignore[override]
        """H = d + 1."""
        return self.d + 1

    @property
    def prompt_length(self) -> int:  # type: ignore[override]
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
        return Demonstrations(
            np.concatenate([prompts, prompts]),
            np.concatenate(self.documents(prompts)),
            vocab_size=self.vocab_size,
            weights=np.concatenate([self.p * masses, (1.0 - self.p) * masses]),
            source={"task": self.name, "parameters": self.parameters(), "by": "population"},
            exactness=Exactness(everything=True),
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

"""Snowball: a copy goes wrong one slip at a time. Failure in execution, not in learning."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from ntp_envs.arrays import FloatArray, IntArray, all_sequences
from ntp_envs.checks import NotTractableError, check_int, check_probability
from ntp_envs.demonstrations import Demonstrations
from ntp_envs.policies import PrefixPolicy, check_given
from ntp_envs.policy_classes import FiniteClass
from ntp_envs.tasks.base import LONGEST, BestInClass, TargetTask, check_population_size

#: prompts that `Snowball.prompt_law` lists at most
MAX_PROMPTS = 1 << 12
#: error rates of the class: the least one, and so many larger ones, evenly spaced in log-odds up to uniform tokens
COARSER = 4


class CopyPolicy(PrefixPolicy):
    """Copies the prompt token by token, each token wrong with probability ``error`` independently of all others.

    A wrong token is uniform among the other A - 1, whatever was written before: token h is a noisy copy of prompt
    token h also after a slip.

    Args:
        vocab_size: A, at least 2.
        prompt_length: P; at most P tokens can be written.
        error: probability of a wrong token, in [0, 1].

    >>> CopyPolicy(3, 2, 0.1).log_probs(np.array([[0, 2]]), np.array([[0, 1]])).round(3).tolist()
    [[-0.105, -2.996]]
    """

    whole_prompts = True

    def __init__(self, vocab_size: int, prompt_length: int, error: float) -> None:
        vocab_size = check_int("vocab_size", vocab_size, minimum=2)
        prompt_length = check_int("prompt_length", prompt_length, minimum=1)
        super().__init__(vocab_size, horizon=prompt_length, prompt_length=prompt_length)
        self.error = check_probability("error", error, open_interval=False)
        with np.errstate(divide="ignore"):
            right, wrong = np.log1p(-self.error), np.log(self.error) - np.log(vocab_size - 1)
        self._table = np.where(np.eye(vocab_size, dtype=bool), right, wrong)  # row: prompt token

    def __repr__(self) -> str:
        return f"CopyPolicy(vocab_size={self.vocab_size}, prompt_length={self.prompt_length}, error={self.error:g})"

    def prefix_law(self, prompts: NDArray[np.integer], tokens: NDArray[np.integer]) -> FloatArray:
        return self._table[prompts[:, tokens.shape[1]]]

    def forced_log_probs(self, prompts: NDArray[np.integer], tokens: NDArray[np.integer]) -> FloatArray:
        prompts, tokens = check_given(self, prompts, tokens)
        return self._table[prompts[:, : tokens.shape[1]]]

    def log_probs(self, prompts: NDArray[np.integer], tokens: NDArray[np.integer]) -> FloatArray:
        prompts, tokens = check_given(self, prompts, tokens)
        return self._table[prompts[:, : tokens.shape[1]], tokens]


@dataclass(frozen=True)
class Snowball(TargetTask):
    """The prompt is H uniform tokens, the answer is the same H tokens; the class copies with errors of at least eps.

    What it shows: the standard argument against next-token prediction. `sloppy_copier` knows the task, its next-token
    law is right but for an error of ``eps``, its log-loss is ``-log(1 - eps)`` nats a token; yet its answer is right
    with probability ``(1 - eps)**H``, which snowballs to zero. That is a failure in *execution*: the law is nearly the
    expert's at every prefix, so a verifier that sees each slip (`verify`) repairs it, at ``H / (1 - eps)`` tokens drawn
    (`ntp_envs.evaluation.backtracking_search`). It is the control for `ntp_envs.tasks.PathStar`, where teacher forcing
    fails in *learning* and no verifier of single tokens helps. The argument is discussed by Dziri et al. (2023,
    arXiv:2305.18654) and by Bachmann and Nagarajan (2024, arXiv:2403.06963, section 3); the task and its closed forms
    are derived here.

    `exact_match` is .904 at (eps, H) = (.01, 10), .366 at (.01, 100) and .077 at (.05, 50).

    The policy class holds copiers at error rates from ``eps`` to that of uniform tokens, ``(A - 1) / A``. The expert,
    who makes no errors, is not in it; the copier at ``eps`` is the best in class for log-loss and for squared
    Hellinger distance alike, so nothing is lost in learning.

    Args:
        horizon: H, length of the prompt and of the answer.
        eps: least error rate of a token in the class, in (0, (A - 1) / A).
        vocab_size: A, at least 2.

    >>> task = Snowball(horizon=100, eps=0.01)
    >>> round(task.exact_match(), 3), round(task.log_loss(), 5)
    (0.366, 0.01005)
    """

    horizon: int = 50
    eps: float = 0.05
    vocab_size: int = 10

    has_verifier = True

    def __post_init__(self) -> None:
        check_int("horizon", self.horizon, minimum=1, maximum=LONGEST)
        check_int("vocab_size", self.vocab_size, minimum=2, maximum=4096)
        if check_probability("eps", self.eps) >= 1.0 - 1.0 / self.vocab_size:
            limit = 1.0 - 1.0 / self.vocab_size
            raise ValueError(
                f"eps={self.eps} must be below {limit:.6g}, the error rate of uniform tokens at "
                f"vocab_size={self.vocab_size}; use a smaller eps or a larger vocab_size."
            )

    @property
    def prompt_length(self) -> int:  # type: ignore[override]
        """P = H."""
        return self.horizon

    # -- the law of the demonstrations -------------------------------------------------------------------------------

    def targets(self, prompts: NDArray[np.integer]) -> IntArray:
        return np.asarray(prompts, dtype=np.int64)

    def sample_prompts(self, n: int, rng: np.random.Generator) -> IntArray:
        return rng.integers(self.vocab_size, size=(n, self.horizon))

    def prompt_law(self) -> tuple[IntArray, FloatArray]:
        """All A**H prompts, equally likely.

        Raises:
            NotTractableError: more than 4096.
        """
        if self.horizon * math.log(self.vocab_size) > math.log(MAX_PROMPTS) + 1e-9:
            raise NotTractableError(
                f"there are {self.vocab_size}**{self.horizon} prompts, more than {MAX_PROMPTS}; use sample_prompts."
            )
        prompts = all_sequences(self.vocab_size, self.horizon)
        return prompts, np.full(len(prompts), 1.0 / len(prompts))

    def sloppy_copier(self, eps: float | None = None) -> CopyPolicy:
        """The learner of the argument: a copier with this error rate a token (by default the task's ``eps``)."""
        return CopyPolicy(self.vocab_size, self.horizon, self.eps if eps is None else eps)

    @cached_property
    def policy_class(self) -> FiniteClass:
        uniform = 1.0 - 1.0 / self.vocab_size
        odds = np.geomspace(self.eps / (1.0 - self.eps), uniform / (1.0 - uniform), COARSER + 1)
        rates = [self.eps, *(odds[1:] / (1.0 + odds[1:]))]
        members = FiniteClass([self.sloppy_copier(float(rate)) for rate in rates])
        members.statistic = "number of wrong tokens of a copy"
        return members

    # -- closed forms --------------------------------------------------------------------------------------------------

    def exact_match(self, eps: float | None = None) -> float:
        """``(1 - eps)**H``: probability that a copier at this error rate writes the right answer."""
        return math.exp(self.horizon * math.log1p(-self._rate(eps)))

    def log_loss(self, eps: float | None = None) -> float:
        """``-log(1 - eps)``: cross-entropy of a copier at this error rate, nats a token."""
        return -math.log1p(-self._rate(eps))

    def member_hellinger2(self, eps: float | None = None) -> float:
        """Squared Hellinger distance ``2 (1 - BC) = 2 (1 - (1 - eps)**(H/2))``, in [0, 2], of expert and copier."""
        return -2.0 * math.expm1(0.5 * self.horizon * math.log1p(-self._rate(eps)))

    def backtracking_cost(self, eps: float | None = None) -> float:
        """``H / (1 - eps)``: mean tokens drawn for a right answer where each wrong token is seen and drawn again."""
        return self.horizon / (1.0 - self._rate(eps))

    def restart_cost(self, eps: float | None = None) -> float:
        """``H (1 - eps)**(-H)``: mean tokens drawn for a right answer by drawing whole answers until one is right."""
        exponent = self.horizon * self.log_loss(eps)
        return self.horizon * math.exp(exponent) if exponent < 700.0 else math.inf

    def _rate(self, eps: float | None) -> float:
        rate = self.eps if eps is None else check_probability("eps", eps, open_interval=False)
        if rate == 1.0:
            raise ValueError("eps=1 copies nothing right; the closed forms need eps < 1.")
        return rate

    def best_in_class(self) -> BestInClass:
        return BestInClass(self.policy_class.policy(0), self.member_hellinger2(), "closed form")

    def population(self, chunk: int | None = None) -> Demonstrations:
        """One demonstration: all of them are free of errors, which is all that the class looks at."""
        check_population_size(self, 1)
        zeros = np.zeros((1, self.horizon), dtype=np.int64)
        everywhere = frozenset(range(1, self.horizon + 1))
        return self._weighted(zeros, zeros, np.ones(1), units=everywhere, expert_units=everywhere)

    # -- verification --------------------------------------------------------------------------------------------------

    def verify(self, prompts: NDArray[np.integer], tokens: NDArray[np.integer]) -> NDArray[np.bool_]:
        """``(B,)`` whether the ``(B, t)`` tokens so far are the first t of the prompt."""
        tokens = np.asarray(tokens)
        return (tokens == np.asarray(prompts)[:, : tokens.shape[1]]).all(axis=1)

    def decode(self, tokens: NDArray[np.integer]) -> str:
        """Digits and lower-case letters where the vocabulary is small enough, else numbers."""
        if self.vocab_size > 36:
            return super().decode(tokens)
        return "".join("0123456789abcdefghijklmnopqrstuvwxyz"[int(token)] for token in tokens)

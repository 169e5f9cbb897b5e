"""Documents: texts that end early, a few of them much later than the others."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from ntp_envs.arrays import ROUNDING, FloatArray, IntArray, first_best, kl_terms, log_bernoulli, squared_sqrt_gap
from ntp_envs.automata import TableAutomaton
from ntp_envs.checks import check_int, check_probability
from ntp_envs.demonstrations import Demonstrations
from ntp_envs.policy_classes import FiniteClass
from ntp_envs.tasks.base import LONGEST, BestInClass, Task, check_population_size


@dataclass(frozen=True)
class Documents(Task):
    """Documents of words (token 0) and an end (token 1): most are short, a share ``eps`` of them is long.

    The expert draws which kind it writes, and then ends after each word with that kind's hazard: a mixture of two
    geometric laws, whose hazard falls with the number of words. The class has ``members`` constant hazards from
    ``long`` to ``short``, evenly spaced in their logarithm. There is no prompt; the end is absorbing.

    What it shows: log-loss takes the hazard that gives the mean length, to which the few long documents contribute as
    much as all others once H is of the order of ``short / (eps long)``; squared Hellinger distance takes that of the
    many short ones. So the approximation factor of log-loss grows with the horizon until the long documents end too.

    Args:
        horizon: H, at least 1; a document of H words is cut there.
        eps: share of long documents, in (0, 1).
        short, long: hazards of both kinds, in (0, 1), ``long < short``.
        members: of the class, at least 2.

    >>> task = Documents(horizon=4)
    >>> task.end_token, len(task.length_law()[0]), round(float(np.exp(task.length_law()[0])[0]), 3)
    (1, 5, 0.476)
    """

    horizon: int = 64
    eps: float = 0.05
    short: float = 0.5
    long: float = 0.02
    members: int = 33

    vocab_size = 2
    prompt_length = 0
    end_token = 1

    def __post_init__(self) -> None:
        check_int("horizon", self.horizon, minimum=1, maximum=LONGEST)
        check_int("members", self.members, minimum=2, maximum=4096)
        for name in ("eps", "short", "long"):
            check_probability(name, getattr(self, name))
        if self.long >= self.short:
            raise ValueError(f"long={self.long} must be below short={self.short}: it is the hazard of long documents.")

    @cached_property
    def hazards(self) -> FloatArray:
        """``(members,)`` hazards of the class, ascending."""
        return np.exp(np.linspace(math.log(self.long), math.log(self.short), self.members))

    @cached_property
    def expert(self) -> TableAutomaton:
        """State t < H: t words are written. State H: the document has ended."""
        words = np.arange(self.horizon)
        log_common, log_rare = log_bernoulli(self.eps)
        joint = np.stack([log_common + words * math.log1p(-self.short), log_rare + words * math.log1p(-self.long)])
        posterior = np.exp(joint - np.logaddexp.reduce(joint, axis=0))
        hazard = posterior.T @ np.array([self.short, self.long])
        probs = np.concatenate([np.stack([1.0 - hazard, hazard], axis=1), [[0.0, 1.0]]])
        moves = np.stack([np.minimum(np.arange(1, self.horizon + 2), self.horizon), np.full(len(probs), self.horizon)])
        return TableAutomaton(probs, moves.T)

    @cached_property
    def policy_class(self) -> FiniteClass:
        members = FiniteClass([_constant(float(hazard)) for hazard in self.hazards])
        members.end_token = self.end_token
        return members

    def prompt_law(self) -> tuple[IntArray, FloatArray]:
        return np.empty((1, 0), dtype=np.int64), np.ones(1)

    # -- closed forms --------------------------------------------------------------------------------------------------

    def length_law(self) -> tuple[FloatArray, FloatArray]:
        """Log-probabilities of the H + 1 documents, those of 0 to H - 1 words and an end, and that of H words.

        Returns:
            ``(H + 1,)`` of the expert, ``(members, H + 1)`` of the members.
        """

        def geometric(hazard: FloatArray) -> FloatArray:  # (...) -> (..., H + 1)
            alive: FloatArray = np.arange(self.horizon + 1.0) * np.log1p(-hazard)[..., None]
            alive[..., :-1] += np.log(hazard)[..., None]
            return alive

        log_common, log_rare = log_bernoulli(self.eps)
        short, long = geometric(np.array([self.short, self.long]))
        return np.logaddexp(log_common + short, log_rare + long), geometric(self.hazards)

    def member_hellinger2(self) -> FloatArray:
        """``(members,)`` squared Hellinger distances ``2 (1 - BC)`` of the expert to the members."""
        expert, members = self.length_law()
        return squared_sqrt_gap(np.broadcast_to(expert, members.shape), members).sum(axis=1)

    def member_kl(self) -> FloatArray:
        """``(members,)`` KL divergences in nats, expert first: the members' log-loss above the expert's."""
        expert, members = self.length_law()
        expert = np.broadcast_to(expert, members.shape)
        return kl_terms(expert, members, np.exp(expert), np.exp(members)).sum(axis=1)

    def log_loss_hazard(self) -> float:
        """The hazard of all in (0, 1) that population log-loss takes: ends over tokens written, in expectation."""
        probabilities = np.exp(self.length_law()[0])
        tokens = np.minimum(np.arange(1, self.horizon + 2), self.horizon)
        return float(probabilities[:-1].sum() / (probabilities @ tokens))

    def log_loss_factor(self) -> float:
        """Approximation factor of population log-loss in the class."""
        distances = self.member_hellinger2()
        chosen = int(first_best(-self.member_kl(), slack=ROUNDING))
        return float(distances[chosen] / distances.min())

    def best_in_class(self) -> BestInClass:
        distances = self.member_hellinger2()
        best = int(first_best(-distances, slack=ROUNDING))
        return BestInClass(self.policy_class.policy(best), float(distances[best]), "closed form")

    def population(self, chunk: int | None = None) -> Demonstrations:
        """The H + 1 documents and their probabilities: the complete law."""
        check_population_size(self, self.horizon + 1)
        tokens = np.tri(self.horizon + 1, self.horizon, -1) < 0.5  # row t: t words, then the end
        return self._weighted(
            np.empty((self.horizon + 1, 0), dtype=np.int64), tokens.astype(np.int64), np.exp(self.length_law()[0])
        )


def _constant(hazard: float) -> TableAutomaton:
    """States: writing, ended."""
    return TableAutomaton([[1.0 - hazard, hazard], [0.0, 1.0]], [[0, 1], [1, 1]])

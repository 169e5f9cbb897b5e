"""What the consistency games share: contexts, masses, and policies that err on chosen contexts."""

from __future__ import annotations

import math
from abc import abstractmethod
from functools import cached_property

import numpy as np
from numpy.typing import ArrayLike, NDArray

from ntp_envs.automata import TableAutomaton
from ntp_envs.demonstrations import Demonstrations, Exactness
from ntp_envs.policy_classes import ErrorSetClass
from ntp_envs.tasks.base import BestInClass, FloatArray, IntArray, Task, check_population_size

__all__ = ["ErrorSetTask", "check_total_mass", "usual_eps"]


def usual_eps(per_eps: float) -> float:
    """The default of eps: 0.001, or half the largest where the error sets would not fit into a probability."""
    return 1e-3 if 1e-3 * per_eps <= 1.0 else 0.5 / per_eps


def check_total_mass(name: str, eps: float, per_eps: float, horizon: int, n_sets: int) -> None:
    """``ValueError`` unless the error sets, of total mass ``eps * per_eps``, fit into a probability."""
    if eps * per_eps > 1.0:
        unit = 10.0 ** (math.floor(-math.log10(per_eps)) - 5)  # six digits, rounded down so that the advice works
        largest = math.floor(1.0 / per_eps / unit) * unit
        raise ValueError(
            f"eps={eps} is too large for horizon={horizon}: the {n_sets} disjoint error sets of {name} would have "
            f"total mass {eps * per_eps:.6g} > 1. The largest eps allowed there is {largest:.6g}."
        )


class ErrorSetTask(Task):
    """A game in which the expert always says 0 and every option of every layer errs on one small set of prompts.

    A prompt is a *context* written in ``prompt_length`` binary tokens, most significant first. Error set number i is
    context i, of mass ``set_masses[i]``; the remaining mass is on one last context, where nobody errs.

    Whoever errs at all has left the expert's sequence, so a member's squared Hellinger distance ``2 (1 - BC)`` is
    twice the mass of the *union* of the error sets it uses. Consistency pays: layers that share one error set pay for
    it once.
    """

    vocab_size = 2
    has_success = True

    @property
    @abstractmethod
    def set_masses(self) -> FloatArray:
        """``(N,)`` masses of the disjoint error sets, indexed by set number."""

    @abstractmethod
    def error_sets(self) -> list[IntArray]:
        """For each of the H layers, the set numbers of its options, ``(n_options,)`` integers."""

    @abstractmethod
    def best_options(self) -> IntArray:
        """``(H,)`` option numbers of the best in class."""

    @cached_property
    def expert(self) -> TableAutomaton:
        return TableAutomaton([[1.0, 0.0]], [[0, 0]], prompt_length=self.prompt_length)

    @cached_property
    def policy_class(self) -> ErrorSetClass:
        return ErrorSetClass(self.error_sets(), prompt_length=self.prompt_length)

    def prompt_law(self) -> tuple[IntArray, FloatArray]:
        masses = self.set_masses
        rest = max(0.0, 1.0 - masses.sum())
        context = np.arange(len(masses) + 1)[:, None]
        bits = np.arange(self.prompt_length)[::-1]
        probabilities = np.append(masses, rest)
        return (context >> bits) & 1, probabilities / probabilities.sum()

    # -- closed forms --------------------------------------------------------------------------------------------------

    def sets_used(self, options: ArrayLike) -> IntArray:
        """The distinct error sets of the member with these ``(H,)`` options, sorted."""
        return np.unique(self.policy_class.error_contexts(options))

    def hellinger2(self, options: ArrayLike) -> float:
        """Squared Hellinger distance ``2 (1 - BC)``, in [0, 2], of the expert to the member with these options.

        Twice the mass of the union of the error sets used.
        """
        return float(2.0 * self.set_masses[self.sets_used(options)].sum())

    @cached_property
    def _best_in_class(self) -> BestInClass:
        options = self.best_options()
        return BestInClass(self.policy_class.policy(options), self.hellinger2(options), "closed form")

    def best_in_class(self) -> BestInClass:
        return self._best_in_class

    def population(self, chunk: int | None = None) -> Demonstrations:
        """Every context once, weighted by its mass, followed by H zeros: the complete law."""
        prompts, weights = self.prompt_law()
        check_population_size(self, len(prompts))
        return Demonstrations(
            prompts,
            np.zeros((len(prompts), self.horizon), dtype=np.int64),
            vocab_size=2,
            weights=weights,
            source={"task": self.name, "parameters": self.parameters(), "by": "population"},
            exactness=Exactness(everything=True),
        )

    def success(self, prompts: NDArray[np.integer], tokens: NDArray[np.integer]) -> FloatArray:
        """1 where every token is 0, as the expert's are; 0 otherwise. Shape ``(B,)``."""
        return (np.asarray(tokens) == 0).all(axis=1).astype(np.float64)

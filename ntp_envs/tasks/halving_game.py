"""HalvingGame: which of many equally good options will still be there at the end?"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np

from ntp_envs._validation import check_int, check_probability
from ntp_envs.tasks._error_sets import ErrorSetTask, check_total_mass, usual_eps
from ntp_envs.tasks.base import FOLLOWS, FloatArray, IntArray

__all__ = ["HalvingGame"]

MAX_HORIZON = 14


@dataclass(frozen=True)
class HalvingGame(ErrorSetTask):
    """The halving form of the consistency game: each layer offers a random half of the options of the one before.

    The expert always says 0. There are N disjoint error sets of mass ``eps`` each. Layer 0 offers them all, layer h a
    uniformly random half of what layer h - 1 offered (of size ``N // 2**h``), in increasing order of set number. Using
    set i at a layer means erring, there, on context i.

    What it shows: the options of a layer are indistinguishable from that layer's data, so every learner that decides
    layer by layer without a look at what later layers offer, even one that randomises, remembers its choices and has
    infinite data, uses at least
    ``1 + (H - 1) / 2`` sets in expectation over the draw (`expected_sets_lower_bound`). Always taking the first option
    attains it when N is a multiple of 2**(H - 1): a choice stays the first one until it is dropped. The best in class
    uses one of the sets that survive everywhere. Our reading of the barrier for next-token learners in Rohatgi et al.
    (2025, arXiv:2502.12465).

    Args:
        horizon: H, 2 to 14 (the number of contexts doubles with every layer); by default 8, or what ``n_sets`` and
            ``eps`` allow.
        eps: mass of an error set; ``N eps`` must not exceed 1. By default 0.001, or 1 / 2N where that is too much.
        n_sets: N, at least ``2**(H - 1)`` (the default, ``None``), so that something survives at the last layer.
        seed: of the draw of the halves, a non-negative integer; one seed is one game.

    >>> game = HalvingGame(horizon=8)
    >>> game.policy_class.n_options
    (128, 64, 32, 16, 8, 4, 2, 1)
    >>> game.expected_sets_lower_bound(), len(game.sets_used(game.best_options()))
    (4.5, 1)
    """

    horizon: int = FOLLOWS
    eps: float = FOLLOWS
    n_sets: int | None = None
    seed: int = 0

    def __post_init__(self) -> None:
        if self.n_sets is not None:
            check_int("n_sets", self.n_sets, minimum=2, maximum=2**MAX_HORIZON)
        if self.eps is not None:
            check_probability("eps", self.eps)
        sets = 128 if self.n_sets is None else self.n_sets
        self._follow(horizon=max(2, min(8, sets.bit_length(), int(1.0 / (self.eps or 1e-3)).bit_length())))
        check_int("horizon", self.horizon, minimum=2, maximum=MAX_HORIZON)
        if self.n_sets is not None:
            check_int("n_sets", self.n_sets, minimum=2 ** (self.horizon - 1), maximum=2**MAX_HORIZON)
        self._follow(eps=usual_eps(self.total_sets))
        check_probability("eps", self.eps)
        check_int("seed", self.seed, minimum=0)
        check_total_mass(self.name, self.eps, self.total_sets, self.horizon, self.total_sets)

    @property
    def total_sets(self) -> int:
        """N: ``n_sets``, or ``2**(H - 1)`` where that is ``None``."""
        return 2 ** (self.horizon - 1) if self.n_sets is None else self.n_sets

    @property
    def prompt_length(self) -> int:  # type: ignore[override]
        """P, the binary tokens that N + 1 contexts need."""
        return self.total_sets.bit_length()

    @property
    def set_masses(self) -> FloatArray:
        return np.full(self.total_sets, self.eps)

    @cached_property
    def _error_sets(self) -> list[IntArray]:
        rng = np.random.default_rng(self.seed)
        offers = [np.arange(self.total_sets)]
        for _ in range(1, self.horizon):
            offers.append(np.sort(rng.choice(offers[-1], size=len(offers[-1]) // 2, replace=False)))
        return offers

    def error_sets(self) -> list[IntArray]:
        return self._error_sets

    def best_options(self) -> IntArray:
        survivor = self._error_sets[-1][0]
        return np.array([np.searchsorted(offer, survivor) for offer in self._error_sets])

    def expected_sets_lower_bound(self) -> float:
        """``1 + (H - 1) / 2``: what any layer-by-layer learner uses at least, in expectation over the seed.

        At each new layer a set already in use is dropped with probability at least 1/2; and choosing a new set before
        it is needed costs one set to save at most one later. The squared Hellinger distance is ``2 eps`` a set.
        """
        return 1.0 + (self.horizon - 1) / 2.0

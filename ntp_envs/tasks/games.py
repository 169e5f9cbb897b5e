"""ConsistencyGame and HalvingGame: at every layer a choice of where to err, and the best choices must fit together.

Both are `ErrorSetTask`: contexts with masses, an expert that always says 0, and policies that err on chosen contexts.
"""

from __future__ import annotations

import math
from abc import abstractmethod
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import ArrayLike, NDArray

from ntp_envs.arrays import FloatArray, IntArray
from ntp_envs.automata import TableAutomaton
from ntp_envs.checks import check_int, check_probability
from ntp_envs.demonstrations import Demonstrations
from ntp_envs.policy_classes import ErrorSetClass
from ntp_envs.tasks.base import FOLLOWS, LONGEST, BestInClass, Task, check_population_size


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

    def best_in_class(self) -> BestInClass:
        options = self.best_options()
        return BestInClass(self.policy_class.policy(options), self.hellinger2(options), "closed form")

    def population(self, chunk: int | None = None) -> Demonstrations:
        """Every context once, weighted by its mass, followed by H zeros: the complete law."""
        prompts, weights = self.prompt_law()
        check_population_size(self, len(prompts))
        return self._weighted(prompts, np.zeros((len(prompts), self.horizon), dtype=np.int64), weights)

    def success(self, prompts: NDArray[np.integer], tokens: NDArray[np.integer]) -> FloatArray:
        """1 where every token is 0, as the expert's are; 0 otherwise. Shape ``(B,)``."""
        return (np.asarray(tokens) == 0).all(axis=1).astype(np.float64)


@dataclass(frozen=True)
class ConsistencyGame(ErrorSetTask):
    """At every layer, an error set for each scale 2^j: the finer the scale the smaller the set, but the less shared.

    The expert always says 0. Layer h (0-based) of the class offers options j = 0..J, where H = 2^J; option j errs
    exactly on the error set D[j, floor(h / 2^j)]. The 2 H - 1 sets are disjoint, and D[j, i] has mass
    ``eps (1 - eta (J - j) / J)``. The prompt tells the context: set D[j, i] is context number `set_number` (j, i), and
    the rest of the mass is on context 2 H - 1, where nobody errs.

    What it shows: a learner that decides layer by layer takes j = 0 everywhere, whatever the number of samples and
    however it smooths, because that set is the smallest in sight; it then errs on H disjoint sets. The best in class
    takes the largest set, j = J, at every layer and pays for it once. A learner that looks at chunks of K tokens finds
    the scale K (`chunk_factor`). Our reading of the barrier for next-token learners in Rohatgi et al. (2025,
    arXiv:2502.12465); the multi-scale construction is a reconstruction, not the paper's.

    Args:
        horizon: H, a power of two, at least 2. By default 64, or the nearest that ``eps`` and ``eta`` allow.
        eps: mass of the one error set shared by all layers; the total mass of all sets must not exceed 1. By default
            0.001, or what makes the total 1/2 where that is too much.
        eta: advantage of the finest scale, in (0, J / (J + 1)); above that, two sets of scale 0 would weigh less than
            one of scale 1 and `chunk_factor` (2) would not be what is said. (The best in class stays consistent up to
            1 - 1/H.)

    >>> game = ConsistencyGame(horizon=256, eta=0.1)
    >>> round(game.chunk_factor(1), 6), round(game.chunk_factor(16), 6), game.best_in_class().hellinger2
    (230.4, 15.2, 0.002)
    """

    horizon: int = FOLLOWS
    eps: float = FOLLOWS
    eta: float = 0.1

    def __post_init__(self) -> None:
        check_probability("eta", self.eta)
        if self.eps is not None:
            check_probability("eps", self.eps)
        self._follow(horizon=next(filter(self._allowed, (64, 32, 16, 8, 4, 2, 128, 256, 512, 1024)), 64))
        check_int("horizon", self.horizon, minimum=2, maximum=LONGEST)
        if self.horizon & (self.horizon - 1):
            below = 1 << self.scales
            raise ValueError(f"horizon={self.horizon} must be a power of two; use {below} or {2 * below}.")
        if self.eta * (self.scales + 1) >= self.scales:
            limit = self.scales / (self.scales + 1)
            raise ValueError(
                f"eta={self.eta} must lie in (0, {limit:.6g}) at horizon={self.horizon}: above J / (J + 1) two error "
                "sets of scale 0 weigh less than one of scale 1, and chunks of two tokens would not find theirs."
            )
        per_eps = float(self._shares(self.horizon).sum())
        self._follow(eps=usual_eps(per_eps))
        check_total_mass(self.name, self.eps, per_eps, self.horizon, 2 * self.horizon - 1)

    @property
    def scales(self) -> int:
        """J = log2 H; the options of a layer are j = 0..J."""
        return int(self.horizon).bit_length() - 1

    @property
    def prompt_length(self) -> int:  # type: ignore[override]
        """P = J + 1 binary tokens: the 2 H contexts."""
        return self.scales + 1

    def set_number(self, scale: int, index: int) -> int:
        """The number (and context) of D[scale, index]: all sets of scale 0 first, then scale 1, and so on.

        Raises:
            ValueError: ``scale`` outside [0, J] or ``index`` outside [0, H / 2^scale).
        """
        scale = check_int("scale", scale, minimum=0, maximum=self.scales)
        index = check_int("index", index, minimum=0, maximum=(self.horizon >> scale) - 1)
        return 2 * self.horizon - (2 * self.horizon >> scale) + index

    def _shares(self, horizon: int) -> FloatArray:
        """Masses of the error sets at this horizon in multiples of eps."""
        scales = horizon.bit_length() - 1
        scale = np.arange(scales + 1)
        return np.repeat(1.0 - self.eta * (scales - scale) / scales, horizon >> scale)

    def _allowed(self, horizon: int) -> bool:
        """Whether ``eta`` and ``eps``, if given, are in their ranges at this horizon."""
        scales = horizon.bit_length() - 1
        consistent = self.eta * (scales + 1) < scales
        return consistent and (self.eps is None or self.eps * float(self._shares(horizon).sum()) <= 1.0)

    @property
    def set_masses(self) -> FloatArray:
        return self.eps * self._shares(self.horizon)

    def error_sets(self) -> list[IntArray]:
        scale = np.arange(self.scales + 1)
        first = 2 * self.horizon - (2 * self.horizon >> scale)  # set_number(scale, 0)
        return [first + (h >> scale) for h in range(self.horizon)]

    def best_options(self) -> IntArray:
        return np.full(self.horizon, self.scales)

    def chunk_factor(self, chunk: int) -> float:
        """Approximation factor of the best choice on each chunk of ``chunk`` = K = 2^k tokens by itself, exactly.

        Over aligned chunks of K tokens the lightest union of error sets is the single set of scale k, and every chunk
        has its own: ``(H / K) (1 - eta (J - k) / J)``. K = 1 is next-token learning, K = H gives 1.

        Raises:
            ValueError: ``chunk`` is not a power of two in [1, H].
        """
        chunk = check_int("chunk", chunk, minimum=1, maximum=self.horizon)
        if chunk & (chunk - 1):
            raise ValueError(f"chunk={chunk} must be a power of two: the scales of the game are.")
        scale = chunk.bit_length() - 1
        return self.horizon / chunk * (1.0 - self.eta * (self.scales - scale) / self.scales)


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
        check_int("seed", self.seed, minimum=0, maximum=math.inf)
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

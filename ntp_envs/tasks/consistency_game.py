"""ConsistencyGame: options that look best one layer at a time are the ones that do not fit together."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from ntp_envs._validation import check_int, check_probability
from ntp_envs.tasks._error_sets import ErrorSetTask, check_total_mass, usual_eps
from ntp_envs.tasks.base import FOLLOWS, FloatArray, IntArray

__all__ = ["ConsistencyGame"]


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
        check_int("horizon", self.horizon, minimum=2)
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

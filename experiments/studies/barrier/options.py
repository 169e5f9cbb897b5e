"""What can be changed about the study."""

from __future__ import annotations

from dataclasses import dataclass

from experiments.options import check_distinct
from ntp_envs._validation import check_int, check_probability

__all__ = ["BarrierOptions"]


@dataclass(frozen=True)
class BarrierOptions:
    """Sizes of the sweep; the defaults are the full study."""

    horizons: tuple[int, ...] = (4, 8, 16, 32, 64, 128, 256)
    """Horizons H of the multi-scale game, powers of two from 4."""
    eta: float = 0.5
    """Advantage of the finest scale in the multi-scale game: next-token learners end at C_apx = H (1 - eta)."""
    n: tuple[int, ...] = (100, 1000, 10_000, 100_000)
    """Numbers of demonstrations."""
    data_horizon: int = 64
    """Horizon, one of ``horizons``, at which the number of demonstrations is varied in the figure."""
    chunks: tuple[int, ...] = (4, 16)
    """Chunk lengths K (powers of two) of the learners that look further than a token."""
    seeds: int = 20
    """Data sets in the multi-scale game."""
    halving_horizons: tuple[int, ...] = (2, 4, 6, 8, 10)
    """Horizons of the halving game, 2 to 12."""
    halving_seeds: int = 200
    """Games drawn in the halving form."""
    halving_n: int = 10_000
    """Demonstrations in the halving game, beside the population."""
    rare_seeds: int = 100
    """Data sets in RareMode."""

    def __post_init__(self) -> None:
        check_distinct("horizons", self.horizons, minimum=4)
        check_distinct("chunks", self.chunks, minimum=2)
        check_distinct("halving_horizons", self.halving_horizons, minimum=2, maximum=12)
        check_distinct("n", self.n)
        for name in ("horizons", "chunks"):
            for value in getattr(self, name):
                if value & (value - 1):
                    raise ValueError(f"{name}={value} must be a power of two: the scales of the game are.")
        for name in ("seeds", "halving_seeds", "halving_n", "rare_seeds"):
            check_int(name, getattr(self, name), minimum=1)
        if self.data_horizon not in self.horizons:
            raise ValueError(f"data_horizon={self.data_horizon} must be one of horizons={self.horizons}.")
        check_probability("eta", self.eta)

    @classmethod
    def quick(cls) -> BarrierOptions:
        """About a minute on two cores."""
        return cls(horizons=(4, 16, 64, 256), seeds=6, halving_horizons=(2, 4, 6, 8), halving_seeds=60, rare_seeds=20)

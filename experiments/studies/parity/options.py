"""What can be changed about the study."""

from __future__ import annotations

from dataclasses import dataclass

from experiments.options import check_distinct
from ntp_envs._validation import check_int, check_real

__all__ = ["ParityOptions"]


@dataclass(frozen=True)
class ParityOptions:
    """Sizes of the sweep; the defaults are the full study."""

    episodes: tuple[int, ...] = (1, 2, 4, 8, 16, 32, 64)
    """Episodes R of five tokens in NoisyParity: H = 5 R."""
    bounds: tuple[float, ...] = (1.0, 2.0, 4.0, 8.0)
    """Norm bounds B of ChunkKR."""
    n: int = 1000
    """Demonstrations of NoisyParity."""
    seeds: int = 20
    """Data sets, of NoisyParity and of the contaminated linear class."""
    population_horizons: tuple[int, ...] = (4, 6, 8, 10, 12)
    """Horizons of the contaminated linear class with its exact population, up to 15."""
    horizons: tuple[int, ...] = (4, 16, 64, 256)
    """Horizons of the contaminated linear class with samples."""
    linear_n: int = 4000
    """Demonstrations of the contaminated linear class."""
    chunks: tuple[int, ...] = (2, 4, 8)
    """Chunk lengths K on the contaminated linear class, each used where K < H."""

    def __post_init__(self) -> None:
        for name, most in (("episodes", None), ("population_horizons", 15), ("horizons", None), ("chunks", 10)):
            check_distinct(name, getattr(self, name), minimum=2 if name == "chunks" else 1, maximum=most)
        if not self.bounds or len(set(self.bounds)) < len(self.bounds):
            raise ValueError(f"bounds={self.bounds} must hold distinct numbers, at least one.")
        for bound in self.bounds:
            if check_real("bounds", bound) < 1.0:
                raise ValueError(f"bounds={bound} must be at least 1: below, some programs have no feasible point.")
        for name in ("n", "seeds", "linear_n"):
            check_int(name, getattr(self, name), minimum=1)

    @classmethod
    def quick(cls) -> ParityOptions:
        """About a minute on two cores."""
        return cls(
            episodes=(1, 4, 16, 64),
            seeds=5,
            population_horizons=(4, 8, 12),
            linear_n=2000,
            chunks=(2, 8),
        )

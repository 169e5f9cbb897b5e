"""What can be changed about the study."""

from __future__ import annotations

from dataclasses import dataclass

from experiments.options import check_distinct
from ntp_envs._validation import check_int, check_real

__all__ = ["TradeoffOptions"]


@dataclass(frozen=True)
class TradeoffOptions:
    """Sizes of the sweep; the defaults are the full study."""

    horizon: int = 64
    """Horizon H on Contamination."""
    n: int = 10_000
    """Demonstrations on Contamination."""
    seeds: int = 20
    """Data sets on Contamination and on NoisyParity."""
    chunks: tuple[int, ...] = (2, 3, 4, 5, 6, 7, 8)
    """Chunk lengths K of ChunkKR, over which its slope is fitted."""
    long_chunks: tuple[int, ...] = (10, 12)
    """Longer ones, up to the practical limit, on fewer data sets; 12 takes minutes."""
    long_seeds: int = 3
    """Data sets for the longer chunks."""
    rho_chunks: tuple[int, ...] = (4, 8, 16, 32)
    """Chunk lengths K of the chunked rho-estimator."""
    norm_bound: float = 1.0
    """Norm bound B of ChunkKR on Contamination, and where its cost on NoisyParity is shown."""
    episodes: int = 4
    """Episodes of five tokens in NoisyParity."""
    parity_n: int = 4000
    """Demonstrations in NoisyParity."""
    parity_chunks: tuple[int, ...] = (1, 2, 5, 10)
    """Chunk lengths K of ChunkKR on NoisyParity; above 8 with one norm bound only."""
    norm_bounds: tuple[float, ...] = (0.5, 1.0, 2.0, 4.0, 8.0)
    """Norm bounds B of ChunkKR on NoisyParity, beside that one."""

    def __post_init__(self) -> None:
        check_int("horizon", self.horizon, minimum=2)
        for name in ("chunks", "long_chunks", "rho_chunks"):
            if getattr(self, name) or name != "long_chunks":
                check_distinct(name, getattr(self, name), minimum=2, maximum=self.horizon)
        if twice := set(self.chunks) & set(self.long_chunks):
            raise ValueError(f"long_chunks={self.long_chunks} repeats {sorted(twice)} of chunks={self.chunks}.")
        for name in ("n", "seeds", "episodes", "parity_n"):
            check_int(name, getattr(self, name), minimum=1)
        check_int("long_seeds", self.long_seeds, minimum=0)
        check_distinct("parity_chunks", self.parity_chunks, maximum=5 * self.episodes)
        for bound in (self.norm_bound, *self.norm_bounds):
            if check_real("norm_bound", bound, minimum=0.0) < 0.5:
                raise ValueError(f"norm bound {bound} is below 0.5: no function that small sums to one everywhere.")

    @property
    def bounds(self) -> tuple[float, ...]:
        """All norm bounds on NoisyParity."""
        return tuple(sorted({self.norm_bound, *self.norm_bounds}))

    @classmethod
    def quick(cls) -> TradeoffOptions:
        """About a minute on two cores."""
        return cls(seeds=6, long_chunks=(10,))

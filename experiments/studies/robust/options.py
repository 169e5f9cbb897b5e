"""What can be changed about the study."""

from __future__ import annotations

from dataclasses import dataclass

from experiments.options import check_distinct
from ntp_envs._validation import check_int

__all__ = ["RobustOptions"]


@dataclass(frozen=True)
class RobustOptions:
    """Sizes of the sweep; the defaults are the full study."""

    horizon: int = 64
    """Horizon H on Contamination and ARLinear."""
    n: int = 10_000
    """Demonstrations on Contamination."""
    linear_n: int = 2000
    """Demonstrations on ARLinear."""
    parity_n: int = 4000
    """Demonstrations on NoisyParity, of four episodes."""
    seeds: int = 20
    """Data sets on each task."""
    lams: tuple[float, ...] = (0.0, 1e-3, 3e-3, 0.01, 0.03, 0.1, 0.3)
    """Smoothing lambda: swept, and chosen from by cross-validation."""
    chunks: tuple[int, ...] = (1, 2, 4, 5)
    """Chunk lengths K of ChunkKR that cross-validation chooses from; on NoisyParity longer ones take minutes."""
    norm_bounds: tuple[float, ...] = (1.0, 4.0)
    """Norm bounds B that it chooses from."""
    chunk: int = 5
    """Chunk length of the learners that are given one."""
    folds: int = 3
    """Folds of the cross-validation."""

    def __post_init__(self) -> None:
        check_int("horizon", self.horizon, minimum=8)
        for name in ("n", "linear_n", "parity_n"):
            check_int(name, getattr(self, name), minimum=8)
        check_int("seeds", self.seeds, minimum=1)
        check_int("folds", self.folds, minimum=2)
        check_int("chunk", self.chunk, minimum=2, maximum=8)
        check_distinct("chunks", self.chunks, maximum=8)
        if not self.lams or len(set(self.lams)) < len(self.lams) or not all(0.0 <= lam < 1.0 for lam in self.lams):
            raise ValueError(f"lams={self.lams} must hold distinct numbers in [0, 1), at least one.")
        if not self.norm_bounds or min(self.norm_bounds) < 0.5:
            raise ValueError(f"norm_bounds={self.norm_bounds} must hold numbers from 0.5 on, at least one.")

    @classmethod
    def quick(cls) -> RobustOptions:
        """About a minute on two cores."""
        return cls(seeds=5, chunks=(1, 2, 5))

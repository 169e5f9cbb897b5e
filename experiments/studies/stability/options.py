"""What can be changed about the study."""

from __future__ import annotations

from dataclasses import dataclass

from experiments.options import check_distinct
from ntp_envs._validation import check_int

__all__ = ["StabilityOptions"]


@dataclass(frozen=True)
class StabilityOptions:
    """Sizes of the sweep; the defaults are the full study."""

    horizon: int = 64
    """Horizon H of both tasks."""
    n: int = 10_000
    """Demonstrations on Contamination, where all prefixes look alike to the class."""
    chunks: tuple[int, ...] = (1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 16)
    """Chunk lengths K on Contamination; from 12 on a fit takes minutes."""
    linear_n: int = 2000
    """Demonstrations on ARLinear, where prefixes differ in the last two tokens."""
    linear_chunks: tuple[int, ...] = (1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 14)
    """Chunk lengths K on ARLinear; from 9 on a fit takes minutes."""
    rank_chunk: int = 8
    """Chunk length of the low-rank fits on Contamination; on ARLinear two less."""
    rank_shares: tuple[float, ...] = (0.125, 0.25, 0.5, 0.75, 0.9, 1.0)
    """Ranks of these fits, as shares of the number of points."""

    def __post_init__(self) -> None:
        for name in ("n", "linear_n"):
            check_int(name, getattr(self, name), minimum=8)
        check_int("horizon", self.horizon, minimum=3)
        for name in ("chunks", "linear_chunks"):
            check_distinct(name, getattr(self, name), maximum=self.horizon)
        check_int("rank_chunk", self.rank_chunk, minimum=3, maximum=min(self.horizon, 10))
        for share in self.rank_shares:
            if not 0.0 < share <= 1.0:
                raise ValueError(f"rank_shares={self.rank_shares} must lie in (0, 1].")

    @classmethod
    def quick(cls) -> StabilityOptions:
        """About a minute on two cores."""
        return cls(chunks=(1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 16), linear_chunks=(1, 2, 3, 4, 5, 6, 7, 8, 14))

"""What can be changed about the study."""

from __future__ import annotations

from dataclasses import dataclass

from experiments.options import check_distinct
from ntp_envs._validation import check_int, check_probability

__all__ = ["SnowballOptions"]


@dataclass(frozen=True)
class SnowballOptions:
    """Sizes of the sweep; the defaults are the full study."""

    horizons: tuple[int, ...] = (4, 8, 16, 32, 64)
    """Lengths H of the answer, in both tasks; at least 3."""
    detail_horizon: int = 32
    """The length, one of ``horizons``, at which positions and budgets are shown."""
    eps: float = 0.05
    """Error rate of the copier on Snowball."""
    vocab_size: int = 10
    """Tokens of Snowball."""
    degree: int = 5
    """Arms d of PathStar."""
    degrees: tuple[int, ...] = (2, 4, 8, 16)
    """Arms of PathStar where the cost of search is measured against their number."""
    short: int = 5
    """Length of PathStar there, and where the learner is trained."""
    n: int = 2000
    """Prompts a measurement."""
    samples: int = 600
    """Whole answers that are drawn at most for a prompt."""
    patience: int = 4
    """Budget of backtracking by one token, in tokens drawn a token of the answer."""

    def __post_init__(self) -> None:
        check_distinct("horizons", self.horizons, minimum=3)
        check_distinct("degrees", self.degrees, minimum=2)
        check_int("degree", self.degree, minimum=2)
        check_int("short", self.short, minimum=3)
        check_int("vocab_size", self.vocab_size, minimum=2)
        for name in ("n", "samples"):
            check_int(name, getattr(self, name), minimum=1)
        check_int("patience", self.patience, minimum=2)
        if self.detail_horizon not in self.horizons:
            raise ValueError(f"detail_horizon={self.detail_horizon} must be one of horizons={self.horizons}.")
        if check_probability("eps", self.eps) >= 1.0 - 1.0 / self.vocab_size:
            raise ValueError(f"eps={self.eps} must be below {1.0 - 1.0 / self.vocab_size:g}, that of uniform tokens.")

    @classmethod
    def quick(cls) -> SnowballOptions:
        """About a minute on two cores."""
        return cls(n=1000)

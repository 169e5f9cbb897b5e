"""What can be changed about the study."""

from __future__ import annotations

from dataclasses import dataclass

from experiments.options import check_distinct
from ntp_envs._validation import check_int

__all__ = ["ScalingOptions"]


@dataclass(frozen=True)
class ScalingOptions:
    """Sizes of the sweep; the defaults are the full study, some hours of processor time, which can be interrupted."""

    corpus: str = "default"
    """The text, character by character: the default, a file, or a Hugging Face data set; see `ntp_envs.tasks.Text`."""
    max_chars: int = 500_000
    """Characters of it to read at most; the last tenth is held out."""
    horizon: int = 32
    """Length H of the training windows and of the text written; the prompt before it has 8 characters."""
    n: int = 16384
    """Training windows: the data of every learner."""
    budgets: tuple[int, ...] = (4, 16, 64, 256, 1024, 4096)
    """Compute of a training, in 10^9 floating-point operations."""
    widths: tuple[int, ...] = (32, 64, 128)
    """Widths of the linear network and the MLP. One that makes less than 10 steps with a budget is left out."""
    transformer_widths: tuple[int, ...] = (32, 64, 128)
    """Widths of the transformer, multiples of 4."""
    window: int = 8
    """Characters that the linear network and the MLP see; the transformer sees all."""
    windows: tuple[int, ...] = (1, 2, 4, 8, 16, 32)
    """Windows of the comparison of windows."""
    window_budget: int = 256
    """Its budget, one of ``budgets``."""
    window_width: int = 64
    """Its width, one of ``widths``."""
    batch_size: int = 16
    """Windows a step; less than ``n``."""
    orders: tuple[int, ...] = (1, 2, 3, 4, 5)
    """Orders of the n-gram models to compare with."""
    samples: int = 4000
    """Sequences that estimate a distance."""
    seeds: int = 3
    """Replicates: other training windows, other weights."""
    device: str = "cpu"
    """Where networks train, such as ``cuda``; only the CPU gives the same numbers again."""

    def __post_init__(self) -> None:
        for name in ("max_chars", "n", "batch_size", "seeds"):
            check_int(name, getattr(self, name), minimum=1)
        check_int("horizon", self.horizon, minimum=2)
        check_int("samples", self.samples, minimum=4)
        for name in ("budgets", "widths", "transformer_widths"):
            check_distinct(name, getattr(self, name), minimum=1)
        for width in self.transformer_widths:
            if width % 4:
                raise ValueError(f"transformer_widths={width} must be a multiple of 4, the number of its heads.")
        if self.batch_size >= self.n:
            raise ValueError(f"batch_size={self.batch_size} must be below n={self.n}, the number of windows.")
        check_distinct("orders", self.orders, minimum=1)
        check_int("window", self.window, minimum=1, maximum=self.horizon)
        check_distinct("windows", self.windows, minimum=1, maximum=self.horizon)
        for name, of in (("window_budget", "budgets"), ("window_width", "widths")):
            if getattr(self, name) not in getattr(self, of):
                raise ValueError(f"{name}={getattr(self, name)} must be one of {of}={getattr(self, of)}.")

    @classmethod
    def quick(cls) -> ScalingOptions:
        """About a minute on two cores."""
        return cls(
            n=4096,
            budgets=(2, 15, 100),
            widths=(64, 128),
            transformer_widths=(32, 64),
            windows=(1, 2, 4, 8, 16),
            window_budget=15,
            samples=2000,
            seeds=1,
        )

"""What can be changed about the study."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from experiments.options import check_distinct
from ntp_envs._validation import check_in, check_int, check_real

__all__ = ["MultiplicationOptions"]


@dataclass(frozen=True)
class MultiplicationOptions:
    """Sizes of the sweep; the defaults are the full study, hours of training."""

    neural: Literal["auto", "yes", "no"] = "auto"
    """Train networks, which needs torch (the extra ``neural``); ``auto`` does where it is installed."""
    explicit_digits: tuple[int, ...] = (2, 3, 4)
    """Digits of the factors for the weights that are written down."""
    addends: tuple[int, ...] = (3, 4, 5, 6, 7)
    """Digits in a column of `ColumnAddition`. With two there are 200 columns, and all of them are in the data."""
    columns: int = 5000
    """Columns to learn from."""
    fresh_columns: int = 5000
    """Columns to be judged on."""
    column_seeds: int = 10
    """Data sets of columns."""
    radius: float = 3000.0
    """Bound on the norm of the weights that are fitted to columns."""
    digits: tuple[int, ...] = (2, 3)
    """Digits of the factors for the networks; the first, one of ``explicit_digits``, is shown."""
    steps: int = 8000
    """Updates of a network."""
    every: int = 200
    """Updates between two checkpoints, an even number; evaluations are half way between them, and at the end."""
    pairs: int = 1000
    """Pairs of factors in an evaluation, the same ones throughout a training."""
    batch_size: int = 64
    """New pairs an update."""
    linear_rate: float = 0.04
    """Learning rate of the linear predictor at the start; it falls to zero along a cosine."""
    mlp_rate: float = 0.006
    """Learning rate of the MLP at the start."""
    width: int = 48
    """Of the MLP."""
    layers: int = 2
    """Hidden layers of the MLP."""
    seeds: int = 3
    """Trainings of each kind."""
    device: str = "cpu"
    """Where networks are trained, as torch names it; elsewhere the numbers differ in the last digits."""

    def __post_init__(self) -> None:
        check_in("neural", self.neural, ("auto", "yes", "no"))
        check_distinct("explicit_digits", self.explicit_digits, maximum=6)
        check_distinct("digits", self.digits, maximum=6)
        check_distinct("addends", self.addends, minimum=2)
        for name in ("columns", "fresh_columns", "pairs", "every"):
            check_int(name, getattr(self, name), minimum=2)
        for name in ("column_seeds", "steps", "batch_size", "width", "layers", "seeds"):
            check_int(name, getattr(self, name), minimum=1)
        for name in ("linear_rate", "mlp_rate", "radius"):
            if check_real(name, getattr(self, name), minimum=0.0) == 0.0:
                raise ValueError(f"{name}=0 learns nothing; use a positive number.")
        if self.every % 2:
            raise ValueError(f"every={self.every} must be even: evaluations are half way between two checkpoints.")
        if self.digits[0] not in self.explicit_digits:
            raise ValueError(f"digits={self.digits} begins with none of explicit_digits={self.explicit_digits}.")

    @classmethod
    def quick(cls) -> MultiplicationOptions:
        """About a minute on two cores: two digits, one training of each kind, cut short."""
        return cls(addends=(3, 5, 7), column_seeds=4, digits=(2,), steps=400, every=100, pairs=500, seeds=1)

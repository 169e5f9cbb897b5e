"""What can be changed about the study."""

from __future__ import annotations

from dataclasses import dataclass

from experiments.options import check_distinct
from ntp_envs._validation import check_int, check_probability

__all__ = ["RLOptions"]


@dataclass(frozen=True)
class RLOptions:
    """Sizes of the sweep; the defaults are the full study."""

    rl: bool = True
    """Train PPO, which needs stable-baselines3 (the extra ``rl``); without it the other learners and the cost run."""
    horizon: int = 8
    """Horizon H of the comparison of rewards; every sequence is listed, so at most 12."""
    n: int = 2000
    """Demonstrations of the imitation learners."""
    steps: int = 300_000
    """Environment steps (tokens) that PPO trains for."""
    n_envs: int = 128
    """Sequences that PPO writes side by side."""
    seeds: int = 5
    """Replicates of every learner, in both parts."""
    horizons: tuple[int, ...] = (16, 32, 64, 128, 256)
    """Horizons of the cost on Tightrope."""
    eps: float = 1e-3
    """Slip probability there."""
    rollouts: int = 200
    """Sequences that DAgger writes in each of its rounds."""
    rounds: int = 10
    """Rounds of DAgger."""

    def __post_init__(self) -> None:
        check_int("horizon", self.horizon, minimum=4, maximum=12)
        for name in ("n", "steps", "n_envs", "seeds", "rollouts", "rounds"):
            check_int(name, getattr(self, name), minimum=1)
        check_distinct("horizons", self.horizons, minimum=2)
        if check_probability("eps", self.eps) >= 0.5:
            raise ValueError(f"eps={self.eps} must be below 1/2.")

    @classmethod
    def quick(cls) -> RLOptions:
        """One to two minutes on two cores."""
        return cls(steps=160_000, seeds=2)

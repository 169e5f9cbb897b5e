"""What can be changed about the study."""

from __future__ import annotations

from dataclasses import dataclass

from ntp_envs._validation import check_int

__all__ = ["AmplificationOptions"]


@dataclass(frozen=True)
class AmplificationOptions:
    """Sizes of the sweep; the defaults are the full study."""

    horizons: tuple[int, ...] = (16, 32, 64, 128, 256)
    """Horizons H on Contamination."""
    chunks: tuple[int, ...] = (4, 8, 16, 32, 64)
    """Chunk lengths K of the chunked rho-estimator, each used where K <= H."""
    n: int = 10_000
    """Demonstrations in the parts with samples."""
    seeds: int = 20
    """Data sets in the parts with samples."""
    chunk_horizon: int = 256
    """Horizon at which K is varied on the population, and of the curves over the prefix (a power of two)."""
    sampled_chunk_horizon: int = 64
    """Horizon at which K is varied with samples (a power of two)."""
    control_n: tuple[int, ...] = (100, 300, 1000, 3000, 10_000)
    """Numbers of demonstrations in the well-specified control."""
    control_horizons: tuple[int, ...] = (4, 16, 64, 256)
    """Horizons in the well-specified control."""
    control_seeds: int = 100
    """Data sets in the well-specified control."""
    add: tuple[str, ...] = ()
    """Agents of your own to run beside ours on Contamination: names or package.module:Class."""

    def __post_init__(self) -> None:
        for name in ("horizons", "chunks", "control_n", "control_horizons"):
            values = getattr(self, name)
            if not values or len(set(values)) < len(values):
                raise ValueError(f"{name}={values} must hold distinct integers, at least one.")
            for value in values:
                check_int(name, value, minimum=1)
        for name in ("n", "seeds", "control_seeds"):
            check_int(name, getattr(self, name), minimum=1)
        for name in ("chunk_horizon", "sampled_chunk_horizon"):
            value = check_int(name, getattr(self, name), minimum=4)
            if value & (value - 1):
                raise ValueError(f"{name}={value} must be a power of two: K runs over the powers of two up to it.")

    @classmethod
    def quick(cls) -> AmplificationOptions:
        """About a minute on two cores."""
        return cls(
            chunks=(4, 16, 64),
            seeds=5,
            control_n=(100, 1000, 10_000),
            control_horizons=(4, 16, 64),
            control_seeds=50,
        )

"""What can be changed about the study."""

from __future__ import annotations

from dataclasses import dataclass

from experiments.options import check_distinct
from ntp_envs._validation import check_int, check_probability

__all__ = ["LengthOptions"]


@dataclass(frozen=True)
class LengthOptions:
    """Sizes of the sweep; the defaults are the full study."""

    bits: int = 20
    """Bits n of the prompt where formats are compared."""
    subset_size: int = 6
    """Hidden bits k whose parity is asked for, there."""
    n: tuple[int, ...] = (12, 25, 50, 100, 200, 400, 800, 1600, 3200)
    """Numbers of demonstrations there."""
    seeds: int = 20
    """Data sets (and hidden subsets) of every format, in both parts on ParityCoT."""
    fresh: int = 4000
    """Fresh prompts that accuracies are measured on."""
    trade_bits: int = 12
    """Bits n where a step may be a product of several signs, at most 12: all prompts are listed to judge by."""
    trade_subset_size: int = 4
    """Hidden bits k there, at least 3."""
    target: float = 0.95
    """The accuracy of the answer that counts as learned, there."""
    most: int = 4096
    """Samples after which the search for that accuracy is given up."""
    mix_bits: int = 5
    """Bits d of ParityMix, at least 4."""
    shares: tuple[float, ...] = (0.05, 0.1, 0.15, 0.2, 0.25, 0.3, 0.32, 0.35, 0.4, 0.5, 0.6)
    """Shares p of chains whose accuracy is measured."""
    starts: tuple[float, ...] = (0.01, 0.05, 0.1)
    """Shares p from which filtered rounds start."""
    rounds: int = 8
    """Filtered rounds."""
    mix_n: int = 100_000
    """Demonstrations of ParityMix, and samples a round."""
    mix_seeds: int = 10
    """Data sets of ParityMix, in both of its parts."""

    def __post_init__(self) -> None:
        for name in ("seeds", "fresh", "rounds", "mix_seeds"):
            check_int(name, getattr(self, name), minimum=1)
        check_int("bits", self.bits, minimum=3)
        check_int("subset_size", self.subset_size, minimum=3, maximum=self.bits)
        check_int("trade_bits", self.trade_bits, minimum=3, maximum=12)
        check_int("trade_subset_size", self.trade_subset_size, minimum=3, maximum=self.trade_bits)
        check_int("most", self.most, minimum=2)
        check_int("mix_bits", self.mix_bits, minimum=4)
        check_int("mix_n", self.mix_n, minimum=100)
        check_distinct("n", self.n)
        for name in ("shares", "starts"):
            values = getattr(self, name)
            if not values or len(set(values)) < len(values):
                raise ValueError(f"{name}={values} must hold distinct probabilities, at least one.")
            for value in values:
                check_probability(name, value)
        check_probability("target", self.target)

    @classmethod
    def quick(cls) -> LengthOptions:
        """About a minute on two cores."""
        return cls(seeds=5, shares=(0.1, 0.2, 0.3, 0.35, 0.4, 0.6), mix_seeds=3, mix_n=30_000)

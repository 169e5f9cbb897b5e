"""What can be changed about the study."""

from __future__ import annotations

from dataclasses import dataclass

from experiments.options import check_distinct
from ntp_envs._validation import check_int

__all__ = ["TuringOptions"]


@dataclass(frozen=True)
class TuringOptions:
    """Sizes of the sweep; the defaults are the full study."""

    n: int = 300
    """Demonstrations of short runs that the learners with the chain get."""
    n_direct: int = 1000
    """Demonstrations that the learners without the chain get, of the very length they are tested at."""
    steps: tuple[int, ...] = (1, 2, 4, 8, 16, 32)
    """Run lengths on the busy beaver; with the chain, all demonstrations have 2 steps."""
    width: int = 16
    """Cells of the busy beaver's tape."""
    bits: tuple[int, ...] = (4, 8, 16, 32, 64)
    """Word lengths of the parity and the increment machine; with the chain, all demonstrations have 4 bits."""
    direct_bits: int = 16
    """The longest words without the chain: the whole prompt is in the features, so that longer ones take memory."""
    prompt_bits: int = 20
    """Length of the prompt of `ParityCoT`."""
    subset_sizes: tuple[int, ...] = (1, 2, 4, 8, 16)
    """Hidden bits that its parity is over."""
    sizes: tuple[int, ...] = (10, 20, 50, 100, 200, 500)
    """Random configurations from which one step is learned."""
    test: int = 200
    """Runs that a policy is tested on at each length."""
    seeds: int = 10
    """Replicates: data sets and test sets."""

    def __post_init__(self) -> None:
        for name in ("n", "n_direct", "test", "seeds"):
            check_int(name, getattr(self, name), minimum=1)
        check_int("width", self.width, minimum=4)
        check_int("direct_bits", self.direct_bits, minimum=1)
        check_int("prompt_bits", self.prompt_bits, minimum=1)
        for name in ("steps", "bits", "sizes"):
            check_distinct(name, getattr(self, name))
        check_distinct("subset_sizes", self.subset_sizes, maximum=self.prompt_bits)

    @classmethod
    def quick(cls) -> TuringOptions:
        """About a minute on two cores."""
        return cls(
            n_direct=300,
            steps=(1, 2, 4, 8, 16),
            width=12,
            bits=(4, 8, 16, 32),
            sizes=(10, 20, 50, 100, 200),
            test=100,
            seeds=3,
        )

"""What can be changed about the study."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from experiments.options import check_distinct
from ntp_envs._validation import check_in, check_int, check_real

__all__ = ["PathStarOptions"]


@dataclass(frozen=True)
class PathStarOptions:
    """Sizes of the sweep; the defaults are the full study, hours of training."""

    neural: Literal["auto", "yes", "no"] = "auto"
    """Train transformers, which needs torch (the extra ``neural``); ``auto`` does where it is installed."""
    degrees: tuple[int, ...] = (2, 3, 5, 7)
    """Arms d of the stars of the pointer learner."""
    lengths: tuple[int, ...] = (4, 5, 7)
    """Nodes L on an arm there."""
    length: int = 5
    """The length, one of ``lengths``, that is shown and that the transformers are trained on."""
    nodes: int = 20
    """Labels N to draw from; where a star has more nodes than that, as many as it has."""
    n: int = 5000
    """Prompts on which a pointer learner is evaluated."""
    network_degrees: tuple[int, ...] = (2, 5)
    """Arms of the stars that the transformers are trained on; the first makes the headline."""
    forcing_steps: int = 1000
    """Updates with teacher forcing."""
    reversed_steps: int = 1000
    """Updates with teacher forcing on reversed targets."""
    teacherless_steps: int = 6000
    """Updates without a teacher."""
    second_steps: int = 1000
    """Updates on the second token alone."""
    every: int = 50
    """Updates between two evaluations, after each of which a run that was stopped goes on."""
    prompts: int = 400
    """Prompts of an evaluation while training, the same ones each time."""
    batch_size: int = 256
    """New prompts an update."""
    learning_rate: float = 1e-3
    """Of AdamW, constant."""
    width: int = 64
    """Of the transformer."""
    layers: int = 3
    """Of the transformer."""
    heads: int = 4
    """Of the transformer's attention; divides ``width``."""
    device: str = "cpu"
    """Where the transformers are trained, as torch names it; elsewhere the numbers differ in the last digits."""
    seeds: int = 3
    """Trainings of each kind."""

    def __post_init__(self) -> None:
        check_in("neural", self.neural, ("auto", "yes", "no"))
        check_distinct("degrees", self.degrees, minimum=2)
        check_distinct("network_degrees", self.network_degrees, minimum=2)
        check_distinct("lengths", self.lengths, minimum=3)
        if self.length not in self.lengths:
            raise ValueError(f"length={self.length} must be one of lengths={self.lengths}.")
        check_int("nodes", self.nodes, minimum=2)
        for name in ("forcing_steps", "reversed_steps", "teacherless_steps", "second_steps", "every"):
            check_int(name, getattr(self, name), minimum=1)
        for name in ("n", "prompts", "batch_size", "width", "layers", "heads", "seeds"):
            check_int(name, getattr(self, name), minimum=1)
        if check_real("learning_rate", self.learning_rate, minimum=0.0) == 0.0:
            raise ValueError("learning_rate=0 learns nothing; use a positive number.")
        if self.width % self.heads:
            raise ValueError(f"heads={self.heads} must divide width={self.width}.")

    @classmethod
    def quick(cls) -> PathStarOptions:
        """About a minute on two cores: one training of each kind, on the smallest star, teacherless cut short."""
        return cls(
            lengths=(5,),
            n=3000,
            network_degrees=(2,),
            forcing_steps=300,
            reversed_steps=150,
            teacherless_steps=500,
            second_steps=125,
            every=25,
            prompts=600,
            seeds=1,
        )

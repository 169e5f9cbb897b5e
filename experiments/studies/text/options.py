"""What can be changed about the study."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from experiments.options import check_distinct
from ntp_envs._validation import check_in, check_int, check_probability
from ntp_envs.text.vocabulary import TOKENS

__all__ = ["TextOptions"]

NEURAL = ("auto", "yes", "no")


@dataclass(frozen=True)
class TextOptions:
    """The text, and sizes of the sweep; the defaults are the full study."""

    corpus: str = "default"
    """Text to work on: the path of a text file, "hf:OWNER/NAME" for a Hugging Face data set, or the help topics that
    come with Python."""
    records: Literal["lines"] | None = None
    """One document a line, each with an end, instead of one stretch of text."""
    tokens: Literal["char", "byte", "word"] = "char"
    """What a token is; bytes read any file."""
    lower: bool = True
    """Lower-case the text first."""
    max_vocab: int | None = None
    """Largest vocabulary of the first part; by default 96 characters (more where the script has more), 256 bytes or
    1000 words."""
    max_chars: int | None = None
    """Read this much of the text at most."""
    expert_order: int = 6
    """Order of the n-gram model of the text that is the expert."""
    horizon: int = 256
    """Tokens to write."""
    prompt_length: int = 16
    """Tokens of the text that they follow."""
    orders: tuple[int, ...] = (1, 2, 3, 4, 5)
    """Orders of the n-gram learners."""
    windows: tuple[int, ...] = (1, 2, 4, 16)
    """Tokens that each linear learner sees."""
    neural: Literal["auto", "yes", "no"] = "auto"
    """Train networks, which needs torch (the extra ``neural``); by default where it is installed."""
    mlp_window: int = 8
    """Tokens that the MLP sees."""
    width: int = 256
    """Width of the MLP."""
    steps: int = 4000
    """Updates of the MLP."""
    n: int = 4000
    """Sequences of the expert that every learner of the first part is shown."""
    draws: int = 10_000
    """Sequences that a distance is measured with."""
    seeds: int = 5
    """Replicates of everything but the training of networks."""
    network_seeds: int = 5
    """Replicates of that."""
    contamination: float = 0.03
    """Share of shuffled documents in the second part, where the expert is otherwise a bigram model."""
    small_vocab: int = 30
    """Vocabulary of the dial, in the second part."""
    dial_horizons: tuple[int, ...] = (16, 32, 64, 128, 256, 512)
    """Lengths of the documents there."""
    dial_n: int = 4000
    """Documents that are learned from there."""
    chunks: tuple[int, ...] = (16, 32, 64, 128)
    """Chunks K of the learners between next-token and whole-document; those below H are used."""
    network_vocab: int = 12
    """Vocabulary of the networks that are trained on whole contaminated documents."""
    network_horizon: int = 256
    """Length of the documents there."""
    network_n: int = 4000
    """Documents that are learned from there."""
    network_batch: int = 128
    """Documents in an update there."""
    network_steps: int = 500
    """Updates of each stage of training there: the clipped ratio has four, rho six, and log-loss as many as four."""

    def __post_init__(self) -> None:
        check_in("tokens", self.tokens, TOKENS)
        check_in("neural", self.neural, NEURAL)
        check_distinct("orders", self.orders, maximum=self.expert_order)
        check_distinct("windows", self.windows)
        check_distinct("dial_horizons", self.dial_horizons, minimum=2)
        check_distinct("chunks", self.chunks)
        for name in (
            "width",
            "steps",
            "n",
            "seeds",
            "network_seeds",
            "dial_n",
            "network_n",
            "network_batch",
            "network_steps",
        ):
            check_int(name, getattr(self, name), minimum=1)
        for name, minimum in (("draws", 4), ("horizon", 2), ("network_horizon", 2), ("prompt_length", 0)):
            check_int(name, getattr(self, name), minimum=minimum)
        for name in ("small_vocab", "network_vocab"):
            check_int(name, getattr(self, name), minimum=2)
        check_int("mlp_window", self.mlp_window, minimum=1, maximum=self.prompt_length + self.horizon - 1)
        if check_probability("contamination", self.contamination) > 0.25:
            raise ValueError(f"contamination={self.contamination} must be at most 0.25; beyond, no bigram is near.")

    @classmethod
    def quick(cls) -> TextOptions:
        """About a minute on two cores."""
        return cls(
            horizon=64,
            windows=(1, 2, 4),
            width=64,
            steps=300,
            n=3000,
            draws=2000,
            seeds=3,
            network_seeds=2,
            dial_horizons=(16, 64, 128, 256),
            dial_n=1500,
            chunks=(32, 64),
            network_n=2000,
            network_batch=64,
            network_steps=200,
        )

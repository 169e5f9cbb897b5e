"""What the network is asked to predict while it trains: the training modes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from agents.neural.networks import Network
from ntp_envs._validation import check_in, check_int

__all__ = ["MODES", "Mode", "Objective"]

MODES = ("tf", "teacherless", "mtp_k", "first_token_only")
#: other names that people know, and what to write for them
_MEANT = {
    **dict.fromkeys(
        ("reverse", "reversed"), "reversal is an option of the task: make_task('PathStar', reverse=True), for one"
    ),
    **dict.fromkeys(("teacher_forcing", "teacher forcing", "teacher-forcing", "next_token", "ntp"), "use 'tf'"),
    **dict.fromkeys(("mtp", "multi_token"), "use 'mtp_k' with k=2 or more"),
}


@dataclass(frozen=True)
class Mode:
    """A training mode and its options.

    * ``"tf"``: teacher forcing: every token given the prompt and the true tokens before it.
    * ``"teacherless"``: the tokens after the prompt are replaced by a dummy in the input, so that each is predicted
      from the prompt alone (Bachmann and Nagarajan 2024, arXiv:2403.06963, after Monea et al. 2023). The policy that
      results runs the same way: its tokens are independent given the prompt.
    * ``"mtp_k"``: teacher forcing with k heads, head j for the token j places on; the losses of the heads are added.
      The policy uses the first, the others only shape what the network computes (Gloeckle et al. 2024,
      arXiv:2404.19737; there a further head is a transformer layer, here a linear map).
    * ``"first_token_only"``: teacher forcing with a loss on some positions only, the first by default.

    Args:
        name: one of `MODES`.
        k: heads of ``"mtp_k"``.
        positions: of ``"first_token_only"``: which tokens, counted from 0.
        horizon: H, the number of tokens a sequence.

    >>> Mode("first_token_only", positions=(1,), horizon=5).columns
    (1,)
    """

    name: str
    horizon: int
    k: int = 2
    positions: Sequence[int] = (0,)

    def __post_init__(self) -> None:
        if self.name in _MEANT:
            raise ValueError(f"mode={self.name!r} is not one of {', '.join(map(repr, MODES))}; {_MEANT[self.name]}.")
        check_in("mode", self.name, MODES)
        check_int("k", self.k, minimum=1)
        if np.ndim(self.positions) != 1 or not len(self.positions):
            raise ValueError(f"positions={self.positions!r} must be a list of token positions, such as (0,).")
        if self.name == "first_token_only":
            for position in self.positions:
                check_int("positions", position, minimum=0, maximum=self.horizon - 1)

    @property
    def columns(self) -> tuple[int, ...]:
        """The token positions that the loss counts."""
        if self.name == "first_token_only":
            return tuple(sorted({int(position) for position in self.positions}))
        return tuple(range(self.horizon))

    @property
    def teacherless(self) -> bool:
        """Whether the policy that results reads the dummy instead of tokens."""
        return self.name == "teacherless"


class Objective(nn.Module):
    """A network with what is trained along with it; called on a batch, it gives the loss."""

    def __init__(self, network: Network, mode: Mode) -> None:
        super().__init__()
        self.network, self.mode = network, mode
        self.heads = mode.k if mode.name == "mtp_k" else 1
        width, vocab_size = network.out.in_features, network.out.out_features
        self.vocab_size = vocab_size
        # heads 2, ..., k; zero to begin with, so that no random numbers are needed
        self.ahead = nn.Parameter(torch.zeros(self.heads - 1, width, vocab_size)) if self.heads > 1 else None

    def forward(self, prompts: Tensor, tokens: Tensor, weights: Tensor | None) -> tuple[Tensor, Tensor]:
        """The loss to be minimised, in nats a counted token, and its part of the first head, in nats a sequence.

        Args:
            prompts: ``(B, P)``.
            tokens: ``(B, H)``.
            weights: ``(B,)``, of sum 1; ``None`` is equal weights.
        """
        columns = self.mode.columns
        tokens = tokens[:, : columns[-1] + 1]  # nothing after the last column that counts matters
        inputs = tokens[:, :-1]
        if self.mode.teacherless:
            inputs = torch.full_like(inputs, self.vocab_size)
        with self.network.products():
            hidden = self.network(prompts, inputs)  # (B, T, e)
            if len(columns) < tokens.shape[1]:
                hidden, tokens = hidden[:, columns], tokens[:, columns]
            heads = [self.network.out(hidden)]
            if self.ahead is not None:
                heads += [hidden[:, :-j] @ head for j, head in enumerate(self.ahead[: tokens.shape[1] - 1], start=1)]
        losses = [_cross_entropy(logits, tokens[:, j:], weights) for j, logits in enumerate(heads)]
        total = losses[0]
        for loss in losses[1:]:
            total = total + loss
        return total / len(columns), losses[0].detach()


def _cross_entropy(logits: Tensor, tokens: Tensor, weights: Tensor | None) -> Tensor:
    """Nats a sequence: ``(B, T, A)`` logits, ``(B, T)`` tokens, ``(B,)`` weights -> a scalar, not below float32."""
    logits = logits.float() if logits.dtype == torch.bfloat16 else logits
    losses = F.cross_entropy(logits.flatten(0, 1), tokens.flatten(), reduction="none").view(tokens.shape).sum(1)
    return losses.mean() if weights is None else weights @ losses

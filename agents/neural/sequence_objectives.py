"""What a network can be asked of whole sequences: to beat given densities, to cover them, or to forget the worst."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from agents.neural.networks import Network

__all__ = ["ClippedRatio", "Reply", "SequenceObjective", "TrimmedLogLoss", "WorstReply"]


class SequenceObjective(nn.Module):
    """A network and a loss of its log-probabilities of units: chunks of K tokens given what precedes them.

    Args:
        network: what is trained.
        chunk: K; H is whole sequences.
    """

    def __init__(self, network: Network, chunk: int) -> None:
        super().__init__()
        self.network, self.chunk = network, chunk

    def forward(
        self, prompts: Tensor, tokens: Tensor, weights: Tensor | None, reference: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        """The loss, twice: to be minimised, and to be reported.

        Args:
            prompts: ``(B, P)``.
            tokens: ``(B, H)``.
            weights: ``(B,)``, of sum 1; ``None`` is equal weights.
            reference: ``(B, C, R)`` log-probabilities of the C units under R other policies.
        """
        with self.network.products():
            logits = self.network.out(self.network(prompts, tokens[:, :-1]))  # (B, H, A)
        log_probs = torch.log_softmax(logits.float() if logits.dtype == torch.bfloat16 else logits, dim=-1)
        taken = log_probs.gather(2, tokens[:, :, None])[:, :, 0]
        units = torch.stack([part.sum(1) for part in taken.split(self.chunk, 1)], 1)  # (B, C)
        if weights is None:
            weights = units.new_full((len(units),), 1.0 / len(units))
        loss = self.loss(units, weights, reference)
        return loss, loss.detach()

    def loss(self, units: Tensor, weights: Tensor, reference: Tensor | None) -> Tensor:
        """A scalar of ``(B, C)`` log-probabilities, ``(B,)`` weights of sum 1 and ``(B, C, R)`` references."""
        raise NotImplementedError


class Reply(SequenceObjective):
    """Minus the pay-off of a reply in the rho game: ``-sum tanh(s (ours - theirs))``, against one reference."""

    def __init__(self, network: Network, chunk: int, scale: float) -> None:
        super().__init__(network, chunk)
        self.scale = scale

    def loss(self, units: Tensor, weights: Tensor, reference: Tensor | None) -> Tensor:
        assert reference is not None
        return -(weights @ torch.tanh(self.scale * (units - reference[:, :, 0])).sum(1))


class WorstReply(SequenceObjective):
    """The pay-off of the best of R replies, ``max_r sum tanh(s (theirs_r - ours))``, smoothed by a soft maximum."""

    SHARPNESS = 50.0

    def __init__(self, network: Network, chunk: int, scale: float) -> None:
        super().__init__(network, chunk)
        self.scale = scale

    def loss(self, units: Tensor, weights: Tensor, reference: Tensor | None) -> Tensor:
        assert reference is not None
        payoffs = weights @ torch.tanh(self.scale * (reference - units[:, :, None])).sum(1)  # (R,)
        return torch.logsumexp(self.SHARPNESS * payoffs, 0) / self.SHARPNESS


class ClippedRatio(SequenceObjective):
    """``1 - min(1, (ours / theirs)^beta)`` a unit, against one reference: the expert."""

    def __init__(self, network: Network, chunk: int, beta: float) -> None:
        super().__init__(network, chunk)
        self.beta = beta

    def loss(self, units: Tensor, weights: Tensor, reference: Tensor | None) -> Tensor:
        assert reference is not None
        log_ratios = self.beta * (units - reference[:, :, 0])
        return weights @ -torch.expm1(log_ratios.clamp(max=0.0)).sum(1)


class TrimmedLogLoss(SequenceObjective):
    """Log-loss a token of the batch without the share ``alpha`` of its weight that is least likely now."""

    def __init__(self, network: Network, chunk: int, alpha: float) -> None:
        super().__init__(network, chunk)
        self.alpha = alpha

    def loss(self, units: Tensor, weights: Tensor, reference: Tensor | None) -> Tensor:
        log_probs = units.sum(1)
        order = torch.argsort(log_probs, stable=True)
        below = torch.cumsum(weights[order], 0) - self.alpha  # weight up to here that is beyond the trimmed share
        kept = torch.minimum(below.clamp(min=0.0), weights[order])
        return -(kept @ log_probs[order]) / kept.sum() / self.tokens(units)

    def tokens(self, units: Tensor) -> int:
        return units.shape[1] * self.chunk

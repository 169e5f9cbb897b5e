"""Clipped likelihood ratio: what the learner gives less probability than the expert does, and nothing else."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy.special import expit

from agents.base import Agent, FitReport
from agents.interactive.base import with_details
from agents.log_loss import RegisteredClasses
from agents.objectives.reweighted import BoundedLoss, minimise_bounded
from ntp_envs import Demonstrations, Policy, PolicyClass
from ntp_envs._validation import check_real

__all__ = ["ClippedRatioBC", "ClippedRatioLoss"]

FloatArray = NDArray[np.float64]

SHARPNESS = (4.0, 16.0, 64.0, 256.0, 1024.0)


class ClippedRatioLoss(BoundedLoss):
    """``1 - min(1, (q/p)^beta)`` of each chunk of tokens given its prefix, summed over chunks.

    Args:
        demonstrations: with the expert's log-probabilities, log p.
        beta: > 0.
        chunk: K; H is whole sequences.
        sharpness: s; with r the ratio to the power beta, min(1, r) is replaced by ``(1 + r^-s)^(-1/s)``, which is
            smooth and tends to it as s grows.

    >>> demos = Demonstrations(np.zeros((1, 0), int), np.zeros((1, 2), int), 2, expert_log_probs=np.log([[0.8, 0.5]]))
    >>> ClippedRatioLoss(demos, 1.0, 1).losses(np.log([[0.2, 0.9]])).round(3).tolist()
    [[0.75, 0.0]]
    """

    def __init__(self, demonstrations: Demonstrations, beta: float, chunk: int, sharpness: float = np.inf) -> None:
        if demonstrations.expert_log_probs is None:
            raise ValueError(
                "the clipped ratio needs the expert's log-probabilities of the demonstrated tokens, and the "
                "demonstrations have none; use collect(task, n, rng, expert_log_probs=True), or "
                "dataclasses.replace(demos, expert_log_probs=expert.log_probs(demos.prompts, demos.tokens))."
            )
        self.demonstrations, self.chunk, self.sharpness = demonstrations, chunk, sharpness
        self.beta, self.by_token = beta, chunk == 1
        self.expert = demonstrations.expert_log_probs
        self.starts = [positions.start for positions in demonstrations.chunks(chunk)]
        self.lengths = np.diff([*self.starts, demonstrations.horizon])

    def _log_ratios(self, log_probs: FloatArray, expert: FloatArray, starts: list[int]) -> FloatArray:
        """``(n, C)`` beta log(q/p) of the chunks; a sequence that the expert excludes counts as well covered."""
        ours, theirs = (np.add.reduceat(array, starts, axis=1) for array in (log_probs, expert))
        with np.errstate(invalid="ignore"):
            return np.where(np.isneginf(theirs), 0.0, self.beta * (ours - theirs))

    def losses(self, log_probs: FloatArray, rows: slice = slice(None)) -> FloatArray:
        starts = [0] if log_probs.shape[1] == 1 else self.starts
        return 0.0 - np.expm1(self._clipped(self._log_ratios(log_probs, self.expert[:, rows], starts)))

    def _clipped(self, log_ratios: FloatArray) -> FloatArray:
        if np.isinf(self.sharpness):
            return np.minimum(log_ratios, 0.0)
        return -np.logaddexp(0.0, -self.sharpness * log_ratios) / self.sharpness

    def stages(self) -> tuple[ClippedRatioLoss, ...]:
        return (*(ClippedRatioLoss(self.demonstrations, self.beta, self.chunk, s) for s in SHARPNESS), self)

    def slopes(self, log_probs: FloatArray) -> FloatArray:
        ratios = self._log_ratios(log_probs, self.expert, self.starts)
        below = ratios < 0.0 if np.isinf(self.sharpness) else expit(-self.sharpness * ratios)
        return np.repeat(self.beta * np.exp(self._clipped(ratios)) * below, self.lengths, axis=1)


class ClippedRatioBC(Agent):
    """``argmin_q E_p[1 - min(1, (q(o)/p(o))^beta)]`` over the policies q of a class, p being the expert.

    The expectation is over demonstrations, whose probabilities under the expert must be known
    (``collect(..., expert_log_probs=True)``). At ``beta=1`` and whole sequences the objective *is* the total variation
    distance, ``E_p[1 - min(1, q/p)] = sum (p - q)_+``. As beta falls to 0 the objective over beta tends to
    ``E_p[(log p/q)_+]``, the positive part of the KL divergence; as it grows, to ``P_p(q < p)``. A clipped ratio is
    bounded, so that a few demonstrations that no member explains cost a constant, which is what protects it from the
    misspecification that breaks log-loss. The name and the family in beta are ours; clipping of likelihood ratios is
    as in the surrogate objective of PPO (Schulman et al. 2017, arXiv:1707.06347), the identity with total variation
    as in Devroye & Lugosi 2001 ("Combinatorial methods in density estimation", Scheffe's identity).

    Exact in finite classes, and in product classes with ``chunk=1``. Elsewhere the objective is not convex and has
    kinks; it is descended through smooth approximations from the maximum likelihood, without a certificate (``gap`` is
    ``nan``; see `agents.objectives.minimise_bounded`): ``converged`` says that a step no longer lowers the loss by
    ``tol``, which at a kink may be about 1e-3 above a local minimum. Where no gradient is left, because every
    demonstration has ratio 0 at the start, it stays there.

    Args:
        beta: > 0.
        chunk: the loss is summed over chunks of this many tokens given their prefix; ``None`` is whole sequences.
            ``chunk=1, beta=1`` is the token-wise total variation along the expert's prefixes.
        tol: in the loss, where it is minimised by iteration.

    Raises:
        ValueError: on `fit`, parameters out of range, demonstrations without ``expert_log_probs``, a product class
            with another chunk than 1, a population that is not exact for the expert's probabilities of such chunks.

    >>> import numpy as np
    >>> from ntp_envs import collect, make_task
    >>> task = make_task("RareMode", horizon=256)  # log-loss prefers policy 1, at 22.6 times the distance
    >>> demos = collect(task, 2000, np.random.default_rng(0), expert_log_probs=True)
    >>> agent = ClippedRatioBC().fit(demos, task.policy_class)
    >>> agent.fit_report_.details["index"]
    0
    """

    supports = RegisteredClasses(minimise_bounded)  # type: ignore[assignment]
    reads_expert = True

    def __init__(self, beta: float = 1.0, *, chunk: int | None = None, tol: float = 1e-9) -> None:
        self.beta = beta
        self.chunk = chunk
        self.tol = tol

    def unit(self, demonstrations: Demonstrations) -> int | None:
        return demonstrations.horizon if self.chunk is None else self.chunk

    def _fit(
        self, demonstrations: Demonstrations, policy_class: PolicyClass, rng: np.random.Generator
    ) -> tuple[Policy, FitReport]:
        beta, tol = check_real("beta", self.beta, minimum=0.0), check_real("tol", self.tol, minimum=0.0)
        if beta == 0.0:
            raise ValueError("beta=0 makes every policy alike; it must be positive.")
        data = demonstrations.pooled()
        loss = ClippedRatioLoss(data, beta, data.horizon if self.chunk is None else self.chunk)
        policy, report = minimise_bounded(policy_class, data, loss, tol=tol)
        return policy, with_details(report, "E_p[1 - min(1, (q/p)^beta)], summed over chunks")

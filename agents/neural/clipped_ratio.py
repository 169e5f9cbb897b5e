"""The clipped likelihood ratio for networks."""

from __future__ import annotations

import os
from collections.abc import Sequence

import numpy as np

from agents.base import FitReport
from agents.neural.policy import TorchPolicy
from agents.neural.progress import Report
from agents.neural.sequence_level import Player, SequenceAgent
from agents.neural.sequence_objectives import ClippedRatio
from agents.neural.training import Settings
from ntp_envs import Demonstrations, Policy
from ntp_envs._validation import check_int, check_real

__all__ = ["NeuralClippedRatioBC"]


class NeuralClippedRatioBC(SequenceAgent):
    """``argmin_q E_p[1 - min(1, (q(o)/p(o))^beta)]`` over the policies of a network class, p being the expert.

    The objective of `agents.ClippedRatioBC`, by stochastic gradients. It is bounded, so that the sequences that no
    member explains cost a constant each; at ``beta=1`` on whole sequences it *is* the total variation distance. The
    expert's probabilities of the demonstrations must be known (``collect(..., expert_log_probs=True)``).

    It is descended from log-loss and from log-loss without the least likely sequences (``trims``), as it has no slope
    where q is far below p; the best end on the data is returned, log-loss included. ``gap`` is ``nan``: no
    certificate. ``converged`` says that the descent improved on where it started.

    Args:
        beta: > 0. Below 1 the slope reaches farther: 1/2 is a good choice for long sequences.
        chunk: K, tokens a unit, their losses added; ``None`` is whole sequences.
        trims, steps, learning_rate: of the starts, as in `NeuralRhoBC`.
        ratio_steps, ratio_learning_rate: of the descent from each.
        batch_size, clip, precision, device, threads, checkpoint, checkpoint_every, progress: as in
            `agents.neural.NeuralBC`.

    Raises:
        ValueError: on `fit`, parameters out of range, or demonstrations without ``expert_log_probs``.

    >>> from agents.neural import NetworkClass
    >>> from ntp_envs import collect, make_task
    >>> task = make_task("Contamination", horizon=16, eps=0.05, p=0.01, q=0.99)
    >>> spec = NetworkClass("linear", 2, prompt_length=1, horizon=16, width=2, window=1)
    >>> demos = collect(task, 200, np.random.default_rng(0), expert_log_probs=True)
    >>> report = NeuralClippedRatioBC(steps=30, ratio_steps=20).fit(demos, spec).fit_report_
    >>> 0 <= report.objective <= report.details["ends"]["log-loss"] <= 1
    True
    """

    reads_expert = True

    def __init__(
        self,
        beta: float = 0.5,
        *,
        chunk: int | None = None,
        trims: Sequence[float] = (0.05,),
        steps: int = 500,
        ratio_steps: int = 300,
        learning_rate: float = 1e-2,
        ratio_learning_rate: float = 5e-3,
        batch_size: int | None = 256,
        clip: float | None = 1.0,
        precision: str = "float32",
        device: str = "auto",
        threads: int | None = 1,
        checkpoint: str | os.PathLike[str] | None = None,
        checkpoint_every: int = 100,
        progress: bool | Report = False,
    ) -> None:
        super().__init__(
            chunk=chunk,
            trims=trims,
            steps=steps,
            learning_rate=learning_rate,
            batch_size=batch_size,
            clip=clip,
            precision=precision,
            device=device,
            threads=threads,
            checkpoint=checkpoint,
            checkpoint_every=checkpoint_every,
            progress=progress,
        )
        self.beta = beta
        self.ratio_steps = ratio_steps
        self.ratio_learning_rate = ratio_learning_rate

    def _check_own(self, demonstrations: Demonstrations) -> None:
        if check_real("beta", self.beta, minimum=0.0) == 0.0:
            raise ValueError("beta=0 makes every policy alike; it must be positive.")
        check_int("ratio_steps", self.ratio_steps, minimum=1)
        Settings(steps=self.ratio_steps, learning_rate=self.ratio_learning_rate, clip=self.clip)
        if demonstrations.expert_log_probs is None:
            raise ValueError(
                "the clipped ratio needs the expert's log-probabilities of the demonstrated tokens, and the "
                "demonstrations have none; use collect(task, n, rng, expert_log_probs=True)."
            )
        if not np.isfinite(demonstrations.expert_log_probs).all():
            raise ValueError("expert_log_probs has -inf: the expert cannot have written these demonstrations.")

    def _play(self, player: Player) -> tuple[Policy, FitReport]:
        data = player.data
        assert data.expert_log_probs is not None
        expert = player.units(data.expert_log_probs)  # (n, C)
        starts = player.starts_of(self.trims)
        ends: dict[str, TorchPolicy] = dict(starts)
        for name, start in starts.items():
            objective = ClippedRatio(player.copy(start), player.chunk, self.beta)
            ends[f"{name}, descended"] = player.train(
                "clipped", objective, self.ratio_steps, self.ratio_learning_rate, expert[:, :, None]
            )
        weights = data.normalised_weights()
        losses = {}
        for name, policy in ends.items():
            log_ratios = self.beta * (player.densities(policy) - expert)
            losses[name] = float(weights @ -np.expm1(np.minimum(log_ratios, 0.0)).sum(axis=1))
        best = min(losses, key=lambda name: losses[name])
        details = {
            "objective": "E_p[1 - min(1, (q/p)^beta)], summed over units",
            "chunk": player.chunk,
            "ends": losses,
            "start": best,
        }
        report = FitReport(losses[best], float("nan"), best not in starts, len(ends) - len(starts), details)
        return ends[best], report

"""On-policy distillation: the expert's next-token law at prefixes that the student writes, in forward or reverse KL."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from dataclasses import replace

import numpy as np

from agents.base import ConvergenceWarning, FitReport
from agents.interactive.base import InteractiveAgent, Session, check_rollouts, with_details
from agents.interactive.labels import Labels
from agents.interactive.projection import DIVERGENCES, project
from ntp_envs import Demonstrations, Policy, PolicyClass, Task
from ntp_envs._validation import check_in, check_int, check_real

__all__ = ["OnPolicyDistillation"]


class OnPolicyDistillation(InteractiveAgent):
    """Generalised knowledge distillation (Agarwal et al. 2023, "On-policy distillation", arXiv:2306.13649).

    The objective is ``E_{prefixes of the student} KL(expert || student)`` (forward) or ``KL(student || expert)``
    (reverse), token by token, without a gradient through the sampling of the prefixes. So its solutions are *fixed
    points*: the student that is nearest to the expert at the prefixes it writes itself. Each round the student writes
    sequences, the expert gives its law at every prefix, and the student is replaced by the nearest member
    (`agents.interactive.project`; full minimisation instead of a gradient step, so that nothing needs tuning).

    Fixed points need not be unique, and the iteration need not settle: in finite classes it may cycle. The report's
    ``details["change"]`` is the total variation between the last two students' next-token laws, averaged over the
    prefixes they visited; ``converged`` says whether it is at most ``settle``. With sampled prefixes it has a noise
    floor, at most of order ``1 / sqrt(rollouts * H)``. ``objective`` is the divergence in the last round, in nats a
    sequence.

    Args:
        task: the `ntp_envs.Task` to interact with.
        divergence: ``"forward"`` or ``"reverse"``.
        rounds: at most so many; it stops when ``change`` is at most ``settle`` in a second round running.
        rollouts: sequences a round, or ``"exact"``: all prefixes with their probabilities (at most 65536 sequences).
        on_policy: share lambda of the student's own prefixes in [0, 1]; the rest are prefixes of the demonstrations,
            at which the expert is asked too. At 0 it is ordinary (off-policy) word-level distillation.
        floor: the expert's law is mixed with this much of the uniform law; reverse KL in autoregressive linear
            classes needs it where the expert excludes tokens.
        settle: total variation at which the iteration counts as settled.
        tol: of each projection, as in `agents.LogLossBC`.

    Raises:
        TypeError, ValueError: on `fit`, as `InteractiveAgent`, and for parameters out of range; with ``on_policy < 1``
            for a population that is not the complete law.

    Warns:
        ConvergenceWarning: not settled after ``rounds``.

    >>> from ntp_envs import make_task
    >>> task = make_task("Contamination", horizon=4, eps=0.2, p=0.1, q=0.9, theta_min=0.01)
    >>> agent = OnPolicyDistillation(task, rollouts="exact", rounds=200, settle=1e-9)
    >>> round(agent.fit(task.population(), task.policy_class).policy_.theta, 4)
    0.2166
    """

    def __init__(
        self,
        task: Task,
        *,
        divergence: str = "forward",
        rounds: int = 20,
        rollouts: int | str = 200,
        on_policy: float = 1.0,
        floor: float = 0.0,
        settle: float = 0.02,
        tol: float = 1e-8,
    ) -> None:
        self.task = task
        self.divergence = divergence
        self.rounds = rounds
        self.rollouts = rollouts
        self.on_policy = on_policy
        self.floor = floor
        self.settle = settle
        self.tol = tol

    def unit(self, demonstrations: Demonstrations) -> int | None:
        return 1 if self.on_policy == 1.0 else None  # elsewhere the prefixes of the demonstrations matter as well

    def _interact(
        self, session: Session, start: Callable[[], Policy], demonstrations: Demonstrations, policy_class: PolicyClass
    ) -> tuple[Policy, FitReport]:
        divergence = check_in("divergence", self.divergence, DIVERGENCES)
        rounds, rollouts = check_int("rounds", self.rounds, minimum=1), check_rollouts(self.rollouts)
        share = check_real("on_policy", self.on_policy, minimum=0.0, maximum=1.0)
        floor = check_real("floor", self.floor, minimum=0.0, maximum=1.0)
        settle, tol = check_real("settle", self.settle, minimum=0.0), check_real("tol", self.tol, minimum=0.0)
        fixed = []
        if share < 1.0:
            weights = Labels.from_demonstrations(demonstrations).weights
            labels = session.ask(demonstrations.prompts, demonstrations.tokens, weights)
            fixed = [_floored(labels, floor).scaled(1.0 - share)]
        policy, iterations, calm, change = start(), 0, 0, np.inf
        while calm < 2 and iterations < rounds:
            iterations += 1
            batch = [*fixed]
            if share > 0.0:
                batch.append(_floored(session.visit(policy, rollouts), floor).scaled(share))
            seen = Labels.join(batch)
            new, report = project(policy_class, seen, divergence=divergence, tol=tol)
            change = _change(policy, new, seen)
            policy, calm = new, calm + 1 if change <= settle else 0
        converged = change <= settle
        if not converged:
            warnings.warn(
                f"on-policy distillation has not settled after {iterations} rounds: the student still changes by "
                f"{change:.3g} in total variation a token (settle={settle:g}). Raise rounds or rollouts={rollouts!r}; "
                "where it cycles there may be no fixed point to find.",
                ConvergenceWarning,
                stacklevel=4,
            )
        report = replace(report, gap=float("nan"), converged=converged and report.converged, iterations=iterations)
        return policy, with_details(report, f"{divergence} KL at the student's prefixes", change=change)


def _floored(labels: Labels, floor: float) -> Labels:
    """The labels mixed with the uniform law."""
    if floor == 0.0:
        return labels
    with np.errstate(divide="ignore"):
        kept = np.log1p(-floor) + labels.log_laws
        return replace(labels, log_laws=np.logaddexp(kept, np.log(floor / labels.vocab_size)))


def _change(old: Policy, new: Policy, labels: Labels) -> float:
    """Total variation between two policies' next-token laws, averaged over the labelled prefixes."""
    laws = [np.exp(policy.forced_log_probs(labels.prompts, labels.tokens)) for policy in (old, new)]
    distances = 0.5 * np.abs(laws[0] - laws[1]).sum(axis=2)
    return float((labels.weights * distances).sum() / labels.weights.sum())

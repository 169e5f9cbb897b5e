"""DAgger with log-loss: imitate the expert where the learner's own tokens lead."""

from __future__ import annotations

from collections.abc import Callable

from agents.base import FitReport
from agents.interactive.base import InteractiveAgent, Session, check_rollouts, with_details
from agents.interactive.labels import Labels
from agents.interactive.projection import project
from ntp_envs import Demonstrations, Policy, PolicyClass, Task
from ntp_envs._validation import check_in, check_int, check_real

__all__ = ["DAgger"]


class DAgger(InteractiveAgent):
    """Dataset aggregation (Ross, Gordon & Bagnell 2011, arXiv:1011.0686, algorithm 3.1), with log-loss.

    Round 0 is behaviour cloning of the demonstrations. In round i the current policy generates sequences, with the
    expert's token taken instead with probability ``beta**i`` at each step; the expert is asked for its next-token law
    at every prefix; and the next policy is the member of the class with the least log-loss on all labels so far,
    demonstrations included, every round with the same weight ("follow the leader"). The last policy is returned; the
    guarantee of the paper is for the best or a random one of the rounds, which for a convex class differ little.

    ``objective`` of the report is the mean divergence ``KL(expert || policy)`` over all labels (log-loss itself where
    labels are single tokens), in nats a sequence; ``details["rounds"]`` has it after each round.

    Args:
        task: the `ntp_envs.Task` to interact with.
        rounds: N >= 1.
        rollouts: sequences a round, or ``"exact"``: all prefixes with their probabilities (at most 65536 sequences).
        beta: in [0, 1]; 0 lets the learner walk alone from round 1 on.
        labels: ``"soft"``, the expert's whole law (cross-entropy), or ``"sampled"``, one token drawn from it.
        tol: as in `agents.LogLossBC`.

    Raises:
        TypeError, ValueError: on `fit`, as `InteractiveAgent`, and for parameters out of range.

    >>> from ntp_envs import make_task
    >>> task = make_task("Tightrope", horizon=64, eps=0.01, recoverable=True)
    >>> agent = DAgger(task, rounds=2).fit(task.population(), task.policy_class)
    >>> round(task.expected_cost(agent.policy_), 3), round(task.bc_cost(), 3)
    (0.634, 17.034)
    >>> agent.fit_report_.details["expert_queries"]  # 2 rounds, 200 sequences of 64 tokens
    25600
    """

    def __init__(
        self,
        task: Task,
        *,
        rounds: int = 10,
        rollouts: int | str = 200,
        beta: float = 0.0,
        labels: str = "soft",
        tol: float = 1e-8,
    ) -> None:
        self.task = task
        self.rounds = rounds
        self.rollouts = rollouts
        self.beta = beta
        self.labels = labels
        self.tol = tol

    def _interact(
        self, session: Session, start: Callable[[], Policy], demonstrations: Demonstrations, policy_class: PolicyClass
    ) -> tuple[Policy, FitReport]:
        rounds = check_int("rounds", self.rounds, minimum=1)
        rollouts = check_rollouts(self.rollouts)
        beta = check_real("beta", self.beta, minimum=0.0, maximum=1.0)
        sampled = check_in("labels", self.labels, ("soft", "sampled")) == "sampled"
        tol = check_real("tol", self.tol, minimum=0.0)
        policy, losses = start(), []
        seen = [Labels.from_demonstrations(demonstrations)]
        for i in range(1, rounds + 1):
            batch = session.visit(policy, rollouts, beta=beta**i)
            seen.append(batch.drawn(session.rng) if sampled else batch)
            policy, report = project(policy_class, Labels.join(seen), tol=tol)
            losses.append(report.objective)
        return policy, with_details(report, "KL(expert || policy) over all rounds", rounds=losses)

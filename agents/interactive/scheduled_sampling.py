"""Scheduled sampling: demonstrated tokens predicted from prefixes that are partly the learner's own."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np

from agents.base import Agent, FitReport
from agents.interactive.base import with_details
from agents.interactive.labels import Labels
from agents.interactive.projection import project
from agents.log_loss import RegisteredClasses, maximise_likelihood
from ntp_envs import Demonstrations, Policy, PolicyClass
from ntp_envs._numerics import sample_categorical
from ntp_envs._validation import check_in, check_int, check_real

__all__ = ["SCHEDULES", "ScheduledSampling", "truth_probability"]

SCHEDULES = ("linear", "exponential", "inverse sigmoid")


def truth_probability(schedule: str, progress: float, final: float, rate: float = 5.0) -> float:
    """The probability of keeping a demonstrated token in the prefix, from 1 at ``progress=0`` down to ``final`` at 1.

    The three shapes of Bengio et al. 2015 (arXiv:1506.03099), rescaled to end at ``final``: ``1 - s``,
    ``exp(-rate s)``, and ``1 / (1 + exp(rate (2 s - 1)))``, s being the progress in [0, 1].

    >>> [round(truth_probability(kind, 0.5, 0.0), 6) for kind in ("linear", "inverse sigmoid")]
    [0.5, 0.5]
    """
    shape = {
        "linear": lambda s: 1.0 - s,
        "exponential": lambda s: math.exp(-rate * s),
        "inverse sigmoid": lambda s: 1.0 / (1.0 + math.exp(rate * (2.0 * s - 1.0))),
    }[check_in("schedule", schedule, SCHEDULES)]
    fraction = (shape(progress) - shape(1.0)) / (shape(0.0) - shape(1.0))
    return final + (1.0 - final) * fraction


class ScheduledSampling(Agent):
    """Log-loss of the demonstrated tokens after prefixes whose tokens are the learner's own with growing probability.

    Bengio et al. 2015 (arXiv:1506.03099). Round 0 is behaviour cloning. In each later round every token of every
    demonstration is kept in the prefix with the probability of the schedule, else drawn from the current policy given
    the prefix so far; then the class is fitted by log-loss to predict the *demonstrated* token at each position.

    There is no expert to ask: the label at a changed prefix is the token that followed the original one. This makes
    the objective improper (Huszar 2015, arXiv:1511.05101): at ``final=0`` layer h is fitted to the marginal law of
    token h, whatever the prefix, so that even the true model is not a solution. `DAgger` is the remedy.

    ``objective`` of the report is the log-loss of the last round in nats a sequence; ``details["environment_steps"]``
    counts the tokens drawn from the learner, ``details["expert_queries"]`` is 0.

    Args:
        schedule: ``"linear"``, ``"exponential"`` or ``"inverse sigmoid"``, see `truth_probability`.
        rounds: R >= 1.
        final: probability of keeping the demonstrated token in the last round, in [0, 1]; 1 is `agents.LogLossBC`.
        tol: as in `agents.LogLossBC`.

    Raises:
        ValueError: on `fit`, parameters out of range, or a population that is not the complete law.

    >>> from ntp_envs import make_task
    >>> task = make_task("Tightrope", horizon=16, eps=0.01)
    >>> agent = ScheduledSampling(rounds=3).fit(task.population(), task.policy_class)
    >>> agent.policy_.theta, agent.fit_report_.details["expert_queries"]
    (0.01, 0)
    """

    supports = RegisteredClasses(maximise_likelihood)  # type: ignore[assignment]

    def __init__(self, *, schedule: str = "linear", rounds: int = 10, final: float = 0.5, tol: float = 1e-8) -> None:
        self.schedule = schedule
        self.rounds = rounds
        self.final = final
        self.tol = tol

    def unit(self, demonstrations: Demonstrations) -> int | None:
        return None  # changed prefixes: only the complete law will do

    def _fit(
        self, demonstrations: Demonstrations, policy_class: PolicyClass, rng: np.random.Generator
    ) -> tuple[Policy, FitReport]:
        rounds = check_int("rounds", self.rounds, minimum=1)
        final = check_real("final", self.final, minimum=0.0, maximum=1.0)
        tol = check_real("tol", self.tol, minimum=0.0)
        labels = Labels.from_demonstrations(demonstrations)
        policy, report = maximise_likelihood(policy_class, demonstrations, tol=tol)
        drawn, kept = 0, []
        for i in range(1, rounds + 1):
            kept.append(truth_probability(self.schedule, i / rounds, final))
            prefixes = _mixed_prefixes(policy, demonstrations, kept[-1], rng)
            drawn += int((prefixes[1]).sum())
            policy, report = project(policy_class, replace(labels, tokens=prefixes[0]), tol=tol)
        counts = {"expert_queries": 0, "environment_steps": drawn}
        return policy, with_details(report, "log-loss after mixed prefixes", truth_probabilities=kept, **counts)


def _mixed_prefixes(
    policy: Policy, demonstrations: Demonstrations, kept: float, rng: np.random.Generator
) -> tuple[np.ndarray, np.ndarray]:
    """``(n, H)`` tokens, each demonstrated with probability ``kept`` and else drawn; and which ones were drawn."""
    tokens = demonstrations.tokens.copy()
    own = rng.random(tokens.shape) >= kept
    own[:, -1] = False  # no prefix has the last token
    reader = policy.cursor(demonstrations.prompts)
    for h in range(tokens.shape[1] - 1):
        drawn = sample_categorical(reader.log_probs(), rng)
        tokens[:, h] = np.where(own[:, h], drawn, tokens[:, h])
        reader = reader.advance(tokens[:, h])
    return tokens, own

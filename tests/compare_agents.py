"""Agents to compare with, and a task. Not a test module: worker processes import it by name."""

from dataclasses import dataclass

from agents import Agent, ConvergenceWarning, FitReport, LogLossBC
from ntp_envs import ARLinearClass, BernoulliClass
from ntp_envs.checks import NotTractableError
from ntp_envs.tasks import Contamination


class Broken(LogLossBC):
    """Fails on every fit."""

    def _fit(self, demonstrations, policy_class, rng):
        raise ArithmeticError("seven is not eight")


class Curious(Agent):
    """Reports what an interactive learner reports, and that it is not done."""

    def __init__(self, task, queries=7):
        self.task = task
        self.queries = queries

    def _fit(self, demonstrations, policy_class, rng):
        import warnings

        warnings.warn("stopped early", ConvergenceWarning, stacklevel=2)
        details = {"expert_queries": self.queries, "environment_steps": 11}
        return self.task.best_in_class().policy, FitReport(0.0, gap=1.0, converged=False, details=details)


class Random(Agent):
    """Draws its parameter, to see where randomness comes from."""

    supports = (BernoulliClass,)

    def __init__(self, seed_like=0):
        self.seed_like = seed_like

    def _fit(self, demonstrations, policy_class, rng):
        return policy_class.policy(rng.uniform(0.2, 0.8)), FitReport(0.0, gap=0.0)


class Declines(LogLossBC):
    """Finds it too large."""

    def _fit(self, demonstrations, policy_class, rng):
        raise NotTractableError("too large for me.")


class LinearOnly(LogLossBC):
    """Takes one kind of class."""

    supports = (ARLinearClass,)


@dataclass(frozen=True)
class Unknown(Contamination):
    """Whose best in class is not known."""

    eps: float = 0.05

    def best_in_class(self):
        raise NotTractableError("not known.")

"""Learners: everything with a ``fit``. Depends on ``ntp_envs``."""

from agents.base import Agent, ConvergenceWarning, FitReport

__all__ = ["Agent", "ConvergenceWarning", "FitReport"]

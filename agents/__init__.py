"""Learners: everything with a ``fit``. Depends on ``ntp_envs``."""

from agents.base import Agent, BestInClass, ConvergenceWarning, FitReport, NotFittedError
from agents.chunk_kr import ChunkKR, project_onto_ball_and_simplices
from agents.interactive import AdversarialImitation, DAgger, ForwardTraining, OnPolicyDistillation, ScheduledSampling
from agents.log_loss import LayerwiseBC, LogLossBC, NGramBC, SmoothedLogLossBC
from agents.objectives import ClippedRatioBC, TaiLrBC, TotalVariationBC
from agents.perceptron import PerceptronBC
from agents.registry import agent_names, make_agent, register_agent
from agents.rho import ChunkedRhoBC, RhoEstimatorBC
from agents.selection import CrossValidatedBC, FitFailedWarning, TournamentBC, TournamentResult, tournament

__all__ = [
    "AdversarialImitation",
    "Agent",
    "BestInClass",
    "ChunkKR",
    "ChunkedRhoBC",
    "ClippedRatioBC",
    "ConvergenceWarning",
    "CrossValidatedBC",
    "DAgger",
    "FitFailedWarning",
    "FitReport",
    "ForwardTraining",
    "LayerwiseBC",
    "LogLossBC",
    "NGramBC",
    "NotFittedError",
    "OnPolicyDistillation",
    "PerceptronBC",
    "RhoEstimatorBC",
    "ScheduledSampling",
    "SmoothedLogLossBC",
    "TaiLrBC",
    "TotalVariationBC",
    "TournamentBC",
    "TournamentResult",
    "agent_names",
    "make_agent",
    "project_onto_ball_and_simplices",
    "register_agent",
    "tournament",
]

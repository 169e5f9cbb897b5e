"""Learners: everything with a ``fit``. Depends on ``ntp_envs``."""

from agents.base import Agent, ConvergenceWarning, FitReport, NotFittedError
from agents.chunk_kr import ChunkKR, project_onto_ball_and_simplices
from agents.cross_validation import CrossValidatedBC, FitFailedWarning
from agents.interactive import AdversarialImitation, DAgger, ForwardTraining, OnPolicyDistillation, ScheduledSampling
from agents.layerwise import LayerwiseBC
from agents.log_loss import LogLossBC
from agents.ngram_likelihood import NGramBC
from agents.objectives import ClippedRatioBC, TaiLrBC, TotalVariationBC
from agents.oracle import BestInClass
from agents.perceptron import PerceptronBC
from agents.registry import agent_names, make_agent, register_agent
from agents.rho import ChunkedRhoBC, RhoEstimatorBC
from agents.smoothed import SmoothedLogLossBC
from agents.tournament import TournamentBC, TournamentResult, tournament

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

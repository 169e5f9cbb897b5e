"""Learners: everything with a ``fit``. Depends on ``ntp_envs``. A learner is imported when it is first asked for."""

from typing import TYPE_CHECKING, Any

from agents.base import Agent, ConvergenceWarning, FitReport, NotFittedError
from agents.registry import BUILT_IN, agent_names, make_agent, register_agent
from ntp_envs.registry import handed_out

#: what the learners' modules offer besides the learners
_MORE = {
    "FitFailedWarning": "agents.selection:FitFailedWarning",
    "TournamentResult": "agents.selection:TournamentResult",
    "project_onto_ball_and_simplices": "agents.chunk_kr.program:project_onto_ball_and_simplices",
    "tournament": "agents.selection:tournament",
}

if TYPE_CHECKING:  # what type checkers and editors know by its type; any other learner they take as Any
    from agents.base import BestInClass as BestInClass
    from agents.chunk_kr.agent import ChunkKR as ChunkKR
    from agents.chunk_kr.program import project_onto_ball_and_simplices as project_onto_ball_and_simplices
    from agents.interactive import AdversarialImitation as AdversarialImitation
    from agents.interactive import DAgger as DAgger
    from agents.interactive import ForwardTraining as ForwardTraining
    from agents.interactive import OnPolicyDistillation as OnPolicyDistillation
    from agents.interactive import ScheduledSampling as ScheduledSampling
    from agents.log_loss import LayerwiseBC as LayerwiseBC
    from agents.log_loss import LogLossBC as LogLossBC
    from agents.log_loss import NGramBC as NGramBC
    from agents.log_loss import SmoothedLogLossBC as SmoothedLogLossBC
    from agents.objectives import ClippedRatioBC as ClippedRatioBC
    from agents.objectives import JSDPlusTVBC as JSDPlusTVBC
    from agents.objectives import TaiLrBC as TaiLrBC
    from agents.objectives import TotalVariationBC as TotalVariationBC
    from agents.perceptron import PerceptronBC as PerceptronBC
    from agents.rho import ChunkedRhoBC as ChunkedRhoBC
    from agents.rho import RhoEstimatorBC as RhoEstimatorBC
    from agents.selection import CrossValidatedBC as CrossValidatedBC
    from agents.selection import FitFailedWarning as FitFailedWarning
    from agents.selection import NGramDialBC as NGramDialBC
    from agents.selection import TournamentBC as TournamentBC
    from agents.selection import TournamentResult as TournamentResult
    from agents.selection import tournament as tournament

__all__ = ["Agent", "ConvergenceWarning", "FitReport", "NotFittedError", "agent_names", "make_agent", "register_agent"]
__all__ += sorted({**BUILT_IN, **_MORE})


def __getattr__(name: str) -> Any:
    return handed_out(__name__, {**BUILT_IN, **_MORE}, name)


def __dir__() -> list[str]:
    return sorted({*globals(), *BUILT_IN, *_MORE})

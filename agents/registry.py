"""The list of learners, and how one is found: by name, or as ``package.module:Class``.

A new learner is one new file, and one line in `BUILT_IN`. Nothing here imports a learner before it is made.
"""

from __future__ import annotations

import inspect
from typing import Any

from agents.base import Agent
from ntp_envs.registry import Registry, build

ENTRY_POINT_GROUP = "ntp_envs.agents"
BUILT_IN: dict[str, str] = {
    "AdversarialImitation": "agents.interactive:AdversarialImitation",
    "BestInClass": "agents.base:BestInClass",
    "ChunkKR": "agents.chunk_kr.agent:ChunkKR",
    "ChunkedRhoBC": "agents.rho:ChunkedRhoBC",
    "ClippedRatioBC": "agents.objectives:ClippedRatioBC",
    "CrossValidatedBC": "agents.selection:CrossValidatedBC",
    "DAgger": "agents.interactive:DAgger",
    "ForwardTraining": "agents.interactive:ForwardTraining",
    "JSDPlusTVBC": "agents.objectives:JSDPlusTVBC",
    "LayerwiseBC": "agents.log_loss:LayerwiseBC",
    "LogLossBC": "agents.log_loss:LogLossBC",
    "NGramBC": "agents.log_loss:NGramBC",
    "NGramDialBC": "agents.selection:NGramDialBC",
    "OnPolicyDistillation": "agents.interactive:OnPolicyDistillation",
    "PerceptronBC": "agents.perceptron:PerceptronBC",
    "RhoEstimatorBC": "agents.rho:RhoEstimatorBC",
    "ScheduledSampling": "agents.interactive:ScheduledSampling",
    "SmoothedLogLossBC": "agents.log_loss:SmoothedLogLossBC",
    "TaiLrBC": "agents.objectives:TaiLrBC",
    "TotalVariationBC": "agents.objectives:TotalVariationBC",
    "TournamentBC": "agents.selection:TournamentBC",
}
#: found by name, but listed only where the extra is wanted
WITH_AN_EXTRA: dict[str, str] = {
    "NeuralBC": "agents.neural:NeuralBC",
    "NeuralClippedRatioBC": "agents.neural:NeuralClippedRatioBC",
    "NeuralDistillation": "agents.neural:NeuralDistillation",
    "NeuralJSDPlusTVBC": "agents.neural:NeuralJSDPlusTVBC",
    "NeuralRhoBC": "agents.neural:NeuralRhoBC",
    "SB3Agent": "agents.rl:SB3Agent",
}
_agents: Registry[Agent] = Registry(
    "agent",
    group=ENTRY_POINT_GROUP,
    built_in=BUILT_IN,
    accepts=lambda item: isinstance(item, type) and issubclass(item, Agent) and not inspect.isabstract(item),
    requirement="a subclass of agents.Agent that defines _fit",
    elsewhere=WITH_AN_EXTRA,
)


def register_agent(kind: type[Agent]) -> type[Agent]:
    """Make an agent known to `make_agent` under its class name; usable as a decorator."""
    return _agents.register(kind)


def agent_names() -> list[str]:
    """Names that `make_agent` knows, sorted."""
    return _agents.names()


def agent_class(name: str) -> type[Agent]:
    """The agent behind a name, or behind ``package.module:Class``."""
    return _agents.find(name)


def make_agent(name: str, **parameters: Any) -> Agent:
    """Build an agent by name.

    Args:
        name: an agent (`agent_names` lists them; ``NeuralBC``, ``NeuralRhoBC`` and others of `WITH_AN_EXTRA` too, which
            need an extra), or ``package.module:Class`` for one of your own.
        **parameters: its hyper-parameters; the rest keep their defaults.

    Raises:
        ValueError: an unknown name (the nearest is suggested), or a class that cannot be imported.
        TypeError: unknown hyper-parameters (the nearest are suggested), or something that is not an agent.

    >>> make_agent("SmoothedLogLossBC", lam=0.01)
    SmoothedLogLossBC(lam=0.01)
    """
    kind = agent_class(name)
    return build(name, kind, parameters, [*kind._parameter_names(), *kind.RENAMED])

"""Names of agents: built in, registered, from an entry point group, or ``package.module:Class``."""

from __future__ import annotations

import inspect
from typing import Any

from agents.base import Agent, BestInClass
from agents.chunk_kr import ChunkKR
from agents.interactive import AdversarialImitation, DAgger, ForwardTraining, OnPolicyDistillation, ScheduledSampling
from agents.log_loss import LayerwiseBC, LogLossBC, NGramBC, SmoothedLogLossBC
from agents.objectives import ClippedRatioBC, TaiLrBC, TotalVariationBC
from agents.perceptron import PerceptronBC
from agents.rho import ChunkedRhoBC, RhoEstimatorBC
from agents.selection import CrossValidatedBC, TournamentBC
from ntp_envs.registry import Registry, build

ENTRY_POINT_GROUP = "ntp_envs.agents"
BUILT_IN: dict[str, type[Agent]] = {
    kind.__name__: kind
    for kind in (
        AdversarialImitation,
        BestInClass,
        ChunkKR,
        ChunkedRhoBC,
        ClippedRatioBC,
        CrossValidatedBC,
        DAgger,
        ForwardTraining,
        LayerwiseBC,
        LogLossBC,
        NGramBC,
        OnPolicyDistillation,
        PerceptronBC,
        RhoEstimatorBC,
        ScheduledSampling,
        SmoothedLogLossBC,
        TaiLrBC,
        TotalVariationBC,
        TournamentBC,
    )
}
_agents: Registry[Agent] = Registry(
    "agent",
    group=ENTRY_POINT_GROUP,
    built_in=BUILT_IN,
    accepts=lambda item: isinstance(item, type) and issubclass(item, Agent) and not inspect.isabstract(item),
    requirement="a subclass of agents.Agent that defines _fit",
    elsewhere={
        **{name: f"agents.neural:{name}" for name in ("NeuralBC", "NeuralClippedRatioBC", "NeuralRhoBC")},
        "SB3Agent": "agents.rl:SB3Agent",
    },
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
        name: an agent (`agent_names` lists them; ``NeuralBC``, ``NeuralClippedRatioBC``, ``NeuralRhoBC`` and
            ``SB3Agent`` too, which need an extra), or ``package.module:Class`` for one of your own.
        **parameters: its hyper-parameters; the rest keep their defaults.

    Raises:
        ValueError: an unknown name (the nearest is suggested), or a class that cannot be imported.
        TypeError: unknown hyper-parameters (the nearest are suggested), or something that is not an agent.

    >>> make_agent("SmoothedLogLossBC", lam=0.01)
    SmoothedLogLossBC(lam=0.01)
    """
    kind = agent_class(name)
    return build(name, kind, parameters, kind._parameter_names())

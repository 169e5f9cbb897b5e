"""What is compared, and on what."""

from __future__ import annotations

from dataclasses import dataclass

from experiments.options import check_distinct
from experiments.specs import build_agent, build_task, parse_spec, split_specs, takes_horizon
from ntp_envs._validation import check_int

__all__ = ["CompareOptions"]

AGENTS = ("LogLossBC", "SmoothedLogLossBC", "ChunkedRhoBC(chunk=8)", "RhoEstimatorBC")
TASKS = (
    "Contamination(eps=0.01, p=0.0001, q=0.9999, theta_min=0.0001)",
    "RareMode(density_ratio=10)",
    "ConsistencyGame(eps=0.005)",
    "ARLinear(misspecification=0.0)",
)


@dataclass(frozen=True)
class CompareOptions:
    """Agents, tasks and sizes; the defaults are the full study.

    Raises:
        ValueError, TypeError: a spec that cannot be read, an agent or task that does not exist or does not take these
            parameters, a horizon that a task cannot have.
    """

    agents: tuple[str, ...] = AGENTS
    """Agents: names or package.module:Class, each perhaps with parameters, as in "ChunkedRhoBC(chunk=8)"; separated by
    commas or spaces. The baseline joins them."""
    tasks: tuple[str, ...] = TASKS
    """Tasks, in the same form. One whose horizon is set here ("RareMode(horizon=128)"), or is no parameter of it
    (NoisyParity has episodes), is run at that horizon only."""
    horizons: tuple[int, ...] = (16, 32, 64)
    """Horizons H of every other task."""
    n: int = 1000
    """Demonstrations in a data set."""
    seeds: int = 20
    """Data sets for each task and horizon, the same ones for every agent."""
    baseline: str = "LogLossBC"
    """The agent that differences are taken to."""

    def __post_init__(self) -> None:
        check_distinct("horizons", self.horizons)
        check_int("n", self.n, minimum=1)
        check_int("seeds", self.seeds, minimum=1)
        (baseline, *more) = _canonical("baseline", (self.baseline,))
        if more:
            raise ValueError(f"baseline={self.baseline!r} must be one agent.")
        agents = _canonical("agents", self.agents)
        tasks = _canonical("tasks", self.tasks)
        put = lambda name, value: object.__setattr__(self, name, value)  # noqa: E731
        put("baseline", baseline)
        put("agents", tuple(agents) if baseline in agents else (baseline, *agents))
        put("tasks", tuple(tasks))
        built = [build_task(task, horizon) for task, horizon in self.places()]
        for agent in self.agents:
            build_agent(agent, built[0])

    def places(self) -> list[tuple[str, int | None]]:
        """Tasks and the horizon each is to be built at; ``None`` where the task itself sets it."""
        return [
            (task, horizon)
            for task in self.tasks
            for horizon in (sorted(self.horizons) if takes_horizon(task) else (None,))
        ]

    @classmethod
    def quick(cls) -> CompareOptions:
        """Well under a minute on two cores."""
        return cls(horizons=(16, 64), seeds=5)


def _canonical(name: str, words: tuple[str, ...]) -> list[str]:
    """One text for each spec, however it was written."""
    specs = [str(parse_spec(text)) for text in split_specs(words)]
    if not specs:
        raise ValueError(f"{name} is empty; at least one is needed.")
    for spec in specs:
        if specs.count(spec) > 1:
            raise ValueError(f"{name} has {spec!r} twice.")
    return specs

"""Names of task families: built in, registered, from an entry point group, or ``package.module:Class``."""

from __future__ import annotations

import dataclasses
from typing import Any

from ntp_envs.registry import Registry, build
from ntp_envs.tasks.ar_linear import ARLinear
from ntp_envs.tasks.base import Task
from ntp_envs.tasks.bernoulli import BernoulliMixture, Contamination
from ntp_envs.tasks.games import ConsistencyGame, HalvingGame
from ntp_envs.tasks.multiplication import ColumnAddition, Multiplication
from ntp_envs.tasks.parity import NoisyParity, ParityCoT, ParityMix
from ntp_envs.tasks.path_star import PathStar
from ntp_envs.tasks.rare_mode import RareMode
from ntp_envs.tasks.snowball import Snowball
from ntp_envs.tasks.text import Text
from ntp_envs.tasks.tightrope import Tightrope
from ntp_envs.tasks.turing_machine import TuringMachine

ENTRY_POINT_GROUP = "ntp_envs.tasks"
BUILT_IN: dict[str, type[Task]] = {
    family.__name__: family
    for family in (
        ARLinear,
        BernoulliMixture,
        ColumnAddition,
        ConsistencyGame,
        Contamination,
        HalvingGame,
        Multiplication,
        NoisyParity,
        ParityCoT,
        ParityMix,
        PathStar,
        RareMode,
        Snowball,
        Text,
        Tightrope,
        TuringMachine,
    )
}
_tasks: Registry[Task] = Registry(
    "task",
    group=ENTRY_POINT_GROUP,
    built_in=BUILT_IN,
    accepts=lambda item: isinstance(item, type) and issubclass(item, Task) and dataclasses.is_dataclass(item),
    requirement="a frozen dataclass that subclasses ntp_envs.Task",
)
_registered = _tasks.registered


def register_task(family: type[Task]) -> type[Task]:
    """Make a family known to `make_task` under its class name; usable as a decorator."""
    return _tasks.register(family)


def task_names() -> list[str]:
    """Names that `make_task` knows, sorted."""
    return _tasks.names()


def task_class(name: str) -> type[Task]:
    """The family behind a name, or behind ``package.module:Class``."""
    return _tasks.find(name)


def make_task(name: str, **parameters: Any) -> Task:
    """Build a task by name.

    Args:
        name: a family (`task_names` lists them), or ``package.module:Class`` for one of your own.
        **parameters: the family's parameters; the rest keep their defaults.

    Raises:
        ValueError: an unknown name (the nearest is suggested), or a parameter out of range.
        TypeError: unknown parameters (the nearest are suggested), or one of the wrong type.

    >>> make_task("Contamination", horizon=8).vocab_size
    2
    """
    family = task_class(name)
    return build(name, family, parameters, [field.name for field in dataclasses.fields(family) if field.init])  # type: ignore[arg-type]

"""The list of task families, and how one is found: by name, or as ``package.module:Class``.

A new family is one new file, and one line in `BUILT_IN`. Nothing here imports a family before it is made.
"""

from __future__ import annotations

import dataclasses
from typing import Any

from ntp_envs.registry import Registry, build
from ntp_envs.tasks.base import Task

ENTRY_POINT_GROUP = "ntp_envs.tasks"
BUILT_IN: dict[str, str] = {
    "ARLinear": "ntp_envs.tasks.ar_linear:ARLinear",
    "BernoulliMixture": "ntp_envs.tasks.bernoulli:BernoulliMixture",
    "ColumnAddition": "ntp_envs.tasks.multiplication:ColumnAddition",
    "ConsistencyGame": "ntp_envs.tasks.games:ConsistencyGame",
    "Contamination": "ntp_envs.tasks.bernoulli:Contamination",
    "Documents": "ntp_envs.tasks.documents:Documents",
    "HalvingGame": "ntp_envs.tasks.games:HalvingGame",
    "Multiplication": "ntp_envs.tasks.multiplication:Multiplication",
    "NoisyParity": "ntp_envs.tasks.parity:NoisyParity",
    "ParityCoT": "ntp_envs.tasks.parity:ParityCoT",
    "ParityMix": "ntp_envs.tasks.parity:ParityMix",
    "PathStar": "ntp_envs.tasks.path_star:PathStar",
    "RareMode": "ntp_envs.tasks.rare_mode:RareMode",
    "Snowball": "ntp_envs.tasks.snowball:Snowball",
    "Text": "ntp_envs.tasks.text:Text",
    "Tightrope": "ntp_envs.tasks.tightrope:Tightrope",
    "TuringMachine": "ntp_envs.tasks.turing_machine:TuringMachine",
}
#: found by name and given an id, but listed only where the extra is wanted; it has no defaults to be made from
WITH_AN_EXTRA: dict[str, str] = {"LanguageModel": "ntp_envs.tasks.language_model:LanguageModel"}
_tasks: Registry[Task] = Registry(
    "task",
    group=ENTRY_POINT_GROUP,
    built_in=BUILT_IN,
    accepts=lambda item: isinstance(item, type) and issubclass(item, Task) and dataclasses.is_dataclass(item),
    requirement="a frozen dataclass that subclasses ntp_envs.Task",
    elsewhere=WITH_AN_EXTRA,
)


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

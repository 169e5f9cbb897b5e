"""Gymnasium ids: ``ntp/<Family>-v0`` for every task family, registered when ``ntp_envs`` is imported."""

from __future__ import annotations

import gymnasium as gym
from gymnasium.envs.registration import EnvSpec

from ntp_envs.checks import did_you_mean
from ntp_envs.tasks.base import Task
from ntp_envs.tasks.registry import WITH_AN_EXTRA, register_task, task_names

NAMESPACE = "ntp"
VERSION = 0  # changes when learning results could


def environment_id(family: str) -> str:
    """The id of a family.

    >>> environment_id("Contamination")
    'ntp/Contamination-v0'
    """
    return f"{NAMESPACE}/{family.rpartition(':')[2]}-v{VERSION}"


def register_environment(task_family: type[Task] | str) -> str:
    """Give a task family a Gymnasium id, single and vectorised, and return the id. Doing it again changes nothing.

    Args:
        task_family: a `Task` class (which `make_task` then knows too), the name of a known family, or
            ``package.module:Class``. A name is not imported before an environment is made.

    Raises:
        TypeError: a class that is not a frozen dataclass deriving from `Task`.
        ValueError: an unknown name, or an id that already belongs to something else.

    >>> register_environment("Contamination")
    'ntp/Contamination-v0'
    """
    if isinstance(task_family, str):
        name = task_family
        known = [*task_names(), *WITH_AN_EXTRA]
        if ":" not in name and name not in known:
            raise ValueError(f"unknown task {name!r}.{did_you_mean(name, known)}")
    else:
        name = register_task(task_family).__name__
    return _register(name)


def _register(name: str) -> str:
    """An id for a family whose name is known."""
    spec = EnvSpec(
        environment_id(name),
        entry_point="ntp_envs.env:TokenEnv",
        vector_entry_point="ntp_envs.vector_env:TokenVectorEnv",
        kwargs={"task": name},
    )
    found = gym.registry.get(spec.id)
    if found is not None and found != spec:
        raise ValueError(
            f"{spec.id} is already registered, with entry point {found.entry_point!r} and {found.kwargs}; "
            "give the family another class name."
        )
    if found is None:
        gym.register(
            spec.id, entry_point=spec.entry_point, vector_entry_point=spec.vector_entry_point, kwargs=spec.kwargs
        )
    return spec.id


def register_known() -> None:
    """Register every family known by name: built in, or announced by an installed package (which is not imported)."""
    for name in (*task_names(), *WITH_AN_EXTRA):  # once: what is installed is looked through for it
        if environment_id(name) not in gym.registry:
            _register(name)

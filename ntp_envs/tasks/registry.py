"""Names of task families: built in, registered, from an entry point group, or ``package.module:Class``."""

from __future__ import annotations

import dataclasses
import importlib
from importlib.metadata import entry_points
from typing import Any

from ntp_envs._validation import did_you_mean
from ntp_envs.tasks.base import Task
from ntp_envs.tasks.contamination import Contamination

__all__ = ["BUILT_IN", "ENTRY_POINT_GROUP", "make_task", "register_task", "task_class", "task_names"]

ENTRY_POINT_GROUP = "ntp_envs.tasks"
BUILT_IN: dict[str, type[Task]] = {family.__name__: family for family in (Contamination,)}
_registered: dict[str, type[Task]] = {}


def register_task(family: type[Task]) -> type[Task]:
    """Make a family known to `make_task` under its class name; usable as a decorator."""
    if not (isinstance(family, type) and issubclass(family, Task) and dataclasses.is_dataclass(family)):
        raise TypeError(f"{family!r} must be a frozen dataclass that subclasses ntp_envs.Task.")
    _registered[family.__name__] = family
    return family


def _entry_points() -> dict[str, Any]:
    return {point.name: point for point in entry_points(group=ENTRY_POINT_GROUP)}


def task_names() -> list[str]:
    """Names that `make_task` knows, sorted."""
    return sorted({*BUILT_IN, *_registered, *_entry_points()})


def task_class(name: str) -> type[Task]:
    """The family behind a name, or behind ``package.module:Class``."""
    if name in BUILT_IN:
        return BUILT_IN[name]
    if name in _registered:
        return _registered[name]
    if ":" in name:
        module, _, attribute = name.partition(":")
        try:
            return getattr(importlib.import_module(module), attribute)
        except (ImportError, AttributeError) as error:
            raise ValueError(f"task {name!r} cannot be imported: {error}.") from error
    points = _entry_points()
    if name in points:
        return points[name].load()
    raise ValueError(f"unknown task {name!r}.{did_you_mean(name, task_names())}")


def make_task(name: str, **parameters: Any) -> Task:
    """Build a task by name.

    Args:
        name: a family (`task_names` lists them), or ``package.module:Class`` for one of your own.
        **parameters: the family's parameters; the rest keep their defaults.

    Raises:
        ValueError: unknown name or parameter (the nearest is suggested), or a parameter out of range.

    >>> make_task("Contamination", horizon=8).vocab_size
    2
    """
    family = task_class(name)
    known = [field.name for field in dataclasses.fields(family) if field.init]  # type: ignore[arg-type]
    for parameter in parameters:
        if parameter not in known:
            raise ValueError(f"{name} has no parameter {parameter!r}.{did_you_mean(parameter, known)}")
    return family(**parameters)

"""Finding classes by name: built in, registered, from an entry point group, or ``package.module:Class``."""

from __future__ import annotations

import importlib
import os
import sys
from collections.abc import Callable, Iterable, Mapping
from importlib.metadata import EntryPoint, entry_points
from pathlib import Path
from typing import Any, Generic, TypeVar

from ntp_envs.checks import check_keywords, did_you_mean

T = TypeVar("T")


class Registry(Generic[T]):
    """The classes of one kind, by name. Nothing is imported before it is asked for.

    Args:
        kind: what they are called in messages, such as ``"task"``.
        group: entry point group through which other packages offer theirs.
        built_in: the suite's own, as ``package.module:Class`` by name; read at every look-up.
        accepts: whether an object is a class of this kind.
        requirement: in words, what ``accepts`` wants.
        elsewhere: more of the suite's own, which need an extra; found, but not among `names`.
    """

    def __init__(
        self,
        kind: str,
        *,
        group: str,
        built_in: Mapping[str, str],
        accepts: Callable[[Any], bool],
        requirement: str,
        elsewhere: Mapping[str, str] | None = None,
    ) -> None:
        self.kind, self.group, self.built_in = kind, group, built_in
        self.accepts, self.requirement = accepts, requirement
        self.elsewhere = elsewhere or {}
        self.registered: dict[str, type[T]] = {}

    def register(self, item: type[T]) -> type[T]:
        """Make a class known under its own name, and return it; a second one of that name replaces the first."""
        self._check(item)
        name, place = item.__name__, f"{item.__module__}:{item.__qualname__}"
        if self.built_in.get(name, place) != place:
            raise ValueError(f"{name} is the name of a built-in {self.kind}; give yours another.")
        self.registered[name] = item
        return item

    def names(self) -> list[str]:
        """Every known name, sorted."""
        return sorted({*self.built_in, *self.registered, *self._entry_points()})

    def find(self, name: str) -> type[T]:
        """The class behind a name.

        Raises:
            ValueError: an unknown name (the nearest is suggested), or one that cannot be imported.
            TypeError: what the name leads to is not of this kind.
        """
        place = self.built_in.get(name)
        if place is None and name in self.registered:
            return self.registered[name]
        place = place or self.elsewhere.get(name, name)
        if ":" in place:
            try:
                return self._check(imported(place))
            except (ImportError, AttributeError, ValueError) as error:
                raise ValueError(f"{self.kind} {name!r} cannot be imported: {error}.{_lies_here(place)}") from error
        points = self._entry_points()
        if name in points:
            try:
                return self._check(points[name].load())
            except (ImportError, AttributeError) as error:
                raise ValueError(f"{self.kind} {name!r}, installed as {points[name].value}: {error}.") from error
        raise ValueError(f"unknown {self.kind} {name!r}.{did_you_mean(name, [*self.names(), *self.elsewhere])}")

    def _entry_points(self) -> dict[str, EntryPoint]:
        return {point.name: point for point in entry_points(group=self.group)}

    def _check(self, item: Any) -> type[T]:
        if not self.accepts(item):
            raise TypeError(f"{item!r} must be {self.requirement}.")
        return item


def imported(place: str) -> Any:
    """What ``package.module:name`` says."""
    module, _, name = place.partition(":")
    return getattr(importlib.import_module(module), name)


def _lies_here(place: str) -> str:
    """What to do about a module that lies in the current folder, where an installed command does not look."""
    file = f"{place.partition(':')[0].partition('.')[0]}.py"
    if not Path(file).is_file() or "" in sys.path or os.getcwd() in sys.path:
        return ""
    return (
        f" {file} is in the current folder, where a command that is installed does not look: set PYTHONPATH=. for it."
    )


def handed_out(package: str, places: Mapping[str, str], name: str) -> Any:
    """A package's attribute that is imported when first asked for: the body of its ``__getattr__``."""
    if name not in places:
        raise AttributeError(f"module {package!r} has no attribute {name!r}", name=name, obj=sys.modules[package])
    value = imported(places[name])
    setattr(sys.modules[package], name, value)  # the next look-up is an ordinary one
    return value


def build(name: str, make: Callable[..., T], parameters: Mapping[str, Any], known: Iterable[str]) -> T:
    """``make(**parameters)``, after an error with the nearest names for parameters that are not known."""
    check_keywords(f"{name}()", parameters, known)
    return make(**parameters)

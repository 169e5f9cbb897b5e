"""Agents and tasks as they are written on the command line: a name, perhaps with parameters in parentheses."""

from __future__ import annotations

import ast
import dataclasses
import inspect
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from agents import Agent, make_agent
from agents.registry import agent_class
from ntp_envs import Task, make_task
from ntp_envs.tasks.registry import task_class

__all__ = ["Spec", "build_agent", "build_task", "parse_spec", "short_names", "split_specs", "takes_horizon"]

NAME = re.compile(r"[\w.\-]+(:[\w.]+)?")
EXAMPLE = "write Name, package.module:Class, or either with parameters, as in \"ChunkedRhoBC(chunk=8, tau='psi')\""
OPENING, CLOSING = "([{", ")]}"


@dataclass(frozen=True)
class Spec:
    """A name and keyword arguments; as text, the arguments are in alphabetical order.

    >>> str(parse_spec("Contamination(horizon=8,  eps=.01)"))
    'Contamination(eps=0.01, horizon=8)'
    """

    name: str
    parameters: tuple[tuple[str, Any], ...] = ()

    def __str__(self) -> str:
        arguments = ", ".join(f"{name}={value!r}" for name, value in self.parameters)
        return f"{self.name}({arguments})" if arguments else self.name


def parse_spec(text: str) -> Spec:
    """Read ``Name``, ``package.module:Class``, or either with keyword arguments that are Python literals.

    Nothing is evaluated: arguments go through `ast.literal_eval`.

    Raises:
        ValueError: anything else; the message says what and shows the form.
    """

    def wrong(reason: str) -> ValueError:
        return ValueError(f"{text!r} cannot be read: {reason}; {EXAMPLE}.")

    name, parenthesis, rest = text.strip().partition("(")
    if not NAME.fullmatch(name.strip()):
        raise wrong(f"{name.strip()!r} is not a name")
    if not parenthesis:
        return Spec(name.strip())
    try:
        call = ast.parse(f"f({rest}", mode="eval").body
    except (SyntaxError, ValueError, RecursionError, MemoryError) as error:
        raise wrong(error.msg if isinstance(error, SyntaxError) else str(error)) from None
    if not isinstance(call, ast.Call) or not isinstance(call.func, ast.Name):
        raise wrong("there is something after the closing parenthesis")
    if call.args or any(keyword.arg is None for keyword in call.keywords):
        raise wrong("parameters are given by name")
    parameters: dict[str, Any] = {}
    for keyword in call.keywords:
        key = str(keyword.arg)
        if key in parameters:
            raise wrong(f"{key} is given twice")
        try:
            parameters[key] = ast.literal_eval(keyword.value)
        except (ValueError, TypeError, RecursionError, MemoryError):
            value = ast.unparse(keyword.value)
            raise wrong(f"{key}={value} is not a number, string, list or other literal (text needs quotes)") from None
    return Spec(name.strip(), tuple(sorted(parameters.items())))


def split_specs(words: Iterable[str]) -> list[str]:
    """Words of the command line, each of which may hold several specs with commas between them.

    Commas inside parentheses, brackets or quotes belong to a spec.

    >>> split_specs(["A,B(c=1, d='x,y')", "E"])
    ['A', "B(c=1, d='x,y')", 'E']
    """
    return [piece.strip() for word in words for piece in _pieces(word) if piece.strip()]


def _pieces(word: str) -> Iterator[str]:
    depth, quote, start, escaped = 0, "", 0, False
    for place, letter in enumerate(word):
        if quote:
            quote = "" if letter == quote and not escaped else quote
            escaped = letter == "\\" and not escaped
        elif letter in "'\"":
            quote = letter
        elif letter in OPENING:
            depth += 1
        elif letter in CLOSING:
            depth -= 1
        elif letter == "," and depth == 0:
            yield word[start:place]
            start = place + 1
    yield word[start:]


def short_names(tasks: Sequence[str]) -> dict[str, str]:
    """Tasks without their parameters where that tells them apart."""
    names = [parse_spec(task).name for task in tasks]
    return {task: name if names.count(name) == 1 else task for task, name in zip(tasks, names, strict=True)}


def build_agent(text: str, task: Task) -> Agent:
    """The agent of a spec. One that needs a parameter ``task`` (an interactive learner, the oracle) is given the task.

    Raises:
        ValueError, TypeError: as `agents.make_agent`, or for a parameter without a value; the message has the spec.
    """
    spec = parse_spec(text)
    given = dict(spec.parameters)
    wanted = inspect.signature(agent_class(spec.name).__init__).parameters.get("task")
    if wanted is not None and wanted.default is inspect.Parameter.empty:
        given.setdefault("task", task)
    try:
        return make_agent(spec.name, **given)
    except TypeError as error:
        raise TypeError(f"agent {text}: {error}.") from error


def takes_horizon(text: str) -> bool:
    """Whether the horizon of this task is left open and can be set: it is a parameter, and the spec has no value."""
    spec = parse_spec(text)
    fields = [field.name for field in dataclasses.fields(task_class(spec.name)) if field.init]  # type: ignore[arg-type]
    return "horizon" in fields and "horizon" not in dict(spec.parameters)


def build_task(text: str, horizon: int | None = None) -> Task:
    """The task of a spec, at a horizon if one is given.

    Raises:
        ValueError, TypeError: as `ntp_envs.make_task`; the message has the spec.
    """
    spec = parse_spec(text)
    given = {**dict(spec.parameters), **({} if horizon is None else {"horizon": horizon})}
    task_class(spec.name)  # an unknown name is reported as it is
    try:
        return make_task(spec.name, **given)
    except (ValueError, TypeError) as error:
        raise type(error)(f"task {text}{'' if horizon is None else f' at horizon {horizon}'}: {error}") from error

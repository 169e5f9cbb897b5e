"""Agents and tasks as they are written on the command line, and ``ntp-bench evaluate``, which looks at one."""

from __future__ import annotations

import ast
import dataclasses
import inspect
import json
import re
import warnings
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import tyro
from rich.console import Console
from rich.markup import escape
from rich.table import Table as RichTable

from agents import Agent, ConvergenceWarning, make_agent
from agents.registry import agent_class
from experiments.terminal import plain
from ntp_envs import Policy, PolicyClass, Task, collect, ended_class, make_task
from ntp_envs.checks import check_int
from ntp_envs.evaluation import BY_POSITION, Evaluation, evaluate
from ntp_envs.intervals import CONFIDENCE, check_confidence
from ntp_envs.registry import imported
from ntp_envs.tasks.registry import task_class

# -- calls: the name of a class, perhaps with keyword arguments ------------------------------------------------------

NAME = re.compile(r"[\w.\-]+(:[\w.]+)?")
EXAMPLE = "write Name, package.module:Class, or either with parameters, as in \"ChunkedRhoBC(chunk=8, tau='psi')\""
OPENING, CLOSING = "([{", ")]}"


@dataclass(frozen=True, repr=False)
class Call:
    """A name and keyword arguments; as text, the arguments are in alphabetical order.

    >>> parse_call("Contamination(horizon=8,  eps=.01)"), parse_call("TournamentBC([LogLossBC, NGramBC(order=2)])")
    (Contamination(eps=0.01, horizon=8), TournamentBC(agents=[LogLossBC, NGramBC(order=2)]))
    """

    name: str
    parameters: tuple[tuple[str, Any], ...] = ()

    def __str__(self) -> str:
        arguments = ", ".join(f"{name}={value!r}" for name, value in self.parameters)
        return f"{self.name}({arguments})" if arguments else self.name

    def __repr__(self) -> str:
        """As it stands inside of another: ``package.module.Class``, as Python would write it."""
        return str(self).replace(":", ".", 1) if ":" in self.name else str(self)


def parse_call(text: str) -> Call:
    """Read ``Name``, ``package.module:Class``, or either with keyword arguments: Python literals, or calls in turn.

    Nothing is evaluated: literals go through `ast.literal_eval`, and a call inside of another names an agent, as
    ``Name(...)`` or ``package.module.Class(...)``. An agent's arguments may be given by place.

    Raises:
        ValueError: anything else; the message says what and shows the form.
    """

    def wrong(reason: str) -> ValueError:
        return ValueError(f"{text!r} cannot be read: {reason}; {EXAMPLE}.")

    name, parenthesis, rest = text.strip().partition("(")
    if not NAME.fullmatch(name.strip()):
        raise wrong(f"{name.strip()!r} is not a name")
    if not parenthesis:
        return Call(name.strip())
    try:
        tree = ast.parse(f"f({rest}", mode="eval").body
    except (SyntaxError, ValueError, RecursionError, MemoryError) as error:
        raise wrong(error.msg if isinstance(error, SyntaxError) else str(error)) from None
    if not isinstance(tree, ast.Call) or not isinstance(tree.func, ast.Name):
        raise wrong("there is something after the closing parenthesis")
    return Call(name.strip(), _arguments(name.strip(), tree, wrong))


def _arguments(name: str, tree: ast.Call, wrong: Callable[[str], ValueError]) -> tuple[tuple[str, Any], ...]:
    """Names and values, sorted; those given by place get the names that the agent has for them."""
    given: list[tuple[str | None, ast.expr]] = [(keyword.arg, keyword.value) for keyword in tree.keywords]
    if tree.args:
        known: list[str] = []
        with suppress(Exception):  # no agent
            known = agent_class(name)._parameter_names()
        given = [*zip((*known[: len(tree.args)], *[None] * len(tree.args)), tree.args), *given]
    parameters: dict[str, Any] = {}
    for key, node in given:
        if key is None or isinstance(node, ast.Starred):
            raise wrong("parameters are given by name")
        if key in parameters:
            raise wrong(f"{key} is given twice")
        try:
            parameters[key] = _value(node, wrong)
        except (TypeError, RecursionError, MemoryError, SyntaxError):
            unreadable = f"{key}={ast.unparse(node)} is not a number, string, list or other literal (text needs quotes)"
            raise wrong(unreadable) from None
    return tuple(sorted(parameters.items()))


def _value(node: ast.expr, wrong: Callable[[str], ValueError]) -> Any:
    """A literal, a call, or a list or dictionary of them; ``TypeError`` for anything else."""
    if isinstance(node, (ast.List, ast.Tuple)):
        found = [_value(one, wrong) for one in node.elts]
        return found if isinstance(node, ast.List) else tuple(found)
    if isinstance(node, ast.Dict) and all(key is not None for key in node.keys):
        return {ast.literal_eval(key): _value(one, wrong) for key, one in zip(node.keys, node.values)}  # type: ignore[arg-type]
    name = ast.unparse(node.func if isinstance(node, ast.Call) else node)
    module, _, kind = name.rpartition(".")
    if NAME.fullmatch(name) and kind[:1].isupper() and not isinstance(node, ast.Constant):
        own = f"{module}:{kind}" if module else kind
        return Call(own, _arguments(own, node, wrong) if isinstance(node, ast.Call) else ())
    try:
        return ast.literal_eval(node)
    except ValueError as error:
        raise TypeError(str(error)) from error


def split_calls(words: Iterable[str]) -> list[str]:
    """Words of the command line, each of which may hold several calls with commas between them.

    Commas inside parentheses, brackets or quotes belong to a call.

    >>> split_calls(["A,B(c=1, d='x,y')", "E"])
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
    names = [parse_call(task).name for task in tasks]
    return {task: name if names.count(name) == 1 else task for task, name in zip(tasks, names, strict=True)}


def named_code(text: str) -> tuple[str, ...]:
    """``"package.module:Class"`` of the agent or task of a call, and of those that its parameters name."""

    def names(value: Any) -> Iterator[str]:
        if isinstance(value, str):
            with suppress(Exception):  # most strings name nothing
                yield value if ":" in value else parse_call(value).name
        elif isinstance(value, Call):
            yield from (value.name, *names([one for _, one in value.parameters]))
        elif isinstance(value, (list, tuple, set, dict)):
            for one in (*value, *(value.values() if isinstance(value, dict) else ())):
                yield from names(one)

    call, found = parse_call(text), []
    for name in (call.name, *names([value for _, value in call.parameters])):
        for find in (agent_class, task_class):
            with suppress(Exception):
                kind = find(name)
                found.append(f"{kind.__module__}:{kind.__qualname__}")
                break
    return tuple(dict.fromkeys(found))


def build_agent(text: str, task: Task) -> Agent:
    """The agent of a call. One that needs a parameter ``task`` (an interactive learner, the oracle) is given the task.

    Raises:
        ValueError, TypeError: as `agents.make_agent`, or for a parameter without a value; the message has the call.
    """

    def made(value: Any) -> Any:
        if isinstance(value, (list, tuple)):
            return type(value)(map(made, value))
        if isinstance(value, dict):
            return {key: made(one) for key, one in value.items()}
        if not isinstance(value, Call):
            return value
        given = {key: made(one) for key, one in value.parameters}
        wanted = inspect.signature(agent_class(value.name).__init__).parameters.get("task")
        if wanted is not None and wanted.default is inspect.Parameter.empty:
            given.setdefault("task", task)
        return make_agent(value.name, **given)

    try:
        return made(parse_call(text))
    except (ValueError, TypeError) as error:
        raise type(error)(f"agent {text}: {str(error).removesuffix('.')}.") from error


def takes_horizon(text: str) -> bool:
    """Whether the horizon of this task is left open and can be set: it is a parameter, and the call has no value."""
    call = parse_call(text)
    fields = [field.name for field in dataclasses.fields(task_class(call.name)) if field.init]  # type: ignore[arg-type]
    return "horizon" in fields and "horizon" not in dict(call.parameters)


def build_task(text: str, horizon: int | None = None) -> Task:
    """The task of a call, at a horizon if one is given.

    Raises:
        ValueError, TypeError: as `ntp_envs.make_task`; the message has the call.
    """
    call = parse_call(text)
    given = {**dict(call.parameters), **({} if horizon is None else {"horizon": horizon})}
    task_class(call.name)  # an unknown name is reported as it is
    try:
        return make_task(call.name, **given)
    except (ValueError, TypeError) as error:
        raise type(error)(f"task {text}{'' if horizon is None else f' at horizon {horizon}'}: {error}") from error


# -- ``ntp-bench evaluate``: fit an agent, or take the expert or a saved one, and look ---------------------------------

EXPERT = "expert"
SHOWN_POSITIONS = 12


@dataclass(frozen=True)
class EvaluateSettings:
    """What a policy gets right: with the true prefix, and writing on its own."""

    task: Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="TASK")]
    """A task, perhaps with parameters: "PathStar(degree=2, length=5)"."""
    agent: Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="AGENT")] = EXPERT
    """Who is evaluated: "expert", or an agent that is fitted to demonstrations, such as "LogLossBC(tol=1e-6)"."""
    load: Path | None = None
    """A fitted agent written by Agent.save, instead of a fit."""
    trusted: tuple[str, ...] = ()
    """Classes of others that the file to load may hold, as package.module:Class; those of ntp-envs need no mention."""
    allow_pickle: bool = False
    """Load (or save) as a pickle what is kept in no other way; loading one runs the code in it: trust who wrote it."""
    network: str | None = None
    """The policy class as a network instead of the task's own class, such as "transformer(width=64, layers=3)"."""
    demonstrations: int = 2000
    """Demonstrations to learn from."""
    n: int = 1000
    """Fresh demonstrations to evaluate on."""
    confidence: float = CONFIDENCE
    """Level of every interval shown, between 0 and 1."""
    backtrack: int | None = None
    """Also decode with the task's verifier, going back this many tokens where it says no."""
    samples: int = 2
    """Prompts to show with what was written after them."""
    seed: int = 0
    """Of everything that is drawn."""
    save: Path | None = None
    """Where to keep the fitted agent."""
    json: Path | None = None
    """Where to write all numbers, by position too."""

    def __post_init__(self) -> None:
        for name, minimum in (("demonstrations", 1), ("n", 2), ("samples", 0), ("seed", 0)):
            check_int(name, getattr(self, name), minimum=minimum)
        check_confidence(self.confidence)
        if self.backtrack is not None:
            check_int("backtrack", self.backtrack, minimum=1)
        if self.load is not None and self.agent != EXPERT:
            raise ValueError(f"--load {self.load} brings its own agent; leave {self.agent!r} out.")
        if self.load is None and self.trusted:
            raise ValueError("--trusted says how to --load an agent; name its file.")
        if self.save is not None and (self.load is not None or self.agent == EXPERT):
            raise ValueError(f"--save {self.save} keeps a fitted agent; name one to be fitted, such as LogLossBC.")
        for name in ("save", "json"):
            path = getattr(self, name)
            if path is not None and not path.absolute().parent.is_dir():
                raise ValueError(f"--{name} {path}: there is no folder {path.absolute().parent}.")


def parse_evaluate(words: list[str]) -> EvaluateSettings:
    """Settings from the words after ``ntp-bench evaluate``."""
    return tyro.cli(EvaluateSettings, args=words, prog="ntp-bench evaluate", config=(tyro.conf.FlagCreatePairsOff,))


def network_class(text: str, task: Task) -> PolicyClass:
    """The `agents.neural.NetworkClass` of ``architecture(option=...)`` for a task, of texts that end where its do.

    Raises:
        ValueError: no such architecture or option, or torch is missing (the message names the extra).
    """
    call = parse_call(text)
    try:
        from agents.neural import NetworkClass
    except ImportError as error:
        raise ValueError(str(error)) from error
    try:
        found = NetworkClass.for_task(call.name, task, **dict(call.parameters))
        return ended_class(found, task.end_token)
    except TypeError as error:
        raise ValueError(f"network {text}: {error}.") from error


def run_evaluate(settings: EvaluateSettings) -> tuple[Evaluation, Agent | None]:
    """Fit or load, and evaluate; the agent is ``None`` for the expert.

    Raises:
        ValueError, TypeError: an unknown task, agent or network, a file that is not an agent, a policy that does not
            fit the task.
    """
    task = build_task(settings.task)
    if settings.backtrack is not None and not task.has_verifier:
        raise ValueError(f"{task.name} has no verifier to backtrack with; leave --backtrack out.")
    fit_rng, rng = (np.random.default_rng([settings.seed, stream]) for stream in range(2))
    policy: Policy
    agent: Agent | None = None
    if settings.load is not None:
        agent = Agent.load(
            settings.load, trusted=[_named(place) for place in settings.trusted], allow_pickle=settings.allow_pickle
        )
        policy = agent.policy_
    elif settings.agent == EXPERT:
        policy = task.expert
    else:
        agent = build_agent(settings.agent, task)
        policy_class = task.policy_class if settings.network is None else network_class(settings.network, task)
        demonstrations = collect(task, settings.demonstrations, fit_rng, expert_log_probs=agent.needs_expert_log_probs)
        policy = agent.fit(demonstrations, policy_class, rng=fit_rng).policy_
        if settings.save is not None:
            agent.save(settings.save, allow_pickle=settings.allow_pickle)
    found = evaluate(policy, task, n=settings.n, rng=rng, samples=settings.samples, backtrack=settings.backtrack)
    if settings.json is not None:
        text = json.dumps(_plain(found, settings.confidence), indent=1) + "\n"
        try:
            settings.json.write_text(text, encoding="utf-8")
        except OSError as error:
            raise OSError(f"--json {settings.json} cannot be written ({error.strerror or error}).") from error
    return found, agent


def _named(place: str) -> Any:
    """The class of ``package.module:Class``, a word of the user's."""
    try:
        return imported(place)
    except (ImportError, AttributeError, ValueError) as error:
        raise ValueError(f"--trusted {place}: there is no such class ({error}); write package.module:Class.") from error


def _plain(found: Evaluation, confidence: float) -> dict[str, Any]:
    """All numbers as JSON has them, with intervals of this level; infinite ones as text."""
    told: dict[str, Any] = {"task": found.task, "n": found.n, "confidence": confidence}
    told |= {name: getattr(found, name) for name in ("caveat", "unknown_share")}
    told |= {"totals": found.totals(confidence=confidence), "positions": found.rows()}
    return plain({**told, "samples": [sample._asdict() for sample in found.samples]}, missing="nan")


def show_evaluation(words: list[str]) -> int:
    """The command: parse, run, print. Errors of use are raised as ``ValueError`` or ``TypeError``."""
    settings = parse_evaluate(words)
    stdout, stderr = Console(highlight=False), Console(stderr=True, highlight=False)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always", ConvergenceWarning)
        found, agent = run_evaluate(settings)
    for warning in caught:
        stderr.print(f"[yellow]warning:[/] {escape(str(warning.message))}", soft_wrap=True)
    totals = RichTable(title=escape(f"{settings.task}: {agent if agent is not None else EXPERT}, n={found.n}"))
    for name in ("measure", "value", f"{100 * settings.confidence:g} % interval"):
        totals.add_column(name, justify="left" if name == "measure" else "right")
    for row in found.totals(confidence=settings.confidence):
        interval = f"[{row['lower']:.4g}, {row['upper']:.4g}]"
        totals.add_row(row["measure"].replace("_", " "), f"{row['value']:.4g}", escape(interval))
    if found.unknown_share > 0:
        totals.add_row("share of unknown tokens", f"{found.unknown_share:.4g}", "")
    stdout.print(totals)
    stdout.print(escape(found.caveat), soft_wrap=True)
    places = RichTable(title="by position")
    for name in ("h", *BY_POSITION):
        places.add_column(name.replace("_", " "), justify="right")
    for at in found.some_rows(SHOWN_POSITIONS):
        places.add_row(str(at["h"]), *(f"{at[name]:.4g}" for name in BY_POSITION))
    stdout.print(places)
    for sample in found.samples:
        stdout.print()
        for name, text in sample._asdict().items():
            stdout.print(f"[bold]{name:<8}[/] {escape(text)}", soft_wrap=True)
    return 0

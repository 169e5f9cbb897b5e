"""``ntp-bench list`` and ``ntp-bench info``: what there is, and what one task, agent or study is."""

from __future__ import annotations

import ast
import dataclasses
import importlib.util
import inspect
import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import tyro
from rich.console import Console
from rich.markup import escape

from agents import Agent
from agents.registry import WITH_AN_EXTRA as AGENTS_WITH_AN_EXTRA
from agents.registry import agent_class, agent_names
from experiments.evaluation import build_task, parse_call
from experiments.studies import load_study, study_names
from experiments.terminal import plain
from ntp_envs import Task, task_names
from ntp_envs.checks import NotTractableError, did_you_mean
from ntp_envs.tasks.registry import WITH_AN_EXTRA as TASKS_WITH_AN_EXTRA
from ntp_envs.tasks.registry import task_class

SECTIONS: dict[str, tuple[str, Callable[[], list[str]], Callable[[str], Any]]] = {
    "studies": ("Studies  (ntp-bench run NAME)", study_names, load_study),
    "tasks": ("Tasks  (ntp_envs.make_task)", task_names, task_class),
    "agents": ("Agents  (agents.make_agent)", agent_names, agent_class),
}

#: what wants an extra, by section, and which, by package
ELSEWHERE = {"tasks": TASKS_WITH_AN_EXTRA, "agents": AGENTS_WITH_AN_EXTRA}
EXTRAS = {"agents.neural": "neural", "agents.rl": "rl", "ntp_envs.tasks.language_model": "lm"}


@dataclass(frozen=True)
class ListSettings:
    """The studies, tasks and agents that there are, with a line on each."""

    json: bool = False
    """Print JSON."""


def show_list(words: list[str]) -> int:
    """The command: a line on everything. A package that announces what it cannot deliver does not hide the rest."""
    settings = tyro.cli(ListSettings, args=words, prog="ntp-bench list", config=(tyro.conf.FlagCreatePairsOff,))
    found = {key: {name: _line(load, name) for name in names()} for key, (_, names, load) in SECTIONS.items()}
    for key, places in ELSEWHERE.items():
        found[key] = dict(sorted({**found[key], **{name: _unloaded(place) for name, place in places.items()}}.items()))
    if settings.json:
        print(json.dumps(found, indent=1))
        return 0
    console = Console(highlight=False)
    for key, lines in found.items():
        console.print(f"[bold]{SECTIONS[key][0]}[/]")
        width = max(map(len, lines), default=0)
        for name, text in lines.items():
            console.print(f"  [cyan]{name:{width}}[/]  {escape(text)}", soft_wrap=True)
    return 0


def _line(load: Callable[[str], Any], name: str) -> str:
    try:
        item = load(name)
    except Exception as error:
        return f"(cannot be loaded: {error})"
    return getattr(item, "question", None) or (item.__doc__ or "").strip().partition("\n")[0]


def _unloaded(place: str) -> str:
    """The same, with the extra that it wants, read from its file: the extra need not be there."""
    module, _, name = place.partition(":")
    extra = next(extra for package, extra in EXTRAS.items() if module.startswith(package))
    spec = importlib.util.find_spec(module)
    file = Path((spec and spec.origin) or "")
    for each in sorted(file.parent.glob("*.py")) if file.name == "__init__.py" else [file]:
        for node in ast.parse(each.read_text(encoding="utf-8")).body:
            if isinstance(node, ast.ClassDef) and node.name == name:
                return f"{(ast.get_docstring(node) or '').partition(chr(10))[0]} (extra {extra})"
    return f"(extra {extra})"


# -- one of them -------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class InfoSettings:
    """What a task, an agent or a study is."""

    name: Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="NAME")]
    """A task, perhaps with parameters ("PathStar(degree=5)"), an agent or a study."""
    seed: int = 0
    """Of the sample episode."""
    json: bool = False
    """Print JSON."""


def show_info(words: list[str]) -> int:
    """The command: find, describe, print.

    Raises:
        ValueError, TypeError: nothing of that name, or parameters that do not fit.
    """
    settings = tyro.cli(InfoSettings, args=words, prog="ntp-bench info", config=(tyro.conf.FlagCreatePairsOff,))
    found = describe(settings.name, settings.seed)
    if settings.json:
        print(json.dumps(plain(found), indent=1))
        return 0
    console = Console(highlight=False)
    console.print(f"[bold]{escape(settings.name)}[/]: {escape(found['summary'])}", soft_wrap=True)
    for heading, value in found.items():
        if heading == "summary" or value in (None, "", {}):
            continue
        console.print(f"[bold]{heading}[/]")
        for line in _lines(value):
            console.print(f"  {escape(line)}", soft_wrap=True)
    return 0


def _lines(value: Any) -> list[str]:
    if isinstance(value, dict):
        return [f"{name}: {one}" for name, one in value.items()]
    return str(value).splitlines()


def describe(text: str, seed: int = 0) -> dict[str, Any]:
    """What is known of a task, an agent or a study by its name, perhaps with parameters: text or names to texts.

    Raises:
        ValueError, TypeError: nothing of that name, or parameters that do not fit.
    """
    name = parse_call(text).name
    if name in study_names():
        study = load_study(name)
        quick, fields = study.options.quick(), dataclasses.fields(study.options)
        options = {f.name: f"{f.default!r} (quick: {getattr(quick, f.name)!r})" for f in fields}
        return {"summary": study.question, "options": options, "how": f"ntp-bench run {name} --help"}
    kinds = {key: [*names(), *ELSEWHERE.get(key, ())] for key, (_, names, _) in SECTIONS.items()}
    if name in kinds["agents"]:
        return _agent(agent_class(name))
    if name in TASKS_WITH_AN_EXTRA and text == name:  # it has no defaults to be made from
        return _parameters(task_class(name))
    if name in kinds["tasks"]:
        return _task(build_task(text), seed)
    if ":" in name:
        try:
            kind: Any = agent_class(name)
        except TypeError:  # no agent
            return _task(build_task(text), seed)
        return _agent(kind)
    known = [one for names in kinds.values() for one in names]
    raise ValueError(f"there is no task, agent or study {name!r}.{did_you_mean(name, known)}")


def _documented(kind: type) -> tuple[str, str]:
    """The first line of a docstring, and what follows it up to the arguments."""
    words = inspect.cleandoc(kind.__doc__ or "")
    first, _, rest = words.partition("\n")
    return first, rest.strip()


def _parameters(kind: type[Any], **more: Any) -> dict[str, Any]:
    summary, about = _documented(kind)
    signature = inspect.signature(kind.__init__).parameters.values()
    given = {p.name: "needed" if p.default is p.empty else repr(p.default) for p in signature if p.name != "self"}
    return {"summary": summary, "parameters": given, **more, "about": about}


def _agent(kind: type[Agent]) -> dict[str, Any]:
    supports = ", ".join(one.__name__ for one in kind.supports) if kind.supports else "any"
    return _parameters(kind, **{"policy classes": supports})


def _task(task: Task, seed: int) -> dict[str, Any]:
    summary, more = _documented(type(task))
    try:
        best = task.best_in_class()
        reached = f"squared Hellinger distance {best.hellinger2:.6g} to the expert"
    except NotTractableError as error:
        reached = f"not known: {error}"
    rng = np.random.default_rng(seed)
    prompts = task.sample_prompts(1, rng)
    tokens = task.expert.sample(prompts, task.horizon, rng)
    episode = {"prompt": task.decode(prompts[0]), "expert": task.decode(tokens[0])}
    if task.has_success:
        episode["success"] = f"{task.success(prompts, tokens)[0]:g}"
    sizes = {"vocabulary A": task.vocab_size, "prompt P": task.prompt_length, "horizon H": task.horizon}
    return {
        "summary": summary,
        "parameters": {name: repr(value) for name, value in task.parameters().items()},
        "sizes": sizes if task.end_token is None else {**sizes, "end token": task.end_token},
        "expert": repr(task.expert),
        "policy class": repr(task.policy_class).partition(" object at ")[0].strip("<"),
        "best in class": reached,
        "environment": f"gymnasium.make('ntp/{task.name}-v0', ...)",
        "a sample episode": episode,
        "about": more,
    }

"""NTP-Bench 1: fixed tasks, horizons, sizes and seeds in four tracks, one score a track, and a file to submit.

The list is a version: whoever changes a task, a horizon, a size or a seed makes another one. Every cell is one of
`experiments.studies.compare`, on the data sets that ``compare`` draws for the same seed, so that each can be looked at
there. An agent has one score a track: the mean over its tasks and data sets of `experiments.aggregate.run_score`, and 0
where it fails, or is not for a task. (Not the interquartile mean: a fourth of the tasks could be left out unpunished.)

The default text comes with Python, and is another one in another version of it: the file to submit says which it was.

In the track of real text the class of each task is one of n-gram models. An agent that takes finite classes chooses
from such models on a dial there (`agents.NGramDialBC`), with the same data; another is given the class as it is.
"""

from __future__ import annotations

import json
import platform
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from experiments.aggregate import Runs, looks_of, pooled_score, profile_figure, resampling
from experiments.cells import Cell, CellResult, Label
from experiments.charts import Figure, legend_below, new_grid, say
from experiments.evaluation import build_agent, build_task, named_code, parse_call, short_names
from experiments.fingerprints import digest, fingerprint
from experiments.measure import named
from experiments.studies import compare
from experiments.study import Analysis, FigureSpec, Options, Study, option
from experiments.summary import Summary, SummaryRow, Table, interval_words, with_interval
from experiments.terminal import plain
from ntp_envs import FiniteClass, UniformPolicy

NAME, VERSION = "NTP-Bench 1", "1.0"
SUITE, OVERALL = "suite", "overall"

# -- the list ----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Track:
    """Tasks that are scored together.

    Attributes:
        name: of the track.
        tasks: calls, as `compare` takes them, with nothing left open but the horizon where ``horizons`` names some.
        horizons: of every task that leaves it open; ``()`` where none does.
        n: demonstrations in a data set.
        dial: agents that take finite classes choose from n-gram models on a dial.
        needs: a module without which the track is left out.
    """

    name: str
    tasks: tuple[str, ...]
    horizons: tuple[int, ...]
    n: int
    dial: bool = False
    needs: str = ""

    def left_out(self) -> bool:
        """Whether what it needs is missing."""
        try:
            __import__(self.needs or "numpy")
        except ImportError:
            return True
        return False


CLOSED, TEXT, PLANNING, MODELS = "closed form", "real text", "planning and computation", "language models"
_CLOSED = (
    "Contamination(eps=0.01, p=0.0001, q=0.9999, theta_min=0.0001)",
    "RareMode(density_ratio=10)",
    "ConsistencyGame(eps=0.002)",
    "Documents",
    "ARLinear(misspecification=0.0)",
)
_TEXT = (
    "Text(learner_order=3)",
    "Text(contamination=0.05, expert_order=3, learner_order=3)",
    "Text(expert_order=4, learner_order=2, tokens='byte')",
)
_PLANNING = ("PathStar(degree=2, length=3)", "Snowball(horizon=16)", "ParityCoT(bits=5)", "NoisyParity")
_MODELS = ("experiments.seeded_model:SeededModel", "experiments.seeded_model:SeededModel(seed=1)")


def _tracks(closed: Sequence[int], text: Sequence[int], models: Sequence[int], n: int) -> tuple[Track, ...]:
    return (
        Track(CLOSED, _CLOSED, tuple(closed), n),
        Track(TEXT, _TEXT, tuple(text), n, dial=True),
        Track(PLANNING, _PLANNING, (), n // 5),
        Track(MODELS, _MODELS, tuple(models), n // 5, needs="transformers"),
    )


#: the tracks of each size, and the number of data sets
SIZES: dict[str, tuple[tuple[Track, ...], int]] = {
    "full": (_tracks((16, 64, 128), (8, 32), (4,), 1000), 10),
    "quick": (_tracks((16, 64), (8,), (4,), 500), 3),
    "smoke": (_tracks((4,), (2,), (2,), 50), 2),
}


def dialled(agent: str) -> str:
    """The agent of a call, as `compare` writes it, on the dial of n-gram models; nothing is looked up.

    >>> dialled("myalg:MyBC(tol=0.1)")
    'NGramDialBC(agent=myalg.MyBC(tol=0.1))'
    """
    name, parenthesis, rest = agent.partition("(")
    return f"NGramDialBC(agent={name.replace(':', '.', 1)}{parenthesis}{rest})"


def places(track: Track) -> list[tuple[str, int | None]]:
    """The tasks of a track and the horizon each is built at; ``None`` where the task has its own."""
    return [(task, H) for task in track.tasks for H in track.horizons or (None,)]


def parameters_of(track: Track, seeds: int, agent: str) -> list[dict[str, Any]]:
    """What `compare.run` is called with, cell by cell."""
    return [
        {"agent": agent, "task": task, "horizon": horizon, "n": track.n, "replicate": replicate}
        for task, horizon in places(track)
        for replicate in range(seeds)
    ]


# -- options and cells -------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class SuiteOptions(Options):
    """Who is measured, and which of the three fixed lists is run; nothing else can be chosen.

    Raises:
        ValueError, TypeError: an agent that cannot be read or made.
    """

    agents: tuple[str, ...] = ("LogLossBC", "SmoothedLogLossBC", "ChunkedRhoBC(chunk=2)", "RhoEstimatorBC")
    """Agents: names or package.module:Class, each perhaps with parameters; separated by commas or spaces."""
    size: str = option("full", quick="quick", choices=tuple(SIZES))
    """The list: full, quick (its scores are not comparable with those of full), or smoke, which only tries an agent."""

    def check(self) -> None:
        object.__setattr__(self, "agents", tuple(compare.canonical("agents", self.agents)))
        task = build_task(_CLOSED[0], 4)
        for agent in self.agents:
            build_agent(agent, task)

    def tracks(self) -> list[Track]:
        """Those that can be run here."""
        return [track for track in SIZES[self.size][0] if not track.left_out()]

    @property
    def seeds(self) -> int:
        return SIZES[self.size][1]


def on_track(track: Track, agent: str) -> str:
    """The agent as it is run in a track: on the dial where there is one and it takes finite classes."""
    if not track.dial:
        return agent
    takes = build_agent(agent, build_task(_CLOSED[0], 4)).takes(FiniteClass([UniformPolicy(2)]))
    return dialled(agent) if takes else agent


def cells(options: SuiteOptions) -> Iterator[Cell]:
    """Those of `compare`, track by track; agents innermost, so that a process has the task at hand."""
    for track in options.tracks():
        agents = [on_track(track, agent) for agent in options.agents]
        code = {text: named_code(text) for text in (*agents, *track.tasks)}  # a name is looked for in all registries
        each = [parameters_of(track, options.seeds, agent) for agent in agents]
        for parameters in (one for place in zip(*each, strict=True) for one in place):
            behind = code[parameters["agent"]] + code[parameters["task"]]
            yield Cell(compare.RUNS, compare.run, parameters, code=behind)


# -- scores ------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Asked:
    """What `experiments.aggregate.Runs` reads of its options."""

    tasks: tuple[str, ...]
    seeds: int


def scores_of(track: Track, seeds: int, agent: str, summary: Summary) -> NDArray[np.float64]:
    """``(tasks, seeds)`` scores of an agent in a track; 0 where it failed or is not for the task."""
    names = {row["learner"] for row in summary if row["task"] in track.tasks}
    runs = Runs(Asked(track.tasks, seeds), summary)
    on = dialled(agent) if track.dial and dialled(agent) in names else agent
    return np.array([runs.scores(task, on) or [0.0] * seeds for task in track.tasks])


def analyse(options: SuiteOptions, summary: Summary) -> Analysis:
    """One score a track and agent; the radar, the profile and two tables."""
    tracks = options.tracks() if len(summary) else []  # one where every cell failed scores 0
    found = {a: {track.name: scores_of(track, options.seeds, a, summary) for track in tracks} for a in options.agents}
    rows = [row for agent, each in found.items() for row in score_rows(agent, each)]
    scores = Summary(rows)
    setting = (
        f"{NAME}, {options.size}; {sum(len(track.tasks) for track in tracks)} tasks; {options.seeds} data sets of each"
    )
    figures = [
        FigureSpec(
            "radar",
            "How near does each agent come, track by track?",
            "Mean score of each track, from 0 in the centre to 1, the best that the policy class allows; bars are 95 % "
            "intervals over data sets.",
            lambda: radar(scores, options.agents, [track.name for track in tracks]),
            setting,
        ),
        FigureSpec(
            "profile",
            "How often does each agent score how much?",
            "The share of all runs with at least the score on the x axis; bands are 95 % at each score.",
            lambda: profile_figure(
                {agent: np.concatenate(list(each.values())) for agent, each in found.items() if each},
                "How often does each agent reach a score? Higher is better",
            ),
            setting,
        ),
    ]
    tables = [track_table(options, tracks, scores), task_table(options, tracks, found)]
    return Analysis(rows, tables, figures, list(findings(options, tracks, scores, summary)))


def score_rows(agent: str, each: Mapping[str, NDArray[np.float64]]) -> list[SummaryRow]:
    """A row for each track, and one over the tracks that need no extra: their mean."""
    labels: dict[str, Label] = {"learner": agent}
    rows = []
    for track, scores in each.items():
        interval = pooled_score(scores, resampling(), trim=0.0)
        rows.append(SummaryRow(SUITE, labels, f"{track}: score", *interval, scores.shape[1]))
    core = [scores.mean(axis=0) for track, scores in each.items() if track != MODELS]
    if len(core) == 3:
        interval = pooled_score(core, resampling(), trim=0.0)
        rows.append(SummaryRow(SUITE, labels, f"{OVERALL}: score", *interval, len(core[0])))
    return rows


def track_table(options: SuiteOptions, tracks: Sequence[Track], scores: Summary) -> Table:
    """A line for each agent, best first."""
    heads = [*(track.name for track in tracks), OVERALL]
    best = sorted(options.agents, key=lambda agent: -np.nan_to_num(scores.value(f"{OVERALL}: score", learner=agent)))
    lines = [[agent, *(scores.shown(f"{head}: score", learner=agent) for head in heads)] for agent in best]
    note = (
        f"{interval_words(options.seeds)} (tasks are fixed). Score of a run: 1/C_apx, or 1/(1 + x) where there is no "
        "C_apx, x = -log(1 - D_H^2/2); 1 is best, 0 for a run that failed or an agent that is not for the task. "
        f"{OVERALL}: mean of the tracks that need no extra."
    )
    return Table(f"{NAME} ({VERSION}, {options.size}): scores", ["agent", *heads], lines, note)


def task_table(
    options: SuiteOptions, tracks: Sequence[Track], found: Mapping[str, Mapping[str, NDArray[np.float64]]]
) -> Table:
    """A line for each task."""
    lines: list[list[str]] = []
    for track in tracks:
        lines.append([track.name])
        names = short_names(track.tasks)
        for i, task in enumerate(track.tasks):
            each = [found[agent][track.name][i][None] for agent in options.agents]
            shown = [with_interval(*pooled_score(one, resampling(), trim=0.0), 2) for one in each]
            lines.append([f"\u00a0\u00a0{names[task]}", *shown])
    width = len(options.agents) + 1
    return Table("Score of each task", ["task", *options.agents], [line + [""] * (width - len(line)) for line in lines])


def findings(options: SuiteOptions, tracks: Sequence[Track], scores: Summary, summary: Summary) -> Iterator[str]:
    """The best of each track, and what was left out."""
    for track in tracks:
        rows = scores.select(f"{track.name}: score")
        if len(rows) > 1 and any(row.mean > 0 for row in rows):
            best = max(row.mean for row in rows)
            best_agents = ", ".join(row["learner"] for row in rows if row.mean >= best - 5e-4)
            yield f"{track.name}: the highest score of {len(rows)} agents is {best:.3f}, that of {best_agents}."
    refused: dict[str, list[str]] = {}
    for row in summary.select(compare.NOT_APPLICABLE):
        refused.setdefault(row["learner"], []).append(row["task"])
    for agent, tasks in refused.items():
        whole = [track for track in tracks if set(track.tasks) <= set(tasks)]
        short = short_names([task for track in tracks if track not in whole for task in track.tasks])
        names = [*(f"any task of {track.name}" for track in whole), *(short[task] for task in short if task in tasks)]
        yield f"{agent} is not for {', '.join(names)}, and scores 0 there."
    for track in SIZES[options.size][0] if tracks else ():
        if track.left_out():
            yield f'The track "{track.name}" is left out: pip install "ntp-envs[lm]" brings what it needs.'


def radar(scores: Summary, agents: Sequence[str], tracks: Sequence[str]) -> Figure:
    """A spoke for each track, a closed line for each agent."""
    title = "How near does each agent come, track by track?"
    figure, ((axes,),) = new_grid(title, 1, 1, (7.6, 5.8), subplot_kw={"projection": "polar"})
    axes.set_theta_zero_location("N")
    axes.set_theta_direction(-1)
    angles = np.linspace(0, 2 * np.pi, len(tracks), endpoint=False)
    axes.set_xticks(angles, labels=[track.replace(" and ", "\nand ").replace(" m", "\nm") for track in tracks])
    for label, angle in zip(axes.get_xticklabels(), angles):  # beside the circle, not on it
        label.set_horizontalalignment(
            "center" if abs(np.sin(angle)) < 0.1 else "left" if np.sin(angle) > 0 else "right"
        )
    axes.set_ylim(0, 1)
    axes.set_yticks([0.25, 0.5, 0.75, 1.0], labels=["", "0.5", "", "1"])
    looks = looks_of(agents)
    for place, agent in enumerate(agents):
        rows = [row for track in tracks for row in scores.select(f"{track}: score", learner=agent)]
        if len(rows) != len(tracks) or not rows:
            continue
        values, look = [row.mean for row in rows], looks[agent]
        shift = 0.03 * (place - (len(agents) - 1) / 2)  # so that equal scores are seen
        axes.plot([*(angles + shift), angles[0] + shift], [*values, values[0]], label=agent, **look)
        for angle, row in zip(angles + shift, rows):
            axes.plot([angle, angle], [row.lower, row.upper], color=look["color"], linewidth=4, alpha=0.35)
    say(figure, "bars: 95 % intervals")
    legend_below(figure, agents, size=9)
    return figure


# -- the file to submit ------------------------------------------------------------------------------------------------

FORMAT = 1
#: of a record; its labels follow from the cell, see `labels_of`
KEPT = ("metric", "value", "lower", "upper", "method")


def labels_of(parameters: Mapping[str, Any], H: int) -> dict[str, Label]:
    """The labels of every record of a cell."""
    labels = named(parameters["task"], parameters["agent"], H, parameters["n"])
    return {**labels, compare.SEED: parameters["replicate"]}


def submissions(
    options: SuiteOptions,
    cells: Sequence[Cell],
    results: Mapping[str, CellResult],
    code: Mapping[str, Mapping[str, str]],
    settings: Mapping[str, Any],
) -> dict[str, str]:
    """A file for each agent, by its name: all that its cells measured, by what code, where and with what seeds."""
    found = {}
    for agent in options.agents:
        mine = [cell for cell in cells if cell.parameters["agent"] in (agent, dialled(agent))]
        files: dict[str, Mapping[str, str]] = {}
        lines = []
        for cell in mine:
            result, behind = results[cell.key], code[cell.key]
            mark = fingerprint(behind)
            files[mark] = behind
            error = None if result.error is None else result.error.strip().splitlines()[-1][:200]
            records = [
                {name: value for name, value in record.to_json().items() if name in KEPT and value is not None}
                for record in result.records
            ]
            H = next((record.labels["H"] for record in result.records), cell.parameters["horizon"])
            line = {"parameters": dict(cell.parameters), "H": H, "code": mark, "error": error}
            lines.append({**line, "seconds": round(result.seconds, 3), "records": records})
        made = settings.get("made", {})
        texts = {cell.parameters["task"] for cell in mine if parse_call(cell.parameters["task"]).name == "Text"}
        content = {
            "format": FORMAT,
            "suite": NAME,
            "version": VERSION,
            "size": options.size,
            "seed": settings["seed"],
            "agent": agent,
            "texts": {text: build_task(text).data.sha256 for text in sorted(texts)},  # type: ignore[attr-defined]
            "made": {
                "date": made.get("last", ""),
                "commit": made.get("commit", {}),
                "distributions": {**settings["versions"], **made.get("distributions", {})},
                "platform": settings.get("platform", platform.system()),
                "kernels": settings.get("kernels", []),
            },
            "code": files,
            "cells": lines,
        }
        found[file_name(agent, options.size)] = sealed(content)
    return found


def file_name(agent: str, size: str) -> str:
    """A name for the file of an agent, from its letters and digits and a mark that tells agents apart."""
    letters = "".join(letter if letter.isalnum() and letter.isascii() else "-" for letter in agent)[:60].strip("-")
    return f"submission-{size}-{letters}-{digest(agent)[:6]}.json"


def sealed(content: Mapping[str, Any]) -> str:
    """The text of a submission: JSON without numbers that JSON has not, and its own checksum."""
    whole = plain(dict(content))
    return json.dumps({**whole, "checksum": checksum(whole)}, allow_nan=False) + "\n"


def checksum(content: Mapping[str, Any]) -> str:
    """Of all but the checksum itself, whatever the order and the layout."""
    return digest(json.dumps({k: v for k, v in content.items() if k != "checksum"}, sort_keys=True, allow_nan=False))


STUDY = Study(
    name="suite",
    question=f"{NAME}: how near does an agent come to the expert in each of four tracks?",
    options=SuiteOptions,
    cells=cells,
    analyse=analyse,
    labels=(compare.SEED,),
    exports=submissions,
)

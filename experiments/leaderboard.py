"""``ntp-bench leaderboard``: submissions of NTP-Bench, checked, perhaps recomputed in part, as one static page.

A submission is a file from somebody else. Nothing in it is evaluated or imported to check it, and scores are computed
here from what its cells say. What is damaged, hostile or of another version is refused by name, and the rest goes on.
"""

from __future__ import annotations

import ast
import html
import json
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import cache, cached_property
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import tyro
from rich.console import Console
from rich.markup import escape

from agents.registry import agent_names
from experiments.cells import Cell, write_whole
from experiments.evaluation import build_task
from experiments.executors import run_cell
from experiments.measure import SECONDS, WELL_SPECIFIED
from experiments.studies import compare
from experiments.studies.suite import (
    FORMAT,
    MODELS,
    NAME,
    OVERALL,
    SIZES,
    VERSION,
    Track,
    checksum,
    dialled,
    labels_of,
    parameters_of,
    score_rows,
    scores_of,
)
from experiments.summary import Summary, SummaryRow
from ntp_envs.arrays import FloatArray
from ntp_envs.checks import NotTractableError, check_int


@dataclass(frozen=True)
class LeaderboardSettings:
    """Check submissions of the suite, and write a page of their scores."""

    folder: Annotated[Path, tyro.conf.Positional, tyro.conf.arg(metavar="DIR")]
    """Folder of submissions (submission-*.json, as `ntp-bench run suite` leaves them)."""
    out: Path = Path("leaderboard.html")
    """The page."""
    verify: bool = False
    """Recompute a random tenth of every submission's cells, and refuse it if one says something else."""
    trust: bool = False
    """With --verify: import agents that are not of ntp-envs or installed beside it. That runs their code."""
    seed: int | None = None
    """Which cells are recomputed; others each time by default."""

    def __post_init__(self) -> None:
        if not self.folder.is_dir():
            raise ValueError(f"there is no folder {self.folder}.")
        if self.seed is not None:
            check_int("seed", self.seed, minimum=0)


# -- one submission, checked -------------------------------------------------------------------------------------------

MOST_BYTES, MOST_LETTERS = 8_000_000, 200
#: the numbers that a cell may hold, and between what they lie
METRICS = {
    compare.DISTANCE: (0.0, 2.0),
    **dict.fromkeys((compare.FACTOR, compare.BITS, compare.QUERIES, compare.STEPS, SECONDS), (0.0, math.inf)),
    compare.CONVERGED: (0.0, 1.0),
    **dict.fromkeys((compare.NO_FACTOR, compare.NOT_APPLICABLE), (1.0, 1.0)),
}
FIELDS: dict[str, type] = {
    **dict.fromkeys(("format", "seed"), int),
    **dict.fromkeys(("suite", "version", "size", "agent", "checksum"), str),
    **dict.fromkeys(("texts", "made", "code"), dict),
    "cells": list,
}
#: relative difference that other kernels may make in a number
ROUNDED = 1e-4


class Refused(ValueError):
    """Why a file is no submission."""


@dataclass(frozen=True)
class Entry:
    """A submission that was accepted.

    Attributes:
        file: its name.
        content: what it says.
        runs: ``(tasks, data sets)`` scores of each track.
        verified: what was recomputed, in words.
    """

    file: str
    content: Mapping[str, Any]
    runs: Mapping[str, FloatArray]
    verified: str = ""

    @cached_property
    def scores(self) -> Summary:
        """Rows of `experiments.studies.suite.score_rows`."""
        return Summary(score_rows(self.content["agent"], self.runs))

    @property
    def overall(self) -> float:
        return self.scores.value(f"{OVERALL}: score")

    @property
    def group(self) -> tuple[str, str]:
        """Only submissions of one size, on the same texts, are compared."""
        return self.content["size"], json.dumps(self.content["texts"], sort_keys=True)


def require(condition: Any, message: str) -> None:
    if not condition:
        raise Refused(message)


def read_submission(path: Path) -> Entry:
    """Read and check a file.

    Raises:
        Refused: with the reason.
    """
    require(path.is_file() and not path.is_symlink(), "it is no plain file")
    require(path.stat().st_size <= MOST_BYTES, f"it has more than {MOST_BYTES:,} bytes")
    try:
        content = json.loads(path.read_text(encoding="utf-8"), parse_constant=_no_constant, object_pairs_hook=_once)
    except Refused:
        raise
    except (ValueError, RecursionError, OSError) as error:
        raise Refused(f"it is not JSON ({str(error) or type(error).__name__})") from error
    require(isinstance(content, dict), "it holds no object")
    for name, kind in FIELDS.items():
        require(name in content, f"it has no {name!r}")
        require(isinstance(content[name], kind) and not isinstance(content[name], bool), f"{name!r} is of another type")
    require(set(content) == set(FIELDS), f"{_first(set(content) - set(FIELDS))} is not a field of a submission")
    here = {"format": FORMAT, "suite": NAME, "version": VERSION}
    for name, value in here.items():
        require(content[name] == value, f"{name} is {content[name]!r:.40}, and {value!r} here")
    try:
        require(content["checksum"] == checksum(content), "its checksum is another: it was changed or damaged")
    except (ValueError, RecursionError) as error:
        raise Refused(f"it has no checksum ({error})") from error
    require(content["size"] in SIZES, f"there is no size {content['size']!r:.40}")
    require(content["seed"] >= 0, f"seed={content['seed']} is negative")
    agent = content["agent"]
    require(0 < len(agent) <= MOST_LETTERS and agent.isprintable(), "its agent is no name")
    texts = content["texts"].items()
    require(all(isinstance(sha, str) and len(sha) <= 64 for _, sha in texts), "its texts have no hashes")
    return Entry(path.name, content, _runs(content))


def _no_constant(word: str) -> None:
    raise Refused(f"{word} is no number of JSON")


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    require(len(found) == len(pairs), "a name stands twice in one object")
    return found


def _first(names: set[str]) -> str:
    return repr(min(map(str, names), default=""))[:60]


def _runs(content: Mapping[str, Any]) -> dict[str, FloatArray]:
    """The scores of all tracks, run by run, from cells that are exactly those of the suite."""
    tracks, seeds = SIZES[content["size"]]
    agent, cells = content["agent"], {}
    for cell in content["cells"]:
        require(isinstance(cell, dict) and isinstance(cell.get("parameters"), dict), "a cell has no parameters")
        cells[json.dumps(cell["parameters"], sort_keys=True)] = cell
    require(len(cells) == len(content["cells"]), "a cell stands twice")
    found: dict[str, FloatArray] = {}
    for track in tracks:
        wanted: list[str] = []
        for name in (agent, dialled(agent)) if track.dial else (agent,):
            keys = [json.dumps(one, sort_keys=True) for one in parameters_of(track, seeds, name)]
            wanted = keys if not wanted or any(key in cells for key in keys) else wanted
        if track.name == MODELS and not any(key in cells for key in wanted):
            continue
        require(all(key in cells for key in wanted), f"cells of the track {track.name!r} are missing")
        rows = [row for key in wanted for row in _rows(cells.pop(key), content)]
        found[track.name] = scores_of(track, seeds, agent, Summary(rows))
    require(not cells, f"it has cells that are not of the suite: {_first(set(cells))}")
    return found


def _rows(cell: Mapping[str, Any], content: Mapping[str, Any]) -> list[SummaryRow]:
    """The records of a cell, as a summary has them."""
    place = cell["parameters"]
    where = f"{place['task']}, replicate {place['replicate']}"
    require(set(cell) == {"parameters", "H", "code", "error", "seconds", "records"}, f"{where}: other fields")
    require(cell["error"] is None or isinstance(cell["error"], str), f"{where}: its error is no text")
    require(isinstance(cell["code"], str) and cell["code"] in content["code"], f"{where}: the code is not listed")
    require(_is_number(cell["seconds"]) and cell["seconds"] >= 0, f"{where}: seconds are no number")
    values: dict[str, float] = {}
    rows = []
    require(isinstance(cell["records"], list), f"{where}: no records")
    for record in cell["records"]:
        metric: Any = record.get("metric") if isinstance(record, dict) else None
        require(isinstance(metric, str) and metric in METRICS, f"{where}: an unknown measure")
        value = _number(record.get("value"))
        low, high = METRICS[metric]
        require(metric not in values, f"{where}: {metric} twice")
        require(low <= value <= high, f"{where}: {metric} is {value}, outside [{low:g}, {high:g}]")
        require(isinstance(record.get("method", ""), str), f"{where}: a method is no text")
        values[metric] = value
        labels = labels_of(place, cell["H"])
        rows.append(SummaryRow(compare.RUNS, labels, metric, value, value, value, 1, record.get("method", "")))
    if cell["error"] is not None:
        require(not rows, f"{where}: it failed, and has numbers")
        return []
    require(isinstance(cell["H"], int) and (place["horizon"] or cell["H"]) == cell["H"] >= 1, f"{where}: another H")
    require((compare.DISTANCE in values) != (compare.NOT_APPLICABLE in values), f"{where}: no distance, or too much")
    if compare.DISTANCE in values:
        least, said = best_known(place["task"], place["horizon"]), values.get(compare.FACTOR)
        require((said is None) == (least is None), f"{where}: C_apx where there is none, or none where there is one")
        if least is not None and said is not None:
            own = values[compare.DISTANCE] / least
            require(math.isclose(said, own, rel_tol=1e-6, abs_tol=1e-9), f"{where}: C_apx is {said:g}, not {own:g}")
    return rows


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and -1e300 < value < 1e300


def _number(value: Any) -> float:
    require(_is_number(value) or value == "inf", f"{value!r:.40} is no number")
    return float(value)


@cache
def best_known(task: str, horizon: int | None) -> float | None:
    """The squared Hellinger distance of the best in class of a task of the suite, where C_apx is over that."""
    if task.startswith("experiments.seeded_model:"):  # sampled; and the extra may not be there
        return None
    try:
        best = build_task(task, horizon).best_in_class().hellinger2
    except NotTractableError:
        return None
    return best if best > WELL_SPECIFIED else None


# -- recomputation -----------------------------------------------------------------------------------------------------


def is_foreign(agent: str) -> bool:
    """Whether an agent, or one inside of it, is neither ours nor of an installed package that announces it."""
    try:
        tree = ast.parse(dialled(agent), mode="eval")
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return True
    names = {ast.unparse(node) for node in ast.walk(tree) if isinstance(node, (ast.Name, ast.Attribute))}
    return not names <= set(agent_names())


def verified(entry: Entry, rng: np.random.Generator, *, trust: bool, tell: Callable[[str], None]) -> str:
    """Recompute a random tenth of the cells, and say how many.

    Raises:
        Refused: one of them has other numbers.
    """
    content = entry.content
    if is_foreign(content["agent"]) and not trust:
        return "not recomputed: the agent is not of ntp-envs (--trust imports it)"
    left_out = {task for track in SIZES[content["size"]][0] if track.left_out() for task in track.tasks}
    known = [cell for cell in content["cells"] if cell["parameters"]["task"] not in left_out]
    chosen = rng.choice(len(known), size=math.ceil(len(known) / 10), replace=False)
    for cell in (known[i] for i in sorted(chosen)):
        place = cell["parameters"]
        where = f"{place['task']}, horizon {place['horizon']}, replicate {place['replicate']}"
        tell(f"{entry.file}: {where}")
        again = run_cell(Cell(compare.RUNS, compare.run, place), "suite", content["seed"])
        require((again.error is None) == (cell["error"] is None), f"{where}: it fails in one run and not in the other")
        said = {record["metric"]: _number(record["value"]) for record in cell["records"] if record["metric"] != SECONDS}
        found = {record.metric: record.value for record in again.records if not record.machine}
        require(said.keys() == found.keys(), f"{where}: other measures when it was run again")
        for metric, value in found.items():
            same = math.isclose(value, said[metric], rel_tol=ROUNDED, abs_tol=1e-9)
            require(same, f"{where}: {metric} is {value:.9g} when it was run again, not {said[metric]:.9g}")
    return f"{len(chosen)} of {len(content['cells'])} cells recomputed"


# -- the page ----------------------------------------------------------------------------------------------------------

CSS = """
:root { color-scheme: light dark; --ink: #1b1b1b; --soft: #595959; --paper: #fff; --line: #ddd; --bar: #0072B2;
  --band: #0072B244; --rail: #eee; }
@media (prefers-color-scheme: dark) { :root { --ink: #eee; --soft: #aaa; --paper: #14161a; --line: #3a3d44;
  --bar: #56B4E9; --band: #56B4E955; --rail: #2a2d33; } }
* { box-sizing: border-box; }
body { font: 16px/1.5 system-ui, sans-serif; color: var(--ink); background: var(--paper); max-width: 76rem;
  margin: 0 auto; padding: 1rem; }
h1 { line-height: 1.2; } h2 { margin-top: 2.5rem; } p, li { max-width: 46rem; overflow-wrap: anywhere; }
table { border-collapse: collapse; width: 100%; font-variant-numeric: tabular-nums; }
th { text-align: left; font-size: .85rem; color: var(--soft); vertical-align: bottom; }
th, td { padding: .6rem .7rem .6rem 0; border-bottom: 1px solid var(--line); }
td { vertical-align: top; } .agent { overflow-wrap: anywhere; min-width: 11rem; } .agent b { display: block; }
.score { min-width: 7.5rem; } .score strong { font-size: 1.05rem; } small, summary, .note { color: var(--soft); }
small { white-space: nowrap; } details { font-size: .85rem; } summary { cursor: pointer; }
dl { margin: .3rem 0; } dt { color: var(--soft); } dd { margin: 0 0 .3rem; overflow-wrap: anywhere; }
.rail { display: block; position: relative; height: .5rem; margin-top: .25rem; background: var(--rail);
  border-radius: 2px; }
.rail i { position: absolute; height: 100%; background: var(--band); border-radius: 2px; }
.rail b { position: absolute; width: 3px; height: 100%; margin-left: -1.5px; background: var(--bar); }
@media (max-width: 46rem) {
  thead { display: none; } table, tbody, tr, td { display: block; width: 100%; }
  tr { border-bottom: 2px solid var(--line); padding: .8rem 0; } td { border: 0; padding: .2rem 0; }
  .rank { float: left; width: 2rem; font-weight: 600; } .score::before { content: attr(data-track); display: block;
    font-size: .85rem; color: var(--soft); }
}
"""


def page(entries: list[Entry], refused: Mapping[str, str]) -> str:
    """The page, with everything inside; it needs no script and no network."""
    parts = [
        f"<h1>{NAME}: how near do learners come to the expert?</h1>",
        f"<p>Version {VERSION}. Every learner sees the same demonstrations. A score is from 0 to 1, the best that the "
        "policy class allows (or the expert, where that is in the class), the mean over the tasks of a track; the bar "
        "is its 95 % interval over data sets. Only submissions of one size, on the same texts, are compared.</p>",
    ]
    groups: dict[tuple[str, str], list[Entry]] = {}
    for entry in entries:
        groups.setdefault(entry.group, []).append(entry)
    for (size, texts), members in sorted(groups.items(), key=lambda item: (list(SIZES).index(item[0][0]), item[0][1])):
        members.sort(key=lambda entry: (-entry.overall, entry.file))
        parts.append(_group(size, texts, members))
    if not entries:
        parts.append("<p>There is no submission yet.</p>")
    if refused:
        items = "".join(f"<li><b>{html.escape(name)}</b>: {html.escape(why)}</li>" for name, why in refused.items())
        parts.append(f"<h2>Refused</h2><ul>{items}</ul>")
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        "<meta http-equiv=\"Content-Security-Policy\" content=\"default-src 'none'; style-src 'unsafe-inline'\">"
        f"<title>{NAME}</title><style>{CSS}</style></head>\n<body>\n" + "\n".join(parts) + "\n</body></html>\n"
    )


def _group(size: str, texts: str, members: list[Entry]) -> str:
    tracks, seeds = SIZES[size]
    heads = [OVERALL, *(track.name for track in tracks)]
    head = "".join(f"<th>{html.escape(name)}</th>" for name in ("", "agent", *heads))
    lines = []
    for rank, entry in enumerate(members, start=1):
        cells = "".join(_score(name, entry.scores.select(f"{name}: score").rows) for name in heads)
        lines.append(f'<tr><td class="rank">{rank}</td><td class="agent">{_about(entry)}</td>{cells}</tr>')
    note = f"{seeds} data sets for each task. {_list_of(tracks)}"
    return (
        f"<h2>Size {size}</h2><table><thead><tr>{head}</tr></thead><tbody>{''.join(lines)}</tbody></table>"
        f'<p class="note">{html.escape(note)} {OVERALL}: the mean of the tracks that need no extra. '
        f"Texts: {html.escape(', '.join(sorted({sha[:12] for sha in json.loads(texts).values()})))}.</p>"
    )


def _list_of(tracks: tuple[Track, ...]) -> str:
    return " ".join(
        f"{track.name.capitalize()}: {', '.join(track.tasks)}"
        + (f", at H={', '.join(map(str, track.horizons))}" if track.horizons else "")
        + f", n={track.n}."
        for track in tracks
    )


def _score(name: str, rows: list[SummaryRow]) -> str:
    if not rows:
        return f'<td class="score" data-track="{html.escape(name)}"><small>not run</small></td>'
    row = rows[0]
    interval, band = "", ""
    if row.upper > row.lower:
        interval = f" <small>[{row.lower:.3f}, {row.upper:.3f}]</small>"
        band = f'<i style="left:{100 * row.lower:.1f}%;width:{100 * (row.upper - row.lower):.1f}%"></i>'
    bar = f'<span class="rail">{band}<b style="left:{100 * row.mean:.1f}%"></b></span>'
    track = html.escape(name)
    return f'<td class="score" data-track="{track}"><strong>{row.mean:.3f}</strong>{interval}{bar}</td>'


def _about(entry: Entry) -> str:
    made = entry.content["made"]
    code = sorted(entry.content["code"])
    said = {
        "file": entry.file,
        "made": made.get("date", ""),
        "commit": made.get("commit", ""),
        "versions": made.get("distributions", ""),
        "machine": f"{_text(made.get('platform', ''))}; {_text(made.get('kernels', ''))}",
        "seed": entry.content["seed"],
        "code": ", ".join(code),
        "checksum": entry.content["checksum"],
    }
    items = "".join(f"<dt>{name}</dt><dd>{html.escape(_text(value))}</dd>" for name, value in said.items())
    check = f"<small>{html.escape(entry.verified)}</small>" if entry.verified else ""
    agent = html.escape(entry.content["agent"])
    return f"<b>{agent}</b>{check}<details><summary>how it was made</summary><dl>{items}</dl></details>"


def _text(value: Any) -> str:
    """As words, and not too many of them."""
    if isinstance(value, dict):
        value = [f"{name} {one}" for name, one in value.items()]
    return (", ".join(map(str, value)) if isinstance(value, list) else str(value))[:400]


# -- the command -------------------------------------------------------------------------------------------------------


def show_leaderboard(words: list[str]) -> int:
    """The command: read, check, perhaps recompute, write; 1 where a submission was refused."""
    settings = tyro.cli(
        LeaderboardSettings, args=words, prog="ntp-bench leaderboard", config=(tyro.conf.FlagCreatePairsOff,)
    )
    stdout, stderr = Console(highlight=False), Console(stderr=True, highlight=False)
    rng = np.random.default_rng(settings.seed)
    entries: list[Entry] = []
    refused: dict[str, str] = {}
    for path in sorted(settings.folder.glob("*.json")):
        try:
            entry = read_submission(path)
            if settings.verify:
                tell = lambda words: stderr.print(escape(words), soft_wrap=True)  # noqa: E731
                said = verified(entry, rng, trust=settings.trust, tell=tell)
                entry = replace(entry, verified=said)
            entries.append(entry)
        except Refused as error:
            refused[path.name] = str(error)
        except Exception as error:  # a file made for it, or an agent, raises whatever it can
            refused[path.name] = f"it cannot be read ({error!r:.200})"
    write_whole(settings.out, page(entries, refused).encode("utf-8", "replace"))
    for entry in sorted(entries, key=lambda entry: (entry.group, -entry.overall)):
        said = f" ({entry.verified})" if entry.verified else ""
        words_on = f"{entry.content['agent']}, {entry.content['size']}: {entry.overall:.3f}{said}"
        stdout.print(escape(words_on), soft_wrap=True)
    for name, why in refused.items():
        stderr.print(f"[bold red]refused:[/] {escape(ascii(name)[1:-1])}: {escape(why)}", soft_wrap=True)
    stdout.print(f"page: {escape(str(settings.out))}", soft_wrap=True)
    return 1 if refused else 0

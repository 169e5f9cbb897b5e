"""``ntp-bench diff``: what changed from one run of a study to another, with intervals."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import tyro
from rich.console import Console
from rich.markup import escape

from experiments.cells import Record, ResultStore, keyed_rng
from experiments.run import OutputFolder, settings_differ
from experiments.summary import Interval, Table, number, paired_difference, with_interval
from experiments.terminal import plain, print_whole
from ntp_envs.arrays import ROUNDING
from ntp_envs.intervals import CONFIDENCE

#: labels that tell replicates apart
REPLICATES = {"seed"}
#: where a number stands: part, labels but for those, metric
Place = tuple[str, tuple[tuple[str, Any], ...], str]


@dataclass(frozen=True)
class DiffSettings:
    """What changed from one run of a study to another, with 95 % intervals of the differences."""

    before: Annotated[Path, tyro.conf.Positional, tyro.conf.arg(metavar="RUN1")]
    """Output folder of a run."""
    after: Annotated[Path, tyro.conf.Positional, tyro.conf.arg(metavar="RUN2")]
    """Output folder of another."""
    metrics: tuple[str, ...] = ()
    """Only these measures, such as C_apx; all by default."""
    all: bool = False
    """Show what did not change, too."""
    json: bool = False
    """Print JSON instead of a table."""


@dataclass(frozen=True)
class Change:
    """One number of both runs.

    Attributes:
        place: part, labels and metric.
        before, after: means.
        difference: after minus before, and its interval; no ends where either is one number without an interval.
        paired: whether replicates were compared one by one, on the same data.
        clear: the interval excludes zero, or exact numbers differ by more than rounding.
    """

    place: Place
    before: float
    after: float
    difference: Interval
    paired: bool
    clear: bool


def compare_runs(before: Path, after: Path) -> tuple[list[Change], dict[str, int], dict[str, tuple[Any, Any]]]:
    """Every number that both runs have, how many only one has, and the settings that differ.

    Replicates of equal cells (same seed of the run, same parameters, hence the same data) are compared one by one;
    others as two independent samples (Welch's interval).

    Raises:
        ValueError: a folder without a readable run, or runs of different studies.
    """
    (settings, first), (other, second) = (_read(path) for path in (before, after))
    if settings["study"] != other["study"]:
        raise ValueError(f"{before} is a run of {settings['study']!r}, {after} of {other['study']!r}; give two of one.")
    same_data = settings["seed"] == other["seed"]
    found = [_change(place, first[place], second[place], same_data) for place in first if place in second]
    missing = {"before": len(first.keys() - second.keys()), "after": len(second.keys() - first.keys())}
    return found, missing, settings_differ(settings, other)


def _read(path: Path) -> tuple[dict[str, Any], dict[Place, dict[str, Record]]]:
    """Settings of a run, and its records by place and cell."""
    folder = OutputFolder(path)
    if not folder.results.is_file():
        raise ValueError(f"{path} holds no run (no {folder.results.name}); give the output folder of one.")
    settings = folder.settings()
    found: dict[Place, dict[str, Record]] = {}
    with ResultStore(folder.results) as store:
        parts = store.parts()
        for key, result in store.results().items():
            for record in result.records:
                if not record.machine:
                    labels = {name: value for name, value in record.labels.items() if name not in REPLICATES}
                    place = (parts[key], tuple(sorted(labels.items())), record.metric)
                    found.setdefault(place, {})[key] = record
    return settings, found


def _change(place: Place, before: dict[str, Record], after: dict[str, Record], same_data: bool) -> Change:
    rng = keyed_rng(0, "diff: bootstrap")
    first, second = ([record.value for record in side.values()] for side in (before, after))
    means = float(np.mean(first)), float(np.mean(second))
    common = sorted(before.keys() & after.keys()) if same_data else []
    paired = len(common) > 1 and len(common) == len(before) == len(after)
    gap = means[1] - means[0] if all(map(math.isfinite, means)) else math.nan
    size = max(abs(mean) for mean in means)
    nothing = abs(gap) <= ROUNDING * size or means[0] == means[1]
    difference: Interval = (gap, math.nan, math.nan)
    if paired:
        ours, theirs = ([side[key].value for key in common] for side in (after, before))
        if np.isfinite([ours, theirs]).all():
            difference = paired_difference(ours, theirs, rng, rounding=ROUNDING)
    elif len(first) > 1 and len(second) > 1 and math.isfinite(gap) and np.ptp(first) + np.ptp(second) > 0:
        from scipy.stats import ttest_ind

        ends = ttest_ind(second, first, equal_var=False).confidence_interval(CONFIDENCE)
        difference = (gap, float(ends.low), float(ends.high))
    elif len(first) == len(second) == 1 and math.isfinite(gap):
        difference = _of_two(next(iter(before.values())), next(iter(after.values())), gap)
    _, lower, upper = difference
    without = math.isnan(lower) or math.isnan(upper)
    clear = not nothing and (without or lower > 0 or upper < 0)
    return Change(place, *means, difference, paired, clear)


def _of_two(before: Record, after: Record, gap: float) -> Interval:
    """The difference of two numbers that were estimated once each, independently, from their own intervals."""
    ends = [
        (r.lower, r.upper) if r.lower is not None and r.upper is not None else (r.value,) * 2 for r in (before, after)
    ]
    (low0, high0), (low1, high1) = ends
    if low0 == high0 and low1 == high1:
        return gap, math.nan, math.nan
    down = math.hypot(after.value - low1, high0 - before.value)
    up = math.hypot(high1 - after.value, before.value - low0)
    return gap, gap - down, gap + up


def table_of(changes: Sequence[Change], title: str) -> Table:
    """A line for each number; columns for the labels that anything differs in."""
    labels = list(dict.fromkeys(name for change in changes for name, _ in change.place[1]))
    values = {name: {dict(change.place[1]).get(name) for change in changes} for name in labels}
    shown = [name for name in labels if len(values[name]) > 1] or labels[:2]
    lines = []
    for change in changes:
        part, place, metric = change.place
        at = dict(place)
        words = [f"{at[name]:g}" if isinstance(at.get(name), float) else str(at.get(name, "")) for name in shown]
        gap = with_interval(*change.difference) + (" (paired)" if change.paired else "")
        lines.append([part, *words, metric, number(change.before), number(change.after), gap])
    note = (
        "Differences are after minus before, with 95 % intervals; those without one are exact, or of one number each."
    )
    return Table(title, ["part", *shown, "metric", "before", "after", "difference"], lines, note)


def show_diff(words: list[str]) -> int:
    """The command: parse, compare, print; 0 whether or not anything changed."""
    settings = tyro.cli(DiffSettings, args=words, prog="ntp-bench diff", config=(tyro.conf.FlagCreatePairsOff,))
    changes, missing, differing = compare_runs(settings.before, settings.after)
    if unknown := set(settings.metrics) - {change.place[2] for change in changes}:
        known = sorted({change.place[2] for change in changes})
        raise ValueError(f"--metrics {sorted(unknown)[0]}: both runs have {', '.join(known) or 'nothing'}.")
    changes = [change for change in changes if not settings.metrics or change.place[2] in settings.metrics]
    clear = [change for change in changes if change.clear]
    if settings.json:
        found = {"changed": [_plain(c) for c in (changes if settings.all else clear)], "compared": len(changes)}
        print(json.dumps({**found, "only": missing, "settings": differing}, indent=1))
        return 0
    console = Console(highlight=False)
    for name, (old, new) in differing.items():
        console.print(escape(f"{name}: {old} -> {new}"), soft_wrap=True)
    shown = changes if settings.all else clear
    if shown:
        print_whole(table_of(shown, f"{settings.before} -> {settings.after}").to_rich())
    console.print(
        f"{len(clear)} of {len(changes)} numbers changed clearly; {missing['before']} are only in "
        f"{settings.before}, {missing['after']} only in {settings.after}.",
        soft_wrap=True,
        markup=False,
    )
    return 0


def _plain(change: Change) -> dict[str, Any]:
    part, place, metric = change.place
    gap, lower, upper = change.difference
    numbers = {"before": change.before, "after": change.after, "difference": gap, "lower": lower, "upper": upper}
    found = {"part": part, "labels": dict(place), "metric": metric, **numbers}
    return plain({**found, "paired": change.paired, "clear": change.clear})

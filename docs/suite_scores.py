"""The second table of docs/suite.md, from submissions that are too large to be kept: their scores are, run by run.

    python docs/suite_scores.py FOLDER

Every submission in the folder is checked, as ``ntp-bench leaderboard`` does; ``docs/suite_scores.json`` then has the
scores of each agent that has no submission in the repository, ``(tasks, data sets)`` a track, and the page their means
and intervals. What is in the file already stays, where the folder has nothing of that agent.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from experiments.leaderboard import read_submission
from experiments.studies.suite import OVERALL, SIZES, score_rows
from experiments.summary import Summary

HERE = Path(__file__).parent
SCORES, PAGE, SUBMITTED = HERE / "suite_scores.json", HERE / "suite.md", HERE.parent / "experiments" / "submissions"
TRACKS = [track.name for track in SIZES["full"][0]]
#: of the page, what stands before the table
BEFORE = "makes this table from them:\n\n"


def main(folder: Path) -> None:
    kept = json.loads(SCORES.read_text(encoding="utf-8")) if SCORES.exists() else {}
    found = {**kept, **scores_of(folder)}
    others = {agent: found[agent] for agent in sorted({*found} - {*scores_of(SUBMITTED)})}
    text = ",\n".join(f"{json.dumps(agent)}: {json.dumps(scores)}" for agent, scores in others.items())
    SCORES.write_text(f"{{\n{text}\n}}\n", encoding="utf-8")
    before, rest = PAGE.read_text(encoding="utf-8").split(BEFORE)
    after = rest.partition("\n\n")[2]
    PAGE.write_text(f"{before}{BEFORE}{table(others)}\n{after}", encoding="utf-8")


def scores_of(folder: Path) -> dict[str, Any]:
    """Of each agent with a full submission, the scores of its runs."""
    entries = [read_submission(path) for path in sorted(folder.glob("submission-full-*.json"))]
    if len({entry.group for entry in entries}) > 1:
        raise ValueError(f"the submissions in {folder} are on different texts; their scores have no common table.")
    return {
        entry.content["agent"]: {name: each.round(6).tolist() for name, each in entry.runs.items()} for entry in entries
    }


def table(scores: Mapping[str, Any]) -> str:
    """Lines of Markdown, the best agent first."""
    lines = {}
    for agent, each in scores.items():
        rows = Summary(score_rows(agent, {track: np.array(runs) for track, runs in each.items()}))
        (overall,) = rows.select(f"{OVERALL}: score")
        shown = [
            f"{row.mean:.3f}" + f" [{row.lower:.3f}, {row.upper:.3f}]" * (row.upper - row.lower > 5e-4)
            for name in (*TRACKS, OVERALL)
            for row in rows.select(f"{name}: score")
        ]
        lines[agent] = overall.mean, f"| `{agent}` | {' | '.join(shown)} |\n"
    head = f"| agent | {' | '.join((*TRACKS, OVERALL))} |\n|{'-|' * (len(TRACKS) + 2)}\n"
    return head + "".join(line for _, line in sorted(lines.values(), key=lambda found: -found[0]))


if __name__ == "__main__":
    main(Path(sys.argv[1]))

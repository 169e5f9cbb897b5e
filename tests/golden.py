"""The same numbers from old code and new: ``python tests/golden.py OLD_CHECKOUT`` or ``--against REVISION``.

Every study runs in its small form with the code of both, each time in new processes of this Python. Compared are the
keys of the cells and the first draw of each one's generator, ``summary.csv`` number by number, and findings line by
line. Each study is said to have "same bytes", or its worst relative difference; then come the lines that differ.
``--split text text shuffled`` compares what was one study, in its old small form, with those that its parts are now.

The exit status is 1 where cells, draws or labels differ, or a number by more than ``--relative`` (of numbers next to
nothing, by more than 1e-9), or a study fails; 2 where the command was used wrongly. Findings that differ are only
shown: their numbers are those of the summary, or seconds. Networks are trained where torch is installed.
"""

from __future__ import annotations

import argparse
import difflib
import html
import json
import re
import runpy
import sqlite3
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path

from house import checkout
from small_studies import RELATIVE, ROOT, SMALL, compare, environment, first, run

#: the first draw of each cell's generator, as the code in the folder makes it
DRAWS = """
import json, sys, types
from experiments.cells import cell_rng
from experiments.studies import load_study
study, keys = json.load(sys.stdin)
seeds_of = getattr(load_study(study), "seeds_of", study)
print(json.dumps([int(cell_rng(0, seeds_of, types.SimpleNamespace(key=key)).integers(2**63)) for key in keys]))
"""


@dataclass(frozen=True)
class Made:
    """What a study made: cells as lines ``key: draw``, the lines of its summary, findings."""

    cells: list[str]
    summary: list[list[str]]
    findings: list[str]


def made(study: str, words: list[str], out: Path, root: Path) -> Made:
    """Run a study with the code in ``root``; ``RuntimeError`` if it fails."""
    summary = run(study, words, out, environment(root), root)
    return Made(cells_in(study, out, root), summary, findings_in(out))


def cells_in(study: str, out: Path, root: Path) -> list[str]:
    with sqlite3.connect(out / "results.sqlite") as db:
        keys = [key for (key,) in db.execute("SELECT key FROM cells ORDER BY rowid")]
    words, said = [sys.executable, "-c", DRAWS], json.dumps([study, keys])
    found = subprocess.run(
        words, input=said, env=environment(root), cwd=root, capture_output=True, text=True, check=True
    )
    return [f"{key}: {draw}" for key, draw in zip(keys, json.loads(found.stdout))]


def findings_in(out: Path) -> list[str]:
    listed = re.search(r"<ul>(.*?)</ul>", (out / "report.html").read_text(encoding="utf-8"), flags=re.DOTALL)
    return [html.unescape(line) for line in re.findall(r"<li>(.*?)</li>", listed[1], re.DOTALL)] if listed else []


def joined(parts: Sequence[Made]) -> Made:
    """Several studies as one, with the label columns of all; cells and rows are sorted, none of them twice."""
    labels = sorted({name for part in parts for name in part.summary[0][1 : part.summary[0].index("metric")]})
    header = ["part", *labels, *parts[0].summary[0][parts[0].summary[0].index("metric") :]]
    rows = [dict(zip(part.summary[0], line, strict=True)) for part in parts for line in part.summary[1:]]
    return Made(
        sorted({cell for part in parts for cell in part.cells}),
        [header, *map(list, sorted({tuple(row.get(name, "") for name in header) for row in rows}))],
        [finding for part in parts for finding in part.findings],
    )


def changed(old: list[str], new: list[str]) -> list[str]:
    return [line for line in difflib.ndiff(old, new) if line[0] in "+-"]


def verdict(old: Made, new: Made, relative: float = RELATIVE) -> tuple[bool, list[str]]:
    """Whether the two agree, and lines that say how far: the first is for the study's own line."""
    worst, numbers = compare(old.summary, new.summary, relative)
    cells, findings = changed(old.cells, new.cells), changed(old.findings, new.findings)
    same = (old.cells, old.summary) == (new.cells, new.summary)
    told = [*(f"cell {line}" for line in first(cells)), *first(numbers), *(f"finding {line}" for line in findings)]
    return not cells and not numbers, ["same bytes" if same else f"worst relative difference {worst:.1e}", *told]


def main(words: list[str]) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("old", nargs="?", type=Path, metavar="OLD_CHECKOUT", help="a folder with the old code")
    parser.add_argument("--against", metavar="REVISION", help="of this repository, instead of a folder")
    parser.add_argument("--studies", nargs="+", choices=SMALL, default=list(SMALL), help="all by default")
    parser.add_argument("--split", nargs="+", metavar=("OLD", "NEW"), help="one old study, and those that it is now")
    parser.add_argument("--relative", type=float, default=RELATIVE, help=f"what a number may move by ({RELATIVE:g})")
    asked = parser.parse_args(words)
    if (asked.old is None) == (asked.against is None):
        parser.error("name either a folder with the old code or --against REVISION")
    if asked.old is not None and not (asked.old / "experiments").is_dir():
        parser.error(f"{asked.old} is not a checkout: it has no folder experiments")
    if asked.split and (len(asked.split) < 2 or not {*asked.split[1:]} <= {*SMALL}):
        parser.error(f"--split takes an old study and those that it is now, of {', '.join(SMALL)}")
    failed = False
    code = nullcontext(asked.old.resolve()) if asked.old is not None else checkout(asked.against)
    with code as old, tempfile.TemporaryDirectory() as folder:
        for study in asked.split[:1] if asked.split else asked.studies:
            start = time.perf_counter()
            try:
                place = Path(folder) / study
                if asked.split:
                    form = runpy.run_path(str(old / "tests" / "small_studies.py"))["SMALL"][study]
                    parts = [made(new, SMALL[new].split(), place / new, ROOT) for new in asked.split[1:]]
                    pair = joined([made(study, form.split(), place / "old", old)]), joined(parts)
                else:
                    words = SMALL[study].split()
                    pair = made(study, words, place / "old", old), made(study, words, place / "new", ROOT)
                agree, told = verdict(*pair, asked.relative)
            except RuntimeError as error:
                agree, told = False, [str(error)]
            failed |= not agree
            print(f"{study:15} {told[0]} ({time.perf_counter() - start:.0f} s)", *told[1:], sep="\n    ", flush=True)
    print("FAILED" if failed else f"all within {asked.relative:g}")
    return int(failed)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

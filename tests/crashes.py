"""Kills runs of a study at random moments and counts what is lost: ``python tests/crashes.py [--kills 60] [--seed 0]``.

Each time the parent or one of its workers is killed with SIGKILL. Afterwards no process of the run is left, what was
finished is still there and is not run again, and the run that in the end goes through has the ``summary.csv`` of one
that nobody disturbed, byte by byte. Processes are found in ``/proc``.
"""

import argparse
import json
import os
import random
import shutil
import signal
import sqlite3
import subprocess
import sys
import tempfile
import time
from collections import Counter
from contextlib import closing
from pathlib import Path

ROOT = Path(__file__).parent.parent
STUDY = ["experiments_toy:STUDY", "--mood", "slow", "--seeds", "12"]


def start(folder, log, workers):
    words = ["run", *STUDY, "--log", str(log), "--workers", str(workers), "--out", str(folder), "--quiet"]
    path = os.pathsep.join([str(ROOT), str(ROOT / "tests")])
    silent = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL, "start_new_session": True}
    command = [sys.executable, "-m", "experiments", *words]
    return subprocess.Popen(command, env={**os.environ, "PYTHONPATH": path}, **silent)


def children(parent):
    """The workers of a run: its children that are no helpers of multiprocessing's."""
    found = []
    for place in Path("/proc").glob("[0-9]*"):
        try:
            words = (place / "stat").read_text().rpartition(")")[2].split()
            if int(words[1]) == parent and b"spawn_main" in (place / "cmdline").read_bytes():
                found.append(int(place.name))
        except (OSError, ValueError, IndexError):
            continue
    return found


def group_is_gone(group, within=20.0):
    deadline = time.monotonic() + within
    while time.monotonic() < deadline:
        try:
            os.killpg(group, 0)
        except ProcessLookupError:
            return True
        time.sleep(0.02)
    return False


def finished(folder):
    """Cells that are kept, as the log of the toy study calls them."""
    if not (folder / "results.sqlite").exists():
        return set()
    with closing(sqlite3.connect(f"file:{folder}/results.sqlite?mode=ro", uri=True)) as db:
        try:
            lines = db.execute("SELECT parameters FROM cells WHERE error IS NULL").fetchall()
        except sqlite3.OperationalError:  # killed before the table was made
            return set()
    found = (json.loads(line) for (line,) in lines)
    return {f"{cell['size']} {cell['replicate']}" for cell in found}


def crash(folder, kills, seed):
    """Kill runs in ``folder`` until so many were killed; what was lost, repeated or left over, by name."""
    rng, log, run = random.Random(seed), folder / "log", folder / "run"
    assert start(folder / "undisturbed", log, 2).wait() == 0
    counts = Counter()
    log.write_text("")
    while counts["parents killed"] + counts["workers killed"] < kills:
        before, ran = finished(run), Counter(log.read_text().splitlines())
        process = start(run, log, 2)
        workers = []
        while process.poll() is None and not workers:
            time.sleep(0.02)
            workers = children(process.pid)
        time.sleep(rng.uniform(0.0, 2.0))
        target = rng.choice(["parent", "worker"])
        try:
            os.kill(process.pid if target == "parent" or not workers else rng.choice(workers), signal.SIGKILL)
            counts[f"{target}s killed"] += 1
        except ProcessLookupError:
            pass
        process.wait(timeout=120)
        counts["orphans"] += not group_is_gone(process.pid)
        after = Counter(log.read_text().splitlines())
        counts["finished cells lost"] += len(before - finished(run))
        counts["finished cells repeated"] += sum(after[cell] > ran[cell] for cell in before)
        mine, theirs = (place / "summary.csv" for place in (run, folder / "undisturbed"))
        if mine.exists():  # through: from the beginning
            counts["runs that went through"] += 1
            counts["other bytes"] += mine.read_bytes() != theirs.read_bytes()
            shutil.rmtree(run)
            log.write_text("")
    return counts


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--kills", type=int, default=60)
    parser.add_argument("--seed", type=int, default=0)
    asked = parser.parse_args()
    with tempfile.TemporaryDirectory() as place:
        found = crash(Path(place), asked.kills, asked.seed)
    for what in ("orphans", "finished cells lost", "finished cells repeated", "other bytes"):
        found.setdefault(what, 0)
    for what, count in sorted(found.items()):
        print(f"{what}: {count}")
    sys.exit(any(found[what] for what in ("orphans", "finished cells lost", "finished cells repeated", "other bytes")))

"""Kills runs of a study at random moments and counts what is lost:

    python tests/crashes.py [--kills 60] [--seed 0] [--executor local|dask|slurm]

Each time the parent, one of its workers or both are killed with SIGKILL. Afterwards no process, Slurm job or task at
the scheduler of the run is left, what was finished is still there and is not run again, and the run that in the end
goes through has the ``summary.csv`` of one that nobody disturbed, byte by byte. Processes are found in ``/proc``; Dask
is started here, Slurm by ``.ci/slurm python tests/crashes.py --executor slurm``.
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
from contextlib import closing, suppress
from pathlib import Path

ROOT = Path(__file__).parent.parent
PATH = os.pathsep.join([str(ROOT), str(ROOT / "tests")])
STUDY = ["experiments_toy:STUDY", "--mood", "slow"]


def start(*words):
    """A program of Python in a process group of its own."""
    silent = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL, "start_new_session": True}
    return subprocess.Popen([sys.executable, *words], env={**os.environ, "PYTHONPATH": PATH}, **silent)


def begin(folder, log, *more):
    return start("-m", "experiments", "run", *STUDY, "--log", str(log), "--out", str(folder), "--quiet", *more)


def processes(words, parent=None):
    """Processes with these words on their command line, and with this parent."""
    found = []
    for place in Path("/proc").glob("[0-9]*"):
        try:
            above = int((place / "stat").read_text().rpartition(")")[2].split()[1])
            if parent in (None, above) and words in (place / "cmdline").read_bytes():
                found.append(int(place.name))
        except (OSError, ValueError, IndexError):
            continue
    return found


def happens(true, within=120.0):
    deadline = time.monotonic() + within
    while not true():
        if time.monotonic() > deadline:
            return False
        time.sleep(0.05)
    return True


# -- the executors: how a run is told of them, where its workers are, and what is left of a run that has ended ---------


class Local:
    words = ("--seeds", "12", "--workers", "2")
    longest = 2.0  # seconds from the first worker to the kill

    def renew(self):
        """Before each run."""

    def workers(self, parent):
        return processes(b"spawn_main", parent)  # and no helpers of multiprocessing's

    def left(self, parent, was_killed):
        """Whether something of the run outlives it."""
        return not happens(lambda: not group_lives(parent))

    def close(self):
        pass


def group_lives(group):
    try:
        os.killpg(group, 0)
    except ProcessLookupError:
        return False
    return True


class Dask(Local):
    longest = 4.0

    def __init__(self, place):
        import distributed

        file = ["--scheduler-file", str(place / "scheduler.json"), "--no-dashboard"]
        local = ["--host", "127.0.0.1", "--port", "0"]
        self.scheduler = start("-m", "distributed.cli.dask_scheduler", *file, *local)
        self.worker = ["-m", "distributed.cli.dask_worker", *file, "--no-nanny", "--nthreads", "1"]
        self.pool = []
        assert happens((place / "scheduler.json").exists, 60.0)
        self.client = distributed.Client(scheduler_file=file[1], timeout=60)
        self.words = ("--seeds", "12", "--executor", "dask", "--scheduler", self.client.scheduler.address)

    def renew(self):
        for _ in range(3):  # a worker whose neighbour was killed may hang instead of joining
            self.pool = [one for one in self.pool if one.poll() is None]
            self.pool += [start(*self.worker) for _ in range(2 - len(self.pool))]
            with suppress(TimeoutError):
                return self.client.wait_for_workers(2, timeout=30)
            for one in self.pool:
                one.kill()
                one.wait()
        raise RuntimeError("Dask's workers do not start")

    def workers(self, parent):
        return [one.pid for one in self.pool]

    def left(self, parent, was_killed):
        def tasks(dask_scheduler):
            return len(dask_scheduler.tasks)

        return super().left(parent, was_killed) or not happens(lambda: self.client.run_on_scheduler(tasks) == 0)

    def close(self):
        self.client.close()
        for one in (*self.pool, self.scheduler):
            one.kill()
            one.wait()


class Slurm(Local):
    words = ("--seeds", "4", "--executor", "slurm", "--slurm-memory", "0.5", "--workers", "2")
    longest = 12.0
    every = 4  # of so many killed runs one is given the time to see that its jobs end without it
    killed = 0

    def workers(self, parent):
        return processes(b"submitit.core._submit")

    def left(self, parent, was_killed):
        self.killed += was_killed
        if was_killed and self.killed % self.every:  # the next run cancels them
            return super().left(parent, was_killed)
        return super().left(parent, was_killed) or not happens(self.gone, 120.0 if was_killed else 0.0)

    def gone(self):
        queue = subprocess.run(["squeue", "--noheader"], check=True, capture_output=True, text=True).stdout
        return not queue and not self.workers(0)

    def close(self):
        assert self.gone(), "a job is left at the end"


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


def crash(folder, kills, seed, executor):
    """Kill runs in ``folder`` until so many were killed; what was lost, repeated or left over, by name."""
    rng, log, run = random.Random(seed), folder / "log", folder / "run"
    executor.renew()
    assert begin(folder / "undisturbed", log, *executor.words[:2], "--workers", "2").wait() == 0
    counts = Counter()
    log.write_text("")
    while sum(counts[f"{target} killed"] for target in TARGETS) < kills or run.exists():  # to the end
        enough = sum(counts[f"{target} killed"] for target in TARGETS) >= kills
        before, ran = finished(run), Counter(log.read_text().splitlines())
        executor.renew()
        process, target = begin(run, log, *executor.words), rng.choice(TARGETS)
        if not enough:
            happens(lambda p=process: p.poll() is not None or executor.workers(p.pid), 60.0)
            time.sleep(rng.uniform(0.0, executor.longest))
            workers = executor.workers(process.pid) if target != "parent" else []
            victims = [*([process.pid] if target != "worker" else []), *rng.sample(workers, min(len(workers), 1))]
            if process.poll() is None and victims:
                counts[f"{target} killed"] += 1
                for victim in victims:
                    with suppress(ProcessLookupError):
                        os.kill(victim, signal.SIGKILL)
        process.wait(timeout=300)
        counts["orphans"] += executor.left(process.pid, process.returncode < 0)
        after = Counter(log.read_text().splitlines())
        counts["finished cells lost"] += len(before - finished(run))
        counts["finished cells repeated"] += sum(after[cell] > ran[cell] for cell in before)
        mine, theirs = (place / "summary.csv" for place in (run, folder / "undisturbed"))
        if mine.exists():  # through: from the beginning
            counts["runs that went through"] += 1
            counts["other bytes"] += mine.read_bytes() != theirs.read_bytes()
            shutil.rmtree(run)
            log.write_text("")
        print(f"{executor.words}: {dict(counts)}", file=sys.stderr, flush=True)
    return counts


TARGETS = ("parent", "worker", "both")
NONE = ("orphans", "finished cells lost", "finished cells repeated", "other bytes")

if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--kills", type=int, default=60)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--executor", choices=("local", "dask", "slurm"), default="local")
    asked = parser.parse_args()
    with tempfile.TemporaryDirectory() as place:
        chosen = {"local": Local, "dask": lambda: Dask(Path(place)), "slurm": Slurm}[asked.executor]()
        try:
            found = crash(Path(place), asked.kills, asked.seed, chosen)
        finally:
            chosen.close()
    for what in NONE:
        found.setdefault(what, 0)
    for what, count in sorted(found.items()):
        print(f"{asked.executor}: {what}: {count}")
    sys.exit(any(found[what] for what in NONE))

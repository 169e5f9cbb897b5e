"""Runs on other machines' workers: Dask's on loopback, and Slurm jobs where ``.ci/slurm`` has started a Slurm."""

import contextlib
import importlib
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import experiments_toy as toy
import pytest
from crashes import finished

from experiments import clusters
from experiments.clusters import Needs, Place, versions
from experiments.executors import WorkerRefused, run_cell, taken
from experiments.run import run_study

ROOT = Path(__file__).parent.parent
SLOW = toy.ToyOptions(sizes=(1, 2), mood="slow")


def paths(*more):
    return os.pathsep.join([*map(str, more), str(ROOT), str(ROOT / "tests")])


def until(true, within=300.0):
    deadline = time.monotonic() + within
    while not true():
        assert time.monotonic() < deadline, "it does not happen"
        time.sleep(0.05)


# -- what is checked before anything is sent ---------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("asked", "said"),
    [
        ({"executor": "dask"}, "go together"),
        ({"scheduler": "tcp://1.2.3.4:5"}, "go together"),
        ({"no_shared_files": True}, "is for --executor dask"),
        ({"workers": 0}, "workers=0"),
        ({"executor": "slurm", "slurm_time": 0}, "slurm_time=0"),
    ],
)
def test_places_that_make_no_sense_are_refused(asked, said):
    with pytest.raises(ValueError, match=said):
        Place(**asked)


def needs_of(cell):
    return Needs(versions(), {}, clusters.code_of_cells([cell]))


def test_a_worker_that_would_compute_something_else_is_refused(tmp_path, monkeypatch):
    (cell, _) = toy.LONG.checked_cells(toy.LongOptions())
    there, book = needs_of(cell), tmp_path / "book.txt"
    there.check(cell)
    book.write_text("words")
    for other, said in (
        (Needs({**there.versions, "numpy": "1.0"}, {}, there.code), "numpy is .* there, 1.0 here"),
        (Needs(there.versions, {}, {cell.key: {"mine.py": "1234"}}), "mine.py is missing there"),
        (Needs(there.versions, {str(book): "abc"}, there.code), "book.txt"),
        (Needs(there.versions, {str(tmp_path / "none"): "abc"}, there.code), "is none there"),
    ):
        with pytest.raises(WorkerRefused, match=said):
            other.check(cell)
    with pytest.raises(WorkerRefused, match="--no-shared-files"):
        there.check(cell, tmp_path / "run" / "checkpoints")
    monkeypatch.setattr(clusters, "_LOADED", 0.0)
    with pytest.raises(WorkerRefused, match=r"experiments_toy.py was written since"):
        there.check(cell)


def test_a_worker_taken_for_lost_has_no_scratch_folder_any_more(tmp_path):
    (cell, _) = toy.LONG.checked_cells(toy.LongOptions())
    lost = taken(cell, tmp_path)
    (lost / "state").write_text("3 13")
    result = run_cell(cell, "long", 0, tmp_path)
    assert [record.value for record in result.records] == [16.0, 1.0]
    assert not lost.exists() and list(tmp_path.parent.glob(f"{tmp_path.name}/*")) == []


# -- Dask --------------------------------------------------------------------------------------------------------------


@contextlib.contextmanager
def started(*words, **more):
    process = subprocess.Popen(
        [sys.executable, *words],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
        **more,
    )
    try:
        yield process
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()


@pytest.fixture(scope="module")
def dask(tmp_path_factory):
    """Address of a scheduler with two workers, each a process of its own that is started anew when it dies."""
    distributed = pytest.importorskip("distributed")
    place = tmp_path_factory.mktemp("dask")
    file = place / "scheduler.json"
    words = {"cwd": place, "env": {**os.environ, "PYTHONPATH": paths(place)}}
    scheduler = ["--host", "127.0.0.1", "--port", "0", "--no-dashboard", "--scheduler-file", str(file)]
    workers = ["--scheduler-file", str(file), "--nworkers", "2", "--nthreads", "1", "--no-dashboard"]
    # the scheduler has none of our code, as it may be anywhere
    bare = {"cwd": place, "env": {**os.environ, "PYTHONPATH": ""}}
    with contextlib.ExitStack() as running:
        running.enter_context(started("-m", "distributed.cli.dask_scheduler", *scheduler, **bare))
        running.enter_context(started("-m", "distributed.cli.dask_worker", *workers, **words))
        client = distributed.Client(scheduler_file=str(file), set_as_default=False, timeout=60)
        running.enter_context(client)
        client.wait_for_workers(2, timeout=60)
        yield place, client


def at(client, **more):
    return Place("dask", scheduler=client.scheduler.address, **more)


@pytest.mark.slow
def test_dask_with_a_worker_killed_in_the_middle(dask, tmp_path):
    _, client = dask
    log = tmp_path / "log"
    options = toy.ToyOptions(mood="slow", log=str(log))
    killed = []

    def kill(done, total, result):
        if done == 3:
            killed.append(next(iter(client.run(os.getpid).values())))
            os.kill(killed[0], signal.SIGKILL)

    outcome = run_study(toy.UNDRAWN, options, out=tmp_path / "far", place=at(client), progress=kill)
    assert killed and not outcome.failures
    ran = Counter(log.read_text().splitlines())
    assert len(ran) == 9 and sum(ran.values()) <= 10  # the one that it was in again, and no other
    run_study(toy.UNDRAWN, options, out=tmp_path / "near")
    assert (tmp_path / "far" / "summary.csv").read_bytes() == (tmp_path / "near" / "summary.csv").read_bytes()


@pytest.mark.slow
def test_dask_names_the_cell_that_kills_its_workers_and_goes_on_from_what_they_sent(dask, tmp_path, monkeypatch):
    """Without shared files, and only the first worker dies of the long cell: the second one goes on where it was."""
    _, client = dask
    monkeypatch.setattr(clusters, "SEND_EVERY", 0.1)
    far, log = at(client, no_shared_files=True), tmp_path / "log"
    options = toy.LongOptions(stop=str(tmp_path / "stop"))
    (tmp_path / "stop").touch()
    outcome = run_study(toy.replace(toy.LONG, cells=toy.killing_cells), options, out=tmp_path / "run", place=far)
    assert not outcome.failures
    assert [row.mean for row in outcome.summary.select("total")] == [16.0, 26.0]
    assert [row.mean for row in outcome.summary.timings if row.metric == "steps made"] == [2.0, 4.0]
    assert not (tmp_path / "run" / "checkpoints").exists()

    options = toy.ToyOptions(sizes=(1, 2), mood="dying", log=str(log))
    outcome = run_study(toy.UNDRAWN, options, out=tmp_path / "dying", place=at(client))
    (failure,) = outcome.failures
    assert "'size': 2" in failure.where and "'replicate': 1" in failure.where and "worker was lost" in failure.error
    ran = Counter(log.read_text().splitlines())
    assert ran.pop("2 1") == 3
    assert set(ran) == {"1 0", "1 1", "1 2", "2 0", "2 2"}
    assert sum(ran.values()) <= 5 + 3  # what a worker had finished and nobody had fetched dies with it


@pytest.mark.slow
def test_dask_workers_that_are_not_fit_are_refused_in_words(dask, tmp_path, monkeypatch):
    """One that has older code in memory than there is on disk, one that has none, and nobody at all."""
    place, client = dask
    monkeypatch.syspath_prepend(place)
    client.wait_for_workers(2)  # a worker that is new after another died may load the newer code, and would be right to
    client.run(importlib.import_module, "experiments.clusters")
    time.sleep(0.1)  # times of files are coarser than the clock
    code = (
        "from experiments_toy import LongOptions as Options\nfrom experiments.cells import Cell, Record\n"
        "from experiments.study import Analysis, Study\ndef one(*, rng): return [Record('one', {})]\n"
        "STUDY = Study('other', '?', Options, lambda options: [Cell('a', one, {{}})], lambda *_: Analysis())\n"
    )

    def run(value, name="toy_other"):
        (place / f"{name}.py").write_text(code.format(value))
        sys.modules.pop(name, None)
        return run_study(__import__(name).STUDY, out=tmp_path / name, place=at(client))

    with pytest.raises(WorkerRefused, match=r"toy_other\.py was written since the worker was started"):
        run(1.0)
    monkeypatch.syspath_prepend(tmp_path)
    (tmp_path / "toy_mine.py").write_text(code.format(1.0))
    with pytest.raises(WorkerRefused, match=r"cannot import what it needs .*toy_mine"):
        run_study(__import__("toy_mine").STUDY, out=tmp_path / "mine", place=at(client))
    monkeypatch.setattr("experiments.run.versions", lambda: {**versions(), "python": "3.9.1"})
    with pytest.raises(WorkerRefused, match=r"python is .* there, 3\.9\.1 here"):
        run_study(toy.UNDRAWN, SLOW, out=tmp_path / "run", place=at(client))
    with pytest.raises(OSError, match="no Dask scheduler answers"):
        run_study(toy.UNDRAWN, SLOW, out=tmp_path / "none", place=Place("dask", scheduler="tcp://127.0.0.1:9"))


@pytest.mark.slow
def test_stopping_takes_back_what_dask_has_queued(dask, tmp_path):
    _, client = dask
    words = ["experiments_toy:STUDY", "--mood", "slow", "--seeds", "40", "--log", str(tmp_path / "log")]
    place = ["--executor", "dask", "--scheduler", client.scheduler.address, "--out", str(tmp_path / "run")]
    with started("-m", "experiments", "run", *words, *place, env={**os.environ, "PYTHONPATH": paths()}) as process:
        until(lambda: len(finished(tmp_path / "run")) > 2)
        process.terminate()
        assert process.wait(30) == 130
    until(lambda: client.run_on_scheduler(lambda dask_scheduler: len(dask_scheduler.tasks)) == 0)
    assert 2 < len(finished(tmp_path / "run")) < 120


# -- Slurm -------------------------------------------------------------------------------------------------------------


def jobs(*more):
    """Those that wait, run or come to their end."""
    asked = ["squeue", "--noheader", "--format=%i", *more]
    return subprocess.run(asked, check=True, capture_output=True, text=True).stdout.split()


@pytest.fixture(scope="module")
def slurm():
    pytest.importorskip("submitit")
    if not os.environ.get("SLURM_CONF") or shutil.which("sinfo") is None:
        pytest.skip("no Slurm: .ci/slurm starts one")
    os.environ["PYTHONPATH"] = paths()
    return Place("slurm", slurm_memory=0.5, slurm_time=5, workers=2)


@pytest.mark.slow
def test_slurm_with_jobs_cancelled_and_requeued_in_the_middle(slurm, tmp_path):
    log, acted = tmp_path / "log", []
    options = toy.ToyOptions(sizes=(1, 2), mood="long", log=str(log))

    def ran():
        return Counter(log.read_text().splitlines() if log.exists() else [])

    def disturb():
        for command in (["scancel"], ["scontrol", "requeue"]):
            seen = sum(ran().values())
            until(lambda seen=seen: sum(ran().values()) > seen)
            acted.append(subprocess.run([*command, *jobs("--states=running")]).returncode)

    with ThreadPoolExecutor(1) as beside:
        beside.submit(disturb)
        outcome = run_study(toy.UNDRAWN, options, out=tmp_path / "far", place=slurm)
    assert acted == [0, 0] and not outcome.failures
    assert len(ran()) == 6 and 8 <= sum(ran().values()) <= 10
    run_study(toy.UNDRAWN, options, out=tmp_path / "near", workers=4)
    assert (tmp_path / "far" / "summary.csv").read_bytes() == (tmp_path / "near" / "summary.csv").read_bytes()
    assert jobs() == [] and not (tmp_path / "far" / "slurm").exists()


@pytest.mark.slow
def test_stopping_and_killing_leaves_no_slurm_job(slurm, tmp_path):
    """SIGTERM cancels at once; after SIGKILL the jobs see that nobody waits for them, or the next run cancels them."""
    words = ["experiments_toy:STUDY", "--mood", "slow", "--seeds", "9", "--executor", "slurm", "--slurm-memory", "0.5"]
    place = ["--workers", "2", "--out", str(tmp_path / "run")]
    for end in (signal.SIGTERM, signal.SIGKILL):
        with started("-m", "experiments", "run", *words, *place) as process:
            until(lambda: jobs("--states=running"))
            process.send_signal(end)
            assert process.wait(60) == (130 if end == signal.SIGTERM else -signal.SIGKILL)
        if end == signal.SIGTERM:
            assert jobs() == []
    left = jobs()
    with started("-m", "experiments", "run", *words, *place) as process:
        until(lambda: not {*left} & {*jobs()})
        process.terminate()
        assert process.wait(60) == 130


@pytest.mark.slow
def test_slurm_says_in_words_what_it_does_not_take(slurm, tmp_path):
    with pytest.raises(OSError, match=r"does not take the job \(.*partition"):
        run_study(toy.UNDRAWN, SLOW, out=tmp_path / "run", place=Place("slurm", slurm_partition="nowhere"))


# -- the page ----------------------------------------------------------------------------------------------------------


def typed(section, place):
    """Type the commands of a section of the page; every line that is shown must be among what they say."""
    block = re.search(rf"{section}.*?^```console\n(.*?)^```$", PAGE, flags=re.MULTILINE | re.DOTALL)[1]
    environment = {**os.environ, "PYTHONPATH": paths(), "COLUMNS": "250"}
    environment["PATH"] = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
    script = ["set -e"]
    for command, *_ in (part.splitlines() for part in block.split("$ ")[1:]):
        script += [command.replace(" &", " > /dev/null 2>&1 &", 1) if command.endswith(" &") else command]
    with subprocess.Popen(
        ["bash", "-c", "\n".join(script)],
        env=environment,
        cwd=place,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    ) as shell:
        said, _ = shell.communicate(timeout=300)
        with contextlib.suppress(ProcessLookupError):
            os.killpg(shell.pid, signal.SIGKILL)  # the scheduler and its workers
    assert shell.returncode == 0, said
    shown = [line for line in block.splitlines() if not line.startswith("$ ")]
    assert shown and not [line for line in shown if line not in said.splitlines()], said


PAGE = (ROOT / "docs" / "cluster.md").read_text(encoding="utf-8")


@pytest.mark.slow
def test_dask_goes_as_the_page_says(tmp_path):
    pytest.importorskip("distributed")
    typed("", tmp_path)
    typed("## Dask", tmp_path)


@pytest.mark.slow
def test_slurm_goes_as_the_page_says(slurm, tmp_path):
    typed("", tmp_path)
    typed("## Slurm", tmp_path)

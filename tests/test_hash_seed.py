"""Nothing that is written depends on the order in which a process happens to hash its strings."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
STUDIES = (
    "experiments_toy:STUDY --quick",
    "compare --tasks Contamination(eps=0.05,p=0.01,q=0.9) --agents RhoEstimatorBC --horizons 4 --n 40 --seeds 2",
)
#: prints what sets come to in a file and in messages, saves agents and runs a study, in the folder that is given
PROGRAM = """
import os, sys, zipfile
import numpy as np
from agents import ChunkedRhoBC, LogLossBC, agent_names
from ntp_envs import collect, make_task, task_names
from ntp_envs.saved import write

os.chdir(sys.argv[1])
nested = {*map(frozenset, ("abx", "aby", "bxy", "axy")), ("d", frozenset("efg")), "h", "i", 1}
write("sets.npz", [nested, frozenset("ijk")], form="test")
task = make_task("Contamination", horizon=4, eps=0.1, p=0.1, q=0.9, theta_min=0.1)
for agent in (LogLossBC(), ChunkedRhoBC(chunk=2)):
    agent.fit(collect(task, 60, np.random.default_rng(0)), task.policy_class, rng=np.random.default_rng(0))
    agent.save(f"{type(agent).__name__}.npz")
for name in ("sets.npz", *sorted(each for each in os.listdir() if "BC" in each)):
    with zipfile.ZipFile(name) as archive:
        print(name, [(entry, archive.read(entry).hex()) for entry in archive.namelist()])
print(task_names(), agent_names())
for wrong in ({"horizn": 1, "epz": 2}, {"eps": 3.0}):
    try:
        make_task("Contamination", **wrong)
    except (TypeError, ValueError) as error:
        print(error)
if study := sys.argv[2:]:
    from experiments.cli import main

    sys.exit(main(["run", *study, "--workers", "1", "--out", "run", "--quiet"]))
"""


@pytest.mark.parametrize("study", ["", *(pytest.param(words, marks=pytest.mark.slow) for words in STUDIES)])
def test_two_processes_that_hash_otherwise_write_the_same_bytes(study, tmp_path):
    running, paths = [], [str(ROOT), str(ROOT / "tests"), *filter(None, [os.environ.get("PYTHONPATH")])]
    for seed in ("1", "12345"):
        (tmp_path / seed).mkdir()
        more = {"PYTHONHASHSEED": seed, "PYTHONPATH": os.pathsep.join(paths), "MPLBACKEND": "Agg"}
        command = [sys.executable, "-c", PROGRAM, str(tmp_path / seed), *study.split()]
        pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
        running.append(subprocess.Popen(command, env=os.environ | more, **pipes))
    one, two = (process.communicate() for process in running)
    assert [process.returncode for process in running] == [0, 0], one[1] + two[1]
    assert one[0] == two[0] and "ChunkedRhoBC.npz" in one[0]
    if study:
        files = [sorted((tmp_path / seed / "run").iterdir()) for seed in ("1", "12345")]
        assert [path.name for path in files[0]] == [path.name for path in files[1]]
        same = [
            (ours, theirs)
            for ours, theirs in zip(*files)
            if ours.name == "summary.csv" or ours.suffix in (".png", ".svg")
        ]
        assert len(same) == 3 and [ours.name for ours, theirs in same if ours.read_bytes() != theirs.read_bytes()] == []

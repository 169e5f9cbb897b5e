"""The small form of every study, in one table, and what two runs of one are compared by.

The tests of a study check the numbers of its small form; ``tests/kernels.py`` compares it from kernel to kernel and
``tests/golden.py`` from revision to revision. Nothing here imports the suite: it runs in processes of its own.
"""

from __future__ import annotations

import csv
import math
import os
import subprocess
import sys
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path

ROOT = Path(__file__).parent.parent
HARBOUR = "tests/data/harbour.txt"  # from the root: seeds depend on the parameters, and so on the path as it is given
#: a number may move by the one, relative to the larger, or by the other where it is next to nothing
RELATIVE, ABSOLUTE = 1e-6, 1e-9
NUMBERS = ("mean", "lower", "upper")
#: rows of fits that stop at a certified gap, within which any point will do: a gap of 1e-6 nats moves a squared
#: Hellinger distance by up to its root (ChunkKR), one of 1e-4 nats a token that of a window on real text
STOPPED = {"ChunkKR": 1e-3, "linear window": 1e-4}
#: study -> options on the command line, with networks where `WITHOUT_NETWORKS` takes them out
SMALL = {
    "advice": "--quick --n 100 --sizes 50 --eps 0.2 --seeds 2 --budget 2 --samples 100 --instances few --draws 0",
    "amplification": "--horizons 16 32 64 128 256 --chunks 4 8 16 32 64 --n 100 --seeds 2 --sampled-chunk-horizon 16 "
    "--control-n 100 400 --control-horizons 4 16 --control-seeds 2",
    "barrier": "--horizons 4 16 64 --n 100 10000 --data-horizon 16 --chunks 4 --seeds 4 --halving-horizons 2 6 "
    "--halving-seeds 30 --rare-seeds 4",
    "carry": "--addends 3 4 --n 1000 --fresh 100 --seeds 2",
    "compare": "--tasks Contamination(eps=0.05,p=0.01,q=0.9) --agents RhoEstimatorBC --horizons 4 8 --n 100 --seeds 6",
    "decoding": "--horizon 4 --detail 4 --prompt-length 3 --expert-order 3 --order 2 --temperatures 0.5 1 "
    f"--top-ps 0.5 1 --n 200 --draws 400 --seeds 2 --corpus {HARBOUR} --rule-order 3 --search-horizons 2 4 "
    "--search-temperatures 0.8 1.2 --searched 60 --most 100",
    "distillation": "--orders 1 2 --expert-order 3 --horizon 4 --prompt-length 3 --n 60 --draws 200 --forced 10 "
    f"--networks mlp --width 8 --steps 4 --seeds 2 --corpus {HARBOUR}",
    "divergence": "--horizons 4 16 64 --chunk 8",
    "length": "--bits 12 --subset-size 5 --n 20 800 --seeds 2 --fresh 2000 --trade-bits 8 --trade-subset-size 3 "
    "--most 512",
    "multiplication": "--explicit-digits 1 2 --digits 1 --steps 9 --every 4 --pairs 30 --batch-size 8 --width 8 "
    "--seeds 2",
    "parity": "--episodes 1 2 16 --n 300 --seeds 3 --population-horizons 4 8 --horizons 8 16 --linear-n 200 --chunks 4",
    "pathstar": "--degrees 2 --length 4 --nodes 8 --forcing-steps 4 --reversed-steps 4 --teacherless-steps 6 "
    "--second-steps 3 --every 2 --prompts 16 --batch-size 8 --width 8 --layers 1 --heads 2 --seeds 2",
    "phase": "--horizons 4 16 --eps 1e-2 1e-1 --chunk 4 --n 20 2000 --n-horizon 16",
    "pointers": "--degrees 2 3 --lengths 4 --length 4 --nodes 8 --n 200",
    "raremode": "--growth-horizons 16 32 64 128 256",
    "rewarded": "--bits 5 --shares 0.2 0.5 --starts 0.1 --rounds 4 --n 20000 --seeds 2 --fresh 2000",
    "rl": "--no-rl --horizon 4 --n 200 --seeds 2 --rounds 4",
    "robust": "--n 2000 --linear-n 1000 --parity-n 500 --seeds 2 --lams 0 0.03 0.3 --chunks 1 5 --folds 2",
    "scaling": "--horizon 6 --n 40 --budgets 1 2 --widths 128 192 --transformer-widths 32 64 --window 3 --windows 1 3 "
    f"--window-budget 1 --window-width 128 --batch-size 16 --orders 1 2 --samples 200 --seeds 1 --corpus {HARBOUR}",
    "selection": "--horizons 4 16 --vocab 8 --n 40 --held-out 40 --steps 60 --checkpoints 4 --network-horizon 4 "
    f"--width 4 --network-steps 20 --network-seeds 1 --draws 200 --seeds 3 --corpus {HARBOUR}",
    "shuffled": "--contamination 0.1 --small-vocab 8 --dial-horizons 4 32 --dial-n 800 --chunks 2 16 "
    "--network-vocab 5 --network-horizon 16 --network-n 150 --network-batch 50 --network-steps 10 --draws 600 "
    "--foreign-horizons 4 --foreign-share 0.1 --foreign-steps 10 "
    f"--seeds 1 --network-seeds 1 --corpus {HARBOUR}",
    "snowball": "--horizons 4 12 --detail-horizon 12 --eps 0.1 --degree 3 --degrees 2 4 --n 300 --samples 60",
    "stability": "--horizon 20 --n 500 --linear-n 200 --chunks 1 2 5 18 --linear-chunks 1 2 4 --rank-chunk 5 "
    "--rank-shares 0.5 1.0",
    "suite": "--size smoke --agents RhoEstimatorBC NGramBC",
    "text": "--expert-order 4 --horizon 16 --prompt-length 4 --orders 1 2 3 --windows 1 2 --mlp-window 4 "
    f"--width 8 --steps 5 --n 400 --draws 600 --seeds 1 --network-seeds 1 --corpus {HARBOUR}",
    "tightrope": "--n 200 --seeds 2 --horizons 16 64 256 --rounds 4",
    "tradeoff": "--seeds 3 --chunks 2 4 8 --long-chunks 9 --long-seeds 1 --rho-chunks 4 16 --episodes 1 "
    "--parity-n 1000 --parity-chunks 1 5 --norm-bounds 8.0",
    "turing": "--n 300 --n-direct 100 --steps 1 6 --width 8 --bits 2 8 --direct-bits 4 --prompt-bits 8 "
    "--subset-sizes 1 4 --sizes 10 100 --test 40 --seeds 2",
}
WITHOUT_NETWORKS = dict.fromkeys(
    ("distillation", "multiplication", "selection", "shuffled", "text"), ("--neural", "no")
)


def environment(root: Path = ROOT, more: Mapping[str, str] = {}, without: Sequence[str] = ()) -> dict[str, str]:
    """The variables of a process that imports the suite from ``root``, with ``more`` and not those in ``without``."""
    path = os.pathsep.join([str(root), *filter(None, [os.environ.get("PYTHONPATH")])])
    own = {name: value for name, value in os.environ.items() if name not in without}
    return {**own, "PYTHONPATH": path, "MPLBACKEND": "Agg", **more}


def run(study: str, words: Sequence[str], out: Path, env: Mapping[str, str], root: Path = ROOT) -> list[list[str]]:
    """Run a study with the code in ``root`` and give the lines of its ``summary.csv``.

    Raises:
        RuntimeError: the study failed; with what it said.
    """
    command = [sys.executable, "-m", "experiments", "run", study, *words, "--workers", "1", "--out", str(out)]
    found = subprocess.run(command, env=dict(env), cwd=root, capture_output=True, text=True, check=False)
    if found.returncode:
        raise RuntimeError(f"{study} failed in {root}: {(found.stderr or found.stdout).strip()[-2000:]}")
    with (out / "summary.csv").open(newline="") as file:
        return list(csv.reader(file))


def difference(one: str, two: str) -> float:
    """Of two entries, relative to the larger: 0 where equal, ``inf`` where they may not differ at all."""
    if one == two:
        return 0.0
    try:
        a, b = float(one), float(two)
    except ValueError:
        return math.inf
    if a == b:  # 0 and -0
        return 0.0
    if not (math.isfinite(a) and math.isfinite(b)) or (a == round(a) and b == round(b)):
        return math.inf
    return 0.0 if abs(a - b) <= ABSOLUTE else abs(a - b) / max(abs(a), abs(b))


def compare(one: list[list[str]], two: list[list[str]], relative: float = RELATIVE) -> tuple[float, list[str]]:
    """The worst difference of two summaries, and words on every entry that differs by more than ``relative``."""
    names = one[0]
    if names != two[0]:
        return math.inf, [f"columns {names} against {two[0]}"]
    places = [[" ".join(filter(None, line[: names.index(NUMBERS[0])])) for line in lines[1:]] for lines in (one, two)]
    if places[0] != places[1]:
        gone, new = (Counter(places[i]) - Counter(places[1 - i]) for i in (0, 1))
        told = [f"{word}: {place}" for word, some in (("gone", gone), ("new", new)) for place in some.elements()]
        return math.inf, told or ["the same rows in another order"]
    worst, told = 0.0, []
    for place, ours, theirs in zip(places[0], one[1:], two[1:]):
        for name, a, b in zip(names, ours, theirs):
            moved = difference(a, b)
            worst = max(worst, moved)
            if moved > max([relative, *(limit for fit, limit in STOPPED.items() if fit in place)]):
                told.append(f"{name} {a} against {b} ({moved:.1e}) at {place}")
    return worst, told


def first(lines: Sequence[str], most: int = 10) -> list[str]:
    """The first lines, and how many more there are."""
    return [*lines[:most], *([f"... and {len(lines) - most} more"] if len(lines) > most else [])]

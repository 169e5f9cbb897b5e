"""The same numbers whichever code numpy and OpenBLAS choose for the processor: ``python tests/kernels.py [STUDY ...]``.

Every study runs in a small form once a kernel, each time in new processes; the ``summary.csv``s are compared number by
number with those of the kernels that were chosen here by themselves. The worst relative difference is printed a study.

A number may move by `RELATIVE`, or by `ABSOLUTE` where it is next to nothing. What is discrete (a choice, a count, a
share of test cases) would move by far more, and must be equal. Whole numbers are compared exactly, and so are labels
and methods. The exit status is 1 where something differs, 2 where the command was used wrongly.

Kernels that this processor cannot run are skipped, and said to be. Networks are left out: torch has kernels of its own,
and a training of thousands of steps in float32 is no smooth function of its rounding.
"""

from __future__ import annotations

import argparse
import csv
import math
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).parent.parent
RELATIVE, ABSOLUTE = 1e-6, 1e-9

#: name -> environment. OpenBLAS's newest first; then numpy's own loops without the widest instructions, by the names of
#: numpy 2.4 (names that a numpy does not know are ignored with a warning).
KERNELS = {
    "SkylakeX": {"OPENBLAS_CORETYPE": "SkylakeX"},
    "Haswell": {"OPENBLAS_CORETYPE": "Haswell"},
    "Zen": {"OPENBLAS_CORETYPE": "Zen"},
    "Sandybridge": {"OPENBLAS_CORETYPE": "Sandybridge"},
    "Nehalem": {"OPENBLAS_CORETYPE": "Nehalem"},
    "Prescott": {"OPENBLAS_CORETYPE": "Prescott"},
    "numpy without AVX-512": {"NPY_DISABLE_CPU_FEATURES": "X86_V4 AVX512_ICL AVX512_SPR"},
    "numpy without AVX2": {"NPY_DISABLE_CPU_FEATURES": "X86_V3 X86_V4 AVX512_ICL AVX512_SPR"},
}

#: study -> what makes its quick form smaller
SMALL = {
    "amplification": "--seeds 2 --chunks 16 --control-n 100 1000 --control-horizons 4 16 --control-seeds 4",
    "barrier": "--seeds 2 --horizons 4 16 64 --halving-horizons 2 4 --halving-seeds 8 --rare-seeds 4",
    "compare": "--seeds 2",
    "length": "--seeds 2 --mix-seeds 2 --mix-n 10000",
    "multiplication": "--neural no --column-seeds 2",
    "parity": "--seeds 2 --episodes 1 4 --population-horizons 4 8",
    "pathstar": "--neural no",
    "robust": "--seeds 2 --chunks 1 2",
    "snowball": "--n 400",
    "stability": "--chunks 1 2 4 6 --linear-chunks 1 2 4",
    "text": "--neural no --seeds 2 --n 1000 --draws 500 --dial-horizons 16 64 --dial-n 500 --chunks 32",
    "tradeoff": "--seeds 2 --long-chunks 10 --long-seeds 1",
    "turing": "--seeds 2 --steps 1 4 --bits 4 16 --sizes 10 50",
}

#: what each set of variables comes to: the kernels of every library, after a product that uses them
PROBE = """
import numpy as np
from experiments.threads import kernels
a = np.random.default_rng(0).normal(size=(64, 64))
assert np.isfinite(np.linalg.solve(a @ a, np.exp(a))).all()
print("; ".join(kernels()))
"""


def environment(kernel: dict[str, str]) -> dict[str, str]:
    kept = {name: value for name, value in os.environ.items() if name not in {n for k in KERNELS.values() for n in k}}
    path = os.pathsep.join([str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])])
    return {**kept, "PYTHONPATH": path, "MPLBACKEND": "Agg", **kernel}


def chosen(kernel: dict[str, str]) -> str:
    """The kernels that the libraries run on with these variables; ``""`` where this processor cannot run them."""
    command = [sys.executable, "-c", PROBE]
    found = subprocess.run(command, env=environment(kernel), cwd=ROOT, capture_output=True, text=True, check=False)
    return found.stdout.strip() if found.returncode == 0 else ""


def run(study: str, words: list[str], kernel: dict[str, str], folder: Path) -> list[list[str]]:
    """The lines of the study's ``summary.csv``.

    Raises:
        RuntimeError: the study failed; with what it said.
    """
    command = [sys.executable, "-m", "experiments", "run", study, "--quick", *words, "--workers", "1", "--out", folder]
    found = subprocess.run(command, env=environment(kernel), cwd=ROOT, capture_output=True, text=True, check=False)
    if found.returncode:
        raise RuntimeError(f"{study} failed with {kernel}: {(found.stderr or found.stdout).strip()[-2000:]}")
    with (folder / "summary.csv").open(newline="") as file:
        return list(csv.reader(file))


def difference(one: str, two: str) -> float:
    """Of two entries, relative to the larger: 0 where equal, ``inf`` where they may not differ at all."""
    if one == two:
        return 0.0
    try:
        a, b = float(one), float(two)
    except ValueError:
        return math.inf
    if not (math.isfinite(a) and math.isfinite(b)) or (a == round(a) and b == round(b)):
        return math.inf
    return 0.0 if abs(a - b) <= ABSOLUTE else abs(a - b) / max(abs(a), abs(b))


def compare(one: list[list[str]], two: list[list[str]]) -> tuple[float, list[str]]:
    """The worst difference of two summaries, and the lines that differ by more than `RELATIVE`."""
    if [len(line) for line in one] != [len(line) for line in two]:
        return math.inf, [f"{len(one)} lines against {len(two)}, or other columns"]
    worst, told, names = 0.0, [], one[0]
    for ours, theirs in zip(one, two):
        for name, a, b in zip(names, ours, theirs):
            moved = difference(a, b)
            worst = max(worst, moved)
            if moved > RELATIVE:
                place = " ".join(
                    entry for column, entry in zip(names, ours) if column not in ("mean", "lower", "upper")
                )
                told.append(f"{name} {a} against {b} ({moved:.1e}) at {place}")
    return worst, told


def main(words: list[str]) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("studies", nargs="*", metavar="STUDY", help=f"of {', '.join(SMALL)}; all by default")
    parser.add_argument("--kernels", nargs="+", choices=KERNELS, default=list(KERNELS), help="all by default")
    parser.add_argument(
        "--quick", action="store_true", help="the quick form as it is: about a minute a study and kernel"
    )
    asked = parser.parse_args(words)
    if unknown := set(asked.studies) - set(SMALL):
        parser.error(f"{', '.join(sorted(unknown))}: not among {', '.join(SMALL)}")
    own = chosen({})
    print(f"compared with: {own}")
    seen, usable = {own: "chosen by itself"}, {}
    for name in asked.kernels:
        found = chosen(KERNELS[name])
        if not found:
            print(f"skipped: {name}, which this processor cannot run")
        elif found in seen:
            print(f"skipped: {name}, here the same as {seen[found]}")
        else:
            seen[found], usable[name] = name, KERNELS[name]
            print(f"runs: {name}: {found}")
    failed = not usable
    if failed:
        print("no second kernel here to compare with")
    with tempfile.TemporaryDirectory() as folder:
        for study in asked.studies or SMALL:
            options = [w for w in SMALL[study].split() if not asked.quick] or ["--neural", "no"] * (
                "neural" in SMALL[study]
            )
            start = time.perf_counter()
            try:
                ours = run(study, options, {}, Path(folder) / study / "own")
                results = {
                    n: compare(ours, run(study, options, k, Path(folder) / study / n)) for n, k in usable.items()
                }
            except RuntimeError as error:
                print(error)
                failed = True
                continue
            worst = max((moved for moved, _ in results.values()), default=0.0)
            print(f"{study:15} worst relative difference {worst:.1e} in {len(ours) - 1} rows", end="")
            print(f" ({time.perf_counter() - start:.0f} s)", flush=True)
            for name, (_, told) in results.items():
                failed |= bool(told)
                for line in told[:10]:
                    print(f"    {name}: {line}")
                if len(told) > 10:
                    print(f"    {name}: ... and {len(told) - 10} more")
    print("FAILED" if failed else "all the same")
    return int(failed)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

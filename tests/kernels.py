"""The same numbers whichever code numpy and OpenBLAS choose for the processor: ``python tests/kernels.py [STUDY ...]``.

Every study runs in a small form once a kernel, each time in new processes; the ``summary.csv``s are compared number by
number with those of the kernels that were chosen here by themselves. The worst relative difference is printed a study.

A number may move by `small_studies.RELATIVE`, or by `ABSOLUTE` where it is next to nothing; those of fits that stop at
a certified gap by as much as that leaves open (`STOPPED`). What is discrete (a choice, a count, a share of test cases)
would move by far more, and must be equal. Whole numbers are compared exactly, and so are labels and methods. Texts that
a study prints are left out: a draw that falls between two tokens' probabilities as two processors have them is another
token, and what follows it another text. The exit status is 1 where something differs, 2 where the command was used
wrongly.

Kernels that this processor cannot run are skipped, and said to be. Networks are left out: torch has kernels of its own,
and a training of thousands of steps in float32 is no smooth function of its rounding.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import small_studies
from small_studies import ROOT, SMALL, WITHOUT_NETWORKS, compare, first, run

#: pathstar and scaling are nothing without networks, and the suite is made of cells of compare
STUDIES = [study for study in SMALL if study not in ("pathstar", "scaling", "suite")]

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

#: what each set of variables comes to: the kernels of every library, after a product that uses them
PROBE = """
import numpy as np
from experiments.threads import kernels
a = np.random.default_rng(0).normal(size=(64, 64))
assert np.isfinite(np.linalg.solve(a @ a, np.exp(a))).all()
print("; ".join(kernels()))
"""


def environment(kernel: dict[str, str]) -> dict[str, str]:
    return small_studies.environment(more=kernel, without=[name for each in KERNELS.values() for name in each])


def chosen(kernel: dict[str, str]) -> str:
    """The kernels that the libraries run on with these variables; ``""`` where this processor cannot run them."""
    command = [sys.executable, "-c", PROBE]
    found = subprocess.run(command, env=environment(kernel), cwd=ROOT, capture_output=True, text=True, check=False)
    return found.stdout.strip() if found.returncode == 0 else ""


def main(words: list[str]) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("studies", nargs="*", metavar="STUDY", help=f"of {', '.join(STUDIES)}; all by default")
    parser.add_argument("--kernels", nargs="+", choices=KERNELS, default=list(KERNELS), help="all by default")
    parser.add_argument(
        "--quick", action="store_true", help="the quick form as it is: about a minute a study and kernel"
    )
    asked = parser.parse_args(words)
    if unknown := set(asked.studies) - set(STUDIES):
        parser.error(f"{', '.join(sorted(unknown))}: not among {', '.join(STUDIES)}")
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
        for study in asked.studies or STUDIES:
            small = ["--quick"] if asked.quick else SMALL[study].split()
            options = [*small, *WITHOUT_NETWORKS.get(study, ())]
            start = time.perf_counter()
            try:
                ours, *others = (
                    run(study, options, Path(folder) / study / str(number), environment(kernel))
                    for number, kernel in enumerate([{}, *usable.values()])
                )
                ours, *others = ([line for line in lines if "sample" not in line] for lines in (ours, *others))
                results = {name: compare(ours, theirs) for name, theirs in zip(usable, others)}
            except RuntimeError as error:
                print(error)
                failed = True
                continue
            worst = max((moved for moved, _ in results.values()), default=0.0)
            print(f"{study:15} worst relative difference {worst:.1e} in {len(ours) - 1} rows", end="")
            print(f" ({time.perf_counter() - start:.0f} s)", flush=True)
            for name, (_, told) in results.items():
                failed |= bool(told)
                for line in first(told):
                    print(f"    {name}: {line}")
    print("FAILED" if failed else "all the same")
    return int(failed)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

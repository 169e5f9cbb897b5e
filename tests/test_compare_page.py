"""docs/compare.md as a new user types it: every command in a process of its own, in order, in one folder."""

import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
BLOCK = re.compile(r"^```(python|console)\n(.*?)^```$", flags=re.MULTILINE | re.DOTALL)


def words(text):
    return " ".join(text.split())


@pytest.mark.slow
def test_the_week_goes_as_the_page_says(tmp_path):
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(tmp_path), str(ROOT)]), "COLUMNS": "250"}
    shown = 0
    for kind, block in BLOCK.findall((ROOT / "docs" / "compare.md").read_text()):
        if kind == "python":
            (tmp_path / block.partition("\n")[0].removeprefix("# ")).write_text(block)
            continue
        for command, *lines in (part.splitlines() for part in block.split("$ ")[1:]):
            name, *rest = shlex.split(command)
            assert name == "ntp-bench"
            done = subprocess.run(
                [sys.executable, "-m", "experiments", *rest],
                env=environment,
                cwd=tmp_path,
                capture_output=True,
                text=True,
            )
            assert done.returncode == 0, done.stderr
            for line in lines:
                wanted = ".+?".join(map(re.escape, words(line).split("…")))
                said = words(f"{done.stdout} {done.stderr}")
                assert re.search(wanted, said), f"{line!r} is not in what {command!r} says: {said}"
                shown += 1
    assert shown > 8
    assert (tmp_path / "week" / "compare.pdf").exists() and (tmp_path / "week" / "table-1.tex").exists()

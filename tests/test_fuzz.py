"""A slice of ``tests/fuzz.py``, which is run by hand in full."""

import subprocess
import sys
from pathlib import Path

import pytest

HERE = Path(__file__).parent


@pytest.mark.skipif(sys.platform != "linux", reason="limits of memory and time")
@pytest.mark.slow
def test_anything_at_all_ends_in_a_result_or_a_sentence():
    words = ["--calls", "400", "--seed", "1"]
    done = subprocess.run([sys.executable, HERE / "fuzz.py", *words], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr

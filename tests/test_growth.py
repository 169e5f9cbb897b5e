"""The command that writes ``docs/scaling.md``: at tiny sizes, and what it says of growth that is known."""

import math

import numpy as np
import pytest

from experiments import growth
from experiments.growth import PAGE, Growth, Work


def rows(text):
    """The first column of the table."""
    lines = [line for line in text.splitlines() if line.startswith("| ")]
    return lines[0], [line.split("|")[1].strip() for line in lines[1:]]


@pytest.mark.slow
def test_the_command_writes_the_rows_that_the_page_has(tmp_path, monkeypatch):
    monkeypatch.setattr("sys.argv", ["growth", "--shrink", "1000", "--out", str(tmp_path / "page.md")])
    growth.main()
    made = rows((tmp_path / "page.md").read_text(encoding="utf-8"))
    assert made == rows(PAGE.read_text(encoding="utf-8"))
    assert made[1] == [work.name for work in growth.works()]


def test_exponents_and_limits_are_those_of_the_numbers():
    work = Work("w", "n", (10, 100, 1000), lambda n: lambda: None, "less")
    found = Growth(work, work.sizes, [0.1, 1.0, 10.0], [1e5, 1e7, 1e9])
    assert found.slope(found.seconds) == pytest.approx(1) and found.slope(found.bytes) == pytest.approx(2)
    assert found.limit(found.bytes, 8e9) == pytest.approx(1000 * math.sqrt(8))
    assert found.cells()[-2] == "n = 2.8e+03 (8 GB)"
    assert Growth(work, work.sizes, [1.0, 1.0, 1.0], [5.0, 5.0, 5.0]).cells()[-2] == "neither"


def test_a_size_that_is_an_exponent_grows_by_factors():
    work = Work("w", "K", (2, 4, 6), lambda n: lambda: None, "less", steps=True)
    found = Growth(work, work.sizes, [1.0, 4.0, 16.0], [1.0, 1.0, 1.0])
    assert found.cells()[2] == "x2" and found.limit(found.seconds, 64.0) == pytest.approx(8)


def test_memory_is_that_of_the_work_and_not_of_what_is_ready():
    def ready(size):
        data = np.ones(8 * size)
        return lambda: data[:size] + 1.0

    found = growth.measured(Work("w", "n", (1 << 16, 1 << 18), ready, "less"))
    assert found.slope(found.bytes) == pytest.approx(1, abs=0.05) and found.bytes[0] < 1.2 * 8 * (1 << 16)

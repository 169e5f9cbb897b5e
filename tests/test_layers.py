"""Imports point one way and in no circle, importing the core is light, and the evening's reading list is an evening."""

import subprocess
import sys

import house
import pytest

HEAVY = {
    "torch",
    "matplotlib",
    "stable_baselines3",
    "minari",
    "sklearn",
    "cvxpy",
    "datasets",
    "transformers",
    "scipy.special",
}


@pytest.fixture(scope="module")
def edges():
    return house.imports()


def test_no_circles(edges):
    assert house.circles(edges) == []
    assert house.circles({"a": {"b"}, "b": {"c"}, "c": {"b"}, "d": {"a"}}) == [["b", "c"]]


def test_imports_point_one_way(edges):
    below = {package: house.PACKAGES[: level + 1] for level, package in enumerate(house.PACKAGES)}
    assert below["experiments"] == ("ntp_envs", "agents", "experiments")
    wrong = [
        (module, other)
        for module, others in edges.items()
        for other in others
        if other.partition(".")[0] not in below[module.partition(".")[0]]
    ]
    assert wrong == [] and sum(map(len, edges.values())) > 300


def test_importing_the_core_stays_light():
    code = f"import sys, ntp_envs, agents.log_loss, agents.rho; print(sorted({HEAVY!r} & set(sys.modules)))"
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert out.strip() == "[]"


def test_the_reading_list_is_an_evening():
    parts = house.reading_list()
    assert 15 <= len(parts) <= 25 and 2500 <= sum(lines for *_, lines in parts) <= 4000


def test_passages_that_stand_twice_are_found(tmp_path):
    body = "".join(f"    x += {number}\n" for number in range(6))
    (tmp_path / "agents").mkdir()
    (tmp_path / "agents" / "a.py").write_text(f'def f(x):\n    """One."""\n{body}    return x\n')
    (tmp_path / "agents" / "b.py").write_text(f"import os\ndef g(x):\n    # another\n{body}    return -x\n")
    assert house.twins(tmp_path) == [("agents.a", "x += 0"), ("agents.b", "x += 0")]
    assert house.twins(tmp_path, lines=7) == []


def test_chapters_that_came_later_are_listed_once_and_there():
    files = [name for some in house.LATER.values() for name in some.split()]
    assert len(set(files)) == len(files) and all((house.ROOT / name).is_file() for name in files)
    found = house.chapters()
    later = sum(n for name, n in found.items() if name.startswith("lines since 0.1, "))
    assert found["lines, all packages"] == found["lines, of 0.1's subjects"] + later
    assert 0 < found["lines of code, all packages"] < found["lines, all packages"]


@pytest.mark.slow
def test_the_numbers_are_a_table_before_and_after(capsys, monkeypatch):
    monkeypatch.setattr(house, "import_seconds", lambda module, root: 0.5)
    monkeypatch.setattr(house, "twins", lambda root: [])  # takes seconds, and has a test of its own
    house.main(["--against", "HEAD"])
    said = capsys.readouterr().out
    assert "| | HEAD | now |\n|-|-:|-:|" in said and "| circles | 0 | 0 |" in said
    assert "| import agents, seconds | 0.5 | 0.5 |" in said and "| lines, ntp_envs/tasks | " in said

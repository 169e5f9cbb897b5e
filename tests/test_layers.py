"""Imports point one way, and importing the core is light."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
ALLOWED = {
    "ntp_envs": {"ntp_envs"},
    "agents": {"ntp_envs", "agents"},
    "experiments": {"ntp_envs", "agents", "experiments"},
}
OURS = set(ALLOWED)
HEAVY = {"torch", "matplotlib", "stable_baselines3", "minari", "sklearn", "cvxpy", "datasets"}


def imported(path):
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name.partition(".")[0] for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module and node.level == 0:
            yield node.module.partition(".")[0]


@pytest.mark.parametrize("package", sorted(ALLOWED))
def test_imports_point_one_way(package):
    files = sorted((ROOT / package).rglob("*.py"))
    assert files
    wrong = {
        (str(path.relative_to(ROOT)), name)
        for path in files
        for name in imported(path)
        if name in OURS and name not in ALLOWED[package]
    }
    assert not wrong


def test_importing_the_core_stays_light():
    code = f"import sys, ntp_envs; print(sorted({HEAVY!r} & set(sys.modules)))"
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert out.strip() == "[]"

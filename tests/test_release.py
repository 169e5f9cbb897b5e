"""What a release holds: one version, a README for a package index, and what happens beside another package `agents`."""

import importlib.util
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

import ntp_envs
from ntp_envs.checks import OLD_NAMES_GO_IN

ROOT = Path(__file__).resolve().parent.parent


def test_the_version_is_one():
    cff = (ROOT / "CITATION.cff").read_text(encoding="utf-8")
    assert re.search(r"^version: (.*)$", cff, flags=re.M)[1] == ntp_envs.__version__
    heading = re.search(r"^## (\S+)(?: \((\S+)\))?$", (ROOT / "CHANGELOG.md").read_text(encoding="utf-8"), flags=re.M)
    released = re.search(r"^date-released: (.*)$", cff, flags=re.M)[1]
    assert heading[1] == "Unreleased" or heading.groups() == (ntp_envs.__version__, released)


def test_old_names_last_beyond_this_version():
    parts = [[int(part) for part in version.split(".")] for version in (ntp_envs.__version__, OLD_NAMES_GO_IN)]
    assert parts[0] < parts[1], "delete what `renamed` still answers to"


def test_links_of_the_readme_lead_to_the_address_on_a_package_index():
    spec = importlib.util.spec_from_file_location("setup_of_ntp_envs", ROOT / "setup.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    text = "![a: b](docs/a.png) [c](docs/c.md#d) [e](https://f.org) [g](#h) `x[0](1)`"
    shown = module.absolute(text.rpartition(" ")[0], "https://i.org/raw/")
    assert (
        shown == "![a: b](https://i.org/raw/docs/a.png) [c](https://i.org/raw/docs/c.md#d) [e](https://f.org) [g](#h)"
    )
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    assert module.absolute(readme, module.ADDRESS) == readme or module.ADDRESS
    assert "(docs/" not in module.absolute(readme, "https://i.org/raw/")


# -- beside another package called agents ------------------------------------------------------------------------------


@pytest.fixture
def run(tmp_path):
    """Runs Python in a folder, where ``other/agents`` is another distribution's package."""
    package = tmp_path / "other" / "agents"
    package.mkdir(parents=True)
    (package / "__init__.py").write_text('"""Agents of somebody else."""\n\n\nclass Agent:\n    pass\n')

    def call(*words, path=()):
        places = os.pathsep.join([*map(str, path), str(ROOT)])
        environment = {**os.environ, "PYTHONPATH": places, "MPLBACKEND": "Agg"}
        return subprocess.run(
            [sys.executable, *words], env=environment, cwd=tmp_path, capture_output=True, text=True, timeout=600
        )

    return call


def test_another_agents_that_comes_first_is_named_and_ntp_envs_works(run, tmp_path):
    other = tmp_path / "other"
    refused = run("-m", "experiments", "list", path=[other])
    assert refused.returncode == 2 and "Traceback" not in refused.stderr
    said = " ".join(refused.stderr.split())
    assert "`agents` that Python finds is" in said and "an environment of its own" in said
    script = "import ntp_envs as n; t = n.make_task('Contamination', horizon=4); print(len(n.collect(t, 3, 0).tokens))"
    assert (
        run("-c", script.replace(", 0)", ", __import__('numpy').random.default_rng(0))"), path=[other]).stdout == "3\n"
    )


def test_files_of_ours_that_another_distribution_has_replaced_are_named(run, tmp_path):
    """Both installed into one folder: the ``__init__`` is that of whoever came last."""
    site = tmp_path / "site"
    site.mkdir()
    for name in ("ntp_envs", "agents", "experiments"):
        shutil.copytree(
            ROOT / name, site / name, ignore=shutil.ignore_patterns("__pycache__", "studies", "submissions")
        )
    shutil.copy(tmp_path / "other" / "agents" / "__init__.py", site / "agents" / "__init__.py")
    refused = run("-c", "import sys; from experiments.cli import main; sys.exit(main(['list']))", path=[site])
    assert refused.returncode == 2 and "Traceback" not in refused.stderr
    said = " ".join(refused.stderr.split())
    assert "another distribution has replaced files of it" in said and "an environment of its own" in said

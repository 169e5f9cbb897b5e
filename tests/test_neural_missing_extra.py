"""Without torch the rest works, and agents.neural says what to install. Runs whether it is installed or not."""

import subprocess
import sys

import pytest


def python(code):
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)


@pytest.mark.parametrize(
    "use",
    [
        "import agents.neural",
        "from agents.neural.network import NetworkClass",
        "from agents import make_agent; make_agent('agents.neural:NeuralBC')",
    ],
)
def test_the_error_names_the_extra(use):
    failed = python(f"import sys; sys.modules['torch'] = None; {use}")
    assert failed.returncode != 0
    message = failed.stderr.splitlines()[-1]
    assert 'pip install "ntp-envs[neural]"' in message and "torch" in message


def test_agents_do_not_import_it():
    done = python("import sys, agents; print('torch' in sys.modules)")
    assert done.stdout.strip() == "False", done.stderr

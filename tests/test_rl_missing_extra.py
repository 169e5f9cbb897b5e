"""Without the extra, the rest works and agents.rl says what to install. Runs whether it is installed or not."""

import subprocess
import sys

import pytest


def python(code):
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)


@pytest.mark.parametrize("missing", ["stable_baselines3", "torch"])
@pytest.mark.parametrize(
    "use",
    [
        "import agents.rl",
        "from agents.rl.agent import SB3Agent",
        "from agents import make_agent; make_agent('agents.rl:SB3Agent')",
        "from experiments.benchmarks.sb3_stepping import run; run(quick=True)",
    ],
)
def test_the_error_names_the_extra(missing, use):
    failed = python(f"import sys; sys.modules[{missing!r}] = None; {use}")
    assert failed.returncode != 0
    message = failed.stderr.splitlines()[-1]
    assert "pip install 'ntp-envs[rl]'" in message
    assert missing in message


def test_agents_do_without():
    done = python("import sys; sys.modules.update(stable_baselines3=None, torch=None); import agents, experiments.cli")
    assert done.returncode == 0, done.stderr

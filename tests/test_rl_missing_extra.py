"""Without the extra, the rest works and agents.rl says what to install. Runs whether it is installed or not."""

import pytest
from missing_extras import errors, python

USES = [
    "import agents.rl",
    "from agents.rl.agent import SB3Agent",
    "from agents import make_agent; make_agent('agents.rl:SB3Agent')",
    "from experiments.benchmarks.sb3_stepping import run; run(quick=True)",
]


@pytest.mark.parametrize("missing", ["stable_baselines3", "torch"])
def test_the_error_names_the_extra(missing):
    for message in errors(missing, USES):
        assert "pip install 'ntp-envs[rl]'" in message
        assert missing in message


def test_agents_do_without():
    done = python("import sys; sys.modules.update(stable_baselines3=None, torch=None); import agents, experiments.cli")
    assert done.returncode == 0, done.stderr

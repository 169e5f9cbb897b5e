"""Without torch the rest works, and agents.neural says what to install. Runs whether it is installed or not."""

from missing_extras import errors, python

USES = [
    "import agents.neural",
    "from agents.neural.network import NetworkClass",
    "from agents import make_agent; make_agent('agents.neural:NeuralBC')",
]


def test_the_error_names_the_extra():
    for message in errors("torch", USES):
        assert 'pip install "ntp-envs[neural]"' in message and "torch" in message


def test_agents_do_not_import_it():
    done = python("import sys, agents; print('torch' in sys.modules)")
    assert done.stdout.strip() == "False", done.stderr

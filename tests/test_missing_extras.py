"""Without torch or stable-baselines3 the rest works, and what needs them says what to install, installed or not."""

import json
import subprocess
import sys
from importlib.util import find_spec

import pytest

NEURAL = [
    "import agents.neural",
    "from agents.neural.network import NetworkClass",
    "from agents import make_agent; make_agent('agents.neural:NeuralBC')",
]
LM = [
    "import ntp_envs.language",
    "from ntp_envs.language import TransformersPolicy",
    "from ntp_envs.tasks import LanguageModel",
    "import gymnasium, ntp_envs; gymnasium.make('ntp/LanguageModel-v0', model='a/model')",
]
RL = [
    "import agents.rl",
    "from agents.rl.agent import SB3Agent",
    "from agents import make_agent; make_agent('agents.rl:SB3Agent')",
    "from experiments.benchmarks.sb3_stepping import measure; list(measure(quick=True))",
]
#: every use fails, and what it says is kept
TRY_ALL = """
import json, sys
sys.modules[sys.argv[1]] = None
said = []
for use in json.loads(sys.argv[2]):
    try:
        exec(use, {})
    except Exception as error:
        said.append(str(error))
    else:
        raise SystemExit(use + " works")
print(json.dumps(said))
"""


def python(*words):
    return subprocess.run([sys.executable, "-c", *words], capture_output=True, text=True)


@pytest.mark.parametrize(
    ("extra", "missing", "uses"),
    [
        ("neural", "torch", NEURAL),
        ("rl", "torch", RL),
        ("rl", "stable_baselines3", RL),
        ("lm", "torch", LM),
        ("lm", "transformers", LM),
    ],
)
def test_the_error_names_the_extra(extra, missing, uses):
    done = python(TRY_ALL, missing, json.dumps(uses))
    assert done.returncode == 0, done.stderr
    absent = [missing, *(name for name in ("torch", "transformers") if find_spec(name) is None)]  # the first is named
    for message in json.loads(done.stdout):
        assert f"pip install 'ntp-envs[{extra}]'" in message.replace('"', "'")
        assert any(name in message for name in absent)


def test_agents_do_without():
    hidden = "sys.modules.update(stable_baselines3=None, torch=None, transformers=None)"
    done = python(f"import sys; {hidden}; import agents, experiments.cli")
    assert done.returncode == 0, done.stderr
    assert python("import sys, agents; print('torch' in sys.modules)").stdout.strip() == "False"

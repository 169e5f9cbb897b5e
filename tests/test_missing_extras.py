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
HF = ["import ntp_envs.hugging_face"]
RL = [
    "import agents.rl",
    "from agents.rl.agent import SB3Agent",
    "from agents import make_agent; make_agent('agents.rl:SB3Agent')",
    "from experiments.benchmarks.sb3_stepping import rows; list(rows(quick=True))",
]
CLUSTER = "from pathlib import Path; from experiments.clusters import *; "
DASK = [CLUSTER + "DaskPool('tcp://127.0.0.1:9', Path('run'), Needs({}, {}, {}))"]
SLURM = [CLUSTER + "SlurmPool(Path('run'), Needs({}, {}, {}))"]
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
    ("missing", "extras"),
    [
        ("torch", {"neural": NEURAL, "rl": RL, "lm": LM}),
        ("stable_baselines3", {"rl": RL}),
        ("transformers", {"lm": LM}),
        ("distributed", {"cluster": DASK}),
        ("submitit", {"cluster": SLURM}),
        pytest.param("datasets", {"lm,hf": HF}, marks=[] if find_spec("transformers") else [pytest.mark.skip()]),
    ],
)
def test_the_error_names_the_extra(missing, extras):
    """All uses in one process, most of whose time is that of importing."""
    done = python(TRY_ALL, missing, json.dumps([use for uses in extras.values() for use in uses]))
    assert done.returncode == 0, done.stderr
    absent = [missing, *(name for name in ("torch", "transformers") if find_spec(name) is None)]  # the first is named
    named = [extra for extra, uses in extras.items() for _ in uses]
    for extra, message in zip(named, json.loads(done.stdout), strict=True):
        assert f"pip install 'ntp-envs[{extra}]'" in message.replace('"', "'")
        assert any(name in message for name in absent)


def test_networks_do_without_transformers():
    pytest.importorskip("torch")
    done = python(TRY_ALL, "transformers", json.dumps(["from agents.neural.language import TransformersClass"]))
    assert "ntp-envs[lm]" in done.stdout
    done = python(TRY_ALL, "transformers", json.dumps(["from agents.neural import NeuralBC"]))
    assert "NeuralBC works" in done.stderr


def test_agents_do_without():
    hidden = "sys.modules.update(stable_baselines3=None, torch=None, transformers=None)"
    done = python(f"import sys; {hidden}; import agents, experiments.cli")
    assert done.returncode == 0, done.stderr

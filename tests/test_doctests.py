"""The examples in the docstrings say what happens."""

import doctest
import importlib
import pkgutil

import pytest

import agents
import experiments
import ntp_envs

EXTRAS = (
    "agents.neural",
    "agents.rl",
    "ntp_envs.torch_state",
    "ntp_envs.language",
    "ntp_envs.perturbed",
    "ntp_envs.hugging_face",
    "ntp_envs.tasks.language",
    "experiments.seeded_model",
)
MODULES = [
    found.name
    for package in (ntp_envs, agents, experiments)
    for found in pkgutil.walk_packages(package.__path__, f"{package.__name__}.", onerror=lambda name: None)
    if not found.name.endswith("__main__")
]


@pytest.mark.parametrize("name", MODULES)
def test_examples(name):
    try:
        module = importlib.import_module(name)
    except ImportError as error:
        if not name.startswith(EXTRAS):
            raise
        pytest.skip(str(error))
    failed, _ = doctest.testmod(module)
    assert not failed

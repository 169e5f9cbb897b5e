"""NumPy's integers and floats as arguments give what Python's give: classes, features, policies and agents.

NumPy's small integers wrap around in products and powers, so the values here are near the end of theirs.
"""

import inspect

import numpy as np
import pytest

import ntp_envs
from agents import LogLossBC
from agents.base import Agent
from agents.registry import BUILT_IN, agent_class
from ntp_envs import features
from ntp_envs.automata import BernoulliMixturePolicy, RestartedPolicy, TableAutomaton
from ntp_envs.policy_classes import ErrorSetClass, ErrorSetPolicy, PositionalLinearClass

PLAIN = (int, float, bool, str, tuple, list, dict, type(None))
#: a constructor, its integer arguments, and what is to be read off the result
MADE = {
    "uniform": (lambda a: ntp_envs.UniformPolicy(a), (200,)),
    "tabular": (lambda p: ntp_envs.TabularPolicy([np.full((2**9, 2), 0.5)], prompt_length=p), (9,)),
    "random table": (
        lambda a, h, p: ntp_envs.TabularPolicy.random(a, h, np.random.default_rng(0), prompt_length=p),
        (3, 2, 5),
    ),
    "table automaton": (lambda p: TableAutomaton([[0.5, 0.5]], [[0, 0]], [0] * 512, prompt_length=p), (9,)),
    "Markov": (lambda m: ntp_envs.MarkovPolicy(np.full((3**6, 2), 0.5), m), (6,)),
    "Bernoulli mixture": (lambda h: BernoulliMixturePolicy([0.5, 0.7], [0.5, 0.5], horizon=h), (255,)),
    "restarted": (lambda k: RestartedPolicy(ntp_envs.MarkovPolicy([[0.5, 0.5]], 0), k), (200,)),
    "error sets": (lambda p: ErrorSetPolicy([2, 300], prompt_length=p), (9,)),
    "window": (lambda a, w: features.WindowOneHot(a, w), (100, 3)),
    "offsets": (lambda a, o: features.OffsetsOneHot(a, (o, -1)), (100, -128)),
    "prompt": (lambda a, p: features.PromptFeatures(a, p), (100, 3)),
    "position": (lambda a, n: features.Position(a, n), (100, 20)),
    "signs": (lambda a, p, n: features.PrefixSigns(a, p, n), (100, 20, 9)),
    "products of signs": (lambda p, n, q: features.PrefixSigns(2, p, n, q), (20, 9, 2)),
    "chain": (lambda p: features.ChainProducts(p), (200,)),
    "bits": (lambda n: features.EpisodeBits(n), (14,)),
    "by position": (lambda n: features.ByPosition(features.WindowOneHot(3, 2), n), (200,)),
    "function": (lambda a, c: features.CallableFeatures(lambda x, y: np.zeros((len(y), 100)), a, c), (100, 100)),
    "paths": (lambda d, n, m: features.PathPointers(d, n, m), (20, 9, 200)),
    "Markov class": (lambda a, m: ntp_envs.MarkovClass(a, m), (9, 4)),
    "n-gram class": (lambda a, m: ntp_envs.NGramClass(a, m), (200, 3)),
    "positional linear class": (lambda a, p, h: PositionalLinearClass(a, p, h), (20, 200, 20)),
    "error set class": (lambda p: ErrorSetClass([[0, 300]], prompt_length=p), (9,)),
}


def _numbers(thing) -> dict:
    """Every public number of an object, its type with it."""
    return {
        name: (type(value), value)
        for name, value in inspect.getmembers(thing)
        if not name.startswith("__") and isinstance(value, int | float | np.generic)
    }


@pytest.mark.parametrize("kind", [np.uint8, np.int16, np.int64])
@pytest.mark.parametrize("name", MADE)
def test_integers_of_numpy_make_the_same_object(name, kind):
    make, numbers = MADE[name]
    expected = _numbers(make(*numbers))
    kind = np.int8 if kind is np.uint8 and min(numbers) < 0 else kind
    found = _numbers(make(*(number if number > np.iinfo(kind).max else kind(number) for number in numbers)))
    assert found == expected
    assert all(issubclass(of, int | float) and not issubclass(of, np.generic) for of, _ in found.values())


@pytest.mark.parametrize(
    "make",
    [
        lambda x: ntp_envs.BernoulliClass(x(0.25)),
        lambda x: ntp_envs.ARLinearClass(features.WindowOneHot(2, 1), x(2.5)),
    ],
)
def test_floats_of_numpy_make_the_same_class(make):
    assert _numbers(make(np.float32)) == _numbers(make(np.float64)) == _numbers(make(float))


@pytest.mark.parametrize("name", sorted(BUILT_IN))
def test_agents_keep_python_numbers(name):
    kind = agent_class(name)
    needed = {"task": ntp_envs.make_task("Contamination", horizon=4), "agents": [LogLossBC()], "agent": LogLossBC()}
    needed["grid"] = {"tol": [1.0]}
    given, numpy_given = {}, {}
    for parameter in list(inspect.signature(kind.__init__).parameters.values())[1:]:
        default = parameter.default
        if default is inspect.Parameter.empty:
            given[parameter.name] = needed.get(parameter.name, 3)
        elif isinstance(default, bool | int | float):
            given[parameter.name] = default
    for key, value in given.items():
        numpy_given[key] = np.asarray(value)[()] if isinstance(value, bool | int | float) else value
    agent = kind(**numpy_given)
    assert repr(agent) == repr(kind(**given))
    for key in given:
        assert not isinstance(getattr(agent, key), np.generic)
    again = agent.set_params(**{key: value for key, value in numpy_given.items() if isinstance(value, np.generic)})
    assert not any(isinstance(value, np.generic) for value in again.get_params(deep=False).values())


def test_a_fit_with_small_integers_is_the_fit_with_large_ones():
    from agents import ChunkedRhoBC
    from ntp_envs import collect

    task = ntp_envs.make_task("Contamination", horizon=6, eps=0.1, p=0.1, q=0.9, theta_min=0.05)
    demos = collect(task, 300, np.random.default_rng(0))
    members: ntp_envs.PolicyClass = ntp_envs.FiniteClass([task.policy_class.policy(theta) for theta in (0.1, 0.5, 0.9)])
    small, large = (ChunkedRhoBC(chunk=chunk).fit(demos, members) for chunk in (np.uint8(3), 3))
    assert isinstance(small, Agent) and small.fit_report_.objective == large.fit_report_.objective

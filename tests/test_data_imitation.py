"""Transitions for `imitation`: the arrays are what the environment shows. The library itself is in tests/interop."""

import sys
from types import ModuleType, SimpleNamespace

import numpy as np
import pytest

from ntp_envs import Demonstrations, TokenEnv, collect, make_task
from ntp_envs.data import from_minari, imitation_expert, to_imitation, to_minari

TASKS = {
    "Contamination": {"horizon": 6, "eps": 0.2, "p": 0.1, "q": 0.9, "theta_min": 0.01},
    "Tightrope": {"horizon": 5, "eps": 0.3},
    "ConsistencyGame": {"horizon": 4, "eps": 0.05},
}


@pytest.fixture
def fake_imitation(monkeypatch):
    """Stands where the library is imported; only the constructors that are called."""
    types = ModuleType("imitation.data.types")
    for name in ("Transitions", "Trajectory", "TrajectoryWithRew"):
        setattr(types, name, lambda name=name, **fields: SimpleNamespace(kind=name, **fields))
    monkeypatch.setitem(sys.modules, "imitation", ModuleType("imitation"))
    monkeypatch.setitem(sys.modules, "imitation.data", ModuleType("imitation.data"))
    monkeypatch.setitem(sys.modules, "imitation.data.types", types)


def replayed(task, demos):
    """The transitions that stepping the environment through the demonstrations gives, and the rewards."""
    env = TokenEnv(task)
    rows = []
    for prompt, tokens in zip(demos.prompts, demos.tokens):
        before, _ = env.reset(options={"prompt": prompt})
        for token in tokens:
            after, reward, done, _, _ = env.step(token)
            rows.append((before, token, after, done, reward))
            before = after
    return [np.array(column) for column in zip(*rows)]


@pytest.mark.parametrize("name", sorted(TASKS))
def test_transitions_are_what_stepping_gives(name, rng, fake_imitation):
    task = make_task(name, **TASKS[name])
    demos = collect(task, 5, rng, expert_log_probs=True)
    obs, acts, next_obs, dones, rewards = replayed(task, demos)
    arrays = to_imitation(demos, form="arrays")
    for key, wanted in {"obs": obs, "acts": acts, "next_obs": next_obs, "dones": dones}.items():
        assert arrays[key].dtype == wanted.dtype, key
        np.testing.assert_array_equal(arrays[key], wanted)
    assert [info["expert_log_prob"] for info in arrays["infos"]] == demos.expert_log_probs.ravel().tolist()
    transitions = to_imitation(demos)
    assert transitions.kind == "Transitions"
    np.testing.assert_array_equal(transitions.next_obs, next_obs)
    trajectories = to_imitation(demos, form="trajectories")
    assert [t.kind for t in trajectories] == ["TrajectoryWithRew"] * 5 and all(t.terminal for t in trajectories)
    assert all(len(t.obs) == task.horizon + 1 and len(t.infos) == len(t.acts) == task.horizon for t in trajectories)
    np.testing.assert_array_equal(np.concatenate([t.obs[:-1] for t in trajectories]), obs)
    np.testing.assert_allclose(np.concatenate([t.rews for t in trajectories]), rewards, atol=1e-12)


def test_arrays_are_copies_and_infos_are_empty_without_log_probs(rng):
    demos = collect(make_task("Tightrope", **TASKS["Tightrope"]), 3, rng)
    arrays = to_imitation(demos, form="arrays")
    assert arrays["infos"].shape == (15,) and not any(arrays["infos"])
    before = demos.tokens.copy()
    arrays["acts"][:] = 1 - arrays["acts"]
    np.testing.assert_array_equal(demos.tokens, before)


def test_unequal_weights_are_refused_or_drawn(rng):
    demos = Demonstrations(
        np.zeros((3, 0), int), np.array([[0, 0], [0, 1], [1, 1]]), vocab_size=2, weights=np.array([1.0, 0.0, 3.0])
    )
    with pytest.raises(ValueError, match=r"unequal weights.*rng="):
        to_imitation(demos, form="arrays")
    drawn = to_imitation(demos, form="arrays", n=4000, rng=rng)["acts"].reshape(-1, 2)
    assert (drawn[:, 0] == drawn[:, 1]).all()  # the second has weight 0
    assert drawn[:, 0].mean() == pytest.approx(0.75, abs=4 * np.sqrt(0.75 * 0.25 / 4000))
    assert len(to_imitation(demos, form="arrays", rng=rng)["acts"]) == 6
    equal = Demonstrations(demos.prompts, demos.tokens, vocab_size=2, weights=np.full(3, 0.2))
    np.testing.assert_array_equal(to_imitation(equal, form="arrays")["acts"], demos.tokens.ravel())
    with pytest.raises(ValueError, match="n=5 is a draw; pass rng="):
        to_imitation(equal, form="arrays", n=5)


def test_rewards_only_where_the_task_is_known(rng, fake_imitation):
    demos = Demonstrations(np.zeros((2, 0), int), np.array([[0, 0], [0, 1]]), vocab_size=2)
    assert [t.kind for t in to_imitation(demos, form="trajectories")] == ["Trajectory"] * 2
    task = make_task("Tightrope", horizon=2)
    paid = [t.rews.tolist() for t in to_imitation(demos, form="trajectories", task=task)]
    assert paid == [[0.0, task.success(demos.prompts, row[None])[0]] for row in demos.tokens]
    with pytest.raises(ValueError, match="horizon is 3 in the task and 2 in the data"):
        to_imitation(demos, form="trajectories", task=make_task("Tightrope", horizon=3))


def test_bad_arguments(rng):
    demos = Demonstrations(np.zeros((2, 0), int), np.array([[0, 0], [0, 1]]), vocab_size=2)
    with pytest.raises(ValueError, match=r"form='transition' is not an option\. Did you mean 'transitions'"):
        to_imitation(demos, form="transition")
    with pytest.raises(ValueError, match="n=0"):
        to_imitation(demos, form="arrays", n=0, rng=rng)
    with pytest.raises(TypeError, match="default_rng"):
        to_imitation(demos, form="arrays", n=2, rng=3)
    with pytest.raises(TypeError, match="must be an"):
        imitation_expert("Tightrope", rng=rng)


@pytest.mark.parametrize(
    ("missing", "call", "command"),
    [
        ("imitation", lambda demos: to_imitation(demos), r"--no-deps imitation==1\.0\.1"),
        ("minari", lambda demos: to_minari(demos, "x-v0"), r'pip install "ntp-envs\[data\]"'),
        ("minari", lambda demos: from_minari("x-v0"), r'pip install "ntp-envs\[data\]"'),
        (
            "stable_baselines3",
            lambda demos: imitation_expert(make_task("Tightrope"), rng=np.random.default_rng(0)),
            "pip install",
        ),
    ],
)
def test_a_missing_library_is_named_with_its_command(monkeypatch, missing, call, command):
    for module in [name for name in sys.modules if name.partition(".")[0] == missing]:
        monkeypatch.delitem(sys.modules, module)
    monkeypatch.setitem(sys.modules, missing, None)
    demos = Demonstrations(np.zeros((2, 0), int), np.array([[0, 0], [0, 1]]), vocab_size=2)
    with pytest.raises(ImportError, match=rf"needs {missing}.*{command}"):
        call(demos)

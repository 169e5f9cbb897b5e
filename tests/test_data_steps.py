"""Steps for `imitation` and `d3rlpy`: the arrays are what the environment shows. The libraries are in tests/interop."""

import sys
from types import ModuleType, SimpleNamespace

import numpy as np
import pytest

from ntp_envs import Demonstrations, TokenEnv, collect, make_task
from ntp_envs.data import from_minari, imitation_expert, to_d3rlpy, to_imitation, to_minari

TASKS = {
    "Contamination": {"horizon": 6, "eps": 0.2, "p": 0.1, "q": 0.9, "theta_min": 0.01},
    "Tightrope": {"horizon": 5, "eps": 0.3},
    "ConsistencyGame": {"horizon": 4, "eps": 0.05},
}
NOTHING = np.zeros((3, 0), int)


@pytest.fixture
def fake_imitation(monkeypatch):
    """Stands where the library is imported; only the constructors that are called."""
    types = ModuleType("imitation.data.types")
    for name in ("Transitions", "Trajectory", "TrajectoryWithRew"):
        setattr(types, name, lambda name=name, **fields: SimpleNamespace(kind=name, **fields))
    monkeypatch.setitem(sys.modules, "imitation", ModuleType("imitation"))
    monkeypatch.setitem(sys.modules, "imitation.data", ModuleType("imitation.data"))
    monkeypatch.setitem(sys.modules, "imitation.data.types", types)


def replayed(task, demos, observation="multi_discrete"):
    """The transitions that stepping the environment through the demonstrations gives, and the rewards."""
    env = TokenEnv(task, observation=observation)
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


@pytest.mark.parametrize("name", sorted(TASKS))
def test_arrays_of_d3rlpy_are_what_stepping_gives(name, rng):
    task = make_task(name, **TASKS[name])
    demos = collect(task, 5, rng)
    arrays = to_d3rlpy(demos, form="arrays")
    obs, acts, _, dones, rewards = replayed(task, demos, "one_hot")
    steps = {"observations": obs, "actions": acts[:, None], "rewards": rewards[:, None], "terminals": dones}
    for key, wanted in steps.items():
        np.testing.assert_allclose(arrays[key], wanted, rtol=1e-6)
        assert arrays[key].dtype == (np.int64 if key == "actions" else np.float32)
    assert arrays["action_size"] == task.vocab_size


def test_arrays_are_copies_and_infos_are_empty_without_log_probs(rng):
    demos = collect(make_task("Tightrope", **TASKS["Tightrope"]), 3, rng)
    arrays = to_imitation(demos, form="arrays")
    assert arrays["infos"].shape == (15,) and not any(arrays["infos"])
    before = demos.tokens.copy()
    arrays["acts"][:] = 1 - arrays["acts"]
    np.testing.assert_array_equal(demos.tokens, before)


@pytest.mark.parametrize(("convert", "acts"), [(to_imitation, "acts"), (to_d3rlpy, "actions")])
def test_unequal_weights_are_drawn(convert, acts, rng):
    demos = Demonstrations(NOTHING, [[0, 0], [0, 1], [1, 1]], vocab_size=2, weights=[1.0, 0.0, 3.0])
    drawn = convert(demos, form="arrays", n=4000, rng=rng)[acts].reshape(-1, 2)
    assert (drawn[:, 0] == drawn[:, 1]).all()  # the second has weight 0
    assert drawn[:, 0].mean() == pytest.approx(0.75, abs=4 * np.sqrt(0.75 * 0.25 / 4000))
    assert len(convert(demos, form="arrays", rng=rng)[acts]) == 6
    equal = Demonstrations(demos.prompts, demos.tokens, vocab_size=2, weights=np.full(3, 0.2))
    np.testing.assert_array_equal(np.ravel(convert(equal, form="arrays")[acts]), demos.tokens.ravel())


def test_rewards_only_where_the_task_is_known(rng, fake_imitation):
    demos = Demonstrations(np.zeros((2, 0), int), np.array([[0, 0], [0, 1]]), vocab_size=2)
    assert [t.kind for t in to_imitation(demos, form="trajectories")] == ["Trajectory"] * 2
    task = make_task("Tightrope", horizon=2)
    with pytest.raises(ValueError, match="3 in the task and 2 in the data"):
        to_imitation(demos, form="trajectories", task=make_task("Tightrope", horizon=3))
    paid = [t.rews.tolist() for t in to_imitation(demos, form="trajectories", task=task)]
    assert paid == [[0.0, task.success(demos.prompts, row[None])[0]] for row in demos.tokens]
    assert not to_d3rlpy(demos, form="arrays")["rewards"].any()
    assert to_d3rlpy(demos, form="arrays", task=task)["rewards"].reshape(2, 2).tolist() == paid


@pytest.mark.parametrize(
    ("missing", "call", "command"),
    [
        ("imitation", lambda demos: to_imitation(demos), r"--no-deps imitation==1\.0\.1"),
        ("d3rlpy", lambda demos: to_d3rlpy(demos), r"--no-deps d3rlpy==2\.8\.1"),
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

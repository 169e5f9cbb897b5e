"""`imitation` trains on our environments and reaches what our learner reaches; skipped where it is not installed.

Run with ``.ci/interop imitation``, which installs it in an environment of its own.
"""

import numpy as np
import pytest

pytest.importorskip("imitation")
pytest.importorskip("stable_baselines3")
torch = pytest.importorskip("torch")

import train  # noqa: E402  (beside this file)
from imitation.algorithms.bc import BC  # noqa: E402
from imitation.data import types  # noqa: E402
from imitation.data.rollout import flatten_trajectories  # noqa: E402

from agents.rl import SB3Policy  # noqa: E402
from ntp_envs import TokenEnv, UniformPolicy, collect, make_task, task_names  # noqa: E402
from ntp_envs.data import to_imitation  # noqa: E402


@pytest.fixture(autouse=True)
def one_thread():
    torch.set_num_threads(1)  # and seeds are set by every run, so that results repeat


def test_its_own_types_agree_with_each_other(rng):
    demos = collect(make_task("Contamination", horizon=5), 6, rng, expert_log_probs=True)
    transitions, trajectories = to_imitation(demos), to_imitation(demos, form="trajectories")
    assert isinstance(transitions, types.Transitions)
    assert all(isinstance(trajectory, types.TrajectoryWithRew) for trajectory in trajectories)
    flat = flatten_trajectories(trajectories)  # the library's own way from the one to the other
    for name in ("obs", "acts", "next_obs", "dones", "infos"):
        np.testing.assert_array_equal(getattr(flat, name), getattr(transitions, name))
        assert getattr(flat, name).dtype == getattr(transitions, name).dtype


def test_bc_reaches_the_distance_of_log_loss():
    cloned = train.run_bc()
    ours, same = cloned["LogLossBC"], cloned["BC, same class"]
    low, high = train.interval(same - ours)
    print({name: (float(values.mean()), *train.interval(values)) for name, values in cloned.items()}, (low, high))
    assert low <= 0.0 <= high
    task = train.Sticky()
    uniform = train.distance_to_expert(task, UniformPolicy(2))
    scale = 3 / (4 * train.N_DEMONSTRATIONS)  # parameters over 4 n: the expected distance of the maximum likelihood
    assert same.mean() < 3 * scale < uniform / 100
    assert cloned["BC, its own network"].max() < uniform / 10


@pytest.mark.parametrize("name", task_names())
def test_bc_takes_every_family_at_its_defaults(name, rng):
    task = make_task(name)
    env = TokenEnv(task)
    demos = to_imitation(collect(task, 4, rng))
    cloner = BC(
        observation_space=env.observation_space,
        action_space=env.action_space,
        rng=rng,
        demonstrations=demos,
        batch_size=4,
        device="cpu",
    )
    before = SB3Policy(cloner.policy, task).next_log_probs(demos.obs[:1, : task.prompt_length], np.empty((1, 0), int))
    cloner.train(n_batches=2, progress_bar=False)
    after = SB3Policy(cloner.policy, task).next_log_probs(demos.obs[:1, : task.prompt_length], np.empty((1, 0), int))
    assert np.isfinite(after).all() and (before != after).any()


def test_dagger_learns_from_our_expert():
    before, after = train.run_dagger()
    print(before, after)
    assert after < 0.7 * before


def test_gail_moves_towards_the_expert():
    before, after = train.run_gail()
    print(before, after)
    assert after < 0.8 * before

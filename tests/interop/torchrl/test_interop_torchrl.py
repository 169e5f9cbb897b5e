"""TorchRL makes, checks, collects from and trains on our environments; skipped where it is not installed.

Run with ``.ci/interop torchrl``, which installs it in an environment of its own.
"""

import gymnasium as gym
import numpy as np
import pytest

pytest.importorskip("torchrl")
torch = pytest.importorskip("torch")

import torchrl.collectors  # noqa: E402
from tensordict.nn import TensorDictModule  # noqa: E402
from torch import nn  # noqa: E402
from torchrl.envs import GymEnv, GymWrapper  # noqa: E402
from torchrl.envs.utils import check_env_specs  # noqa: E402
from torchrl.modules import OneHotCategorical, ProbabilisticActor, ValueOperator  # noqa: E402
from torchrl.objectives import ClipPPOLoss  # noqa: E402
from torchrl.objectives.value import GAE  # noqa: E402

from ntp_envs import CallablePolicy, distance, make_task, task_names  # noqa: E402
from ntp_envs.observations import observe  # noqa: E402

# the class was called SyncDataCollector before it was called Collector
Collector = getattr(torchrl.collectors, "Collector", None) or torchrl.collectors.SyncDataCollector


@pytest.fixture(autouse=True)
def one_thread_and_a_seed():
    torch.set_num_threads(1)
    torch.manual_seed(0)


@pytest.mark.parametrize("name", task_names())
def test_every_id_at_its_defaults(name):
    env = GymEnv(f"ntp/{name}-v0")
    check_env_specs(env)
    task = env.unwrapped.task
    rollout = env.rollout(task.horizon + 5)
    length = len(rollout)
    assert length == task.horizon or (length < task.horizon and rollout["action"][-1].argmax() == task.end_token)
    assert rollout["next", "terminated"].squeeze(-1).tolist() == [False] * (length - 1) + [True]
    assert env.action_spec.shape == (task.vocab_size,)  # one-hot, its default


@pytest.mark.parametrize(
    ("form", "shapes"),
    [
        ("multi_discrete", {"observation": (4,)}),
        ("dict", {"prompt": (1,), "tokens": (3,)}),
        ("one_hot", {"observation": (12,)}),
    ],
)
def test_every_form_of_observations(form, shapes):
    env = GymEnv("ntp/Contamination-v0", horizon=3, observation=form, categorical_action_encoding=True)
    check_env_specs(env)
    rollout = env.rollout(3)
    assert {key: rollout[key].shape[1:] for key in shapes} == shapes
    tokens = rollout["action"].tolist()
    if form == "dict":
        assert rollout["next", "tokens"][-1].tolist() == tokens
    if form == "multi_discrete":
        assert rollout["next", "observation"][-1, 1:].tolist() == tokens


def test_the_expert_is_among_the_observations_if_asked_for():
    """An info is a key of the rollout, so it must be there at every step, the last one too."""
    env = GymEnv("ntp/Contamination-v0", horizon=3, expert_info=True, categorical_action_encoding=True)
    env.auto_register_info_dict()
    check_env_specs(env)
    rollout = env.rollout(3)
    expert = env.unwrapped.task.expert
    lines, tokens = rollout["observation"].numpy().astype(int), rollout["action"].numpy()
    for h in range(3):
        law = np.exp(expert.next_log_probs(lines[h : h + 1, :1], tokens[None, :h]))[0]
        np.testing.assert_allclose(rollout["expert_probs"][h].numpy(), law, rtol=1e-6)
    assert rollout["next", "expert_probs"].shape == (3, 2)


@pytest.mark.parametrize("mode", ["SameStep", "Disabled"])
def test_the_native_batch(mode):
    """TorchRL takes vector environments in these two modes; episodes follow each other without a step between."""
    env = GymWrapper(
        gym.make_vec("ntp/Tightrope-v0", num_envs=8, horizon=4, autoreset_mode=mode), categorical_action_encoding=True
    )
    check_env_specs(env)
    rollout = env.rollout(12, break_when_any_done=False)
    assert rollout.shape == (8, 12)
    done = rollout["next", "done"].squeeze(-1)
    assert (done == torch.tensor([False, False, False, True] * 3)).all()
    ends = rollout["next", "observation"][:, 3::4].reshape(24, 4).numpy().astype(int)
    written = rollout["action"].reshape(24, 4).numpy()
    np.testing.assert_array_equal(ends, written)
    task = make_task("Tightrope", horizon=4)
    rewards = rollout["next", "reward"].reshape(24, 4).numpy()
    np.testing.assert_allclose(rewards[:, -1], task.success(np.empty((24, 0), int), written), rtol=1e-6)
    assert (rewards[:, :-1] == 0).all()
    assert (rollout["observation"][:, ::4] == 2).all()  # every episode starts with nothing written


def train(env, task, frames):
    """PPO as in TorchRL's tutorial, and the network as one of our policies before and after."""
    width, size = env.observation_spec["observation"].shape[-1], task.vocab_size
    actor_net = nn.Sequential(nn.Linear(width, 64), nn.Tanh(), nn.Linear(64, size))
    actor = ProbabilisticActor(
        TensorDictModule(actor_net, in_keys=["observation"], out_keys=["logits"]),
        in_keys=["logits"],
        distribution_class=OneHotCategorical,
        return_log_prob=True,
    )
    critic = ValueOperator(nn.Sequential(nn.Linear(width, 64), nn.Tanh(), nn.Linear(64, 1)), in_keys=["observation"])
    advantage = GAE(gamma=1.0, lmbda=0.95, value_network=critic, average_gae=False)
    loss_module = ClipPPOLoss(actor, critic, clip_epsilon=0.2, entropy_coeff=0.0)
    optimizer = torch.optim.Adam(loss_module.parameters(), lr=3e-3)

    def law(prompts, tokens):
        with torch.no_grad():
            logits = actor_net(torch.as_tensor(observe(task, prompts, tokens, "one_hot")))
        return torch.log_softmax(logits.double(), dim=1).numpy()

    policy = CallablePolicy(law, size, horizon=task.horizon, prompt_length=task.prompt_length)
    before = distance(task.expert, policy, task).final
    collector = Collector(env, actor, frames_per_batch=64 * task.horizon, total_frames=frames)
    for batch in collector:
        for _ in range(4):
            with torch.no_grad():
                advantage(batch)
            losses = loss_module(batch.reshape(-1))
            loss = losses["loss_objective"] + losses["loss_critic"]
            optimizer.zero_grad()
            loss.backward()
            nn.utils.clip_grad_norm_(loss_module.parameters(), 0.5)
            optimizer.step()
    collector.shutdown()
    return policy, before


def test_ppo_from_its_collector_and_losses():
    """Chance is 0.117 on this rope; the expert stays on it, so who succeeds more is nearer to the expert."""
    task = make_task("Tightrope", horizon=8)
    envs = gym.make_vec("ntp/Tightrope-v0", num_envs=64, horizon=8, observation="one_hot", autoreset_mode="SameStep")
    env = GymWrapper(envs)
    env.set_seed(0)
    policy, before = train(env, task, frames=20_480)
    after = distance(task.expert, policy, task).final
    rng = np.random.default_rng(0)
    prompts = task.sample_prompts(500, rng)
    success = task.success(prompts, policy.sample(prompts, 8, rng)).mean()
    print(before, after, success)
    assert success > 0.7
    assert after < 0.7 * before

"""sb3-contrib trains on our environments, and `SB3Policy` reads its models; skipped where it is not installed.

Run with ``.ci/interop sb3-contrib``, which installs it in an environment of its own.
"""

import pickle

import numpy as np
import pytest

pytest.importorskip("sb3_contrib")
torch = pytest.importorskip("torch")

from sb3_contrib import ARS, QRDQN, TRPO, MaskablePPO, RecurrentPPO  # noqa: E402
from sb3_contrib.common.maskable.evaluation import evaluate_policy  # noqa: E402
from sb3_contrib.common.maskable.utils import get_action_masks, is_masking_supported  # noqa: E402
from sb3_contrib.common.recurrent.type_aliases import RNNStates  # noqa: E402
from stable_baselines3.common.vec_env import DummyVecEnv  # noqa: E402

from agents.rl import DistanceCallback, SB3Policy, make_vec_env  # noqa: E402
from ntp_envs import distance, make_task  # noqa: E402
from ntp_envs.arrays import all_sequences  # noqa: E402

CONTAMINATION = make_task("Contamination", horizon=3)
PARITY = make_task("NoisyParity", bits=3, subset=(0, 1))
STAR = make_task("PathStar", degree=2, length=3, nodes=6)
ROLLOUT = {"n_steps": 8, "batch_size": 16}


@pytest.fixture(autouse=True)
def one_thread():
    torch.set_num_threads(1)  # and every model has a seed, so that results repeat


def untrained(algorithm, task, form, **own):
    """A model whose law depends on what it sees: the last layer is made larger than the library makes it."""
    policy = "MultiInput" if form == "dict" else "Mlp"
    policy += "LstmPolicy" if algorithm is RecurrentPPO else "Policy"
    envs = make_vec_env(task, 4, observation=form)
    model = algorithm(policy, envs, device="cpu", seed=0, **own)
    if hasattr(model.policy, "action_net"):
        with torch.no_grad():
            model.policy.action_net.weight.mul_(300)
    return model


def everything(task):
    """Every prompt with every sequence."""
    prompts, _ = task.prompt_law()
    tokens = all_sequences(task.vocab_size, task.horizon)
    return np.repeat(prompts, len(tokens), axis=0), np.tile(tokens, (len(prompts), 1))


def replayed(task, form, prompts, tokens):
    """``(observations, masks)`` before each token, as the environment itself gives them."""
    envs = make_vec_env(task, len(tokens), observation=form)
    envs.set_options([{"prompt": prompt} for prompt in prompts])
    observations = envs.reset()
    for column in tokens.T:
        yield observations, get_action_masks(envs) if is_masking_supported(envs) else None
        observations = envs.step(column)[0]


def assert_a_law(log_probs, prompts):
    """Probabilities of all sequences after each prompt sum to one."""
    total = np.exp(log_probs.sum(axis=1)).reshape(len(np.unique(prompts, axis=0)), -1).sum(axis=1)
    np.testing.assert_allclose(total, 1.0, rtol=0, atol=1e-12)


# -- the law is the model's own ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("form", ["multi_discrete", "dict", "one_hot"])
def test_trpo(form):
    model = untrained(TRPO, CONTAMINATION, form)
    prompts, tokens = everything(CONTAMINATION)
    forced = SB3Policy(model, CONTAMINATION).log_probs(prompts, tokens)
    for h, (observations, _) in enumerate(replayed(CONTAMINATION, form, prompts, tokens)):
        with torch.no_grad():
            inputs = model.policy.obs_to_tensor(observations)[0]
            expected = model.policy.evaluate_actions(inputs, torch.as_tensor(tokens[:, h]))[1]
        np.testing.assert_allclose(forced[:, h], expected.numpy(), atol=1e-5)
    assert_a_law(forced, prompts)


@pytest.mark.parametrize("form", ["multi_discrete", "dict", "one_hot"])
def test_qrdqn_is_greedy_or_boltzmann_in_the_mean_of_the_quantiles(form):
    model = untrained(QRDQN, CONTAMINATION, form, buffer_size=64)
    prompts, tokens = everything(CONTAMINATION)
    greedy, soft = SB3Policy(model, CONTAMINATION), SB3Policy(model, CONTAMINATION, temperature=0.05)
    for h, (observations, _) in enumerate(replayed(CONTAMINATION, form, prompts, tokens)):
        with torch.no_grad():
            values = model.policy.quantile_net(model.policy.obs_to_tensor(observations)[0]).numpy().mean(axis=1)
        chosen = model.predict(observations, deterministic=True)[0]
        np.testing.assert_array_equal(np.exp(greedy.next_log_probs(prompts, tokens[:, :h])), np.eye(2)[chosen])
        weights = np.exp(values.astype(float) / 0.05)
        law = np.exp(soft.next_log_probs(prompts, tokens[:, :h]))
        np.testing.assert_allclose(law, weights / weights.sum(axis=1, keepdims=True), rtol=1e-4)


@pytest.mark.parametrize("form", ["multi_discrete", "dict", "one_hot"])
def test_maskable_ppo_writes_what_the_masks_allow(form):
    model = untrained(MaskablePPO, STAR, form, **ROLLOUT)
    prompts = STAR.sample_prompts(6, np.random.default_rng(0))
    tokens = all_sequences(STAR.vocab_size, STAR.horizon)
    prompts, tokens = np.repeat(prompts, len(tokens), axis=0), np.tile(tokens, (6, 1))
    masked, free = SB3Policy(model, STAR), SB3Policy(model, STAR, use_masking=False)
    forced, unmasked = masked.log_probs(prompts, tokens), free.log_probs(prompts, tokens)
    for h, (observations, masks) in enumerate(replayed(STAR, form, prompts, tokens)):
        with torch.no_grad():
            inputs, actions = model.policy.obs_to_tensor(observations)[0], torch.as_tensor(tokens[:, h])
            expected = model.policy.evaluate_actions(inputs, actions, action_masks=torch.as_tensor(masks))[1].numpy()
            probs = model.policy.get_distribution(inputs, torch.as_tensor(masks)).distribution.probs.numpy()
            without = model.policy.evaluate_actions(inputs, actions)[1].numpy()
        stuck = ~masks.any(axis=1)  # a rule was broken before: no token mends it
        allowed = masks[np.arange(len(tokens)), tokens[:, h]]
        np.testing.assert_allclose(forced[allowed, h], expected[allowed], atol=1e-4)
        np.testing.assert_allclose(forced[stuck, h], -np.log(STAR.vocab_size), atol=1e-12)
        np.testing.assert_allclose(probs[stuck], 1 / STAR.vocab_size, atol=1e-6)  # its logits are rounded to zeros
        wrong = ~allowed & ~stuck
        assert (forced[wrong, h] == -np.inf).all() and (expected[wrong] < -1e7).all()
        np.testing.assert_allclose(unmasked[:, h], without, atol=1e-4)
        assert wrong.any() and allowed.any() and (stuck.any() or h == 0)
    assert_a_law(forced, prompts)
    assert_a_law(unmasked, prompts)


def test_a_maskable_model_of_a_task_without_a_verifier():
    model = untrained(MaskablePPO, CONTAMINATION, "dict", **ROLLOUT)
    prompts, tokens = everything(CONTAMINATION)
    assert_a_law(SB3Policy(model, CONTAMINATION).log_probs(prompts, tokens), prompts)
    model.learn(8)  # every mask is True
    model.learn(8, use_masking=False)


LSTMS = [
    {},
    {"lstm_hidden_size": 16, "n_lstm_layers": 2},
    {"shared_lstm": True, "enable_critic_lstm": False, "net_arch": [8]},
]


@pytest.mark.parametrize("lstm", LSTMS, ids=["default", "two layers", "shared"])
def test_recurrent_ppo_reads_the_sequence_from_its_start(lstm):
    model = untrained(RecurrentPPO, CONTAMINATION, "one_hot", policy_kwargs=lstm, **ROLLOUT)
    policy = SB3Policy(model, CONTAMINATION)
    prompts, tokens = everything(CONTAMINATION)
    forced = policy.log_probs(prompts, tokens)
    layers, _, width = model.policy.lstm_hidden_state_shape
    zeros = (torch.zeros(layers, len(tokens), width),) * 2
    states = RNNStates(zeros, zeros)
    for h, (observations, _) in enumerate(replayed(CONTAMINATION, "one_hot", prompts, tokens)):
        starts = torch.full((len(tokens),), float(h == 0))
        with torch.no_grad():
            inputs = model.policy.obs_to_tensor(observations)[0]
            args = inputs, torch.as_tensor(tokens[:, h]), states, starts
            expected = model.policy.evaluate_actions(*args)[1]
            states = model.policy(inputs, states, starts)[3]
        np.testing.assert_allclose(forced[:, h], expected.numpy(), atol=1e-4)
        fresh = policy.next_log_probs(prompts, tokens[:, :h])  # without a cursor that was kept
        np.testing.assert_allclose(fresh[np.arange(len(tokens)), tokens[:, h]], forced[:, h], atol=1e-12)
    assert_a_law(forced, prompts)
    with torch.no_grad():  # what a reader that forgets would say
        forgetful = model.policy.evaluate_actions(*args[:2], RNNStates(zeros, zeros), starts)[1].numpy()
    assert np.abs(forgetful - forced[:, -1]).max() > 0.01
    back = pickle.loads(pickle.dumps(policy))  # which the library's own save and load of a policy cannot
    np.testing.assert_array_equal(back.log_probs(prompts, tokens), forced)


def test_a_cursor_that_branches():
    policy = SB3Policy(untrained(RecurrentPPO, CONTAMINATION, "one_hot", **ROLLOUT), CONTAMINATION)
    reader = policy.cursor(np.array([[0], [1]])).advance(np.array([1, 0]))
    branched = reader.branch(np.array([1, 1, 0]), np.array([0, 1, 1]))
    assert branched.step == 2
    prompts, tokens = np.array([[1], [1], [0]]), np.array([[0, 0], [0, 1], [1, 1]])
    np.testing.assert_allclose(branched.log_probs(), policy.next_log_probs(prompts, tokens), atol=1e-6)


def test_what_cannot_be_read_says_why():
    envs = make_vec_env(CONTAMINATION, 2)
    with pytest.raises(TypeError, match="neither logits nor Q-values"):
        SB3Policy(ARS("MlpPolicy", envs, device="cpu"), CONTAMINATION)
    model = untrained(RecurrentPPO, CONTAMINATION, "one_hot", **ROLLOUT)
    with pytest.raises(ValueError, match=r"temperature=1\.0 is for Q-values"):
        SB3Policy(model, CONTAMINATION, temperature=1.0)
    rewarded = make_vec_env(CONTAMINATION, 2, reward="max_ent", observation="one_hot")
    for other, why in ((model, "its state"), (untrained(MaskablePPO, CONTAMINATION, "one_hot", **ROLLOUT), "masks")):
        with pytest.raises(TypeError, match=why):
            rewarded.bind(other)


# -- training ----------------------------------------------------------------------------------------------------------


def success(task, policy, n=500):
    rng = np.random.default_rng(9)
    prompts = task.sample_prompts(n, rng)
    return task.success(prompts, policy.sample(prompts, task.horizon, rng)).mean()


def test_recurrent_ppo_learns():
    envs = make_vec_env(PARITY, 64, reward="success", observation="one_hot", seed=0)
    own = {"n_steps": PARITY.horizon, "batch_size": 64, "learning_rate": 3e-3, "gamma": 1.0, "device": "cpu", "seed": 0}
    model = RecurrentPPO("MlpLstmPolicy", envs, policy_kwargs={"lstm_hidden_size": 32}, **own)
    before = success(PARITY, SB3Policy(model, PARITY))
    watch = DistanceCallback(PARITY, every=4000)
    model.learn(12_000, callback=watch)
    after = success(PARITY, SB3Policy(model, PARITY))
    print(before, after)
    assert before < 0.7 and after > 0.9  # chance is one half
    assert watch.history[-1][1].final == pytest.approx(distance(PARITY.expert, SB3Policy(model, PARITY), PARITY).final)


def test_qrdqn_learns():
    envs = make_vec_env(PARITY, 16, reward="success", seed=0)
    own = {"learning_rate": 1e-3, "train_freq": 1, "target_update_interval": 500, "exploration_fraction": 0.3}
    model = QRDQN("MlpPolicy", envs, gamma=1.0, buffer_size=8000, learning_starts=100, device="cpu", seed=0, **own)
    model.learn(8_000)
    assert success(PARITY, SB3Policy(model, PARITY)) == 1.0


def test_masks_make_maskable_ppo_better_from_the_start():
    """With the masks a path can only leave the start along an edge: the arm is a guess; without, every node is."""
    envs = make_vec_env(STAR, 32, reward="success", seed=0)
    own = {"n_steps": STAR.horizon, "batch_size": 24, "learning_rate": 1e-3, "gamma": 1.0, "device": "cpu", "seed": 0}
    model = MaskablePPO("MlpPolicy", envs, **own)
    masked, free = SB3Policy(model, STAR), SB3Policy(model, STAR, use_masking=False)
    assert success(STAR, masked) == pytest.approx(1 / 2, abs=0.1)
    assert success(STAR, free) < 0.1
    model.learn(2_000)
    assert success(STAR, masked) > 0.4
    reward, deviation = evaluate_policy(model, envs, n_eval_episodes=256, deterministic=False)
    assert reward == pytest.approx(success(STAR, masked, 2000), abs=5 * deviation / np.sqrt(256))


def test_masks_of_single_environments():
    envs = make_vec_env(STAR, 4, vec_env_cls=DummyVecEnv, seed=0)
    assert is_masking_supported(envs)
    MaskablePPO("MlpPolicy", envs, n_steps=6, batch_size=8, device="cpu", seed=0).learn(24)

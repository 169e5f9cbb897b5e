"""SB3Policy is the model's own law; DistanceCallback logs its distance to the expert."""
# ruff: noqa: E402

import io
import json
import pickle
import random

import numpy as np
import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("stable_baselines3")

from rl_tasks import Fork
from stable_baselines3 import A2C, DQN, PPO
from stable_baselines3.common.callbacks import CallbackList
from stable_baselines3.common.logger import configure

from agents.rl import DistanceCallback, SB3Policy, make_vec_env
from ntp_envs import TabularPolicy, distance, make_task
from ntp_envs.arrays import all_sequences
from ntp_envs.observations import OBSERVATION_FORMS
from ntp_envs.saved import STRUCTURE, UnsavableError, read, read_archive, write

torch.set_num_threads(1)
TASK = make_task("Contamination", horizon=3)


def untrained(algorithm=PPO, task=TASK, *, seed=0, scale=3.0, form="multi_discrete", **own):
    """A model whose law depends on what it sees: the last layer is made larger than stable-baselines3 makes it."""
    if algorithm is DQN:
        own.setdefault("buffer_size", 64)
    envs = make_vec_env(task, 2, observation=form)
    policy = "MultiInputPolicy" if form == "dict" else "MlpPolicy"
    model = algorithm(policy, envs, device="cpu", seed=seed, **own)
    if algorithm is not DQN:
        with torch.no_grad():
            model.policy.action_net.weight.mul_(100 * scale)
    return model


def everything(task):
    """Every prompt with every sequence."""
    prompts, _ = task.prompt_law()
    tokens = all_sequences(task.vocab_size, task.horizon)
    return np.repeat(prompts, len(tokens), axis=0), np.tile(tokens, (len(prompts), 1))


@pytest.mark.parametrize("form", OBSERVATION_FORMS)
@pytest.mark.parametrize("algorithm", [PPO, A2C])
def test_log_probs_are_the_models_own(algorithm, form):
    """Against what the model itself says of actions at the observations that the environment gives."""
    model = untrained(algorithm, form=form)
    policy = SB3Policy(model, TASK)
    prompts, tokens = everything(TASK)
    forced = policy.log_probs(prompts, tokens)
    envs = make_vec_env(TASK, len(tokens), observation=form)
    envs.set_options([{"prompt": prompt} for prompt in prompts])
    observations = envs.reset()
    for h in range(TASK.horizon):
        with torch.no_grad():
            tensors = model.policy.obs_to_tensor(observations)[0]
            _, expected, _ = model.policy.evaluate_actions(tensors, torch.as_tensor(tokens[:, h]))
        np.testing.assert_allclose(forced[:, h], expected.numpy(), atol=1e-5)
        observations = envs.step(tokens[:, h])[0]
    total = np.exp(forced.sum(axis=1)).reshape(2, -1).sum(axis=1)
    np.testing.assert_allclose(total, 1.0, rtol=0, atol=1e-12)  # renormalised in double precision
    assert forced.std() > 0.1
    assert policy.predict(observations, deterministic=True)[0].shape == (len(tokens),)


def test_dqn_is_greedy_or_boltzmann():
    model = untrained(DQN)
    prompts, tokens = everything(TASK)
    with torch.no_grad():
        lines = np.column_stack([prompts, tokens[:, :2], np.full(len(tokens), 2)])
        values = model.q_net(torch.as_tensor(lines)).numpy().astype(float)
    greedy = np.exp(SB3Policy(model, TASK).next_log_probs(prompts, tokens[:, :2]))
    np.testing.assert_array_equal(greedy, np.eye(2)[values.argmax(axis=1)])
    soft = np.exp(SB3Policy(model, TASK, temperature=0.05).next_log_probs(prompts, tokens[:, :2]))
    expected = np.exp(values / 0.05) / np.exp(values / 0.05).sum(axis=1, keepdims=True)
    np.testing.assert_allclose(soft, expected, rtol=1e-5)
    assert distance(TASK.expert, SB3Policy(model, TASK), TASK).method == "enumeration"


def test_the_policy_follows_the_model_and_pickles_as_it_is():
    model = untrained()
    policy = SB3Policy(model, TASK)
    prompts, tokens = everything(TASK)
    first = policy.log_probs(prompts, tokens)
    frozen = pickle.dumps(policy)
    with torch.no_grad():
        model.policy.action_net.bias[0].add_(1.0)
    assert np.abs(policy.log_probs(prompts, tokens) - first).max() > 0.1
    np.random.seed(3)  # noqa: NPY002
    random.seed(3)
    torch.manual_seed(3)
    drawn = np.random.rand(), random.random(), torch.rand(1).item()  # noqa: NPY002
    np.random.seed(3)  # noqa: NPY002
    random.seed(3)
    torch.manual_seed(3)
    back = pickle.loads(frozen)
    assert drawn == (np.random.rand(), random.random(), torch.rand(1).item())  # noqa: NPY002
    np.testing.assert_array_equal(back.log_probs(prompts, tokens), first)
    assert (back.vocab_size, back.horizon, back.prompt_length) == (2, 3, 1)


@pytest.mark.parametrize(
    ("algorithm", "options", "form"),
    [
        (A2C, {"policy_kwargs": {"net_arch": [211], "activation_fn": torch.nn.ReLU}}, "one_hot"),
        (PPO, {"policy_kwargs": {"net_arch": {"pi": [], "vf": [211]}}}, "dict"),
        (DQN, {}, "dict"),
        (DQN, {"policy_kwargs": {"net_arch": [6, 211]}}, "multi_discrete"),
    ],
)
def test_a_file_without_pickle_holds_the_weights(algorithm, options, form):
    model = untrained(algorithm, form=form, **options)
    policy, stream = SB3Policy(model, TASK, temperature=0.1 if algorithm is DQN else 0.0), io.BytesIO()
    write(stream, policy, form="test")
    found = read_archive(stream, 2**20)
    back = read(found, form="test")
    prompts, tokens = everything(TASK)
    assert back.log_probs(prompts, tokens).tobytes() == policy.log_probs(prompts, tokens).tobytes()
    assert type(back.network) is type(policy.network) and back.task == TASK
    structure = json.loads(found[STRUCTURE])
    for changed, to, message in (
        ("DQNPolicy" if form != "dict" else "MultiInputPolicy", "BasePolicy", "BasePolicy"),
        ("ActorCriticPolicy", "Ran", "Ran"),
        ("ReLU", "Module", "Module"),
        (211, 10**9, "larger than its weights"),
    ):
        text = json.dumps(structure).replace(json.dumps(changed), json.dumps(to))
        if text != json.dumps(structure):
            with pytest.raises((ValueError, KeyError), match=message):
                read({**found, STRUCTURE: text.encode()}, form="test")


def test_a_network_with_classes_of_ones_own_needs_a_pickle(tmp_path):
    model = untrained(PPO, policy_kwargs={"activation_fn": torch.nn.Softplus})
    with pytest.raises(UnsavableError, match=r"network is ActorCriticPolicy\("):
        write(tmp_path / "file", SB3Policy(model, TASK), form="test")


def test_sampling_uses_only_the_generator_given():
    policy = SB3Policy(untrained(), TASK)
    prompts = np.zeros((50, 1), int)
    torch.manual_seed(0)
    one = policy.sample(prompts, 3, np.random.default_rng(1))
    torch.manual_seed(1)
    np.testing.assert_array_equal(one, policy.sample(prompts, 3, np.random.default_rng(1)))


def test_dropout_is_off_where_the_law_is_read():
    model = untrained()
    model.policy.action_net = torch.nn.Sequential(torch.nn.Dropout(0.5), model.policy.action_net)
    model.policy.set_training_mode(True)
    policy = SB3Policy(model, TASK)
    prompts, tokens = everything(TASK)
    np.testing.assert_array_equal(policy.log_probs(prompts, tokens), policy.log_probs(prompts, tokens))


# -- the callback ----------------------------------------------------------------------------------------------------


def test_the_callback_logs_the_distance(tmp_path):
    task = make_task("Contamination", horizon=8)
    watch = DistanceCallback(task, every=100)
    kl = DistanceCallback(task, every=10_000, metric="kl", prefixes=[2])
    envs = make_vec_env(task, 8)
    model = PPO("MlpPolicy", envs, n_steps=8, batch_size=64, n_epochs=1, seed=0, device="cpu")
    model.set_logger(configure(str(tmp_path), ["csv"]))
    first = distance(task.expert, SB3Policy(model, task), task).values
    model.learn(256, callback=CallbackList([watch, kl]))
    assert [steps for steps, _ in watch.history] == [0, 128, 256]
    assert [steps for steps, _ in kl.history] == [0, 256]
    np.testing.assert_allclose(watch.history[0][1].values, first)
    last = distance(task.expert, SB3Policy(model, task), task)
    np.testing.assert_allclose(watch.history[-1][1].values, last.values)
    table = np.genfromtxt(tmp_path / "progress.csv", delimiter=",", names=True)
    for h in (1, 2, 4, 8):
        logged = table[f"distancehellinger2_h{h}"]
        logged = logged[~np.isnan(logged)]  # the two callbacks write their last lines apart
        assert len(logged) == 3
        assert logged[-1] == pytest.approx(last.values[h - 1], rel=1e-4)  # the file has rounded numbers
    assert "distancehellinger2_se" not in table.dtype.names  # it is exact
    assert "distancekl_h2" in table.dtype.names


def test_a_training_that_goes_on_adds_to_the_history():
    watch = DistanceCallback(TASK, every=16)
    model = untrained(A2C, n_steps=4)
    model.learn(32, callback=watch)
    first = watch.history
    kept = list(first)
    assert [steps for steps, _ in kept] == [0, 16, 32]
    model.learn(24, callback=watch, reset_num_timesteps=False)
    assert watch.history is first
    assert [steps for steps, _ in first] == [0, 16, 32, 48, 56]
    assert all(ours is theirs for ours, theirs in zip(first, kept))
    last = distance(TASK.expert, SB3Policy(model, TASK), TASK)
    np.testing.assert_array_equal(first[-1][1].values, last.values)
    model.learn(16, callback=watch)  # from the beginning: another curve, the old list is left alone
    assert [steps for steps, _ in watch.history] == [0, 16]
    assert len(first) == 5


def test_a_training_that_goes_on_from_an_earlier_state(tmp_path):
    watch = DistanceCallback(TASK, every=8)
    model = untrained(A2C, n_steps=4)
    model.learn(16, callback=watch).save(tmp_path / "early")
    model.learn(16, callback=watch, reset_num_timesteps=False)
    assert [steps for steps, _ in watch.history] == [0, 8, 16, 24, 32]
    early = A2C.load(tmp_path / "early", env=model.get_env())
    early.learn(8, callback=watch, reset_num_timesteps=False)
    assert [steps for steps, _ in watch.history] == [0, 8, 16, 24]
    np.testing.assert_array_equal(
        watch.history[-1][1].values, distance(TASK.expert, SB3Policy(early, TASK), TASK).values
    )


def test_the_callback_does_not_change_training():
    def weights(**options):
        envs = make_vec_env(TASK, 4)
        model = PPO("MlpPolicy", envs, n_steps=3, batch_size=12, seed=1, device="cpu")
        return model.learn(48, **options).policy.parameters_to_vector()

    np.testing.assert_array_equal(weights(), weights(callback=DistanceCallback(TASK, every=1)))


def test_the_callback_samples_long_sequences():
    task = make_task("Contamination", horizon=64)
    model = untrained(A2C, task, n_steps=4)
    watch = DistanceCallback(task, every=1_000, n=100)
    model.learn(8, callback=watch)
    (_, first), (_, last) = watch.history
    assert first.n == last.n == 100
    assert model.logger.name_to_value == {}  # everything recorded has been written


def test_the_curve_arrives_in_tensorboard(tmp_path):
    accumulator = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    watch = DistanceCallback(TASK, every=16)
    untrained(A2C, tensorboard_log=str(tmp_path)).learn(32, callback=watch)
    (folder,) = tmp_path.iterdir()
    events = accumulator.EventAccumulator(str(folder)).Reload()
    tag = f"distance/hellinger2_h{TASK.horizon}"
    assert [(event.step, event.value) for event in events.Scalars(tag)] == [
        (steps, pytest.approx(curve.final, rel=1e-6)) for steps, curve in watch.history
    ]


def test_a_law_that_is_known_in_advance():
    """Without hidden layers and with one token, the logits are set by hand: an oracle without the network."""
    task = Fork(horizon=1, open=0.25)
    model = untrained(task=task, policy_kwargs={"net_arch": []})
    with torch.no_grad():
        model.policy.action_net.weight.zero_()
        model.policy.action_net.bias.copy_(torch.tensor([0.0, np.log(3.0)]))
    policy = SB3Policy(model, task)
    exact = distance(task.expert, TabularPolicy([[[0.25, 0.75]]]), task).final
    assert distance(task.expert, policy, task).final == pytest.approx(exact, abs=1e-6)

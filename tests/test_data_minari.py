"""Minari datasets come back bit for bit, Minari's own API reads them, broken and foreign ones are named."""

import json
import warnings

import gymnasium as gym
import numpy as np
import pytest

from ntp_envs import Demonstrations, Exactness, collect, make_task
from ntp_envs.data import from_minari, to_minari
from ntp_envs.observations import OBSERVATION_FORMS

minari = pytest.importorskip("minari")
h5py = pytest.importorskip("h5py")

from minari.data_collector import EpisodeBuffer  # noqa: E402

SMALL = {
    "Contamination": {"horizon": 6, "eps": 0.2, "p": 0.1, "q": 0.9, "theta_min": 0.01},
    "Tightrope": {"horizon": 5, "eps": 0.3},
    "NoisyParity": {"bits": 3, "subset": (0, 2)},  # a tuple among its parameters
    "ConsistencyGame": {"horizon": 4, "eps": 0.05},  # several prompt tokens
}


@pytest.fixture(autouse=True)
def root(tmp_path, monkeypatch):
    monkeypatch.setenv("MINARI_DATASETS_PATH", str(tmp_path / "minari"))
    return tmp_path / "minari"


def small(name="Contamination", n=7, **options):
    return collect(make_task(name, **SMALL[name]), n, np.random.default_rng(3), expert_log_probs=True, **options)


def assert_same(back, data):
    for name in ("prompts", "tokens", "weights", "expert_log_probs"):
        left, right = getattr(back, name), getattr(data, name)
        assert (left is None) == (right is None), name
        if left is not None:
            assert (left.dtype, left.shape, left.tobytes()) == (right.dtype, right.shape, right.tobytes()), name
    assert (back.vocab_size, back.source, back.exactness) == (data.vocab_size, data.source, data.exactness)


def cases():
    rng = np.random.default_rng(5)
    for name in SMALL:
        yield name, small(name)
    yield "population", make_task("Contamination", **SMALL["Contamination"]).population()
    log_probs = np.log(rng.uniform(size=(4, 3)))
    log_probs[1, 1], log_probs[2, 0] = -np.inf, -0.0
    yield (
        "no task, many tokens",
        Demonstrations(
            rng.integers(300, size=(4, 2)),
            rng.integers(300, size=(4, 3)),
            vocab_size=300,  # needs two bytes
            weights=np.array([0.1, 0.0, 1e-300, 1 / 3]),
            expert_log_probs=log_probs,
            source={"file": "corpus", "seeds": (1, 2), "temperature": np.float64(0.1)},
            exactness=Exactness(units=frozenset({1, 3}), statistic="counts"),
        ),
    )
    yield "one token", Demonstrations(np.zeros((1, 0), int), np.array([[0]]), vocab_size=1)
    yield "two batches", Demonstrations(np.zeros((300, 0), int), rng.integers(2, size=(300, 2)), vocab_size=2)


CASES = [pytest.param(data, id=name) for name, data in cases()]


@pytest.mark.parametrize("data", CASES)
def test_round_trip_is_bit_identical(data):
    written = to_minari(data, "ntp/case-v0")
    assert_same(from_minari("ntp/case-v0"), data)
    assert_same(from_minari(written), data)


@pytest.mark.parametrize("data", CASES)
def test_minari_reads_complete_episodes(data):
    to_minari(data, "case-v3")
    dataset = minari.load_dataset("case-v3")
    n, horizon = data.tokens.shape
    assert dataset.total_episodes == n and dataset.total_steps == n * horizon
    assert "case-v3" in minari.list_local_datasets()
    for episode in dataset:
        assert len(episode.observations) == horizon + 1
        for field in (episode.actions, episode.rewards, episode.terminations, episode.truncations):
            assert len(field) == horizon
        assert all(dataset.observation_space.contains(observation) for observation in episode.observations)
        assert all(dataset.action_space.contains(action) for action in episode.actions)
        assert episode.terminations.tolist() == [False] * (horizon - 1) + [True] and not episode.truncations.any()
        assert all(len(values) == horizon + 1 for values in episode.infos.values())
        assert np.isnan(episode.infos.get("expert_log_prob", [np.nan])[-1])  # nothing is written after the end


def test_sizes_that_are_read_back_can_be_added_up():
    """As learners do to find the width of their first layer."""
    to_minari(collect(make_task("PathStar"), 2, np.random.default_rng(0)), "wide-v0")
    dataset = minari.load_dataset("wide-v0")
    space = dataset.recover_environment().observation_space
    assert sum(dataset.observation_space.nvec) == sum(space.nvec) == space.nvec.astype(float).sum() > 255
    assert dataset[0].observations.dtype == space.dtype


@pytest.mark.parametrize("name", sorted(SMALL))
def test_the_recorded_environment_replays_every_episode(name):
    to_minari(small(name), "replay-v0")
    dataset = minari.load_dataset("replay-v0")
    env = dataset.recover_environment()
    assert env.unwrapped.task == make_task(name, **SMALL[name])
    for episode in dataset:
        length = env.unwrapped.task.prompt_length
        observation, _ = env.reset(options={"prompt": episode.observations[0, :length]})
        np.testing.assert_array_equal(observation, episode.observations[0])
        for h, action in enumerate(episode.actions):
            observation, reward, terminated, _, _ = env.step(action)
            np.testing.assert_array_equal(observation, episode.observations[h + 1])
            assert reward == pytest.approx(episode.rewards[h], abs=1e-12) and terminated == episode.terminations[h]


def test_metadata_is_complete(root):
    data = small()
    to_minari(data, "ntp/full-v1", author="A. Author", author_email="a@b.c", code_permalink="link", description="words")
    metadata = minari.load_dataset("ntp/full-v1").storage.metadata
    assert metadata["ntp_envs"]["source"] == data.source
    assert {key: metadata["ntp_envs"][key] for key in ("vocab_size", "prompt_length", "horizon", "episodes")} == {
        "vocab_size": 2,
        "prompt_length": 1,
        "horizon": 6,
        "episodes": 7,
    }
    assert (metadata["author"], metadata["author_email"]) == ({"A. Author"}, {"a@b.c"})
    assert (metadata["code_permalink"], metadata["description"]) == ("link", "words")
    assert metadata["algorithm_name"] == "expert" and metadata["requirements"][0].startswith("ntp-envs>=")
    to_minari(data, "ntp/plain-v1")
    assert "Contamination" in minari.load_dataset("ntp/plain-v1").storage.metadata["description"]


def test_part_of_a_dataset_keeps_weights_and_loses_exactness():
    data = make_task("Contamination", **SMALL["Contamination"]).population()
    whole = to_minari(data, "whole-v0")
    part = from_minari(whole.filter_episodes(lambda episode: episode.actions[0] == 1))
    chosen = data.subset(data.tokens[:, 0] == 1)
    assert_same(part, chosen)
    assert 0 < len(part) < len(data) and part.exactness is None and data.exactness is not None


def test_combined_and_collected_datasets_are_read_through_their_environment():
    first, second = small(n=3), small(n=4)
    combined = minari.combine_datasets([to_minari(first, "a-v0"), to_minari(second, "b-v0")], "both-v0")
    back = from_minari(combined)
    np.testing.assert_array_equal(back.tokens, np.concatenate([first.tokens, second.tokens]))
    np.testing.assert_array_equal(
        back.expert_log_probs, np.concatenate([first.expert_log_probs, second.expert_log_probs])
    )
    assert back.source["task"] == "Contamination" and back.source["parameters"] == first.source["parameters"]


@pytest.mark.parametrize("name", ["os:getcwd", "LanguageModel"])  # a file is no reason to load a model
def test_the_source_may_name_a_task_that_is_not_there(name):
    data = Demonstrations(np.zeros((2, 0), int), np.ones((2, 3), int), vocab_size=2, source={"task": name})
    with pytest.warns(UserWarning, match=f"no task of the name '{name}'"):
        dataset = to_minari(data, "unknown-v0")
    assert dataset.env_spec is None and not any(episode.rewards.any() for episode in dataset)
    assert_same(from_minari(dataset), data)
    shorter = small()
    shorter = Demonstrations(shorter.prompts, shorter.tokens[:, :2], vocab_size=2, source=shorter.source)
    with pytest.warns(UserWarning, match="horizon is 6 in the task and 2 in the data"):
        to_minari(shorter, "shorter-v0")


# -- bad input ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["noversion", "a b-v0", "../up-v0", "/abs-v0", "", None, "a/first-v0"])
def test_malformed_ids_are_refused_and_leave_nothing(root, name):
    with pytest.raises(ValueError, match=r"namespace/name-v0.*at least two of them in a namespace"):
        to_minari(small(), name)
    assert not root.exists() or not any(root.iterdir())


def test_taken_ids_and_wrong_tasks_are_refused():
    data = small()
    to_minari(data, "taken-v0")
    with pytest.raises(ValueError, match=r"'taken-v0' is taken"):
        to_minari(data, "taken-v0")
    with pytest.raises(ValueError, match="horizon is 5 in the task and 6 in the data"):
        to_minari(data, "other-v0", task=make_task("Tightrope", horizon=5))
    with pytest.raises(TypeError, match="must be an"):
        to_minari(data, "other-v0", task="Contamination")


def test_nothing_is_left_when_writing_fails(root, monkeypatch):
    def full(*args):
        raise OSError("disk full")

    monkeypatch.setattr("ntp_envs.data.BATCH", 4)
    monkeypatch.setattr(minari.MinariDataset, "update_dataset_from_buffer", full)
    with pytest.raises(OSError, match="disk full"):
        to_minari(small(), "half-v0")
    assert not (root / "half-v0").exists()


def test_there_must_be_a_dataset():
    with pytest.raises(FileNotFoundError, match="no Minari dataset 'absent-v0'"):
        from_minari("absent-v0")
    with pytest.raises(TypeError, match="dataset id"):
        from_minari(3)


def foreign(spaces, observations, actions, **metadata):
    """A dataset written by Minari alone."""
    steps = len(actions)
    episode = EpisodeBuffer(
        observations=observations,
        actions=actions,
        rewards=np.zeros(steps),
        terminations=np.arange(steps) == steps - 1,
        truncations=np.zeros(steps, bool),
        infos={},
    )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # what Minari recommends for published data
        return minari.create_dataset_from_buffers("foreign-v0", [episode], **spaces, **metadata)


def test_foreign_datasets_are_refused():
    spaces = {"observation_space": gym.spaces.Box(-1, 1, (3,)), "action_space": gym.spaces.Discrete(2)}
    foreign(spaces, np.zeros((3, 3), np.float32), np.zeros(2, int))
    with pytest.raises(ValueError, match=r"'foreign-v0' is not .* not written by to_minari and records no environment"):
        from_minari("foreign-v0")
    minari.delete_dataset("foreign-v0")
    cart = gym.make("CartPole-v1")
    foreign({"env": cart}, np.zeros((3, 4), np.float32), np.zeros(2, int))
    with pytest.raises(ValueError, match=r"its environment is CartPole-v1; 'ntp/...' is needed"):
        from_minari("foreign-v0")


LINE = [[0, 2, 2, 2], [0, 1, 2, 2], [0, 1, 0, 2], [0, 1, 0, 0]]  # prompt 0, tokens 1 0 0


@pytest.mark.parametrize(
    ("observations", "actions", "message"),
    [
        (LINE, [1, 0, 0], None),
        (LINE[:3], [1, 0], "2 actions and 3 observations; 3 and 4 are needed"),
        (LINE[:3], [1, 0, 0], "3 actions and 3 observations"),
        (LINE, [1, 0, 2], r"action outside the vocabulary \[0, 1\]"),
        (LINE, [1, 0, -1], "action outside"),
        (LINE, [1.0, 0.0, 0.0], "action outside"),
        (LINE, [1, 1, 0], "observations that are not its prompt and actions so far"),
        ([[2, 2, 2, 2], *LINE[1:]], [1, 0, 0], "prompt outside the vocabulary"),
    ],
)
def test_episodes_are_checked(observations, actions, message):
    env = gym.make("ntp/Contamination-v0", horizon=3)
    dataset = foreign({"env": env}, np.array(observations, np.uint8), np.array(actions))
    if message is None:
        assert from_minari(dataset).tokens.tolist() == [[1, 0, 0]]
        return
    with pytest.raises(ValueError, match=f"episode 0 .*{message}"):
        from_minari(dataset)


def recorded(env, data, spoil=lambda observations: None):
    """The demonstrations, stepped through the environment and recorded without `to_minari`."""
    buffers = []
    for i, (prompt, tokens) in enumerate(zip(data.prompts, data.tokens)):
        seen = [env.reset(options={"prompt": prompt})[0], *(env.step(token)[0] for token in tokens)]
        if isinstance(seen[0], dict):
            observations = {key: np.stack([observation[key] for observation in seen]) for key in seen[0]}
        else:
            observations = np.stack(seen)
        if i == len(data) - 1:
            spoil(observations)
        last = np.arange(len(tokens)) == len(tokens) - 1
        buffers.append(EpisodeBuffer(None, None, None, observations, tokens, 0.0 * tokens, last, ~last & last, {}))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return minari.create_dataset_from_buffers("foreign-v0", buffers, env=env)


@pytest.mark.parametrize("form", OBSERVATION_FORMS)
@pytest.mark.parametrize("name", sorted(SMALL))
def test_recordings_in_every_form_of_observations(name, form):
    data = small(name)
    recorded(gym.make(f"ntp/{name}-v0", observation=form, **SMALL[name]), data)
    back = from_minari("foreign-v0")
    np.testing.assert_array_equal(back.prompts, data.prompts)
    np.testing.assert_array_equal(back.tokens, data.tokens)
    assert (back.vocab_size, back.exactness) == (data.vocab_size, None)
    assert back.source["parameters"] == data.source["parameters"]


def set_entry(place, value, key=None):
    def spoil(observations):
        (observations if key is None else observations[key])[place] = value

    return spoil


@pytest.mark.parametrize(
    ("form", "spoil", "message"),
    [
        ("multi_discrete", set_entry((3, 0), 1), "not its prompt and actions so far"),
        ("dict", set_entry((3, 0), 1, "prompt"), "not its prompt and actions so far"),
        ("dict", set_entry((3, 0), 2, "tokens"), "not its prompt and actions so far"),
        ("dict", set_entry((3, 0), 200, "tokens"), r"whole numbers in \[0, 2\]"),
        ("dict", set_entry((slice(None), 0), 2, "prompt"), "prompt outside the vocabulary"),
        ("one_hot", set_entry((0, slice(0, 3)), [0, 1, 0]), "not its prompt and actions so far"),
        ("one_hot", set_entry((0, 0), 0.5), "not one-hot"),
        ("one_hot", set_entry((2, slice(6, 9)), 0), "not one-hot"),
        ("one_hot", set_entry((2, 7), np.nan), "not one-hot"),
    ],
)
def test_spoilt_observations_in_every_form(form, spoil, message):
    data = Demonstrations(np.zeros((2, 1), int), np.array([[1, 0, 0, 1], [0, 1, 1, 0]]), vocab_size=2)
    dataset = recorded(gym.make("ntp/Contamination-v0", horizon=4, observation=form), data, spoil)
    with pytest.raises(ValueError, match=f"'foreign-v0' .*: episode 1.*{message}"):
        from_minari(dataset)


@pytest.mark.parametrize(
    "space",
    [
        gym.spaces.Dict(tokens=gym.spaces.MultiDiscrete([3])),
        gym.spaces.Box(0, 1, (5,), np.float32),
        gym.spaces.Box(-1, 1, (6,), np.float32),
        gym.spaces.MultiDiscrete([3, 3, 3]),
    ],
)
def test_other_spaces_are_refused(space):
    env = gym.make("ntp/Contamination-v0", horizon=1)
    sample = space.sample()
    two = {"tokens": np.stack([sample["tokens"]] * 2)} if isinstance(sample, dict) else np.stack([sample] * 2)
    dataset = foreign({"env": env, "observation_space": space}, two, np.array([1]))
    with pytest.raises(ValueError, match=r"its spaces are .*or another form of it: dict, one_hot"):
        from_minari(dataset)


def spoil_json(change):
    def spoil(folder):
        path = folder / "metadata.json"
        metadata = json.loads(path.read_text())
        change(metadata)
        path.write_text(json.dumps(metadata))

    return spoil


def spoil_hdf5(change):
    def spoil(folder):
        with h5py.File(folder / "main_data.hdf5", "a") as file:
            change(file)

    return spoil


def cut(name):
    def spoil(folder):
        path = folder / name
        path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])

    return spoil


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (cut("metadata.json"), "Minari cannot open it"),
        (cut("main_data.hdf5"), "it is corrupt"),
        (lambda folder: (folder / "main_data.hdf5").unlink(), "Minari cannot open it"),
        (spoil_json(lambda m: m.update(total_episodes=99)), "it is corrupt"),
        (spoil_json(lambda m: m["ntp_envs"].update(format="other")), "it holds 'other'"),
        (spoil_json(lambda m: m["ntp_envs"].update(version=99)), "format version 99"),
        (spoil_json(lambda m: m["ntp_envs"].update(vocab_size=3)), "its spaces are"),
        (spoil_json(lambda m: m["ntp_envs"].update(horizon=5)), "its spaces are"),
        (spoil_json(lambda m: m["ntp_envs"].update(weights=True)), "infos .*expert_log_prob.*are needed"),
        (spoil_json(lambda m: m["ntp_envs"].pop("horizon")), "horizon"),
        (spoil_hdf5(lambda f: f.pop("episode_2")), "it is corrupt"),
        (spoil_hdf5(lambda f: f["episode_2"].pop("actions")), "it is corrupt"),
        (spoil_hdf5(lambda f: f["episode_2/actions"].resize((5,))), "episode 2 has 5 actions and 7 observations"),
        (spoil_hdf5(lambda f: f["episode_2/observations"].resize((6, 7))), "episode 2 has 6 actions and 6"),
        (spoil_hdf5(lambda f: f["episode_2/observations"].write_direct(np.zeros((7, 7), np.uint8))), "episode 2"),
        (spoil_hdf5(lambda f: f["episode_2/actions"].write_direct(np.full(6, 7))), "episode 2 .* vocabulary"),
        (spoil_hdf5(lambda f: f["episode_2/terminations"].write_direct(np.zeros(6, bool))), "episode 2 must end"),
        (spoil_hdf5(lambda f: f["episode_2/truncations"].write_direct(np.ones(6, bool))), "episode 2 must end"),
        (spoil_hdf5(lambda f: f["episode_2/infos"].pop("expert_log_prob")), "episode 2 has infos"),
        (spoil_hdf5(lambda f: f["episode_2/infos/expert_log_prob"].resize((4,))), r"episode 2 .* shape \(4,\)"),
        (spoil_hdf5(lambda f: f["episode_2/infos/expert_log_prob"].write_direct(np.ones(7))), "at most 0"),
    ],
)
def test_corrupt_datasets_are_named(root, spoil, message):
    to_minari(small(), "broken-v0")
    spoil(root / "broken-v0" / "data")
    with pytest.raises(ValueError, match=rf"'broken-v0' is not a readable set of demonstrations: .*{message}"):
        from_minari("broken-v0")

"""Minari's own collector records our environments, infos too, and `from_minari` reads it; skipped without jax.

Run with ``.ci/interop minari``: the collector needs more than the extra ``data`` brings.
"""

import gymnasium as gym
import numpy as np
import pytest

minari = pytest.importorskip("minari")
pytest.importorskip("jax")

from ntp_envs import make_task, task_names  # noqa: E402
from ntp_envs.data import from_minari  # noqa: E402
from ntp_envs.observations import OBSERVATION_FORMS  # noqa: E402


@pytest.fixture(autouse=True)
def root(tmp_path, monkeypatch):
    monkeypatch.setenv("MINARI_DATASETS_PATH", str(tmp_path / "minari"))


def recorded(env, episodes=3):
    """The dataset, with the prompts and tokens that were written."""
    collector = minari.DataCollector(env, record_infos=True)
    task, rng = env.unwrapped.task, np.random.default_rng(0)
    prompts, tokens, laws = [], [], []
    for _ in range(episodes):
        _, info = collector.reset(seed=int(rng.integers(1000)))
        prompts.append(env.unwrapped.prompt)
        laws.append([info.get("expert_probs")])
        over, written = False, []
        while not over:
            written.append(int(rng.integers(task.vocab_size)))
            _, _, over, _, info = collector.step(written[-1])
            laws[-1].append(info.get("expert_probs"))
        tokens.append(written)
    return collector.create_dataset("recorded-v0"), np.array(prompts), np.array(tokens), laws


@pytest.mark.filterwarnings("ignore")  # what Minari recommends for published data
@pytest.mark.parametrize("form", OBSERVATION_FORMS)
@pytest.mark.parametrize("name", ["Contamination", "Tightrope", "PathStar"])
def test_recordings_in_every_form(name, form):
    dataset, prompts, tokens, laws = recorded(gym.make(f"ntp/{name}-v0", observation=form, expert_info=True))
    for source in ("recorded-v0", dataset):
        back = from_minari(source)
        np.testing.assert_array_equal(back.tokens, tokens)
        np.testing.assert_array_equal(back.prompts.reshape(prompts.shape), prompts)
    assert back.source["task"] == name and back.source["parameters"] == make_task(name).parameters()
    assert back.exactness is None
    for episode, law in zip(dataset, laws):
        np.testing.assert_allclose(episode.infos["expert_probs"], np.array(law))


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", task_names())
def test_every_id_can_be_recorded(name):
    dataset, _, tokens, _ = recorded(gym.make(f"ntp/{name}-v0"), episodes=1)
    back = from_minari(dataset)
    assert back.lengths.tolist() == [tokens.shape[1]]  # a text that ends early knows it
    np.testing.assert_array_equal(back.tokens[:, : tokens.shape[1]], tokens)

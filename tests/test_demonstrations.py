"""Demonstrations: checked on construction, round trip through files, say what they are exact for."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from laws import examples

from ntp_envs import BernoulliClass, Demonstrations, Exactness, UniformPolicy, collect, make_task

TASK = make_task("Contamination", horizon=6, eps=0.2, p=0.1, q=0.9, theta_min=0.01)


def demos(**changes):
    fields = {"prompts": np.zeros((3, 1), int), "tokens": np.ones((3, 4), int), "vocab_size": 2} | changes
    return Demonstrations(**fields)


@pytest.mark.parametrize(
    ("changes", "error", "message"),
    [
        ({"tokens": np.ones((0, 4), int), "prompts": np.zeros((0, 1), int)}, ValueError, "no demonstrations"),
        ({"tokens": np.ones((3, 0), int)}, ValueError, "horizon is at least 1"),
        ({"tokens": np.ones(4, int)}, ValueError, "two-dimensional"),
        ({"tokens": np.ones((3, 4))}, TypeError, "integers"),
        ({"tokens": np.array([[0, 1], [0, 2], [0, 0]])}, ValueError, r"tokens\[1, 1\]=2 is outside .*\[0, 1\]"),
        ({"tokens": np.array([[0, 1], [0, -1], [0, 0]])}, ValueError, r"tokens\[1, 1\]=-1"),
        ({"prompts": np.zeros((2, 1), int)}, ValueError, "2 rows and tokens 3"),
        ({"prompts": np.full((3, 1), 5)}, ValueError, r"prompts\[0, 0\]=5"),
        ({"vocab_size": 0}, ValueError, "vocab_size=0"),
        ({"weights": np.ones(2)}, ValueError, r"\(3,\) is needed"),
        ({"weights": np.array([1.0, -1.0, 1.0])}, ValueError, "non-negative"),
        ({"weights": np.zeros(3)}, ValueError, "not all zero"),
        ({"weights": np.array([1.0, np.nan, 1.0])}, ValueError, "finite"),
        ({"expert_log_probs": np.zeros((3, 3))}, ValueError, r"\(3, 4\) is needed"),
        ({"expert_log_probs": np.full((3, 4), 0.5)}, ValueError, "at most 0"),
        ({"expert_log_probs": np.full((3, 4), np.nan)}, ValueError, "not NaN"),
    ],
)
def test_bad_data_is_refused_on_construction(changes, error, message):
    with pytest.raises(error, match=message):
        demos(**changes)


def test_collect_draws_from_expert_or_policy(rng):
    data = collect(TASK, 500, rng, expert_log_probs=True)
    assert data.prompts.shape == (500, 1) and data.tokens.shape == (500, 6) and data.horizon == 6
    np.testing.assert_array_equal(data.expert_log_probs, TASK.expert.log_probs(data.prompts, data.tokens))
    assert data.exactness is None
    other = collect(TASK, 500, rng, policy=UniformPolicy(2))
    assert TASK.policy_class.events(other.prompts, other.tokens).mean() == pytest.approx(0.5, abs=0.05)


def test_collect_is_reproducible_and_checked():
    first, again = (collect(TASK, 20, np.random.default_rng(1)) for _ in range(2))
    np.testing.assert_array_equal(first.tokens, again.tokens)
    with pytest.raises(ValueError, match="n=0"):
        collect(TASK, 0, np.random.default_rng(1))
    with pytest.raises(TypeError, match="default_rng"):
        collect(TASK, 5, 1)


@pytest.mark.parametrize("source", ["samples", "population"])
def test_files_round_trip(tmp_path, rng, source):
    data = TASK.population() if source == "population" else collect(TASK, 9, rng, expert_log_probs=True)
    path = data.save(tmp_path / "demos")
    assert path.suffix == ".npz"
    back = Demonstrations.load(path)
    for name in ("prompts", "tokens", "weights", "expert_log_probs"):
        np.testing.assert_array_equal(getattr(back, name), getattr(data, name))
    assert (back.vocab_size, back.source, back.exactness) == (data.vocab_size, data.source, data.exactness)


def test_unreadable_files_are_named(tmp_path, rng):
    with pytest.raises(FileNotFoundError):
        Demonstrations.load(tmp_path / "nowhere.npz")
    (tmp_path / "text.npz").write_text("hello")
    with pytest.raises(ValueError, match=r"text.npz is not a readable demonstrations file"):
        Demonstrations.load(tmp_path / "text.npz")
    np.savez(tmp_path / "foreign.npz", a=np.zeros(3))
    with pytest.raises(ValueError, match="not a readable"):
        Demonstrations.load(tmp_path / "foreign.npz")
    whole = collect(TASK, 50, rng).save(tmp_path / "whole.npz").read_bytes()
    (tmp_path / "cut.npz").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(ValueError, match="not a readable"):
        Demonstrations.load(tmp_path / "cut.npz")


@given(horizon=st.integers(1, 30), length=st.integers(1, 30))
@examples()
def test_chunks_cover_every_position_once(horizon, length):
    data = demos(tokens=np.ones((3, horizon), int))
    if length > horizon:
        with pytest.raises(ValueError, match=f"chunk={length}"):
            list(data.chunks(length))
        return
    pieces = list(data.chunks(length))
    assert [i for piece in pieces for i in range(piece.start, piece.stop)] == list(range(horizon))
    assert all(piece.stop - piece.start == length for piece in pieces[:-1])


def test_subset_and_weights(rng):
    data = demos(weights=np.array([1.0, 2.0, 1.0]), exactness=Exactness(everything=True))
    np.testing.assert_allclose(data.normalised_weights(), [0.25, 0.5, 0.25])
    part = data.subset(np.array([True, False, True]))
    assert len(part) == 2 and part.exactness is None
    np.testing.assert_array_equal(part.weights, [1.0, 1.0])


def test_exactness_covers_its_units_in_its_statistic_only():
    flips, tokens = BernoulliClass(0.1, on="flips"), BernoulliClass(0.1)
    exact = TASK.population(chunk=2).exactness
    assert exact.covers(2, flips) and exact.covers(1, flips)
    assert not exact.covers(6, flips) and not exact.covers(None, flips) and not exact.covers(2, tokens)
    assert exact.covers(2, flips.grid(5))
    assert Exactness(everything=True).covers(None, tokens)
    assert "[1, 2]" in exact.describe()

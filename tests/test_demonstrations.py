"""Demonstrations: checked on construction, round trip through files, say what they are exact for."""

import copy
import dataclasses
import pickle
import tracemalloc

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from laws import examples

from agents import ChunkedRhoBC, LogLossBC, RhoEstimatorBC
from ntp_envs import (
    BernoulliClass,
    Demonstrations,
    Exactness,
    UniformPolicy,
    collect,
    evaluate,
    make_task,
    two_sample_test,
)

TASK = make_task("Contamination", horizon=6, eps=0.2, p=0.1, q=0.9, theta_min=0.01)


def demos(**changes):
    fields = {"prompts": np.zeros((3, 1), int), "tokens": np.ones((3, 4), int), "vocab_size": 2} | changes
    return Demonstrations(**fields)


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


@pytest.mark.parametrize("name", ["prompts", "tokens", "weights", "expert_log_probs"])
def test_demonstrations_own_their_arrays(name, tmp_path):
    given = {
        "prompts": np.zeros((3, 1), int),
        "tokens": np.ones((3, 4), int),
        "weights": np.ones(3),
        "expert_log_probs": np.full((3, 4), -1.0),
    }
    data = demos(**given)
    before = getattr(data, name).copy()
    given[name][0] = 0 if name == "tokens" else 1
    np.testing.assert_array_equal(getattr(data, name), before)
    derived = (
        data,
        data.subset(np.array([2, 0])),
        data.subset(slice(0, 2)),
        data.pooled(),
        dataclasses.replace(data, source={"x": 1}),
        pickle.loads(pickle.dumps(data)),
        copy.copy(data),
        copy.deepcopy(data),
        Demonstrations.load(data.save(tmp_path / "demos")),
    )
    for one in derived:
        with pytest.raises(ValueError, match="read-only"):
            getattr(one, name)[0] = 0


@pytest.mark.parametrize(
    "view",
    [
        lambda base: base,
        lambda base: base[:, :],
        lambda base: np.asfortranarray(base),
        lambda base: memoryview(base),
        lambda base: _read_only(base[:]),
        lambda base: np.lib.stride_tricks.as_strided(base, writeable=False),
        lambda base: np.broadcast_to(base, (3, 4)),
    ],
)
def test_views_of_an_array_that_can_change_are_copied(view):
    base = np.ones((3, 4), np.int64)
    data = demos(tokens=view(base))
    base[:] = 0
    assert (data.tokens == 1).all() and (base == 0).all() and base.flags.writeable


def _read_only(array):
    array.flags.writeable = False
    return array


def test_arrays_that_cannot_change_are_shared_and_none_is_copied_twice():
    data = demos(tokens=np.ones((3, 400_000), np.int64))
    assert np.shares_memory(dataclasses.replace(data, source={"x": 1}).tokens, data.tokens)
    assert np.shares_memory(data.subset(slice(0, 2)).tokens, data.tokens)
    for dtype in (np.int64, np.uint8):
        array = np.ones((3, 400_000), dtype)
        tracemalloc.start()
        demos(tokens=array)
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        assert peak < 1.5 * data.tokens.nbytes


@pytest.mark.parametrize("scale", [1e-140, 1e-30, 1e30, 1e140])
def test_the_scale_of_the_weights_does_not_matter(scale, rng):
    data = collect(TASK, 200, rng)
    weights = rng.random(200)
    plain, scaled = (dataclasses.replace(data, weights=w) for w in (weights, scale * weights))
    np.testing.assert_allclose(scaled.normalised_weights(), plain.normalised_weights(), rtol=1e-12)
    for agent in (LogLossBC(), RhoEstimatorBC(), ChunkedRhoBC(chunk=2)):
        fits = [agent.clone().fit(one, TASK.policy_class).policy_.theta for one in (plain, scaled)]
        assert fits[0] == pytest.approx(fits[1], abs=1e-6)
    one, two = (
        evaluate(UniformPolicy(2), TASK, rng=np.random.default_rng(0), demonstrations=d) for d in (plain, scaled)
    )
    assert one.effective_n == pytest.approx(two.effective_n)


MASKED = {
    "prompts": np.ma.masked_equal([[0], [1], [0]], 1),
    "tokens": np.ma.masked_equal([[0, 1], [0, 1], [0, 0]], 1),
    "weights": np.ma.masked_greater([1.0, 2.0, 3.0], 2.5),
    "expert_log_probs": np.ma.masked_less(np.array([[0.0, -9.0]] * 3), -5.0),
}


@pytest.mark.parametrize("name", MASKED)
def test_masked_entries_are_refused_and_masked_arrays_without_any_are_data(name):
    base = {"tokens": np.zeros((3, 2), int)}
    count = int(MASKED[name].mask.sum())
    with pytest.raises(TypeError, match=f"{name} is a masked array with {count} masked entries.*filled"):
        demos(**base | {name: MASKED[name]})
    np.testing.assert_array_equal(
        getattr(demos(**base | {name: np.ma.array(MASKED[name].data)}), name), MASKED[name].data
    )


def test_equal_weights_are_draws_and_populations_are_not(rng):
    one, two = collect(TASK, 60, rng), collect(TASK, 60, rng)
    halves = dataclasses.replace(two, weights=np.full(60, 0.5))
    for method in ("classifier", "n-gram", "mmd"):
        plain, weighted = (two_sample_test(one, q, rng=np.random.default_rng(1), method=method) for q in (two, halves))
        np.testing.assert_array_equal(plain.curve.values, weighted.curve.values)
    for bad in (
        dataclasses.replace(two, weights=np.arange(1.0, 61.0)),
        dataclasses.replace(halves, exactness=Exactness(everything=True)),
    ):
        with pytest.raises(ValueError, match="weighted"):
            two_sample_test(one, bad, rng=np.random.default_rng(1))

"""Demonstrations: checked on construction, round trip through files; of a damaged file the data or one clear error."""

import copy
import dataclasses
import io
import json
import pickle
import tracemalloc
import zipfile
import zlib

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from laws import examples

from agents import Agent, ChunkedRhoBC, LogLossBC, RhoEstimatorBC
from experiments.cells import Cell, CellResult, Record, ResultStore, cached_records
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


def test_collect_is_reproducible():
    first, again = (collect(TASK, 20, np.random.default_rng(1)) for _ in range(2))
    np.testing.assert_array_equal(first.tokens, again.tokens)


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


# -- damaged, forged and old files -------------------------------------------------------------------------------------


NAMES = ("prompts", "tokens", "weights", "expert_log_probs")


def whole(rng) -> Demonstrations:
    drawn = collect(TASK, 12, rng, expert_log_probs=True)
    return Demonstrations(
        drawn.prompts,
        drawn.tokens,
        vocab_size=2,
        weights=rng.random(12),
        expert_log_probs=drawn.expert_log_probs,
        source=drawn.source,
    )


def equal(one: Demonstrations, two: Demonstrations) -> bool:
    return (one.vocab_size, one.source, one.exactness) == (two.vocab_size, two.source, two.exactness) and all(
        (getattr(one, name) is None) == (getattr(two, name) is None)
        and np.array_equal(getattr(one, name), getattr(two, name))
        for name in NAMES
    )


def mutations(data: bytes, count: int, rng):
    for kind in rng.integers(6, size=count):
        at, size = int(rng.integers(len(data))), int(rng.integers(1, 9))
        changed = bytearray(data)
        if kind < 3:
            changed[at] ^= 1 << int(rng.integers(8))
        elif kind == 3:
            changed[at : at + size] = rng.bytes(size)
        elif kind == 4:
            changed[at : at + size] = b"" if rng.random() < 0.5 else changed[at : at + size] * 2
        else:
            changed = changed[:at]
        yield bytes(changed)


def refusals(path, count, rng, load, what, same):
    """How many of so many damaged copies are refused, each by the one error; the others load as the same."""
    refused = 0
    for changed in mutations(path.read_bytes(), count, rng):
        path.write_bytes(changed)
        try:
            back = load(path)
        except ValueError as error:
            assert str(error).startswith(f"{path} is not a readable {what} file (")  # noqa: PT017
            refused += 1
        else:
            assert same(back)
    return refused


@pytest.mark.parametrize("count", [300, pytest.param(1500, marks=pytest.mark.slow)])
def test_a_damaged_file_gives_the_data_or_one_clear_error(tmp_path, rng, count):
    demos = whole(rng)
    path = demos.save(tmp_path / "damaged.npz")
    found = refusals(path, count, rng, Demonstrations.load, "demonstrations", lambda back: equal(back, demos))
    assert found > count * 2 / 3


@pytest.mark.slow
def test_every_flip_of_a_name_is_seen(tmp_path, rng):
    demos, path = whole(rng), tmp_path / "renamed.npz"
    data = demos.save(path).read_bytes()
    for name in (*NAMES, "meta"):
        old = f"{name}.npy".encode()
        for place in range(len(old)):
            for bit in range(8):
                new = bytearray(old)
                new[place] ^= 1 << bit
                path.write_bytes(data.replace(old, bytes(new)))
                with pytest.raises(ValueError, match="not a readable demonstrations file"):
                    Demonstrations.load(path)


@pytest.mark.parametrize("left_out", ["weights", "expert_log_probs"])
def test_an_array_that_is_left_out_or_changed_is_missed(tmp_path, rng, left_out):
    demos, path = whole(rng), tmp_path / "rewritten.npz"
    with np.load(demos.save(path)) as found:
        arrays = dict(found)
    np.savez(path, **{name: array for name, array in arrays.items() if name != left_out})
    with pytest.raises(ValueError, match="not those that it lists"):
        Demonstrations.load(path)
    np.savez(path, **arrays | {left_out: arrays[left_out] * 0.5})
    with pytest.raises(ValueError, match="not those that it lists"):
        Demonstrations.load(path)
    np.savez(path, **arrays)
    assert equal(Demonstrations.load(path), demos)


@pytest.mark.parametrize("version", ["weighted", "bare"])
def test_files_of_earlier_releases_are_read(tmp_path, rng, version):
    demos = whole(rng) if version == "weighted" else collect(TASK, 5, rng)
    meta = {"format": "ntp-envs demonstrations", "version": 1, "vocab_size": 2, "source": demos.source}
    meta["exactness"] = None
    arrays = {name: getattr(demos, name) for name in NAMES if getattr(demos, name) is not None}
    path = tmp_path / "old.npz"
    np.savez_compressed(path, meta=np.array(json.dumps(meta)), **arrays)
    assert equal(Demonstrations.load(path), demos)
    np.savez_compressed(path, meta=np.array(json.dumps(meta)), **arrays, weightr=np.ones(3))
    with pytest.raises(ValueError, match="it holds an array 'weightr'"):
        Demonstrations.load(path)


def forged(path, entries: dict[str, bytes]):
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, data in entries.items():
            archive.writestr(name, data)
    return path


def npy(array, header=None) -> bytes:
    stream = io.BytesIO()
    np.lib.format.write_array(stream, np.asarray(array))
    data = stream.getvalue()
    if header is None:
        return data
    text = header.encode().ljust(len(data) - 10 - np.asarray(array).nbytes - 1) + b"\n"
    return data[:8] + len(text).to_bytes(2, "little") + text + np.asarray(array).tobytes()


@pytest.mark.parametrize(
    "tokens",
    [
        npy(np.ones((3, 4), int), "{'descr': '<i8', 'fortran_order': False, 'shape': (1000000000000, 4), }"),
        npy(np.ones((3, 4), int), "{'descr': '<i8', 'fortran_order': False, 'shape': (-3, -4), }"),
        npy(np.ones((3, 4), int), "{'descr': '|O', 'fortran_order': False, 'shape': (3, 4), }"),
        npy(np.ones((3, 4), int), "{'descr': '<i8', 'fortran_order': False, 'shape': (3, 3), }"),
        b"\x93NUMPY\x09\x00" + npy(np.ones((3, 4), int))[8:],
        b"",
        b"[" * 100_000,
    ],
    ids=["a large shape", "a negative shape", "objects", "a wrong shape", "another version", "nothing", "brackets"],
)
def test_what_a_header_says_is_not_believed(tmp_path, tokens):
    meta = {"format": "ntp-envs demonstrations", "version": 1, "vocab_size": 2, "source": {}, "exactness": None}
    entries = {"prompts.npy": npy(np.zeros((3, 0), int)), "meta.npy": npy(np.array(json.dumps(meta)))}
    path = forged(tmp_path / "forged.npz", {**entries, "tokens.npy": npy(np.ones((3, 4), int))})
    assert Demonstrations.load(path).horizon == 4
    forged(path, {**entries, "tokens.npy": tokens})
    tracemalloc.start()
    try:
        with pytest.raises(ValueError, match="not a readable demonstrations file"):
            Demonstrations.load(path)
        assert tracemalloc.get_traced_memory()[1] < 2**22
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize("meta", ["[" * 100_000, "[]", "null", '{"format": 3}', "{", "\ud800"])
def test_what_the_metadata_say_is_not_believed(tmp_path, meta):
    try:
        text = npy(np.array(meta))
    except UnicodeEncodeError:
        text = b"\x93NUMPY"
    arrays = {"prompts.npy": npy(np.zeros((3, 0), int)), "tokens.npy": npy(np.ones((3, 4), int)), "meta.npy": text}
    with pytest.raises(ValueError, match="not a readable demonstrations file"):
        Demonstrations.load(forged(tmp_path / "meta.npz", arrays))


def test_a_file_that_unpacks_to_too_much_is_refused_before_it_is_unpacked(tmp_path, rng):
    path = forged(tmp_path / "bomb.npz", {"tokens.npy": bytes(2**26)})
    assert path.stat().st_size < 2**17
    tracemalloc.start()
    try:
        for load in (Demonstrations.load, Agent.load):
            with pytest.raises(ValueError, match="unpacks to 67108864 bytes, more than max_bytes=1000000"):
                load(path, max_bytes=10**6)
        assert tracemalloc.get_traced_memory()[1] < 2**20
    finally:
        tracemalloc.stop()
    saved = whole(rng).save(tmp_path / "small.npz")
    assert Demonstrations.load(saved, max_bytes=10**6).horizon == 6


@pytest.mark.parametrize("count", [150, pytest.param(600, marks=pytest.mark.slow)])
def test_a_damaged_agent_is_the_agent_or_one_clear_error(tmp_path, rng, count):
    agent = LogLossBC().fit(collect(TASK, 50, rng), TASK.policy_class)
    path = agent.save(tmp_path / "agent.zip")
    found = refusals(path, count, rng, Agent.load, "agent", lambda back: back.policy_.theta == agent.policy_.theta)
    assert found > count * 2 / 3


@pytest.mark.parametrize("error", [RecursionError(), NotImplementedError("method 99"), MemoryError(), zlib.error("-3")])
def test_whatever_a_reader_raises_becomes_the_one_error(tmp_path, rng, monkeypatch, error):
    def broken(*args, **kwargs):
        raise error

    saved, fitted = whole(rng).save(tmp_path / "demos.npz"), LogLossBC().save(tmp_path / "agent.zip")
    monkeypatch.setattr(zipfile.ZipFile, "open", broken)
    for load, path in ((Demonstrations.load, saved), (Agent.load, fitted)):
        with pytest.raises(ValueError, match=f"is not a readable .*{str(error) or type(error).__name__}"):
            load(path)


def test_damaged_results_of_a_run_are_named_too(tmp_path, rng):
    cell = Cell("part", test_damaged_results_of_a_run_are_named_too, {"n": 3})
    path = tmp_path / "results.sqlite"
    with ResultStore(path) as store:
        store.put(cell, CellResult(cell.key, tuple(Record("m", float(i), {"i": i}) for i in range(99)), None, 1.0))
        whole_run = dict(store.results())
    data, refused = path.read_bytes(), 0
    for changed in mutations(data, 200, rng):
        path.write_bytes(changed)
        try:
            with ResultStore(path) as store:
                store.results()
        except ValueError as error:
            assert "is not a readable results file" in str(error)  # noqa: PT017
            refused += 1
    assert refused > 20 and len(whole_run) == 1
    config = tmp_path / "records.json"
    for text in ("[" * 100_000, "[1]", '{"a": 1}', "{", "null", '[{"measure": 3}]'):
        config.write_text(text)
        with pytest.raises(ValueError, match="does not hold records"):
            cached_records(config, list)

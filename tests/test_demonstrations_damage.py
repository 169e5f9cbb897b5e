"""Files of demonstrations and agents that are damaged, forged or old: what was written comes back, or one clear error.

Every mutation of a saved file is a small edit that a disk, a network or an editor makes: a flipped bit, a changed,
lost or doubled byte, a cut end. The oracle is the data themselves.
"""

import io
import json
import tracemalloc
import zipfile
import zlib

import numpy as np
import pytest

from agents import Agent, LogLossBC
from experiments.cells import Cell, CellResult, Record, ResultStore, kept_or_made
from ntp_envs import Demonstrations, collect, make_task

TASK = make_task("Contamination", horizon=6, eps=0.2, p=0.1, q=0.9, theta_min=0.01)
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


def test_a_damaged_file_gives_the_data_or_one_clear_error(tmp_path, rng):
    demos = whole(rng)
    path = demos.save(tmp_path / "damaged.npz")
    found = refusals(path, 1500, rng, Demonstrations.load, "demonstrations", lambda back: equal(back, demos))
    assert found > 1000


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


def test_a_damaged_agent_is_the_agent_or_one_clear_error(tmp_path, rng):
    agent = LogLossBC().fit(collect(TASK, 50, rng), TASK.policy_class)
    path = agent.save(tmp_path / "agent.zip")
    found = refusals(path, 600, rng, Agent.load, "agent", lambda back: back.policy_.theta == agent.policy_.theta)
    assert found > 400


@pytest.mark.parametrize("error", [RecursionError(), NotImplementedError("method 99"), MemoryError(), zlib.error("-3")])
def test_whatever_a_reader_raises_becomes_the_one_error(tmp_path, rng, monkeypatch, error):
    def broken(*args, **kwargs):
        raise error

    saved, fitted = whole(rng).save(tmp_path / "demos.npz"), LogLossBC().save(tmp_path / "agent.zip")
    monkeypatch.setattr(zipfile.ZipFile, "read", broken)
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
            kept_or_made(config, list)

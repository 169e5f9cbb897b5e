"""Many demonstrations: kept small, made and read some at a time, with the results of all at once."""

import dataclasses
import json
import tracemalloc

import numpy as np
import pytest

import ntp_envs
from agents import LogLossBC, NGramBC, SmoothedLogLossBC
from ntp_envs.demonstrations import kept
from ntp_envs.distances import one_sided_distances
from ntp_envs.features import OffsetsOneHot, WindowOneHot
from ntp_envs.tasks import base


@pytest.fixture
def many(monkeypatch):
    """What counts as many tokens, and how many are handled together."""

    def says(tokens, together):
        for module in (ntp_envs.demonstrations, base):
            monkeypatch.setattr(module, "MANY_TOKENS", tokens)
        monkeypatch.setattr(ntp_envs.demonstrations, "BLOCK_TOKENS", together)
        monkeypatch.setattr(ntp_envs.ngram, "COUNTED_TOGETHER", together)

    return says


def fields(demos):
    return {field.name: getattr(demos, field.name) for field in dataclasses.fields(demos)}


def equal(one, two):
    return all(np.array_equal(a, b) for a, b in zip(fields(one).values(), fields(two).values()))


def weighted(demos, rng):
    return dataclasses.replace(demos, weights=rng.integers(0, 3, len(demos)).astype(float))


CLASSES = {
    "bernoulli": (LogLossBC(), ntp_envs.BernoulliClass()),
    "markov": (SmoothedLogLossBC(), ntp_envs.MarkovClass(2, 2)),
    "n-gram": (LogLossBC(), ntp_envs.NGramClass(2, 4)),
    "n-gram, smoothed": (NGramBC(), ntp_envs.NGramClass(2, 4)),
    "linear, states": (LogLossBC(), ntp_envs.ARLinearClass(WindowOneHot(2, 3), 5.0)),
    "linear, codes": (LogLossBC(), ntp_envs.ARLinearClass(WindowOneHot(2, 12), 5.0)),
    "linear, distinct": (LogLossBC(), ntp_envs.ARLinearClass(OffsetsOneHot(2, [-1, -40]), 5.0)),
}


@pytest.mark.parametrize("name", CLASSES)
def test_fits_are_those_of_all_at_once(name, many):
    agent, policy_class = CLASSES[name]
    rng, task = np.random.default_rng(0), ntp_envs.make_task("ARLinear", horizon=7)
    wide = weighted(ntp_envs.collect(task, 300, rng), rng)
    found = agent.fit(wide, policy_class).policy_.log_probs(wide.prompts, wide.tokens)
    many(0, 70)
    narrow = dataclasses.replace(wide)
    assert kept(narrow, "tokens").dtype == np.uint8 and narrow.tokens.dtype == np.int64
    again = agent.clone().fit(narrow, policy_class).policy_.log_probs(wide.prompts, wide.tokens)
    np.testing.assert_allclose(again, found, rtol=1e-9, atol=1e-9)


def test_texts_that_end_are_counted_as_all_at_once(many):
    rng, task = np.random.default_rng(0), ntp_envs.make_task("Documents", horizon=9)
    wide, policy_class = (
        ntp_envs.collect(task, 200, rng),
        ntp_envs.ended_class(ntp_envs.NGramClass(2, 3), task.end_token),
    )
    found = NGramBC().fit(wide, policy_class).policy_.log_probs(wide.prompts, wide.tokens)
    many(0, 30)
    narrow = dataclasses.replace(wide)
    assert kept(narrow, "tokens").dtype == np.uint8
    np.testing.assert_array_equal(
        NGramBC().fit(narrow, policy_class).policy_.log_probs(wide.prompts, wide.tokens), found
    )
    with pytest.raises(ValueError, match="stays ended"):
        ntp_envs.Demonstrations(np.empty((99, 0), int), np.tile([1, 0], (99, 1)), vocab_size=2, end_token=1)


def test_what_is_measured_is_what_all_at_once_gives(many):
    rng, task = np.random.default_rng(0), ntp_envs.make_task("Text", horizon=5, prompt_length=2)
    policy = NGramBC().fit(task.windows(300, rng), task.policy_class).policy_
    wide = ntp_envs.collect(task, 200, rng)
    even = one_sided_distances(wide, policy, p=task.expert)
    whole = ntp_envs.evaluate(policy, task, demonstrations=weighted(wide, np.random.default_rng(1)), rng=rng)
    many(0, 60)
    narrow = dataclasses.replace(wide)
    for name, curve in one_sided_distances(narrow, policy, p=task.expert).items():
        np.testing.assert_allclose(curve.values, even[name].values, rtol=1e-12)
    blocks = ntp_envs.evaluate(policy, task, demonstrations=weighted(narrow, np.random.default_rng(1)), rng=rng)
    for name in ("forced_accuracy", "greedy_accuracy", "cross_entropy", "mean_cross_entropy", "unknown_share"):
        np.testing.assert_allclose(getattr(blocks, name), getattr(whole, name), rtol=1e-12)
        if name in whole.std_errors:
            np.testing.assert_allclose(blocks.std_errors[name], whole.std_errors[name], rtol=1e-9)
    assert [text.target for text in blocks.samples] == [text.target for text in whole.samples]


# -- in a folder -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("family", ["Contamination", "Documents"])  # the second has no prompt
@pytest.mark.parametrize("together", [1 << 20, 50])
def test_a_folder_holds_what_memory_would(family, together, tmp_path, many):
    task, options = ntp_envs.make_task(family, horizon=8), {"expert_log_probs": True}
    many(together, together)
    inside = ntp_envs.collect(task, 40, np.random.default_rng(3), **options)
    seen = []
    found = ntp_envs.collect(
        task, 40, np.random.default_rng(3), out=tmp_path / "a", progress=lambda *of: seen.append(of), **options
    )
    assert equal(inside, found) and equal(inside, ntp_envs.Demonstrations.load(tmp_path / "a")) and seen[-1] == (40, 40)
    assert equal(inside, ntp_envs.collect(task, 40, np.random.default_rng(3), out=tmp_path / "a", **options))
    with pytest.raises(FileExistsError, match="something else"):
        ntp_envs.collect(task, 40, np.random.default_rng(4), out=tmp_path / "a", **options)


def test_an_interrupted_folder_is_gone_on_with(tmp_path, many):
    many(50, 50)
    task, calls = ntp_envs.make_task("Contamination", horizon=8), []

    def counting(prompts, tokens):
        calls.append(len(tokens))
        return np.full((len(tokens), 2), np.log(0.5))

    def stop(done, n):
        if done >= 20:
            raise KeyboardInterrupt

    policy = ntp_envs.CallablePolicy(counting, 2)
    whole = ntp_envs.collect(task, 40, np.random.default_rng(0), policy=policy)
    with pytest.raises(KeyboardInterrupt):
        ntp_envs.collect(task, 40, np.random.default_rng(0), policy=policy, out=tmp_path, progress=stop)
    with pytest.raises(ValueError, match="only the first 20 demonstrations"):
        ntp_envs.Demonstrations.load(tmp_path)
    calls.clear()
    assert equal(ntp_envs.collect(task, 40, np.random.default_rng(0), policy=policy, out=tmp_path), whole)
    assert sum(calls) == 20 * 8


def test_a_folder_that_is_not_ours_or_damaged_is_refused(tmp_path):
    (tmp_path / "mine.txt").write_text("kept")
    with pytest.raises(FileExistsError, match="new folder"):
        ntp_envs.collect(ntp_envs.make_task("Contamination"), 4, np.random.default_rng(0), out=tmp_path)
    with pytest.raises(ValueError, match="not a readable demonstrations file"):
        ntp_envs.Demonstrations.load(tmp_path)
    folder = tmp_path / "new"
    ntp_envs.collect(ntp_envs.make_task("Contamination"), 4, np.random.default_rng(0), out=folder)
    np.save(folder / "tokens.npy", np.zeros((4, 3), np.uint8))
    with pytest.raises(ValueError, match="not those that it lists"):
        ntp_envs.Demonstrations.load(folder)
    about = json.loads((folder / "demonstrations.json").read_text())
    about["identity"]["arrays"]["../elsewhere"] = ["|u1", 4, 3]
    (folder / "demonstrations.json").write_text(json.dumps(about))
    with pytest.raises(ValueError, match="elsewhere"):
        ntp_envs.Demonstrations.load(folder)


def test_files_take_the_smallest_type_and_those_of_int64_still_load(tmp_path):
    demos = ntp_envs.collect(ntp_envs.make_task("Contamination"), 5, np.random.default_rng(0))
    with np.load(demos.save(tmp_path / "new")) as file:
        assert file["tokens"].dtype == np.uint8
        meta = json.loads(str(file["meta"]))
    del meta["arrays"]  # as before there was such a list
    np.savez(tmp_path / "old.npz", meta=np.array(json.dumps(meta)), prompts=demos.prompts, tokens=demos.tokens)
    assert equal(demos, ntp_envs.Demonstrations.load(tmp_path / "old.npz")) and equal(
        demos, ntp_envs.Demonstrations.load(tmp_path / "new.npz")
    )


# -- memory ------------------------------------------------------------------------------------------------------------


def peak(work):
    tracemalloc.start()
    try:
        work()
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize("name", ["bernoulli", "n-gram", "linear, states"])
def test_a_fit_takes_no_more_memory_for_more_data(name, many):
    agent, policy_class = CLASSES[name]
    many(0, 1 << 13)
    rng, task = np.random.default_rng(0), ntp_envs.make_task("ARLinear", horizon=64)
    some, more = (ntp_envs.collect(task, n, rng) for n in (1 << 9, 1 << 13))  # 2^15 and 2^19 tokens
    agent.clone().fit(some, policy_class)  # what is made once
    first, second = (peak(lambda demos=demos: agent.clone().fit(demos, policy_class)) for demos in (some, more))
    assert second < first + more.horizon * len(more)  # a byte a token; int64 would be eight


def test_collecting_takes_no_more_than_what_is_kept(many):
    many(0, 1 << 13)
    task = ntp_envs.make_task("ARLinear", horizon=64)
    first, second = (peak(lambda n=n: ntp_envs.collect(task, n, np.random.default_rng(0))) for n in (1 << 9, 1 << 13))
    assert second < first + 3 * 64 * (1 << 13)

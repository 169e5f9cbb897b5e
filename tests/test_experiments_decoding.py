"""The study of decoding: its numbers are those of the decoded law, and its verdict is that of its numbers."""

from dataclasses import replace

import experiments_toy as toy
import numpy as np
import pytest
from small_studies import HARBOUR, ROOT
from tiny_model import save_tiny

from agents import make_agent
from experiments.run import run_study
from experiments.studies import decoding, load_study
from experiments.summary import Summary, SummaryRow
from experiments.testing import check_study
from experiments.texts import RuledText
from ntp_envs import DecodedPolicy, NGramClass, collect, distance_curves
from ntp_envs.arrays import all_sequences
from ntp_envs.tasks import Text

TEXT = {"corpus": str(ROOT / HARBOUR), "expert_order": 3, "horizon": 3, "prompt_length": 2}


@pytest.mark.parametrize(("way", "value"), [("temperature", 0.6), ("top_p", 0.8)])
def test_distance_and_coverage_are_those_of_the_decoded_law(way, value):
    sizes = {"order": 2, "thresholds": (4.0,), "n": 300, "draws": 4000, "replicate": 0}
    records = decoding.decoded(text=TEXT, way=way, values=(value,), **sizes, rng=np.random.default_rng(1))
    task, rng = Text(**TEXT), np.random.default_rng(1)
    learner = make_agent("NGramBC").fit(collect(task, 300, rng), NGramClass(task.vocab_size, 2), rng=rng).policy_
    metrics = ("hellinger2", "coverage")
    exact = distance_curves(
        task.expert,
        DecodedPolicy(learner, **{way: value}),
        task,
        metrics=metrics,
        thresholds=4.0,
        method="monte carlo",
        n=40_000,
        rng=np.random.default_rng(2),
    )
    for record in records:
        curve, h = exact[record.metric], record.labels["h"]
        value, lower, upper = (float(np.ravel(end)[h - 1]) for end in (curve.values, curve.lower, curve.upper))
        assert abs(record.value - value) <= record.upper - record.lower + upper - lower, "four standard errors"


@pytest.fixture
def ruled():
    """Little text, with a rule that many texts break, and a learner of it."""
    task = RuledText(**{**TEXT, "max_vocab": 12}, rule_order=3)
    rng = np.random.default_rng(1)
    return task, make_agent("NGramBC").fit(collect(task, 300, rng), NGramClass(12, 2), rng=rng).policy_


@pytest.mark.filterwarnings("ignore::ntp_envs.text.UnknownTokensWarning")
def test_a_text_passes_while_its_stretches_occur(ruled):
    task, _ = ruled
    rng = np.random.default_rng(0)
    prompts, tokens = task.sample_prompts(200, rng), rng.integers(12, size=(200, 3))
    seen = {tuple(task.data.train.tokens[i : i + 3]) for i in range(len(task.data.train) - 2)}
    lines = np.hstack([prompts, tokens]).tolist()
    for t in (1, 3):
        wanted = [all(tuple(line[i : i + 3]) in seen for i in range(t)) for line in lines]
        assert task.verify(prompts, tokens[:, :t]).tolist() == wanted and 0 < sum(wanted) < 200


@pytest.mark.filterwarnings("ignore::ntp_envs.text.UnknownTokensWarning")
def test_the_probability_to_pass_is_that_of_all_texts_and_best_of_n_needs_what_it_says(ruled):
    task, learner = ruled
    policy = DecodedPolicy(learner, temperature=1.5)
    prompts = task.sample_prompts(30, np.random.default_rng(0))
    everything = all_sequences(12, 3)
    chances = []
    for prompt in prompts:
        many = np.tile(prompt, (len(everything), 1))
        law = np.exp(policy.log_probs(many, everything).sum(axis=1))
        chances.append(law @ task.verify(many, everything))
    nothing = np.empty((4000, 0), dtype=int)
    value = task.value(policy)
    np.testing.assert_allclose(value(prompts, nothing[:30]), chances, atol=1e-12)
    sampled = policy.sample(prompts, 3, np.random.default_rng(0))
    law = np.exp(policy.next_log_probs(prompts, sampled[:, :1]))
    some = [value(prompts, np.column_stack([sampled[:, 0], np.full(30, a)])) for a in range(12)]
    passed = task.verify(prompts, sampled[:, :1])
    np.testing.assert_allclose((law.T * some).sum(axis=0)[passed], value(prompts, sampled[:, :1])[passed], atol=1e-12)

    sizes = {
        "rule_order": 3,
        "temperatures": (1.5,),
        "order": 2,
        "n": 300,
        "prompts": 400,
        "answered": 0.8,
        "most": 200,
    }
    text = {**TEXT, "max_vocab": 12}
    records = decoding.searched(text=text, **sizes, replicate=0, rng=np.random.default_rng(1))
    found = {(r.metric, r.labels.get("decoding")): r.value for r in records}
    prompts = task.sample_prompts(4000, np.random.default_rng(2))
    chances = value(prompts, nothing)
    needed = found[decoding.NEEDED, decoding.BEST_OF]
    spread = 4.5 * np.sqrt(0.8 * 0.2 * (1 / 400 + 1 / 4000))
    answered = [1 - ((1 - chances) ** N).mean() for N in (needed, needed - 1)]  # by formula, at this N and before it
    assert answered[0] >= 0.8 - spread and answered[1] <= 0.8 + spread
    uncovered = [(chances <= share / found[decoding.PREDICTED, None]).mean() for share in (1.0, 0.999)]
    assert uncovered[1] <= 0.2 + spread and uncovered[0] >= 0.2 - spread
    assert found[decoding.NEEDED, decoding.DEPTH_FIRST] < found[decoding.NEEDED, decoding.BEST_OF]


@pytest.mark.slow
def test_the_small_run():
    outcome = check_study(load_study("decoding"), toy.small_options("decoding"))
    for way in decoding.WAYS:
        own = outcome.summary.select(decoding.DISTANCE2, part=way, h=4, **{way: 1.0})
        assert own[0].seeds == 2
    one, other = (outcome.summary.value(decoding.DISTANCE2, part=way, h=1, **{way: 1.0}) for way in decoding.WAYS)
    assert one == pytest.approx(other, abs=0.1), "the same learner, on other draws"


def rows(distances, uncovered):
    made = []
    for metric, numbers in ((decoding.DISTANCE2, distances), (decoding.COVERAGE, uncovered)):
        for temperature, value in numbers.items():
            values = tuple(value + 0.01 * k * temperature for k in range(3))
            labels = {"temperature": temperature, "h": 4, **({"N": 9.0} if metric == decoding.COVERAGE else {})}
            made.append(SummaryRow("temperature", labels, metric, value, value, value, 3, "", values))
    return Summary(made)


def test_the_verdict_is_that_of_the_numbers():
    options = decoding.DecodingOptions(temperatures=(0.5, 1.0), thresholds=(9.0,), horizon=4, detail=4)
    (apart,) = decoding.findings(options, rows({0.5: 1.0, 1.0: 1.2}, {0.5: 0.6, 1.0: 0.3}))
    assert "least at 0.5" in apart and "no setting serves both" in apart
    (both,) = decoding.findings(options, rows({0.5: 1.2, 1.0: 1.0}, {0.5: 0.6, 1.0: 0.3}))
    assert "1 is nearest and covers best" in both


def test_a_language_model_is_decoded(tmp_path):
    """Its own law at temperature 1 is nowhere, and all values are measured on the same texts of the expert."""
    pytest.importorskip("transformers")
    tiny = str(save_tiny(tmp_path / "tiny"))
    values = {"temperatures": (0.5, 1.0), "top_ps": (0.5, 1.0), "thresholds": (4.0,)}
    options = decoding.DecodingOptions(expert=tiny, learner="none", horizon=4, detail=4, draws=16, seeds=2, **values)
    undrawn = replace(decoding.STUDY, analyse=lambda o, s: replace(decoding.STUDY.analyse(o, s), figures=()))
    outcome = run_study(undrawn, options, out=tmp_path / "run")
    assert not outcome.failures
    for way in decoding.WAYS:
        own, cut = (outcome.summary.select(decoding.DISTANCE2, part=way, h=4, **{way: x})[0] for x in (1.0, 0.5))
        assert own.mean == pytest.approx(0, abs=1e-9) and cut.mean > 0.1 and own.seeds == 2
    assert "tiny with none" in outcome.analysis.tables[0].note

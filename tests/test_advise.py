"""``ntp-bench advise``: its e-value, bounds and cost model against independent computations, and the command."""

import dataclasses
import json
import math
from types import SimpleNamespace

import numpy as np
import pytest
from scipy.stats import binom

import ntp_envs
from agents import LogLossBC
from agents.selection import TournamentResult
from experiments import advise
from experiments.advise_command import class_of, quantity
from experiments.cli import main


def written(policy, n, horizon, rng, prompt_length=0):
    prompts = np.zeros((n, prompt_length), dtype=np.int64)
    return ntp_envs.Demonstrations(prompts, policy.sample(prompts, horizon, rng), vocab_size=policy.vocab_size)


# -- is the class misspecified? ----------------------------------------------------------------------------------------


def test_the_e_value_is_the_mean_ratio_to_the_maximum_likelihood_of_the_class():
    rng = np.random.default_rng(0)
    first, second = (written(ntp_envs.BernoulliPolicy(0.3), 40, 5, rng) for _ in range(2))
    rivals = {"a": ntp_envs.BernoulliPolicy(0.2), "b": ntp_envs.BernoulliPolicy(0.6)}
    ones, count = second.tokens.sum(), second.tokens.size

    def likelihood(theta):
        return theta**ones * (1 - theta) ** (count - ones)

    wanted = np.mean([likelihood(0.2), likelihood(0.6)]) / likelihood(ones / count)
    value, certified, scores = advise.log_e_value(first, second, ntp_envs.BernoulliClass(), rivals)
    assert certified
    assert math.exp(value) == pytest.approx(wanted, rel=1e-9)
    assert math.exp(scores["b"]) == pytest.approx(likelihood(0.6), rel=1e-9)


def test_a_text_that_no_member_can_write_is_proof():
    rng = np.random.default_rng(0)
    data = [written(ntp_envs.BernoulliPolicy(0.5), 20, 3, rng) for _ in range(2)]
    value, _, _ = advise.log_e_value(*data, ntp_envs.BernoulliClass(0.0, 0.0), {"half": ntp_envs.BernoulliPolicy(0.5)})
    assert value == math.inf


@pytest.mark.parametrize("n", [50, pytest.param(200, marks=pytest.mark.slow)])
def test_the_e_value_keeps_its_level_where_the_class_holds_the_truth(n):
    """E <= 1 in the mean at any n, so e-values of 5 and more come in a fifth of cases at most."""
    rng, replicates = np.random.default_rng(n), 40
    task_class, truth = ntp_envs.MarkovClass(2, order=1), ntp_envs.BernoulliPolicy(0.3)
    large = 0
    for _ in range(replicates):
        first, second = (written(truth, n // 2, 6, rng) for _ in range(2))
        rivals = advise.fit_rivals(first, task_class)
        large += advise.log_e_value(first, second, task_class, rivals)[0] >= math.log(5.0)
    assert large <= binom.ppf(0.999, replicates, 0.2)


def test_a_mixture_of_two_members_is_found():
    rng = np.random.default_rng(1)
    truth = ntp_envs.MixturePolicy([ntp_envs.BernoulliPolicy(0.1), ntp_envs.BernoulliPolicy(0.9)], [0.8, 0.2])
    data = written(truth, 400, 12, rng)
    mixture = advise.fit_rivals(data, ntp_envs.BernoulliClass())["mixture of two members"]
    thetas = sorted(component.theta for component in mixture.components)
    assert thetas == pytest.approx([0.1, 0.9], abs=0.03)


def test_a_network_sees_what_no_ngram_can():
    """The last two tokens are the first two, further back than the longest n-gram reaches; a mixture of two members
    finds out a little, as texts with more ones in front have more of them behind."""
    pytest.importorskip("torch")
    rng, log_e = np.random.default_rng(0), {}
    bits = rng.integers(2, size=(800, 8))
    tokens = np.concatenate([bits, bits[:, :2]], axis=1)
    halves = [ntp_envs.Demonstrations(np.zeros((400, 0), int), part, 2) for part in (tokens[:400], tokens[400:])]
    for network in (False, True):
        found = advise.evidence(*halves, ntp_envs.MarkovClass(2, order=1), network=network)
        log_e[network] = found.log_e_value
    assert log_e[True] > 5 * log_e[False] and log_e[True] > 100.0 and found.best == "transformer"


def test_bounds_on_the_total_variation_are_below_it():
    """Simulated: all lengths of one call hold together with 95 %."""
    task = ntp_envs.make_task("Contamination", horizon=8, eps=0.2)
    lengths, missed, shown = np.array([1, 2, 4, 8]), 0, 0
    for seed in range(12):
        rng = np.random.default_rng(seed)
        first, second = (ntp_envs.collect(task, 150, rng) for _ in range(2))
        fitted = task.policy_class.policy(0.2)
        bounds, _ = advise.tv_bounds(second, fitted, advise.fit_rivals(first, task.policy_class), lengths, rng)
        truth = ntp_envs.distance(task.expert, fitted, task, metric="tv").values[lengths - 1]
        missed += (bounds > truth + 1e-12).any()
        shown += bounds[-1] > 0.3
    assert missed <= binom.ppf(0.999, 12, 0.05)
    assert shown == 12


@pytest.mark.parametrize(("n", "tests", "lengths"), [(25, 1, 1), (500, 9, 7)])
def test_what_could_not_have_been_seen(n, tests, lengths):
    """Under that distance the most telling event, of probability zero under the fit, is shown with probability .8."""
    from ntp_envs.distances.two_sample import tv_lower_bound

    level = 0.05 / (tests * lengths)
    counts = np.arange(n + 1)
    least = counts[tv_lower_bound(counts, 0 * counts, n, level=level) > 0][0]
    assert binom.sf(least - 1, n, advise.smallest_seen(n, tests, lengths)) == pytest.approx(0.8, abs=1e-9)


def test_what_a_rival_gains_on_held_out_texts():
    rng = np.random.default_rng(0)
    held_out, fit, rival = (
        written(ntp_envs.BernoulliPolicy(0.3), 400, 5, rng),
        *map(ntp_envs.BernoulliPolicy, (0.5, 0.2)),
    )
    ones = held_out.tokens.sum(axis=1)
    logs = (ones * math.log(0.2 / 0.5) + (5 - ones) * math.log(0.8 / 0.5)) / 5
    nats, rho, impossible = advise.held_out_gain(held_out, fit, rival)
    error = 1.959964 * logs.std(ddof=1) / 20
    assert nats == pytest.approx((logs.mean(), logs.mean() - error, logs.mean() + error), rel=1e-5)
    assert rho[0] == pytest.approx(np.tanh(5 * logs / 4).mean()) and impossible == 0.0
    never = ntp_envs.BernoulliPolicy(0.0)
    nats, rho, impossible = advise.held_out_gain(held_out, never, rival)
    assert nats[0] == math.inf and impossible == (ones > 0).mean() and rho[0] > impossible - (ones == 0).mean()


# -- the rest of the answers -------------------------------------------------------------------------------------------


def made(values, lower=None, upper=None):
    values = np.asarray(values, dtype=float)
    ends = [values if end is None else np.asarray(end, dtype=float) for end in (lower, upper)]
    return ntp_envs.DistanceCurve("hellinger2", values, *ends, "made", 10, 0.0 * values)


@pytest.mark.parametrize("power", [0.5, 1.0, 2.0])
def test_the_power_of_h_that_a_drift_grows_with(power):
    nats = 0.001 * np.arange(1, 33) ** power
    value, lower, upper = advise.power_of_h(made(2 - 2 * np.exp(-nats), 2 - 2 * np.exp(-nats / 2)))
    assert (value, upper) == pytest.approx((power, power + 0.5))  # four times as far, and half of it: sqrt(2) ** 2
    assert lower == pytest.approx(power - 0.5)
    assert np.isnan(advise.power_of_h(made(0.0 * nats))).all()
    assert np.isnan(advise.power_of_h(made([0.1, 0.2, 0.3]))).all()


def test_the_power_is_taken_where_the_distance_is_not_saturated():
    nats = 0.2 * np.arange(1, 65)
    assert advise.power_of_h(made(2 - 2 * np.exp(-nats)))[0] == pytest.approx(1.0)


def test_factors_over_the_nearest_hold_whenever_the_distances_do():
    rng = np.random.default_rng(0)
    for _ in range(200):
        truths = rng.exponential(size=4) * 10.0 ** rng.integers(-3, 1, size=4)
        lower, upper = truths * rng.uniform(0.0, 1.0, 4), truths * rng.uniform(1.0, 2.0, 4)
        found = advise.over_nearest({str(i): (lower[i], lower[i], upper[i]) for i in range(4)})
        for i in range(4):
            _, low, high = found[str(i)]
            assert 1.0 <= low <= truths[i] / truths.min() * (1 + 1e-12)
            assert truths[i] / truths.min() <= high * (1 + 1e-12)
    assert advise.over_nearest({"a": (0.0, 0.0, 0.1), "b": (0.2, 0.1, 0.3)}) == {
        "a": (1.0, 1.0, math.inf),
        "b": (math.inf, 1.0, math.inf),
    }


def test_chance_is_half_of_the_distance_between_two_fits():
    """Where the class holds the truth and the rival is the truth, all of a fit's distance is chance, in the mean."""
    rng, apart, away = np.random.default_rng(0), [], []

    def exact(p, q):
        return 2 - 2 * (math.sqrt(p * q) + math.sqrt((1 - p) * (1 - q))) ** np.arange(1, 9)

    for _ in range(400):
        one, two = rng.binomial(800, 0.3, size=2) / 800
        apart.append(exact(one, two))
        away.append(exact(one, 0.3))
    assert np.mean(apart, axis=0) / 2 == pytest.approx(np.mean(away, axis=0), rel=0.15)
    half = made(np.full(4, 0.2), np.full(4, 0.1), np.full(4, 0.3))
    found = advise.chance(half, made(np.full(4, 0.5), np.full(4, 0.4), np.full(4, 0.6)))
    wanted = [math.log(1 - a / 2) / math.log(1 - b / 2) / 2 for a, b in ((0.2, 0.5), (0.1, 0.6), (0.3, 0.4))]
    assert found == pytest.approx(tuple(wanted))
    assert advise.chance(half, made(np.full(4, 0.05)))[0] == 1.0


def of_two(gap, error, n=1000.0):
    losses = np.array([[0.0, gap], [-gap, 0.0]])
    return TournamentResult(("log-loss", "other"), 1, 0.0, 1, losses, np.full((2, 2), error), n, "psi")


def test_how_many_demonstrations_tell_two_learners_apart():
    """With so many the lead is clear: errors fall as one over the root, and what is unseen faster."""
    from ntp_envs.intervals import unseen_probability

    needed = advise.demonstrations_to_tell(of_two(0.01, 0.02), "log-loss", "other", 2000)
    more = needed / 2000
    assert 0.02 / math.sqrt(more) + unseen_probability(1000 * more) <= 0.01 < 0.02 / math.sqrt(more / 1.5)
    assert advise.demonstrations_to_tell(of_two(0.1, 0.02), "log-loss", "other", 2000) == 2000
    assert advise.demonstrations_to_tell(of_two(0.0, 0.02), "log-loss", "other", 2000) == math.inf


def test_only_what_the_numbers_speak_for_would_change_the_advice():
    dear = advise.Cost("rho", 900.0, 50.0, 32, "900 s are 9 times the budget")
    costs = (advise.Cost("log-loss", 1.0, 1.0, 500), advise.Cost("other", 1.0, 1.0, 500), dear)

    def said(game, share, p_value, seen=500):
        found = advise.Advice(1000, 8, 2, p_value=p_value, rival="3-gram", costs=costs, chance=share)
        found = dataclasses.replace(found, recommended="log-loss", runner_up="other")
        return " ".join(advise._would_change(found, game, seen, made([0.02])))

    clear, unclear = of_two(-0.2, 0.01), of_two(-0.01, 0.02)
    assert said(clear, (0.04, 0.02, 0.07), 1e-9).startswith(
        "a larger class (of its distance from the 3-gram at most 7%"
    )
    assert "900 s" in said(clear, (0.04, 0.02, 0.07), 1e-9) and "900 s" in said(clear, (0.04, 0.02, 0.07), 1.0)
    assert "larger class" not in said(clear, (0.04, 0.02, 0.07), 1.0)
    assert said(clear, (0.9, 0.7, 1.0), 1e-9).startswith("more demonstrations (log-loss fitted to two samples of 500")
    assert said(clear, (0.9, 0.7, 1.0), 1.0, seen=50) == "a budget of 900 s and 0.05 GB, to try rho"
    assert said(clear, (0.5, 0.05, 1.0), 1e-9) == ""
    assert said(unclear, (0.5, 0.05, 1.0), 1.0).startswith("about 6,000 demonstrations, to tell it from other")


@pytest.mark.parametrize(
    ("power", "said"),
    [
        ((1.0, 0.9, 1.1), "like H"),
        ((0.1, 0.0, 0.2), "more slowly than H"),
        ((2.0, 1.5, 2.5), "faster than H"),
        ((1.0, -3.0, 4.0), "may be"),
        (advise.UNKNOWN, "may be"),
    ],
)
def test_growth_in_words(power, said):
    assert said in advise.growth_words(power)


@pytest.mark.parametrize(
    ("ratio", "said"),
    [
        ((1.0, 1.0, 1.095), "nearer by more than 10 %: the floor"),
        ((1.0, 1.0, 1.0), "nearer by more than 1 %: the floor"),
        ((9.0, 5.0, 15.0), "times the distance of the nearest candidate, rho: amplified"),
        ((1.0, 1.0, 4.0), "no candidate is clearly nearer (the nearest: rho)"),
    ],
)
def test_whether_log_loss_is_at_a_floor(ratio, said):
    near = advise.Prediction("rho", 1.0, "a constant", (0.1, 0.1, 0.1), (1.0, 1.0, 1.0))
    assert said in advise._floor(advise.Advice(99, 8, 2, amplification=ratio, predictions=(near,)))


def test_nats_a_token_of_a_distance_that_grows_steadily():
    h = np.arange(1, 41)
    values = 2.0 * (1.0 - np.exp(-0.1 * h))
    curve = made(values, upper=np.minimum(values * 1.01, 2.0))
    (value, lower, _), at = advise.nats_a_token(curve)
    assert (value, lower) == pytest.approx((0.1, 0.1))
    assert values[at - 1] < 1.98 <= curve.upper[at]


def test_costs_that_grow_as_a_power_are_extrapolated():
    sizes = [32, 128, 512]
    costs = [3.0 * n**1.5 for n in sizes]
    assert advise._extrapolated(sizes, costs, 4096, 3.0) == pytest.approx(3.0 * 4096**1.5)
    assert advise._extrapolated(sizes, costs, 4096, 1.0) == pytest.approx(8 * costs[-1])
    assert advise._extrapolated([32], [2.0], 64, 1.0) == 4.0


@pytest.mark.parametrize(("first", "seen", "predicted"), [(0.9, 512, 0.9), (1.1, 32, 1.1 * 2000 / 32)])
def test_a_search_that_takes_longest_on_few_demonstrations_is_not_taken_to_grow(monkeypatch, first, seen, predicted):
    """What a fit takes is the same at every size; the second is waited for, but not for ever."""
    fitted = SimpleNamespace(policy_=None)
    spent = lambda *args, memory: SimpleNamespace(agent=fitted, seconds=first, megabytes=1.0)  # noqa: E731
    monkeypatch.setattr(advise, "costed_fit", spent)
    data = written(ntp_envs.BernoulliPolicy(0.5), 512, 2, np.random.default_rng(0))
    cost, _ = advise.probe("rho", LogLossBC(), data, ntp_envs.BernoulliClass(), 2000, 1.0)
    assert cost.seen == seen and cost.seconds == pytest.approx(predicted)


@pytest.mark.slow
def test_a_few_steps_say_what_a_training_takes():
    pytest.importorskip("torch")
    from agents.neural import NeuralBC, NeuralRhoBC
    from experiments.measure import costed_fit

    data = written(ntp_envs.BernoulliPolicy(0.4), 100, 12, np.random.default_rng(0))
    agents = {"next": NeuralBC(steps=40), "texts": NeuralRhoBC(steps=15, game_steps=10, rounds=1, tol=1.0)}
    advise.network_costs(data, agents)  # torch wakes up
    for cost, agent in zip(advise.network_costs(data, agents), agents.values()):
        taken = costed_fit(agent, data, advise.small_transformers(data), 0, memory=False).seconds
        assert 0.5 < cost.seconds / taken < 2.0


def test_log_loss_is_recommended_unless_it_is_clearly_beaten():
    assert advise._ranked(of_two(0.05, 0.06)) == ["log-loss", "other"]
    assert advise._ranked(of_two(0.002, 0.0)) == ["log-loss", "other"]  # one event in a thousand may not have been seen
    assert advise._ranked(of_two(0.05, 0.01)) == ["other", "log-loss"]

    losses = np.array([[0.0, 0.3, 0.31], [-0.3, 0.0, 0.01], [-0.31, -0.01, 0.0]])
    three = TournamentResult(("log-loss", "b", "c"), 2, 0.0, 2, losses, np.full((3, 3), 0.02), 1000.0, "psi")
    assert advise._ranked(three) == ["c", "b", "log-loss"]


@pytest.mark.slow
def test_advice_where_the_truth_is_known():
    rng = np.random.default_rng(0)
    task = ntp_envs.make_task("Contamination", horizon=8, eps=0.1)
    found = advise.advise(ntp_envs.collect(task, 400, rng), task.policy_class, budget=4.0, run=True, rng=rng)
    assert found.misspecified and len(found.sentences) == 4
    fit = task.policy_class.policy(0.1)
    assert found.tv_lower[-1] <= ntp_envs.distance(task.expert, fit, task, metric="tv").final
    assert found.recommended.startswith(("smoothed", "rho", "chunked", "ChunkKR"))
    assert found.reached[found.recommended][2] < found.reached["log-loss"][1]
    assert {cost.learner for cost in found.costs} >= {"log-loss", "rho", "chunked rho, K=2", "ChunkKR, K=4"}
    json.dumps(found.to_dict(), allow_nan=False)
    assert [one.learner for one in found.predictions] == [cost.learner for cost in found.costs if not cost.why_not]
    by = {one.learner: one for one in found.predictions}
    assert (by["log-loss"].order, by["rho"].order, by["chunked rho, K=4"].order) == (8.0, 1.0, 2.0)
    assert found.amplification == by["log-loss"].pilot and min(one.pilot[0] for one in found.predictions) == 1.0
    exact = [ntp_envs.distance(task.expert, task.policy_class.policy(t), task).final for t in (0.1, task.p)]
    assert by["log-loss"].pilot[1] > 2.0 and exact[0] > 2.0 * exact[1]  # what the pilot says is so
    assert any("larger class" in one for one in found.would_change) and "amplified" in found.sentences[1]
    assert found.impossible == 0.0 and found.held_out[1] > 0.0 and found.held_out_rho[1] > 0.0

    law = ntp_envs.BernoulliPolicy(0.4)
    well = advise.advise(written(law, 200, 4, rng), ntp_envs.BernoulliClass(), budget=4.0, rng=rng)
    assert not well.misspecified and well.recommended == "log-loss" and "could not have been seen" in well.sentences[0]
    assert not any("larger class" in one for one in well.would_change) and "theory" not in well.sentences[3]


def test_the_same_seed_gives_the_same_answers():
    task = ntp_envs.make_task("RareMode", horizon=8, eps=0.1)
    data = ntp_envs.collect(task, 100, np.random.default_rng(0))
    one, two = (advise.advise(data, task.policy_class, rng=np.random.default_rng(3)) for _ in range(2))
    assert (one.log_e_value, one.tv_lower.tolist(), one.losses) == (two.log_e_value, two.tv_lower.tolist(), two.losses)


EQUAL = ntp_envs.Demonstrations(np.zeros((60, 0), int), np.ones((60, 4), int), vocab_size=2)


def test_demonstrations_that_are_all_equal():
    found = advise.advise(EQUAL, ntp_envs.BernoulliClass(), budget=5.0)
    assert not found.misspecified and found.tv_lower[-1] == 0 and found.recommended == "log-loss"


def test_a_budget_that_nothing_fits():
    found = advise.advise(EQUAL, ntp_envs.BernoulliClass(), budget=5.0, memory=1e6)
    tight = advise.advise(EQUAL, ntp_envs.BernoulliClass(), budget=1e-3)
    assert "raise the budget" in tight.sentences[3] or tight.recommended
    assert all("times the memory" in cost.why_not or cost.megabytes <= 1.0 or cost.why_not for cost in found.costs)


@pytest.mark.parametrize(
    ("data", "asked", "said"),
    [
        (EQUAL.subset(np.arange(49)), {}, "49 demonstrations; at least 50"),
        (EQUAL.subset(np.arange(1)), {}, "1 demonstrations; at least 50"),
        (EQUAL, {"horizon": 5}, "horizon=5 is longer than the demonstrations"),
        (EQUAL, {"horizon": 0}, "horizon=0"),
        (EQUAL, {"budget": 0.0}, "budget=0"),
        (EQUAL, {"memory": 5.0}, "memory=5"),
        (EQUAL, {"policy_class": ntp_envs.PositionalLinearClass(2, 0, 4)}, "no maximum likelihood"),
        (ntp_envs.make_task("Contamination", horizon=4).population(), {}, "independent draws"),
    ],
)
def test_what_cannot_be_advised_on(data, asked, said):
    asked = {"policy_class": ntp_envs.BernoulliClass(), **asked}
    with pytest.raises((ValueError, TypeError), match=said):
        advise.advise(data, asked.pop("policy_class"), **asked)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("wide", "none of ngram"),
        ("ngram(size=3)", r"ngram\(\) got an unexpected keyword argument 'size'.*; ngram\(order=3\), markov"),
        ("ngram()", r"ngram\(\) missing 1 required positional argument: 'order'; ngram\(order=3\), markov"),
        ("ngram(order=0)", "order=0"),
    ],
)
def test_classes_that_there_are_not(text, said):
    with pytest.raises(ValueError, match=said):
        class_of(text, EQUAL)


@pytest.mark.parametrize("text", ["", "10 parsecs", "1.2.3s", "-1s", "GB"])
def test_quantities_that_cannot_be_read(text):
    with pytest.raises(ValueError, match="cannot be read"):
        quantity("budget", text, ("s", "min"))


# -- the command -------------------------------------------------------------------------------------------------------


@pytest.fixture
def story(tmp_path):
    path = tmp_path / "story.txt"
    words, rng = ["the cat", "sat on", "a mat", "and then", "it ran"], np.random.default_rng(0)
    path.write_text(" ".join(words[i] for i in rng.integers(5, size=800)))
    return path


def test_the_command_on_a_text(story, tmp_path, capsys):
    words = ["advise", str(story), "--class", "ngram(order=2)", "--horizon", "8", "--n", "100", "--out", str(tmp_path)]
    assert main(words) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line[:2] for line in lines[:4]] == ["1.", "2.", "3.", "4."]
    assert "misspecified" in lines[0] and "n-gram" in lines[2]
    assert json.loads((tmp_path / "advice.json").read_text())["misspecified"] is True
    page = (tmp_path / "report.html").read_text()
    assert "data:image/svg+xml" in page and "ntp-bench advise" in page and page.count("<table>") == 2
    assert "in the pilot" in page and "summary.csv" not in page


def test_the_command_on_a_task_and_on_demonstrations(tmp_path, capsys):
    assert main(["advise", "Documents(horizon=8)", "--n", "100", "--budget", "5s"]) == 0
    assert "The task knows its expert" in capsys.readouterr().out
    path = EQUAL.save(tmp_path / "demos.npz")
    assert main(["advise", str(path), "--class", "markov(order=1)", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["p_value"] == 1.0
    assert main(["advise", str(path)]) == 2
    assert "--class is missing" in capsys.readouterr().err
    for missing in ("nowhere.txt", str(tmp_path / "nowhere")):
        assert main(["advise", missing, "--class", "markov(order=1)"]) == 2
        assert f"{missing} is not there: DATA is" in capsys.readouterr().err


def test_the_command_on_log_probabilities(tmp_path, capsys):
    rng = np.random.default_rng(0)
    p, q = ntp_envs.BernoulliPolicy(0.3), ntp_envs.BernoulliPolicy(0.4)
    arrays = {}
    for name, writer in (("p", p), ("q", q)):
        texts = written(writer, 200, 6, rng)
        for model, policy in (("p", p), ("q", q)):
            arrays[f"{model}_on_{name}"] = policy.log_probs(texts.prompts, texts.tokens)
    np.savez(tmp_path / "both.npz", **arrays)
    for name in "pq":
        part = {key: value for key, value in arrays.items() if key.endswith(name)}
        rows = [
            {"written_by": name, "log_p": a.tolist(), "log_q": b.tolist()}
            for a, b in zip(part[f"p_on_{name}"], part[f"q_on_{name}"])
        ]
        (tmp_path / f"{name}.jsonl").write_text("\n".join(map(json.dumps, rows)))
    assert main(["advise", str(tmp_path / "both.npz")]) == 0
    one = capsys.readouterr().out
    assert main(["advise", str(tmp_path / "p.jsonl"), str(tmp_path / "q.jsonl")]) == 0
    assert capsys.readouterr().out == one
    assert "1. Q is not P" in one
    assert main(["advise", str(tmp_path / "both.npz"), "--out", str(tmp_path / "out")]) == 0
    page = (tmp_path / "out" / "report.html").read_text()
    assert "of Q from P" in page and "data:image/svg+xml" in page and "<table>" not in page

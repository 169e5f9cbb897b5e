"""The study phase: its maps against binomial sums at thetas in closed form, its n axis against convolutions."""

import experiments_toy as toy
import numpy as np
import pytest
from scipy.special import gammaln

from agents import LogLossBC
from experiments.studies import load_study
from experiments.studies.phase import MEAN, MEDIAN, flip_law, log_loss_of_samples, place, smoothing_holds
from experiments.testing import check_study
from ntp_envs import BernoulliPolicy, approximation_factor, collect
from ntp_envs.tasks import Contamination

P = 1e-5
RNG = np.random.default_rng(0)


def hellinger2(theta, H, eps):
    k = np.arange(H + 1)
    many = np.exp(gammaln(H + 1) - gammaln(k + 1) - gammaln(H - k + 1))
    one, two, mine = (np.exp(k * np.log(t) + (H - k) * np.log1p(-t)) for t in (P, 1 - P, theta))
    return many @ (np.sqrt((1 - eps) * one + eps * two) - np.sqrt(mine)) ** 2


@pytest.mark.parametrize(
    ("eps", "log_loss", "smoothed"),
    [(1e-5, 44.9, 1.0), (1e-4, 137.9, 1.0), (1e-3, 200.0, 1.0), (1e-2, 140.2, 124.1), (1e-1, 19.5, 19.5)],
)
def test_smoothing_holds_up_to_a_contamination_of_half_a_token_a_document(eps, log_loss, smoothed):
    H, mean = 256, (1 - eps) * P + eps * (1 - P)
    smoothed_theta = max((mean - 1 / (2 * H)) / (1 - 1 / H), P)
    least = min(hellinger2(theta, H, eps) for theta in (P, *np.geomspace(P, 1 - P, 400)))
    assert smoothing_holds(H, eps) == (smoothed_theta == P) == (eps < 1 / (2 * H))
    for learner, theta, said in (("log-loss", mean, log_loss), ("smoothed 1/H", smoothed_theta, smoothed)):
        wanted = hellinger2(theta, H, eps) / least
        assert wanted == pytest.approx(said, abs=0.05)
        (factor,) = [r.value for r in place(H=H, eps=eps, learner=learner, rng=RNG) if r.metric == "C_apx"]
        assert factor == pytest.approx(wanted, rel=1e-6)


def test_the_law_of_flips_and_the_factors_over_it():
    H, eps, n = 3, 0.2, 4
    task = Contamination(horizon=H, eps=eps)
    one = flip_law(task, 1)
    assert one.sum() == pytest.approx(1) and one[:2] @ [1, 0] == pytest.approx((1 - eps) * (1 - P) ** H, rel=1e-6)
    law = np.array([1.0])
    for _ in range(n):
        law = np.convolve(law, one)
    np.testing.assert_allclose(flip_law(task, n), law, atol=1e-12)
    policies = [BernoulliPolicy(min(max(k / (n * H), P), 1 - P), on="flips") for k in range(n * H + 1)]
    factors = np.array([approximation_factor(task, policy) for policy in policies])
    found = {r.metric: r.value for r in log_loss_of_samples(H=H, eps=eps, n=n, rng=RNG)}
    assert found[MEAN] == pytest.approx(law @ factors, rel=1e-9)
    below, at_most = law @ (factors < found[MEDIAN] - 1e-9), law @ (factors <= found[MEDIAN] + 1e-9)
    assert below < 0.5 <= at_most
    demos = collect(task, n, np.random.default_rng(1))
    flips = np.diff(np.concatenate([demos.prompts, demos.tokens], axis=1), axis=1) != 0
    fitted = LogLossBC().fit(demos, task.policy_class).policy_
    assert approximation_factor(task, fitted) == pytest.approx(factors[flips.sum()], rel=1e-6)


def test_the_median_sees_the_misspecification_when_one_document_in_expectation_is_contaminated():
    found = {
        n: {r.metric: r.value for r in log_loss_of_samples(H=64, eps=1e-3, n=n, rng=RNG)} for n in (100, 500, 1000)
    }
    assert found[100][MEDIAN] == pytest.approx(1) and found[500][MEDIAN] < 2 < 40 < found[1000][MEDIAN]
    assert all(numbers[MEAN] > 40 for numbers in found.values())


@pytest.mark.slow
def test_the_small_study_says_where_it_is_safe():
    outcome = check_study(load_study("phase"), toy.small_options("phase"))
    *_, smoothed, few, many = outcome.analysis.findings
    assert "without exception" in smoothed and "1 in the median" in few and "n=2,000" in many

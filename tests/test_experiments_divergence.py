"""The study divergence: its numbers from binomial sums and closed forms, which know nothing of the suite."""

import math

import experiments_toy as toy
import numpy as np
import pytest
from scipy.special import gammaln, xlogy

from experiments.measure import BEST
from experiments.studies import load_study
from experiments.studies.divergence import CONTAMINATION, RARE, divergences
from experiments.testing import check_study
from ntp_envs import BernoulliPolicy, CallablePolicy, distance
from ntp_envs.tasks import BernoulliMixture

EPS, P = 1e-3, 1e-5
Q = 1 - P
LOG_LOSS = (1 - EPS) * P + EPS * Q  # the mean flip rate


def found(task, learner, H, thresholds=(2.0,)):
    records = divergences(task=task, learner=learner, H=H, thresholds=list(thresholds), rng=np.random.default_rng(0))
    return {(r.metric, r.labels["N"]) if r.metric == "coverage" else r.metric: r.value for r in records}


def paths(theta, H):
    """Log-probability of one document with k flips, k = 0..H; a column for each theta."""
    k = np.arange(H + 1)
    return np.stack([xlogy(k, one) + xlogy(H - k, 1 - one) for one in np.atleast_1d(theta)], axis=1)


def expert(H):
    return np.logaddexp(np.log(1 - EPS) + paths(P, H)[:, 0], np.log(EPS) + paths(Q, H)[:, 0])


def documents(H):
    """How many documents have k flips."""
    k = np.arange(H + 1)
    return np.exp(gammaln(H + 1) - gammaln(k + 1) - gammaln(H - k + 1))


def summed(theta, H, N=2.0):
    """D_H^2, TV, KL and Cov_N of Bernoulli(theta) flips, summed over the number of flips."""
    p, q, many = expert(H), paths(theta, H)[:, 0], documents(H)
    return (
        many @ (np.exp(p / 2) - np.exp(q / 2)) ** 2,
        many @ np.abs(np.exp(p) - np.exp(q)) / 2,
        many @ (np.exp(p) * (p - q)),
        many @ (np.exp(p) * (p - q >= math.log(N))),
    )


def rho_theta(H):
    """The rho game played out on a grid of thetas."""
    thetas = np.geomspace(P, 0.05, 1000)
    logs, weights = paths(thetas, H), documents(H) * np.exp(expert(H))
    seen = weights > 1e-12
    gaps = (logs[seen][:, None, :] - logs[seen][:, :, None]) / 2  # (k, mine, rival's)
    return thetas[np.tensordot(weights[seen], np.tanh(gaps), axes=1).max(axis=1).argmin()]


@pytest.mark.parametrize(
    ("H", "factor", "kl", "rho_kl", "best_kl"),
    [(16, 14.058, 0.118, 0.130, 0.176), (64, 52.721, 0.495, 0.597, 0.729), (256, 199.992, 2.002, 2.612, 2.939)],
)
@pytest.mark.slow
def test_on_contamination_log_loss_is_farthest_in_hellinger_and_nearest_in_kl(H, factor, kl, rho_kl, best_kl):
    grid = [summed(theta, H) for theta in np.geomspace(P, 0.4, 300)]
    least = np.min(grid, axis=0)
    best, log_loss, rho = summed(P, H), summed(LOG_LOSS, H), summed(rho_theta(H), H)
    assert best[:2] == pytest.approx(least[:2], rel=1e-9) and log_loss[2] <= least[2]  # so the factors are right
    assert log_loss[0] / best[0] == pytest.approx(factor, abs=5e-4)  # to the digits in which they are published here
    assert (log_loss[2], best[2]) == pytest.approx((kl, best_kl), abs=5e-4)
    assert rho[2] == pytest.approx(rho_kl, rel=0.01) and 3 < rho[0] / best[0] < 3.3
    for learner, wanted, digits in (("log-loss", log_loss, 1e-7), (BEST, best, 1e-7), ("rho", rho, 0.02)):
        measured = found(CONTAMINATION, learner, H)
        assert [measured[m] for m in ("hellinger2", "tv", "kl")] == pytest.approx(wanted[:3], rel=digits)
        assert measured["coverage", 2.0] == pytest.approx(wanted[3], rel=1e-7)
        assert measured["KL over the least in class"] == pytest.approx(wanted[2] / log_loss[2], rel=digits)
        assert measured["C_apx"] == pytest.approx(wanted[0] / best[0], rel=digits)
        assert measured["TV over the least in class"] == pytest.approx(wanted[1] / best[1], rel=digits)


def test_on_raremode_log_loss_covers_all_and_rho_is_near():
    H, eps, W, thresholds = 64, 0.01, 10.0, (2.0, 1e3, 1e6)
    log_loss, rho = (found(RARE, learner, H, thresholds) for learner in ("log-loss", "rho"))
    half = 2 * (1 - math.sqrt(eps / 2) - math.sqrt((1 - eps) / 2))  # the worse policy opens the rare mode half the time
    nats = math.log(2) + eps * math.log(eps) + (1 - eps) * math.log1p(-eps)
    assert [log_loss[m] for m in ("hellinger2", "tv", "kl")] == pytest.approx([half, 0.5 - eps, nats])
    assert [rho[m] for m in ("hellinger2", "tv", "kl")] == pytest.approx(
        [2 * eps * (1 - W ** (-(H - 1) / 2)), eps * (1 - W ** (1 - H)), eps * (H - 1) * math.log(W)]
    )
    assert [round(half, 4), round(rho["hellinger2"], 4)] == [0.4515, 0.02]
    assert [log_loss["coverage", N] for N in thresholds] == [0.0] * 3  # the likeliest is 1.98 times likelier
    assert [rho["coverage", N] for N in thresholds] == pytest.approx([eps] * 3)
    assert log_loss["C_apx"] == pytest.approx(22.5727, abs=5e-5) and log_loss["KL over the least in class"] == 1.0


def test_token_wise_tv_prefers_the_law_whose_sequences_are_farther():
    """Off by e at each token, or by T e / 2 at the first: T e against T e / 2 by tokens, and the other way as texts."""
    e = 1e-6
    for T in (100, 400, 1600):
        every = BernoulliMixture(horizon=T, q=0.5).distance_to(0.5 + e, "tv")
        deviation = T * math.comb(T, T // 2) / 2**T  # E|2k - T| of T fair flips, T even
        assert every == pytest.approx(e * deviation, rel=1e-5)  # to first order in e
        assert T * e / 2 / every == pytest.approx(math.sqrt(math.pi * T / 8), rel=0.3 / T)

    def first_off(_, tokens):
        return np.log(np.tile([0.3, 0.7] if not tokens.shape[1] else [0.5, 0.5], (len(tokens), 1)))

    task = BernoulliMixture(horizon=6, q=0.5)
    off = distance(BernoulliPolicy(0.5), CallablePolicy(first_off, vocab_size=2), task, metric="tv")
    np.testing.assert_allclose(off.values, 0.2)  # the first token's error is the text's


@pytest.mark.slow
def test_the_small_study_says_who_is_near_in_what():
    outcome = check_study(load_study("divergence"), toy.small_options("divergence"))
    first, *_, near = outcome.analysis.findings
    assert "Least in KL: log-loss" in first and near.endswith("0.01 at N=2, 0.01 at N=1000, 0.01 at N=1e+06.")

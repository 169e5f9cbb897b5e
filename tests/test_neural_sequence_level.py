"""Sequence-level learners for networks, against numpy, brute force and what misspecification does to log-loss."""

import warnings
from dataclasses import replace
from functools import partial

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from agents import Agent, ConvergenceWarning  # noqa: E402
from agents.neural import NetworkClass, NeuralBC, NeuralClippedRatioBC, NeuralJSDPlusTVBC, NeuralRhoBC  # noqa: E402
from agents.neural.sequence_level import (  # noqa: E402
    SHARPNESS,
    SequenceObjective,
    clipped_ratio_loss,
    jsd_plus_tv_loss,
    reply_loss,
    trimmed_log_loss,
    worst_reply_loss,
)
from agents.objectives import ClippedRatioLoss, JSDPlusTVLoss  # noqa: E402
from agents.rho_game import rho_tau  # noqa: E402
from agents.testing import Problem, check_agent  # noqa: E402
from ntp_envs import Demonstrations, MarkovPolicy, MixturePolicy, UniformPolicy, collect, make_task  # noqa: E402

HORIZON, SIZE = 24, 5


def spec(**changes):
    options = {"prompt_length": 1, "horizon": HORIZON, "width": SIZE, "window": 1, **changes}
    return NetworkClass("linear", SIZE, **options)


def chain():
    """A Markov chain that gives most pairs of tokens next to no probability: what a uniform document is full of."""
    table = np.full((SIZE + 1, SIZE), 1e-4)
    table[np.arange(SIZE + 1), (np.arange(SIZE + 1) + 1) % SIZE] = 0.8
    table[np.arange(SIZE + 1), (np.arange(SIZE + 1) + 2) % SIZE] = 0.2
    return MarkovPolicy(table / table.sum(axis=1, keepdims=True), order=1)


EPS = 0.03


def expert():
    """Documents of the chain, a share ``EPS`` of them uniform noise."""
    return MixturePolicy([chain(), UniformPolicy(SIZE)], [1 - EPS, EPS])


def contaminated(n, seed):
    """Demonstrations with the expert's log-probabilities."""
    rng = np.random.default_rng(seed)
    prompts = rng.integers(SIZE, size=(n, 1))
    tokens = expert().sample(prompts, HORIZON, rng)
    return Demonstrations(prompts, tokens, SIZE, expert_log_probs=expert().log_probs(prompts, tokens))


def hellinger2(policy):
    """``E 2 (1 - sech(l / 2))`` over sequences of both laws alike, with its standard error: written out here."""
    demos = contaminated(3000, seed=99)
    mixture = expert()
    written = policy.sample(demos.prompts, HORIZON, np.random.default_rng(98))
    values = []
    for tokens in (demos.tokens, written):
        log_ratio = (mixture.log_probs(demos.prompts, tokens) - policy.log_probs(demos.prompts, tokens)).sum(1)
        values.append(2 * (1 - 1 / np.cosh(0.5 * log_ratio)))
    return np.mean(values), np.std(np.mean(values, axis=0)) / np.sqrt(len(demos))


# -- the objectives ----------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def numbers():
    rng = np.random.default_rng(0)
    units, reference = -rng.exponential(3.0, size=(7, 4)), -rng.exponential(3.0, size=(7, 4, 3))
    weights = rng.dirichlet(np.ones(7))
    return units, reference, weights


def as_tensors(*arrays):
    return [torch.from_numpy(np.asarray(array)) for array in arrays]


@pytest.mark.parametrize(("tau", "scale"), [("ratio", 0.5), ("psi", 0.25)])
def test_pay_offs_are_those_of_the_rho_game(numbers, tau, scale):
    units, reference, weights = numbers
    u, r, w = as_tensors(units, reference, weights)
    payoffs = np.array([(weights @ rho_tau(units, reference[:, :, j], tau)).sum() for j in range(3)])
    assert float(reply_loss(u, w, r, scale=scale)) == pytest.approx(payoffs[0], rel=1e-12)
    worst = float(worst_reply_loss(u, w, r, scale=scale))
    assert payoffs.max() <= worst <= payoffs.max() + np.log(3) / SHARPNESS


def test_the_clipped_ratio_is_that_of_the_exact_learner():
    demos = contaminated(20, seed=1)
    network = spec().initialised(torch.Generator().manual_seed(0)).double()
    policy = spec().policy(network.float())
    for chunk, beta in ((1, 1.0), (8, 0.5), (HORIZON, 0.3)):
        ours = ClippedRatioLoss(demos, beta, chunk).losses(policy.log_probs(demos.prompts, demos.tokens))
        objective = SequenceObjective(network.double(), chunk, partial(clipped_ratio_loss, beta=beta))
        starts = [positions.start for positions in demos.chunks(chunk)]
        reference = np.add.reduceat(demos.expert_log_probs, starts, axis=1)[:, :, None]
        loss, reported = objective(*as_tensors(demos.prompts, demos.tokens), None, *as_tensors(reference))
        assert float(reported) == pytest.approx(ours.sum(axis=1).mean(), rel=1e-6)
        assert loss.requires_grad


def test_jsd_plus_tv_is_that_of_the_exact_learner_and_has_its_slopes(numbers):
    demos = contaminated(7, seed=1)
    exact = JSDPlusTVLoss(demos, 0.7, 6)
    units, reference, weights = (array.copy() for array in numbers)
    units[0, 0], units[1, 1] = -800.0, reference[1, 1, 0]  # far below, and at the kink
    u, r, w = as_tensors(units, reference, weights)
    u.requires_grad_()
    loss = jsd_plus_tv_loss(u, w, r, weight=0.7)
    log_ratios = units - reference[:, :, 0]
    assert float(loss.detach()) == pytest.approx(weights @ exact.of_ratios(log_ratios).sum(1), rel=1e-12)
    loss.backward()
    slopes = -u.grad.numpy() / weights[:, None]
    assert np.isfinite(slopes).all()
    away = log_ratios != 0.0
    np.testing.assert_allclose(slopes[away], exact.slopes_of_ratios(log_ratios)[away], atol=1e-12)


def test_trimming_leaves_out_the_least_likely_share():
    loss = partial(trimmed_log_loss, alpha=0.25, tokens=HORIZON)
    log_probs = np.array([-3.0, -100.0, -1.0, -2.0])[:, None]
    equal = float(loss(*as_tensors(log_probs, np.full(4, 0.25)), None))
    assert equal == pytest.approx(2.0 / HORIZON)
    uneven = float(loss(*as_tensors(log_probs, np.array([0.4, 0.1, 0.3, 0.2])), None))
    assert uneven == pytest.approx((0.25 * 3 + 0.3 * 1 + 0.2 * 2) / 0.75 / HORIZON)  # .1 of it and .15 of the next


# -- what they are for -------------------------------------------------------------------------------------------------


class Seen(NeuralRhoBC):
    """Keeps what the last finite game was played on."""

    def _solved(self, player, densities):
        self.game_ = np.stack([d.sum(1) for d in densities], 1), player.data.normalised_weights()
        return super()._solved(player, densities)


@pytest.fixture(scope="module")
def fitted():
    demos = contaminated(1500, seed=0)
    rng = lambda: np.random.default_rng(0)  # noqa: E731
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        agents = [
            NeuralBC(steps=200, learning_rate=1e-2).fit(demos, spec(), rng=rng()),
            Seen(rounds=2, steps=200, game_steps=80).fit(demos, spec(), rng=rng()),
            NeuralClippedRatioBC(steps=200, ratio_steps=80).fit(demos, spec(), rng=rng()),
            NeuralJSDPlusTVBC(steps=200, ratio_steps=80).fit(demos, spec(), rng=rng()),
        ]
    return agents


def test_all_come_nearer_to_a_contaminated_expert_than_log_loss(fitted):
    log_loss, *others = fitted
    far, error = hellinger2(log_loss.policy_)
    for agent in others:
        near, other = hellinger2(agent.policy_)
        assert near + 4 * other < far / 2 - 4 * error, f"{agent}: {near:.3f} against log-loss {far:.3f}"


def test_the_returned_policy_has_the_smallest_worst_case_of_the_pool(fitted):
    _, rho, *_ = fitted
    details = rho.fit_report_.details
    assert details["pool"][:3] == ["log-loss", "trimmed 0.05", "trimmed 0.2"] and len(details["pool"]) == 7
    log_densities, weights = rho.game_
    members = range(log_densities.shape[1])
    game = np.array(
        [[weights @ rho_tau(log_densities[:, j], log_densities[:, k], "ratio") for k in members] for j in members]
    )
    worst = game.max(axis=1)
    assert rho.fit_report_.objective == pytest.approx(worst.min(), abs=1e-9)
    assert details["pool"][int(worst.argmin())] == details["winner"]
    assert worst[0] > worst.min() + 0.1  # log-loss is beaten


def test_chunks_of_one_token_give_log_loss_nothing_to_gain():
    """At K=1 over (nearly) all next-token laws the rho game is won by the maximum likelihood."""
    demos = contaminated(300, seed=3)
    agent = NeuralRhoBC(chunk=1, rounds=1, trims=(), steps=300, game_steps=60, batch_size=None, tol=10.0)
    agent.fit(demos, spec(), rng=np.random.default_rng(0))
    assert agent.fit_report_.details["reply_gap"] < 0.02  # of at most 24


# -- how they train ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", [NeuralRhoBC, NeuralClippedRatioBC])
def test_an_interrupted_fit_goes_on_to_the_same_bits(tmp_path, kind):
    demos = contaminated(100, seed=2)
    own = {"rounds": 1, "game_steps": 15} if kind is NeuralRhoBC else {"ratio_steps": 15}
    options = {"steps": 15, "batch_size": 32, "trims": (0.1,), "checkpoint_every": 4, **own}
    ignore = {"tol": 10.0} if kind is NeuralRhoBC else {}
    whole = kind(**options, **ignore).fit(demos, spec(), rng=np.random.default_rng(5))

    class Stop(Exception):
        pass

    calls = []

    def stopping(step, loss, speed):
        calls.append(step)
        if len(calls) == 37:  # in the third stage
            raise Stop

    with pytest.raises(Stop):
        kind(**options, **ignore, checkpoint=tmp_path, progress=stopping).fit(
            demos, spec(), rng=np.random.default_rng(5)
        )
    made = []
    resumed = kind(**options, **ignore, checkpoint=tmp_path, progress=lambda *state: made.append(state))
    resumed.fit(demos, spec(), rng=np.random.default_rng(5))
    assert len(made) < 15 * 4 - 30
    for name, weight in whole.policy_.state.items():
        assert torch.equal(weight, resumed.policy_.state[name])
    with pytest.raises(ValueError, match="other settings"):
        kind(**options, **ignore, checkpoint=tmp_path).fit(demos, spec(), rng=np.random.default_rng(6))


@pytest.mark.parametrize(
    "agent",
    [
        NeuralRhoBC(rounds=1, steps=20, game_steps=10, batch_size=16, tol=10.0),
        NeuralRhoBC("psi", chunk=2, rounds=1, trims=(), steps=20, game_steps=10, batch_size=None, tol=10.0),
        NeuralClippedRatioBC(steps=20, ratio_steps=10, batch_size=16),
        NeuralJSDPlusTVBC(steps=20, ratio_steps=10, batch_size=16),
    ],
    ids=repr,
)
def test_they_are_agents(agent, monkeypatch):
    monkeypatch.delattr(Agent, "_pickled")  # weights are kept as arrays
    demos = contaminated(40, seed=0)
    short = replace(demos, tokens=demos.tokens[:, :6], expert_log_probs=demos.expert_log_probs[:, :6])
    problems = [
        Problem("linear network", spec(horizon=6), short),
        Problem("small transformer", _transformer(), short),
    ]
    check_agent(agent, problems=problems, skip=("weights",) if agent.batch_size else ())


def _transformer():
    return NetworkClass("transformer", SIZE, prompt_length=1, horizon=6, width=4, layers=1, heads=1)


def test_a_reply_that_gains_too_much_is_warned_about():
    demos = collect(make_task("Contamination", horizon=8, eps=0.1, p=0.05, q=0.95), 300, np.random.default_rng(0))
    network = NetworkClass("linear", 2, prompt_length=1, horizon=8, width=2, window=1)
    agent = NeuralRhoBC(rounds=1, trims=(), steps=3, game_steps=200, tol=1e-6)  # log-loss is far from trained
    with pytest.warns(ConvergenceWarning, match="best reply trained"):
        agent.fit(demos, network)
    assert not agent.fit_report_.converged

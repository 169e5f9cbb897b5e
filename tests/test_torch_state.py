"""Fits and evaluations read none of the caller's torch settings and leave them as they were; bfloat16 on request."""

import itertools
import pickle
import warnings
from contextlib import contextmanager

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from torch.nn.attention import SDPBackend, sdpa_kernel  # noqa: E402

from agents import ConvergenceWarning  # noqa: E402
from agents.neural import ModulePolicy, NetworkClass, NeuralBC, NeuralClippedRatioBC, NeuralRhoBC  # noqa: E402
from ntp_envs import Demonstrations, collect, distance, make_task  # noqa: E402

TASK = make_task("Contamination", horizon=6, eps=0.05, p=0.1, q=0.9)
DEMOS = collect(TASK, 40, np.random.default_rng(0), expert_log_probs=True)


@contextmanager
def setting(get, put, value):
    before = get()
    put(value)
    try:
        yield
    finally:
        put(before)


@contextmanager
def warm_autocast():
    """Autocast, with casts of weights in its cache."""
    with torch.autocast("cpu"):
        layer = torch.nn.Linear(4, 4)
        layer(torch.ones(2, 4))
        yield


def flushed():
    return setting(lambda: False, torch.set_flush_denormal, True)


STATES = {
    "autocast": warm_autocast,
    "no_grad": torch.no_grad,
    "inference_mode": torch.inference_mode,
    "set_grad_enabled": lambda: torch.set_grad_enabled(False),
    "float64": lambda: setting(torch.get_default_dtype, torch.set_default_dtype, torch.float64),
    "bfloat16": lambda: setting(torch.get_default_dtype, torch.set_default_dtype, torch.bfloat16),
    "default device": lambda: setting(lambda: "cpu", torch.set_default_device, "meta"),
    "device context": lambda: torch.device("meta"),
    "deterministic": lambda: setting(
        torch.are_deterministic_algorithms_enabled, torch.use_deterministic_algorithms, True
    ),
    "matmul precision": lambda: setting(
        torch.get_float32_matmul_precision, torch.set_float32_matmul_precision, "medium"
    ),
    "no mkldnn": lambda: torch.backends.mkldnn.flags(enabled=False),
    "attention by hand": lambda: sdpa_kernel(SDPBackend.MATH),
    "flushed subnormals": flushed,
    "threads": lambda: setting(torch.get_num_threads, torch.set_num_threads, 3),
    "seed": lambda: setting(torch.random.get_rng_state, torch.random.set_rng_state, torch.Generator().get_state()),
}


def snapshot():
    """What a caller would notice."""
    probe = torch.empty(0)
    return {
        "autocast": torch.is_autocast_enabled("cpu"),
        "cache": torch.is_autocast_cache_enabled(),
        "grad": torch.is_grad_enabled(),
        "inference": torch.is_inference_mode_enabled(),
        "default": (probe.dtype, probe.device),
        "deterministic": torch.are_deterministic_algorithms_enabled(),
        "precision": torch.get_float32_matmul_precision(),
        "mkldnn": torch.backends.mkldnn.enabled,
        "attention": (torch.backends.cuda.flash_sdp_enabled(), torch.backends.cuda.math_sdp_enabled()),
        "flushed": float(np.float64(5e-324) * 1.0) == 0.0,
        "threads": torch.get_num_threads(),
        "generator": torch.random.get_rng_state().numpy().tobytes(),
        "numpy": np.random.get_state()[1].tobytes(),  # noqa: NPY002
    }


def transformer():
    return NetworkClass.for_task("transformer", TASK, width=8, heads=2, layers=1, dropout=0.1)


def linear():
    return NetworkClass.for_task("linear", TASK, width=2, window=1)


def fitted(agent, network):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        return agent.fit(DEMOS, network, rng=np.random.default_rng(0))


def bits(agent):
    weights = {name: (value.dtype, value.numpy().tobytes()) for name, value in agent.policy_.state.items()}
    law = agent.policy_.forced_log_probs(DEMOS.prompts, DEMOS.tokens)
    drawn = agent.policy_.sample(DEMOS.prompts, 6, np.random.default_rng(1))
    assert not any(value.is_inference() or value.requires_grad for value in agent.policy_.state.values())
    return weights, agent.fit_report_.objective, law.tobytes(), drawn.tobytes()


#: each computes something in full and returns it as values whose equality is that of bits
WORK = {
    "mlp, several heads": lambda: bits(
        fitted(NeuralBC("mtp_k", steps=3, batch_size=16), NetworkClass.for_task("mlp", TASK, width=8))
    ),
    "transformer": lambda: bits(fitted(NeuralBC(steps=3, batch_size=16), transformer())),
    "online": lambda: bits(fitted(NeuralBC(steps=3, batch_size=16, task=TASK), transformer())),
    "bf16": lambda: bits(fitted(NeuralBC(steps=3, batch_size=16, precision="bf16"), transformer())),
    "rho": lambda: bits(fitted(NeuralRhoBC(rounds=1, trims=(0.1,), steps=3, game_steps=2), linear())),
    "clipped": lambda: bits(fitted(NeuralClippedRatioBC(trims=(), steps=3, ratio_steps=2), linear())),
}


@pytest.fixture(scope="module")
def untouched():
    return {name: work() for name, work in WORK.items()}


@pytest.mark.parametrize("work", WORK)
@pytest.mark.parametrize("state", STATES)
def test_a_fit_reads_none_of_the_callers_settings(untouched, state, work):
    with STATES[state]():
        before = snapshot()
        found = WORK[work]()
        assert snapshot() == before
    assert found == untouched[work]


@pytest.fixture(scope="module")
def trained():
    """A policy of ours, one on a module of the reader's (with dropout, which evaluation turns off), and their bytes."""
    ours = fitted(NeuralBC(steps=3), transformer()).policy_
    torch.manual_seed(0)
    gpt = torch.nn.Sequential(
        torch.nn.Embedding(2, 8), torch.nn.Linear(8, 8), torch.nn.Dropout(), torch.nn.Linear(8, 2)
    )
    policies = {"ours": ours, "module": ModulePolicy(gpt, 2, prompt_length=1)}
    return {name: (policy, pickle.dumps(policy), evaluated(policy)) for name, policy in policies.items()}


def evaluated(policy):
    forced = policy.forced_log_probs(DEMOS.prompts, DEMOS.tokens)
    once = policy.next_log_probs(DEMOS.prompts, DEMOS.tokens[:, :2])
    steps = policy.sample(DEMOS.prompts, 6, np.random.default_rng(0))
    return forced.tobytes(), once.tobytes(), policy.log_probs(DEMOS.prompts, DEMOS.tokens).tobytes(), steps.tobytes()


@pytest.mark.parametrize("name", ["ours", "module"])
@pytest.mark.parametrize("state", STATES)
def test_an_evaluation_reads_none_of_the_callers_settings(trained, state, name):
    policy, saved, usual = trained[name]
    with STATES[state]():
        before = snapshot()
        assert evaluated(policy) == usual
        if state not in ("default device", "device context"):  # torch itself then reads a pickled module to nowhere
            assert evaluated(pickle.loads(saved)) == usual
        assert snapshot() == before


@pytest.mark.parametrize("state", [name for name in STATES if "device" not in name])  # stable-baselines3 fails on meta
def test_reinforcement_learners_neither(state):
    pytest.importorskip("stable_baselines3")
    from agents.rl import SB3Agent

    def law():
        agent = SB3Agent("A2C", TASK, reward="expert_log_prob", total_timesteps=48, n_envs=4)
        policy = agent.fit(TASK.population(), TASK.policy_class).policy_
        again = pickle.loads(pickle.dumps(policy)).forced_log_probs(DEMOS.prompts, DEMOS.tokens)
        return policy.forced_log_probs(DEMOS.prompts, DEMOS.tokens).tobytes(), again.tobytes()

    usual = law()
    with STATES[state]():
        before = snapshot()
        assert law() == usual
        assert snapshot() == before


def test_what_was_set_stays_set_when_a_fit_fails():
    def broken(step, policy):
        raise KeyError("mine")

    for state in STATES.values():
        with state():
            before = snapshot()
            with pytest.raises(KeyError, match="mine"):
                fitted(NeuralBC(steps=3, on_step=broken), linear())
            assert snapshot() == before


# -- bfloat16 ----------------------------------------------------------------------------------------------------------

DEVICES = ["cpu", pytest.param("cuda", marks=pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU"))]


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("mode", ["tf", "mtp_k"])
@pytest.mark.parametrize("architecture", ["linear", "mlp", "transformer"])
def test_bfloat16_trains_the_same_policy_within_the_stated_distance(architecture, mode, device):
    task = make_task("Contamination", horizon=5, eps=0.2, p=0.1, q=0.9)
    answers = np.array(list(itertools.product((0, 1), repeat=5)))
    prompts, tokens = np.repeat([[0], [1]], 32, axis=0), np.tile(answers, (2, 1))
    weights = np.exp(task.expert.log_probs(prompts, tokens).sum(axis=1))  # the law itself: training can converge
    demos = Demonstrations(prompts, tokens, vocab_size=2, weights=weights)
    network = NetworkClass.for_task(architecture, task, width=16)
    full, half = (
        NeuralBC(mode, steps=300, learning_rate=1e-2, device=device, precision=precision).fit(demos, network)
        for precision in ("float32", "bf16")
    )
    differ = [not torch.equal(value, half.policy_.state[name]) for name, value in full.policy_.state.items()]
    assert any(differ) and all(value.dtype == torch.float32 for value in half.policy_.state.values())
    assert half.fit_report_.objective == pytest.approx(full.fit_report_.objective, rel=0.01)
    assert distance(full.policy_, half.policy_, task).final < 0.01
    shown = np.array(half.fit_report_.details["loss_curve"])[-10:, 1]  # by the network; the objective is by the policy
    assert shown.mean() == pytest.approx(half.fit_report_.objective, rel=0.002)


@pytest.mark.parametrize("kind", [NeuralRhoBC, NeuralClippedRatioBC])
def test_bfloat16_on_whole_sequences(kind):
    full, half = (fitted(kind(steps=60, precision=precision), linear()) for precision in ("float32", "bf16"))
    assert half.fit_report_.objective == pytest.approx(full.fit_report_.objective, abs=0.01)
    assert distance(full.policy_, half.policy_, TASK).final < 0.01

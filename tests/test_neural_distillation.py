"""Distillation of networks: the loss is the divergence of laws, and the fixed point that of the exact projection."""
# ruff: noqa: E402

import warnings

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from agents import ConvergenceWarning, OnPolicyDistillation
from agents.fit_class import law_parts
from agents.neural import CheckpointError, NetworkClass, NeuralDistillation
from agents.neural.distillation import LawObjective
from ntp_envs import EndedPolicy, MarkovClass, collect, ended_class, make_task
from ntp_envs.arrays import written

TASK = make_task("Contamination", horizon=5, eps=0.3, p=0.1, q=0.8)


@pytest.mark.parametrize("divergence", ["forward", "reverse"])
def test_the_loss_is_the_divergence_of_the_laws(divergence):
    rng = np.random.default_rng(0)
    taught = np.log(rng.dirichlet(np.ones(3), size=(4, 5)))
    if divergence == "forward":
        taught[0, 0] = [np.log(0.5), np.log(0.5), -np.inf]
    prompts, tokens = rng.integers(3, size=(4, 1)), rng.integers(3, size=(4, 5))
    tokens[0, 1:] = 2  # ended there
    network = NetworkClass("mlp", 3, prompt_length=1, horizon=5, width=4)
    weights = network.initialised(torch.Generator().manual_seed(1))
    own = network.policy(weights).forced_log_probs(prompts, tokens)
    counted = 0.25 * written(prompts, tokens, 2)
    expected = law_parts(taught, own, counted, divergence, (0, 1, 2))
    loss, told = LawObjective(weights, divergence, end=2)(
        *map(torch.from_numpy, (prompts, tokens)), None, torch.from_numpy(taught).float()
    )
    assert expected[0] == 0 and told.item() == pytest.approx(expected[1], rel=1e-5)
    loss.backward()
    assert loss.item() == pytest.approx(told.item() / 5) and all(
        torch.isfinite(w.grad).all() for w in weights.parameters()
    )


@pytest.mark.parametrize("divergence", ["forward", "reverse"])
def test_a_network_that_is_a_chain_ends_where_the_chain_does(divergence):
    demos, rng = collect(TASK, 400, np.random.default_rng(0)), np.random.default_rng(1)
    shared = {"divergence": divergence, "rounds": 3, "rollouts": 500, "settle": 0.05, "floor": 1e-3}
    chain = OnPolicyDistillation(TASK, **shared).fit(demos, MarkovClass(2, order=1), rng=rng).policy_
    network = NetworkClass("linear", 2, prompt_length=1, horizon=5, width=2, window=1)
    training = {"steps": 40, "round_steps": 40, "learning_rate": 0.1, "batch_size": 200}
    agent = NeuralDistillation(TASK, **shared, **training).fit(demos, network, rng=np.random.default_rng(1))
    laws = [np.exp(policy.forced_log_probs(demos.prompts, demos.tokens)) for policy in (chain, agent.policy_)]
    assert np.abs(laws[0] - laws[1]).max() < 0.04
    details = agent.fit_report_.details
    assert details["expert_queries"] == details["environment_steps"] == agent.fit_report_.iterations * 500 * 5


def test_a_stopped_fit_goes_on_and_other_settings_are_refused(tmp_path):
    demos, network = collect(TASK, 40, np.random.default_rng(0)), NetworkClass.for_task("mlp", TASK, width=4)
    settings = {"rounds": 2, "rollouts": 8, "settle": 0.0, "steps": 4, "round_steps": 3, "batch_size": 8}

    def fitted(rounds=2, **changed):
        agent = NeuralDistillation(TASK, **{**settings, **changed, "rounds": rounds})
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ConvergenceWarning)
            return agent.fit(demos, network, rng=np.random.default_rng(2)).policy_

    whole = fitted()
    fitted(1, checkpoint=tmp_path)
    gone_on = fitted(checkpoint=tmp_path)
    for name, weight in whole.state.items():
        assert torch.equal(weight, gone_on.state[name])
    with pytest.raises(CheckpointError, match="divergence"):
        fitted(checkpoint=tmp_path, divergence="reverse")


def test_texts_that_end_and_tokens_that_the_expert_excludes():
    task = make_task("Documents", horizon=6)
    demos = collect(task, 50, np.random.default_rng(0))
    network = ended_class(NetworkClass.for_task("mlp", task, width=4), task.end_token)
    training = {"steps": 3, "round_steps": 3, "rollouts": 8, "rounds": 1, "settle": 2.0, "batch_size": 8}
    policy = NeuralDistillation(task, **training).fit(demos, network).policy_
    assert isinstance(policy, EndedPolicy)
    hard = make_task("PathStar", degree=2, length=3)
    shown = collect(hard, 8, np.random.default_rng(0))
    with pytest.raises(ValueError, match=r"reverse KL is infinite .* floor=1e-3"):
        NeuralDistillation(hard, divergence="reverse", **training).fit(
            shown, NetworkClass.for_task("mlp", hard, width=4)
        )

"""Language models of transformers as classes of networks: trained as plain torch trains them, whatever the loss."""
# ruff: noqa: E402

import json
import pickle
import warnings
import zipfile
from functools import partial

import numpy as np
import pytest
from test_torch_state import STATES, snapshot

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")

from agents import Agent, ConvergenceWarning
from agents.neural import CheckpointError, NeuralBC, NeuralClippedRatioBC, NeuralRhoBC
from agents.neural.language import TransformersClass
from agents.neural.training import Mode, Objective
from agents.testing import Problem, check_agent
from ntp_envs import Demonstrations, EndedPolicy, MarkovPolicy, collect, distance, ended_class, make_task
from ntp_envs.saved import STRUCTURE

A, H, P = 4, 5, 2
IDS = {"vocab_size": A, "bos_token_id": None, "eos_token_id": None}
GPT2 = transformers.GPT2Config(n_layer=2, n_head=2, n_embd=8, n_positions=16, **IDS)
CALM = transformers.GPT2Config(
    n_layer=1, n_head=2, n_embd=8, n_positions=16, resid_pdrop=0, embd_pdrop=0, attn_pdrop=0, **IDS
)
SMALL = {"num_hidden_layers": 1, "num_attention_heads": 2, "hidden_size": 8, "intermediate_size": 8}
LLAMA = transformers.LlamaConfig(**SMALL, max_position_embeddings=16, tie_word_embeddings=False, **IDS)
CONFIGS = {"gpt2": GPT2, "llama": LLAMA}
TOLERANCE = {"gpt2": 1e-10, "llama": 1e-5}


def spec(config=GPT2, **options):
    return TransformersClass(config, **{"prompt_length": P, "begin": 0, **options})


def texts(n=60, seed=0):
    rng = np.random.default_rng(seed)
    prompts = rng.integers(A, size=(n, P))
    chain = MarkovPolicy(rng.dirichlet(np.ones(A), size=A + 1), order=1)
    return Demonstrations(prompts, chain.sample(prompts, H, rng), A)


DEMOS = texts()


def fit(network=None, agent=NeuralBC, seed=0, demos=DEMOS, **options):
    options = {"steps": 6, "batch_size": 16, **options}
    return agent(**options).fit(demos, network or spec(), rng=np.random.default_rng(seed))


def weights(agent):
    return {name: value.numpy().tobytes() for name, value in agent.policy_.state.items()}


# -- the contracts -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", CONFIGS)
def test_it_keeps_the_contract_of_agents(name, monkeypatch):
    monkeypatch.delattr(Agent, "_pickled")  # weights are kept as arrays
    check_agent(NeuralBC(steps=3, batch_size=16), problems=[Problem(name, spec(CONFIGS[name]), DEMOS)])


@pytest.mark.parametrize("name", CONFIGS)
def test_the_ways_to_ask_agree(name):
    policy = fit(spec(CONFIGS[name])).policy_
    probs = policy.log_probs(DEMOS.prompts, DEMOS.tokens)
    laws = policy.forced_log_probs(DEMOS.prompts, DEMOS.tokens)
    reader, atol = policy.cursor(DEMOS.prompts), TOLERANCE[name]
    for h in range(H):
        law = reader.log_probs()
        np.testing.assert_allclose(law, policy.next_log_probs(DEMOS.prompts, DEMOS.tokens[:, :h]), rtol=0, atol=atol)
        np.testing.assert_allclose(law, laws[:, h], rtol=0, atol=atol)
        np.testing.assert_allclose(law[np.arange(60), DEMOS.tokens[:, h]], probs[:, h], rtol=0, atol=atol)
        reader = reader.advance(DEMOS.tokens[:, h])
    ids = torch.from_numpy(np.column_stack([np.zeros(60, int), DEMOS.prompts, DEMOS.tokens[:, :-1]]))
    plain = policy.model.float()(ids).logits[:, -H:].log_softmax(-1).detach().numpy()
    np.testing.assert_allclose(laws, plain, rtol=0, atol=1e-5)


def test_a_class_is_a_value():
    one, two = spec(), spec(transformers.GPT2Config(**GPT2.to_dict()))
    assert one == two and hash(one) == hash(two) and one == pickle.loads(pickle.dumps(one))
    tuned = [spec(one.model()) for _ in range(2)]
    tuned.append(spec(fit().policy_.model))
    tuned.append(spec(fit().policy_.model))
    different = [one, spec(begin=1), spec(pad=3), spec(vocab_size=3), spec(LLAMA), spec(CALM), *tuned[:3]]
    assert (
        tuned[2] == tuned[3] and hash(tuned[2]) == hash(tuned[3]) and tuned[2] == pickle.loads(pickle.dumps(tuned[2]))
    )
    assert all((a == b) == (i == j) for i, a in enumerate(different) for j, b in enumerate(different))


# -- randomness --------------------------------------------------------------------------------------------------------


def test_the_same_seed_is_the_same_network_whatever_the_global_state():
    """With dropout, which torch draws from its own generator."""
    one = weights(fit())
    torch.manual_seed(5)
    before = torch.random.get_rng_state()
    two = weights(fit(on_step=lambda step, policy: policy.next_log_probs(DEMOS.prompts, DEMOS.tokens[:, :0])))
    assert one == two and torch.equal(torch.random.get_rng_state(), before)
    assert weights(fit(seed=1)) != one
    assert weights(fit(spec(transformers.GPT2Config(**{**GPT2.to_dict(), "resid_pdrop": 0.0})))) != one


@pytest.mark.parametrize("state", STATES)
def test_the_callers_settings_are_neither_read_nor_changed(state):
    usual = weights(fit(steps=2))
    with STATES[state]():
        before = snapshot()
        assert weights(fit(steps=2)) == usual
        assert snapshot() == before


def test_a_checkpoint_is_gone_on_from(tmp_path):
    whole = weights(fit(steps=8, schedule="constant"))
    with pytest.raises(InterruptedError):
        fit(steps=8, schedule="constant", checkpoint=tmp_path, checkpoint_every=3, on_step=stop)
    assert weights(fit(steps=8, schedule="constant", checkpoint=tmp_path)) == whole
    with pytest.raises(CheckpointError, match=r"network.config"):
        fit(spec(CALM), steps=8, schedule="constant", checkpoint=tmp_path)


def stop(step, policy):
    if step == 5:
        raise InterruptedError


def test_a_saved_agent_comes_back(tmp_path):
    agent = fit()
    again = Agent.load(agent.save(tmp_path / "agent"))
    assert weights(again) == weights(agent) and again.policy_.network_class == spec()
    np.testing.assert_array_equal(
        again.policy_.log_probs(DEMOS.prompts, DEMOS.tokens), agent.policy_.log_probs(DEMOS.prompts, DEMOS.tokens)
    )
    head = [agent.policy_.model.lm_head.weight, again.policy_.model.transformer.wte.weight]
    assert torch.equal(*head) and again.policy_.model.lm_head.weight is head[1]  # tied, as they were


@pytest.mark.parametrize(
    ("changed", "to", "message"),
    [
        ('"n_layer": 1', '"n_layer": 1000000000', "has 1000000000 layers, but"),
        ('"n_embd": 8', '"n_embd": 16', "the weights belong to another TransformersClass"),
        ('"n_embd": 8', '"n_embd": 8, "auto_map": {"AutoModelForCausalLM": "a--b.C"}', "names something that is not"),
        ('"n_embd": 8', '"n_embd": 8, "attn_implementation": "kernel"', "names something that is not"),
        ('"gelu_new"', '"owner\\u002fname"', "names something that is not"),
    ],
)
def test_a_forged_configuration_is_refused(tmp_path, monkeypatch, changed, to, message):
    path = fit(spec(CALM), steps=1).save(tmp_path / "agent")
    with zipfile.ZipFile(path) as archive:
        entries = {name: archive.read(name) for name in archive.namelist()}
    old, new = (json.dumps(text)[1:-1].encode() for text in (changed, to))
    assert entries[STRUCTURE].count(old) == 1
    with zipfile.ZipFile(path, "w") as archive:
        for name, data in entries.items():
            archive.writestr(name, data.replace(old, new) if name == STRUCTURE else data)
    with pytest.raises(ValueError, match=message):
        NeuralBC.load(path)


# -- what is trained ---------------------------------------------------------------------------------------------------


def by_hand(model, demos, steps, rate, begin=0):
    """Full-batch AdamW on transformers' own loss; the mean log-loss of a sequence at the end."""
    ids = torch.from_numpy(np.column_stack([np.full(len(demos), begin), demos.prompts, demos.tokens]))
    labels = ids.clone()
    labels[:, : 1 + P] = -100
    weights = list(model.float().train().parameters())
    for w in weights:
        w.requires_grad_()
    optimiser = torch.optim.AdamW(weights, lr=rate, weight_decay=0.0)
    for _ in range(steps):
        loss = model(ids, labels=labels).loss
        optimiser.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(weights, 1.0)
        optimiser.step()
    with torch.no_grad():
        return float(model.eval()(ids, labels=labels).loss) * H


@pytest.mark.parametrize("config", [CALM, LLAMA], ids=["gpt2", "llama"])
def test_the_loss_is_that_of_a_loop_in_plain_torch(config):
    """From the same weights, which are fine-tuned; two losses that agree after forty steps saw the same gradients."""
    start = spec(config).initialised(torch.Generator().manual_seed(0)).model
    agent = fit(spec(start), steps=40, batch_size=None, learning_rate=3e-3, schedule="constant")
    before = fit(spec(start), steps=1, learning_rate=0.0).fit_report_.objective
    assert agent.fit_report_.objective == pytest.approx(by_hand(start, DEMOS, 40, 3e-3), abs=2e-4)
    assert agent.fit_report_.objective < before - 0.5


def test_it_reaches_what_the_data_allow():
    """A population of independent tokens: nothing is below its entropy, and log-loss gets there."""
    law = np.array([0.5, 0.25, 0.125, 0.125])
    tokens = np.stack(np.meshgrid(range(A), range(A), indexing="ij"), -1).reshape(-1, 2)
    demos = Demonstrations(np.zeros((16, P), int), tokens, A, weights=law[tokens].prod(axis=1))
    agent = fit(spec(CALM), demos=demos, steps=150, batch_size=None, learning_rate=0.03)
    entropy = -2 * float(law @ np.log(law))
    assert 0 <= agent.fit_report_.objective - entropy < 1e-3


def test_filled_up_prompts_are_trained_as_the_short_ones():
    """The loss of ``[pad, 1]`` is that of ``[1]``, before and after a step."""
    start = spec(CALM).model()
    short = Demonstrations(DEMOS.prompts[:, 1:], DEMOS.tokens, A)
    filled = Demonstrations(np.column_stack([np.full(60, 3), np.minimum(short.prompts, 2)]), DEMOS.tokens, A)
    short = Demonstrations(filled.prompts[:, 1:], DEMOS.tokens, A)
    for steps in (1, 3):
        one = fit(spec(start, prompt_length=1), demos=short, steps=steps, batch_size=None)
        two = fit(spec(start, pad=3), demos=filled, steps=steps, batch_size=None)
        assert one.fit_report_.objective == pytest.approx(two.fit_report_.objective, abs=1e-5)


def test_half_precision_and_a_smaller_vocabulary():
    demos = Demonstrations(DEMOS.prompts % 3, DEMOS.tokens % 3, 3)
    network = spec(CALM, vocab_size=3)
    full, half = (fit(network, demos=demos, steps=30, precision=p, learning_rate=1e-2) for p in ("float32", "bf16"))
    assert half.fit_report_.objective == pytest.approx(full.fit_report_.objective, rel=0.02)
    assert weights(half) != weights(full) and full.policy_.sample(demos.prompts, H, np.random.default_rng(0)).max() == 2


def test_a_mixture_of_experts_is_evaluated_in_float32():
    experts = {"moe_intermediate_size": 8, "shared_expert_intermediate_size": 8, "num_experts": 3}
    config = transformers.Qwen2MoeConfig(**SMALL, **experts, num_key_value_heads=1, num_experts_per_tok=2, **IDS)
    network = spec(config, dtype="float32")
    policy = fit(network).policy_
    assert policy.model.dtype == torch.float32 and network != spec(config)
    laws = policy.forced_log_probs(DEMOS.prompts, DEMOS.tokens)
    np.testing.assert_allclose(laws[:, 3], policy.next_log_probs(DEMOS.prompts, DEMOS.tokens[:, :3]), rtol=0, atol=1e-5)


def test_whole_sequences_are_trained_too():
    """Every stage starts where another ended, and ends on the data no worse than log-loss."""
    task = make_task("Contamination", horizon=8, eps=0.1, p=0.02, q=0.98)
    demos = collect(task, 200, np.random.default_rng(0), expert_log_probs=True)
    network = TransformersClass.for_task(CALM, task)
    options = {"steps": 30, "trims": (0.1,), "batch_size": None}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        rho = fit(network, NeuralRhoBC, demos=demos, rounds=1, game_steps=20, **options)
    clipped = fit(network, NeuralClippedRatioBC, demos=demos, ratio_steps=20, **options)
    assert rho.fit_report_.details["pool"] == ["log-loss", "trimmed 0.1", "reply 1", "learner 1"]
    ends = clipped.fit_report_.details["ends"]
    assert clipped.fit_report_.objective == min(ends.values()) < ends["log-loss"]
    for agent in (rho, clipped):
        assert agent.policy_.network_class == network
        assert 0 <= distance(task.expert, agent.policy_, task).final < 2


def test_texts_that_end_are_learnt_as_far_as_they_were_written():
    """The loss is that of the written tokens, and the same whatever stands after the ends."""
    tokens = np.where(np.logical_or.accumulate(DEMOS.tokens == 3, axis=1), 3, DEMOS.tokens)
    texts = Demonstrations(DEMOS.prompts % 3, tokens, A, end_token=3)
    agent = fit(ended_class(spec(CALM), 3), demos=texts, batch_size=None)
    inside = agent.policy_.policy.log_probs(texts.prompts, texts.tokens)
    assert type(agent.policy_) is EndedPolicy and not texts.written.all()
    assert agent.fit_report_.objective == pytest.approx(-(inside * texts.written).sum(axis=1).mean())
    loss = Objective(spec(CALM).initialised(torch.Generator().manual_seed(0)).eval(), Mode("tf", H), 3)
    one, two = (
        loss(*map(torch.from_numpy, (texts.prompts.copy(), t.copy())), None)[1] for t in (tokens, anyhow(tokens))
    )
    assert one == two and (anyhow(tokens) != tokens).any()


def anyhow(tokens):
    """Another token wherever the two before it were ends."""
    out = tokens.copy()
    out[:, 2:][(tokens[:, 1:-1] == 3) & (tokens[:, :-2] == 3)] = 1
    return out


# -- refusals ----------------------------------------------------------------------------------------------------------


OTHER = transformers.GPT2Config(**{**GPT2.to_dict(), "n_embd": 4})
T5 = transformers.T5Config(num_layers=1, num_heads=2, d_model=8, d_ff=8, d_kv=4, vocab_size=A)


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (partial(spec, "gpt2"), TypeError, "must be a causal language model of transformers, not str"),
        (partial(spec, T5), ValueError, "AutoModelForCausalLM makes no model.*register"),
        (partial(spec, dtype="bf16"), ValueError, "dtype='bf16'"),
        (partial(spec, begin=A), ValueError, f"begin={A}"),
        (partial(spec, prompt_length=20), ValueError, "window of 16"),
        (partial(spec, prompt_length=0, begin=None), ValueError, "give begin"),
        (partial(fit, mode="teacherless"), ValueError, "mode='teacherless' needs a dummy token.*'first_token_only'"),
        (partial(fit, mode="mtp_k"), ValueError, "mode='mtp_k' needs a dummy token, or hidden vectors"),
        (partial(fit, spec(prompt_length=1)), ValueError, "build it with prompt_length=2"),
        (lambda: spec().policy(spec(OTHER).model()), ValueError, "belong to another TransformersClass"),
        (lambda: spec().policy(spec().model(), teacherless=True), ValueError, "teacherless=True"),
    ],
)
def test_refused(call, error, message):
    with pytest.raises(error, match=message):
        call()

"""The networks and the policies they make: against numpy by hand, and the laws that every policy keeps."""
# ruff: noqa: E402

import pickle
from types import SimpleNamespace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from laws import examples
from scipy.special import erf, log_softmax, softmax

torch = pytest.importorskip("torch")

from agents.neural import ARCHITECTURES, ModulePolicy, NetworkClass, TorchPolicy
from agents.neural import network as policy_module
from ntp_envs import Policy, distance, evaluate, make_task
from ntp_envs.saved import STRUCTURE, read, read_archive, write
from ntp_envs.torch_state import own_torch_state

A, P, H = 4, 6, 5
SPECS = {
    "linear": NetworkClass("linear", A, prompt_length=P, horizon=H, width=3),
    "linear by position": NetworkClass("linear", A, prompt_length=P, horizon=H, width=3, positional=True),
    "linear of a window": NetworkClass("linear", A, prompt_length=2, horizon=H, width=5, window=3),
    "mlp": NetworkClass("mlp", A, prompt_length=P, horizon=H, width=6, layers=3, window=4, activation="relu"),
    "mlp by position": NetworkClass("mlp", A, prompt_length=0, horizon=H, width=6, layers=1, positional=True),
    "transformer": NetworkClass("transformer", A, prompt_length=P, horizon=H, width=8, heads=2, layers=3),
    "transformer, no prompt": NetworkClass("transformer", A, prompt_length=0, horizon=H, width=8, heads=4, layers=1),
    "transformer of edges": NetworkClass(
        "transformer", A, prompt_length=P, horizon=H, width=8, heads=2, prompt_group=3, prompt_positions=False
    ),
    "one token": NetworkClass("transformer", A, prompt_length=2, horizon=1, width=4, heads=1, prompt_group=2),
    "one token, no prompt": NetworkClass("mlp", A, prompt_length=0, horizon=1, width=4),
}
every_spec = pytest.mark.parametrize("spec", SPECS.values(), ids=SPECS)


def network_of(spec, seed=0, scale=1.0):
    """A network with weights that matter everywhere: biases and embeddings too, of order one."""
    network = spec.initialised(torch.Generator().manual_seed(seed))
    rng = np.random.default_rng(seed)
    with torch.no_grad():
        for parameter in network.parameters():
            noise = rng.normal(scale=scale / np.sqrt(spec.width), size=parameter.shape)
            parameter += torch.from_numpy(noise).float()
    return network


def sequences(spec, n=7, seed=1):
    rng = np.random.default_rng(seed)
    return rng.integers(A, size=(n, spec.prompt_length)), rng.integers(A, size=(n, spec.horizon))


def conditionals(policy, prompts, tokens):
    return np.stack([policy.next_log_probs(prompts, tokens[:, :h]) for h in range(tokens.shape[1])], axis=1)


# -- against numpy -----------------------------------------------------------------------------------------------------


def weights_of(network):
    return {name: value.detach().double().numpy() for name, value in network.state_dict().items()}


def gelu(x):
    return 0.5 * x * (1 + erf(x / np.sqrt(2)))


def window_logits(spec, w, context, h):
    """One prefix: a sum over places of the window, then the hidden layers."""
    place = h if spec.positional else 0
    x = w["bias"][place].copy()
    for back, token in enumerate(context[::-1][: spec.window_length], start=1):
        x += w["embedding"][token] @ w["mix"][place, spec.window_length - back]
    if spec.architecture == "mlp":
        act = gelu if spec.activation == "gelu" else lambda x: np.maximum(x, 0)
        x = act(x)
        for i in range(spec.layers - 1):
            x = act(w[f"hidden.{i}.weight"] @ x + w[f"hidden.{i}.bias"])
    return w["out.weight"] @ x + w["out.bias"]


def normed(x, w, name):
    centred = x - x.mean(axis=1, keepdims=True)
    return centred / np.sqrt((centred**2).mean(axis=1, keepdims=True) + 1e-5) * w[f"{name}.weight"] + w[f"{name}.bias"]


def transformer_logits(spec, w, prompt, tokens):
    """One sequence: the whole stack at once, attention written out query by query."""

    def affine(x, name):
        return x @ w[f"{name}.weight"].T + w[f"{name}.bias"]

    g = spec.prompt_group
    if spec.prompt_length == 0:
        vectors = [w["begin_vector"][0]]
    elif g == 1:
        vectors = [w["embedding"][token] for token in prompt]
    else:
        vectors = [sum(w["roles"][r, prompt[i + r]] for r in range(g)) for i in range(0, len(prompt), g)]
    if "prompt_position" in w:
        vectors = [vector + position for vector, position in zip(vectors, w["prompt_position"])]
    n_prompt = len(vectors)
    vectors += [w["embedding"][token] + w["position"][t] for t, token in enumerate(tokens)]
    x = np.array(vectors)
    for b in range(spec.layers):
        name, size = f"blocks.{b}", spec.width // spec.heads
        y = normed(x, w, f"{name}.norm1")
        query = affine(y, f"{name}.query")
        key, value = np.split(affine(y, f"{name}.key_value"), 2, axis=1)
        seen = np.zeros_like(x)
        for i in range(len(x)):
            last = max(i + 1, n_prompt)  # the prompt is seen whole
            for head in range(spec.heads):
                part = slice(head * size, (head + 1) * size)
                attention = softmax(key[:last, part] @ query[i, part] / np.sqrt(size))
                seen[i, part] = attention @ value[:last, part]
        x = x + affine(seen, f"{name}.project")
        x = x + affine(gelu(affine(normed(x, w, f"{name}.norm2"), f"{name}.up")), f"{name}.down")
    return affine(normed(x, w, "norm"), "out")[n_prompt - 1 :]


@every_spec
def test_laws_equal_numpy_written_out(spec):
    network = network_of(spec)
    weights, (prompts, tokens) = weights_of(network), sequences(spec, n=3)
    law = spec.policy(network).forced_log_probs(prompts, tokens)
    for prompt, row, found in zip(prompts, tokens, law):
        if spec.architecture == "transformer":
            logits = transformer_logits(spec, weights, prompt, row[:-1])
        else:
            logits = [window_logits(spec, weights, [*prompt, *row[:h]], h) for h in range(spec.horizon)]
        np.testing.assert_allclose(found, log_softmax(logits, axis=1), rtol=0, atol=1e-10)


@pytest.mark.parametrize("width", [4, 6])
def test_a_linear_network_as_wide_as_the_vocabulary_is_every_linear_map(rng, width):
    spec = NetworkClass("linear", A, prompt_length=1, horizon=3, width=width)
    wanted = rng.normal(size=(spec.window_length, A, A))
    state = {name: torch.zeros(value.shape) for name, value in spec.empty().state_dict().items()}
    state["embedding"][:A, :A] = state["out.weight"][:, :A] = torch.eye(A)
    state["mix"][0, :, :A, :A] = torch.from_numpy(wanted)
    prompts, tokens = rng.integers(A, size=(5, 1)), rng.integers(A, size=(5, 3))
    law = spec.policy(state).forced_log_probs(prompts, tokens)
    whole = np.concatenate([prompts, tokens], axis=1)
    for h in range(3):
        logits = sum(wanted[-lag][whole[:, 1 + h - lag]] for lag in range(1, h + 2))
        np.testing.assert_allclose(law[:, h], log_softmax(logits, axis=1), atol=1e-6)  # weights are float32


def test_numbers_of_parameters():
    def count(architecture, **options):
        return NetworkClass(architecture, A, prompt_length=P, horizon=H, **options).n_parameters

    e, w, context = 8, 3, P + H - 1
    ends = (A + 1) * e + e * A + A  # embeddings with the dummy, output map and its bias
    assert count("linear", width=e, window=w) == ends + w * e * e + e
    assert count("linear", width=e, positional=True) == ends + H * (context * e * e + e)
    assert count("mlp", width=e, window=w, layers=4) == ends + w * e * e + e + 3 * (e * e + e)
    block = 4 * (e * e + e) + (4 * e * e + 4 * e) + (4 * e * e + e) + 2 * 2 * e
    body = ends + (H - 1) * e + 2 * e + 2 * block
    assert count("transformer", width=e) == body + P * e
    assert count("transformer", width=e, prompt_positions=False) == body
    assert count("transformer", width=e, prompt_group=3) == body + 3 * A * e + (P // 3) * e


# -- the contract of a policy ------------------------------------------------------------------------------------------


@every_spec
@pytest.mark.parametrize("teacherless", [False, True])
def test_all_ways_to_ask_agree(spec, teacherless):
    policy = spec.policy(network_of(spec), teacherless=teacherless)
    prompts, tokens = sequences(spec)
    law = policy.forced_log_probs(prompts, tokens)
    assert law.dtype == np.float64 and law.shape == (*tokens.shape, A)
    np.testing.assert_allclose(np.exp(law).sum(axis=2), 1.0, rtol=0, atol=1e-12)
    np.testing.assert_allclose(conditionals(policy, prompts, tokens), law, rtol=0, atol=1e-10)
    picked = np.take_along_axis(law, tokens[:, :, None], axis=2)[:, :, 0]
    np.testing.assert_array_equal(policy.log_probs(prompts, tokens), picked)
    reader = policy.cursor(prompts)
    for h in range(spec.horizon):
        np.testing.assert_allclose(reader.log_probs(), law[:, h], rtol=0, atol=1e-10)
        reader = reader.advance(tokens[:, h])
    with pytest.raises(ValueError, match=f"at most {spec.horizon} tokens"):
        reader.log_probs()


@st.composite
def specifications(draw):
    """Any architecture with any of its options, small."""
    architecture = draw(st.sampled_from(ARCHITECTURES))
    group = draw(st.integers(1, 3)) if architecture == "transformer" else 1
    sizes = {"prompt_length": group * draw(st.integers(0, 2)), "horizon": draw(st.integers(1, 4))}
    options = {"width": 4, "layers": draw(st.integers(1, 2)), "activation": draw(st.sampled_from(["relu", "gelu"]))}
    if architecture == "transformer":
        options |= {
            "heads": draw(st.sampled_from([1, 2])),
            "prompt_group": group,
            "prompt_positions": draw(st.booleans()),
        }
    else:
        context = max(sum(sizes.values()) - 1, 1)
        options |= {"window": draw(st.none() | st.integers(1, context)), "positional": draw(st.booleans())}
    return NetworkClass(architecture, A, **sizes, **options)


@examples(60)
@given(specifications(), st.booleans())
def test_any_network_read_token_by_token_is_the_network_read_at_once(spec, teacherless):
    policy, (prompts, tokens) = spec.policy(network_of(spec), teacherless=teacherless), sequences(spec, n=3)
    law = policy.forced_log_probs(prompts, tokens)
    np.testing.assert_allclose(Policy.forced_log_probs(policy, prompts, tokens), law, rtol=0, atol=1e-10)
    np.testing.assert_allclose(conditionals(policy, prompts, tokens), law, rtol=0, atol=1e-10)


@every_spec
def test_a_cursor_branches(spec, rng):
    policy = spec.policy(network_of(spec))
    prompts, tokens = sequences(spec, n=4)
    reader = policy.cursor(prompts)
    for _ in range(spec.horizon - 1):
        rows = rng.integers(len(prompts), size=5)
        added = rng.integers(A, size=5)
        kept = reader.log_probs()
        branched = reader.branch(rows, added)
        np.testing.assert_array_equal(reader.log_probs(), kept)  # the old one can still be used
        reader, prompts = branched, prompts[rows]
        tokens = np.column_stack([tokens[rows][:, : reader.step - 1], added])
        np.testing.assert_allclose(reader.log_probs(), policy.next_log_probs(prompts, tokens), rtol=0, atol=1e-10)


@every_spec
def test_no_token_is_seen_before_its_time(spec):
    policy = spec.policy(network_of(spec))
    prompts, tokens = sequences(spec)
    law = policy.forced_log_probs(prompts, tokens)
    for h in range(spec.horizon):
        changed = tokens.copy()
        changed[:, h] = (changed[:, h] + 1) % A
        difference = np.abs(policy.forced_log_probs(prompts, changed) - law).max(axis=(0, 2))
        assert difference[: h + 1].max() < 1e-12
        assert h + 1 == spec.horizon or difference[h + 1] > 1e-6


def test_a_window_ends():
    spec = SPECS["linear of a window"]
    policy = spec.policy(network_of(spec))
    prompts, tokens = sequences(spec)
    other = tokens.copy()
    other[:, 0] = (other[:, 0] + 1) % A
    one, two = policy.forced_log_probs(prompts, tokens), policy.forced_log_probs(prompts, other)
    assert np.abs(one - two)[:, 3].max() > 1e-3  # the last of three places
    np.testing.assert_allclose(one[:, 4], two[:, 4], rtol=0, atol=1e-12)


def test_edges_without_positions_have_no_order(rng):
    def moved(**options):
        spec = NetworkClass("transformer", A, prompt_length=12, horizon=3, width=8, prompt_group=3, **options)
        policy = spec.policy(network_of(spec))
        prompts, tokens = rng.integers(A, size=(6, 12)), rng.integers(A, size=(6, 3))
        shuffled = prompts.reshape(6, 4, 3)[:, [2, 0, 1, 3]].reshape(6, 12)  # the last triple is where answers start
        laws = [policy.forced_log_probs(given, tokens) for given in (prompts, shuffled)]
        return np.abs(laws[0] - laws[1]).max()

    assert moved(prompt_positions=False) < 1e-12
    assert moved() > 1e-3


@every_spec
def test_teacherless_policies_do_not_read_tokens(spec):
    policy = spec.policy(network_of(spec), teacherless=True)
    prompts, tokens = sequences(spec)
    np.testing.assert_array_equal(
        policy.forced_log_probs(prompts, tokens), policy.forced_log_probs(prompts, (tokens + 1) % A)
    )


@every_spec
def test_batches_of_any_size_agree(spec, monkeypatch):
    policy = spec.policy(network_of(spec))
    prompts, tokens = sequences(spec, n=23)
    law, sampled = policy.forced_log_probs(prompts, tokens), drawn(policy, prompts)
    by_one = np.concatenate([policy.forced_log_probs(p[None], t[None]) for p, t in zip(prompts, tokens)])
    np.testing.assert_allclose(by_one, law, rtol=0, atol=1e-11)
    monkeypatch.setattr(policy_module, "CHUNK_NUMBERS", 4 * spec.numbers_per_sequence(spec.horizon))
    monkeypatch.setattr(policy_module, "LAW_NUMBERS", 2 * 4 * A)
    np.testing.assert_allclose(policy.forced_log_probs(prompts, tokens), law, rtol=0, atol=1e-11)
    np.testing.assert_allclose(policy.next_log_probs(prompts, tokens[:, :-1]), law[:, -1], rtol=0, atol=1e-10)
    np.testing.assert_array_equal(drawn(policy, prompts), sampled)
    assert policy.forced_log_probs(prompts[:0], tokens[:0]).shape == (0, spec.horizon, A)
    assert drawn(policy, prompts[:0]).shape == (0, spec.horizon)


def drawn(policy, prompts):
    return policy.sample(prompts, policy.horizon, np.random.default_rng(3))


def test_the_number_of_threads_makes_no_difference():
    spec = SPECS["transformer"]
    policy, (prompts, tokens) = spec.policy(network_of(spec)), sequences(spec, n=500)
    laws = []
    for threads in (1, 2):
        with own_torch_state(threads=threads):
            laws.append(policy.forced_log_probs(prompts, tokens))
            assert torch.get_num_threads() == threads
    np.testing.assert_array_equal(*laws)


@every_spec
def test_policies_and_specifications_are_values(spec):
    network = network_of(spec)
    policy, (prompts, tokens) = spec.policy(network), sequences(spec)
    law = policy.forced_log_probs(prompts, tokens)
    back = pickle.loads(pickle.dumps(policy))
    assert isinstance(back, TorchPolicy) and "network" not in vars(back)
    np.testing.assert_array_equal(back.forced_log_probs(prompts, tokens), law)
    with torch.no_grad():
        network.out.bias += torch.arange(A)  # trained on: the policy has copies
    np.testing.assert_array_equal(policy.forced_log_probs(prompts, tokens), law)
    assert pickle.loads(pickle.dumps(spec)) == spec and len({spec, pickle.loads(pickle.dumps(spec))}) == 1
    assert eval(repr(spec)) == spec
    assert len(set(SPECS.values())) == len(SPECS)


@every_spec
def test_a_file_holds_the_weights_of_its_network_and_no_other(spec, tmp_path):
    policy, (prompts, tokens) = spec.policy(network_of(spec)), sequences(spec)
    write(tmp_path / "policy", policy, form="test")
    found = read_archive(tmp_path / "policy", 2**24)
    law = policy.forced_log_probs(prompts, tokens)
    np.testing.assert_array_equal(read(found, form="test").forced_log_probs(prompts, tokens), law)
    for name, value in (("layers", 10**12), ("width", 4096 * spec.width)):
        old, new = (f'["{name}", {number}]' for number in (getattr(spec, name), value))
        text = found[STRUCTURE].decode()
        assert text.count(old) == 1
        if (name, spec.architecture) != ("layers", "linear"):  # which has none
            with pytest.raises(ValueError, match=r"layers, but|belong to another"):
                read({**found, STRUCTURE: text.replace(old, new).encode()}, form="test")


def test_weights_come_from_the_generator_alone():
    spec, before = SPECS["transformer"], torch.random.get_rng_state()
    one, two, other = (network_weights(spec, seed) for seed in (0, 0, 1))
    assert all(np.array_equal(one[name], two[name]) for name in one)
    assert not all(np.array_equal(one[name], other[name]) for name in one)
    assert torch.equal(torch.random.get_rng_state(), before)


def network_weights(spec, seed):
    return weights_of(spec.initialised(torch.Generator().manual_seed(seed)))


@pytest.mark.parametrize("name", ["linear", "mlp", "transformer"])
def test_new_networks_are_close_to_uniform(name):
    spec = NetworkClass(name, 10, prompt_length=6, horizon=8, width=64)
    policy = spec.policy(spec.initialised(torch.Generator().manual_seed(0)))
    rng = np.random.default_rng(0)
    law = policy.forced_log_probs(rng.integers(10, size=(50, 6)), rng.integers(10, size=(50, 8)))
    assert np.abs(law + np.log(10)).max() < 1.0


# == a module of somebody else's =======================================================================================


class Counting(torch.nn.Module):
    """Causal, with known logits: those of token a are the number of times it has been read."""

    def __init__(self, size, wrap=False, dropout=0.0):
        super().__init__()
        self.size, self.wrap = size, wrap
        self.weight = torch.nn.Parameter(torch.ones(()))
        self.dropout = torch.nn.Dropout(dropout)

    def forward(self, ids):
        counts = torch.nn.functional.one_hot(ids, self.size).cumsum(1).float()
        logits = self.dropout(counts) * self.weight
        return SimpleNamespace(logits=logits) if self.wrap else logits


def by_hand(prompts, tokens, size):
    """The law after ``tokens``, with numpy."""
    line = np.concatenate([prompts, tokens], axis=1)
    counts = np.stack([(line == token).sum(axis=1) for token in range(size)], axis=1)
    return np.exp(counts) / np.exp(counts).sum(axis=1, keepdims=True)


@pytest.mark.parametrize("wrap", [False, True])
@pytest.mark.parametrize("batch_size", [2, 100])
def test_it_asks_for_the_law_after_each_prefix(wrap, batch_size):
    rng = np.random.default_rng(0)
    prompts, tokens = rng.integers(4, size=(7, 3)), rng.integers(4, size=(7, 5))
    policy = ModulePolicy(Counting(4, wrap), 4, prompt_length=3, batch_size=batch_size)
    forced = policy.forced_log_probs(prompts, tokens)
    for h in range(5):
        expected = by_hand(prompts, tokens[:, :h], 4)
        np.testing.assert_allclose(np.exp(forced[:, h]), expected, rtol=1e-6)
        np.testing.assert_allclose(np.exp(policy.next_log_probs(prompts, tokens[:, :h])), expected, rtol=1e-6)
    picked = np.take_along_axis(forced, tokens[:, :, None], axis=2)[:, :, 0]
    np.testing.assert_array_equal(policy.log_probs(prompts, tokens), picked)


def test_a_large_vocabulary_is_scored_a_few_rows_and_places_at_a_time(monkeypatch):
    """Passes are of so many rows as `CHUNK_NUMBERS` has place for, laws of so many places as `LAW_NUMBERS` has."""
    module, asked, laws = Counting(4), [], []
    module.register_forward_hook(lambda module, inputs, logits: asked.append(tuple(logits.shape)))
    policy = ModulePolicy(module, 4, prompt_length=1)
    prompts, tokens = np.random.default_rng(0).integers(4, size=(2, 7, 5))
    whole = policy.log_probs(prompts[:, :1], tokens)
    asked.clear()
    monkeypatch.setattr(policy_module, "CHUNK_NUMBERS", 3 * 5 * 4)
    monkeypatch.setattr(policy_module, "LAW_NUMBERS", 3 * 2 * 4)
    law = policy._law
    policy._law = lambda said: laws.append(tuple(said.shape)) or law(said)
    np.testing.assert_array_equal(policy.log_probs(prompts[:, :1], tokens), whole)
    assert asked == [(3, 5, 4), (3, 5, 4), (1, 5, 4)] and laws == [(3, 2, 4), (3, 2, 4), (3, 1, 4)] * 2 + [(1, 5, 4)]


def test_without_a_prompt_it_starts_from_an_id_of_its_own():
    tokens = np.array([[0, 1, 1]])
    policy = ModulePolicy(Counting(3), 2, prompt_length=0, begin=2)  # id 2 is no token of the task
    first, second = np.exp(policy.forced_log_probs(np.zeros((1, 0), int), tokens))[0, :2]
    np.testing.assert_allclose(first, [0.5, 0.5], rtol=1e-6)
    np.testing.assert_allclose(second, np.exp([1, 0]) / (1 + np.e), rtol=1e-6)


def test_it_stands_wherever_a_policy_does():
    task = make_task("Contamination", horizon=6)
    policy = ModulePolicy(Counting(2), 2, prompt_length=1)
    assert 0 < distance(task.expert, policy, task).final < 2
    assert evaluate(policy, task, n=20, rng=np.random.default_rng(0)).mean_cross_entropy > 0
    actions, _ = policy.predict(np.array([[1, 0, 2, 2, 2, 2, 2]]))
    assert actions.shape == (1,)


def test_dropout_is_off_while_it_is_asked_and_the_mode_is_left_as_it_was():
    module = Counting(4, dropout=0.9).train()
    policy = ModulePolicy(module, 4, prompt_length=1)
    prompts, tokens = np.zeros((2, 1), int), np.ones((2, 6), int)
    np.testing.assert_array_equal(policy.log_probs(prompts, tokens), policy.log_probs(prompts, tokens))
    assert module.training

"""Changed models: each is what its name says, by plain torch, and the user's own stays as it was."""
# ruff: noqa: E402

import numpy as np
import pytest

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")

from test_language import BEGIN, PROMPTS, TEXTS, A, H, gpt2, llama, mistral

from ntp_envs.language import TransformersPolicy
from ntp_envs.perturbed import _linear, perturbed, perturbed_models

MODELS = {"gpt2": lambda: gpt2(n_layer=3), "llama": lambda: llama(num_hidden_layers=3)}
WEIGHTS = ("bf16", "int8", "int3", "low_rank=2", "low_rank=0.25", "drop", "drop=0")
SAMPLERS = ("temperature=0.5", "top_k=2", "top_p=0.5")
ROWS = np.arange(0, len(TEXTS), 270)


@pytest.fixture(scope="module", params=MODELS)
def policy(request):
    return TransformersPolicy(MODELS[request.param](), prompt_length=2, begin=BEGIN)


def law(policy):
    return policy.log_probs(PROMPTS[ROWS], TEXTS[ROWS])


def state(model):
    weights = [(name, w.dtype, w.requires_grad, w.data_ptr(), w.sum().item()) for name, w in model.named_parameters()]
    return weights, [module.training for module in model.modules()], str(model.config), model.num_parameters()


@pytest.mark.parametrize("change", [*WEIGHTS, *SAMPLERS, "window=3"])
def test_another_law_and_the_same_model(policy, change):
    policy.model.train()
    before, usual = state(policy.model), law(policy)
    changed = perturbed(policy, change)
    assert np.abs(law(changed) - usual).max() > 1e-4
    assert state(policy.model) == before
    np.testing.assert_array_equal(law(policy), usual)
    assert repr(changed) != repr(policy) and changed.vocab_size == policy.vocab_size


@pytest.mark.parametrize("change", ["bf16", "drop", "window=3"])
def test_reading_on_is_reading_anew(policy, change):
    """A cache that is read on from token to token gives the law of one pass over the text."""
    changed = perturbed(policy, change)
    reader = changed.cursor(PROMPTS[ROWS])
    atol = 0.05 if change == "bf16" else 1e-5
    for h in range(H):
        anew = changed.forced_log_probs(PROMPTS[ROWS], TEXTS[ROWS])[:, h]
        np.testing.assert_allclose(reader.log_probs(), anew, rtol=0, atol=atol)
        reader = reader.advance(TEXTS[ROWS, h])


@pytest.mark.parametrize(("change", "levels"), [("int8", 127), ("int3", 3), ("int2", 1), ("int3=3", 3)])
def test_integers_are_rounded_row_by_row_or_by_parts_of_a_row(policy, change, levels):
    changed, group = perturbed(policy, change).model, int(change.partition("=")[2] or 0)
    for old, new in zip(_linear(policy.model), _linear(changed), strict=True):
        rows = [m.weight.numpy(force=True).astype(float) for m in (old, new)]
        old, new = (w.T if isinstance(policy.model, transformers.GPT2LMHeadModel) else w for w in rows)
        starts = range(0, old.shape[1], group or old.shape[1])
        scale = np.repeat(np.maximum.reduceat(np.abs(old), starts, axis=1) / levels, group or old.shape[1], axis=1)
        scale = scale[:, : old.shape[1]]
        assert np.abs(new / scale - np.round(new / scale)).max() < 1e-4
        assert (np.abs(new - old) / scale).max() < 0.5001
    assert changed.get_output_embeddings().weight is policy.model.get_output_embeddings().weight
    assert changed.get_input_embeddings().weight is policy.model.get_input_embeddings().weight


def test_low_rank_is_the_nearest_of_that_rank(policy):
    changed = perturbed(policy, "low_rank=2").model
    for old, new in zip(_linear(policy.model), _linear(changed), strict=True):
        values = np.linalg.svd(old.weight.numpy(force=True), compute_uv=False)
        assert np.linalg.matrix_rank(new.weight.numpy(force=True), tol=1e-4) == 2
        error = np.linalg.norm((old.weight - new.weight).numpy(force=True))
        assert error == pytest.approx(np.sqrt((values[2:] ** 2).sum()), rel=1e-4)


@pytest.mark.parametrize("layer", [0, 1, 2])
def test_a_dropped_layer_does_nothing(policy, layer):
    """The model with an identity there, on whole texts, without a cache."""
    changed = perturbed(policy, f"drop={layer}")
    base = policy.model.base_model
    layers = base.h if hasattr(base, "h") else base.layers
    policy.model.eval()
    ids = np.column_stack([np.full(len(ROWS), BEGIN), PROMPTS[ROWS], TEXTS[ROWS]])[:, :-1]

    def identity(module, inputs, found):
        return (inputs[0], *found[1:]) if isinstance(found, tuple) else inputs[0]

    with torch.no_grad(), layers[layer].register_forward_hook(identity):
        logits = policy.model(torch.from_numpy(ids), use_cache=False).logits[:, -H:]
    expected = torch.log_softmax(logits.double(), -1).numpy()
    np.testing.assert_allclose(changed.forced_log_probs(PROMPTS[ROWS], TEXTS[ROWS]), expected, rtol=0, atol=1e-5)
    mine = {id(weight) for weight in policy.model.parameters()}
    assert all(id(weight) in mine for weight in changed.model.parameters())


def banded(model, ids, window):
    """``(b, s, A)`` log-probabilities of one pass, with a mask for every pair of places."""
    ago = np.subtract.outer(np.arange(ids.shape[1]), np.arange(ids.shape[1]))
    mask = torch.from_numpy(np.where((ago >= 0) & (ago < window), 0.0, -np.inf).astype(np.float32))
    with torch.no_grad():
        found = model.eval()(torch.from_numpy(ids), attention_mask=mask.expand(len(ids), 1, -1, -1), use_cache=False)
    return torch.log_softmax(found.logits.double(), -1).numpy()


@pytest.mark.parametrize("window", [1, 3])
@pytest.mark.parametrize("name", [*MODELS, "mistral"])
def test_a_window_is_a_band(name, window):
    model = {**MODELS, "mistral": mistral}[name]()
    policy = TransformersPolicy(model, prompt_length=0, begin=BEGIN)
    changed, empty = perturbed(policy, f"window={window}"), np.empty((len(ROWS), 0), dtype=int)
    laws = changed.forced_log_probs(empty, TEXTS[ROWS])
    ids = np.column_stack([np.full(len(ROWS), BEGIN), TEXTS[ROWS]])[:, :-1]
    np.testing.assert_allclose(laws, banded(model, ids, window), rtol=0, atol=1e-5)
    usual = policy.forced_log_probs(empty, TEXTS[ROWS])
    np.testing.assert_array_equal(laws[:, :window], usual[:, :window])  # they are read in the same way
    assert np.abs(laws[:, window:] - usual[:, window:]).max() > 1e-3 or name == "mistral"
    tokens, log_probs = changed.sample_with_log_probs(empty, H, np.random.default_rng(0))  # token by token
    np.testing.assert_allclose(log_probs, changed.log_probs(empty, tokens), rtol=0, atol=1e-5)


def test_a_window_counts_no_filling():
    short = TransformersPolicy(llama(), prompt_length=2, begin=BEGIN, attention_window=3)
    filled = TransformersPolicy(short.model, prompt_length=4, begin=BEGIN, attention_window=3, pad=0)
    prompts = np.column_stack([np.zeros((len(ROWS), 2), dtype=int), PROMPTS[ROWS]])
    np.testing.assert_allclose(filled.log_probs(prompts, TEXTS[ROWS]), law(short), rtol=0, atol=1e-5)


def test_samplers_share_the_module_and_replace_the_policys_own(policy):
    for change in (*SAMPLERS, "window=3", "none"):
        assert perturbed(policy, change).model is policy.model
    assert perturbed(policy.replace(temperature=0.9), "temperature=0.5").temperature == 0.5
    twice = perturbed(perturbed(policy, "int8"), "drop=1")
    assert twice.change == "int8, drop=1" and perturbed(twice, "top_k=2").change == twice.change


def test_tied_weights_stay_tied_in_half_precision(policy):
    changed = perturbed(policy, "bf16").model
    assert changed.dtype == torch.bfloat16 and policy.model.dtype == torch.float32
    assert changed.num_parameters() == policy.model.num_parameters()


def test_products_in_half_precision_are_those_of_torch(policy):
    changed = perturbed(policy, "bf16")
    ours = law(changed)
    for module in changed.model.modules():
        if isinstance(module, torch.nn.Linear):
            module.__class__ = torch.nn.Linear
    np.testing.assert_allclose(ours, law(changed), rtol=0, atol=0.03)


def test_members_are_a_finite_class(policy):
    members = perturbed_models(policy, ("none", "int8", "window=3"))
    assert [member.change for member in members] == ["", "int8", ""] and members.vocab_size == A


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ("int9", "unknown change 'int9'. Did you mean 'int"),
        ("topk=3", "Did you mean 'top_k'"),
        ("bf16=3", "takes no value"),
        ("int8=many", "such as int8=1"),
        ("int8=0", "int8=0 must be"),
        ("window", "such as window=8"),
        ("top_k=many", "such as top_k=50"),
        ("drop=3", "drop=3 must be .*2"),
        ("window=0", "window=0 must be"),
        ("top_k=6", "top_k=6 must be"),
        ("top_p=0", "top_p=0"),
        ("temperature=0", "temperature=0"),
        ("low_rank=0", "low_rank=0 must be"),
        ("low_rank=1.5", "low_rank=1.5 must be"),
        ("low_rank=0.0", "low_rank=0.0 must be"),
    ],
)
def test_what_is_no_change_is_refused(policy, change, says):
    with pytest.raises(ValueError, match=says):
        perturbed(policy, change)


def test_what_has_no_such_parts_is_refused():
    one = TransformersPolicy(llama(num_hidden_layers=1), prompt_length=0, begin=0)
    with pytest.raises(ValueError, match="one layer alone"):
        perturbed(one, "drop")
    with pytest.raises(TypeError, match="must be a string"):
        perturbed(one, 8)
    with pytest.raises(TypeError, match="TransformersPolicy"):
        perturbed(one.model, "int8")
    with pytest.raises(ValueError, match="attention_window=4 must be an integer >= 1 and <= 3"):
        TransformersPolicy(mistral(), prompt_length=0, begin=0, attention_window=4)
    bloom = transformers.BloomConfig(vocab_size=5, hidden_size=8, n_layer=1, n_head=1)
    with pytest.raises(ValueError, match="takes a mask for every pair"):
        TransformersPolicy(transformers.BloomForCausalLM(bloom), prompt_length=0, begin=0, attention_window=4)

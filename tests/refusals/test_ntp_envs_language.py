"""What language models as policies refuse: one row a refusal, and what the message must say."""
# ruff: noqa: E402

import numpy as np
import pytest

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")

from ntp_envs.language import TransformersPolicy, load_model

TINY = {"n_layer": 1, "n_head": 2, "n_embd": 8, "n_positions": 8, "vocab_size": 5}
GPT2 = transformers.GPT2LMHeadModel(transformers.GPT2Config(**TINY))
BERT = {"num_hidden_layers": 1, "num_attention_heads": 2, "hidden_size": 8, "intermediate_size": 8, "vocab_size": 5}
T5 = transformers.T5Config(num_layers=1, num_heads=2, d_model=8, d_ff=8, d_kv=4, vocab_size=5)
MAMBA = transformers.MambaConfig(num_hidden_layers=1, hidden_size=8, vocab_size=5)


def made(model=GPT2, **options):
    return lambda: TransformersPolicy(model, **{"prompt_length": 2, **options})


def scored(prompts=((0, 1),), tokens=((0, 1, 2),), model=GPT2, **options):
    return lambda: made(model, **options)().log_probs(np.array(prompts), np.array(tokens))


def drawn(horizon, **options):
    return lambda: made(**options)().sample(np.zeros((2, 2), int), horizon, np.random.default_rng(0))


def broken():
    model = transformers.GPT2LMHeadModel(transformers.GPT2Config(**TINY))
    torch.nn.init.constant_(model.transformer.ln_f.bias, float("nan"))
    return model


ROWS = [
    ("module", made(torch.nn.Linear(2, 2)), TypeError, "not Linear; take AutoModel.*ModulePolicy"),
    ("no head", made(GPT2.transformer), TypeError, "GPT2Model has no head that gives the law of the next token"),
    ("masked", made(transformers.BertForMaskedLM(transformers.BertConfig(**BERT))), TypeError, "no head that gives"),
    (
        "not causal",
        scored(model=transformers.BertLMHeadModel(transformers.BertConfig(**BERT))),
        ValueError,
        "BertLMHeadModel returns no key-value cache.*is_decoder=True",
    ),
    ("encoder", made(transformers.T5ForConditionalGeneration(T5)), TypeError, "a decoder alone is needed"),
    ("a state", made(transformers.MambaForCausalLM(MAMBA)), TypeError, "MambaForCausalLM keeps a state.*ModulePolicy"),
    ("nothing to read", made(prompt_length=0), ValueError, "nothing to read; give begin.*bos_token_id"),
    ("begin", made(begin=5), ValueError, "begin=5 must be an integer >= 0 and <= 4"),
    ("one of begin", made(begin=[4, -1]), ValueError, "begin=-1"),
    ("words", made(begin="<s>"), TypeError, "begin='<s>'"),
    ("vocabulary", made(vocab_size=6), ValueError, "vocab_size=6 must be .* <= 5"),
    ("temperature 0", made(temperature=0), ValueError, "temperature=0 must be above 0; .*GreedyPolicy"),
    ("temperature", made(temperature=-1.0), ValueError, "temperature=-1.0"),
    ("infinite", made(temperature=np.inf), ValueError, "temperature=inf"),
    ("top_k 0", made(top_k=0), ValueError, "top_k=0 must be an integer >= 1 and <= 5"),
    ("top_k 6", made(top_k=6), ValueError, "top_k=6 must be an integer >= 1 and <= 5"),
    ("top_k of fewer", made(top_k=5, vocab_size=4), ValueError, "top_k=5 must be an integer >= 1 and <= 4"),
    ("top_p 0", made(top_p=0.0), ValueError, "top_p=0 must be above 0 and at most 1; .*top_k=1"),
    ("top_p", made(top_p=1.1), ValueError, r"top_p=1.1 must be a finite number in \[0, 1\]"),
    ("pad", made(pad=5), ValueError, "pad=5 must be"),
    ("batch", made(batch_size=0), ValueError, "batch_size=0"),
    ("long prompt", made(prompt_length=8, begin=0), ValueError, "1 ids of begin and 8 of the prompt, .* window of 8"),
    (
        "longer",
        drawn(8),
        ValueError,
        "last of 8 tokens .*0 ids of begin and 2 .* are 9, .*window of 8; at most 7 tokens",
    ),
    (
        "longer text",
        scored(tokens=np.zeros((1, 7), int), begin=0),
        ValueError,
        "1 ids of begin .* at most 6 tokens fit",
    ),
    ("prompt's id", scored([[0, 5]]), ValueError, r"prompts\[0, 1\]=5 is outside the vocabulary"),
    ("id", scored(tokens=[[0, 7]]), ValueError, r"tokens\[0, 1\]=7 is outside the vocabulary"),
    ("prompt's length", scored([[0, 1, 2]]), ValueError, "2 columns are needed"),
    ("rows", scored([[0, 1]] * 2), ValueError, "2 prompts for 1 token sequences"),
    (
        "empty",
        scored([[1, 2], [0, 0]], [[1], [1]], pad=0),
        ValueError,
        r"prompts\[1\] is nothing but pad=0.*give begin",
    ),
    ("nan", scored(model=broken()), ValueError, "logits that are not a number"),
    (
        "nan drawn",
        lambda: made(broken())().sample(np.zeros((2, 2), int), 2, np.random.default_rng(0)),
        ValueError,
        "not",
    ),
    ("rng", lambda: made()().sample(np.zeros((2, 2), int), 2, 0), TypeError, "rng"),
    ("directory", lambda: load_model("./nowhere"), FileNotFoundError, "there is no directory nowhere; give one with"),
    ("file", lambda: load_model("nowhere/model.gguf"), FileNotFoundError, "there is no file nowhere/model.gguf"),
]


@pytest.mark.parametrize(("call", "error", "message"), [row[1:] for row in ROWS], ids=[row[0] for row in ROWS])
def test_refused(call, error, message):
    with pytest.raises(error, match=message):
        call()


def test_the_longest_that_fits():
    assert made(begin=0)().horizon == 6
    assert drawn(6, begin=0)().shape == (2, 6)


@pytest.mark.parametrize("name", ["nobody/no-such-model", "no folder/at all"])
def test_what_is_not_there_is_told_without_a_network(name, monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(OSError, match=f"cannot load '{name}': .*only what is in the cache is found"):
        load_model(name)


def test_a_broken_folder(tmp_path):
    (tmp_path / "config.json").write_text('{"model_type": "gpt3"}')
    with pytest.raises(OSError, match=r"AutoConfig cannot load .*gpt3"):
        load_model(tmp_path)
    (tmp_path / "model.gguf").write_bytes(b"not one at all, whatever its name says")
    with pytest.raises(OSError, match=r"AutoConfig cannot load '.*model\.gguf'"):
        load_model(tmp_path / "model.gguf")

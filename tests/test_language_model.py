"""The task of a language model: tiny random models, and a tokenizer of seven words."""
# ruff: noqa: E402

import json
import pickle
from types import SimpleNamespace

import gymnasium as gym
import numpy as np
import pytest
from gymnasium.utils.env_checker import check_env

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")

from test_language import gpt2, llama
from tokenizers import Tokenizer, models, pre_tokenizers

from agents import LogLossBC, RhoEstimatorBC, tournament
from agents.neural import NetworkClass
from ntp_envs import EndedPolicy, NotTractableError, collect, distance, make_task, task_names
from ntp_envs.language import TransformersPolicy, check_same_tokens, load_model
from ntp_envs.policy_classes import EndedClass, NGramClass
from ntp_envs.tasks import LanguageModel
from ntp_envs.testing import check_task

A, H = 7, 6
WORDS = ("a", "b", "c", "d")
CHANGES = ("int8", "drop", "temperature=0.5", "top_k=3")


def tokenizer(words=WORDS, **special):
    special = {"bos_token": "<s>", "eos_token": "</s>", "unk_token": "<u>", **special}
    vocabulary = {word: i for i, word in enumerate((*words, "<s>", "</s>", "<u>"))}
    made = Tokenizer(models.WordLevel(vocabulary, unk_token="<u>"))
    made.pre_tokenizer = pre_tokenizers.Whitespace()
    return transformers.PreTrainedTokenizerFast(tokenizer_object=made, **special)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A saved model of 8 logits with its tokenizer of 7 tokens."""
    place = tmp_path_factory.mktemp("model")
    tokenizer().save_pretrained(place)
    llama(vocab_size=A + 1).save_pretrained(place)
    return str(place)


@pytest.fixture(scope="module")
def module():
    return gpt2(vocab_size=A, n_layer=3)


def task_of(module, **options):
    return LanguageModel(module, tokenizer(), **{"horizon": H, "changes": CHANGES, **options})


# -- the law -----------------------------------------------------------------------------------------------------------


def test_it_conforms(folder):
    check_task(LanguageModel(folder, horizon=3, changes=CHANGES))
    check_task(LanguageModel(folder, horizon=3, prompts=["a b", "c"], end="eos", changes=["drop"], top_p=0.9))


def test_the_expert_is_the_model_from_its_first_token(module):
    task, empty = task_of(module), np.empty((9, 0), dtype=int)
    assert (task.vocab_size, task.prompt_length, task.begin, task.end_token) == (A, 0, (4,), None)
    tokens = np.random.default_rng(0).integers(A, size=(9, H))
    direct = TransformersPolicy(module, prompt_length=0, begin=4).log_probs(empty, tokens)
    np.testing.assert_array_equal(task.expert.log_probs(empty, tokens), direct)
    assert task_of(module, begin=2).begin == (2,) and task_of(module, begin=[2, 0]).begin == (2, 0)
    assert LanguageModel(module, tokenizer(bos_token=None), horizon=H).begin == (5,)  # the end, where there is none
    assert LanguageModel(module, tokenizer(bos_token=None), prompts=[[1]], horizon=H).begin == ()


def test_ids_without_a_tokenizer_and_logits_without_tokens(module, folder):
    task = LanguageModel(folder, horizon=H)
    assert task.vocab_size == A  # the eighth logit is no token
    assert np.exp(task.expert.next_log_probs(np.empty((1, 0), int), np.empty((1, 0), int))).sum() == pytest.approx(1)
    module.config.bos_token_id, kept = None, module.config.bos_token_id
    module.config.eos_token_id = [3, 2]
    assert LanguageModel(module, horizon=H).begin == (3,)
    module.config.bos_token_id = kept
    assert LanguageModel(module, prompts=[[1, 2]], begin=(), horizon=H).decode([3, 0]) == "3 0"


def test_prompts_of_every_kind(module, tmp_path, rng):
    file = tmp_path / "prompts.txt"
    file.write_text("a b c\n\n  b \nb\n", encoding="utf-8")
    words = task_of(module, prompts=["a b c", "b", "b"])
    for prompts in (file, str(file), [[0, 1, 2], [1], [1]]):
        task = task_of(module, prompts=prompts)
        np.testing.assert_array_equal(task._prompts, words._prompts)
    assert words.pad == 2 and words._prompts.tolist() == [[0, 1, 2], [2, 2, 1], [2, 2, 1]]  # no prompt begins with 2
    listed, probabilities = words.prompt_law()
    assert dict(zip(map(tuple, listed.tolist()), probabilities)) == {(0, 1, 2): 1 / 3, (2, 2, 1): 2 / 3}
    assert {tuple(row) for row in words.sample_prompts(99, rng).tolist()} == {(0, 1, 2), (2, 2, 1)}
    cut = task_of(module, prompts=np.array([[0, 1, 2], [2, 1, 0]]), prompt_length=2)
    assert cut._prompts.tolist() == [[0, 1], [2, 1]] and cut.pad is None
    assert task_of(module, prompts=["a b", "b"], end=2).pad == 3
    tokens = rng.integers(A, size=(1, H))
    alone = TransformersPolicy(module, prompt_length=1, begin=4).log_probs([[1]], tokens)
    np.testing.assert_allclose(words.expert.log_probs([[2, 2, 1]], tokens), alone, rtol=0, atol=1e-5)


def test_documents_end(module, rng):
    task = task_of(module, end="eos", learner_order=1, learner="ngram")
    assert task.end_token == 5 and isinstance(task.expert, EndedPolicy)
    demos = collect(task, 60, rng)
    assert demos.end_token == 5 and (demos.lengths < H).sum() > 0
    assert task.decode([0, 3, 5, 5]) == "a d </s>" and task_of(module).decode([0, 5, 5]) == "a </s> </s>"
    assert isinstance(task.policy_class, EndedClass) and isinstance(task.policy_class.members, NGramClass)
    assert task.replace(learner="perturbed").policy_class.end_token == 5
    assert LogLossBC().fit(demos, task.policy_class, rng=rng).policy_.vocab_size == A


def test_what_is_not_known_says_why(module):
    for call in (task_of(module).best_in_class, task_of(module).population):
        with pytest.raises(NotTractableError, match="language model"):
            call()


# -- learners ----------------------------------------------------------------------------------------------------------


def test_learners_choose_among_the_near_misses(module, rng):
    """The member that wrote the data; where the model itself did, one that is nearly it and not one that is far."""
    task = task_of(module, horizon=4)
    members = task.policy_class.policies
    assert distance(task.expert, members[0], task).final < 0.01 < 0.1 < distance(task.expert, members[2], task).final
    for writer, chosen in ((members[2], 2), (None, 0)):
        demos = collect(task, 300, rng, policy=writer)
        for learner in (LogLossBC(), RhoEstimatorBC()):
            assert learner.fit(demos, task.policy_class, rng=rng).policy_ is members[chosen]
        assert tournament(members, demos).index == chosen


def test_networks_have_its_shape(module):
    spec = NetworkClass.for_task("mlp", task_of(module, prompts=["a b"]), width=8)
    assert (spec.vocab_size, spec.prompt_length, spec.horizon) == (A, 2, H)


# -- environments ------------------------------------------------------------------------------------------------------


def test_environments(module, folder):
    for given in ({"model": folder}, {"model": module, "tokenizer": tokenizer()}):
        env = gym.make("ntp/LanguageModel-v0", horizon=8, **given)
        check_env(env.unwrapped, skip_render_check=True)
        envs = gym.make_vec("ntp/LanguageModel-v0", num_envs=3, horizon=2, prompts=["a", "b c"], **given)
        first = envs.reset(seed=0)[0]
        for _ in range(5):
            seen, reward, *_ = envs.step(np.array([0, 1, 2]))
        assert seen.shape == first.shape == (3, 4) and reward.shape == (3,)
    assert "LanguageModel" not in task_names()  # which can be made without a model


def test_a_large_vocabulary_costs_no_memory():
    model = gpt2(vocab_size=49_152, n_embd=4)
    task = LanguageModel(model, horizon=4, begin=0, learner="ngram")
    env = gym.make("ntp/LanguageModel-v0", model=model, horizon=4, begin=0, reward="none", expert_info=False)
    assert env.observation_space.nvec.tolist() == [49_153] * 4 and task.policy_class.vocab_size == 49_152
    assert sum(space.nbytes for space in (env.observation_space.nvec, env.reset(seed=0)[0])) < 100


# -- as a value --------------------------------------------------------------------------------------------------------


def test_a_process_keeps_a_model_and_another_loads_it(module, folder):
    one, two = (LanguageModel(folder, horizon=h) for h in (H, 4))
    assert one.writer.model is two.writer.model and one != two
    bytes_ = pickle.dumps(one)
    assert len(bytes_) < 2000 and pickle.loads(bytes_) == one and hash(pickle.loads(bytes_)) == hash(one)
    again = pickle.loads(pickle.dumps(task_of(module, prompts=["a b", "c"])))
    assert again == task_of(module, prompts=["a b", "c"]) and again.writer.model is not module
    assert again != task_of(gpt2(1, vocab_size=A, n_layer=3), prompts=["a b", "c"])
    assert again.fingerprint() == task_of(module, prompts=["a b", "c"]).fingerprint()


def test_parameters_are_json_where_the_model_is_named(folder):
    task = make_task("LanguageModel", model=folder, prompts=[["a"], ["b"]][0], horizon=H, temperature=2)
    again = make_task("LanguageModel", **json.loads(json.dumps(task.parameters())))
    assert again == task and again.temperature == 2.0
    assert repr(task) == f"LanguageModel(model={folder!r}, prompts=('a',), horizon=6, temperature=2.0)"
    assert collect(task, 2, np.random.default_rng(0)).source["parameters"]["model"] == folder


# -- refusals ----------------------------------------------------------------------------------------------------------

REFUSED = {
    "no tokens": ({"prompts": ["a", " "]}, ValueError, r"prompts\[1\] has no tokens"),
    "no prompts": ({"prompts": []}, ValueError, "has none in it"),
    "no file": ({"prompts": "nowhere.txt"}, FileNotFoundError, "no file prompts='nowhere.txt'"),
    "ids": ({"prompts": [[1, 2], [7, 1]]}, ValueError, r"prompts\[1\].*7"),
    "kinds": ({"prompts": [1, 2]}, TypeError, r"prompts\[0\]=1 must be a text, or a list"),
    "window": ({"horizon": 17}, ValueError, "horizon=17 must be at most 16"),
    "prompt_length": ({"prompts": ["a b"], "prompt_length": 3}, ValueError, "prompt_length=3"),
    "top_k": ({"top_k": 8}, ValueError, "top_k=8 must be"),
    "change": ({"changes": ["in8"]}, ValueError, "unknown change 'in8'. Did you mean 'int8'"),
    "changes": ({"changes": "int8"}, ValueError, "changes='int8' must be a list"),
    "learner": ({"learner": "n-gram"}, ValueError, "learner='n-gram'.*'ngram'"),
    "dtype": ({"dtype": "float31"}, ValueError, "dtype='float31'"),
    "no float": ({"dtype": "int8"}, ValueError, "dtype='int8' must be"),
    "begin": ({"begin": 7}, ValueError, "begin=7 must be"),
    "end": ({"end": 7}, ValueError, "end=7 must be"),
    "end in a prompt": ({"end": 1, "prompts": ["a b"]}, ValueError, "end=1 is in a prompt"),
    "no end": ({"end": "stop"}, ValueError, "end='stop' must be an id"),
}


@pytest.mark.parametrize(("options", "error", "says"), REFUSED.values(), ids=REFUSED)
def test_refused_when_it_is_made(module, options, error, says):
    with pytest.raises(error, match=says):
        task_of(module, **options)


def test_models_and_tokenizers_that_are_refused(module, folder, monkeypatch):
    with pytest.raises(ValueError, match="neither for the beginning nor for the end"):
        LanguageModel(module, tokenizer(bos_token=None, eos_token=None))
    with pytest.raises(ValueError, match="prompts in words need a tokenizer"):
        LanguageModel(module, prompts=["a"])
    with pytest.raises(ValueError, match="a model that is named has its own"):
        LanguageModel(folder, tokenizer())
    with pytest.raises(TypeError, match="must be a causal language model"):
        LanguageModel(torch.nn.Linear(2, 2))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(OSError, match=r"cannot load 'nobody/no-such-model': .*gated"):
        LanguageModel("nobody/no-such-model")


def test_too_large_a_model_is_not_read(folder, monkeypatch):
    monkeypatch.setattr("psutil.virtual_memory", lambda: SimpleNamespace(available=10_000))
    with pytest.raises(MemoryError, match=r"weights, 2\.18e-05 GB in float32, and 1e-05 GB of memory are free"):
        load_model(folder)


def test_tokenizers_that_differ():
    one = tokenizer()
    assert check_same_tokens(one, tokenizer()) == A
    with pytest.raises(ValueError, match=r"differ at 1 of 7 ids \(2 is 'c' and 'x'\).*vocab_size=2"):
        check_same_tokens(one, tokenizer(words=("a", "b", "x", "d")))
    with pytest.raises(ValueError, match=r"differ at 4 of 8 ids \(4 is '<s>' and 'e'; .*vocab_size=4"):
        check_same_tokens(one, tokenizer(words=("a", "b", "c", "d", "e")))

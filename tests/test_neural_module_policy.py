"""A torch model of somebody else's as a policy."""

from types import SimpleNamespace

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from agents.neural import ModulePolicy  # noqa: E402
from ntp_envs import distance, evaluate, make_task  # noqa: E402


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


@pytest.mark.parametrize(
    ("module", "error", "message"),
    [
        (torch.nn.Embedding(9, 3), ValueError, "logits for 3 tokens"),
        (torch.nn.Flatten(), ValueError, "logits of shape"),
        (Counting(4).requires_grad_(False), None, ""),
    ],
)
def test_logits_of_another_shape_are_refused(module, error, message):
    policy = ModulePolicy(module, 4, prompt_length=1)
    prompts, tokens = np.zeros((2, 1), int), np.zeros((2, 2), int)
    if error is None:
        policy.log_probs(prompts, tokens)
        return
    with pytest.raises(error, match=message):
        policy.log_probs(prompts, tokens)


def test_refusals():
    with pytest.raises(TypeError, match=r"torch\.nn\.Module"):
        ModulePolicy(lambda ids: ids, 4, prompt_length=1)
    with pytest.raises(ValueError, match="give begin"):
        ModulePolicy(Counting(4), 4, prompt_length=0)
    with pytest.raises(ValueError, match="batch_size"):
        ModulePolicy(Counting(4), 4, prompt_length=1, batch_size=0)
    broken = Counting(4)
    broken.weight.data.fill_(float("nan"))
    with pytest.raises(ValueError, match="not a number"):
        ModulePolicy(broken, 4, prompt_length=1).log_probs(np.zeros((1, 1), int), np.zeros((1, 2), int))
    with pytest.raises(ValueError, match="at most 2 tokens"):
        ModulePolicy(Counting(4), 4, prompt_length=1, horizon=2).log_probs(np.zeros((1, 1), int), np.zeros((1, 3), int))


@pytest.mark.parametrize("begin", [9, 5])
def test_ids_that_the_module_has_no_embedding_for(begin):
    gpt = torch.nn.Sequential(torch.nn.Embedding(5, 8), torch.nn.Linear(8, 5))
    policy = ModulePolicy(gpt, 5, prompt_length=0, begin=begin)
    with pytest.raises(ValueError, match=rf"must read ids up to {begin} and 3 of them.*begin={begin}") as caught:
        policy.log_probs(np.empty((2, 0), int), np.zeros((2, 3), int))
    assert isinstance(caught.value.__cause__, IndexError)


def test_a_module_that_reads_no_further():
    class Short(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.place = torch.nn.Parameter(torch.zeros(4, 5))

        def forward(self, ids):
            assert ids.shape[1] <= 4, "block size"
            return self.place[: ids.shape[1]].expand(len(ids), -1, -1)

    policy = ModulePolicy(Short(), 5, prompt_length=1)
    assert policy.log_probs(np.zeros((2, 1), int), np.zeros((2, 4), int)).shape == (2, 4)
    with pytest.raises(ValueError, match=r"(?s)AssertionError: block size.*horizon against the longest"):
        policy.log_probs(np.zeros((2, 1), int), np.zeros((2, 5), int))

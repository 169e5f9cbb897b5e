"""What a large vocabulary takes: memory in proportion to the batch, and none with the length of texts."""
# ruff: noqa: E402

import tracemalloc
import weakref

import numpy as np
import pytest

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")

from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from ntp_envs import TokenVectorEnv, language
from ntp_envs.tasks import LanguageModel

A = 49152


class Tensors(TorchDispatchMode):
    """Counts the bytes of tensors that live, by their storage."""

    def __init__(self):
        super().__init__()
        self.alive, self.now, self.peak = {}, 0, 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        found = function(*args, **(kwargs or {}))
        for tensor in tree_leaves(found):
            if isinstance(tensor, torch.Tensor):
                storage = tensor.untyped_storage()
                size, owners = self.alive.get(storage.data_ptr(), (storage.nbytes(), 0))
                self.now += size if owners == 0 else 0
                self.peak = max(self.peak, self.now)
                self.alive[storage.data_ptr()] = size, owners + 1
                weakref.finalize(tensor, self.gone, storage.data_ptr())
        return found

    def gone(self, place):
        size, owners = self.alive.pop(place)
        if owners > 1:
            self.alive[place] = size, owners - 1
        else:
            self.now -= size


def peak(work):
    """Bytes of tensors and arrays together, at most."""
    tracemalloc.start()
    with Tensors() as tensors:
        work()
    arrays = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    return tensors.peak + arrays


@pytest.fixture(scope="module")
def task():
    sizes = {"hidden_size": 8, "intermediate_size": 8, "num_hidden_layers": 1, "num_attention_heads": 1}
    config = transformers.LlamaConfig(vocab_size=A, max_position_embeddings=32, bos_token_id=0, **sizes)
    return LanguageModel(transformers.LlamaForCausalLM(config), horizon=24)


def sampling(task, batch, length):
    task.expert.sample_with_log_probs(np.zeros((batch, 0), int), length, np.random.default_rng(0))


def scoring(task, batch, length):
    task.expert.log_probs(np.zeros((batch, 0), int), np.zeros((batch, length), int))


def stepping(task, batch, length):
    envs = TokenVectorEnv(batch, task, reward="expert_log_prob", expert_info=False)
    envs.reset(seed=0)
    for _ in range(length):
        envs.step(np.zeros(batch, dtype=int))


@pytest.mark.parametrize("work", [sampling, scoring, stepping])
def test_memory_grows_with_the_batch_and_not_with_the_length(work, task, monkeypatch):
    monkeypatch.setattr(language, "LOGITS", 4 * A)  # so that few places are scored at once here
    work(task, 2, 2)  # what is made once
    small = peak(lambda: work(task, 4, 6))
    assert small > 4 * A * 8
    assert peak(lambda: work(task, 4, 18)) < 1.1 * small
    assert peak(lambda: work(task, 12, 6)) < 3.3 * small

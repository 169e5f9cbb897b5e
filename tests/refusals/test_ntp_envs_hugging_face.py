"""What the bridges to training loops of Hugging Face refuse: one row a refusal, and what the message must say."""
# ruff: noqa: E402

import dataclasses

import numpy as np
import pytest

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")
datasets = pytest.importorskip("datasets")

from ntp_envs import Demonstrations, collect, make_task
from ntp_envs.hugging_face import (
    DistanceTrainerCallback,
    from_hf,
    task_policy,
    task_reward,
    task_tokenizer,
    to_hf,
    token_ids,
)

TASK = make_task("Contamination", horizon=3)
LONGER = make_task("Contamination", horizon=4)
STAR = make_task("PathStar", degree=2, length=2, nodes=4)
DEMOS = collect(TASK, 4, np.random.default_rng(0))
NAMELESS = dataclasses.replace(DEMOS, source={})
UNEQUAL = dataclasses.replace(DEMOS, weights=np.arange(4.0))
CONFIG = {"n_layer": 1, "n_head": 1, "n_embd": 4}
NARROW = transformers.GPT2LMHeadModel(transformers.GPT2Config(**CONFIG, vocab_size=2))
SHORT = transformers.GPT2LMHeadModel(transformers.GPT2Config(**CONFIG, **token_ids(TASK), n_positions=3))


def paid(prompt):
    return lambda: task_reward(STAR)(prompts=[prompt], completion_ids=[[0, 1]])


def watch(**options):
    return lambda: DistanceTrainerCallback(TASK, **options)


def texts_of_others():
    return from_hf(to_hf(DEMOS, form="text"))


ROWS = [
    ("tokenizer", lambda: task_tokenizer("Contamination"), TypeError, r"must be an ntp_envs\.Task"),
    ("form", lambda: to_hf(DEMOS, form="txt"), ValueError, "form='txt' is not an option. Did you mean 'text'"),
    ("weights", lambda: to_hf(UNEQUAL), ValueError, "unequal weights, which a trainer cannot use; pass rng="),
    ("no task", lambda: to_hf(NAMELESS, form="text"), ValueError, "no task is known here; pass task="),
    ("another task", lambda: to_hf(NAMELESS, form="text", task=LONGER), ValueError, "horizon is 4 in the task and 3"),
    ("texts back", texts_of_others, ValueError, r"was not made by to_hf\(..., form='ids'\): 'input_ids'"),
    ("other rows", lambda: from_hf(datasets.Dataset.from_dict({"input_ids": [[1]]})), ValueError, "was not made by"),
    ("no rows", lambda: from_hf(DEMOS), ValueError, "was not made by"),
    ("ids of others", lambda: task_policy(NARROW, TASK), ValueError, "begin=3 must be .* <= 1"),
    ("no model", lambda: task_policy(torch.nn.Linear(2, 2), TASK), TypeError, "must be a causal language model"),
    ("rule", lambda: task_reward(TASK, "success"), ValueError, "has no notion of success"),
    ("short prompt", paid("0 1"), ValueError, "prompts has '0 1', which is no prompt of 9 tokens"),
    ("no token", paid("0 1 2 3 0 1 2 3 <pad>"), ValueError, "which is no prompt of 9 tokens"),
    ("messages", paid([{"role": "user", "content": "0"}]), ValueError, "which is no prompt of 9 tokens"),
    ("callback: task", lambda: DistanceTrainerCallback("Contamination"), TypeError, r"ntp_envs\.Task"),
    ("callback: prefixes", watch(prefixes=[9]), ValueError, "prefixes=9"),
    ("callback: metric", watch(metric="coverage"), ValueError, "metric"),
    ("callback: every", watch(every=0), ValueError, "every=0"),
]


@pytest.mark.parametrize(("call", "error", "message"), [row[1:] for row in ROWS], ids=[row[0] for row in ROWS])
def test_refused(call, error, message):
    with pytest.raises(error, match=message):
        call()


def test_a_model_whose_window_is_too_small():
    policy = task_policy(SHORT, TASK)
    assert policy.horizon == 2
    with pytest.raises(ValueError, match="more than its window of 3; at most 2 tokens fit"):
        policy.log_probs(DEMOS.prompts, DEMOS.tokens)


def test_what_is_no_token_is_not_read():
    with pytest.raises(Exception, match="Missing \\[UNK\\]"):
        task_tokenizer(TASK)("0 7 1")
    assert isinstance(from_hf(to_hf(DEMOS)), Demonstrations)

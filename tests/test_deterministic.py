"""Greedy decoding and one right answer a prompt, as policies."""

import pickle

import numpy as np
from hypothesis import given
from hypothesis import strategies as st
from laws import examples

from ntp_envs import GreedyPolicy, TabularPolicy, TargetPolicy


def reversed_prompt(prompts):
    return prompts[:, ::-1]


@examples()
@given(seed=st.integers(0, 1000), vocab_size=st.integers(2, 4), horizon=st.integers(1, 4))
def test_greedy_follows_the_argmax_of_each_conditional(seed, vocab_size, horizon):
    rng = np.random.default_rng(seed)
    policy = TabularPolicy.random(vocab_size, horizon, rng, prompt_length=1)
    prompts = rng.integers(vocab_size, size=(6, 1))
    written = GreedyPolicy(policy).sample(prompts, horizon, rng)
    for h in range(horizon):
        best = policy.next_log_probs(prompts, written[:, :h]).argmax(axis=1)
        np.testing.assert_array_equal(written[:, h], best)
    assert (GreedyPolicy(policy).log_probs(prompts, written) == 0).all()


def test_target_policy_writes_the_answer_whatever_came_before():
    policy = TargetPolicy(reversed_prompt, 3, horizon=3, prompt_length=3)
    prompts = np.array([[0, 1, 2], [2, 2, 1]])
    np.testing.assert_array_equal(policy.sample(prompts, 3, np.random.default_rng(0)), prompts[:, ::-1])
    np.testing.assert_array_equal(policy.sample(prompts, 2, np.random.default_rng(0)), prompts[:, :0:-1])
    wrong = np.zeros((2, 1), dtype=int)
    np.testing.assert_array_equal(np.exp(policy.next_log_probs(prompts, wrong)), np.eye(3)[prompts[:, 1]])
    np.testing.assert_array_equal(policy.log_probs(prompts, prompts[:, ::-1]), np.zeros((2, 3)))
    np.testing.assert_array_equal(np.exp(policy.forced_log_probs(prompts, prompts)), np.eye(3)[prompts[:, ::-1]])
    back = pickle.loads(pickle.dumps(policy))
    np.testing.assert_array_equal(back.log_probs(prompts, prompts), policy.log_probs(prompts, prompts))

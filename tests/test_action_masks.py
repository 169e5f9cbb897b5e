"""action_masks: sb3-contrib's convention, against the verifier asked token by token."""

import gymnasium as gym
import numpy as np
import pytest
from gymnasium.error import ResetNeeded
from gymnasium.vector import AutoresetMode

from ntp_envs import TokenEnv, TokenVectorEnv, make_task
from ntp_envs.tasks.registry import BUILT_IN, task_class

FAMILIES = sorted(BUILT_IN)


def allowed(task, prompt, tokens):
    """``(A,)`` by asking once for each token."""
    if len(tokens) == task.horizon:
        return [False] * task.vocab_size
    if not task.has_verifier:
        return [True] * task.vocab_size
    return [bool(task.verify(prompt[None], np.append(tokens, a)[None])[0]) for a in range(task.vocab_size)]


@pytest.mark.parametrize("family", FAMILIES)
def test_masks_are_the_verifier_s(family, rng):
    """Along a sequence of the expert's, of tokens that are allowed, and of any tokens."""
    env = gym.make(f"ntp/{family}-v0", reward="none", expert_info=False)
    base = env.unwrapped
    task = base.task
    with pytest.raises(ResetNeeded, match="action_masks was called before reset"):
        base.action_masks()
    for way in ("expert", "allowed", "any"):
        env.reset(seed=int(rng.integers(100)))
        written = task.expert.sample(base.prompt[None], task.horizon, rng)[0]
        for t in range(task.horizon):
            mask = env.get_wrapper_attr("action_masks")()
            assert mask.dtype == bool and mask.shape == (task.vocab_size,)
            if t < 20 or t + 1 == task.horizon:
                assert mask.tolist() == allowed(task, base.prompt, base.tokens)
            if way == "expert":
                token = written[t]
                assert mask[token] or not task.has_verifier or not task.verify(base.prompt[None], written[None])[0]
            elif way == "allowed" and mask.any():
                token = rng.choice(np.flatnonzero(mask))
            else:
                token = rng.integers(task.vocab_size)
            env.step(int(token))
        assert not base.action_masks().any()


@pytest.mark.parametrize("mode", list(AutoresetMode))
@pytest.mark.parametrize("family", [name for name in FAMILIES if task_class(name).has_verifier] + ["Contamination"])
def test_masks_of_a_batch_out_of_step(family, mode, rng):
    task = make_task(family)
    envs = TokenVectorEnv(3, task, reward="none", autoreset_mode=mode)
    with pytest.raises(ResetNeeded, match="action_masks was called before reset"):
        envs.action_masks()
    envs.reset(seed=0)
    over = np.zeros(3, dtype=bool)
    for t in range(min(task.horizon + 4, 40)):
        start = over if mode is AutoresetMode.DISABLED else np.arange(3) == t % 5
        if start.any():
            envs.reset(options={"reset_mask": start.copy()})
            over = over & ~start
        masks = envs.action_masks()
        assert masks.dtype == bool and masks.shape == (3, task.vocab_size)
        for row in range(3):
            line = envs._lines[row].astype(int)
            tokens = line[task.prompt_length :]
            wanted = allowed(task, line[: task.prompt_length], tokens[tokens < task.vocab_size])
            if over[row] and mode is AutoresetMode.NEXT_STEP:
                wanted = [True] * task.vocab_size
            assert masks[row].tolist() == wanted
        actions = [rng.choice(np.flatnonzero(mask if mask.any() else ~mask)) for mask in masks]
        _, _, terminations, truncations, _ = envs.step(np.array(actions))
        over = terminations | truncations


def test_masked_writing_solves_what_the_rules_decide():
    """On Snowball every token is decided by the rules, so a uniform writer under the mask copies the prompt."""
    env, rng = TokenEnv("Snowball", horizon=12, expert_info=False), np.random.default_rng(0)
    env.reset(seed=1)
    for _ in range(12):
        reward = env.step(int(rng.choice(np.flatnonzero(env.action_masks()))))[1]
    assert reward == 1.0 and env.tokens.tolist() == env.prompt.tolist()

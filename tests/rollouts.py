"""Loops that act in environments, for the tests of the wrappers. Not a test module."""

import numpy as np

from ntp_envs import make_task


def task_of(horizon=6):
    return make_task("Contamination", horizon=horizon, eps=0.1, p=0.05, q=0.7, theta_min=0.05)


def play(env, policy, episodes, *, seed=0):
    """One episode after another, actions from a policy; returns the sequences as the loop knows them."""
    rng, base = np.random.default_rng([seed, 1]), env.unwrapped  # not the stream of the prompts
    written = []
    for episode in range(episodes):
        env.reset(seed=seed if episode == 0 else None)
        over = False
        while not over:
            law = np.exp(policy.next_log_probs(base.prompt[None], base.tokens[None])[0])
            _, _, terminated, truncated, _ = env.step(int(rng.choice(len(law), p=law)))
            over = terminated or truncated
        written.append([*base.prompt.tolist(), *base.tokens.tolist()])
    return written


def play_batch(envs, policy, steps, *, seed=0):
    """A vector loop in lock-step, autoreset NEXT_STEP or SAME_STEP."""
    rng = np.random.default_rng([seed, 1])  # not the stream of the prompts
    observations, _ = envs.reset(seed=seed)
    for _ in range(steps):
        actions, _ = policy.predict(observations, rng=rng)
        observations, *_ = envs.step(actions)

"""Stepping `TokenVectorEnv` against Gymnasium's `SyncVectorEnv` of the same environments, on the same actions.

One unit of work is an episode of B sequences of H = 64 tokens and the step that starts the next ones (65 calls of
``step``, next-step autoreset); every call returns fresh copies.

There are two peers. ``make_vec sync`` is what Gymnasium gives to who asks for ``vectorization_mode="sync"``; it wraps
each environment in ``OrderEnforcing`` and ``PassiveEnvChecker``. ``bare sync`` is ``SyncVectorEnv`` over plain
`TokenEnv` objects, without any wrapper.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium.vector import SyncVectorEnv

from experiments.benchmarks import Clock, Row, Side, compare, main
from ntp_envs import TokenEnv, make_task
from ntp_envs.registration import environment_id

HORIZON = 64
SETTINGS: list[tuple[str, dict[str, Any]]] = [
    ("Contamination", {"reward": "none", "expert_info": False}),
    ("Tightrope", {"reward": "success", "expert_info": False}),
    ("Contamination", {"reward": "expert_log_prob", "expert_info": False}),
    ("Tightrope", {"reward": "expert_log_prob", "expert_info": False}),
    ("Contamination", {"reward": "expert_log_prob", "expert_info": True}),
]


def stepping(envs: Any, episodes: int, start: Callable[[Any], Any], calls: int) -> Side:
    """An episode, on average over ``episodes`` of them, after one that is not timed and says what came out.

    Args:
        envs: vector environments of either kind.
        episodes: to step through.
        start: seeds and resets them, to one prompt for all.
        calls: of ``step`` in an episode, with the one that starts the next.
    """
    space = getattr(envs, "single_action_space", None) or envs.action_space
    actions = list(np.random.default_rng(0).integers(0, space.n, (calls, envs.num_envs)))

    def side(clock: Clock) -> Any:
        start(envs)
        first = [envs.step(row)[:2] for row in actions]  # observations and rewards
        with clock(episodes):
            for _ in range(episodes):
                for row in actions:
                    envs.step(row)
        return first[HORIZON - 2][0], sum(rewards for _, rewards in first[:HORIZON])

    return side


def same(ours: Any, theirs: Any) -> bool:
    """Equal tokens, and equal rewards to rounding (stable-baselines3 has them in single precision)."""
    return bool(np.array_equal(ours[0], theirs[0]) and np.allclose(ours[1], theirs[1], rtol=1e-5))


def worded(family: str, num_envs: int, arguments: dict[str, Any]) -> str:
    """A setting in words."""
    return f"{family} H={HORIZON} B={num_envs} {' '.join(f'{name}={value}' for name, value in arguments.items())}"


def setting(family: str, num_envs: int, arguments: dict[str, Any], *, repeats: int) -> list[Row]:
    """One setting against both peers."""
    options = {"horizon": HORIZON, **arguments}
    name, episodes = environment_id(family), max(1, 2048 // num_envs)
    prompt = {"prompt": make_task(family, horizon=HORIZON).prompt_law()[0][0]}

    def side(envs: Any, episodes: int) -> Side:
        return stepping(envs, max(1, episodes), lambda envs: envs.reset(seed=0, options=prompt), HORIZON + 1)

    peers = {
        "make_vec sync": gym.make_vec(name, num_envs=num_envs, vectorization_mode="sync", **options),
        "bare sync": SyncVectorEnv([lambda: TokenEnv(family, **options) for _ in range(num_envs)]),
    }
    return compare(
        worded(family, num_envs, arguments),
        side(gym.make_vec(name, num_envs=num_envs, **options), 10 * episodes),
        {peer: side(envs, episodes // 16) for peer, envs in peers.items()},
        agree=same,
        repeats=repeats,
    )


def measure(quick: bool) -> Iterator[Row]:
    """Every setting at two sizes; ``quick`` leaves out those that ask the expert."""
    for num_envs in (64, 1024):
        for family, arguments in SETTINGS[:2] if quick else SETTINGS:
            yield from setting(family, num_envs, arguments, repeats=2 if quick else 3)


if __name__ == "__main__":
    main("stepping")

"""Stepping `TokenVectorEnv` against Gymnasium's `SyncVectorEnv` of the same environments, on the same actions.

One unit of work is an episode of B sequences of H = 64 tokens and the step that starts the next ones (65 calls of
``step``, next-step autoreset); every call returns fresh copies.

The peer is the harder one: ``SyncVectorEnv`` over plain `TokenEnv` objects, without the wrappers that ``make_vec`` puts
around each.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium.vector import SyncVectorEnv

from experiments.benchmarks import Clock, Row, Side
from ntp_envs import TokenEnv, make_task
from ntp_envs.registration import environment_id

HORIZON = 64
SETTINGS: tuple[tuple[str, str, dict[str, Any], int, str], ...] = (  # work, family, its arguments, B, goal
    ("success", "Tightrope", {"reward": "success", "expert_info": False}, 1024, "300x"),
    ("success, few sequences", "Tightrope", {"reward": "success", "expert_info": False}, 64, "40x"),
    ("expert_log_prob", "Contamination", {"reward": "expert_log_prob", "expert_info": False}, 1024, "1000x"),
    ("expert_log_prob", "Text", {"reward": "expert_log_prob", "expert_info": False}, 1024, "300x"),
)


def stepping(envs: Any, episodes: int, start: Callable[[Any], Any], calls: int) -> Side:
    """An episode, on average over ``episodes`` of them; the first says what came out.

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
        with clock(episodes):
            first = [envs.step(row)[:2] for row in actions]  # observations and rewards
            for _ in range(episodes - 1):
                for row in actions:
                    envs.step(row)
        return first[HORIZON - 2][0], sum(rewards for _, rewards in first[:HORIZON])

    return side


def same(ours: Any, theirs: Any) -> bool:
    """Equal tokens, and equal rewards to rounding (stable-baselines3 has them in single precision)."""
    return bool(np.array_equal(ours[0], theirs[0]) and np.allclose(ours[1], theirs[1], rtol=1e-5))


def rows(quick: bool) -> Iterator[Row]:
    """Every setting; ``quick`` has 4 sequences."""
    for work, family, arguments, num_envs, goal in SETTINGS:
        num_envs = 4 if quick else num_envs
        options: dict[str, Any] = {"horizon": HORIZON, **arguments}
        prompt = {"prompt": make_task(family, horizon=HORIZON).sample_prompts(1, np.random.default_rng(0))[0]}

        def start(envs: Any) -> None:
            envs.reset(seed=0, options=prompt)  # noqa: B023

        envs = gym.make_vec(environment_id(family), num_envs=num_envs, **options)
        peer = SyncVectorEnv([lambda: TokenEnv(family, **options)] * num_envs)  # noqa: B023
        yield Row(
            f"stepping {family}, reward {work}",
            f"H={HORIZON}, B={num_envs}",
            stepping(envs, 1 if quick else 16, start, HORIZON + 1),
            {"SyncVectorEnv": stepping(peer, 1, start, HORIZON + 1)},
            same,
            goal,
        )

"""Stepping `agents.rl.TokenVecEnv` against stable-baselines3's ``DummyVecEnv`` of the same single environments.

Run ``python -m experiments.benchmarks.sb3_stepping``; it needs the extra ``rl``. One unit of work is an episode of B
sequences of H = 64 tokens on the same actions, environment time alone: no network is evaluated. Each time is the best
of several repeats, ours and the peer's in turn, and is processor time, as in `experiments.benchmarks.stepping`.

``DummyVecEnv`` is what stable-baselines3's ``make_vec_env`` gives by default. Its environments are plain
`ntp_envs.TokenEnv` objects without the ``Monitor`` that ``make_vec_env`` would put around each. Rows that say
``VecMonitor`` have one around both, which is how training sees them.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import numpy as np

from experiments.benchmarks.stepping import HORIZON, print_table
from ntp_envs import TokenEnv

SETTINGS: list[tuple[str, dict[str, Any], bool]] = [
    ("Tightrope", {"reward": "success", "expert_info": False}, False),
    ("Contamination", {"reward": "expert_log_prob", "expert_info": False}, False),
    ("Tightrope", {"reward": "success", "expert_info": False}, True),
    ("Contamination", {"reward": "expert_log_prob", "expert_info": True}, False),
]
PEER = "DummyVecEnv"


def seconds(envs: Any, episodes: int) -> float:
    """Processor time of an episode, on average over ``episodes`` of them."""
    actions = list(np.random.default_rng(0).integers(0, envs.action_space.n, (HORIZON, envs.num_envs)))
    envs.seed(0)
    envs.reset()
    start = time.process_time()
    for _ in range(episodes):
        for row in actions:
            envs.step(row)
    return (time.process_time() - start) / episodes


def compare(family: str, num_envs: int, arguments: dict[str, Any], monitored: bool, *, repeats: int) -> dict[str, Any]:
    """The row of one setting."""
    from stable_baselines3.common.vec_env import DummyVecEnv, VecMonitor

    from agents.rl import make_vec_env

    arguments = {"horizon": HORIZON, **arguments}
    around: Callable[[Any], Any] = VecMonitor if monitored else lambda envs: envs
    ours = around(make_vec_env(family, num_envs, **arguments).unwrapped)  # without its monitor
    peer = around(DummyVecEnv([lambda: TokenEnv(family, **arguments)] * num_envs))
    ours_s = peer_s = np.inf
    for _ in range(repeats):
        ours_s = min(ours_s, seconds(ours, 16))
        peer_s = min(peer_s, seconds(peer, 1))
    work = f"{family} H={HORIZON} B={num_envs} " + " ".join(f"{k}={arguments[k]}" for k in ("reward", "expert_info"))
    work += " VecMonitor" if monitored else ""
    return {"work": work, "ours_s": ours_s, "peer": PEER, "peer_s": peer_s, "ratio": peer_s / ours_s}


def run(quick: bool = False) -> list[dict[str, Any]]:
    """Rows ``work``, ``ours_s``, ``peer``, ``peer_s``, ``ratio``; times in processor seconds an episode of the batch.

    Args:
        quick: only B = 1024 and the first two settings, twice each; otherwise B = 64 too, all of them, three times.

    Raises:
        ImportError: the extra ``rl`` is missing.
    """
    import agents.rl  # noqa: F401 (first, as its error names the extra)

    settings, sizes = (SETTINGS[:2], (1024,)) if quick else (SETTINGS, (64, 1024))
    return [
        compare(family, num_envs, arguments, monitored, repeats=2 if quick else 3)
        for num_envs in sizes
        for family, arguments, monitored in settings
    ]


def main() -> None:
    """Print the table."""
    print_table("Stepping our VecEnv against stable-baselines3's DummyVecEnv.", run)


if __name__ == "__main__":
    main()

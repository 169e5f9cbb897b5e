"""Stepping `TokenVectorEnv` against Gymnasium's `SyncVectorEnv` of the same environments, on the same actions.

Run ``python -m experiments.benchmarks.stepping``. One unit of work is an episode of B sequences of H = 64 tokens and
the step that starts the next ones (65 calls of ``step``, next-step autoreset); every call returns fresh copies. Each
time is the best of several repeats, ours and the peers' in turn, and is processor time: neither side uses threads, and
other work on the machine then disturbs less.

There are two peers. ``make_vec sync`` is what Gymnasium gives to who asks for ``vectorization_mode="sync"``; it wraps
each environment in ``OrderEnforcing`` and ``PassiveEnvChecker``. ``bare sync`` is ``SyncVectorEnv`` over plain
`TokenEnv` objects, without any wrapper.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium.vector import SyncVectorEnv, VectorEnv

from ntp_envs import TokenEnv
from ntp_envs.registration import environment_id

HORIZON = 64
SETTINGS: list[tuple[str, dict[str, Any]]] = [
    ("Contamination", {"reward": "none", "expert_info": False}),
    ("Tightrope", {"reward": "success", "expert_info": False}),
    ("Contamination", {"reward": "expert_log_prob", "expert_info": False}),
    ("Tightrope", {"reward": "expert_log_prob", "expert_info": False}),
    ("Contamination", {"reward": "expert_log_prob", "expert_info": True}),
]


def seconds(envs: VectorEnv[Any, Any, Any], episodes: int) -> float:
    """Processor time of an episode, on average over ``episodes`` of them."""
    rng = np.random.default_rng(0)
    actions = list(rng.integers(0, envs.single_action_space.n, (HORIZON + 1, envs.num_envs)))  # type: ignore[attr-defined]
    envs.reset(seed=0)
    start = time.process_time()
    for _ in range(episodes):
        for row in actions:
            envs.step(row)
    return (time.process_time() - start) / episodes


def compare(family: str, num_envs: int, arguments: dict[str, Any], *, repeats: int) -> list[dict[str, Any]]:
    """Rows for one setting, one a peer."""
    arguments = {"horizon": HORIZON, **arguments}
    name = environment_id(family)
    ours = gym.make_vec(name, num_envs=num_envs, **arguments)
    peers: dict[str, VectorEnv[Any, Any, Any]] = {
        "make_vec sync": gym.make_vec(name, num_envs=num_envs, vectorization_mode="sync", **arguments),
        "bare sync": SyncVectorEnv([lambda: TokenEnv(family, **arguments) for _ in range(num_envs)]),
    }
    episodes = max(1, 2048 // num_envs)
    best = dict.fromkeys(("ours", *peers), np.inf)
    for _ in range(repeats):
        best["ours"] = min(best["ours"], seconds(ours, 10 * episodes))
        for peer, envs in peers.items():
            best[peer] = min(best[peer], seconds(envs, max(1, episodes // 16)))
    work = f"{family} H={HORIZON} B={num_envs} " + " ".join(f"{k}={arguments[k]}" for k in ("reward", "expert_info"))
    return [
        {"work": work, "ours_s": best["ours"], "peer": peer, "peer_s": best[peer], "ratio": best[peer] / best["ours"]}
        for peer in peers
    ]


def run(quick: bool = False) -> list[dict[str, Any]]:
    """Rows ``work``, ``ours_s``, ``peer``, ``peer_s``, ``ratio``; times in processor seconds an episode of the batch.

    Args:
        quick: only the settings without the expert, twice each; otherwise all of them, three times each.
    """
    settings = SETTINGS[:2] if quick else SETTINGS
    return [
        row
        for num_envs in (64, 1024)
        for family, arguments in settings
        for row in compare(family, num_envs, arguments, repeats=2 if quick else 3)
    ]


def print_table(description: str, measure: Callable[..., list[dict[str, Any]]]) -> None:
    """The command line of a stepping benchmark: ``--quick``, and one line a row."""
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("--quick", action="store_true", help="fewer settings and repeats")
    rows = measure(quick=parser.parse_args().quick)
    width = max(len(row["work"]) for row in rows)
    print(f"{'work':<{width}}  {'ours (ms)':>9}  {'peer':<13}  {'peer (ms)':>9}  {'ratio':>6}")
    for row in rows:
        ours, theirs = 1e3 * row["ours_s"], 1e3 * row["peer_s"]
        print(f"{row['work']:<{width}}  {ours:>9.3f}  {row['peer']:<13}  {theirs:>9.1f}  {row['ratio']:>6.0f}")


def main() -> None:
    """Print the table."""
    print_table("Stepping a vector environment against Gymnasium's SyncVectorEnv.", run)


if __name__ == "__main__":
    main()

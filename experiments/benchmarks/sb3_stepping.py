"""Stepping `agents.rl.TokenVecEnv` against stable-baselines3's ``DummyVecEnv`` of the same single environments.

It needs the extra ``rl``. One unit of work is an episode of B sequences of H = 64 tokens on the same actions,
environment time alone: no network is evaluated.

``DummyVecEnv`` is what stable-baselines3's ``make_vec_env`` gives by default. Its environments are plain
`ntp_envs.TokenEnv` objects without the ``Monitor`` that ``make_vec_env`` would put around each. Rows that say
``VecMonitor`` have one around both, which is how training sees them.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from experiments.benchmarks import Row, compare, main
from experiments.benchmarks.stepping import HORIZON, same, stepping, worded
from ntp_envs import TokenEnv, make_task

SETTINGS: list[tuple[str, dict[str, Any], bool]] = [
    ("Tightrope", {"reward": "success", "expert_info": False}, False),
    ("Contamination", {"reward": "expert_log_prob", "expert_info": False}, False),
    ("Tightrope", {"reward": "success", "expert_info": False}, True),
    ("Contamination", {"reward": "expert_log_prob", "expert_info": True}, False),
]


def setting(family: str, num_envs: int, arguments: dict[str, Any], monitored: bool, *, repeats: int) -> list[Row]:
    """One setting."""
    from agents.rl import make_vec_env  # first, as its error names the extra

    from stable_baselines3.common.vec_env import DummyVecEnv, VecMonitor  # isort: skip

    options = {"horizon": HORIZON, **arguments}
    prompt = {"prompt": make_task(family, horizon=HORIZON).prompt_law()[0][0]}
    ours: Any = make_vec_env(family, num_envs, **options).unwrapped  # without its monitor
    peer: Any = DummyVecEnv([lambda: TokenEnv(family, **options)] * num_envs)
    if monitored:
        ours, peer = VecMonitor(ours), VecMonitor(peer)

    def start(envs: Any) -> None:
        envs.seed(0)
        envs.set_options(prompt)
        envs.reset()

    return compare(
        worded(family, num_envs, arguments) + (" VecMonitor" if monitored else ""),
        stepping(ours, 16, start, HORIZON),
        {"DummyVecEnv": stepping(peer, 1, start, HORIZON)},
        agree=same,
        repeats=repeats,
    )


def measure(quick: bool) -> Iterator[Row]:
    """Every setting at two sizes; ``quick`` has the larger one only, and the first two settings.

    Raises:
        ImportError: the extra ``rl`` is missing.
    """
    for num_envs in (1024,) if quick else (64, 1024):
        for family, arguments, monitored in SETTINGS[:2] if quick else SETTINGS:
            yield from setting(family, num_envs, arguments, monitored, repeats=2 if quick else 3)


if __name__ == "__main__":
    main("sb3_stepping")

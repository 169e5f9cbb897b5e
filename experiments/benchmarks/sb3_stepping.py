"""Stepping `agents.rl.TokenVecEnv` against stable-baselines3's ``DummyVecEnv`` of the same single environments.

It needs the extra ``rl``. One unit of work is an episode of B sequences of H = 64 tokens on the same actions,
environment time alone: no network is evaluated.

``DummyVecEnv`` is what stable-baselines3's ``make_vec_env`` gives by default. Its environments are plain
`ntp_envs.TokenEnv` objects without the ``Monitor`` that ``make_vec_env`` would put around each. Rows that say
``monitored`` have what training sees: `agents.rl.make_vec_env` with the monitor that it puts around the batch, against
``DummyVecEnv`` in stable-baselines3's ``VecMonitor``.

What is left of a step is mostly the B dicts of infos, which stable-baselines3 asks for, and which must be new ones:
others write into them and keep them.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from experiments.benchmarks import Row
from experiments.benchmarks.stepping import HORIZON, same, stepping
from ntp_envs import TokenEnv, make_task

SETTINGS: list[tuple[str, str, dict[str, Any], str]] = [
    ("success", "Tightrope", {"reward": "success", "expert_info": False}, "50x"),
    ("success, monitored", "Tightrope", {"reward": "success", "expert_info": False}, "50x"),
    ("expert_log_prob", "Contamination", {"reward": "expert_log_prob", "expert_info": False}, "300x"),
]


def rows(quick: bool) -> Iterator[Row]:
    """Every setting, of 1024 sequences; ``quick`` has 4.

    Raises:
        ImportError: the extra ``rl`` is missing.
    """
    from agents.rl import make_vec_env  # first, as its error names the extra

    from stable_baselines3.common.vec_env import DummyVecEnv, VecMonitor  # isort: skip

    num_envs = 4 if quick else 1024
    for work, family, arguments, goal in SETTINGS:
        options = {"horizon": HORIZON, **arguments}
        prompt = {"prompt": make_task(family, horizon=HORIZON).prompt_law()[0][0]}
        ours: Any = make_vec_env(family, num_envs, **options)
        peer: Any = DummyVecEnv([lambda: TokenEnv(family, **options)] * num_envs)  # noqa: B023
        if "monitored" in work:
            peer = VecMonitor(peer)
        else:
            ours = ours.unwrapped

        def start(envs: Any) -> None:
            envs.seed(0)
            envs.set_options(prompt)  # noqa: B023
            envs.reset()

        yield Row(
            f"stepping by stable-baselines3, {family}, reward {work}",
            f"H={HORIZON}, B={num_envs}",
            stepping(ours, 1 if quick else 16, start, HORIZON),
            {"DummyVecEnv": stepping(peer, 1, start, HORIZON)},
            same,
            goal,
        )

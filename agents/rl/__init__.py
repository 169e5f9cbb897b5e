"""Reinforcement learning with stable-baselines3 on the suite's environments. Needs the extra ``rl``.

`TokenVecEnv` (or `make_vec_env`) is what stable-baselines3 trains on, `SB3Policy` makes a trained model an
`ntp_envs.Policy`, `SB3Agent` is both under the contract of `agents.Agent`, `MaxEntropyReward` gives the reward whose
optimum is the expert itself, and `DistanceCallback` logs the distance to the expert during training.
"""

try:
    import stable_baselines3
    import torch
except ImportError as error:
    raise ImportError(
        f"agents.rl needs stable-baselines3 and torch, which the extra 'rl' brings: "
        f"pip install 'ntp-envs[rl]' ({error})."
    ) from error

from agents.rl.agent import ALGORITHMS, DistanceCallback, SB3Agent
from agents.rl.policy import SB3Policy
from agents.rl.vec_env import MAX_ENT, REWARDS, MaxEntropyReward, TokenVecEnv, make_vec_env

del stable_baselines3, torch

__all__ = [
    "ALGORITHMS",
    "MAX_ENT",
    "REWARDS",
    "DistanceCallback",
    "MaxEntropyReward",
    "SB3Agent",
    "SB3Policy",
    "TokenVecEnv",
    "make_vec_env",
]

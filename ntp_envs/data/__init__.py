"""Demonstrations in the formats of other libraries: Minari, `imitation`, `d3rlpy`."""

from ntp_envs.data.d3rlpy import to_d3rlpy
from ntp_envs.data.imitation import imitation_expert, to_imitation
from ntp_envs.data.minari import from_minari, to_minari

__all__ = ["from_minari", "imitation_expert", "to_d3rlpy", "to_imitation", "to_minari"]

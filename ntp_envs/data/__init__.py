"""Demonstrations in the formats of other libraries: Minari datasets, trajectories for `imitation`."""

from ntp_envs.data.imitation import imitation_expert, to_imitation
from ntp_envs.data.minari import from_minari, to_minari

__all__ = ["from_minari", "imitation_expert", "to_imitation", "to_minari"]

"""Task families, and `make_task` which builds one by name."""

from ntp_envs.tasks.ar_linear import ARLinear
from ntp_envs.tasks.base import BestInClass, Task
from ntp_envs.tasks.bernoulli import BernoulliMixture, BestTheta, Contamination
from ntp_envs.tasks.games import ConsistencyGame, HalvingGame
from ntp_envs.tasks.multiplication import ColumnAddition, Multiplication, explicit_multiplier
from ntp_envs.tasks.parity import NoisyParity, ParityCoT, ParityMix
from ntp_envs.tasks.path_star import CleverHansPolicy, PathStar
from ntp_envs.tasks.rare_mode import RareMode
from ntp_envs.tasks.registry import make_task, register_task, task_names
from ntp_envs.tasks.snowball import CopyPolicy, Snowball
from ntp_envs.tasks.text import Text
from ntp_envs.tasks.tightrope import Tightrope
from ntp_envs.tasks.turing_machine import TuringMachine, linear_emulator

__all__ = [
    "ARLinear",
    "BernoulliMixture",
    "BestInClass",
    "BestTheta",
    "CleverHansPolicy",
    "ColumnAddition",
    "ConsistencyGame",
    "Contamination",
    "CopyPolicy",
    "HalvingGame",
    "Multiplication",
    "NoisyParity",
    "ParityCoT",
    "ParityMix",
    "PathStar",
    "RareMode",
    "Snowball",
    "Task",
    "Text",
    "Tightrope",
    "TuringMachine",
    "explicit_multiplier",
    "linear_emulator",
    "make_task",
    "register_task",
    "task_names",
]

"""Task families, and `make_task` which builds one by name."""

from ntp_envs.tasks.ar_linear import ARLinear
from ntp_envs.tasks.base import BestInClass, Task
from ntp_envs.tasks.bernoulli_mixture import BernoulliMixture, BestTheta
from ntp_envs.tasks.column_addition import ColumnAddition
from ntp_envs.tasks.consistency_game import ConsistencyGame
from ntp_envs.tasks.contamination import Contamination
from ntp_envs.tasks.halving_game import HalvingGame
from ntp_envs.tasks.multiplication import Multiplication
from ntp_envs.tasks.multiplication_weights import explicit_multiplier
from ntp_envs.tasks.noisy_parity import NoisyParity
from ntp_envs.tasks.parity_cot import ParityCoT
from ntp_envs.tasks.parity_mix import ParityMix
from ntp_envs.tasks.path_star import CleverHansPolicy, PathStar
from ntp_envs.tasks.rare_mode import RareMode
from ntp_envs.tasks.registry import make_task, register_task, task_names
from ntp_envs.tasks.snowball import CopyPolicy, Snowball
from ntp_envs.tasks.text import Text
from ntp_envs.tasks.tightrope import Tightrope
from ntp_envs.tasks.turing_linear import linear_emulator
from ntp_envs.tasks.turing_machine import TuringMachine

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

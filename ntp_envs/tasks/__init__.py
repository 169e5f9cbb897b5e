"""Task families, and `make_task` which builds one by name. A family is imported when it is first asked for."""

from typing import TYPE_CHECKING, Any

from ntp_envs.registry import handed_out
from ntp_envs.tasks.base import BestInClass, Task
from ntp_envs.tasks.registry import BUILT_IN, WITH_AN_EXTRA, make_task, register_task, task_names

#: what the families' modules offer besides the families
_MORE = {
    "BestTheta": "ntp_envs.tasks.bernoulli:BestTheta",
    "CleverHansPolicy": "ntp_envs.tasks.path_star:CleverHansPolicy",
    "CopyPolicy": "ntp_envs.tasks.snowball:CopyPolicy",
    "explicit_multiplier": "ntp_envs.tasks.multiplication:explicit_multiplier",
    "linear_emulator": "ntp_envs.tasks.turing_machine:linear_emulator",
}

if TYPE_CHECKING:  # what type checkers and editors know by its type; any other family they take as Any
    from ntp_envs.tasks.ar_linear import ARLinear as ARLinear
    from ntp_envs.tasks.bernoulli import BernoulliMixture as BernoulliMixture
    from ntp_envs.tasks.bernoulli import BestTheta as BestTheta
    from ntp_envs.tasks.bernoulli import Contamination as Contamination
    from ntp_envs.tasks.documents import Documents as Documents
    from ntp_envs.tasks.games import ConsistencyGame as ConsistencyGame
    from ntp_envs.tasks.games import HalvingGame as HalvingGame
    from ntp_envs.tasks.multiplication import ColumnAddition as ColumnAddition
    from ntp_envs.tasks.multiplication import Multiplication as Multiplication
    from ntp_envs.tasks.multiplication import explicit_multiplier as explicit_multiplier
    from ntp_envs.tasks.parity import NoisyParity as NoisyParity
    from ntp_envs.tasks.parity import ParityCoT as ParityCoT
    from ntp_envs.tasks.parity import ParityMix as ParityMix
    from ntp_envs.tasks.path_star import CleverHansPolicy as CleverHansPolicy
    from ntp_envs.tasks.path_star import PathStar as PathStar
    from ntp_envs.tasks.rare_mode import RareMode as RareMode
    from ntp_envs.tasks.snowball import CopyPolicy as CopyPolicy
    from ntp_envs.tasks.snowball import Snowball as Snowball
    from ntp_envs.tasks.text import Text as Text
    from ntp_envs.tasks.tightrope import Tightrope as Tightrope
    from ntp_envs.tasks.turing_machine import TuringMachine as TuringMachine
    from ntp_envs.tasks.turing_machine import linear_emulator as linear_emulator

__all__ = ["BestInClass", "Task", "make_task", "register_task", "task_names"]
__all__ += sorted({**BUILT_IN, **_MORE})


def __getattr__(name: str) -> Any:
    return handed_out(__name__, {**BUILT_IN, **WITH_AN_EXTRA, **_MORE}, name)


def __dir__() -> list[str]:
    return sorted({*globals(), *BUILT_IN, *_MORE})

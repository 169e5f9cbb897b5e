"""ntp-envs: autoregressive generation as imitation learning.

Tasks, policies, policy classes, demonstrations, distances between rollout laws, and Gymnasium environments.
Depends on numpy, scipy and gymnasium only.
"""

from ntp_envs.automata import (
    AutomatonPolicy,
    BernoulliMixturePolicy,
    BernoulliPolicy,
    MarkovPolicy,
    RestartedPolicy,
    TableAutomaton,
)
from ntp_envs.checks import NotTractableError, WellSpecifiedError
from ntp_envs.demonstrations import Demonstrations, Exactness
from ntp_envs.distances import (
    DistanceCurve,
    approximation_factor,
    coverage_bound_hellinger2,
    coverage_bound_kl,
    distance,
    distance_curves,
    register_metric,
    two_sample_test,
)
from ntp_envs.env import TokenEnv
from ntp_envs.evaluation import Evaluation, backtracking_search, best_of, evaluate
from ntp_envs.ngram import NGramPolicy
from ntp_envs.policies import (
    CallablePolicy,
    GreedyPolicy,
    MixturePolicy,
    Policy,
    TabularPolicy,
    TargetPolicy,
    UniformPolicy,
)
from ntp_envs.policy_classes import (
    ARLinearClass,
    ARLinearPolicy,
    BernoulliClass,
    FiniteClass,
    MarkovClass,
    NGramClass,
    PolicyClass,
    PositionalLinearClass,
    PositionalLinearPolicy,
    ProductClass,
)
from ntp_envs.registration import register_environment, register_known
from ntp_envs.tasks import BestInClass, Task, make_task, register_task, task_names
from ntp_envs.tasks.base import collect
from ntp_envs.vector_env import TokenVectorEnv
from ntp_envs.wrappers import RolloutDistance, VectorRolloutDistance

__version__ = "0.1.0"

register_known()

__all__ = [
    "ARLinearClass",
    "ARLinearPolicy",
    "AutomatonPolicy",
    "BernoulliClass",
    "BernoulliMixturePolicy",
    "BernoulliPolicy",
    "BestInClass",
    "CallablePolicy",
    "Demonstrations",
    "DistanceCurve",
    "Evaluation",
    "Exactness",
    "FiniteClass",
    "GreedyPolicy",
    "MarkovClass",
    "MarkovPolicy",
    "MixturePolicy",
    "NGramClass",
    "NGramPolicy",
    "NotTractableError",
    "Policy",
    "PolicyClass",
    "PositionalLinearClass",
    "PositionalLinearPolicy",
    "ProductClass",
    "RestartedPolicy",
    "RolloutDistance",
    "TableAutomaton",
    "TabularPolicy",
    "TargetPolicy",
    "Task",
    "TokenEnv",
    "TokenVectorEnv",
    "UniformPolicy",
    "VectorRolloutDistance",
    "WellSpecifiedError",
    "__version__",
    "approximation_factor",
    "backtracking_search",
    "best_of",
    "collect",
    "coverage_bound_hellinger2",
    "coverage_bound_kl",
    "distance",
    "distance_curves",
    "evaluate",
    "make_task",
    "register_environment",
    "register_metric",
    "register_task",
    "task_names",
    "two_sample_test",
]

"""Policy classes: the sets of policies that a learner is allowed to choose from."""

from ntp_envs.policy_classes.ar_linear import ARLinearAutomaton, ARLinearClass, ARLinearPolicy
from ntp_envs.policy_classes.base import PolicyClass
from ntp_envs.policy_classes.bernoulli import BernoulliClass
from ntp_envs.policy_classes.error_sets import ErrorSetClass, ErrorSetPolicy
from ntp_envs.policy_classes.finite import FiniteClass
from ntp_envs.policy_classes.markov import MarkovClass
from ntp_envs.policy_classes.ngram import NGramClass
from ntp_envs.policy_classes.positional_linear import LinearStep, PositionalLinearClass, PositionalLinearPolicy
from ntp_envs.policy_classes.product import ProductClass, ProductPolicy

__all__ = [
    "ARLinearAutomaton",
    "ARLinearClass",
    "ARLinearPolicy",
    "BernoulliClass",
    "ErrorSetClass",
    "ErrorSetPolicy",
    "FiniteClass",
    "LinearStep",
    "MarkovClass",
    "NGramClass",
    "PolicyClass",
    "PositionalLinearClass",
    "PositionalLinearPolicy",
    "ProductClass",
    "ProductPolicy",
]

"""What everything that looks at a policy on a task asks of the two."""

from __future__ import annotations

from ntp_envs.policies import Policy
from ntp_envs.tasks.base import Task

__all__ = ["check_policy"]


def check_policy(policy: object, task: Task) -> None:
    """``TypeError`` for something else than a policy, ``ValueError`` for one that does not fit the task."""
    if not isinstance(policy, Policy):
        raise TypeError(f"policy must be an ntp_envs.Policy, not {type(policy).__name__}.")
    if policy.vocab_size != task.vocab_size:
        raise ValueError(f"the policy has {policy.vocab_size} tokens and {task.name} {task.vocab_size}; one is needed.")
    if policy.horizon is not None and policy.horizon < task.horizon:
        raise ValueError(f"the policy is defined for {policy.horizon} tokens, but {task.name} has {task.horizon}.")

"""What a policy's whole law says: distance, entropy, mode, return. Everything by listing all sequences."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from experiments.study import Label, Record
from ntp_envs import Policy, Task, distance
from ntp_envs._numerics import all_sequences

__all__ = ["ENTROPY", "EXPERT_LOG_PROB", "MODE", "REVERSE_KL", "SUCCESS", "judged"]

ENTROPY = "entropy rate (nats a token)"
MODE = "probability of its most likely sequence"
EXPERT_LOG_PROB = "expert log-probability (nats a token)"
REVERSE_KL = "KL(policy || expert) (nats a sequence)"
SUCCESS = "task success"
#: least expert log-probability of a token, as in the environments' reward
FLOOR = -20.0


def judged(task: Task, policy: Policy, labels: dict[str, Label]) -> list[Record]:
    """The distance curve to the expert (label ``h``), and how random and how well rewarded the policy is.

    * ``hellinger2``: ``sum (sqrt P - sqrt Q)^2``, in [0, 2], at every prefix length.
    * ``ENTROPY``: of a sequence given the prompt, over H; the expert's own is what to match.
    * ``MODE``: of the sequence that the policy likes best, averaged over prompts; 1 for a point mass.
    * ``EXPERT_LOG_PROB``: mean over the policy's sequences, at least ``FLOOR`` a token. H times it is the return of
      the reward ``"expert_log_prob"``.
    * ``REVERSE_KL``: minus the return of the maximum-entropy reward, with the same floor.
    * ``SUCCESS``: its mean, where the task has one.
    """
    prompts, masses = task.prompt_law()
    tokens = all_sequences(task.vocab_size, task.horizon)
    entropy = likeliest = rewarded = succeeded = 0.0
    for prompt, mass in zip(prompts, masses, strict=True):
        same = np.tile(prompt, (len(tokens), 1))
        log_law = policy.log_probs(same, tokens).sum(axis=1)
        law = np.exp(log_law)
        entropy -= mass * _mean(law, log_law)
        likeliest += mass * float(law.max())
        rewarded += mass * _mean(law, np.maximum(task.expert.log_probs(same, tokens), FLOOR).sum(axis=1))
        if task.has_success:
            succeeded += mass * _mean(law, task.success(same, tokens))
    method = "enumeration"
    values = {
        ENTROPY: entropy / task.horizon,
        MODE: likeliest,
        EXPERT_LOG_PROB: rewarded / task.horizon,
        REVERSE_KL: 0.0 - entropy - rewarded,
        **({SUCCESS: succeeded} if task.has_success else {}),
    }
    records = [Record(metric, value, labels, method=method) for metric, value in values.items()]
    curve = distance(task.expert, policy, task, metric="hellinger2", method=method)
    records += [
        Record("hellinger2", float(value), {**labels, "h": h}, method=method) for h, value in enumerate(curve.values, 1)
    ]
    return records


def _mean(law: NDArray[np.float64], values: NDArray[np.float64]) -> float:
    """The expectation of values that may be infinite where the law is zero."""
    return float(law @ np.where(law > 0, values, 0.0))

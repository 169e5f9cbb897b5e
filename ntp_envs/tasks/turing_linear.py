"""The linear predictor that runs a Turing machine: its weights, written down."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from ntp_envs._validation import check_real
from ntp_envs.features import OffsetsOneHot
from ntp_envs.policy_classes import ARLinearPolicy
from ntp_envs.tasks.turing_machine import TuringMachine
from ntp_envs.tasks.turing_tables import TuringTable

__all__ = ["linear_emulator", "step_weights"]

FloatArray = NDArray[np.float64]


def step_weights(table: TuringTable) -> FloatArray:
    """``(A, 1 + 3 A)`` weights of a constant and of the left, the same and the right cell of the block before.

    In every triple of cells of a configuration (one head at most, ``|`` beyond the ends), and before ``|``, the right
    token scores at least .5 above every other; all but the bias are small integers. Derived here, after the statement
    of Malach (2023, arXiv:2309.06979) that linear predictors emulate Turing machines:

    * .5 on every symbol without a head; then, from the same cell,
    * a symbol a without a head: 2 on a, with and without every state;
    * a head whose move is to symbol b: 2 on b, with and without every state; if it stays, or has halted, 2 on
      b with the next state;
    * ``|``: 3 on ``|``, which wins whatever is beside it;
    * from the left cell, a head that moves right into state q': 1 on every symbol with q'; from the right cell, one
      that moves left, the same.

    >>> from ntp_envs.tasks.turing_tables import MACHINES
    >>> step_weights(MACHINES["busy_beaver_2"]).shape
    (9, 28)
    """
    place = len(table.states) + 1
    A = 1 + len(table.symbols) * place
    bias, left, same, right = np.zeros(A), np.zeros((A, A)), np.zeros((A, A)), np.zeros((A, A))
    plain = 1 + place * np.arange(len(table.symbols))
    bias[plain] = 0.5
    same[0, 0] = 3.0
    for a, here in enumerate(plain):
        same[here : here + place, here] = 2.0
        for q in range(len(table.states)):
            following, written, move = table.step[q, a]
            under = here + 1 + q
            if move == 0:
                same[plain[written] + 1 + following, under] = 2.0
            else:
                same[plain[written] : plain[written] + place, under] = 2.0
                (left if move > 0 else right)[plain + 1 + following, under] = 1.0
    return np.column_stack([bias, left, same, right])


def linear_emulator(task: TuringMachine, *, norm: float | None = None) -> ARLinearPolicy:
    """The member of ``task.policy_class`` whose greedy decoding is the machine, for every prompt and at any length.

    Decode it with `ntp_envs.GreedyPolicy`. Sampling errs with a probability that falls exponentially in the norm; the
    weights are `step_weights`, less their mean over the tokens, which a softmax does not see.

    Args:
        task: with ``cot=True``.
        norm: of theta, at most the class's radius, which is the default: the sharpest member in this direction.

    Raises:
        ValueError: ``cot=False``, or a norm above the radius.

    >>> from ntp_envs import GreedyPolicy
    >>> task = TuringMachine("increment", width=12)
    >>> prompts = task.sample_prompts(5, np.random.default_rng(0))
    >>> run = GreedyPolicy(linear_emulator(task)).sample(prompts, task.horizon, np.random.default_rng(0))
    >>> task.success(prompts, run).tolist()
    [1.0, 1.0, 1.0, 1.0, 1.0]
    """
    if not task.cot or not isinstance(task.policy_class.features, OffsetsOneHot):
        raise ValueError("the emulator writes every configuration; take a task with cot=True.")
    radius = task.policy_class.radius
    wanted = radius if norm is None else check_real("norm", norm, minimum=0.0, maximum=radius)
    weights = step_weights(task.table)
    theta = (weights - weights.mean(axis=0)).ravel()
    return task.policy_class.policy(theta * (wanted / np.linalg.norm(theta)))

"""Demonstrations for the offline learners of `d3rlpy`."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from ntp_envs._extras import import_extra
from ntp_envs._validation import check_in
from ntp_envs.data.episodes import drawn, episode_rewards, known_task
from ntp_envs.demonstrations import Demonstrations
from ntp_envs.observations import episode_observations
from ntp_envs.tasks.base import Task

__all__ = ["to_d3rlpy"]

FORMS = ("dataset", "arrays")
INSTALL = (
    "pip install torch click colorama dataclasses-json gym h5py scikit-learn structlog tqdm && "
    "pip install --no-deps d3rlpy==2.8.1"
)


def to_d3rlpy(
    demonstrations: Demonstrations,
    *,
    form: str = "dataset",
    task: Task | None = None,
    n: int | None = None,
    rng: np.random.Generator | None = None,
) -> Any:
    """Demonstrations as `d3rlpy` takes them, in the observations of ``TokenEnv(..., observation="one_hot")``.

    Rows are in order: the H steps of the first sequence, then those of the second. With N = n H:

    * ``"dataset"``: a ``d3rlpy.dataset.MDPDataset``, for ``DiscreteBC`` and the offline learners of discrete actions.
    * ``"arrays"``: its arguments as a dictionary; `d3rlpy` need not be installed. ``observations``
      ``(N, (P + H)(A + 1))`` float32, ``actions`` ``(N, 1)`` int64, ``rewards`` ``(N, 1)`` and ``terminals`` ``(N,)``
      float32 (1 at each H-th), ``action_size`` A.

    ``DiscreteBCConfig`` adds ``beta`` = 0.5 times the mean square of the logits to its loss; with ``beta=0.0`` it is
    log-loss.

    Args:
        demonstrations: what to convert. `d3rlpy` has no weights: unequal ones are refused unless ``rng`` is given.
        form: one of the above.
        task: the task they belong to, for rewards; by default the one named by ``demonstrations.source``. Rewards are
            0 where it is not known.
        n: draw this many sequences, with replacement, in proportion to the weights; by default all, as they are, or as
            many as there are if weights are unequal.
        rng: source of that draw.

    Raises:
        ImportError: `d3rlpy` is not installed and ``form`` is not ``"arrays"``.
        ValueError: unequal weights or ``n`` without ``rng``; an unknown form; a task that does not fit.

    References:
        Seno and Imai, "d3rlpy: An Offline Deep Reinforcement Learning Library", JMLR 23(315), 2022.

    >>> import numpy as np
    >>> demos = Demonstrations(np.empty((1, 0), int), np.array([[0, 1]]), vocab_size=2)
    >>> to_d3rlpy(demos, form="arrays")["observations"].tolist()
    [[0.0, 0.0, 1.0, 0.0, 0.0, 1.0], [1.0, 0.0, 0.0, 0.0, 0.0, 1.0]]
    """
    check_in("form", form, FORMS)
    d3rlpy = None
    if form != "arrays":
        d3rlpy = import_extra("d3rlpy", what=f"form={form!r} (form='arrays' does not)", install=INSTALL)
    demos = drawn(demonstrations, n, rng, "d3rlpy")
    known = known_task(demos, task)
    size, horizon = demos.tokens.size, demos.horizon
    observations = episode_observations(demos.prompts, demos.tokens, demos.vocab_size, "one_hot")[:, :-1]
    rewards = np.zeros(demos.tokens.shape) if known is None else episode_rewards(known, demos.prompts, demos.tokens)
    arrays: dict[str, NDArray[Any] | int] = {
        "observations": observations.reshape(size, -1),
        "actions": demos.tokens.reshape(size, 1).copy(),
        "rewards": rewards.reshape(size, 1).astype(np.float32),
        "terminals": (np.arange(size) % horizon == horizon - 1).astype(np.float32),
        "action_size": demos.vocab_size,
    }
    if d3rlpy is None:
        return arrays
    return d3rlpy.dataset.MDPDataset(**arrays, action_space=d3rlpy.ActionSpace.DISCRETE)

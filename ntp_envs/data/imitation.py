"""Demonstrations for the `imitation` library, and our experts in the form its interactive learners ask for."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from ntp_envs._extras import import_extra
from ntp_envs._validation import check_generator, check_in
from ntp_envs.data.episodes import drawn, episode_rewards, known_task
from ntp_envs.demonstrations import Demonstrations
from ntp_envs.observations import episode_observations, split_observation, token_space
from ntp_envs.policies import Policy
from ntp_envs.tasks.base import Task

__all__ = ["FORMS", "imitation_expert", "to_imitation"]

FORMS = ("transitions", "trajectories", "arrays")
INSTALL = "pip install stable-baselines3 datasets jsonpickle tqdm tensorboard && pip install --no-deps imitation==1.0.1"


def to_imitation(
    demonstrations: Demonstrations,
    *,
    form: str = "transitions",
    task: Task | None = None,
    n: int | None = None,
    rng: np.random.Generator | None = None,
) -> Any:
    """Demonstrations as `imitation` takes them, in the observations and actions of `ntp_envs.TokenEnv`.

    Rows are in order: the H transitions of the first sequence, then those of the second. With N = n H:

    * ``"transitions"``: one ``imitation.data.types.Transitions`` with ``obs`` and ``next_obs`` ``(N, P + H)`` in the
      environment's dtype, ``acts`` ``(N,)`` int64, ``dones`` ``(N,)`` bool (true at each H-th), ``infos`` ``(N,)``
      dictionaries with ``expert_log_prob`` (nats) where the demonstrations have it. For BC and GAIL.
    * ``"trajectories"``: a list of n trajectories with H + 1 observations: ``TrajectoryWithRew`` where the task is
      known, ``Trajectory`` where it is not. For every learner, DAgger included.
    * ``"arrays"``: the same arrays as a dictionary; `imitation` need not be installed. ``BC(demonstrations=[arrays])``
      takes it as one batch.

    Args:
        demonstrations: what to convert. `imitation` has no weights: unequal ones are refused unless ``rng`` is given.
        form: one of the above.
        task: the task they belong to, for rewards; by default the one named by ``demonstrations.source``.
        n: draw this many sequences, with replacement, in proportion to the weights; by default all, as they are, or as
            many as there are if weights are unequal.
        rng: source of that draw.

    Raises:
        ImportError: `imitation` is not installed and ``form`` is not ``"arrays"``.
        ValueError: unequal weights or ``n`` without ``rng``; an unknown form; a task that does not fit.

    References:
        Gleave et al., "imitation: Clean Imitation Learning Implementations", 2022, arXiv:2211.11972.

    >>> import numpy as np
    >>> demos = Demonstrations(np.array([[1]]), np.array([[0, 1]]), vocab_size=2)
    >>> {name: array.tolist() for name, array in to_imitation(demos, form="arrays").items() if name != "infos"}
    {'obs': [[1, 2, 2], [1, 0, 2]], 'acts': [0, 1], 'next_obs': [[1, 0, 2], [1, 0, 1]], 'dones': [False, True]}
    """
    check_in("form", form, FORMS)
    types = None
    if form != "arrays":
        types = import_extra("imitation.data.types", what=f"form={form!r} (form='arrays' does not)", install=INSTALL)
    demos = drawn(demonstrations, n, rng, "imitation")
    observations = episode_observations(demos.prompts, demos.tokens, demos.vocab_size)  # (n, H + 1, P + H)
    infos = np.array([{} for _ in range(demos.tokens.size)], dtype=object)
    if demos.expert_log_probs is not None:
        for info, log_prob in zip(infos, demos.expert_log_probs.ravel()):
            info["expert_log_prob"] = float(log_prob)
    if form == "trajectories":
        return _trajectories(types, demos, observations, infos.reshape(demos.tokens.shape), known_task(demos, task))
    dones = np.zeros(demos.tokens.shape, dtype=bool)
    dones[:, -1] = True
    arrays: dict[str, NDArray[Any]] = {
        "obs": observations[:, :-1].reshape(demos.tokens.size, -1),
        "acts": demos.tokens.flatten(),  # a copy: ours are read-only
        "next_obs": observations[:, 1:].reshape(demos.tokens.size, -1),
        "dones": dones.ravel(),
        "infos": infos,
    }
    return arrays if types is None else types.Transitions(**arrays)


def imitation_expert(task: Task, *, policy: Policy | None = None, rng: np.random.Generator) -> Any:
    """A policy of ours as a stable-baselines3 policy, as ``expert_policy`` of `imitation`'s ``SimpleDAggerTrainer``.

    That trainer asks its expert for ``deterministic=True`` actions, the most probable token; but the lesson of a
    stochastic expert is its distribution. So every action is a draw, whatever is asked.

    Args:
        task: gives the spaces and, by default, the expert.
        policy: another policy for the same task.
        rng: source of the draws.

    Raises:
        ImportError: stable-baselines3 is not installed.
    """
    if not isinstance(task, Task):
        raise TypeError(f"task={task!r} must be an ntp_envs.Task, not {type(task).__name__}.")
    check_generator(rng)
    policies = import_extra(
        "stable_baselines3.common.policies", what="imitation_expert", install="pip install stable-baselines3"
    )
    from gymnasium.spaces import Discrete

    expert = policy or task.expert

    class Expert(policies.BasePolicy):  # type: ignore[misc, name-defined]
        def predict(
            self, observation: Any, state: Any = None, episode_start: Any = None, deterministic: bool = False
        ) -> tuple[Any, Any]:
            prompts, tokens, _ = split_observation(task, observation)
            return expert.predict({"prompt": prompts, "tokens": tokens}, state, episode_start, rng=rng)

        def _predict(self, observation: Any, deterministic: bool = False) -> Any:
            raise NotImplementedError("call predict with NumPy observations")

    return Expert(token_space(task, "multi_discrete"), Discrete(task.vocab_size))


def _trajectories(
    types: Any, demos: Demonstrations, observations: NDArray[Any], infos: NDArray[Any], task: Task | None
) -> list[Any]:
    if task is None:
        return [
            types.Trajectory(obs=observations[i], acts=acts, infos=infos[i], terminal=True)
            for i, acts in enumerate(demos.tokens)
        ]
    rewards = episode_rewards(task, demos.prompts, demos.tokens)
    return [
        types.TrajectoryWithRew(obs=observations[i], acts=acts, infos=infos[i], terminal=True, rews=rewards[i])
        for i, acts in enumerate(demos.tokens)
    ]

"""Demonstrations in the formats of other libraries: Minari (out and in), `imitation` and `d3rlpy` (out).

All of them see a sequence as an episode of `ntp_envs.TokenEnv`: what was observed, done and paid, step by step.
"""

from __future__ import annotations

import copy
import inspect
import shutil
import warnings
from collections.abc import Iterator
from importlib.metadata import version
from pathlib import Path
from typing import Any, cast

import gymnasium as gym
import numpy as np
from gymnasium.envs.registration import EnvSpec
from numpy.typing import NDArray

from ntp_envs.arrays import filled, written
from ntp_envs.checks import check_generator, check_in, check_int, import_extra
from ntp_envs.demonstrations import Demonstrations
from ntp_envs.env import _OWN_ARGUMENTS, TokenEnv, resolve_reward
from ntp_envs.observations import (
    OBSERVATION_FORMS,
    Sizes,
    episode_observations,
    observation_form,
    split_observation,
    token_space,
)
from ntp_envs.policies import Policy
from ntp_envs.registration import NAMESPACE, environment_id
from ntp_envs.tasks.base import Task, misfits
from ntp_envs.tasks.registry import make_task, task_class, task_names

#: least reward of a token under ``"expert_log_prob"``, as in `TokenEnv`
LOG_PROB_FLOOR: float = inspect.signature(TokenEnv).parameters["log_prob_floor"].default


def episode_rewards(
    task: Task | None, prompts: NDArray[np.int64], tokens: NDArray[np.int64], reward: str | None = None
) -> NDArray[np.float64]:
    """``(n, H)`` rewards that `TokenEnv` would have paid by this rule (the task's default); 0 if no task is known."""
    rule = "none" if task is None else resolve_reward(reward, task)
    rewards = np.zeros(tokens.shape)
    if task is None or rule == "none":
        return rewards
    if rule == "success":
        last = written(prompts, tokens, task.end_token).sum(axis=1) - 1
        rewards[np.arange(len(tokens)), last] = task.success(prompts, tokens)
    elif rule == "expert_log_prob":
        rewards = np.maximum(task.expert.log_probs(prompts, tokens), LOG_PROB_FLOOR)
    return rewards


def known_task(demonstrations: Demonstrations, task: Task | None) -> Task | None:
    """The task the demonstrations belong to: the one given, else the one their ``source`` names, else ``None``.

    Warns (``UserWarning``) if ``source`` names a task that cannot be rebuilt here or does not fit the data.

    Raises:
        TypeError, ValueError: ``task`` is no task, or its vocabulary, horizon or prompt length is not the data's.
    """
    if task is not None:
        if not isinstance(task, Task):
            raise TypeError(f"task={task!r} must be an ntp_envs.Task, not {type(task).__name__}.")
        if misfit := _misfit(demonstrations, task):
            raise ValueError(f"task={task} does not fit the demonstrations: {misfit}.")
        return task
    name = demonstrations.source.get("task")
    if name is None:
        return None
    try:
        if name not in task_names():  # a file must not make us import modules or load models of its choice
            raise ValueError(f"no task of the name {name!r} is registered that a file may make")
        task = make_task(name, **demonstrations.source.get("parameters", {}))
        if misfit := _misfit(demonstrations, task):
            raise ValueError(misfit)
    except (TypeError, ValueError) as error:
        warnings.warn(
            f"the environment is left out, and rewards are 0: source['task']={name!r} cannot be used ({error}). "
            "Pass task= to say which task the demonstrations belong to.",
            UserWarning,
            stacklevel=3,
        )
        return None
    return task


def environment_spec(task: Task | None) -> EnvSpec | None:
    """The Gymnasium specification that makes this very task's environment; ``None`` if its family has no id."""
    known = None if task is None else gym.registry.get(environment_id(task.name))
    if task is None or known is None or task_class(known.kwargs.get("task", "")) is not type(task):
        return None
    spec = copy.deepcopy(known)
    spec.kwargs.update(task.parameters())
    return spec


def drawn(
    demonstrations: Demonstrations, n: int | None, rng: np.random.Generator | None, library: str
) -> Demonstrations:
    """Equally weighted demonstrations: all of them, or ``n`` draws in proportion to their weights.

    Raises:
        ValueError: a draw is needed or asked for, and there is no ``rng``.
    """
    weights = demonstrations.weights
    unequal = weights is not None and bool((weights != weights[0]).any())
    if n is None and not unequal:
        return demonstrations
    if rng is None:
        why = f"the demonstrations have unequal weights, which {library} cannot use" if unequal else f"n={n} is a draw"
        raise ValueError(f"{why}; pass rng=np.random.default_rng(seed) to draw n sequences in proportion to them.")
    n = len(demonstrations) if n is None else check_int("n", n, minimum=1)
    rows = check_generator(rng).choice(len(demonstrations), size=n, p=demonstrations.normalised_weights())
    return demonstrations.subset(rows)


def _misfit(demonstrations: Demonstrations, task: Task) -> str:
    """What of the task contradicts the data; empty if nothing does."""
    return ", ".join(
        f"{name} is {ours} in the task and {theirs} in the data"
        for name, (theirs, ours) in misfits(demonstrations, task).items()
    )


# Minari datasets, out and in. An episode is one sequence: H + 1 observations (the terminal one included), H actions, H
# rewards, termination at the last token; a text that ends early has as many as were written. What Minari has no place
# for goes where its own tools keep it: expert log-probabilities and weights into the infos of each episode, so that
# they survive filtering, splitting and combining; vocabulary size, prompt length, source and exactness into the
# dataset's metadata, under ``ntp_envs``.


KEY = "ntp_envs"  # our block of the dataset's metadata
LOG_PROB, WEIGHT = "expert_log_prob", "weight"  # infos, one value an observation
BATCH = 256  # episodes turned into observations at a time


def to_minari(
    demonstrations: Demonstrations,
    dataset_id: str,
    *,
    task: Task | None = None,
    algorithm_name: str | None = None,
    author: str | set[str] | None = None,
    author_email: str | set[str] | None = None,
    code_permalink: str | None = None,
    description: str | None = None,
) -> Any:
    """Write demonstrations as a Minari dataset (HDF5), under Minari's root (``MINARI_DATASETS_PATH``).

    The dataset holds everything that the demonstrations hold, so `from_minari` gives them back bit for bit. An episode
    has H + 1 observations, ``(H + 1, P + H)`` in the environment's dtype, and as infos ``expert_log_prob`` (nats; NaN
    at the terminal observation, which has no action) and ``weight``, ``(H + 1,)`` float64, where the demonstrations
    have them. If the task is known, the dataset records its environment (``recover_environment`` makes it again) and
    the rewards it would have paid; otherwise rewards are 0. An episode takes ``(H + 1) (P + H)`` bytes and some 15 kB
    of HDF5's own, and about 2 ms to write or read: for large sets that stay here, `Demonstrations.save` is lighter.

    Args:
        demonstrations: what to write.
        dataset_id: ``"namespace/name-v0"``; the namespace (two characters or more) is optional, the version is not.
        task: the task they belong to; by default the one named by ``demonstrations.source``.
        algorithm_name: who demonstrated; by default ``source["by"]``.
        author, author_email, code_permalink: who published the data and with which code. Fill them in for data that
            is passed on.
        description: a sentence; by default made from the source.

    Returns:
        The ``minari.MinariDataset``.

    Raises:
        ImportError: the extra ``data`` is not installed.
        ValueError: a malformed or taken id, a task that does not fit.

    References:
        Minari, Farama Foundation: the standard for offline reinforcement-learning datasets.
    """
    minari = _minari("writing a Minari dataset")
    where = _free_path(dataset_id)
    task = known_task(demonstrations, task)
    spec = environment_spec(task)
    source = demonstrations.source
    block = demonstrations._metadata() | {
        "prompt_length": demonstrations.prompt_length,
        "horizon": demonstrations.horizon,
        "episodes": len(demonstrations),
        "weights": demonstrations.weights is not None,
        "expert_log_probs": demonstrations.expert_log_probs is not None,
    }
    batches = _episodes(demonstrations, task)
    try:
        with warnings.catch_warnings():  # recommendations for published data; the docstring gives them
            warnings.simplefilter("ignore", UserWarning)
            dataset = minari.create_dataset_from_buffers(
                dataset_id,
                next(batches),
                env=spec,
                eval_env=spec,
                observation_space=_recorded_space(demonstrations),
                action_space=gym.spaces.Discrete(demonstrations.vocab_size),
                algorithm_name=algorithm_name or str(source.get("by", "unknown")),
                author=author,
                author_email=author_email,
                code_permalink=code_permalink,
                description=description or _description(demonstrations),
                requirements=[f"ntp-envs>={_version()}"],
            )
        dataset.storage.update_metadata({KEY: block})
        for batch in batches:
            dataset.update_dataset_from_buffer(batch)
    except BaseException:  # no half-written dataset under this id
        shutil.rmtree(where, ignore_errors=True)
        raise
    return dataset


def from_minari(dataset: Any) -> Demonstrations:
    """Read a Minari dataset of token sequences, and check every episode of it.

    What `to_minari` wrote comes back bit for bit. A dataset collected from ``ntp/...`` environments in another way
    (Minari's ``DataCollector``, datasets combined) is read too, in any form of observations; its prompt length and
    vocabulary are then those of the recorded environment, and its ``exactness`` is ``None``. So is that of a dataset
    with episodes added or removed.

    Args:
        dataset: a dataset id under Minari's root, or a ``minari.MinariDataset`` (of which only the selected episodes
            are read).

    Raises:
        ImportError: the extra ``data`` is not installed.
        FileNotFoundError: there is no dataset of this id.
        ValueError: a dataset of something else, a corrupt one, or episodes that are not complete token sequences; the
            message names the episode.
    """
    minari = _minari("reading a Minari dataset")
    name = dataset if isinstance(dataset, str) else getattr(dataset, "id", None)
    if isinstance(dataset, str):
        try:
            dataset = minari.load_dataset(dataset)
        except FileNotFoundError as error:
            raise FileNotFoundError(
                f"there is no Minari dataset {name!r} here ({error}) Write it with to_minari."
            ) from error
        except Exception as error:  # whatever broken files raise inside Minari
            raise _unreadable(name, f"Minari cannot open it: {error!r}") from error
    elif not isinstance(dataset, minari.MinariDataset):
        raise TypeError(f"dataset={dataset!r} must be a Minari dataset id or a minari.MinariDataset.")
    try:
        return _read(dataset)
    except _Refused as error:
        raise _unreadable(name, str(error)) from error
    except Exception as error:
        raise _unreadable(name, f"it is corrupt: {error!r}") from error


def _episodes(demonstrations: Demonstrations, task: Task | None) -> Iterator[list[Any]]:
    """The demonstrations as lists of at most ``BATCH`` Minari episodes."""
    from minari.data_collector import EpisodeBuffer

    demos, horizon, lengths = demonstrations, demonstrations.horizon, demonstrations.lengths
    for start in range(0, len(demos), BATCH):
        rows = slice(start, start + BATCH)
        prompts, tokens = demos.prompts[rows], demos.tokens[rows]
        observations = episode_observations(prompts, tokens, demos.vocab_size)
        rewards = episode_rewards(task, prompts, tokens)
        infos: list[dict[str, Any]] = [{} for _ in tokens]
        if demos.expert_log_probs is not None:
            for info, log_probs, length in zip(infos, demos.expert_log_probs[rows], lengths[rows]):
                info[LOG_PROB] = np.append(log_probs[:length], np.nan)
        if demos.weights is not None:
            for info, weight in zip(infos, demos.weights[rows]):
                info[WEIGHT] = np.full(horizon + 1, weight)
        yield [
            EpisodeBuffer(
                observations=cast(Any, observations[i, : length + 1]),
                actions=cast(Any, tokens[i, :length]),
                rewards=cast(Any, rewards[i, :length]),
                terminations=cast(Any, np.arange(length) == length - 1),
                truncations=cast(Any, np.zeros(length, dtype=bool)),
                infos={key: values[: length + 1] for key, values in infos[i].items()},
            )
            for i, length in enumerate(lengths[rows])
        ]


def _recorded_space(demonstrations: Demonstrations) -> gym.spaces.MultiDiscrete[Any]:
    """The environment's space, as int64: Minari reads sizes back in a space's dtype, where their sum would wrap."""
    space = token_space(demonstrations, "multi_discrete")
    return gym.spaces.MultiDiscrete(cast(Any, space).nvec, dtype=np.int64)


def _free_path(dataset_id: str) -> Path:
    """Where the dataset will lie, after checks that its id is well formed and not taken."""
    from minari.dataset.minari_dataset import parse_dataset_id
    from minari.storage.datasets_root_dir import get_dataset_path

    try:
        parse_dataset_id(dataset_id)
    except (TypeError, ValueError):
        raise ValueError(
            f"dataset_id={dataset_id!r} must be 'name-v0' or 'namespace/name-v0': letters, digits, '-' and '_', "
            "at least two of them in a namespace, and a version at the end."
        ) from None
    where = get_dataset_path(dataset_id)
    if where.exists():
        raise ValueError(
            f"dataset_id={dataset_id!r} is taken ({where} exists); choose another name or version, or delete it with "
            "minari.delete_dataset."
        )
    return where


def _description(demonstrations: Demonstrations) -> str:
    demos, source = demonstrations, demonstrations.source
    made = f", task {source['task']} with {source.get('parameters', {})}" if "task" in source else ""
    return (
        f"{len(demos)} token sequences of {demos.horizon} tokens from a vocabulary of {demos.vocab_size}, after "
        f"prompts of {demos.prompt_length}{made}. Written by ntp-envs."
    )


class _Refused(Exception):
    """The dataset is readable but is not a set of complete token sequences."""


def _read(dataset: Any) -> Demonstrations:
    fields, prompt_length, horizon, expected = _layout(dataset)
    vocab_size = fields["vocab_size"]
    sizes = Sizes(vocab_size, horizon, prompt_length)
    form = observation_form(sizes, dataset.observation_space)
    if form is None or dataset.action_space != gym.spaces.Discrete(vocab_size):
        wanted = token_space(sizes, "multi_discrete")
        raise _Refused(
            f"its spaces are {dataset.observation_space} and {dataset.action_space}; for {prompt_length} prompt tokens "
            f"and {horizon} tokens they are {wanted} (or another form of it: {', '.join(OBSERVATION_FORMS[1:])}) and "
            f"{gym.spaces.Discrete(vocab_size)}"
        )
    prompts, lines, infos = [], [], []
    for episode in dataset.iterate_episodes():
        prompt, tokens = _checked_sequence(episode, sizes, fields["end_token"])
        prompts.append(prompt)
        lines.append(filled(tokens, horizon, fields["end_token"]))
        infos.append(_checked_infos(episode, len(tokens), expected))
    if not lines:
        raise _Refused("it has no episodes")
    if len({frozenset(info) for info in infos}) > 1:
        raise _Refused("some episodes have expert log-probabilities or weights and others have none")
    if len(lines) != fields.pop("episodes"):
        fields["exactness"] = None  # episodes were added or left out: no longer the law
    return Demonstrations(
        np.stack(prompts),
        np.stack(lines),
        weights=np.array([info[WEIGHT][0] for info in infos]) if WEIGHT in infos[0] else None,
        expert_log_probs=np.stack([_after_the_end(info[LOG_PROB][:-1], horizon) for info in infos])
        if LOG_PROB in infos[0]
        else None,
        **fields,
    )


def _layout(dataset: Any) -> tuple[dict[str, Any], int, int, set[str] | None]:
    """Fields of `Demonstrations` (and ``episodes``), prompt length, horizon, the infos there must be (if known)."""
    spec = dataset.env_spec
    if spec is not None and spec.namespace != NAMESPACE:
        raise _Refused(f"its environment is {spec.id}; '{NAMESPACE}/...' is needed")
    block = dataset.storage.metadata.get(KEY)
    if block is not None:
        infos = {key for key, flag in ((LOG_PROB, "expert_log_probs"), (WEIGHT, "weights")) if block[flag]}
        fields = Demonstrations._read_metadata(block) | {"episodes": block["episodes"]}
        return fields, block["prompt_length"], block["horizon"], infos
    if spec is None:
        raise _Refused("it was not written by to_minari and records no environment")
    parameters = dict(spec.kwargs)
    family = parameters.pop("task", None)
    if family not in task_names():
        raise _Refused(f"its environment {spec.id} is of the task {family!r}, which is not known here")
    own = {key: value for key, value in parameters.items() if key not in _OWN_ARGUMENTS}
    task = make_task(family, **own)
    source = {"task": task.name, "parameters": task.parameters(), "by": f"Minari dataset {dataset.id}"}
    fields = {"vocab_size": task.vocab_size, "source": source, "exactness": None, "episodes": None}
    fields["end_token"] = task.end_token
    return fields, task.prompt_length, task.horizon, None


def _after_the_end(log_probs: NDArray[np.float64], horizon: int) -> NDArray[np.float64]:
    """``(H,)`` log-probabilities from those of what was written; what follows an end is certain."""
    return np.concatenate([log_probs, np.zeros(horizon - len(log_probs))])


def _checked_sequence(episode: Any, sizes: Sizes, end_token: int | None) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """``(P,)`` prompt and the tokens of an episode that is one complete sequence, as the environment shows it: H of
    them, or up to the end token."""
    horizon, vocab_size = cast(int, sizes.horizon), sizes.vocab_size
    try:
        starts, shown, _ = split_observation(sizes, episode.observations)  # (H + 1, P) and (H + 1, H)
    except ValueError as error:
        raise _Refused(f"episode {episode.id}: {error}") from error
    tokens = np.asarray(episode.actions)
    if end_token is not None and tokens.ndim == 1 and 0 < len(tokens) < horizon and tokens[-1] == end_token:
        horizon = len(tokens)
    if tokens.shape != (horizon,) or len(shown) != horizon + 1:
        raise _Refused(
            f"episode {episode.id} has {len(tokens)} actions and {len(shown)} observations; "
            f"{horizon} and {horizon + 1} are needed"
        )
    if not np.issubdtype(tokens.dtype, np.integer) or tokens.min() < 0 or tokens.max() >= vocab_size:
        raise _Refused(f"episode {episode.id} has an action outside the vocabulary [0, {vocab_size - 1}]")
    prompt, tokens = starts[0], tokens.astype(np.int64)
    if prompt.size and prompt.max() >= vocab_size:
        raise _Refused(f"episode {episode.id} has a prompt outside the vocabulary [0, {vocab_size - 1}]")
    whole = filled(tokens, cast(int, sizes.horizon), end_token)
    seen = episode_observations(prompt[None], whole[None], vocab_size)[0, : horizon + 1]
    if not np.array_equal(np.concatenate([starts, shown], axis=1), seen):
        raise _Refused(f"episode {episode.id} has observations that are not its prompt and actions so far")
    for key, values, last in (
        ("terminations", episode.terminations, True),
        ("truncations", episode.truncations, False),
    ):
        values = np.asarray(values, dtype=bool)
        if values.shape != (horizon,) or values[:-1].any() or bool(values[-1]) != last:
            raise _Refused(
                f"episode {episode.id} must end by termination after exactly {horizon} tokens; see its {key}"
            )
    return prompt, tokens


def _checked_infos(episode: Any, horizon: int, expected: set[str] | None) -> dict[str, NDArray[np.float64]]:
    """The infos of ours that the episode has, checked."""
    infos = {key: np.asarray(value) for key, value in (episode.infos or {}).items() if key in (LOG_PROB, WEIGHT)}
    if expected is not None and set(infos) != expected:
        raise _Refused(f"episode {episode.id} has infos {sorted(infos)}; {sorted(expected)} are needed")
    for key, values in infos.items():
        if values.shape != (horizon + 1,) or values.dtype != np.float64:
            raise _Refused(f"episode {episode.id} has {key} of shape {values.shape} and dtype {values.dtype}")
    if WEIGHT in infos and (infos[WEIGHT] != infos[WEIGHT][0]).any():
        raise _Refused(f"episode {episode.id} has weights that change on the way")
    return infos


def _unreadable(name: Any, why: str) -> ValueError:
    return ValueError(f"Minari dataset {name!r} is not a readable set of demonstrations: {why}.")


def _minari(what: str) -> Any:
    return import_extra("minari", "h5py", "PIL", what=what, install='pip install "ntp-envs[data]"')


def _version() -> str:
    return version("ntp-envs")


# Arrays of steps, for `imitation` and `d3rlpy`, which need not be installed for them.


def _steps(
    library: str,
    module: str,
    install: str,
    demonstrations: Demonstrations,
    form: str,
    forms: tuple[str, ...],
    n: int | None,
    rng: np.random.Generator | None,
    observation: str = "multi_discrete",
) -> tuple[Any, Demonstrations, NDArray[Any], NDArray[np.bool_]]:
    """The library (``None`` for arrays), equal draws, their ``(n, H + 1, ...)`` observations, ``(n, H)`` last steps.
    Of texts that end early what was not written is there too; `Demonstrations.written` says what was.

    Raises:
        ImportError: it is not installed and ``form`` is not ``"arrays"``.
        ValueError: an unknown form; unequal weights or ``n`` without ``rng``.
    """
    what = f"form={check_in('form', form, forms)!r} (form='arrays' does not)"
    found = None if form == "arrays" else import_extra(module, what=what, install=install)
    demos = drawn(demonstrations, n, rng, library)
    observations = episode_observations(demos.prompts, demos.tokens, demos.vocab_size, observation)
    ends = np.arange(demos.horizon) == demos.lengths[:, None] - 1
    return found, demos, observations, ends


IMITATION_FORMS = ("transitions", "trajectories", "arrays")
INSTALL_IMITATION = (
    "pip install stable-baselines3 datasets jsonpickle tqdm tensorboard && pip install --no-deps imitation==1.0.1"
)


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
    types, demos, observations, ends = _steps(
        "imitation", "imitation.data.types", INSTALL_IMITATION, demonstrations, form, IMITATION_FORMS, n, rng
    )
    infos = np.array([{} for _ in range(demos.tokens.size)], dtype=object)
    if demos.expert_log_probs is not None:
        for info, log_prob in zip(infos, demos.expert_log_probs.ravel()):
            info["expert_log_prob"] = float(log_prob)
    if form == "trajectories":
        known = known_task(demos, task)
        rewards = episode_rewards(known, demos.prompts, demos.tokens)
        whole = zip(observations, demos.tokens, infos.reshape(demos.tokens.shape), rewards, demos.lengths)
        return [
            types.Trajectory(obs=obs[: t + 1], acts=acts[:t], infos=of_steps[:t], terminal=True)
            if known is None
            else types.TrajectoryWithRew(
                obs=obs[: t + 1], acts=acts[:t], infos=of_steps[:t], terminal=True, rews=paid[:t]
            )
            for obs, acts, of_steps, paid, t in whole
        ]
    steps = demos.written
    arrays: dict[str, NDArray[Any]] = {
        "obs": observations[:, :-1][steps],
        "acts": demos.tokens[steps],
        "next_obs": observations[:, 1:][steps],
        "dones": ends[steps],
        "infos": infos[steps.ravel()],
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
    expert = policy or task.expert

    class Expert(policies.BasePolicy):  # type: ignore[misc, name-defined]
        def predict(
            self, observation: Any, state: Any = None, episode_start: Any = None, deterministic: bool = False
        ) -> tuple[Any, Any]:
            prompts, tokens, _ = split_observation(task, observation)
            return expert.predict({"prompt": prompts, "tokens": tokens}, state, episode_start, rng=rng)

        def _predict(self, observation: Any, deterministic: bool = False) -> Any:
            raise NotImplementedError("call predict with NumPy observations")

    return Expert(token_space(task, "multi_discrete"), gym.spaces.Discrete(task.vocab_size))


D3RLPY_FORMS = ("dataset", "arrays")
INSTALL_D3RLPY = (
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
    d3rlpy, demos, observations, ends = _steps(
        "d3rlpy", "d3rlpy", INSTALL_D3RLPY, demonstrations, form, D3RLPY_FORMS, n, rng, "one_hot"
    )
    steps, rewards = demos.written, episode_rewards(known_task(demos, task), demos.prompts, demos.tokens)
    arrays: dict[str, NDArray[Any] | int] = {
        "observations": observations[:, :-1][steps],
        "actions": demos.tokens[steps][:, None],
        "rewards": rewards[steps][:, None].astype(np.float32),
        "terminals": ends[steps].astype(np.float32),
        "action_size": demos.vocab_size,
    }
    if d3rlpy is None:
        return arrays
    return d3rlpy.dataset.MDPDataset(**arrays, action_space=d3rlpy.ActionSpace.DISCRETE)

"""A stable-baselines3 model as an `ntp_envs.Policy`."""

from __future__ import annotations

import io
from typing import Any

import numpy as np
import torch
from gymnasium import spaces
from numpy.typing import NDArray
from stable_baselines3.common.policies import ActorCriticPolicy, BasePolicy
from stable_baselines3.dqn.policies import DQNPolicy

from agents.rl.seeding import global_generators_restored
from ntp_envs import Policy, Task
from ntp_envs._validation import check_real
from ntp_envs.observations import OBSERVATION_FORMS, observe, token_space

__all__ = ["SB3Policy", "action_log_probs", "check_spaces", "network_of"]

FloatArray = NDArray[np.float64]


class SB3Policy(Policy):
    """The law of the next token under a stable-baselines3 model, with normalised log-probabilities.

    For an actor-critic model (PPO, A2C) it is the softmax of the action logits: computed by the network in its own
    precision, normalised in float64. For DQN it is *greedy*, the token of largest Q-value with probability one (the
    first of equals, as in stable-baselines3), or, with ``temperature`` > 0, the softmax of ``Q / temperature``; the
    exploration of training is in neither. A greedy law gives other tokens log-probability ``-inf``: its distances are
    defined, its KL divergence from an expert that is not deterministic is infinite.

    The network is shared, not copied: while the model trains on, so does this policy. Pickling keeps the weights, and
    gives back a policy on the CPU.

    Args:
        model: a PPO, A2C or DQN model (or another with their policies), or its ``policy``.
        task: what it was trained on; gives A, H and P.
        temperature: of Q-values, at least 0; only DQN has them.

    Raises:
        TypeError: a model of another kind.
        ValueError: a model trained on other spaces than the task's, or a temperature for a model without Q-values.

    >>> from stable_baselines3 import PPO
    >>> from agents.rl import make_vec_env
    >>> envs = make_vec_env("Tightrope", 2, horizon=4)
    >>> policy = SB3Policy(PPO("MlpPolicy", envs, device="cpu"), envs.get_attr("task")[0])
    >>> policy.vocab_size, policy.horizon, policy.sample(np.zeros((3, 0), int), 4, np.random.default_rng(0)).shape
    (2, 4, (3, 4))
    """

    def __init__(self, model: Any, task: Task, *, temperature: float = 0.0) -> None:
        if not isinstance(task, Task):
            raise TypeError(f"task={task!r} must be an ntp_envs.Task, not {type(task).__name__}.")
        self.network = network_of(model)
        self.form = check_spaces(self.network, task)
        self.temperature = check_real("temperature", temperature, minimum=0.0)
        if self.temperature > 0 and not isinstance(self.network, DQNPolicy):
            raise ValueError(
                f"temperature={temperature} is for Q-values, which {type(self.network).__name__} does not have; "
                "leave it at 0."
            )
        super().__init__(task.vocab_size, horizon=task.horizon, prompt_length=task.prompt_length)
        self.task = task

    def next_log_probs(self, prompts: NDArray[np.integer], tokens: NDArray[np.integer]) -> FloatArray:
        self._check_length(tokens.shape[1] + 1)
        observations = observe(self.task, prompts, tokens, self.form)
        return action_log_probs(self.network, observations, temperature=self.temperature)

    def __getstate__(self) -> dict[str, Any]:
        stream = io.BytesIO()
        self.network.save(stream)  # type: ignore[arg-type]
        return {**vars(self), "network": (type(self.network), stream.getvalue())}

    def __setstate__(self, state: dict[str, Any]) -> None:
        kind, weights = state["network"]
        with global_generators_restored():  # a new network draws its first weights
            network = kind.load(io.BytesIO(weights), device="cpu")  # type: ignore[arg-type]
        vars(self).update({**state, "network": network})


def action_log_probs(network: BasePolicy, observations: Any, *, temperature: float = 0.0) -> FloatArray:
    """``(B, A)`` log-probabilities of the actions at a batch of observations, without drawing anything.

    See `SB3Policy` for what they are; the network is put into evaluation mode, as by stable-baselines3's ``predict``.
    """
    if network.training:
        network.set_training_mode(False)
    with torch.no_grad():
        inputs = network.obs_to_tensor(observations)[0]
        if not isinstance(network, DQNPolicy):
            logits = network.get_distribution(inputs).distribution.logits.double()  # type: ignore[operator]
        elif temperature > 0:
            logits = network.q_net(inputs).double() / temperature  # type: ignore[operator]
        else:
            values = network.q_net(inputs)  # type: ignore[operator]
            logits = torch.full_like(values, -torch.inf, dtype=torch.float64)
            logits.scatter_(1, values.argmax(dim=1, keepdim=True), 0.0)
        return torch.log_softmax(logits, dim=1).cpu().numpy()


def network_of(model: Any) -> BasePolicy:
    """The policy network of a model, or the network itself, if its law can be read.

    Raises:
        TypeError: it cannot.
    """
    network = model if isinstance(model, BasePolicy) else getattr(model, "policy", None)
    if not isinstance(network, ActorCriticPolicy | DQNPolicy) or hasattr(network, "lstm_actor"):
        raise TypeError(
            f"model={type(model).__name__} must be a PPO, A2C or DQN model of stable-baselines3, or its policy; "
            "recurrent and other ones cannot be read. Adapt those with ntp_envs.CallablePolicy."
        )
    return network


def check_spaces(network: BasePolicy, task: Task) -> str:
    """The form of observations that the network was trained on.

    Raises:
        ValueError: its spaces are not the task's, in either form.
    """
    actions = network.action_space
    if not isinstance(actions, spaces.Discrete) or actions.n != task.vocab_size or actions.start != 0:
        raise ValueError(
            f"the model was trained with action space {actions}, {task.name} has Discrete({task.vocab_size}); "
            "train it on this task."
        )
    for form in OBSERVATION_FORMS:
        if _sizes(network.observation_space) == _sizes(token_space(task, form)):
            return form
    raise ValueError(
        f"the model was trained on observations {_outline(network.observation_space)}, {task.name} has "
        f"{_outline(token_space(task, 'multi_discrete'))}: {task.prompt_length} prompt token(s) and horizon "
        f"{task.horizon} over {task.vocab_size} tokens and 'not yet'. Train it on this task."
    )


def _sizes(space: spaces.Space[Any]) -> Any:
    """The numbers of values, whatever the dtype."""
    if isinstance(space, spaces.Dict):
        return {key: _sizes(part) for key, part in space.items()}
    return space.nvec.tolist() if isinstance(space, spaces.MultiDiscrete) else repr(space)


def _outline(space: spaces.Space[Any]) -> str:
    """A space in a few words, however long."""
    if isinstance(space, spaces.Dict):
        return f"Dict({', '.join(f'{key}: {_outline(part)}' for key, part in space.items())})"
    if isinstance(space, spaces.MultiDiscrete) and space.nvec.size and len(set(space.nvec.ravel().tolist())) == 1:
        return f"MultiDiscrete([{space.nvec.ravel()[0]}] * {space.nvec.size})"
    return str(space)

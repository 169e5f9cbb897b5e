"""The models of stable-baselines3 and sb3-contrib as policies."""

from __future__ import annotations

import inspect
import io
import random
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import pairwise
from typing import Any

import numpy as np
import torch
from gymnasium import spaces
from numpy.typing import NDArray
from stable_baselines3.common.policies import ActorCriticPolicy, BasePolicy, MultiInputActorCriticPolicy
from stable_baselines3.dqn.policies import DQNPolicy, MultiInputPolicy
from torch import nn

from ntp_envs import Task
from ntp_envs.arrays import FloatArray, IntArray
from ntp_envs.checks import check_int, check_real
from ntp_envs.env import accepted_tokens
from ntp_envs.observations import observation_form, observe, token_space
from ntp_envs.policies import Cursor, PrefixPolicy
from ntp_envs.torch_state import own_torch_state


@contextmanager
def global_generators_restored() -> Iterator[None]:
    """Whatever is seeded or drawn inside, the global generators of Python, numpy and torch are afterwards as before.

    CUDA generators are included where CUDA is in use. Not a lock: other threads that draw meanwhile are disturbed.
    """
    saved = random.getstate(), np.random.get_state()  # noqa: NPY002
    devices = list(range(torch.cuda.device_count())) if torch.cuda.is_initialized() else []
    try:
        with torch.random.fork_rng(devices=devices):
            yield
    finally:
        random.setstate(saved[0])
        np.random.set_state(saved[1])  # noqa: NPY002


# -- A stable-baselines3 model as an `ntp_envs.Policy` ----------------------------------------------------------------


LSTMStates = tuple[torch.Tensor, torch.Tensor]


class SB3Policy(PrefixPolicy):
    """The law of the next token under a stable-baselines3 or sb3-contrib model, with normalised log-probabilities.

    * Actor-critics (PPO, A2C, TRPO, `imitation`'s networks): the softmax of the action logits, computed by the network
      in its own precision, normalised in float64.
    * MaskablePPO: that softmax over the tokens that the environment's ``action_masks()`` allow; the others have
      log-probability ``-inf``; uniform where none is allowed. ``use_masking=False`` reads a model that was trained
      with ``use_masking=False``.
    * RecurrentPPO: that softmax after the network has read the observations of the whole sequence, one by one, from
      its zero state. A cursor keeps the state, so a sequence is read once and not once a token.
    * DQN, QRDQN (mean of the quantiles): *greedy*, the token of largest Q-value with probability one (the first of
      equals, as in stable-baselines3), or, with ``temperature`` > 0, the softmax of ``Q / temperature``; the
      exploration of training is in neither. A greedy law gives other tokens log-probability ``-inf``: its distances
      are defined, its KL divergence from an expert that is not deterministic is infinite.

    Models of continuous actions (SAC, TD3, DDPG, TQC, CrossQ) have no law of tokens, and ARS has no probabilities.
    The network is shared, not copied: while the model trains on, so does this policy. Pickling keeps the weights, and
    gives back a policy on the CPU; so does `agents.Agent.save`, without a pickle where the network is one that PPO, A2C
    or DQN make of names and numbers (not one of sb3-contrib, nor with classes of yours in ``policy_kwargs``).

    Args:
        model: one of the above, or its ``policy``.
        task: what it was trained on, in any form of observations; gives A, H and P.
        temperature: of Q-values, at least 0; only DQN and QRDQN have them.
        use_masking: whether a MaskablePPO model writes only what the masks allow; no other model has masks.

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

    def __init__(self, model: Any, task: Task, *, temperature: float = 0.0, use_masking: bool = True) -> None:
        if not isinstance(task, Task):
            raise TypeError(f"task={task!r} must be an ntp_envs.Task, not {type(task).__name__}.")
        self.network = network_of(model)
        self.form = check_spaces(self.network, task)
        self.temperature = check_real("temperature", temperature, minimum=0.0)
        if self.temperature > 0 and not has_values(self.network):
            raise ValueError(
                f"temperature={temperature} is for Q-values, which {type(self.network).__name__} does not have; "
                "leave it at 0."
            )
        self.use_masking = bool(use_masking)
        super().__init__(task.vocab_size, horizon=task.horizon, prompt_length=task.prompt_length)
        self.task = task

    def prefix_law(self, prompts: NDArray[np.integer], tokens: NDArray[np.integer]) -> FloatArray:
        if is_recurrent(self.network):
            reader = self.cursor(prompts)
            for column in np.asarray(tokens).T:
                reader = reader.advance(column)
            return reader.log_probs()
        masks = None
        if self.use_masking and has_masks(self.network):
            masks = accepted_tokens(self.task, np.asarray(prompts, np.int64), np.asarray(tokens, np.int64))
        observations = observe(self.task, prompts, tokens, self.form)
        return action_log_probs(self.network, observations, temperature=self.temperature, masks=masks)

    def cursor(self, prompts: NDArray[np.integer]) -> Cursor:
        """A reader of sequences that start with these ``(B, P)`` prompts."""
        if not is_recurrent(self.network):
            return super().cursor(prompts)
        prompts = np.asarray(prompts)
        return _RecurrentCursor(self, prompts, np.empty((len(prompts), 0), dtype=np.int64), None)

    def __getstate__(self) -> dict[str, Any]:
        parameters = self.network._get_constructor_parameters()
        if is_recurrent(self.network):  # sb3-contrib leaves these out, and could not load what it saves
            parameters |= _lstm_parameters(self.network)
        stream = io.BytesIO()
        torch.save({"state_dict": self.network.state_dict(), "data": parameters}, stream)
        return {**vars(self), "network": (type(self.network), stream.getvalue())}

    def saved_state(self) -> dict[str, Any]:
        """Networks as PPO, A2C and DQN make them from names and numbers are those, and weights; others stay objects."""
        network: Any = self.network
        kind, activation = type(network), network.activation_fn
        usual = inspect.signature(kind.__init__).parameters["features_extractor_class"].default
        plain = KINDS.get(kind.__name__) is kind and ACTIVATIONS.get(activation.__name__) is activation
        plain &= network.features_extractor_class is usual and not network.features_extractor_kwargs
        if plain and getattr(network, "share_features_extractor", True):
            network = kind.__name__, network.net_arch, activation.__name__, dict(network.state_dict())
        return {**vars(self), "network": network}

    def __setstate__(self, state: dict[str, Any]) -> None:
        with global_generators_restored(), own_torch_state():  # a new network draws its first weights
            if len(state["network"]) == 4:
                network = _rebuilt(state["task"], state["form"], *state["network"])
            else:  # of a pickle: classes are in nothing else
                kind, weights = state["network"]
                network = kind.load(io.BytesIO(weights), device="cpu")  # type: ignore[arg-type]
        vars(self).update({**state, "network": network})


#: networks and activations that files name
KINDS: dict[str, Any] = {
    kind.__name__: kind for kind in (ActorCriticPolicy, MultiInputActorCriticPolicy, DQNPolicy, MultiInputPolicy)
}
ACTIVATIONS: dict[str, Any] = {
    kind.__name__: kind for kind in (nn.Tanh, nn.ReLU, nn.ELU, nn.GELU, nn.LeakyReLU, nn.SiLU)
}


def _rebuilt(
    task: Task, form: str, kind: str, net_arch: Any, activation: str, weights: dict[str, torch.Tensor]
) -> BasePolicy:
    """The network of a file, which takes no more memory than its weights do."""
    room = sum(value.numel() for value in weights.values())
    width = (task.prompt_length + task.horizon) * (task.vocab_size + 1)  # of one-hot observations
    for layers in net_arch.values() if isinstance(net_arch, dict) else [net_arch]:
        sizes = [width, *(check_int("net_arch", size, minimum=1) for size in layers), 1]
        room -= sum(one * two for one, two in pairwise(sizes))
    if room < 0:
        raise ValueError("the network is larger than its weights")
    observations, tokens = token_space(task, form), spaces.Discrete(task.vocab_size)
    network = KINDS[kind](observations, tokens, lambda _: 0.0, net_arch=net_arch, activation_fn=ACTIVATIONS[activation])
    network.load_state_dict(weights)
    return network


class _RecurrentCursor(Cursor):
    """Sequences being read by an LSTM, whose state is kept from token to token."""

    def __init__(
        self, policy: SB3Policy, prompts: NDArray[np.integer], tokens: NDArray[np.integer], states: LSTMStates | None
    ) -> None:
        self.policy, self.prompts, self.tokens, self.step = policy, prompts, tokens, tokens.shape[1]
        self._states = states  # (layers, B, width) each, before this observation; None for zeros
        self._read: tuple[FloatArray, LSTMStates] | None = None

    def log_probs(self) -> FloatArray:
        return self._advanced()[0]

    def branch(self, rows: IntArray, tokens: IntArray) -> Cursor:
        hidden, cell = self._advanced()[1]
        grown = np.column_stack([self.tokens[rows], tokens])
        chosen = torch.as_tensor(rows, device=hidden.device)
        return _RecurrentCursor(self.policy, self.prompts[rows], grown, (hidden[:, chosen], cell[:, chosen]))

    def _advanced(self) -> tuple[FloatArray, LSTMStates]:
        """The law of the next token, and the states after the present observation."""
        if self._read is None:
            network: Any = evaluating(self.policy.network)
            with own_torch_state():
                observations = observe(self.policy.task, self.prompts, self.tokens, self.policy.form)
                inputs = network.obs_to_tensor(observations)[0]
                states = self._states
                if states is None:
                    layers, _, width = network.lstm_hidden_state_shape
                    zeros = torch.zeros(layers, len(self.tokens), width, device=network.device)
                    states = zeros, zeros
                starts = torch.zeros(len(self.tokens), device=network.device)
                law, states = network.get_distribution(inputs, states, starts)
                self._read = normalised(law.distribution.logits), states
        return self._read


def action_log_probs(
    network: BasePolicy, observations: Any, *, temperature: float = 0.0, masks: NDArray[np.bool_] | None = None
) -> FloatArray:
    """``(B, A)`` log-probabilities of the actions at a batch of observations, without drawing anything.

    See `SB3Policy` for what they are; the network, not a recurrent one, is put into evaluation mode, as by
    stable-baselines3's ``predict``. ``masks`` ``(B, A)`` are the actions that may be chosen, by default all.
    """
    reader: Any = evaluating(network)
    with own_torch_state():
        inputs = reader.obs_to_tensor(observations)[0]
        if not has_values(network):
            logits = reader.get_distribution(inputs).distribution.logits
            if masks is not None:
                allowed = torch.as_tensor(masks, device=logits.device)
                logits = torch.where(allowed, logits, -torch.inf)
                logits[~allowed.any(dim=1)] = 0.0  # nothing is allowed: sb3-contrib then draws from all alike
            return normalised(logits)
        values = value_network(network)(inputs)
        if values.ndim == 3:
            values = values.mean(dim=1)
        if temperature > 0:
            return normalised(values.double() / temperature)
        greedy = torch.full_like(values, -torch.inf).scatter_(1, values.argmax(dim=1, keepdim=True), 0.0)
        return normalised(greedy)


def normalised(logits: torch.Tensor) -> FloatArray:
    """``(B, A)`` log-probabilities in float64."""
    return torch.log_softmax(logits.double(), dim=1).cpu().numpy()


def evaluating(network: BasePolicy) -> BasePolicy:
    """The network in evaluation mode."""
    if network.training:
        network.set_training_mode(False)
    return network


def network_of(model: Any) -> BasePolicy:
    """The policy network of a model, or the network itself, if its law can be read.

    Raises:
        TypeError: it cannot.
    """
    network = model if isinstance(model, BasePolicy) else getattr(model, "policy", None)
    if not isinstance(network, BasePolicy):
        why = "it has no policy network of that library"
    elif isinstance(network, ActorCriticPolicy) or has_values(network) or has_masks(network):
        return network
    elif isinstance(network.action_space, spaces.Box):
        why = "its actions are continuous, so it has no law of tokens"
    else:
        why = "it has neither logits nor Q-values of actions; adapt what it does with ntp_envs.CallablePolicy"
    raise TypeError(
        f"model={type(model).__name__} must be a PPO, A2C or DQN model of stable-baselines3, or a TRPO, MaskablePPO, "
        f"RecurrentPPO or QRDQN model of sb3-contrib, or the policy of one: {why}."
    )


# sb3-contrib need not be installed, so its networks are known by what they have


def has_values(network: BasePolicy) -> bool:
    """Whether the network has Q-values: DQN, QRDQN."""
    return isinstance(value_network(network), BasePolicy)


def value_network(network: BasePolicy) -> Any:
    """The network of Q-values, which gives ``(B, A)``, or of their quantiles, ``(B, n, A)``; ``None`` without."""
    return getattr(network, "q_net", None) or getattr(network, "quantile_net", None)


def has_masks(network: BasePolicy) -> bool:
    """Whether the network's law takes action masks: MaskablePPO."""
    law = getattr(network, "get_distribution", None)
    return law is not None and "action_masks" in inspect.signature(law).parameters


def is_recurrent(network: BasePolicy) -> bool:
    """Whether the network's law depends on more than the present observation: RecurrentPPO."""
    return hasattr(network, "lstm_actor")


def _lstm_parameters(network: Any) -> dict[str, Any]:
    return {
        "lstm_hidden_size": network.lstm_output_dim,
        "n_lstm_layers": network.lstm_hidden_state_shape[0],
        "shared_lstm": network.shared_lstm,
        "enable_critic_lstm": network.enable_critic_lstm,
        "lstm_kwargs": network.lstm_kwargs,
    }


def check_spaces(network: BasePolicy, task: Task) -> str:
    """The form of observations that the network was trained on.

    Raises:
        ValueError: its spaces are not the task's, in any form.
    """
    actions = network.action_space
    if not isinstance(actions, spaces.Discrete) or actions.n != task.vocab_size or actions.start != 0:
        raise ValueError(
            f"the model was trained with action space {actions}, {task.name} has Discrete({task.vocab_size}); "
            "train it on this task."
        )
    form = observation_form(task, network.observation_space)
    if form is not None:
        return form
    raise ValueError(
        f"the model was trained on observations {_outline(network.observation_space)}, {task.name} has "
        f"{_outline(token_space(task, 'multi_discrete'))}: {task.prompt_length} prompt token(s) and horizon "
        f"{task.horizon} over {task.vocab_size} tokens and 'not yet'. Train it on this task."
    )


def _outline(space: spaces.Space[Any]) -> str:
    """A space in a few words, however long."""
    if isinstance(space, spaces.Dict):
        return f"Dict({', '.join(f'{key}: {_outline(part)}' for key, part in space.items())})"
    if isinstance(space, spaces.MultiDiscrete) and space.nvec.size and len(set(space.nvec.ravel().tolist())) == 1:
        return f"MultiDiscrete([{space.nvec.ravel()[0]}] * {space.nvec.size})"
    return str(space)

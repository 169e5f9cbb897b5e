"""Which network: a specification that builds, initialises and wraps it, and holds no weights of its own."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import KW_ONLY, dataclass, fields
from typing import TYPE_CHECKING, Any

import torch

from agents.neural.networks import ACTIVATIONS, Network, Transformer, WindowNetwork
from agents.torch_state import own_torch_state
from ntp_envs import Demonstrations, PolicyClass, Task
from ntp_envs._validation import check_in, check_int, check_real

if TYPE_CHECKING:
    from agents.neural.policy import TorchPolicy

__all__ = ["ARCHITECTURES", "NetworkClass", "check_network"]

ARCHITECTURES = ("linear", "mlp", "transformer")


@dataclass(frozen=True)
class NetworkClass(PolicyClass):
    """Policies whose next-token logits are computed by a network of one architecture.

    * ``"linear"``: embeddings (A x width), one width x width matrix a place of the window, and an output map
      (width x A): no non-linearity but decoding (our reading of the linear predictor of Malach 2023,
      arXiv:2309.06979). At ``width >= A`` it is every linear map of the one-hot window.
    * ``"mlp"``: the same window, the sum passed through ``activation`` and ``layers - 1`` more hidden layers.
    * ``"transformer"``: decoder-only, pre-norm, learned positions. Prompt tokens see the whole prompt, tokens after it
      what precedes them. ``prompt_group=3, prompt_positions=False`` is the edge encoding of graph prompts: three
      prompt tokens (u, v, mark) become one vector, the sum of an embedding for each role, and without positions the
      network cannot tell one order of the edges from another.

    A specification is a value: hashable, comparable, picklable. The same weights fit every equal one.

    Args:
        architecture: ``"linear"``, ``"mlp"`` or ``"transformer"``.
        vocab_size: A.
        prompt_length: P, may be 0.
        horizon: H, the longest answer.
        width: of the embeddings and hidden layers.
        layers: hidden layers (``"mlp"``) or blocks (``"transformer"``); a linear network has none.
        heads: of attention, a divisor of ``width``; ``"transformer"`` only.
        window: how many of the last tokens, prompt included, ``"linear"`` and ``"mlp"`` see; ``None`` is all.
        positional: ``"linear"`` and ``"mlp"``: separate window weights for each of the H output positions.
        activation: ``"relu"`` or ``"gelu"``.
        prompt_group: ``"transformer"``: prompt tokens that make one input vector; divides P.
        prompt_positions: ``"transformer"``: whether prompt vectors carry their position.
        dropout: share of hidden units dropped while training.

    Raises:
        ValueError, TypeError: an option out of range, or one that the architecture does not have.

    >>> spec = NetworkClass("linear", 2, prompt_length=1, horizon=3, width=4)
    >>> spec.window_length, spec.n_parameters
    (3, 74)
    """

    architecture: str
    vocab_size: int
    _: KW_ONLY
    prompt_length: int
    horizon: int
    width: int = 64
    layers: int = 2
    heads: int = 4
    window: int | None = None
    positional: bool = False
    activation: str = "gelu"
    prompt_group: int = 1
    prompt_positions: bool = True
    dropout: float = 0.0

    def __post_init__(self) -> None:
        check_in("architecture", self.architecture, ARCHITECTURES)
        check_in("activation", self.activation, ACTIVATIONS)
        for name, minimum in (
            ("vocab_size", 1),
            ("prompt_length", 0),
            *((name, 1) for name in ("horizon", "width", "layers", "heads", "prompt_group")),
        ):
            object.__setattr__(self, name, check_int(name, getattr(self, name), minimum=minimum))
        object.__setattr__(self, "dropout", check_real("dropout", self.dropout, minimum=0.0, maximum=0.99))
        self._check_options()

    def _check_options(self) -> None:
        transformer = self.architecture == "transformer"
        foreign = ("window", "positional") if transformer else ("prompt_group", "prompt_positions")
        for name in foreign:
            default = next(f.default for f in fields(self) if f.name == name)
            if getattr(self, name) != default:
                raise ValueError(f"a {self.architecture!r} network has no {name}; leave it at {default!r}.")
        if self.window is not None:
            context = self.prompt_length + self.horizon - 1
            window = check_int("window", self.window, minimum=1, maximum=max(context, 1))
            object.__setattr__(self, "window", window)
        if transformer and self.width % self.heads:
            raise ValueError(f"heads={self.heads} must divide width={self.width}.")
        if transformer and self.prompt_length % self.prompt_group:
            raise ValueError(f"prompt_group={self.prompt_group} must divide prompt_length={self.prompt_length}.")

    @classmethod
    def for_task(cls, architecture: str, task: Task, **options: Any) -> NetworkClass:
        """The class with the vocabulary, prompt length and horizon of a task.

        >>> from ntp_envs import make_task
        >>> NetworkClass.for_task("mlp", make_task("PathStar"), width=32).prompt_length
        27
        """
        sizes = {"prompt_length": task.prompt_length, "horizon": task.horizon}
        return cls(architecture, task.vocab_size, **{**sizes, **options})

    @property
    def window_length(self) -> int:
        """W, the number of last tokens that ``"linear"`` and ``"mlp"`` see: ``window``, or all there can be."""
        return self.window or max(self.prompt_length + self.horizon - 1, 1)

    @property
    def n_parameters(self) -> int:
        """How many numbers a network has."""
        return sum(parameter.numel() for parameter in self.empty().parameters())

    def numbers_per_sequence(self, length: int) -> int:
        """About how many numbers the widest intermediate result takes for one sequence of ``length`` tokens."""
        if self.architecture != "transformer":
            return length * max(self.window_length, self.width, self.vocab_size)
        vectors = max(self.prompt_length // self.prompt_group, 1) + length
        return vectors * max(4 * self.width, self.heads * vectors, self.vocab_size)

    def empty(self) -> Network:
        """The network without memory for its weights (on torch's ``"meta"`` device)."""
        with torch.device("meta"):
            return Transformer(self) if self.architecture == "transformer" else WindowNetwork(self)

    def initialised(self, generator: torch.Generator) -> Network:
        """A network on the CPU whose float32 weights are drawn from ``generator``, and from nothing else."""
        with own_torch_state():
            network = self.empty().to_empty(device="cpu")
            network.initialise(generator)
            return network.requires_grad_()

    def policy(self, parameters: Any, /, *, teacherless: bool = False, device: str = "cpu") -> TorchPolicy:
        """The policy with these weights, which are copied.

        Args:
            parameters: a network of this specification, or its ``state_dict()``.
            teacherless: every token after the prompt is read as the dummy, so that tokens are independent given the
                prompt.
            device: where to compute, such as ``"cuda"``.

        Raises:
            ValueError: weights of another network: a name, a shape, or a number that is not finite.
            TypeError: something else.
        """
        from agents.neural.policy import TorchPolicy

        return TorchPolicy(self, self.checked_state(parameters), teacherless=teacherless, device=device)

    def checked_state(self, parameters: Any) -> dict[str, torch.Tensor]:
        """Copies of the weights on the CPU, after checking that they are those of such a network; see `policy`."""
        state = parameters.state_dict() if isinstance(parameters, torch.nn.Module) else parameters
        if not isinstance(state, Mapping) or not all(isinstance(value, torch.Tensor) for value in state.values()):
            raise TypeError(f"parameters must be a network or its state_dict(), not {type(parameters).__name__}.")
        wanted = {name: tuple(value.shape) for name, value in self.empty().state_dict().items()}
        given = {name: tuple(value.shape) for name, value in state.items()}
        for name in (*wanted, *given):
            if wanted.get(name) != given.get(name):
                raise ValueError(
                    f"the weight {name!r} has shape {given.get(name, 'missing')}, this network has "
                    f"{wanted.get(name, 'none of that name')}; the weights belong to another NetworkClass."
                )
        with own_torch_state():
            copies = {name: value.detach().to("cpu", copy=True) for name, value in state.items()}
        for name, value in copies.items():
            if not torch.isfinite(value).all():
                raise ValueError(
                    f"the weight {name!r} is not finite; training diverged (a smaller learning_rate helps)."
                )
        return copies


def check_network(policy_class: PolicyClass, demonstrations: Demonstrations) -> NetworkClass:
    """The class, known to be of networks; ``ValueError`` where they read prompts of another length."""
    if not isinstance(policy_class, NetworkClass):  # for type checkers: `Agent.fit` has checked it
        raise TypeError(f"{type(policy_class).__name__} is not a NetworkClass.")
    if policy_class.prompt_length != demonstrations.prompt_length:
        raise ValueError(
            f"the network reads prompts of {policy_class.prompt_length} tokens, the demonstrations have "
            f"{demonstrations.prompt_length}; build it with prompt_length={demonstrations.prompt_length}."
        )
    return policy_class

"""Networks: the modules, the class that specifies them, and trained ones (or any of yours) as policies."""

from __future__ import annotations

import math
from abc import abstractmethod
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import KW_ONLY, asdict, dataclass, fields
from functools import cached_property
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn

from ntp_envs import Demonstrations, EndedClass, EndedPolicy, Policy, PolicyClass, Task
from ntp_envs.arrays import FloatArray, IntArray
from ntp_envs.checks import check_in, check_int, check_real, check_tokens
from ntp_envs.policies import Cursor, check_sequences
from ntp_envs.torch_state import own_torch_state


def resolve_device(device: Any) -> torch.device:
    """``"auto"`` is CUDA where there is one, otherwise the CPU; anything else as torch reads it.

    Raises:
        ValueError: a device that torch does not know, or that this machine does not have.
    """
    if isinstance(device, str) and device == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        found = torch.device(device)
        torch.empty(0, device=found)
    except (RuntimeError, TypeError, AssertionError) as error:
        raise ValueError(
            f"device={device!r} cannot be used here ({str(error).splitlines()[0]}); use 'auto' or 'cpu'."
        ) from error
    return found


def evaluation_device(device: torch.device) -> str:
    """Where the policy of a network trained on ``device`` is evaluated: there, but for MPS, which has no float64."""
    return "cpu" if device.type == "mps" else str(device)


# -- The networks, as torch modules: tokens in, one hidden vector for each next token out -----------------------------
#
# Shapes: B sequences, P prompt tokens, T tokens after it that are inputs, A tokens, e = width. A network answers T + 1
# questions at once: what follows the prompt, and what follows each of the T tokens.


ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {"relu": F.relu, "gelu": F.gelu}

#: what a network keeps of the sequences it has read, to go on from: tensors whose first axis is the batch
State = tuple[Tensor, ...]


class Network(nn.Module):
    """What the trainer and `TorchPolicy` know of a network. The token A is the dummy of teacherless training."""

    #: turns hidden vectors to logits; where it is not linear, they are logits already
    out: nn.Module
    vocab_size: int
    #: what products of matrices are taken in while it trains: ``"float32"`` or ``"bf16"``
    precision = "float32"
    #: draws what is dropped out while it trains
    generator: torch.Generator | None = None

    def products(self) -> AbstractContextManager[Any]:
        """Inside, products of matrices are taken in ``precision``; weights, sums and norms stay as they are."""
        if self.precision == "float32":
            return nullcontext()
        # no cache: it would outlive the weights' next update inside an autocast of the caller's
        return torch.autocast(next(self.parameters()).device.type, torch.bfloat16, cache_enabled=False)

    def initialise(self, generator: torch.Generator) -> None:
        """Draw all weights, from this generator only. Called without gradients."""
        raise NotImplementedError

    def forward(self, prompts: Tensor, inputs: Tensor) -> Tensor:
        """``(B, P)`` prompts and ``(B, T)`` tokens -> ``(B, T + 1, e)`` hidden vectors, which `out` turns to logits."""
        raise NotImplementedError

    def begin(self, prompts: Tensor) -> tuple[Tensor, State]:
        """``(B, e)`` after the ``(B, P)`` prompts, and what to go on from."""
        raise NotImplementedError

    def read(self, state: State, tokens: Tensor, step: int) -> tuple[Tensor, State]:
        """``(B, e)`` after the ``(B,)`` tokens more, which are number ``step`` (from 0) after the prompt."""
        raise NotImplementedError


class Dropout(nn.Module):
    """Dropout that draws from a generator of its own (`torch.nn.Dropout` has only the global one)."""

    def __init__(self, share: float) -> None:
        super().__init__()
        self.share = share
        self.generator: torch.Generator | None = None

    def forward(self, x: Tensor) -> Tensor:
        if not self.training or self.share == 0.0:
            return x
        kept = torch.empty_like(x).bernoulli_(1.0 - self.share, generator=self.generator)
        return x * kept / (1.0 - self.share)


class WindowNetwork(Network):
    """Linear or MLP: a sum over the last W tokens of one e x e map each, then hidden layers if there are any."""

    def __init__(self, spec: NetworkClass) -> None:
        super().__init__()
        self.window, self.vocab_size = spec.window_length, spec.vocab_size
        self.activation = None if spec.architecture == "linear" else ACTIVATIONS[spec.activation]
        self.positional = spec.positional
        e, places = spec.width, spec.horizon if spec.positional else 1
        self.embedding = nn.Parameter(torch.empty(spec.vocab_size + 1, e))
        self.mix = nn.Parameter(torch.empty(places, self.window, e, e))  # oldest place of the window first
        self.bias = nn.Parameter(torch.empty(places, e))
        hidden = spec.layers - 1 if spec.architecture == "mlp" else 0
        self.hidden = nn.ModuleList(nn.Linear(e, e) for _ in range(hidden))
        self.dropout = Dropout(spec.dropout)
        self.out = nn.Linear(e, spec.vocab_size)

    def initialise(self, generator: torch.Generator) -> None:
        """Scales that keep the variance of hidden units near one, and logits small."""
        e = self.embedding.shape[1]
        deviations = {"embedding": 1.0, "mix": 1.0 / math.sqrt(self.window * e), "out.weight": 1.0 / e}
        for name, parameter in self.named_parameters():
            if name.endswith("bias"):
                parameter.zero_()
            else:
                parameter.normal_(0.0, deviations.get(name, 1.0 / math.sqrt(e)), generator=generator)

    def forward(self, prompts: Tensor, inputs: Tensor) -> Tensor:
        ids = F.pad(torch.cat([prompts, inputs], 1), (self.window, 0), value=self.vocab_size + 1)  # (B, W + P + T)
        return self._hidden(ids.unfold(1, self.window, 1)[:, -inputs.shape[1] - 1 :], 0)

    def begin(self, prompts: Tensor) -> tuple[Tensor, State]:
        ids = F.pad(prompts, (self.window, 0), value=self.vocab_size + 1)[:, prompts.shape[1] :]  # (B, W)
        return self._hidden(ids[:, None], 0)[:, 0], (ids,)

    def read(self, state: State, tokens: Tensor, step: int) -> tuple[Tensor, State]:
        ids = torch.cat([state[0][:, 1:], tokens[:, None]], 1)  # (B, W)
        return self._hidden(ids[:, None], step + 1)[:, 0], (ids,)

    def _hidden(self, ids: Tensor, first: int) -> Tensor:
        """``(B, N, W)`` windows, for output positions ``first`` onwards -> ``(B, N, e)``."""
        embedding = F.pad(self.embedding, (0, 0, 0, 1))  # (A + 2, e): the last row, zero, is before the beginning
        places = slice(first, first + ids.shape[1]) if self.positional else slice(0, 1)
        # what each token adds from each place: ten times cheaper than mapping every occurrence
        table = torch.einsum("ae,nweo->nwao", embedding, self.mix[places]).to(embedding.dtype)  # (N or 1, W, A + 2, e)
        n, size = table.shape[0], table.shape[2]
        rows = torch.arange(n * self.window, device=ids.device).view(n, self.window) * size
        x = F.embedding_bag((ids + rows).flatten(0, 1), table.flatten(0, 2), mode="sum")  # (B N, e)
        x = x.view(*ids.shape[:2], x.shape[1]) + self.bias[places]
        if self.activation is None:
            return self.dropout(x)
        x = self.dropout(self.activation(x))
        for layer in self.hidden:
            x = self.dropout(self.activation(layer(x)))
        return x


class Block(nn.Module):
    """Attention, then a feed-forward network, each added to what came in (pre-norm)."""

    def __init__(self, spec: NetworkClass) -> None:
        super().__init__()
        e = spec.width
        self.heads, self.activation = spec.heads, ACTIVATIONS[spec.activation]
        self.norm1, self.norm2 = nn.LayerNorm(e), nn.LayerNorm(e)
        self.query, self.key_value, self.project = nn.Linear(e, e), nn.Linear(e, 2 * e), nn.Linear(e, e)
        self.up, self.down = nn.Linear(e, 4 * e), nn.Linear(4 * e, e)
        self.dropout = Dropout(spec.dropout)

    def _split(self, x: Tensor) -> Tensor:
        return x.unflatten(2, (self.heads, -1)).transpose(1, 2)  # (B, S, e) -> (B, heads, S, e / heads)

    def forward(self, x: Tensor, mask: Tensor | None, past: State, keep: int) -> tuple[Tensor, State]:
        """``(B, S, e)`` -> the last ``keep`` of its vectors, and keys and values, those of the past first."""
        y = self.norm1(x)
        key, value = (self._split(part) for part in self.key_value(y).chunk(2, dim=2))
        if past:
            key, value = torch.cat([past[0], key], 2), torch.cat([past[1], value], 2)
        query = self._split(self.query(y[:, -keep:]))  # (B, heads, keep, e / heads)
        seen = F.scaled_dot_product_attention(query, key, value, attn_mask=mask)
        x = x[:, -keep:] + self.dropout(self.project(seen.transpose(1, 2).flatten(2)))
        x = x + self.dropout(self.down(self.activation(self.up(self.norm2(x)))))
        return x, (key, value)


class Transformer(Network):
    """A small decoder-only transformer that sees the whole prompt at once."""

    def __init__(self, spec: NetworkClass) -> None:
        super().__init__()
        e, self.group, self.vocab_size = spec.width, spec.prompt_group, spec.vocab_size
        self.n_prompt = max(spec.prompt_length // self.group, 1)  # G vectors; without a prompt, one to begin with
        self.embedding = nn.Parameter(torch.empty(spec.vocab_size + 1, e))
        self.begin_vector = nn.Parameter(torch.empty(1, e)) if spec.prompt_length == 0 else None
        self.roles = nn.Parameter(torch.empty(self.group, spec.vocab_size, e)) if self.group > 1 else None
        positions = spec.prompt_positions and spec.prompt_length > 0
        self.prompt_position = nn.Parameter(torch.empty(self.n_prompt, e)) if positions else None
        self.position = nn.Parameter(torch.empty(spec.horizon - 1, e))
        self.blocks = nn.ModuleList(Block(spec) for _ in range(spec.layers))
        self.norm = nn.LayerNorm(e)
        self.out = nn.Linear(e, spec.vocab_size)
        self.dropout = Dropout(spec.dropout)

    def initialise(self, generator: torch.Generator) -> None:
        """As GPT-2: normal of deviation 0.02, residual projections divided by sqrt(2 layers)."""
        for name, parameter in self.named_parameters():
            if name.endswith("bias"):
                parameter.zero_()
            elif "norm" in name:
                parameter.fill_(1.0)
            else:
                residual = name.endswith(("project.weight", "down.weight"))
                deviation = 0.02 / math.sqrt(2 * len(self.blocks)) if residual else 0.02
                parameter.normal_(0.0, deviation, generator=generator)

    def forward(self, prompts: Tensor, inputs: Tensor) -> Tensor:
        tokens = F.embedding(inputs, self.embedding) + self.position[: inputs.shape[1]]
        x = self.dropout(torch.cat([self._embed(prompts), tokens], 1))  # (B, S, e) with S = G + T
        size = x.shape[1]
        mask = torch.ones(size, size, dtype=torch.bool, device=x.device).tril()
        mask[:, : self.n_prompt] = True  # everyone sees the whole prompt
        return self._run(x, mask, (), inputs.shape[1] + 1)[0]

    def begin(self, prompts: Tensor) -> tuple[Tensor, State]:
        hidden, state = self._run(self._embed(prompts), None, (), 1)
        return hidden[:, 0], state

    def read(self, state: State, tokens: Tensor, step: int) -> tuple[Tensor, State]:
        x = F.embedding(tokens, self.embedding) + self.position[step]  # (B, e)
        hidden, state = self._run(x[:, None], None, state, 1)
        return hidden[:, 0], state

    def _embed(self, prompts: Tensor) -> Tensor:
        """``(B, P)`` -> ``(B, G, e)``."""
        if self.begin_vector is not None:
            return self.begin_vector.expand(len(prompts), 1, -1)
        if self.roles is None:
            x = F.embedding(prompts, self.embedding)
        else:
            grouped = prompts.unflatten(1, (-1, self.group))  # (B, G, group)
            x = F.embedding(grouped[:, :, 0], self.roles[0])
            for role in range(1, self.group):
                x = x + F.embedding(grouped[:, :, role], self.roles[role])
        return x if self.prompt_position is None else x + self.prompt_position

    def _run(self, x: Tensor, mask: Tensor | None, past: State, keep: int) -> tuple[Tensor, State]:
        """Through the blocks; only the last ``keep`` vectors are wanted, which saves work in the last block."""
        state: State = ()
        for i, block in enumerate(self.blocks):
            last = i == len(self.blocks) - 1
            rows = keep if last else x.shape[1]
            seen = mask if mask is None else mask[-rows:]
            x, new = block(x, seen, past[2 * i : 2 * i + 2], rows)
            state += new
        return self.norm(x), state


# -- Which network: a specification that builds, initialises and wraps it, and holds no weights of its own ------------


class ModuleClass(PolicyClass):
    """Policies that a network computes: what learners that train one know of its class.

    It is a value (hashable, comparable, picklable) that builds networks and makes policies of them. `NetworkClass` is
    one, `agents.neural.language.TransformersClass` another.
    """

    #: P, tokens of the prompts that its networks read
    prompt_length: int

    @abstractmethod
    def identity(self) -> dict[str, Any]:
        """What tells the class from another, as JSON holds it: checkpoints are known by it."""

    @abstractmethod
    def empty(self) -> Network:
        """The network without memory for its weights (on torch's ``"meta"`` device)."""

    @abstractmethod
    def initialised(self, generator: torch.Generator) -> Network:
        """Where a training starts: a network on the CPU, its float32 weights drawn from ``generator`` alone."""

    @abstractmethod
    def policy(self, parameters: Any, /, *, teacherless: bool = False, device: str = "cpu") -> TrainedPolicy:
        """The policy with these weights, which are copied.

        Args:
            parameters: a network of this class, or its ``state_dict()``.
            teacherless: every token after the prompt is read as the dummy, so that tokens are independent given the
                prompt.
            device: where to compute, such as ``"cuda"``.

        Raises:
            ValueError: weights of another network: a name, a shape, or a number that is not finite.
            TypeError: something else.
        """

    @property
    def n_parameters(self) -> int:
        """How many numbers a network has."""
        return sum(parameter.numel() for parameter in self.empty().parameters())

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
                    f"{wanted.get(name, 'none of that name')}; the weights belong to another {type(self).__name__}."
                )
        with own_torch_state():
            copies = {name: value.detach().to("cpu", copy=True) for name, value in state.items()}
        for name, value in copies.items():
            if not torch.isfinite(value).all():
                raise ValueError(
                    f"the weight {name!r} is not finite; training diverged (a smaller learning_rate helps)."
                )
        return copies


class TrainedPolicy(Policy):
    """A policy that a network computes, as a `ModuleClass` makes it.

    Attributes:
        network_class: which.
        state: its weights by name, float32, on the CPU.
    """

    network_class: ModuleClass
    state: Any


#: what `NetworkClass` can be
ARCHITECTURES = ("linear", "mlp", "transformer")


@dataclass(frozen=True)
class NetworkClass(ModuleClass):
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

    def training_flops(self, batch_size: int) -> int:
        """Floating-point operations of one step of teacher forcing on ``batch_size`` sequences of H tokens.

        Forward and backward (two forward passes: for weights and for inputs), matrix products only, a multiply-add
        being two operations: the convention of Kaplan et al. (2020, arXiv:2001.08361, section 2.1), without its
        approximations. Embedding look-ups are free, and so are sums, activations, norms, softmax and the optimiser.
        What these networks really do is counted:

        * a window network (``"linear"``, ``"mlp"``) of width e over W places maps each of the A + 2 tokens once for
          each place, W (A + 2) e^2 multiply-adds a step whatever the batch, and then looks sums up; the hidden layers
          cost e^2 and the output e A a token;
        * a transformer reads S = G + H - 1 vectors (G of the prompt) with 12 e^2 multiply-adds each in a block and
          2 S^2 e in its attention, masked places included; the last block asks only for the H vectors that predict.

        >>> spec = NetworkClass("linear", 10, prompt_length=2, horizon=5, width=8, window=3)
        >>> spec.training_flops(4) == 2 * 3 * (3 * 12 * 64 + 4 * 5 * 8 * 10)
        True
        """
        e, rows, tokens = self.width, self.horizon, batch_size * self.horizon
        total = tokens * e * self.vocab_size
        if self.architecture == "transformer":
            size = max(self.prompt_length // self.prompt_group, 1) + rows - 1
            for asked in [size] * (self.layers - 1) + [rows]:  # keys and values; the rest; attention
                total += batch_size * (2 * size * e * e + 10 * asked * e * e + 2 * asked * size * e)
        else:
            places = self.horizon if self.positional else 1
            total += places * self.window_length * (self.vocab_size + 2) * e * e
            total += (self.layers - 1 if self.architecture == "mlp" else 0) * tokens * e * e
        return 2 * 3 * total

    def numbers_per_sequence(self, length: int) -> int:
        """About how many numbers the widest intermediate result takes for one sequence of ``length`` tokens."""
        if self.architecture != "transformer":
            return length * max(self.window_length, self.width, self.vocab_size)
        vectors = max(self.prompt_length // self.prompt_group, 1) + length
        return vectors * max(4 * self.width, self.heads * vectors, self.vocab_size)

    def empty(self) -> Network:
        with torch.device("meta"):
            return Transformer(self) if self.architecture == "transformer" else WindowNetwork(self)

    def identity(self) -> dict[str, Any]:
        return asdict(self)

    def initialised(self, generator: torch.Generator) -> Network:
        with own_torch_state():
            network = self.empty().to_empty(device="cpu")
            network.initialise(generator)
            return network.requires_grad_()

    def policy(self, parameters: Any, /, *, teacherless: bool = False, device: str = "cpu") -> TorchPolicy:
        return TorchPolicy(self, self.checked_state(parameters), teacherless=teacherless, device=device)


def check_network(policy_class: PolicyClass, demonstrations: Demonstrations) -> ModuleClass:
    """The class of networks, which may be that of what is written until a text ends.

    Raises:
        ValueError: they read prompts of another length.
    """
    networks = policy_class.members if isinstance(policy_class, EndedClass) else policy_class
    if not isinstance(networks, ModuleClass):  # for type checkers: `Agent.fit` has checked it
        raise TypeError(f"{type(networks).__name__} is not a class of networks.")
    if networks.prompt_length != demonstrations.prompt_length:
        raise ValueError(
            f"the network reads prompts of {networks.prompt_length} tokens, the demonstrations have "
            f"{demonstrations.prompt_length}; build it with prompt_length={demonstrations.prompt_length}."
        )
    return networks


def ending(policy: Policy, end: int | None) -> Policy:
    """The policy, as the law of texts that end, where there is an end token."""
    return policy if end is None else EndedPolicy(policy, end)


# -- A network as an `ntp_envs.Policy` --------------------------------------------------------------------------------


#: about how many numbers the widest layer may take in one pass (64 MiB in float64), and the laws made of it at once
CHUNK_NUMBERS, LAW_NUMBERS = 2**23, 2**20


class PassPolicy(Policy):
    """A policy that reads whole sequences in one pass, a few of them at a time; laws are made for a few places at once.

    A subclass writes `_passes` and `_law`.
    """

    whole_prompts = True

    def _passes(self, prompts: IntArray, inputs: IntArray) -> Iterator[tuple[slice, Tensor]]:
        """Some rows, and ``(b, T + 1, ...)`` what the network says after their prompts and after each of T tokens."""
        raise NotImplementedError

    def _law(self, said: Tensor) -> FloatArray:
        """``(b, t, ...)`` of that -> ``(b, t, A)`` log-probabilities."""
        raise NotImplementedError

    def _forced(
        self, prompts: NDArray[np.integer], tokens: NDArray[np.integer]
    ) -> Iterator[tuple[slice, slice, FloatArray]]:
        """Rows, places and their ``(b, t, A)`` teacher-forced law."""
        prompts, tokens = check_sequences(self, prompts, tokens)
        length = tokens.shape[1]
        for rows, said in self._passes(prompts, tokens[:, :-1]):
            few = max(1, LAW_NUMBERS // max(len(said) * self.vocab_size, 1))
            for start in range(0, length, few):
                yield rows, slice(start, start + few), self._law(said[:, start : start + few])
            del said  # before the next pass takes as much

    def forced_log_probs(self, prompts: NDArray[np.integer], tokens: NDArray[np.integer]) -> FloatArray:
        out = np.empty((*np.shape(tokens), self.vocab_size))
        for rows, places, law in self._forced(prompts, tokens):
            out[rows, places] = law
        return out

    def log_probs(self, prompts: NDArray[np.integer], tokens: NDArray[np.integer]) -> FloatArray:
        out, index = np.empty(np.shape(tokens)), np.asarray(tokens, dtype=np.int64)[..., None]
        for rows, places, law in self._forced(prompts, tokens):
            out[rows, places] = np.take_along_axis(law, index[rows, places], axis=2)[:, :, 0]
        return out

    def next_log_probs(self, prompts: NDArray[np.integer], tokens: NDArray[np.integer]) -> FloatArray:
        prompts, tokens = check_sequences(self, prompts, tokens, more=1)
        out = np.empty((len(tokens), self.vocab_size))
        for rows, said in self._passes(prompts, tokens):
            out[rows] = self._law(said[:, -1:])[:, 0]
        return out


class TorchPolicy(PassPolicy, TrainedPolicy):
    """The law of the next token under a trained network; `NetworkClass.policy` builds one.

    Weights are kept as they were trained (float32) and evaluated in float64, so that the ways to ask agree: a cursor
    (window buffer, or cache of keys and values), `next_log_probs` from scratch and the one-pass `forced_log_probs`
    differ by rounding, below 1e-10 in the tests, and so do batches of different sizes, which are cut into chunks of
    bounded memory. Equal calls give equal bits on one machine, whatever torch's settings: on the CPU, evaluation takes
    one thread. Pickling keeps the weights, and gives back a policy on the CPU.

    Args:
        network_class: the specification.
        state: its weights by name, as `NetworkClass.checked_state` gives them.
        teacherless: tokens after the prompt are read as the dummy token: a product law given the prompt.
        device: where to compute; one without float64 (``"mps"``) is refused.

    >>> spec = NetworkClass("mlp", 3, prompt_length=1, horizon=4, width=8)
    >>> policy = spec.policy(spec.initialised(torch.Generator().manual_seed(0)))
    >>> policy.forced_log_probs(np.array([[2]]), np.array([[0, 1, 2, 0]])).shape
    (1, 4, 3)
    """

    def __init__(
        self, network_class: NetworkClass, state: dict[str, Tensor], *, teacherless: bool = False, device: Any = "cpu"
    ) -> None:
        super().__init__(
            network_class.vocab_size, horizon=network_class.horizon, prompt_length=network_class.prompt_length
        )
        self.network_class: NetworkClass = network_class
        self.state, self.teacherless = state, bool(teacherless)
        self.device = resolve_device(device)
        if self.device.type == "mps":
            raise ValueError("device='mps' has no float64, in which policies are evaluated; use device='cpu'.")

    def __repr__(self) -> str:
        return f"TorchPolicy({self.network_class!r}{', teacherless=True' if self.teacherless else ''})"

    def __getstate__(self) -> dict[str, Any]:
        return {k: v for k, v in vars(self).items() if k not in ("network", "device")}

    def __setstate__(self, state: dict[str, Any]) -> None:
        network_class, weights = state["network_class"], state["state"]
        if network_class.architecture != "linear" and network_class.layers > len(weights):
            raise ValueError(f"the network has {network_class.layers} layers, but {len(weights)} weights")
        weights = network_class.checked_state(weights)
        vars(self).update(state, state=weights, device=torch.device("cpu"))

    @cached_property
    def network(self) -> Network:
        """The network in float64, ready to be evaluated."""
        with own_torch_state():
            network = self.network_class.empty()
            copies = {name: value.to(self.device, torch.float64, copy=True) for name, value in self.state.items()}
            network.load_state_dict(copies, assign=True)
            return network.eval().requires_grad_(False)

    # -- whole sequences -----------------------------------------------------------------------------------------------

    def _passes(self, prompts: IntArray, inputs: IntArray) -> Iterator[tuple[slice, Tensor]]:
        if self.teacherless:
            inputs = np.full_like(inputs, self.vocab_size)
        for rows in self._chunks(len(inputs), inputs.shape[1] + 1):
            with own_torch_state(threads=1):
                hidden = self.network(self.tensor(prompts[rows]), self.tensor(inputs[rows]))
            yield rows, hidden

    def _law(self, said: Tensor) -> FloatArray:
        with own_torch_state(threads=1):
            return torch.log_softmax(self.network.out(said), dim=-1).cpu().numpy()

    def tensor(self, tokens: NDArray[np.integer]) -> Tensor:
        """Tokens as an int64 tensor on the policy's device."""
        return torch.from_numpy(np.require(tokens, dtype=np.int64, requirements=["C", "W"])).to(self.device)

    def _chunks(self, n: int, length: int) -> Iterator[slice]:
        """Rows whose widest intermediate result is about `CHUNK_NUMBERS` numbers."""
        rows = max(CHUNK_NUMBERS // self.network_class.numbers_per_sequence(length), 1)
        for start in range(0, max(n, 1), rows):
            yield slice(start, start + rows)

    # -- token by token ------------------------------------------------------------------------------------------------

    def cursor(self, prompts: NDArray[np.integer]) -> Cursor:
        prompts = check_tokens("prompts", prompts, self.vocab_size, width=self.prompt_length)
        with own_torch_state(threads=1):
            parts = [self.network.begin(self.tensor(prompts[rows])) for rows in self._chunks(len(prompts), 1)]
            return _TorchCursor(self, *_joined(parts), step=0)


class _TorchCursor(Cursor):
    """Hidden vectors ``(B, e)`` of what has been read, and what the network needs to read on."""

    def __init__(self, policy: TorchPolicy, hidden: Tensor, state: State, step: int) -> None:
        self.policy, self.hidden, self.state, self.step = policy, hidden, state, step
        self._law: FloatArray | None = None

    def log_probs(self) -> FloatArray:
        self.policy._check_length(self.step + 1)
        if self._law is None:
            self._law = self.policy._law(self.hidden)
        return self._law.copy()

    def branch(self, rows: IntArray, tokens: IntArray) -> Cursor:
        with own_torch_state(threads=1):
            picked = self.policy.tensor(rows)
            hidden, state = self.hidden[picked], tuple(part[picked] for part in self.state)
        return self._read(hidden, state, tokens)

    def advance(self, tokens: IntArray) -> Cursor:
        return self._read(self.hidden, self.state, tokens)

    def _read(self, hidden: Tensor, state: State, tokens: IntArray) -> Cursor:
        policy = self.policy
        if self.step + 1 < policy.network_class.horizon:  # after the last token there is nothing more to say
            read = np.full(len(tokens), policy.vocab_size) if policy.teacherless else tokens
            with own_torch_state(threads=1):
                hidden, state = policy.network.read(state, policy.tensor(read), self.step)
        return _TorchCursor(policy, hidden, state, self.step + 1)


def _joined(parts: list[tuple[Tensor, State]]) -> tuple[Tensor, State]:
    """Chunks of a batch put together."""
    hidden = torch.cat([part[0] for part in parts])
    return hidden, tuple(torch.cat(tensors) for tensors in zip(*(part[1] for part in parts)))


# -- Any causal language model in torch as an `ntp_envs.Policy` -------------------------------------------------------


class ModulePolicy(PassPolicy):
    """A module that turns ``(B, S)`` token ids into ``(B, S, A)`` logits of the token after each of them.

    That is what nanoGPT-like modules return, and what the models of the `transformers` library have in ``.logits`` of
    their output; both are taken. The module is used as it is: it is put into evaluation mode while it is asked and
    left in the mode it was in, and its weights, device and precision stay. Settings of the caller's that change what
    torch computes (`torch.autocast`, default types and so on) make no difference: put them into ``forward``. Each next
    token is one pass over the whole prefix; for long sequences from many prompts subclass
    `ntp_envs.policies.SequentialPolicy` with a cache instead.

    Args:
        module: causal, so that logits at a place depend on nothing after it.
        vocab_size: A; the module may have more logits, for tokens that are never used: the first A count.
        prompt_length: P.
        begin: id put before every sequence; needed where P is 0, as a model must read something to say anything.
        horizon: the longest answer it can read, or ``None``.
        batch_size: sequences a pass, at most; fewer where their logits would be many.
        device: where the ids go; ``None`` is where the module's weights are.

    Raises:
        ValueError, TypeError: on construction, parameters that do not fit; on use, logits of another shape.

    >>> gpt = torch.nn.Sequential(torch.nn.Embedding(5, 8), torch.nn.Linear(8, 5))
    >>> policy = ModulePolicy(gpt, 5, prompt_length=1)
    >>> policy.forced_log_probs(np.array([[4]]), np.array([[0, 1, 2]])).shape
    (1, 3, 5)
    """

    def __init__(
        self,
        module: torch.nn.Module,
        vocab_size: int,
        *,
        prompt_length: int,
        begin: int | None = None,
        horizon: int | None = None,
        batch_size: int = 256,
        device: str | None = None,
    ) -> None:
        super().__init__(vocab_size, horizon=horizon, prompt_length=prompt_length)
        if not isinstance(module, torch.nn.Module):
            raise TypeError(f"module must be a torch.nn.Module, not {type(module).__name__}.")
        self.module = module
        self.begin = None if begin is None else check_int("begin", begin, minimum=0)
        if self.begin is None and prompt_length == 0:
            raise ValueError("without a prompt the module has nothing to read; give begin, the id to start from.")
        self.batch_size = check_int("batch_size", batch_size, minimum=1)
        self.device = None if device is None else resolve_device(device)

    def __repr__(self) -> str:
        return f"ModulePolicy({type(self.module).__name__}, vocab_size={self.vocab_size})"

    def _passes(self, prompts: IntArray, inputs: IntArray) -> Iterator[tuple[slice, Tensor]]:
        ids = np.concatenate([prompts, inputs], axis=1)
        if self.begin is not None:
            ids = np.column_stack([np.full(len(ids), self.begin), ids])
        first = ids.shape[1] - inputs.shape[1] - 1
        size = min(self.batch_size, max(1, CHUNK_NUMBERS // (ids.shape[1] * self.vocab_size)))
        training = self.module.training
        self.module.eval()
        try:
            for start in range(0, len(ids), size):
                rows = slice(start, start + size)
                yield rows, self._ask(ids[rows])[:, first:]
        finally:
            self.module.train(training)

    def _ask(self, ids: IntArray) -> Tensor:
        device: Any = self.device
        if device is None:
            weight = next(self.module.parameters(), None)
            device = "cpu" if weight is None else weight.device
        with own_torch_state(device=device):
            try:
                found = self.module(torch.from_numpy(np.require(ids, requirements=["C", "W"])).to(device))
            except (IndexError, AssertionError, RuntimeError, ValueError) as error:
                raise ValueError(
                    f"the module fails on ids of shape {ids.shape} ({type(error).__name__}: {error}). It must read ids "
                    f"up to {ids.max(initial=0)} and {ids.shape[1]} of them in a row: look at begin={self.begin} and "
                    f"vocab_size={self.vocab_size}, and at the horizon against the longest sequence that it takes."
                ) from error
        logits = getattr(found, "logits", found)
        if not isinstance(logits, torch.Tensor) or logits.shape[:2] != ids.shape or logits.ndim != 3:
            shape = tuple(logits.shape) if isinstance(logits, torch.Tensor) else type(logits).__name__
            raise ValueError(
                f"the module returned {shape}; logits of shape {(*ids.shape, self.vocab_size)} are needed."
            )
        if logits.shape[2] < self.vocab_size:
            raise ValueError(f"the module has logits for {logits.shape[2]} tokens, {self.vocab_size} are needed.")
        return logits

    def _law(self, said: Tensor) -> FloatArray:
        with own_torch_state():
            law = torch.log_softmax(said[:, :, : self.vocab_size].to("cpu", torch.float64), dim=-1).numpy()
        if np.isnan(law).any():
            raise ValueError("the module returned logits that are not a number.")
        return law

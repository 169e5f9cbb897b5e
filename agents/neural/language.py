"""Language models of `transformers` as classes of networks, to be trained. Needs the extra ``lm``.

`TransformersClass` is to a model what `agents.neural.NetworkClass` is to our own networks, so that `NeuralBC`,
`NeuralRhoBC` and `NeuralClippedRatioBC` train it, from fresh weights or from given ones (fine-tuning).

    network = TransformersClass(GPT2Config(n_layer=2, n_embd=32, ...), prompt_length=0, begin=0)  # or a model
    NeuralRhoBC().fit(demonstrations, network).policy_.model.float().save_pretrained("tuned")
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import cached_property
from typing import Any

import torch
from torch import Tensor, nn

from agents.neural.network import ModuleClass, Network, TrainedPolicy, resolve_device
from ntp_envs import Task
from ntp_envs.checks import check_in
from ntp_envs.language import TransformersPolicy, check_model, first_ids, read, transformers
from ntp_envs.torch_state import own_torch_state

#: what a configuration says beside the network
BESIDE = ("_name_or_path", "architectures", "dtype", "transformers_version", "quantization_config")
#: words in a configuration for what is elsewhere: names on a hub, code, kernels, other models
ELSEWHERE = ("/", "auto_map", "backbone", "implementation", "remote_code")


class TransformersClass(ModuleClass):
    """Policies that causal language models of one configuration compute.

    Trainings start from weights that the model itself would draw (its initialisation, from our generator), or, where a
    model is given, from that model's. They are float32, all of them are trained, and dropout is what the configuration
    says (0.1 by default in GPT-2). Policies are evaluated in float64: for models that compute in it (GPT-2) the ways
    to ask agree to 1e-10; others, Llama and its kin, take their norms in float32 whatever their weights are, and agree
    to about 1e-5 nats a token.

    `NeuralBC` trains them with teacher forcing, on all tokens or on some; losses that a model adds to that of its
    tokens (the router's of a mixture of experts) are left out.

    It is a value: classes of equal configurations, prompts and starting weights are equal.

    Args:
        model: a configuration, or a model, whose weights are copied.
        prompt_length, begin, vocab_size, pad: as in `ntp_envs.language.TransformersPolicy`.
        dtype: what policies are evaluated in: ``"float64"``, or ``"float32"``, which takes half the memory and time,
            and is all that some models (mixtures of experts) can do.

    Raises:
        TypeError, ValueError: as from there; a configuration that ``AutoModelForCausalLM`` does not know, or a model
            that it would not build from its configuration.

    >>> config = transformers.GPT2Config(n_layer=1, n_head=2, n_embd=8, n_positions=16, vocab_size=5)
    >>> network = TransformersClass(config, prompt_length=1)
    >>> network, network.horizon, network.n_parameters
    (TransformersClass(GPT2LMHeadModel, vocab_size=5), 16, 1056)
    """

    def __init__(
        self,
        model: Any,
        *,
        prompt_length: int,
        begin: int | Sequence[int] | None = None,
        vocab_size: int | None = None,
        pad: int | None = None,
        dtype: str = "float64",
    ) -> None:
        config, given = model, not isinstance(model, transformers.PretrainedConfig)
        if given:
            check_model(model)
            config = model.config
        about = json.loads(config.to_json_string(use_diff=False))
        self.config = json.dumps({name: about[name] for name in about if name not in BESIDE}, sort_keys=True)
        self.start: dict[str, Tensor] | None = None
        self.options: dict[str, Any] = {}
        outline = TransformersPolicy(
            self.model("meta"), prompt_length=prompt_length, begin=begin, vocab_size=vocab_size, pad=pad
        )
        super().__init__(outline.vocab_size, horizon=outline.horizon)
        self.prompt_length: int = prompt_length
        self.dtype = check_in("dtype", dtype, ("float64", "float32"))
        self.options = {"begin": outline.begin, "pad": outline.pad, "vocab_size": outline.vocab_size}
        self.shown = repr(outline).partition("(")[2]
        if given:
            self.start = self.checked_state(LanguageNetwork(self, model))

    @classmethod
    def for_task(cls, model: Any, task: Task, **options: Any) -> TransformersClass:
        """The class with the vocabulary and prompt length of a task.

        >>> from ntp_envs import make_task
        >>> config = transformers.GPT2Config(n_layer=1, n_head=2, n_embd=8, n_positions=16, vocab_size=5)
        >>> TransformersClass.for_task(config, make_task("Contamination")).vocab_size
        2
        """
        sizes = {"prompt_length": task.prompt_length, "vocab_size": task.vocab_size}
        return cls(model, **{**sizes, **options})

    def __repr__(self) -> str:
        return f"TransformersClass({self.shown}"

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, TransformersClass):
            return NotImplemented
        return self.dtype == other.dtype and self.identity() == other.identity()

    def __hash__(self) -> int:
        return hash(self.config)

    def identity(self) -> dict[str, Any]:
        about = {"config": self.config, "prompt_length": self.prompt_length, **self.options}
        return {**about, "start": None if self.start is None else self._digest}

    @cached_property
    def _digest(self) -> str:
        found = hashlib.sha256()
        for name, value in sorted((self.start or {}).items()):
            found.update(f"{name} {tuple(value.shape)} ".encode() + value.numpy().tobytes())
        return found.hexdigest()

    def check_forgery(self, weights: int) -> None:
        """Refuse a configuration from a file that would have a model import, fetch or build what is not in the file.

        Raises:
            ValueError: it names a place or code elsewhere, or has more layers than the file has ``weights``.
        """
        about = json.loads(self.config)
        if any(word in json.dumps(about) for word in ELSEWHERE):
            raise ValueError("the configuration of the language model names something that is not in the file")
        layers = transformers.AutoConfig.for_model(about.pop("model_type"), **about).num_hidden_layers
        if not 0 <= layers <= weights:
            raise ValueError(f"the language model has {layers} layers, but {weights} weights")

    def model(self, device: str = "cpu") -> Any:
        """A model of the configuration: on the CPU with weights that it draws itself, on ``"meta"`` with none."""
        about = json.loads(self.config)
        try:
            config = transformers.AutoConfig.for_model(about.pop("model_type"), **about)
            with torch.device(device):
                return transformers.AutoModelForCausalLM.from_config(config, dtype=torch.float32)
        except ValueError as error:
            raise ValueError(
                f"AutoModelForCausalLM makes no model of this configuration ({str(error).splitlines()[0]}); take that "
                "of a causal language model, and register classes of your own with AutoConfig and AutoModelForCausalLM."
            ) from error

    def empty(self) -> LanguageNetwork:
        return LanguageNetwork(self, self.model("meta"))

    def initialised(self, generator: torch.Generator) -> LanguageNetwork:
        with own_torch_state(), _drawing_from(generator, "cpu"):
            network = LanguageNetwork(self, self.model())
        if self.start is not None:
            network.load_state_dict(self.start)
        return network.requires_grad_()

    def policy(
        self, parameters: Any, /, *, teacherless: bool = False, device: str = "cpu"
    ) -> TrainedTransformersPolicy:
        if teacherless:
            raise ValueError("teacherless=True needs a dummy token, which a language model of transformers lacks.")
        if isinstance(parameters, transformers.PreTrainedModel):
            parameters = LanguageNetwork(self, parameters)
        return TrainedTransformersPolicy(self, self.checked_state(parameters), device=device)


class LanguageNetwork(Network):
    """A model of transformers as the trainer knows it: its "hidden vectors" are the logits of the first A tokens."""

    def __init__(self, network_class: TransformersClass, model: Any) -> None:
        super().__init__()
        self.model, self.vocab_size, self.out = model, network_class.vocab_size, nn.Identity()
        self.begin_ids, self.pad = network_class.options["begin"], network_class.options["pad"]

    def forward(self, prompts: Tensor, inputs: Tensor) -> Tensor:
        ids, real = first_ids(prompts, self.begin_ids, self.pad)
        ids, real = torch.cat([ids, inputs], 1), torch.cat([real, torch.ones_like(inputs)], 1)
        asked = inputs.shape[1] + 1
        with _drawing_from(self.generator if self.training else None, ids.device):
            logits = read(self.model, ids, real, asked, use_cache=False).logits
        return logits[:, -asked:, : self.vocab_size]


@contextmanager
def _drawing_from(generator: torch.Generator | None, device: Any) -> Iterator[None]:
    """Inside, torch's own random numbers (weights, dropout) follow from the generator; afterwards nobody notices."""
    if generator is None:
        yield
        return
    device = torch.device(device)
    cuda = device.type == "cuda"
    with torch.random.fork_rng(devices=[device] if cuda else []):
        seed = torch.empty((), dtype=torch.int64, device=generator.device).random_(generator=generator)
        if cuda:
            with torch.cuda.device(device):
                torch.cuda.manual_seed(int(seed))
        else:
            torch.default_generator.manual_seed(int(seed))
        yield


class TrainedTransformersPolicy(TransformersPolicy, TrainedPolicy):
    """The law of a trained language model; `TransformersClass.policy` builds one.

    Pickling keeps the weights as they were trained (float32), and gives back a policy on the CPU.

    Args:
        network_class: the specification.
        state: its weights by name, as `TransformersClass.checked_state` gives them.
        device: where to compute.

    Attributes:
        model: the model of transformers, for whoever wants to use or save it.
    """

    def __init__(self, network_class: TransformersClass, state: dict[str, Tensor], *, device: Any = "cpu") -> None:
        place, dtype = resolve_device(device), getattr(torch, network_class.dtype)
        if place.type == "mps" and dtype == torch.float64:
            raise ValueError("device='mps' has no float64; use device='cpu', or a class with dtype='float32'.")
        with own_torch_state(), torch.random.fork_rng(devices=[]):  # weights are drawn, then replaced
            network = LanguageNetwork(network_class, network_class.model())
            network.load_state_dict(state)
            model = network.model.to(place, dtype).eval().requires_grad_(False)
        super().__init__(model, prompt_length=network_class.prompt_length, **network_class.options)
        self.network_class: TransformersClass = network_class

    @property
    def state(self) -> dict[str, Tensor]:
        """The weights on the CPU, as they were trained."""
        network = LanguageNetwork(self.network_class, self.model)
        return {name: value.to("cpu", torch.float32) for name, value in network.state_dict().items()}

    def __getstate__(self) -> dict[str, Any]:
        return {"network_class": self.network_class, "state": self.state}

    def __setstate__(self, state: dict[str, Any]) -> None:
        network_class, weights = state["network_class"], state["state"]
        network_class.check_forgery(len(weights))
        self.__init__(network_class, network_class.checked_state(weights))  # type: ignore[misc]

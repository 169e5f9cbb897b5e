"""Perturbed language models: one model, changed a little in one of many ways, as policies. Needs the extra ``lm``.

A compressed, shortened or otherwise sampled model is a near-miss of the model itself: good at every token, and at what
distance after many? Each change is a string, so that a study or a task names its members; together they are a finite
policy class that does not contain the model. The model itself is never touched, and what a change leaves as it was is
shared with it, not copied (so that who trains the model makes its changed copies anew).

    policy = TransformersPolicy(model, prompt_length=0, begin=tokenizer.bos_token_id)
    perturbed(policy, "int8")  # a policy like any other
    perturbed_models(policy, ("int8", "drop=12", "window=8", "temperature=0.9"))

"Linear layers" are those within the decoder's layers, of attention and of the network after it; embeddings, the head,
biases and norms are never changed but by ``bf16``.
"""

from __future__ import annotations

import copy
import itertools
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from typing import Any

from ntp_envs.checks import check_int, check_real, did_you_mean
from ntp_envs.language import TransformersPolicy
from ntp_envs.policy_classes import FiniteClass

import torch  # isort: skip  # after ntp_envs.language, which says what is missing
from torch import Tensor, nn
from transformers.pytorch_utils import Conv1D

from ntp_envs.torch_state import own_torch_state

#: what `perturbed_models` and `ntp_envs.tasks.LanguageModel` take by default, from hardly to very different
DEFAULT_CHANGES = (
    "bf16",
    "int8",
    "int4",
    "int3",
    "low_rank=0.9",
    "drop",
    "window=8",
    "temperature=0.9",
    "top_k=50",
    "top_p=0.9",
)


def perturbed(policy: TransformersPolicy, change: str) -> TransformersPolicy:
    """The policy of a changed model, or of other sampling from the same model.

    Args:
        policy: of a model with one list of decoder layers (GPT-2, Llama and most since); stays as it is.
        change: one of

            * ``"none"``: the same law;
            * ``"bf16"``: weights and arithmetic in bfloat16 (buffers, such as rotary frequencies, as they are). It is
              the arithmetic that counts: for the first token of SmolLM2-135M-Instruct (from a file of four bits) the
              squared Hellinger distance is 0.0016, and 0.00003 where weights alone are rounded;
            * ``"int2"`` to ``"int8"``: each row of a linear layer, all weights of one output, rounded to
              ``scale * k`` with integers ``|k| <= 2**(bits - 1) - 1`` and ``scale`` such that its largest weight is
              kept; arithmetic stays as it is. ``"int3=32"``: the same for every 32 weights of a row (the last of
              which may be fewer), as files in GGUF have it. For that first token it is 0.007 in int8, 1.74 in int3,
              0.94 in int3=64 and 0.85 in int3=32;
            * ``"low_rank=r"``: the best approximation of rank r (an integer, or as a share in (0, 1] of the smaller
              side: ``low_rank=0.5``) to each linear layer; those of lower rank stay;
            * ``"drop=k"``: without decoder layer k of 0, ..., L - 1; ``"drop"`` is L // 2;
            * ``"window=w"``: every layer attends to the last w ids alone, the present one among them, so that nothing
              changes for the first w tokens (``begin`` and prompt count);
            * ``"temperature=t"``, ``"top_k=k"``, ``"top_p=p"``: sampling; the policy's own setting is replaced.

    Raises:
        TypeError: no `ntp_envs.language.TransformersPolicy`, or no string.
        ValueError: an unknown change, a value that is missing or out of range, or a model that has no such parts.

    >>> import transformers
    >>> config = transformers.GPT2Config(n_layer=3, n_head=2, n_embd=8, n_positions=16, vocab_size=5)
    >>> policy = TransformersPolicy(transformers.GPT2LMHeadModel(config), prompt_length=0, begin=0)
    >>> perturbed(policy, "drop")
    TransformersPolicy(GPT2LMHeadModel, vocab_size=5, begin=[0], change='drop=1')
    >>> perturbed(policy, "top_k=2").model is policy.model
    True
    """
    if not isinstance(policy, TransformersPolicy):
        raise TypeError(f"policy must be an ntp_envs.language.TransformersPolicy, not {type(policy).__name__}.")
    make, values = check_change(change)
    return make(policy, *values)


def check_change(change: str) -> tuple[Callable[..., TransformersPolicy], tuple[Any, ...]]:
    """What makes a change, and the value in its words; refused in the words of `perturbed`, but for what is in range
    for one model and not for another."""
    if not isinstance(change, str):
        raise TypeError(f"change={change!r} must be a string, such as 'int8' or 'window=8'.")
    name, equals, text = (part.strip() for part in change.partition("="))
    if name not in _CHANGES:
        raise ValueError(f"unknown change {change!r}.{did_you_mean(name, _CHANGES)}")
    make, kinds, example = _CHANGES[name]
    if not equals and (not kinds or not example):
        return make, ()
    if not kinds:
        raise ValueError(f"change={change!r}: {name!r} takes no value.")
    for kind in kinds:
        with suppress(ValueError):
            return make, (kind(text),)
    raise ValueError(f"change={change!r} needs a number after the sign, such as {name}={example or 1}.")


def perturbed_models(policy: TransformersPolicy, changes: Sequence[str] = DEFAULT_CHANGES) -> FiniteClass:
    """One member a change: the model's near-misses, in the order of the changes.

    Members with other weights hold linear layers of their own, about as much memory as the model; the rest hold none.

    Raises:
        TypeError, ValueError: as from `perturbed`, or no changes.
    """
    return FiniteClass([perturbed(policy, change) for change in changes])


# -- other weights -----------------------------------------------------------------------------------------------------


def _changed(policy: TransformersPolicy, change: str, alter: Callable[[Any], None]) -> TransformersPolicy:
    """The policy of a model of its own around the same weights, after ``alter`` has put others in their place."""
    shared = itertools.chain(policy.model.parameters(), policy.model.buffers())
    model = copy.deepcopy(policy.model, {id(tensor): tensor for tensor in shared})
    with own_torch_state(device=policy.model.device):
        alter(model)
    new = policy.replace(model=model)
    new.change = ", ".join(filter(None, (policy.change, change)))
    return new


def _bf16(policy: TransformersPolicy) -> TransformersPolicy:
    def alter(model: Any) -> None:
        cast = {}  # weights that are tied stay so
        for module in model.modules():
            for name, weight in module.named_parameters(recurse=False):
                if weight.is_floating_point():
                    if weight not in cast:
                        cast[weight] = nn.Parameter(weight.detach().bfloat16(), requires_grad=False)
                    setattr(module, name, cast[weight])
            if type(module) is nn.Linear and policy.model.device.type == "cpu":
                module.__class__ = _LinearInBf16

    return _changed(policy, "bf16", alter)


class _LinearInBf16(nn.Linear):
    """The same numbers, up to the order of sums, where processors have no units for bfloat16: products are taken and
    added in float32, as such units do, and rounded at the end. Torch's own way is many times slower there."""

    def forward(self, x: Tensor) -> Tensor:
        bias = None if self.bias is None else self.bias.float()
        return nn.functional.linear(x.float(), self.weight.float(), bias).to(x.dtype)


def _integers(bits: int) -> Callable[..., TransformersPolicy]:
    def make(policy: TransformersPolicy, group: int | None = None) -> TransformersPolicy:
        name = f"int{bits}" if group is None else f"int{bits}={check_int(f'int{bits}', group, minimum=1)}"

        def rounded(rows: Tensor) -> Tensor:
            return torch.cat([_to_integers(part, bits) for part in rows.split(group or rows.shape[1], dim=1)], dim=1)

        return _changed(policy, name, lambda model: _each_matrix(model, rounded))

    return make


def _to_integers(rows: Tensor, bits: int) -> Tensor:
    scale = rows.abs().amax(1, keepdim=True).clamp(min=torch.finfo(rows.dtype).tiny) / (2 ** (bits - 1) - 1)
    return (rows / scale).round() * scale


def _low_rank(policy: TransformersPolicy, rank: float) -> TransformersPolicy:
    if isinstance(rank, int):
        check_int("low_rank", rank, minimum=1)
    elif check_real("low_rank", rank, minimum=0.0, maximum=1.0) == 0:
        raise ValueError("low_rank=0.0 must be a share above 0, at most 1, or an integer of 1 or more.")

    def truncated(rows: Tensor) -> Tensor:
        kept = rank if isinstance(rank, int) else max(1, round(rank * min(rows.shape)))
        if kept >= min(rows.shape):
            return rows
        left, values, right = torch.linalg.svd(rows, full_matrices=False)
        return (left[:, :kept] * values[:kept]) @ right[:kept]

    return _changed(policy, f"low_rank={rank}", lambda model: _each_matrix(model, truncated))


def _each_matrix(model: Any, alter: Callable[[Tensor], Tensor]) -> None:
    """Replace the weights of every linear layer by what ``alter`` makes of them, as float32 with a row an output."""
    for module in _linear(model):
        across = isinstance(module, Conv1D)  # GPT-2 keeps its weights the other way round
        weight = module.weight.detach()
        rows = alter((weight.T if across else weight).float())
        module.weight = nn.Parameter((rows.T if across else rows).to(weight.dtype).contiguous(), requires_grad=False)


def _linear(model: Any) -> Iterator[Any]:
    for layer in _layers(model):
        for module in layer.modules():
            large = [weight for weight in module.parameters(recurse=False) if weight.ndim > 1]
            if large and not (isinstance(module, (nn.Linear, Conv1D)) and large[0].is_floating_point()):
                raise ValueError(
                    f"{type(model).__name__} has weights in {type(module).__name__} that are no linear layer of "
                    "floating point numbers (experts, or weights already packed); int2 to int8 and low_rank change "
                    "linear layers alone."
                )
            if large:
                yield module


def _layers(model: Any) -> nn.ModuleList:
    depth = model.config.get_text_config().num_hidden_layers
    for module in model.modules():
        if isinstance(module, nn.ModuleList) and len(module) == depth:
            return module
    raise ValueError(f"{type(model).__name__} has no list of its {depth} decoder layers; use another change.")


def _drop(policy: TransformersPolicy, layer: int | None = None) -> TransformersPolicy:
    depth = len(_layers(policy.model))
    if depth == 1:
        raise ValueError(f"drop: {type(policy.model).__name__} has one layer alone; use another change.")
    layer = depth // 2 if layer is None else check_int("drop", layer, minimum=0, maximum=depth - 1)

    def alter(model: Any) -> None:
        layers, config = _layers(model), model.config.get_text_config()
        del layers[layer]
        for index, later in enumerate(layers):
            for module in later.modules():
                if hasattr(module, "layer_idx"):  # its place in the key-value cache
                    module.layer_idx = index  # type: ignore[assignment]
        config.num_hidden_layers = depth - 1
        for name, values in vars(config).items():  # kinds of attention, a layer each
            if isinstance(values, list) and len(values) == depth:
                setattr(config, name, [value for index, value in enumerate(values) if index != layer])

    return _changed(policy, f"drop={layer}", alter)


# -- the same weights --------------------------------------------------------------------------------------------------


def _window(policy: TransformersPolicy, window: int) -> TransformersPolicy:
    return policy.replace(attention_window=check_int("window", window, minimum=1))


#: of each change: what makes it, the kinds of its value, and an example of one; without, it need not have a value
_CHANGES: dict[str, tuple[Callable[..., TransformersPolicy], tuple[type, ...], str]] = {
    "none": (lambda policy: policy, (), ""),
    "bf16": (_bf16, (), ""),
    **{f"int{bits}": (_integers(bits), (int,), "") for bits in range(2, 9)},
    "low_rank": (_low_rank, (int, float), "0.5"),
    "drop": (_drop, (int,), ""),
    "window": (_window, (int,), "8"),
    "temperature": (lambda policy, value: policy.replace(temperature=value), (float,), "0.9"),
    "top_k": (lambda policy, value: policy.replace(top_k=value), (int,), "50"),
    "top_p": (lambda policy, value: policy.replace(top_p=value), (float,), "0.9"),
}

"""Real language models: any causal model of the `transformers` library as a `Policy`. Needs the extra ``lm``.

What decoders do to a model's logits is part of the law here: `TransformersPolicy` with a temperature, top-k or top-p
scores exactly the law that it samples, and a token that is cut off has probability zero. A model is read token by token
with its key-value cache, and logits are held for a few places at a time. Documents that end are
`ntp_envs.text.EndedPolicy` of such a policy, greedy decoding is `ntp_envs.GreedyPolicy` of it.

    model, tokenizer = load_model("HuggingFaceTB/SmolLM2-135M")  # or a directory, or a .gguf file
    policy = TransformersPolicy(model, prompt_length=0, begin=tokenizer.bos_token_id, temperature=0.9)
    policy.sample(np.zeros((8, 0), int), 32, np.random.default_rng(0))
"""

from __future__ import annotations

import copy
import inspect
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ntp_envs.arrays import FloatArray, IntArray
from ntp_envs.checks import check_decoding, check_generator, check_int, check_tokens, import_extra
from ntp_envs.policies import Cursor, Policy, check_sequences

transformers = import_extra(
    "transformers", "torch", "psutil", what="a language model (ntp_envs.language)", install='pip install "ntp-envs[lm]"'
)
import psutil  # noqa: E402
import torch  # noqa: E402
from torch import Tensor  # noqa: E402
from transformers import DynamicCache  # noqa: E402

from ntp_envs.torch_state import own_torch_state  # noqa: E402

#: logits held at once while sequences are scored, over all sequences and places of a pass
LOGITS = 2**23
#: of these, as many become laws at a time on a CPU: what stays in its cache is twice as fast
CACHED = 2**17
#: log-probabilities nearer than this (in nats) tie at the edge of top-k and top-p, and masses nearer than this are
#: equal: float32 tells no more
NEAR = 1e-5


class TransformersPolicy(Policy):
    """A causal language model of the `transformers` library, with its temperature, top-k and top-p.

    As decoders do it, logits are divided by the temperature, the ``top_k`` most probable tokens are kept, then of their
    law the fewest most probable tokens of mass ``top_p``. Tokens within 1e-5 nats of the last one that is kept tie with
    it, and of these the lower ids are kept; masses within 1e-5 are equal. Log-probabilities are float64 and normalised
    over the law that samples, whatever the model computes in.

    The model is used as it is, on its device and in its precision: every part is in evaluation mode while it is asked
    and in its own mode afterwards, weights are not touched, and torch's settings of the process and of the thread
    (autocast, default types) make no difference. What batches and the cache change is rounding: about 1e-6 nats a
    token in float32, 1e-2 and more in bfloat16, so that float32 is what distances should be measured in.

    Args:
        model: with a head for the next token; ``AutoModelForCausalLM.from_pretrained(...)``, or see `load_model`.
        prompt_length: P.
        begin: the id, or the ids, put before every prompt: the tokenizer's ``bos_token_id``, an instruction. Needed
            where P is 0, as a model must read something to say anything.
        vocab_size: A, where it is less than the number of the model's logits: the first A count. Models of one family
            may have more logits than their common tokenizer has tokens, and not equally many.
        temperature: above 0; for the limit at 0 take `ntp_envs.GreedyPolicy` of this policy.
        top_k: in [1, A], or ``None`` for all.
        top_p: in (0, 1], or ``None`` for all.
        pad: an id that fills shorter prompts up, on the left: ``[pad, pad, 7, 4]`` is the prompt ``[7, 4]``, and
            ``begin`` goes between. An id that is also a token is one where it stands after another token.
        attention_window: every layer sees the last so many ids alone, the one that it stands at among them, so that the
            law of the first so many tokens (``begin`` and prompt count) is that of the whole model; ``None`` for all.
        batch_size: sequences a pass, in sampling and scoring. (A cursor reads all its sequences in one.)

    Raises:
        TypeError: something else than a model of transformers with a head for the next token.
        ValueError: a parameter out of range, a prompt longer than the model's window; on use, sequences longer than
            that (``horizon`` is the longest answer, ``None`` for a model that has no window), or logits that are not
            a number.

    >>> config = transformers.GPT2Config(n_layer=1, n_head=2, n_embd=8, n_positions=16, vocab_size=5)
    >>> policy = TransformersPolicy(transformers.GPT2LMHeadModel(config), prompt_length=1, top_k=3)
    >>> policy, policy.horizon
    (TransformersPolicy(GPT2LMHeadModel, vocab_size=5, top_k=3), 16)
    >>> int(np.isneginf(policy.next_log_probs(np.array([[4]]), np.array([[0, 1, 2]]))).sum())
    2
    """

    at_once: int
    whole_prompts = True
    #: what `ntp_envs.perturbed` has done to the model, in its words
    change: str = ""

    def __init__(
        self,
        model: Any,
        *,
        prompt_length: int,
        begin: int | Sequence[int] | None = None,
        vocab_size: int | None = None,
        temperature: float = 1.0,
        top_k: int | None = None,
        top_p: float | None = None,
        pad: int | None = None,
        attention_window: int | None = None,
        batch_size: int = 32,
    ) -> None:
        config = check_model(model)
        size = int(config.vocab_size)
        super().__init__(
            size if vocab_size is None else check_int("vocab_size", vocab_size, minimum=1, maximum=size),
            prompt_length=prompt_length,
        )
        self.model = model
        given = [] if begin is None else np.atleast_1d(begin).tolist()
        self.begin = [check_int("begin", token, minimum=0, maximum=size - 1) for token in given]
        self.pad = None if pad is None else check_int("pad", pad, minimum=0, maximum=self.vocab_size - 1)
        self.temperature, self.top_k, self.top_p = check_decoding(temperature, top_k, top_p, self.vocab_size)
        self.at_once = check_int("batch_size", batch_size, minimum=1)

        self._read = len(self.begin) + prompt_length  # ids read before the first token
        if self._read == 0:
            raise ValueError(
                "without a prompt the model has nothing to read; give begin, the id to start from "
                "(tokenizer.bos_token_id, or eos_token_id where there is none)."
            )
        self.window: int | None = getattr(config, "max_position_embeddings", None)
        if self.window is not None:
            if self._read > self.window:
                raise ValueError(f"{self._too_long()} are more than its window of {self.window}; shorten the prompts.")
            self.horizon = self.window - self._read + 1  # the last token need not be read
        # the name that it has had since 5.24, or had
        self._cache = "cache" if "cache" in _parameters(model.__class__) else "past_key_values"
        self.attention_window: int | None = None
        if attention_window is not None:
            own = getattr(config, "sliding_window", None)
            self._check_masks()
            self.attention_window = check_int("attention_window", attention_window, minimum=1, maximum=own)

    @property
    def batch_size(self) -> int:
        """Sequences a pass."""
        return self.at_once

    def replace(self, **changes: Any) -> TransformersPolicy:
        """This policy with other parameters, by their names in the constructor; the rest stay, the model among them.

        Raises:
            TypeError, ValueError: as from the constructor.
        """
        names = list(inspect.signature(TransformersPolicy.__init__).parameters)[1:]
        new = type(self)(**{**{name: getattr(self, name) for name in names}, **changes})
        new.change = self.change
        return new

    def __repr__(self) -> str:
        shown = [f"TransformersPolicy({type(self.model).__name__}, vocab_size={self.vocab_size}"]
        usual = {"begin": [], "temperature": 1.0, "top_k": None, "top_p": None, "pad": None, "attention_window": None}
        shown += [f"{name}={getattr(self, name)}" for name, value in usual.items() if getattr(self, name) != value]
        shown += [f"change={self.change!r}"] if self.change else []
        return ", ".join(shown) + ")"

    def _too_long(self) -> str:
        return f"the model reads {len(self.begin)} ids of begin and {self.prompt_length} of the prompt, which"

    def _check_length(self, length: int) -> None:
        if self.horizon is not None and length > self.horizon:
            raise ValueError(
                f"before the last of {length} tokens {self._too_long()} with the tokens between are "
                f"{self._read + length - 1}, more than its window of {self.window}; at most {self.horizon} tokens fit."
            )

    # -- whole sequences -----------------------------------------------------------------------------------------------

    def log_probs(self, prompts: NDArray[np.integer], tokens: NDArray[np.integer]) -> FloatArray:
        out = np.empty(np.shape(tokens))
        with self._asked():
            for rows, places, logits in self._forced(prompts, tokens):
                ids = self._tensor(np.asarray(tokens)[rows, places])
                few = max(1, CACHED // self.vocab_size) if ids.device.type == "cpu" else ids.numel()
                parts = zip(logits.flatten(0, 1).split(few), ids.view(-1, 1).split(few), strict=True)
                picked = torch.cat([self._law(part).gather(1, chosen) for part, chosen in parts])
                out[rows, places] = picked.view(ids.shape).cpu().numpy()
        return out

    def forced_log_probs(self, prompts: NDArray[np.integer], tokens: NDArray[np.integer]) -> FloatArray:
        out = np.empty((*np.shape(tokens), self.vocab_size))
        with self._asked():
            for rows, places, logits in self._forced(prompts, tokens):
                out[rows, places] = self._law(logits).cpu().numpy()
        return out

    def _forced(
        self, prompts: NDArray[np.integer], tokens: NDArray[np.integer]
    ) -> Iterator[tuple[slice, slice, Tensor]]:
        """Rows, places and their ``(b, t, A)`` teacher-forced logits, a few places at a time: each is read once."""
        prompts, tokens = check_sequences(self, prompts, tokens)
        length = tokens.shape[1]
        for rows in self._together(len(tokens)):
            reader = self.cursor(prompts[rows])
            few = max(1, LOGITS // max(len(prompts[rows]) * self.vocab_size, 1))
            for start in range(0, length, few):
                places = slice(start, min(start + few, length))
                if places.stop > 1:  # all before the last of these places
                    reader.append(tokens[rows, max(start - 1, 0) : places.stop - 1])
                yield rows, places, reader.logits(places.stop - start)

    def next_log_probs(self, prompts: NDArray[np.integer], tokens: NDArray[np.integer]) -> FloatArray:
        prompts, tokens = check_sequences(self, prompts, tokens, more=1)
        out = np.empty((len(tokens), self.vocab_size))
        for rows in self._together(len(tokens)):
            reader = self.cursor(prompts[rows])
            reader.append(tokens[rows])
            out[rows] = reader.log_probs()
        return out

    def sample(self, prompts: NDArray[np.integer], horizon: int, rng: np.random.Generator) -> IntArray:
        return self._draw(prompts, horizon, rng)[0]

    def sample_with_log_probs(
        self, prompts: NDArray[np.integer], horizon: int, rng: np.random.Generator
    ) -> tuple[IntArray, FloatArray]:
        if torch.finfo(self.model.dtype).bits >= 32:
            return self._draw(prompts, horizon, rng)
        # what another policy scores in one pass must not be compared with what was rounded in another way
        return super().sample_with_log_probs(prompts, horizon, rng)

    def _draw(
        self, prompts: NDArray[np.integer], horizon: int, rng: np.random.Generator
    ) -> tuple[IntArray, FloatArray]:
        """Tokens and their log-probabilities. The variates are those of `Policy.sample`, whatever the batches."""
        check_generator(rng)
        prompts = check_tokens("prompts", prompts, self.vocab_size, width=self.prompt_length)
        self._check_length(horizon)
        levels = rng.random((horizon, len(prompts)))
        tokens, log_probs = np.empty(levels.T.shape, dtype=np.int64), np.empty(levels.T.shape)
        with self._asked():
            for rows in self._together(len(prompts)):
                reader = self.cursor(prompts[rows])
                for h in range(horizon):
                    law = reader.law()
                    cumulative = law.exp().cumsum_(-1)
                    level = torch.from_numpy(levels[h, rows]).to(law.device)[:, None] * cumulative[:, -1:]
                    drawn = torch.searchsorted(cumulative, level, right=True).clamp_(max=self.vocab_size - 1)
                    tokens[rows, h] = drawn[:, 0].cpu().numpy()
                    log_probs[rows, h] = law.gather(1, drawn)[:, 0].cpu().numpy()
                    reader = reader.advance(tokens[rows, h])
        return tokens, log_probs

    # -- token by token ------------------------------------------------------------------------------------------------

    def cursor(self, prompts: NDArray[np.integer]) -> _ModelCursor:
        prompts = check_tokens("prompts", prompts, self.vocab_size, width=self.prompt_length)
        cache = None if self.attention_window is None else DynamicCache()  # whose layers that slide do not forget
        return _ModelCursor(self, *first_ids(self._tensor(prompts), self.begin, self.pad), cache)

    def _check_masks(self) -> None:
        """That the model sees what a mask lets it see: where it sees one id alone, no other makes a difference."""
        self.attention_window = 1
        cause: Exception | None = None
        pairs = self._tensor(np.array([[0, 0], [1, 0]]))
        try:
            with self._asked():
                laws = self._law(self._logits(pairs, torch.ones_like(pairs), DynamicCache(), 1)[0])
            if torch.allclose(laws[0], laws[1], rtol=0, atol=1e-6):
                return
        except Exception as error:
            cause = error
        raise ValueError(
            f"attention_window needs a model that takes a mask for every pair of places; {type(self.model).__name__} "
            f"with attn_implementation={self.model.config._attn_implementation!r} does not. Load it with 'eager' or "
            f"'sdpa'.{f' It says: {cause}' if cause else ''}"
        ) from cause

    def _tensor(self, numbers: NDArray[Any]) -> Tensor:
        """As int64 on the model's device."""
        return torch.from_numpy(np.array(numbers, dtype=np.int64)).to(self.model.device)

    @contextmanager
    def _asked(self) -> Iterator[None]:
        """Around everything that computes: the model in evaluation mode, and torch as in a fresh process."""
        with _evaluation(self.model), own_torch_state(device=self.model.device):
            yield

    def _logits(self, ids: Tensor, real: Tensor, cache: Any, last: int) -> tuple[Tensor, Any]:
        """``(b, last, A)`` logits after each of the last of the ``(b, s)`` ids that follow what the cache holds.

        Args:
            real: ``(b, t)`` 1 for all t places so far, the s among them, and 0 for those that fill up.
        """
        total = real.shape[1]
        window = self.attention_window or total
        bound = min(ids.shape[1], max(total - window, 0))  # of the ids, the last that do not see all before them
        if bound == 0:
            return self._pass(ids, real, cache, last)
        parts: list[Tensor] = []
        if bound < last:  # the others are read as the whole model reads them, to the last bit
            found, cache = self._pass(ids, real, cache, last)
            parts, ids = [found[:, :-bound]], ids[:, -bound:]
            cache.crop(-bound)
        places = torch.arange(total, device=real.device)
        ago = places[-ids.shape[1] :, None] - places  # (s, t)
        seen = (ago >= 0) & (ago < window) & (real[:, None, None] == 1)  # (b, 1, s, t)
        hidden = torch.finfo(self.model.dtype).min  # not -inf: what fills up sees nothing
        mask = torch.zeros_like(seen, dtype=self.model.dtype).masked_fill_(~seen, hidden)
        found, cache = self._pass(ids, real, cache, min(bound, last), attention_mask=mask)
        return torch.cat([*parts, found], 1), cache

    def _pass(self, ids: Tensor, real: Tensor, cache: Any, last: int, **options: Any) -> tuple[Tensor, Any]:
        if not len(ids):  # models fail on nothing
            return torch.empty(0, last, self.vocab_size, device=ids.device), cache
        found = read(self.model, ids, real, last, use_cache=True, **{self._cache: cache}, **options)
        cache = getattr(found, self._cache, None)
        if cache is None:
            raise ValueError(
                f"{type(self.model).__name__} returns no key-value cache, so that it is not a causal model, or one "
                "that is read in another way (a BERT needs is_decoder=True); agents.neural.ModulePolicy takes any."
            )
        return found.logits[:, -last:, : self.vocab_size], cache

    def _law(self, logits: Tensor) -> Tensor:
        """Log-probabilities ``(..., A)`` in float64; on the CPU where the device has none."""
        logits = logits.to("cpu" if logits.device.type == "mps" else logits.device, torch.float64)
        if self.temperature != 1.0:
            logits = (logits - logits.amax(-1, keepdim=True)) / self.temperature
        law = torch.log_softmax(logits, dim=-1)
        if law[..., 0].isnan().any():  # one that is no number makes all of its law so
            raise ValueError("the model returned logits that are not a number; in float16 try bfloat16 or float32.")
        if self.top_k is not None:
            law = _cut(law, count=self.top_k)
        if self.top_p is not None and self.top_p < 1:
            law = _cut(law, mass=self.top_p)
        return law


def first_ids(prompts: Tensor, begin: Sequence[int], pad: int | None) -> tuple[Tensor, Tensor]:
    """``(b, s)`` what a model reads before the first token: what fills up, ``begin``, the prompt; and ``(b, s)`` 0 for
    what fills up, 1 for the rest."""
    ids = torch.cat([prompts.new_tensor(begin).expand(len(prompts), -1), prompts], 1)
    real = torch.ones_like(ids)
    if pad is None:
        return ids, real
    real[:, len(begin) :] = (prompts != pad).cumsum(1) > 0
    if not begin and not (found := real.any(1)).all():
        raise ValueError(
            f"prompts[{int(found.int().argmin())}] is nothing but pad={pad}, so that the model has nothing to read; "
            "give begin, the id to start from."
        )
    order = real.argsort(dim=1, stable=True)  # what fills up comes before ``begin``
    return ids.gather(1, order), real.gather(1, order)


def read(model: Any, ids: Tensor, real: Tensor, last: int, **options: Any) -> Any:
    """What a model says of ``(b, s)`` ids.

    Args:
        real: ``(b, t)`` 1 for all t places so far, the s among them, and 0 for those that fill up.
        last: after so many of the ids logits are wanted, at least.
        options: more for its ``forward``.
    """
    takes = _parameters(model.__class__)
    if "logits_to_keep" in takes:
        options["logits_to_keep"] = last
    if "position_ids" in takes:
        options["position_ids"] = (real.cumsum(1) - 1).clamp(min=0)[:, -ids.shape[1] :]
    return model(ids, **{"attention_mask": real, **options})


@cache
def _parameters(kind: Any) -> frozenset[str]:
    """What the ``forward`` of a class takes, by name."""
    return frozenset(inspect.signature(kind.forward).parameters)


class _ModelCursor(Cursor):
    """A batch that a model reads: its cache, and ids that it has not read yet; it reads once it is asked for a law."""

    def __init__(self, policy: TransformersPolicy, waiting: Tensor, real: Tensor, cache: Any = None, step: int = 0):
        self.policy, self.waiting, self.real, self.cache, self.step = policy, waiting, real, cache, step
        self._law: Tensor | None = None

    def logits(self, last: int) -> Tensor:
        """``(b, last, A)`` logits after each of the last of the ids that are waiting, which are read."""
        logits, self.cache = self.policy._logits(self.waiting, self.real, self.cache, last)
        self.waiting = self.waiting[:, :0]
        return logits

    def law(self) -> Tensor:
        """``(b, A)`` on the model's device; as `logits`, inside ``policy._asked()``."""
        self.policy._check_length(self.step + 1)
        if self._law is None:
            self._law = self.policy._law(self.logits(1)[:, 0])
        return self._law

    def append(self, tokens: NDArray[np.integer]) -> None:
        """``(b, t)`` tokens more to read."""
        ids = self.policy._tensor(tokens)
        self.waiting, self.real = torch.cat([self.waiting, ids], 1), torch.cat([self.real, torch.ones_like(ids)], 1)
        self.step, self._law = self.step + ids.shape[1], None

    def log_probs(self) -> FloatArray:
        with self.policy._asked():
            return np.array(self.law().cpu().numpy())

    def branch(self, rows: IntArray, tokens: IntArray) -> Cursor:
        with self.policy._asked():
            self.law()  # read once for all branches
        picked, cache = self.policy._tensor(rows), copy.deepcopy(self.cache)
        if cache is not None:  # of no sequences there is none
            cache.reorder_cache(picked)
        new = _ModelCursor(self.policy, self.waiting[picked], self.real[picked], cache, self.step)
        return new.advance(tokens)

    def advance(self, tokens: IntArray) -> _ModelCursor:
        self.append(np.asarray(tokens)[:, None])
        return self


def _cut(law: Tensor, *, count: int | None = None, mass: float | None = None) -> Tensor:
    """The law of the most probable tokens alone, normalised: ``count`` of them, or the fewest that have ``mass``."""
    if mass is None:
        weights, wanted = torch.ones_like(law), float(count or 0)
        edge = law.topk(int(wanted), dim=-1).values[..., -1:]
    else:
        weights, wanted = law.exp(), mass - NEAR
        ordered = law.sort(dim=-1, descending=True).values
        short = (ordered.exp().cumsum(-1) < wanted).sum(-1, keepdim=True)
        edge = ordered.gather(-1, short.clamp(max=law.shape[-1] - 1))
    sure, tied = law > edge + NEAR, (law - edge).abs() <= NEAR
    before = (weights * sure).sum(-1, keepdim=True) + (weights * tied).cumsum(-1) - weights
    return law.masked_fill(~(sure | (tied & (before < wanted))), -torch.inf).log_softmax(-1)


def check_model(model: Any) -> Any:
    """The part of the model's configuration that is about text, once the model is one that writes text."""
    advice = "take AutoModelForCausalLM.from_pretrained(...), or load_model"
    if not isinstance(model, transformers.PreTrainedModel):
        raise TypeError(
            f"model must be a causal language model of transformers, not {type(model).__name__}; {advice}. Modules of "
            "your own go into agents.neural.ModulePolicy."
        )
    if not model.can_generate() or model.get_output_embeddings() is None:
        raise TypeError(f"{type(model).__name__} has no head that gives the law of the next token; {advice}.")
    if getattr(model, "_is_stateful", False):
        raise TypeError(
            f"{type(model).__name__} keeps a state that cannot be read on by several tokens; a model whose layers all "
            "attend is needed. agents.neural.ModulePolicy takes it without its state."
        )
    if model.config.is_encoder_decoder:
        raise TypeError(f"{type(model).__name__} is an encoder with a decoder; a decoder alone is needed: {advice}.")
    return model.config.get_text_config()


@contextmanager
def _evaluation(model: Any) -> Iterator[None]:
    """Every part in evaluation mode; afterwards those that were in training mode are so again.

    The half precision that `accelerate` puts around the forward pass of a model in training is taken off as well.
    """
    training = [module for module in model.modules() if module.training]
    for module in training:
        module.training = False
    own = dict(model.__dict__)
    if "_original_forward" in own:
        model.forward = own["_original_forward"]
    try:
        yield
    finally:
        if "_original_forward" in own:
            model.forward = own["forward"]
        for module in training:
            module.training = True


#: options that say where a model is, and so where its tokenizer is
WHERE = ("cache_dir", "local_files_only", "revision", "subfolder", "token", "trust_remote_code")


def load_model(name: str | Path, *, dtype: str = "float32", **options: Any) -> tuple[Any, Any]:
    """A causal language model of transformers and its tokenizer.

    Args:
        name: a name on the Hugging Face hub, a directory that ``save_pretrained`` has written, or a ``.gguf`` file
            (whose weights are unpacked).
        dtype: of the weights; float32 is what distances should be measured in. ``"auto"`` takes what was saved.
        options: for ``AutoModelForCausalLM.from_pretrained``: ``device_map``, ...; those that say where things are
            (``revision``, ``token``, ...) for the tokenizer too.

    Raises:
        OSError: nothing can be loaded from there: no such model or file, no access, or no connection (also with
            ``HF_HUB_OFFLINE=1``) and no copy in the cache; the cause says which.
        MemoryError: the weights do not fit into the memory that is free now, as they are counted before any is read
            (not where ``device_map`` says where they go).
    """
    of_both = {key: value for key, value in options.items() if key in WHERE}
    config = options.pop("config", None) or load_part("AutoConfig", name, **of_both)
    if "device_map" not in options:
        _check_memory(str(name), config, dtype)
    tokenizer = load_part("AutoTokenizer", name, **of_both)
    return load_part("AutoModelForCausalLM", name, config=config, dtype=dtype, **options), tokenizer


def load_part(kind: str, name: str | Path, **options: Any) -> Any:
    """What a class of transformers (``"AutoConfig"``, ``"AutoTokenizer"``) reads at a name as `load_model` takes it.

    Raises:
        OSError: as from there.
    """
    path, file = Path(name).expanduser(), {}
    place = str(path) if path.exists() else str(name)
    if path.suffix == ".gguf":
        if not path.is_file():
            raise FileNotFoundError(f"there is no file {path}; give the path of a .gguf file on this machine.")
        place, file = str(path.parent), {"gguf_file": path.name}
    elif not path.exists() and (path.is_absolute() or str(name).startswith(".") or len(path.parts) > 2):
        raise FileNotFoundError(f"there is no directory {path}; give one with a model, or a name on the hub.")
    try:
        return getattr(transformers, kind).from_pretrained(place, **file, **options)
    except Exception as error:  # damaged files raise whatever those who read them do
        reason = str(error).strip().partition("\n")[0].removesuffix(".")
        raise OSError(
            f"{kind} cannot load {str(name)!r}: {reason}. Give a name on the Hugging Face hub (if it is "
            "gated, accept its terms there and log in; offline, only what is in the cache is found), a directory "
            "with a model and its tokenizer, or a .gguf file."
        ) from error


def _check_memory(name: str, config: Any, dtype: str) -> None:
    """That the weights fit into the memory that is free."""
    kind = (getattr(config, "dtype", None) or torch.float32) if dtype == "auto" else getattr(torch, dtype)
    count = count_weights(config)
    needed, free = count * kind.itemsize, free_memory()
    if needed > free:
        raise MemoryError(
            f"{name!r} has {count / 1e6:.3g} million weights, {needed / 1e9:.3g} GB in {str(kind)[6:]}, and "
            f"{free / 1e9:.3g} GB of memory are free; take dtype='bfloat16', a smaller model or another machine."
        )


def count_weights(config: Any) -> int:
    """How many weights a model of this configuration has, counted without any; 0 where there is no such model."""
    try:
        with torch.device("meta"):
            empty = transformers.AutoModelForCausalLM.from_config(config)
    except ValueError:  # loading it says why
        return 0
    return sum(weight.numel() for weight in empty.parameters())


def free_memory() -> int:
    """Bytes that are free on this machine."""
    return int(psutil.virtual_memory().available)


def check_same_tokens(one: Any, two: Any) -> int:
    """That two tokenizers give every id to the same token, as models must whose laws are compared.

    Args:
        one, two: tokenizers of transformers.

    Returns:
        How many ids they have.

    Raises:
        ValueError: they differ; the message has how many ids, which first, and how many agree up to there.
    """
    names = [{number: token for token, number in tokenizer.get_vocab().items()} for tokenizer in (one, two)]
    ids = sorted({*names[0], *names[1]})
    differing = [number for number in ids if names[0].get(number) != names[1].get(number)]
    if not differing:
        return len(ids)
    shown = "; ".join(
        f"{number} is {' and '.join(repr(name[number]) if number in name else 'no token' for name in names)}"
        for number in differing[:3]
    )
    raise ValueError(
        f"the tokenizers differ at {len(differing)} of {len(ids)} ids ({shown}), and laws over different tokens have "
        f"no distance; take two models of one family, or compare the laws of the ids before, with "
        f"vocab_size={differing[0]}."
    )

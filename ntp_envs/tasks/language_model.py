"""A real language model as the expert, and its near-misses as the class. Needs the extra ``lm``."""

from __future__ import annotations

import dataclasses
import hashlib
from dataclasses import dataclass
from functools import cached_property, lru_cache
from pathlib import Path
from typing import Any
from weakref import WeakKeyDictionary

import numpy as np
from numpy.typing import NDArray

from ntp_envs.arrays import FloatArray, IntArray
from ntp_envs.checks import NotTractableError, check_in, check_int, check_tokens
from ntp_envs.demonstrations import Demonstrations
from ntp_envs.language import TransformersPolicy, check_model, load_model, torch
from ntp_envs.perturbed import DEFAULT_CHANGES, check_change, perturbed_models
from ntp_envs.policies import EndedPolicy, Policy
from ntp_envs.policy_classes import NGramClass, PolicyClass, ended_class
from ntp_envs.tasks.base import FOLLOWS, BestInClass, Task

LEARNERS = ("perturbed", "ngram")
#: models that a process keeps by name, once they are loaded
KEPT = 2


@dataclass(frozen=True, repr=False)
class LanguageModel(Task):
    """A causal language model of transformers writes, after prompts of yours or from nothing.

    What it shows: the distances of the other families, where the expert is a real model: how far a quantised, pruned or
    otherwise sampled copy of it is from it after h tokens, and which of them a learner picks from its texts. The class
    is finite, one changed copy a member (`ntp_envs.perturbed`), or all n-gram models over the model's tokens.

    A prompt is drawn uniformly from ``prompts``; shorter ones are filled up on the left, with an id that none begins
    with (`pad`) and that the model does not see. With ``end`` texts are documents: after the first end token the expert
    writes nothing but it.

    Everything is loaded and checked when the task is made. A process keeps the last two models that were loaded by
    name, so that tasks on one model share it. A task that is pickled loads a named model again where it arrives; a
    module goes along. The law of a task is fixed: do not train a module that you gave to one.

    Args:
        model: a name on the Hugging Face hub, a directory that ``save_pretrained`` has written, a ``.gguf`` file, or a
            module of transformers with a head for the next token.
        tokenizer: of a module, where there is one (for prompts in words, `decode`, ``begin`` and ``end``); a
            named model has its own.
        prompts: ``None``, texts begin from nothing; the path of a text file, one prompt on each line that is not blank;
            a list of texts, tokenised without special tokens; an integer array ``(M, P)``, or lists of ids.
        horizon: H, tokens to write.
        prompt_length: P: longer prompts keep their first P ids; by default the longest prompt's.
        temperature, top_k, top_p: what the expert samples with, as in `ntp_envs.language.TransformersPolicy`.
        dtype: of the weights of a named model; ``"auto"`` takes what was saved. Float32 is what distances should be
            measured in. A module stays in its own.
        begin: ids before every prompt. By default the tokenizer's (without one, the configuration's) token for the
            beginning of a text; where it has none, nothing before prompts, and its token for the end without them.
        end: an id, ``"eos"`` (the tokenizer's), or ``None``: texts do not end.
        learner: of ``policy_class``: ``"perturbed"`` or ``"ngram"``.
        changes: one member each of the perturbed models, in the words of `ntp_envs.perturbed.perturbed`.
        learner_order: n of the n-gram models.

    Raises:
        OSError, MemoryError, ValueError, TypeError: at construction, with the reason and the way round: a model that
            is not there or does not fit into memory, a text longer than its window, no prompts, ids that are no tokens,
            a parameter out of range.

    >>> import transformers
    >>> config = transformers.GPT2Config(n_layer=2, n_head=2, n_embd=8, n_positions=32, vocab_size=7, bos_token_id=0)
    >>> task = LanguageModel(transformers.GPT2LMHeadModel(config), horizon=16, changes=["int4", "drop"])
    >>> task
    LanguageModel(model=GPT2LMHeadModel, horizon=16, changes=('int4', 'drop'))
    >>> task.vocab_size, len(task.policy_class)
    (7, 2)
    """

    model: Any
    tokenizer: Any = None
    prompts: Any = None
    horizon: int = 64
    prompt_length: int = FOLLOWS
    temperature: float = 1.0
    top_k: int | None = None
    top_p: float | None = None
    dtype: str = "float32"
    begin: tuple[int, ...] = FOLLOWS
    end: int | str | None = None
    learner: str = "perturbed"
    changes: tuple[str, ...] = DEFAULT_CHANGES
    learner_order: int = 2

    def __post_init__(self) -> None:
        for name in ("model", "prompts"):
            if isinstance(getattr(self, name), Path):
                object.__setattr__(self, name, str(getattr(self, name)))
        for name in ("horizon", "learner_order"):
            check_int(name, getattr(self, name), minimum=1)
        check_in("learner", self.learner, LEARNERS)
        if not isinstance(self.changes, tuple) or not self.changes:
            raise ValueError(f"changes={self.changes!r} must be a list of one or more, such as ['int8', 'drop'].")
        for change in self.changes:
            check_change(change)
        kind = getattr(torch, str(self.dtype), None)
        if self.dtype != "auto" and not (isinstance(kind, torch.dtype) and kind.is_floating_point):
            raise ValueError(f"dtype={self.dtype!r} must be 'auto', 'float32', 'bfloat16' or another float of torch.")
        if isinstance(self.model, str) and self.tokenizer is not None:
            raise ValueError(
                "tokenizer is for a module; a model that is named has its own. To use another, load the model with "
                "ntp_envs.language.load_model and give it as a module."
            )
        check_model(self._loaded[0])
        longest = max(map(len, self._ids))
        self._follow(prompt_length=longest, begin=self._beginning() if self.begin is None else None)
        check_int("prompt_length", self.prompt_length, minimum=0, maximum=longest)
        object.__setattr__(self, "begin", tuple(np.atleast_1d(self.begin).tolist()))
        if self.end is not None:
            check_int("end", self.end_token, minimum=0, maximum=self.vocab_size - 1)
            if (self._prompts == self.end_token).any():
                raise ValueError(f"end={self.end_token} is in a prompt, so that nothing follows it; drop that prompt.")
        room = self.writer.horizon
        if room is not None and self.horizon > room:
            raise ValueError(
                f"horizon={self.horizon} must be at most {room}: so many tokens fit into the model's window of "
                f"{self.writer.window} after {len(self.begin)} ids of begin and {self.prompt_length} of the prompt."
            )

    def __repr__(self) -> str:
        shown = [
            f"{field.name}={_shown(getattr(self, field.name))}"
            for field in dataclasses.fields(self)
            if field.name not in self._followed and getattr(self, field.name) != field.default
        ]
        return f"LanguageModel({', '.join(shown)})"

    def __getstate__(self) -> dict[str, Any]:
        """The parameters: a named model is loaded again, as it is there then."""
        return {**self.parameters(), "_followed": self._followed}

    def __eq__(self, other: object) -> bool:
        """Equal parameters, and the same weights and prompts."""
        if type(other) is not type(self):
            return NotImplemented
        assert isinstance(other, LanguageModel)
        same = self._plain() == other._plain() and np.array_equal(self._prompts, other._prompts)
        return same and (self._loaded[0] is other._loaded[0] or self._sha256() == other._sha256())

    def __hash__(self) -> int:
        return hash(tuple(self._plain().values()))

    def _plain(self) -> dict[str, Any]:
        """The parameters, with the class alone of what is an object."""
        return {name: value if _is_plain(value) else _shown(value) for name, value in self.parameters().items()}

    def fingerprint(self) -> dict[str, Any]:
        """By the weights and the prompts: no text is written for it."""
        prompts = hashlib.sha256(self._prompts.astype("<i8").tobytes()).hexdigest()
        return {"name": self.name, "parameters": repr(self._plain()), "sha256": self._sha256(), "prompts": prompts}

    def _sha256(self) -> str:
        model = self._loaded[0]
        if model not in _hashes:
            found = hashlib.sha256(str(type(model)).encode())
            for name, weight in sorted(model.state_dict().items()):
                found.update(name.encode())
                found.update(weight.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy())
            _hashes[model] = found.hexdigest()
        return _hashes[model]

    # -- the model and what it reads -----------------------------------------------------------------------------------

    @cached_property
    def _loaded(self) -> tuple[Any, Any]:
        """The model and its tokenizer, or ``None``."""
        if not isinstance(self.model, str):
            return self.model, self.tokenizer
        path = Path(self.model)
        files = sorted(path.iterdir()) if path.is_dir() else [path] if path.is_file() else []
        return _named(self.model, self.dtype, tuple((file.name, file.stat().st_mtime_ns) for file in files))

    @property
    def vocab_size(self) -> int:  # type: ignore[override]
        """A: the tokenizer's tokens, of which models of one family may have more logits."""
        model, tokenizer = self._loaded
        logits = int(model.config.get_text_config().vocab_size)
        return logits if tokenizer is None else min(logits, len(tokenizer))

    def _special(self, name: str) -> int | None:
        """The id of ``"bos"`` or ``"eos"``."""
        model, tokenizer = self._loaded
        found = getattr(model.config.get_text_config() if tokenizer is None else tokenizer, f"{name}_token_id", None)
        return None if found is None else int(np.ravel(found)[0])  # a configuration may have several

    def _beginning(self) -> tuple[int, ...]:
        found = self._special("bos")
        if found is None and self.prompts is None:
            found = self._special("eos")
            if found is None:
                raise ValueError(
                    "the model's tokenizer has a token neither for the beginning nor for the end of a text, so that a "
                    "text cannot begin from nothing; give begin, the id to start from, or prompts."
                )
        return () if found is None else (found,)

    @property
    def end_token(self) -> int | None:  # type: ignore[override]
        """The id that ends a text for good."""
        if self.end is None:
            return None
        found = self._special("eos") if self.end == "eos" else self.end
        if not isinstance(found, int):
            raise ValueError(f"end={self.end!r} must be an id, or 'eos' where the tokenizer has a token for the end.")
        return found

    @cached_property
    def _ids(self) -> list[list[int]]:
        """Every prompt, as long as it is."""
        prompts, tokenizer = self.prompts, self._loaded[1]
        if prompts is None:
            return [[]]
        if isinstance(prompts, str):
            if not Path(prompts).is_file():
                raise FileNotFoundError(
                    f"there is no file prompts={prompts!r}; give a text file, or a list of texts (['...'] for one)."
                )
            lines = Path(prompts).read_text(encoding="utf-8").splitlines()
            prompts = tuple(line.strip() for line in lines if line.strip())
        if not prompts:
            raise ValueError(f"prompts={self.prompts!r} has none in it; prompts=None begins from nothing.")
        if isinstance(prompts, tuple) and all(isinstance(prompt, str) for prompt in prompts):
            if tokenizer is None:
                raise ValueError("prompts in words need a tokenizer; give the module's, or prompts as ids.")
            prompts = tuple(tokenizer(prompt, add_special_tokens=False)["input_ids"] for prompt in prompts)
        out = []
        for index, prompt in enumerate(prompts):
            if not isinstance(prompt, (tuple, list)):
                raise TypeError(
                    f"prompts[{index}]={prompt!r} must be a text, or a list of ids; all must be of one kind."
                )
            if not prompt:
                raise ValueError(f"prompts[{index}] has no tokens; leave it out (prompts=None begins from nothing).")
            out.append(check_tokens(f"prompts[{index}]", [prompt], self.vocab_size)[0].tolist())
        return out

    @cached_property
    def pad(self) -> int | None:
        """The id that fills shorter prompts up: the tokenizer's, or the first that no prompt begins with."""
        if min(map(len, self._ids)) >= self.prompt_length:
            return None
        own, taken = getattr(self._loaded[1], "pad_token_id", None), {ids[0] for ids in self._ids} | {self.end_token}
        free = [i for i in (own, *range(self.vocab_size)) if i is not None and i < self.vocab_size and i not in taken]
        if not free:
            raise ValueError("prompts begin with every token there is, so that none can fill shorter ones up.")
        return free[0]

    @cached_property
    def _prompts(self) -> IntArray:
        """``(M, P)``."""
        length, fill = self.prompt_length, [] if self.pad is None else [self.pad]
        return np.array([fill * (length - len(ids)) + ids[:length] for ids in self._ids], dtype=np.int64)

    # -- the task ------------------------------------------------------------------------------------------------------

    @cached_property
    def writer(self) -> TransformersPolicy:
        """The model as a policy that no token ends."""
        return TransformersPolicy(
            self._loaded[0],
            prompt_length=self.prompt_length,
            begin=self.begin,
            vocab_size=self.vocab_size,
            temperature=self.temperature,
            top_k=self.top_k,
            top_p=self.top_p,
            pad=self.pad,
        )

    @cached_property
    def expert(self) -> Policy:
        return self.writer if self.end_token is None else EndedPolicy(self.writer, self.end_token)

    @cached_property
    def policy_class(self) -> PolicyClass:
        members: PolicyClass = NGramClass(self.vocab_size, self.learner_order)
        if self.learner == "perturbed":
            members = perturbed_models(self.writer, self.changes)
        return ended_class(members, self.end_token)

    def prompt_law(self) -> tuple[IntArray, FloatArray]:
        prompts, counts = np.unique(self._prompts, axis=0, return_counts=True)
        return prompts, counts / counts.sum()

    def best_in_class(self) -> BestInClass:
        """Not known: distances between language models are sampled."""
        raise NotTractableError(
            "distances between language models are sampled, so that none is known to be least; compare the members by "
            "distance(task.expert, member, task, rng=rng)."
        )

    def population(self, chunk: int | None = None) -> Demonstrations:
        """None: a language model has too many texts."""
        raise NotTractableError("a language model has too many texts to list; use collect(task, n, rng).")

    def decode(self, tokens: NDArray[np.integer]) -> str:
        """The text of one ``(t,)`` row, up to the first end token; without a tokenizer its ids."""
        row = np.asarray(tokens)
        if self.end_token is not None and (row == self.end_token).any():
            row = row[: int(np.argmax(row == self.end_token)) + 1]
        tokenizer = self._loaded[1]
        return super().decode(row) if tokenizer is None else tokenizer.decode(row.tolist())


#: of models, as long as they live
_hashes: WeakKeyDictionary[Any, str] = WeakKeyDictionary()


@lru_cache(maxsize=KEPT)
def _named(name: str, dtype: str, files: tuple[tuple[str, int], ...]) -> tuple[Any, Any]:
    """Loaded anew once the files of a directory have changed."""
    return load_model(name, dtype=dtype)


def _is_plain(value: Any) -> bool:
    return value is None or isinstance(value, (str, int, float, tuple))


def _shown(value: Any) -> str:
    return repr(value) if _is_plain(value) else type(value).__name__

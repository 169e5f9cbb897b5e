"""Text: an n-gram model of real text as the expert, and the text itself."""

from __future__ import annotations

import copy
from dataclasses import dataclass, fields
from functools import cached_property, lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ntp_envs._validation import check_generator, check_in, check_int, check_probability, check_real
from ntp_envs.demonstrations import Demonstrations
from ntp_envs.errors import NotTractableError
from ntp_envs.ngram import NGramPolicy
from ntp_envs.policies import MixturePolicy, Policy
from ntp_envs.policy_classes.ngram import NGramClass
from ntp_envs.tasks.base import BestInClass, FloatArray, IntArray, Task
from ntp_envs.text.data import TextData, TextPart, least_length, load_data
from ntp_envs.text.score import BitsPerChar, text_log_probs
from ntp_envs.text.vocabulary import TOKENS

__all__ = ["Text"]

#: different prompts up to which `Text.prompt_law` lists them
MAX_PROMPTS = 4096
#: tokens a window in which `Text.bits_per_char` reads a text, for policies that read any length
WINDOW = 1024


@dataclass(frozen=True)
class Text(Task):
    """Real text. The expert is the interpolated Witten-Bell n-gram model of it: a known density at every state.

    What it shows: the distances of the other families, on language. The expert writes text that looks like the
    corpus; the learner is restricted (a lower order by default, and any policy class over the vocabulary will do), so
    its rollout law drifts from the expert's as the horizon grows. The text itself is there too: `windows` are
    demonstrations cut from it, `bits_per_char` scores a policy on the end of it, which the expert has not seen. On
    the default corpus (465 048 lower-case characters of Python 3.11, A = 78) Witten-Bell models of order 1 to 6 fitted
    to the first 90 % cost 4.59, 3.31, 2.46, 2.01, 1.88 and 1.90 bits a character of the rest; and those fitted to 4000
    sequences of the default expert are at a squared Hellinger distance from it, after h = 1, 8 and 64 tokens, of 0.93,
    1.95 and 2.00 (order 2), 0.23, 1.17 and 1.97 (order 4), 0.08, 0.51 and 1.78 (order 5), give or take 0.02.

    A prompt is ``prompt_length`` consecutive tokens of the training part, at a place drawn uniformly among those that
    have ``horizon`` more tokens behind them.

    With ``contamination`` the expert is a mixture of two laws of whole documents: with that probability it draws every
    token of a document independently, with the frequencies of the text, after whatever prompt. This is misspecification
    of a kind that log-loss does not forgive and learning on whole sequences does: a learner of the expert's order can
    represent all but a share ``contamination`` of the documents (`clean`, at a squared Hellinger distance of about that
    share at any horizon), but the likeliest model of that order pays for the rest at every token. On the default corpus
    in 30 characters (expert of order 2, contamination 0.03, infinitely many demonstrations) it is at a distance of 0.14
    after 64 tokens, where `clean` is at 0.030.

    The corpus is read, and the parameters are checked against it, when the task is made; a second task with the same
    text reads and fits nothing again in the same process, unless the file has changed in the meantime. A task keeps
    the text it was made with. Equality is of parameters: two tasks made before and after a change of the file are
    equal, and the ``sha256`` that `windows` writes into ``source`` tells them apart.

    Args:
        corpus: ``"default"`` (the help topics that come with CPython, which need no download), the path of a UTF-8
            file, or ``"hf:OWNER/NAME"``, a Hugging Face data set such as ``hf:roneneldan/TinyStories`` (extra ``hf``
            and a network); see `ntp_envs.text.load_text`.
        tokens: ``"char"``, ``"byte"`` (reads any file) or ``"word"``; see `ntp_envs.text.Vocabulary`.
        lower: lower-case the text first.
        expert_order: n of the expert: it sees n - 1 tokens.
        horizon: H, tokens to write.
        prompt_length: P.
        learner_order: n of ``policy_class``.
        max_vocab: largest vocabulary, one token for everything rare included; ``None`` is 96 characters, 256 bytes or
            1000 words.
        max_chars: characters (bytes) of the corpus to read, from its beginning; ``None`` is all of it (5 million of a
            data set).
        held_out: share of the characters, at the end, that the expert and its vocabulary are not fitted to.
        contamination: in [0, 1), probability that a whole document is shuffled text. The corpus, the prompts, `windows`
            and the scale of `bits_per_char` are those of the text as it is.

    Raises:
        OSError, ValueError, TypeError, ImportError: at construction, with the reason and the way round: a corpus that
            is not there, is not text, or is too short for the horizon; a parameter out of range.

    >>> task = Text(horizon=32)
    >>> len(task.decode(task.sample_prompts(1, np.random.default_rng(0))[0]))
    8
    """

    corpus: str = "default"
    tokens: str = "char"
    lower: bool = True
    expert_order: int = 6
    horizon: int = 64
    prompt_length: int = 8
    learner_order: int = 2
    max_vocab: int | None = None
    max_chars: int | None = None
    held_out: float = 0.1
    contamination: float = 0.0

    def __post_init__(self) -> None:
        if not isinstance(self.corpus, str) or not self.corpus:
            raise TypeError(
                f"corpus={self.corpus!r} must be a string: 'default', the path of a text file, or 'hf:OWNER/NAME'."
            )
        check_in("tokens", self.tokens, TOKENS)
        if not isinstance(self.lower, bool):
            raise TypeError(f"lower={self.lower!r} must be True or False.")
        for name, minimum in (("expert_order", 1), ("horizon", 1), ("prompt_length", 0), ("learner_order", 1)):
            check_int(name, getattr(self, name), minimum=minimum)
        for name, minimum in (("max_vocab", 2), ("max_chars", 1)):
            if getattr(self, name) is not None:
                check_int(name, getattr(self, name), minimum=minimum)
        check_probability("held_out", self.held_out)
        if check_real("contamination", self.contamination, minimum=0.0) >= 1.0:
            raise ValueError(f"contamination={self.contamination} must be below 1; at 1 nothing of the text is left.")
        self._check_lengths(self.data)

    def _check_lengths(self, data: TextData) -> None:
        window = self.prompt_length + self.horizon
        train = max(window, self.expert_order)
        found = len(data.train), len(data.held_out)
        if found[0] < train or found[1] < window:
            raise ValueError(
                f"corpus={self.corpus!r} is too short: {found[0]} tokens to fit to and {found[1]} held out, where "
                f"{train} and {window} are needed for prompt_length + horizon = {window} and "
                f"expert_order={self.expert_order}. With held_out={self.held_out} the text must have at least "
                f"{least_length(train, window, self.held_out)} tokens; use a longer one or a shorter horizon."
            )

    def __getstate__(self) -> dict[str, Any]:
        """The parameters only: another process reads the corpus anew."""
        return {f.name: getattr(self, f.name) for f in fields(self)}

    # -- the text ------------------------------------------------------------------------------------------------------

    @cached_property
    def data(self) -> TextData:
        """The corpus as tokens, in two parts, with its vocabulary and the ``sha256`` of what was read."""
        return load_data(
            self.corpus,
            tokens=self.tokens,
            lower=self.lower,
            max_vocab=self.max_vocab,
            max_chars=self.max_chars,
            held_out=self.held_out,
        )

    @property
    def vocab_size(self) -> int:  # type: ignore[override]
        """A, of the text's vocabulary: ``task.data.vocabulary``."""
        return self.data.vocabulary.size

    def encode(self, text: str) -> IntArray:
        """``(t,)`` tokens of a text, lower-cased if the task is."""
        return self.data.vocabulary.encode(text.lower() if self.lower else text)

    def decode(self, tokens: NDArray[np.integer]) -> str:
        """The text of one ``(t,)`` row of tokens; U+FFFD for the unknown token."""
        return self.data.vocabulary.decode(tokens)

    def windows(self, n: int, rng: np.random.Generator, *, held_out: bool = False) -> Demonstrations:
        """``n`` stretches of the text itself, P + H tokens each, at places drawn uniformly.

        Args:
            n: how many, at least 1; they may overlap.
            rng: source of the draws.
            held_out: from the end of the text, which the expert was not fitted to, instead of the rest.
        """
        n = check_int("n", n, minimum=1)
        part = self._part(held_out)
        lines = part.tokens[self._starts(part, n, rng)[:, None] + np.arange(self.prompt_length + self.horizon)]
        return Demonstrations(
            lines[:, : self.prompt_length],
            lines[:, self.prompt_length :],
            vocab_size=self.vocab_size,
            source={
                "task": self.name,
                "parameters": self.parameters(),
                "by": "held-out text" if held_out else "text",
                "sha256": self.data.sha256,
            },
        )

    def bits_per_char(self, policy: Policy, *, held_out: bool = True, window: int | None = None) -> BitsPerChar:
        """How well a policy predicts the text: bits a character (and a token), with a standard error.

        Every token of the part but the first P is predicted once, from the tokens before it (teacher forcing). The
        text is read in windows, each after the P tokens before it, so a context is cut only where it would reach
        further back than that.

        Args:
            policy: over the task's vocabulary.
            held_out: the held-out part, or the training part.
            window: tokens a window; by default 1024, or the policy's horizon where it has one.

        Raises:
            TypeError, ValueError: no policy, another vocabulary, or a window longer than the policy's horizon.
        """
        if not isinstance(policy, Policy):
            raise TypeError(f"policy must be an ntp_envs.Policy, not {type(policy).__name__}.")
        if policy.vocab_size != self.vocab_size:
            raise ValueError(f"policy has vocab_size={policy.vocab_size} and the task {self.vocab_size}.")
        length = check_int(
            "window", (policy.horizon or WINDOW) if window is None else window, minimum=1, maximum=policy.horizon
        )
        part, unknown = self._part(held_out), self.data.vocabulary.unknown
        log_probs = text_log_probs(policy, part.tokens, prompt_length=self.prompt_length, window=length)
        scored = slice(self.prompt_length, None)
        share = 0.0 if unknown is None else float((part.tokens[scored] == unknown).mean())
        return BitsPerChar.of(log_probs, part.lengths[scored], unknown_share=share)

    def _part(self, held_out: bool) -> TextPart:
        return self.data.held_out if held_out else self.data.train

    def _places(self, part: TextPart) -> int:
        return len(part) - self.prompt_length - self.horizon + 1

    def _starts(self, part: TextPart, n: int, rng: np.random.Generator) -> IntArray:
        return check_generator(rng).integers(self._places(part), size=n)

    # -- the task ------------------------------------------------------------------------------------------------------

    @cached_property
    def expert(self) -> Policy:
        """`clean`, or with contamination the mixture of it and `shuffled`."""
        if self.contamination == 0.0:
            return self.clean
        return MixturePolicy([self.clean, self.shuffled], [1.0 - self.contamination, self.contamination])

    @cached_property
    def clean(self) -> NGramPolicy:
        """The n-gram model of order ``expert_order`` of the training part."""
        return self._model(self.expert_order)

    @cached_property
    def shuffled(self) -> NGramPolicy:
        """Tokens drawn independently with the (smoothed) frequencies of the training part."""
        return self._model(1)

    def _model(self, order: int) -> NGramPolicy:
        policy = copy.copy(_fitted(self.data, order))
        policy.prompt_length = self.prompt_length
        return policy

    @cached_property
    def policy_class(self) -> NGramClass:
        return NGramClass(self.vocab_size, self.learner_order)

    def sample_prompts(self, n: int, rng: np.random.Generator) -> IntArray:
        starts = self._starts(self.data.train, n, rng)
        return self.data.train.tokens[starts[:, None] + np.arange(self.prompt_length)]

    @cached_property
    def _prompt_law(self) -> tuple[IntArray, FloatArray] | None:
        places = self._places(self.data.train)
        number, lasts = np.zeros(places, dtype=np.int64), np.zeros(1, dtype=np.int64)  # of each place's prompt so far
        for offset in range(self.prompt_length):  # longer prompts are never fewer
            number = number * self.vocab_size + self.data.train.tokens[offset : offset + places]
            _, lasts, number = np.unique(number, return_index=True, return_inverse=True)
            number = number.ravel()
            if len(lasts) > MAX_PROMPTS:
                return None
        prompts = self.data.train.tokens[lasts[:, None] + np.arange(self.prompt_length)]
        return prompts, np.bincount(number, minlength=len(lasts)) / places

    def prompt_law(self) -> tuple[IntArray, FloatArray]:
        """The different prompts and their probabilities.

        Raises:
            NotTractableError: more than 4096; use `sample_prompts`.
        """
        if self._prompt_law is None:
            raise NotTractableError(
                f"the text has more than {MAX_PROMPTS} different prompts of {self.prompt_length} tokens; use "
                "sample_prompts(n, rng), or a shorter prompt_length."
            )
        return self._prompt_law

    def best_in_class(self) -> BestInClass:
        """Not known: squared Hellinger distance to a Markov chain with this many states has no closed form."""
        raise NotTractableError("the best n-gram model of lower order is not known; compare learners by distance().")


@lru_cache(maxsize=8)
def _fitted(data: TextData, order: int) -> NGramPolicy:
    return NGramPolicy.fit_text(data.train.tokens, data.vocabulary.size, order)

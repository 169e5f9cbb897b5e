"""Text: an n-gram model of real text as the expert, and the text itself."""

from __future__ import annotations

import copy
import warnings
from dataclasses import dataclass
from functools import cached_property, lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ntp_envs.arrays import FloatArray, IntArray
from ntp_envs.checks import (
    NotTractableError,
    check_flag,
    check_generator,
    check_in,
    check_int,
    check_probability,
    check_real,
)
from ntp_envs.demonstrations import Demonstrations
from ntp_envs.ngram import MAX_ORDER, NGramPolicy
from ntp_envs.policies import EndedPolicy, MixturePolicy, Policy
from ntp_envs.policy_classes import NGramClass, PolicyClass, ended_class
from ntp_envs.tasks.base import LONGEST, BestInClass, Task
from ntp_envs.text.corpus import RECORDS, TextData, TextPart, least_length, load_data
from ntp_envs.text.score import BitsPerChar, document_log_probs, text_log_probs
from ntp_envs.text.vocabulary import TOKENS, TOO_MANY, UnknownTokensWarning

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
    represent all but a share c = ``contamination`` of the documents (`clean`, at a squared Hellinger distance of at
    most ``2 (1 - sqrt(1 - c))`` at any horizon: about c where it is small and documents are long), but the likeliest
    model of that order pays for the rest at every token. On the default corpus in 30 characters (expert of order 2,
    contamination 0.03, infinitely many demonstrations) it is at a distance of 0.14 after 64 tokens, where `clean` is at
    0.030.

    With ``records="lines"`` the corpus is a file of documents, one a line, and the line end is the `end_token`: the
    expert models whole documents, from their beginnings, and no context reaches from one into the next. A prompt is the
    first P tokens of a document drawn uniformly among those that have as many; then H tokens are written: a document
    that ends earlier is filled up with end tokens, which expert and members of the class write with probability one
    after the first (environments end there), and one that goes on is cut off. `windows` are beginnings of real
    documents, filled up in the same way. The last documents are held out, and every one is scored by `bits_per_char`
    from its beginning; its end counts as a token of one character there, the line end of the file.

    The corpus is read, and the parameters are checked against it, when the task is made; a second task with the same
    text fits nothing again in the same process. A task keeps the text it was made with, and is equal to another if
    parameters and text (its ``data.sha256``) are; one that was pickled refuses to read another text than it had.

    Args:
        corpus: ``"default"`` (the help topics that come with CPython, which need no download), the path of a text
            file (perhaps compressed), or ``"hf:OWNER/NAME"``, a Hugging Face data set such as
            ``hf:roneneldan/TinyStories`` (extra ``hf`` and a network); see `ntp_envs.text.load_text`.
        tokens: ``"char"``, ``"byte"`` (reads any file) or ``"word"``; see `ntp_envs.text.Vocabulary`.
        lower: lower-case the text first.
        expert_order: n of the expert: it sees n - 1 tokens.
        horizon: H, tokens to write.
        prompt_length: P.
        learner_order: n of ``policy_class``.
        max_vocab: largest vocabulary, one token for everything rare included; ``None`` is 256 bytes, 1000 words, or 96
            characters: more, up to 4096, where those leave more than 5 % of the text unknown.
        max_chars: characters (bytes) of the corpus to read, from its beginning; ``None`` is all of it (5 million of a
            data set).
        held_out: share of the characters (of the documents, with records), at the end, that the expert and its
            vocabulary are not fitted to.
        contamination: in [0, 1), probability that a whole document is shuffled text. The corpus, the prompts, `windows`
            and the scale of `bits_per_char` are those of the text as it is.
        records: ``None``, one stretch of text, or ``"lines"``, a document on each line that is not blank (see above);
            white space around it is cut off.

    Warns:
        UnknownTokensWarning: more than 5 % of the tokens are the unknown one; the message has the share and the knob.

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
    records: str | None = None

    def __post_init__(self) -> None:
        if not isinstance(self.corpus, str) or not self.corpus:
            raise TypeError(
                f"corpus={self.corpus!r} must be a string: 'default', the path of a text file, or 'hf:OWNER/NAME'."
            )
        check_in("tokens", self.tokens, TOKENS)
        check_flag("lower", self.lower)
        for name in ("expert_order", "learner_order"):
            check_int(name, getattr(self, name), minimum=1, maximum=MAX_ORDER)
        check_int("horizon", self.horizon, minimum=1, maximum=LONGEST)
        check_int("prompt_length", self.prompt_length, minimum=0, maximum=LONGEST)
        for name, minimum in (("max_vocab", 2), ("max_chars", 1)):
            if getattr(self, name) is not None:
                check_int(name, getattr(self, name), minimum=minimum)
        check_probability("held_out", self.held_out)
        if check_real("contamination", self.contamination, minimum=0.0) >= 1.0:
            raise ValueError(f"contamination={self.contamination} must be below 1; at 1 nothing of the text is left.")
        if self.records is not None:
            check_in("records", self.records, RECORDS)
        self._check_lengths(self.data)
        if self.data.unknown_share > TOO_MANY:
            warnings.warn(self._about_unknown(), UnknownTokensWarning, stacklevel=4)

    def _about_unknown(self) -> str:
        roomy, kinds = self.data.roomy_vocab, {"char": "characters", "byte": "bytes", "word": "words"}[self.tokens]
        knob = f"Raise max_vocab: {roomy} leaves at most 1 % of the text unknown that the expert is fitted to"
        if roomy <= self.vocab_size:
            knob = "They do not occur in the part that the vocabulary is built from: use a longer text"
        return (
            f"{100 * self.data.unknown_share:.1f} % of the tokens of corpus={self.corpus!r} are unknown: not among the "
            f"{self.vocab_size - 1} most frequent {kinds}. Nobody spells them out, so bits a character are too few and "
            f"what is written is full of U+FFFD. {knob}" + (", or tokens='char'." if self.tokens == "word" else ".")
        )

    def _check_lengths(self, data: TextData) -> None:
        if self.records is not None:
            for part, what in ((data.train, "to fit to"), (data.held_out, "held out")):
                if not len(self._begins(part)):
                    raise ValueError(
                        f"corpus={self.corpus!r} has no document {what} of at least prompt_length={self.prompt_length} "
                        f"tokens; the longest of {len(part.document_lengths)} has {part.document_lengths.max()}. Use a "
                        "shorter prompt_length."
                    )
            return
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
        """The parameters, and by what to know the text: another process reads the corpus anew."""
        return {**self.parameters(), "_sha256": self.data.sha256}

    def __eq__(self, other: object) -> bool:
        """Equal parameters, and the same text."""
        if type(other) is not type(self):
            return NotImplemented
        assert isinstance(other, Text)
        return self.parameters() == other.parameters() and self.data.sha256 == other.data.sha256

    def __hash__(self) -> int:
        return hash(tuple(self.parameters().values()))

    def fingerprint(self) -> dict[str, Any]:
        return {**super().fingerprint(), "sha256": self.data.sha256}

    # -- the text ------------------------------------------------------------------------------------------------------

    @cached_property
    def data(self) -> TextData:
        """The corpus as tokens, in two parts, with its vocabulary and the ``sha256`` of what was read."""
        data = load_data(
            self.corpus,
            tokens=self.tokens,
            lower=self.lower,
            max_vocab=self.max_vocab,
            max_chars=self.max_chars,
            held_out=self.held_out,
            records=self.records,
        )
        if vars(self).get("_sha256", data.sha256) != data.sha256:
            raise ValueError(
                f"corpus={self.corpus!r} has changed since this task was saved; make the task anew to use what is there"
                " now."
            )
        return data

    @property
    def vocab_size(self) -> int:  # type: ignore[override]
        """A, of the text's vocabulary: ``task.data.vocabulary``."""
        return self.data.vocabulary.size

    def encode(self, text: str) -> IntArray:
        """``(t,)`` tokens of a text, lower-cased if the task is."""
        return self.data.vocabulary.encode(text.lower() if self.lower else text)

    def decode(self, tokens: NDArray[np.integer]) -> str:
        """The text of one ``(t,)`` row of tokens, up to the first end token; U+FFFD for the unknown token."""
        ends = np.flatnonzero(np.asarray(tokens) == self.end_token)
        return self.data.vocabulary.decode(tokens[: ends[0] + 1] if len(ends) else tokens)

    @property
    def end_token(self) -> int | None:  # type: ignore[override]
        """The line end, of documents; ``None`` without ``records``."""
        return self.data.end

    @property
    def end(self) -> int | None:
        """`end_token`, by the name that it had here first."""
        return self.end_token

    @property
    def unknown_token(self) -> int | None:  # type: ignore[override]
        """The token for everything rare; ``None`` where all 256 bytes have their own."""
        return self.data.vocabulary.unknown

    def windows(self, n: int, rng: np.random.Generator, *, held_out: bool = False) -> Demonstrations:
        """``n`` stretches of the text itself, P + H tokens each, at places drawn uniformly (beginnings of documents).

        Args:
            n: how many, at least 1; they may overlap.
            rng: source of the draws.
            held_out: from the end of the text, which the expert was not fitted to, instead of the rest.
        """
        n = check_int("n", n, minimum=1)
        part = self._part(held_out)
        lines = part.lines(self._starts(part, n, rng), self.prompt_length + self.horizon, self.end_token)
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
            end_token=self.end_token,
        )

    def bits_per_char(self, policy: Policy, *, held_out: bool = True, window: int | None = None) -> BitsPerChar:
        """How well a policy predicts the text: bits a character (and a token), with a standard error.

        Every token of the part (of each document) but the first P is predicted once, from the tokens before it (teacher
        forcing). The text is read in windows, each after the P tokens before it, so a context is cut only where it
        would reach further back than that. The end token of a document is one of its tokens, of one character: what
        fills up a short one is not scored.

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
        scored: Any = slice(self.prompt_length, None)
        if self.end_token is None:
            log_probs = text_log_probs(policy, part.tokens, prompt_length=self.prompt_length, window=length)
        else:
            log_probs, scored = document_log_probs(
                policy, part, end=self.end_token, prompt_length=self.prompt_length, window=length
            )
        share = 0.0 if unknown is None else float((part.tokens[scored] == unknown).mean())
        return BitsPerChar.of(log_probs, part.lengths[scored], unknown_share=share)

    def _part(self, held_out: bool) -> TextPart:
        return self.data.held_out if held_out else self.data.train

    def _begins(self, part: TextPart) -> IntArray | range:
        """Where a demonstration may begin."""
        if part.starts is None:
            return range(len(part) - self.prompt_length - self.horizon + 1)
        return part.starts[part.document_lengths >= self.prompt_length]

    def _starts(self, part: TextPart, n: int, rng: np.random.Generator) -> IntArray:
        begins = self._begins(part)
        drawn = check_generator(rng).integers(len(begins), size=n)
        return drawn if isinstance(begins, range) else begins[drawn]

    # -- the task ------------------------------------------------------------------------------------------------------

    @cached_property
    def expert(self) -> Policy:
        """`clean`, or with contamination the mixture of it and `shuffled`."""
        if self.contamination == 0.0:
            return self.clean
        return MixturePolicy([self.clean, self.shuffled], [1.0 - self.contamination, self.contamination])

    @cached_property
    def clean(self) -> Policy:
        """The n-gram model of order ``expert_order`` of the training part; of documents, up to their end."""
        return self._model(self.expert_order)

    @cached_property
    def shuffled(self) -> Policy:
        """Tokens drawn independently with the (smoothed) frequencies of the training part; of documents, to the end."""
        return self._model(1)

    def _model(self, order: int) -> Policy:
        policy = copy.copy(_fitted(self.data, order))
        policy.prompt_length = self.prompt_length
        return policy if self.end_token is None else EndedPolicy(policy, self.end_token)

    @cached_property
    def policy_class(self) -> PolicyClass:
        members = NGramClass(self.vocab_size, self.learner_order)
        return ended_class(members, self.end_token)

    def sample_prompts(self, n: int, rng: np.random.Generator) -> IntArray:
        starts = self._starts(self.data.train, n, rng)
        return self.data.train.tokens[starts[:, None] + np.arange(self.prompt_length)]

    @cached_property
    def _prompt_law(self) -> tuple[IntArray, FloatArray] | None:
        begins = self._begins(self.data.train)
        places, at = len(begins), np.arange(len(begins)) if isinstance(begins, range) else begins
        number, lasts = np.zeros(places, dtype=np.int64), np.zeros(1, dtype=np.int64)  # of each place's prompt so far
        for offset in range(self.prompt_length):  # longer prompts are never fewer
            number = number * self.vocab_size + self.data.train.tokens[at + offset]
            _, lasts, number = np.unique(number, return_index=True, return_inverse=True)
            number = number.ravel()
            if len(lasts) > MAX_PROMPTS:
                return None
        prompts = self.data.train.tokens[at[lasts][:, None] + np.arange(self.prompt_length)]
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
    if data.train.starts is not None:
        return NGramPolicy.fit_documents(data.train.tokens, data.train.starts, data.vocabulary.size, order)
    return NGramPolicy.fit_text(data.train.tokens, data.vocabulary.size, order)

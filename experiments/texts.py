"""What studies of text share: the text of a run, known by its content; a rule; records; and how well policies do."""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields
from functools import cached_property
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from agents import make_agent
from experiments.cells import Label, Record
from experiments.measure import distance_record, doublings, passing
from experiments.study import Options, option
from ntp_envs import Demonstrations, NGramClass, Policy, distance_curves
from ntp_envs.tasks import Text
from ntp_envs.text import BitsPerChar, UnknownTokensWarning, text_log_probs
from ntp_envs.text.vocabulary import TOKENS

# -- the text of a run: checked before anything is run, and known by its content from then on --------------------------


@dataclass(frozen=True)
class CorpusOption(Options):
    """Which text a study works on."""

    corpus: str = "default"
    """Text to work on: the path of a text file, "hf:OWNER/NAME" for a Hugging Face data set, or the help topics that
    come with Python."""


@dataclass(frozen=True)
class ExpertOptions(CorpusOption):
    """And the expert that is made of it."""

    expert_order: int = option(6)
    """Order of the n-gram model of the text that is the expert."""
    prompt_length: int = option(16, least=0)
    """Tokens of the text that it follows."""


@dataclass(frozen=True)
class ModelOptions(ExpertOptions):
    """Or a language model that is the expert."""

    expert: str = ""
    """A language model that is the expert instead (extra ``lm``): a name on the Hugging Face hub, a directory or a
    .gguf file. Then the corpus, orders of what is made of it and ``prompt_length`` mean nothing, and texts should be
    few."""
    prompts: str = ""
    """With ``expert``: a text file with a prompt a line, one of which begins each text."""


@dataclass(frozen=True)
class CorpusOptions(CorpusOption):
    """And how it is read."""

    records: Literal["lines"] | None = None
    """One document a line, each with an end, instead of one stretch of text."""
    tokens: Literal["char", "byte", "word"] = option("char", choices=TOKENS)
    """What a token is; bytes read any file."""
    lower: bool = True
    """Lower-case the text first."""
    max_chars: int | None = None
    """Read this much of the text at most."""


def checked_text(options: CorpusOptions, **sizes: Any) -> dict[str, Any]:
    """Parameters of the task of these sizes, with the ``sha256`` of the text; `read` takes them.

    The text is read here, so that nothing is run on a text that will not do. The hash makes a changed file another
    experiment.

    Raises:
        ValueError: the text cannot be read, is not text, or is too short; with the reason and the way round.
    """
    try:
        task = Text(**{f.name: getattr(options, f.name) for f in fields(CorpusOptions)}, **sizes)
    except (OSError, ImportError) as error:
        raise ValueError(str(error)) from error
    found = {**task.parameters(), "sha256": task.data.sha256}
    if options.records is None:  # cells of one stretch of text keep their names, and with them their seeds
        del found["records"]
    return found


def contaminated_text(options: Any, vocabulary: int, horizon: int) -> dict[str, Any]:
    """`checked_text` of a bigram expert with so many tokens and as much shuffled text as ``options.contamination``."""
    sizes = {"max_vocab": vocabulary, "horizon": horizon, "expert_order": 2, "prompt_length": 1}
    with warnings.catch_warnings():  # the vocabulary is small on purpose, and bits are not shown
        warnings.simplefilter("ignore", UnknownTokensWarning)
        return checked_text(options, **sizes, contamination=options.contamination)


def read(text: Mapping[str, Any], **changes: Any) -> Text:
    """The task with these parameters, some of them changed.

    Raises:
        ValueError: the text is not the one that the run began with.
    """
    asked = {**text, **changes}
    begun = asked.pop("sha256")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UnknownTokensWarning)  # `checked_text` has said it, once
        task = Text(**asked)
    if task.data.sha256 != begun:
        raise ValueError(f"corpus={task.corpus!r} has changed since this run began; start the run again.")
    return task


# -- texts that a rule tells apart -------------------------------------------------------------------------------------


@dataclass(frozen=True, eq=False)
class RuledText(Text):
    """Text with a verifier: what was written passes while all stretches of k tokens that end in it occur in the corpus.

    Args:
        rule_order: k, at most ``prompt_length + 1``.
    """

    rule_order: int = 5

    has_verifier = True

    @cached_property
    def grams(self) -> NDArray[np.int64]:
        """``(G, k)`` the different stretches of the training part, in the order of their numbers."""
        found = self.data.train.tokens
        every = np.lib.stride_tricks.sliding_window_view(found, self.rule_order)
        return every[np.unique(self.numbers(every), return_index=True)[1]]

    @cached_property
    def known(self) -> NDArray[np.int64]:
        """``(G,)`` their numbers, sorted."""
        return self.numbers(self.grams)

    def numbers(self, stretches: NDArray[np.int64]) -> NDArray[np.int64]:
        """Each ``(..., t)`` stretch as one number with base A."""
        return stretches @ self.vocab_size ** np.arange(stretches.shape[-1], dtype=np.int64)[::-1]

    def verify(self, prompts: NDArray[np.integer], tokens: NDArray[np.integer]) -> NDArray[np.bool_]:
        lines = np.hstack([prompts[:, prompts.shape[1] - self.rule_order + 1 :], tokens])
        wanted = self.numbers(np.lib.stride_tricks.sliding_window_view(lines, self.rule_order, axis=1))
        return (self.known[np.minimum(np.searchsorted(self.known, wanted), len(self.known) - 1)] == wanted).all(axis=1)

    def value(self, policy: Policy) -> Callable[[NDArray[np.int64], NDArray[np.int64]], NDArray[np.float64]]:
        """The exact value of prefixes: a function of prompts and ``(m, t)`` tokens that gives the probability to pass.

        What the policy goes on to write is what may fail, and the last token; the others have passed. The policy must
        read k - 1 tokens at most, after prompts of any length.
        """
        heads, tails = self.numbers(self.grams[:, :-1]), self.numbers(self.grams[:, 1:])
        contexts, first, of = np.unique(heads, return_index=True, return_inverse=True)
        law = np.exp(policy.next_log_probs(self.grams[first, :-1], np.empty((len(first), 0), dtype=np.int64)))
        chances = law[of, self.grams[:, -1]]

        def places(wanted: NDArray[np.int64]) -> NDArray[np.int64]:  # of contexts; one beyond where nothing follows
            at = np.minimum(np.searchsorted(contexts, wanted), len(contexts) - 1)
            return np.where(contexts[at] == wanted, at, len(contexts))

        to = places(tails)
        table: list[NDArray[np.float64]] = [np.ones(len(contexts) + 1)]  # by the number of tokens to come
        for _ in range(self.horizon):
            sums = np.bincount(of, weights=chances * table[-1][to], minlength=len(contexts) + 1)
            table.append(sums.astype(np.float64))

        def value(prompts: NDArray[np.int64], tokens: NDArray[np.int64]) -> NDArray[np.float64]:
            lines, k = np.hstack([prompts, tokens]), self.rule_order
            found = table[self.horizon - tokens.shape[1]][places(self.numbers(lines[:, 1 - k :]))]
            return found * self.verify(lines[:, -k:-1], lines[:, -1:]) if tokens.shape[1] else found

        return value


# -- texts as records --------------------------------------------------------------------------------------------------

SAMPLE = "sample"


def sample_records(
    task: Text, prompts: NDArray[np.int64], written: NDArray[np.int64], labels: Mapping[str, Label]
) -> list[Record]:
    """Texts as records: prompt and what is written are labels, and the value is the number of the prompt."""
    return [
        Record(SAMPLE, float(number), {**labels, "prompt": one_line(task.decode(x)), "text": one_line(task.decode(a))})
        for number, (x, a) in enumerate(zip(prompts, written, strict=True), 1)
    ]


def one_line(text: str) -> str:
    """A text with its line ends shown, and what cannot be printed replaced."""
    visible = text.replace("\n", "\u21b5").replace("\t", "\u2192")
    return "".join(c if c.isprintable() else "\ufffd" for c in visible)


# -- how well a policy predicts the text, and how soon its own drifts --------------------------------------------------

BITS, TRAIN_BITS = "bits a character, held out", "bits a character, training windows"
#: of the Witten-Bell model that all are compared with on the same text, which takes out most of the text's own scatter
COMMON_ORDER = 3
ABOVE = f"bits a character above the {COMMON_ORDER}-gram, held out"
UNKNOWN = "share of unknown tokens, held out"
KL = "KL(expert || policy) (nats a character)"
PASSING = "characters until the distance passes 1"


def judged(
    task: Text, policy: Policy, windows: Demonstrations, nats: float, labels: Mapping[str, Label], samples: int,
    rng: np.random.Generator,
) -> list[Record]:  # fmt: skip
    """How well a policy predicts the text, and how soon the text that it writes drifts from the expert's.

    * ``BITS``: teacher-forced on the held-out text, with the interval of its blocks, most of which all policies share.
    * ``ABOVE``: the same less that of the Witten-Bell 3-gram of the windows, with the interval of the difference.
    * ``TRAIN_BITS``: on the training windows.
    * ``hellinger2``: ``sum (sqrt P - sqrt Q)^2`` between the expert's and the policy's own text, in [0, 2], after
      h = 1, 2, 4, ... and H characters.
    * ``PASSING``: how many characters it takes until that passes 1; H where it does not.
    * ``KL``: of all H characters, expert first, divided by H.

    Args:
        task: with tokens that are characters.
        policy: of any kind.
        windows: of training.
        nats: its log-loss on them, in nats a window.
        labels: of all records.
        samples: sequences that estimate the distances; 0 leaves them out.
        rng: draws them.
    """
    common = make_agent("NGramBC").fit(windows, NGramClass(task.vocab_size, COMMON_ORDER), rng=rng).policy_
    held_out, read = task.data.held_out, {"prompt_length": task.prompt_length, "window": task.horizon}
    own, other = (text_log_probs(each, held_out.tokens, **read) for each in (policy, common))
    lengths = held_out.lengths[task.prompt_length :]
    method, records = "held-out text", []
    for metric, log_probs in ((BITS, own), (ABOVE, own - other)):
        scored = BitsPerChar.of(log_probs, lengths)
        records.append(Record(metric, scored.value, labels, *scored.interval, method))
    records.append(Record(TRAIN_BITS, nats / task.horizon / math.log(2.0), labels, method="training windows"))
    if not samples:
        return records
    curves = distance_curves(
        task.expert, policy, task, metrics=("hellinger2", "kl"), method="monte carlo", n=samples, rng=rng
    )
    near, far = curves["hellinger2"], curves["kl"]
    records += [distance_record(near, labels, h) for h in doublings(task.horizon)]
    method = records[-1].method
    soonest, middle, latest = (min(passing(curve), task.horizon) for curve in (near.upper, near.values, near.lower))
    records.append(Record(PASSING, middle, labels, soonest, latest, method))
    kl, least, most = (float(curve[-1]) / task.horizon for curve in (far.values, far.lower, far.upper))
    records.append(Record(KL, kl, labels, least, most, method))
    return records

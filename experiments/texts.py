"""What studies of text share: the text of a run, known by its content, and texts that are written, as records."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from experiments.cells import Label, Record
from experiments.study import Options, option
from ntp_envs import PolicyClass, ended_class
from ntp_envs.tasks import Text
from ntp_envs.text import UnknownTokensWarning
from ntp_envs.text.vocabulary import TOKENS

# -- the text of a run: checked before anything is run, and known by its content from then on --------------------------


@dataclass(frozen=True)
class CorpusOptions(Options):
    """The text that a study works on."""

    corpus: str = "default"
    """Text to work on: the path of a text file, "hf:OWNER/NAME" for a Hugging Face data set, or the help topics that
    come with Python."""
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


def of_texts(task: Text, members: PolicyClass) -> PolicyClass:
    """The class as the task wants it: of texts that end, where those of the task do."""
    return members if task.end_token is None else ended_class(members, task.end_token)


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

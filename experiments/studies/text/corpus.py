"""The text of a run: checked before anything is run, and known by its content from then on."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from typing import Any

from experiments.studies.text.options import TextOptions
from ntp_envs.tasks import Text
from ntp_envs.text import UnknownTokensWarning

__all__ = ["checked_texts", "read"]

BIGRAM = 2
#: parameters of `Text` for each part of the study: the options that give them, by the part's name
MAIN, DIAL, NETWORKS = "drift", "dial", "networks"


def parameters(options: TextOptions, part: str) -> dict[str, Any]:
    """Parameters of the part's task, but for the length of the documents where there are several."""
    text = {name: getattr(options, name) for name in ("corpus", "tokens", "lower", "max_chars")}
    if options.records is not None:  # cells of one stretch of text keep their names, and with them their seeds
        text["records"] = options.records
    if part == MAIN:
        sizes = {name: getattr(options, name) for name in ("max_vocab", "expert_order", "horizon", "prompt_length")}
        return {**text, **sizes}
    vocab, H = {
        DIAL: (options.small_vocab, max(options.dial_horizons)),
        NETWORKS: (options.network_vocab, options.network_horizon),
    }[part]
    shuffled = {"expert_order": BIGRAM, "prompt_length": 1, "contamination": options.contamination}
    return {**text, "max_vocab": vocab, "horizon": H, **shuffled}


def checked_texts(options: TextOptions) -> dict[str, dict[str, Any]]:
    """Parameters of each part's task with the ``sha256`` of the text, all of which `read` takes.

    The text is read and the sizes are checked against it here, so that nothing is run on a text that will not do. The
    hash makes a changed file another experiment.

    Raises:
        ValueError: the text cannot be read, is not text, or is too short; with the reason and the way round.
    """
    found = {}
    for part in (MAIN, DIAL, NETWORKS):
        try:
            with warnings.catch_warnings():
                if part != MAIN:  # whose vocabularies are small on purpose, and whose bits are not shown
                    warnings.simplefilter("ignore", UnknownTokensWarning)
                task = Text(**parameters(options, part))
        except (OSError, ImportError) as error:
            raise ValueError(str(error)) from error
        except ValueError as error:
            asked = {DIAL: max(options.dial_horizons), NETWORKS: options.network_horizon}
            where = {DIAL: "dial_horizons", NETWORKS: "network_horizon"}
            if part == MAIN or "too short" not in str(error):
                raise
            raise ValueError(f"{error} That is {where[part]}={asked[part]} here.") from error
        found[part] = {**task.parameters(), "sha256": task.data.sha256}
        if options.records is None:
            del found[part]["records"]
    return found


def read(text: Mapping[str, Any], **changes: Any) -> Text:
    """The task with these parameters, some of them changed.

    Raises:
        ValueError: the text is not the one that the run began with.
    """
    parameters = {**text, **changes}
    begun = parameters.pop("sha256")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UnknownTokensWarning)  # `checked_texts` has let it through, once
        task = Text(**parameters)
    if task.data.sha256 != begun:
        raise ValueError(f"corpus={task.corpus!r} has changed since this run began; start the run again.")
    return task

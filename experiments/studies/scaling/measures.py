"""How well a policy predicts the text, and how soon the text that it writes drifts from the expert's."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from agents import make_agent
from experiments import measure
from experiments.learners import powers_of_two
from experiments.study import Label, Record
from ntp_envs import Demonstrations, NGramClass, Policy, distance_curves
from ntp_envs.tasks import Text
from ntp_envs.text import BitsPerChar, text_log_probs

__all__ = ["ABOVE", "BITS", "COMMON_ORDER", "KL", "LEVEL", "PASSING", "TRAIN_BITS", "UNKNOWN", "judged", "passing"]

BITS, TRAIN_BITS = "bits a character, held out", "bits a character, training windows"
#: of the Witten-Bell model that all are compared with on the same text, which takes out most of the text's own scatter
COMMON_ORDER = 3
ABOVE = f"bits a character above the {COMMON_ORDER}-gram, held out"
UNKNOWN = "share of unknown tokens, held out"
KL = "KL(expert || policy) (nats a character)"
#: of the squared Hellinger distance, which is in [0, 2]
LEVEL = 1.0
PASSING = "characters until the distance passes 1"


def judged(
    task: Text,
    policy: Policy,
    windows: Demonstrations,
    nats: float,
    labels: dict[str, Label],
    samples: int,
    rng: np.random.Generator,
) -> list[Record]:
    """Records of a policy.

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
    own, other = (_held_out(task, each) for each in (policy, common))
    lengths = task.data.held_out.lengths[task.prompt_length :]
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
    method = f"{near.method}, n={near.n}"
    for h in sorted({*powers_of_two(task.horizon), task.horizon}):
        ends = float(near.lower[h - 1]), float(near.upper[h - 1])
        records.append(Record("hellinger2", float(near.values[h - 1]), {**labels, "h": h}, *ends, method))
    soonest, middle, latest = (passing(curve) for curve in (near.upper, near.values, near.lower))
    records.append(Record(PASSING, middle, labels, soonest, latest, method))
    kl, least, most = (float(curve[-1]) / task.horizon for curve in (far.values, far.lower, far.upper))
    records.append(Record(KL, kl, labels, least, most, method))
    return records


def _held_out(task: Text, policy: Policy) -> NDArray[np.float64]:
    """Log-probabilities (nats) of the held-out text, as `Text.bits_per_char` reads it."""
    return text_log_probs(policy, task.data.held_out.tokens, prompt_length=task.prompt_length, window=task.horizon)


def passing(curve: NDArray[np.float64]) -> float:
    """Where a ``(H,)`` curve first reaches `LEVEL`; H where it stays below."""
    return min(measure.passing(curve, LEVEL), float(len(curve)))

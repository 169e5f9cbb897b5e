"""Two-sample tests: distances between rollout laws where neither has a density, from sequences only."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from ntp_envs._validation import check_in, check_keywords, keywords_of
from ntp_envs.demonstrations import Demonstrations
from ntp_envs.distances._two_sample import TwoSampleResult
from ntp_envs.distances.two_sample_classifier import classifier_test
from ntp_envs.distances.two_sample_mmd import mmd_test
from ntp_envs.distances.two_sample_ngram import ngram_test

__all__ = ["TWO_SAMPLE_METHODS", "TwoSampleResult", "classifier_test", "mmd_test", "ngram_test", "two_sample_test"]

_TESTS: dict[str, Callable[..., TwoSampleResult]] = {
    "classifier": classifier_test,
    "n-gram": ngram_test,
    "mmd": mmd_test,
}
TWO_SAMPLE_METHODS = tuple(_TESTS)


def two_sample_test(
    p: Demonstrations, q: Demonstrations, *, rng: np.random.Generator, method: str = "classifier", **options: Any
) -> TwoSampleResult:
    """Are two samples of sequences from one law, up to each prefix length, and if not, how far are they apart?

    Which method: ``"mmd"`` is the most sensitive where sequences repeat (few tokens, or nearly deterministic laws) and
    costs least; ``"n-gram"`` looks for local differences at any length; ``"classifier"`` gives a bound in units of TV.

    Args:
        p, q: unweighted samples of one shape, say of an expert and of a learner.
        rng: source of splits and permutations.
        method: ``"classifier"`` (`classifier_test`), ``"n-gram"`` (`ngram_test`) or ``"mmd"`` (`mmd_test`).
        **options: of that test; all of them take ``lengths``, ``confidence`` and ``simultaneous``.

    Returns:
        Estimates, intervals and p-values at every prefix length.

    Raises:
        TypeError, ValueError: an unknown method (the nearest is suggested), or samples or options that do not fit.

    >>> from ntp_envs import collect, make_task
    >>> rng, task = np.random.default_rng(0), make_task("Tightrope", horizon=6)
    >>> two_sample_test(collect(task, 99, rng), collect(task, 99, rng), rng=rng, method="mmd").p_value
    1.0
    """
    test = _TESTS[check_in("method", method, TWO_SAMPLE_METHODS)]
    check_keywords(f"two_sample_test(method={method!r})", options, {*keywords_of(test)} - {"p", "q"})
    return test(p, q, rng=rng, **options)

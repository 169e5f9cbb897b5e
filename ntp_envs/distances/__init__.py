"""Distances between rollout laws at every prefix length."""

from ntp_envs.distances.curve import DistanceCurve, compare_curves
from ntp_envs.distances.exact import automaton_distances, enumeration_distances
from ntp_envs.distances.from_log_probs import (
    SamplingLawWarning,
    distance_from_log_probs,
    one_sided_distance_from_log_probs,
)
from ntp_envs.distances.front import METHODS, approximation_factor, distance, distance_curves
from ntp_envs.distances.metrics import (
    DEFAULT_THRESHOLDS,
    METRICS,
    Metric,
    coverage_bound_hellinger2,
    coverage_bound_kl,
    metric_names,
    register_metric,
)
from ntp_envs.distances.sampled import bridge_distances, monte_carlo_distances, one_sided_distances
from ntp_envs.distances.two_sample import (
    TWO_SAMPLE_METHODS,
    TwoSampleResult,
    classifier_test,
    mmd_test,
    ngram_test,
    two_sample_test,
)
from ntp_envs.intervals import normal_interval, score_interval

__all__ = [
    "DEFAULT_THRESHOLDS",
    "METHODS",
    "METRICS",
    "TWO_SAMPLE_METHODS",
    "DistanceCurve",
    "Metric",
    "SamplingLawWarning",
    "TwoSampleResult",
    "approximation_factor",
    "automaton_distances",
    "bridge_distances",
    "classifier_test",
    "compare_curves",
    "coverage_bound_hellinger2",
    "coverage_bound_kl",
    "distance",
    "distance_curves",
    "distance_from_log_probs",
    "enumeration_distances",
    "metric_names",
    "mmd_test",
    "monte_carlo_distances",
    "ngram_test",
    "normal_interval",
    "one_sided_distance_from_log_probs",
    "one_sided_distances",
    "register_metric",
    "score_interval",
    "two_sample_test",
]

"""Distances between rollout laws at every prefix length."""

from ntp_envs.distances.approximation import approximation_factor
from ntp_envs.distances.automaton import automaton_distances
from ntp_envs.distances.coverage import DEFAULT_THRESHOLDS, coverage_bound_hellinger2, coverage_bound_kl
from ntp_envs.distances.dispatch import METHODS, distance, distance_curves
from ntp_envs.distances.enumeration import enumeration_distances
from ntp_envs.distances.intervals import normal_interval, score_interval
from ntp_envs.distances.monte_carlo import bridge_distances, monte_carlo_distances, one_sided_distances
from ntp_envs.distances.result import METRICS, DistanceCurve
from ntp_envs.distances.two_sample import (
    TWO_SAMPLE_METHODS,
    TwoSampleResult,
    classifier_test,
    mmd_test,
    ngram_test,
    two_sample_test,
)

__all__ = [
    "DEFAULT_THRESHOLDS",
    "METHODS",
    "METRICS",
    "TWO_SAMPLE_METHODS",
    "DistanceCurve",
    "TwoSampleResult",
    "approximation_factor",
    "automaton_distances",
    "bridge_distances",
    "classifier_test",
    "coverage_bound_hellinger2",
    "coverage_bound_kl",
    "distance",
    "distance_curves",
    "enumeration_distances",
    "mmd_test",
    "monte_carlo_distances",
    "ngram_test",
    "normal_interval",
    "one_sided_distances",
    "score_interval",
    "two_sample_test",
]

"""Distances between rollout laws at every prefix length."""

from ntp_envs.distances.approximation import approximation_factor
from ntp_envs.distances.automaton import automaton_distances
from ntp_envs.distances.coverage import DEFAULT_THRESHOLDS, coverage_bound_hellinger2, coverage_bound_kl
from ntp_envs.distances.dispatch import METHODS, distance, distance_curves
from ntp_envs.distances.enumeration import enumeration_distances
from ntp_envs.distances.intervals import normal_interval, score_interval
from ntp_envs.distances.monte_carlo import monte_carlo_distances, one_sided_distances
from ntp_envs.distances.result import METRICS, DistanceCurve

__all__ = [
    "DEFAULT_THRESHOLDS",
    "METHODS",
    "METRICS",
    "DistanceCurve",
    "approximation_factor",
    "automaton_distances",
    "coverage_bound_hellinger2",
    "coverage_bound_kl",
    "distance",
    "distance_curves",
    "enumeration_distances",
    "monte_carlo_distances",
    "normal_interval",
    "one_sided_distances",
    "score_interval",
]

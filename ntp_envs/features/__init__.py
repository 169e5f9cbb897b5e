"""Feature maps of prefixes, for autoregressive linear models. Every map keeps its norms at most 1."""

from ntp_envs.features.base import ContextFeatureMap, FeatureMap, FeatureStates
from ntp_envs.features.combine import CallableFeatures, Concatenated, PairwiseProducts
from ntp_envs.features.position import EpisodeBits, Position, PromptFeatures
from ntp_envs.features.window import FlipSign, WindowOneHot

__all__ = [
    "CallableFeatures",
    "Concatenated",
    "ContextFeatureMap",
    "EpisodeBits",
    "FeatureMap",
    "FeatureStates",
    "FlipSign",
    "PairwiseProducts",
    "Position",
    "PromptFeatures",
    "WindowOneHot",
]

"""Feature maps of prefixes, for autoregressive linear models. Every map keeps its norms at most 1."""

from ntp_envs.features.base import ContextFeatureMap, FeatureMap, FeatureStates
from ntp_envs.features.by_position import ByPosition
from ntp_envs.features.chain import ChainProducts, PrefixSigns
from ntp_envs.features.combine import CallableFeatures, Concatenated, PairwiseProducts
from ntp_envs.features.indicators import IndicatorFeatureMap
from ntp_envs.features.offsets import OffsetsOneHot
from ntp_envs.features.path_star import PathPointers, StarPrompts
from ntp_envs.features.position import EpisodeBits, Position, PromptFeatures
from ntp_envs.features.window import FlipSign, WindowOneHot

__all__ = [
    "ByPosition",
    "CallableFeatures",
    "ChainProducts",
    "Concatenated",
    "ContextFeatureMap",
    "EpisodeBits",
    "FeatureMap",
    "FeatureStates",
    "FlipSign",
    "IndicatorFeatureMap",
    "OffsetsOneHot",
    "PairwiseProducts",
    "PathPointers",
    "Position",
    "PrefixSigns",
    "PromptFeatures",
    "StarPrompts",
    "WindowOneHot",
]

"""Objectives from the neighbouring literature: other things than log-loss that demonstrations can be fitted by."""

from agents.objectives.clipped_ratio import ClippedRatioBC, ClippedRatioLoss
from agents.objectives.reweighted import BoundedLoss, minimise_bounded
from agents.objectives.tailr import TaiLrBC, equivalent_smoothing
from agents.objectives.total_variation import TotalVariationBC

__all__ = [
    "BoundedLoss",
    "ClippedRatioBC",
    "ClippedRatioLoss",
    "TaiLrBC",
    "TotalVariationBC",
    "equivalent_smoothing",
    "minimise_bounded",
]

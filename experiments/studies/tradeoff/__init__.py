"""Compute against statistical power: what longer chunks buy, and what they cost."""

from experiments.studies.tradeoff.analysis import analyse
from experiments.studies.tradeoff.options import TradeoffOptions
from experiments.studies.tradeoff.sweep import cells
from experiments.study import Study

__all__ = ["STUDY"]

STUDY = Study(
    name="tradeoff",
    question="What do longer chunks buy in the approximation factor, and what do they cost in time and memory?",
    options=TradeoffOptions,
    cells=cells,
    analyse=analyse,
    labels=("B",),
)

"""Consistency games: what no next-token learner can do, however much data it has, and what looking further does."""

from experiments.studies.barrier.analysis import analyse
from experiments.studies.barrier.options import BarrierOptions
from experiments.studies.barrier.sweep import cells
from experiments.study import Study

__all__ = ["STUDY"]

STUDY = Study(
    name="barrier",
    question="Does more data help a learner that decides token by token to be consistent over H tokens?",
    options=BarrierOptions,
    cells=cells,
    analyse=analyse,
)

"""A path to plan under teacher forcing, with the targets reversed, and without a teacher."""

from experiments.studies.pathstar.analysis import analyse
from experiments.studies.pathstar.options import PathStarOptions
from experiments.studies.pathstar.sweep import cells
from experiments.study import Study

__all__ = ["STUDY"]

STUDY = Study(
    name="pathstar",
    question="Why does teacher forcing not learn to plan a path, and what do other targets change?",
    options=PathStarOptions,
    cells=cells,
    analyse=analyse,
    labels=("mode", "degree", "hops", "step"),
)

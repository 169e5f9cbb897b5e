"""How ChunkKR behaves numerically as chunks get longer, and where it stops working."""

from experiments.studies.stability.analysis import analyse
from experiments.studies.stability.options import StabilityOptions
from experiments.studies.stability.sweep import cells
from experiments.study import Study

__all__ = ["STUDY"]

STUDY = Study(
    name="stability",
    question="Up to which chunk length K can ChunkKR be trusted, and what breaks first?",
    options=StabilityOptions,
    cells=cells,
    analyse=analyse,
    labels=("rank",),
)

"""Your agents against ours, on any tasks: one table and one figure, on the same demonstrations for all."""

from experiments.studies.compare.analysis import analyse
from experiments.studies.compare.options import CompareOptions
from experiments.studies.compare.sweep import SEED, cells
from experiments.study import Study

__all__ = ["STUDY"]

STUDY = Study(
    name="compare",
    question="Which of these agents ends up closest to the expert, and at what cost?",
    options=CompareOptions,
    cells=cells,
    analyse=analyse,
    labels=(SEED,),
)

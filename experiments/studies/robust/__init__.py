"""Do the robust variants of next-token prediction - smoothing, cross-validation - close the gap?"""

from experiments.studies.robust.analysis import analyse
from experiments.studies.robust.options import RobustOptions
from experiments.studies.robust.sweep import cells
from experiments.study import Study

__all__ = ["STUDY"]

STUDY = Study(
    name="robust",
    question="Do smoothing and cross-validation bridge the gap between next-token log-loss and longer units?",
    options=RobustOptions,
    cells=cells,
    analyse=analyse,
    labels=("lam",),
)

"""The headline: how log-loss, chunked and sequence-level learners amplify misspecification as the horizon grows."""

from experiments.studies.amplification.analysis import analyse
from experiments.studies.amplification.options import AmplificationOptions
from experiments.studies.amplification.sweep import cells
from experiments.study import Study

__all__ = ["STUDY"]

STUDY = Study(
    name="amplification",
    question="How much does each learner amplify misspecification as the horizon H grows?",
    options=AmplificationOptions,
    cells=cells,
    analyse=analyse,
)

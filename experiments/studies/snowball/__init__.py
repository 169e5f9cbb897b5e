"""Failure in execution against failure in learning: what a verifier repairs, and what it does not."""

from experiments.studies.snowball.analysis import analyse
from experiments.studies.snowball.options import SnowballOptions
from experiments.studies.snowball.sweep import cells
from experiments.study import Study

__all__ = ["STUDY"]

STUDY = Study(
    name="snowball",
    question="Which failures of a next-token predictor does a verifier with backtracking repair?",
    options=SnowballOptions,
    cells=cells,
    analyse=analyse,
    labels=("decoding", "degree", "budget"),
)

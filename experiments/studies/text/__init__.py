"""Real text: how far free-running learners drift from the expert, and what learning on whole sequences changes."""

from experiments.studies.text.analysis import analyse
from experiments.studies.text.options import TextOptions
from experiments.studies.text.sweep import cells
from experiments.study import Study

__all__ = ["STUDY"]

STUDY = Study(
    name="text",
    question="How fast does a next-token learner's own text drift from the expert's, on real text?",
    options=TextOptions,
    cells=cells,
    analyse=analyse,
    labels=("kind", "size", "prompt", "text", "sha256"),
    reads=("corpus",),
)

"""An evaluation as records of a study: by position under the label ``h``, and as a whole."""

from __future__ import annotations

from collections.abc import Mapping

from experiments.study import Label, Record
from ntp_envs.evaluation import Evaluation
from ntp_envs.evaluation.result import BY_POSITION

__all__ = ["evaluation_records"]


def evaluation_records(evaluation: Evaluation, labels: Mapping[str, Label]) -> list[Record]:
    """Every measure of an `Evaluation` with its 95 % interval.

    Args:
        evaluation: what `ntp_envs.evaluation.evaluate` returned.
        labels: its place in the sweep. Measures by position (``forced_accuracy``, ...) get the label ``h`` in
            addition, from 1; measures of the whole (``forced_exact``, ``mean_cross_entropy``, ...) do not. Labels
            outside `experiments.study.LABELS` must be named in ``Study.labels``.

    Returns:
        Records; success is left out where the task has none.

    >>> import numpy as np
    >>> from ntp_envs import UniformPolicy, make_task
    >>> from ntp_envs.evaluation import evaluate
    >>> task = make_task("Contamination", horizon=4)
    >>> records = evaluation_records(evaluate(UniformPolicy(2), task, n=9, rng=np.random.default_rng(0)), {"H": 4})
    >>> records[0].metric, records[0].labels
    ('forced_accuracy', {'H': 4, 'h': 1})
    """
    method = f"evaluation, n={evaluation.n}"
    records = []
    for name in BY_POSITION:
        lower, upper = evaluation.interval(name)
        for h, value in enumerate(getattr(evaluation, name)):
            place = {**labels, "h": h + 1}
            records.append(Record(name, float(value), place, float(lower[h]), float(upper[h]), method))
    for row in evaluation.totals():
        records.append(Record(row["measure"], row["value"], labels, row["lower"], row["upper"], method))
    return records

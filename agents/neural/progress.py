"""How far a training run is: a bar, a function of yours, or nothing."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

__all__ = ["Report", "reporting"]

#: called after every step with the step, its loss (nats a sequence) and the speed (tokens a second)
Report = Callable[[int, float, float], None]


@contextmanager
def reporting(progress: bool | Report, *, start: int, steps: int, tokens_per_step: int) -> Iterator[Any]:
    """Gives a function of (step, loss), to be called after every step.

    Args:
        progress: ``False`` is silence, ``True`` a bar on standard error, or a function of your own: see `Report`.
        start: steps already done.
        steps: of the whole run.
        tokens_per_step: target tokens in a batch.
    """
    if not isinstance(progress, bool) and not callable(progress):
        raise TypeError(f"progress={progress!r} must be True, False or a function of (step, loss, tokens a second).")
    if progress is False:
        yield lambda step, loss: None
        return
    begun = time.perf_counter()

    def speed(step: int) -> float:
        return (step - start) * tokens_per_step / max(time.perf_counter() - begun, 1e-9)

    if progress is not True:
        yield lambda step, loss: progress(step, loss, speed(step))
        return
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (BarColumn(), MofNCompleteColumn(), TextColumn("{task.description}"), TimeRemainingColumn())
    with Progress(*columns, console=Console(stderr=True)) as bar:
        row = bar.add_task("", total=steps, completed=start)
        yield lambda step, loss: bar.update(
            row, completed=step, description=f"loss {loss:.4f} nats a sequence, {speed(step):,.0f} tokens/s"
        )

"""Runs cells on any ``concurrent.futures.Executor`` and hands over each result as it comes.

Local processes are the default. Dask (``Client.get_executor()``) or submitit for Slurm go in at the same place:
`run_cells` asks nothing of an executor but ``submit``.
"""

from __future__ import annotations

import hashlib
import multiprocessing
import shutil
import signal
import tempfile
import time
import traceback
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import FIRST_COMPLETED, Executor, Future, ProcessPoolExecutor, wait
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from experiments.store import CellResult
from experiments.study import Cell, cell_rng
from experiments.threads import one_thread

__all__ = ["InlineExecutor", "local_executor", "run_cell", "run_cells"]


def run_cell(cell: Cell, study: str, seed: int, checkpoints: Path | None = None) -> CellResult:
    """Run one cell, on one thread; an exception becomes a result with its traceback.

    A cell that wants a scratch folder has the one of its name in ``checkpoints``, or a temporary one.
    """
    start = time.perf_counter()
    try:
        with one_thread(), _scratch(cell, checkpoints) as extra:
            records = tuple(cell.function(**cell.parameters, **extra, rng=cell_rng(seed, study, cell)))
        error = None
    except Exception:
        records, error = (), traceback.format_exc()
    return CellResult(cell.key, records, error, time.perf_counter() - start)


@contextmanager
def _scratch(cell: Cell, checkpoints: Path | None) -> Iterator[dict[str, Path]]:
    """The cell's folder as a keyword argument; it survives an exception, and is removed otherwise."""
    if not cell.scratch:
        yield {}
    elif checkpoints is None:
        with tempfile.TemporaryDirectory() as folder:
            yield {"scratch": Path(folder)}
    else:
        own = checkpoints / hashlib.sha256(cell.key.encode()).hexdigest()[:16]
        own.mkdir(parents=True, exist_ok=True)
        yield {"scratch": own}
        shutil.rmtree(own, ignore_errors=True)
        with suppress(OSError):  # another cell's folder is still in it
            checkpoints.rmdir()


class InlineExecutor(Executor):
    """Runs each call at once, in this process: one worker, easy to debug."""

    def submit(self, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Future[Any]:
        future: Future[Any] = Future()
        future.set_result(fn(*args, **kwargs))
        return future


def _ignore_interrupt() -> None:
    """Ctrl-C reaches every process of the terminal; only the parent acts on it."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)


@contextmanager
def local_executor(workers: int) -> Iterator[Executor]:
    """An executor of this machine: in this process for one worker, else that many new processes.

    On an exception - Ctrl-C included - cells that have not started are dropped and the processes are stopped at once.
    """
    if workers == 1:
        yield InlineExecutor()
        return
    context = multiprocessing.get_context("spawn")
    pool = ProcessPoolExecutor(workers, mp_context=context, initializer=_ignore_interrupt)
    try:
        yield pool
    except BaseException:
        processes = list((getattr(pool, "_processes", None) or {}).values())
        manager = getattr(pool, "_executor_manager_thread", None)
        pool.shutdown(wait=False, cancel_futures=True)
        for process in processes:
            process.terminate()
        for process in processes:
            process.join(timeout=5.0)
        if manager is not None:  # it closes a pipe that the interpreter, when it ends, writes to while it is alive
            manager.join(timeout=5.0)
        raise
    pool.shutdown()


def run_cells(
    cells: Iterable[Cell],
    *,
    study: str,
    seed: int,
    executor: Executor,
    on_result: Callable[[Cell, CellResult], None],
    checkpoints: Path | None = None,
    in_flight: int = 64,
) -> None:
    """Run every cell and call ``on_result`` in this process, in the order they finish.

    Args:
        cells: independent of each other.
        study: name, which enters the seeds.
        seed: of the run.
        executor: where they run.
        on_result: keeps the result.
        checkpoints: folder that holds the scratch folders of cells that want one.
        in_flight: cells given to the executor and not yet back, at most; an `InlineExecutor` gets one at a time.
    """
    limit = 1 if isinstance(executor, InlineExecutor) else in_flight
    pending: dict[Future[CellResult], Cell] = {}

    def collect_finished() -> None:
        for future in wait(pending, return_when=FIRST_COMPLETED).done:
            cell = pending.pop(future)
            try:
                result = future.result()
            except Exception as error:  # a worker died, or the cell could not be sent to it
                result = CellResult(cell.key, (), f"the worker was lost: {error!r}", 0.0)
            on_result(cell, result)

    try:
        for cell in cells:
            try:
                pending[executor.submit(run_cell, cell, study, seed, checkpoints)] = cell
            except RuntimeError as error:  # a pool that broke takes no more work
                on_result(cell, CellResult(cell.key, (), f"the executor takes no more cells: {error!r}", 0.0))
            while len(pending) >= limit:
                collect_finished()
        while pending:
            collect_finished()
    finally:
        for future in pending:  # none are left unless an exception is on its way, such as Ctrl-C
            future.cancel()

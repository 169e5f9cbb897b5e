"""Where cells run: in this process, in processes of this machine, or on any other executor; and what is done when a
worker is lost. `run_cells` asks nothing of an executor but ``submit``. `experiments.clusters` has Dask and Slurm.
"""

from __future__ import annotations

import multiprocessing
import os
import shutil
import signal
import tempfile
import threading
import time
import traceback
import uuid
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import FIRST_COMPLETED, Executor, Future, ProcessPoolExecutor, wait
from contextlib import AbstractContextManager, contextmanager, suppress
from pathlib import Path
from typing import Any

from experiments.cells import Cell, CellResult, cell_rng
from experiments.fingerprints import digest
from experiments.threads import one_thread

#: a cell whose worker is lost is run so many times more
AGAIN = 2

# -- one cell ----------------------------------------------------------------------------------------------------------


#: the folder that holds the scratch folders of cells, or what makes a cell's own
Folders = Path | Callable[[], AbstractContextManager[Path]]


def run_cell(cell: Cell, study: str, seed: int, checkpoints: Folders | None = None) -> CellResult:
    """Run one cell, on one thread; an exception becomes a result with its traceback.

    A cell that wants a scratch folder has its own in ``checkpoints``, or a temporary one, which may be sent back.
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
def _scratch(cell: Cell, checkpoints: Folders | None) -> Iterator[dict[str, Path]]:
    """The cell's folder as a keyword argument; it survives an exception, and is removed otherwise."""
    if not cell.scratch:
        yield {}
    elif checkpoints is None:
        with tempfile.TemporaryDirectory() as folder:
            yield {"scratch": Path(folder)}
    elif isinstance(checkpoints, Path):
        own = taken(cell, checkpoints)
        yield {"scratch": own}
        shutil.rmtree(own, ignore_errors=True)
        with suppress(OSError):  # another cell's folder is still in it
            checkpoints.rmdir()
    else:
        with checkpoints() as own:
            yield {"scratch": own}


def taken(cell: Cell, checkpoints: Path) -> Path:
    """The cell's folder under a name that nobody else has: a worker that was taken for lost and lives has none now."""
    own = checkpoints / f"{mark_of(cell)}-{uuid.uuid4().hex[:8]}"
    for there in sorted(checkpoints.glob(f"{mark_of(cell)}*")):
        with suppress(OSError):
            there.rename(own)
            return own
    own.mkdir(parents=True)
    return own


def mark_of(cell: Cell) -> str:
    return digest(cell.key)


# -- on this machine ---------------------------------------------------------------------------------------------------


class InlineExecutor(Executor):
    """Runs each call at once, in this process: one worker, easy to debug."""

    def submit(self, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Future[Any]:
        future: Future[Any] = Future()
        future.set_result(fn(*args, **kwargs))
        return future


def _begin_worker() -> None:
    """Ctrl-C reaches every process of the terminal, and only the parent acts on it; no worker outlives its parent."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    parent = multiprocessing.parent_process()

    def watch() -> None:
        if parent is not None:
            parent.join()
            os._exit(1)

    threading.Thread(target=watch, daemon=True).start()


class LocalPool(Executor):
    """So many processes of this machine; `renew` replaces those of a pool that broke, as it does when one dies."""

    def __init__(self, workers: int) -> None:
        self.workers = workers
        self._context = multiprocessing.get_context("spawn")
        self._others = set(multiprocessing.active_children())
        self.renew()

    def renew(self) -> None:
        self._pool = ProcessPoolExecutor(self.workers, mp_context=self._context, initializer=_begin_worker)

    def submit(self, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Future[Any]:
        return self._pool.submit(fn, *args, **kwargs)

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        self._pool.shutdown(wait, cancel_futures=cancel_futures)

    def stop(self) -> None:
        """Drop what has not started, and stop the processes at once."""
        # the pool may not know one yet that was being started when Ctrl-C came; Python would wait for it for ever
        processes = set(multiprocessing.active_children()) - self._others
        manager = getattr(self._pool, "_executor_manager_thread", None)
        self._pool.shutdown(wait=False, cancel_futures=True)
        for process in processes:
            process.terminate()
        for process in processes:
            process.join(timeout=5.0)
        if manager is not None:  # it closes a pipe that the interpreter, when it ends, writes to while it is alive
            manager.join(timeout=5.0)


@contextmanager
def local_executor(workers: int) -> Iterator[Executor]:
    """An executor of this machine: in this process for one worker, else that many new processes.

    On an exception - Ctrl-C included - cells that have not started are dropped and the processes are stopped at once.
    """
    if workers == 1:
        yield InlineExecutor()
        return
    if multiprocessing.current_process().daemon:
        raise ValueError(f"workers={workers} in a daemonic process, which may have no children; use workers=1 here.")
    pool = LocalPool(workers)
    try:
        yield pool
    except BaseException:
        pool.stop()
        raise
    pool.shutdown()


# -- all cells ---------------------------------------------------------------------------------------------------------


class WorkerRefused(ValueError):
    """A worker that would not compute the same numbers; the message says what differs and what to do."""


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

    A cell whose worker is lost is run again, `AGAIN` times; then it has failed, and the others go on. Of an executor
    nothing is asked but ``submit``. It may have ``submit_cell`` to send a cell in its own way, a number of cells that
    it takes ``at_once``, and ``renew`` where it breaks as a whole when a worker dies: cells that were in it then run
    again one by one, which shows whose fault it was.

    Args:
        cells: independent of each other.
        study: name, which enters the seeds.
        seed: of the run.
        executor: where they run.
        on_result: keeps the result.
        checkpoints: folder that holds the scratch folders of cells that want one.
        in_flight: cells given to the executor and not yet back, at most; an `InlineExecutor` gets one at a time.

    Raises:
        WorkerRefused: a worker on another machine is not fit for the work.
    """
    limit = 1 if isinstance(executor, InlineExecutor) else getattr(executor, "at_once", in_flight)
    renew: Callable[[], None] | None = getattr(executor, "renew", None)
    pending: dict[Future[CellResult], Cell] = {}
    lost: list[tuple[Cell, Exception]] = []
    losses: Counter[str] = Counter()

    def submit(cell: Cell) -> None:
        try:
            if (own := getattr(executor, "submit_cell", None)) is not None:
                pending[own(cell, study, seed)] = cell
            else:
                pending[executor.submit(run_cell, cell, study, seed, checkpoints)] = cell
        except RuntimeError as error:  # a pool that broke takes no more work
            lost.append((cell, error))

    def collect_finished() -> None:
        refused: list[WorkerRefused] = []
        for future in wait(pending, return_when=FIRST_COMPLETED).done:
            cell = pending.pop(future)
            try:
                result = future.result()
            except WorkerRefused as error:
                refused.append(error)
            except Exception as error:  # a worker died, perhaps another's, or the cell could not be sent to it
                lost.append((cell, error))
            else:
                on_result(cell, result)
        if refused:
            raise refused[0]

    def run_lost() -> None:
        if renew is not None:
            while pending:
                collect_finished()
            renew()
        while lost:
            cell, error = lost.pop()
            losses[cell.key] += 1
            if losses[cell.key] > AGAIN:
                why = f"the worker was lost, and another {AGAIN} times when the cell was run again: {error!r}"
                on_result(cell, CellResult(cell.key, (), why, 0.0))
                continue
            submit(cell)
            if renew is not None:
                while pending:
                    collect_finished()
                if any(again is cell for again, _ in lost):
                    renew()

    try:
        for cell in cells:
            submit(cell)
            while len(pending) >= limit:
                collect_finished()
            if lost:
                run_lost()
        while pending or lost:
            if pending:
                collect_finished()
            if lost:
                run_lost()
    finally:
        for future in pending:  # none are left unless an exception is on its way, such as Ctrl-C
            future.cancel()

"""Where cells run: in this process, in local processes, or on any other executor; and what is done about lost workers.

`run_cells` asks nothing of an executor but ``submit``.
"""

from __future__ import annotations

import hashlib
import multiprocessing
import os
import shutil
import signal
import tempfile
import threading
import time
import traceback
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import FIRST_COMPLETED, Executor, Future, ProcessPoolExecutor, wait
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from experiments.cells import Cell, CellResult, cell_rng
from experiments.threads import one_thread


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
    pool = LocalPool(workers)
    try:
        yield pool
    except BaseException:
        pool.stop()
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

    A cell whose worker is lost is run once more, alone; if that worker is lost too, the cell has failed, and the others
    go on. Of an executor nothing is asked but ``submit``, and ``renew`` where it has that and may break as a whole.

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
    lost: list[Cell] = []

    def submit(cell: Cell) -> Future[CellResult]:
        return executor.submit(run_cell, cell, study, seed, checkpoints)

    def collect_finished() -> None:
        for future in wait(pending, return_when=FIRST_COMPLETED).done:
            cell = pending.pop(future)
            try:
                result = future.result()
            except Exception:  # a worker died, perhaps another's, or the cell could not be sent to it
                lost.append(cell)
            else:
                on_result(cell, result)

    def run_lost() -> None:
        while pending:
            collect_finished()
        renew = getattr(executor, "renew", lambda: None)
        renew()
        while lost:
            cell = lost.pop()
            try:
                result = submit(cell).result()
            except Exception as error:
                renew()
                again = f"the worker was lost, and another one when the cell was run again alone: {error!r}"
                result = CellResult(cell.key, (), again, 0.0)
            on_result(cell, result)

    try:
        for cell in cells:
            try:
                pending[submit(cell)] = cell
            except RuntimeError:  # a pool that broke takes no more work
                lost.append(cell)
            while len(pending) >= limit:
                collect_finished()
            if lost:
                run_lost()
        while pending:
            collect_finished()
        if lost:
            run_lost()
    finally:
        for future in pending:  # none are left unless an exception is on its way, such as Ctrl-C
            future.cancel()

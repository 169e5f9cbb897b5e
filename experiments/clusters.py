"""Cells on many machines: the workers of a Dask scheduler, or Slurm jobs; `docs/cluster.md` shows both.

A worker elsewhere has files of its own. It computes nothing before it has seen that its code, versions and the files
that cells read are those of the process that asks.
"""

from __future__ import annotations

import dataclasses
import getpass
import io
import itertools
import os
import pickle
import platform
import shutil
import signal
import socket
import subprocess
import tempfile
import threading
import time
import uuid
import zipfile
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import Executor, Future
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import lru_cache, partial
from pathlib import Path
from typing import Any, Literal

from experiments.cells import Cell, CellResult, write_whole
from experiments.executors import Folders, WorkerRefused, local_executor, mark_of, run_cell
from experiments.fingerprints import code_behind, digest, distribution_version, file_hash, look_again, written_since
from experiments.threads import kernels
from ntp_envs.checks import check_int, check_real, import_extra
from ntp_envs.saved import UNFINISHED

PACKAGES = ("numpy", "scipy", "gymnasium", "ntp-envs")
INSTALL = 'pip install "ntp-envs[cluster]"'
#: seconds between two looks of a worker at a scratch folder that it sends back
SEND_EVERY = 10.0
#: seconds after which a Slurm job ends that has had no sign of life from the run, and between two of them
LEASE, BEAT = 30.0, 3.0
_LOADED = time.time()  # before this process imports the code of any cell

# -- what a worker elsewhere must have ---------------------------------------------------------------------------------


@lru_cache(maxsize=1)
def versions() -> Mapping[str, str]:
    """Of Python, and of the packages that every number hangs on."""
    return {"python": platform.python_version(), **{name: distribution_version(name) for name in PACKAGES}}


def code_of_cells(cells: Iterable[Cell]) -> dict[str, dict[str, str]]:
    """What code makes each cell, by key; read once for all cells of one function and one `Cell.code`."""
    look_again()
    known: dict[Any, dict[str, str]] = {}
    return {cell.key: _code_of(cell, known) for cell in cells}


def _code_of(cell: Cell, known: dict[Any, dict[str, str]]) -> dict[str, str]:
    function = f"{cell.function.__module__}:{cell.function.__qualname__.partition('.')[0]}"
    if (function, cell.code) not in known:
        named = cell.code is None
        known[function, cell.code] = code_behind(cell.code or (), parts=(function,), through_names=named)
    return known[function, cell.code]


_code_here: dict[Any, dict[str, str]] = {}  # of this process, as it was when it was first asked for


@lru_cache(maxsize=256)
def _hash_of(name: str, written: float) -> str:
    return file_hash(name)


def _hash_here(name: str) -> str:
    path = os.path.expanduser(name)
    return _hash_of(name, os.path.getmtime(path)) if os.path.exists(path) else file_hash(name)


@dataclass(frozen=True)
class Needs:
    """What must be on a worker as it is here.

    Attributes:
        versions: see `versions`.
        files: the hash of every file that cells read, by name.
        code: what makes each cell, by key.
    """

    versions: Mapping[str, str]
    files: Mapping[str, str]
    code: Mapping[str, Mapping[str, str]]

    def of(self, cell: Cell) -> Needs:
        return dataclasses.replace(self, code={cell.key: self.code[cell.key]})

    def check(self, cell: Cell, checkpoints: Folders | None = None) -> None:
        """Raise `WorkerRefused` if this process would compute something else."""
        code = self.code[cell.key]
        there = {name: _hash_here(name) for name in self.files}
        found = [
            *_differing(versions(), self.versions),
            *_differing(_code_of(cell, _code_here), code),
            *_differing(there, self.files),
            *(f"{name} was written since the worker was started" for name in written_since(code, _LOADED)),
        ]
        host = socket.gethostname()
        if found:
            more = [f"and {len(found) - 5} more"] if len(found) > 5 else []
            raise WorkerRefused(
                f"a worker on {host} would compute something else: {'; '.join([*found[:5], *more])}. Put the same "
                "versions and files there, and start the workers anew. What is finished is kept."
            )
        if cell.scratch and isinstance(checkpoints, Path) and not checkpoints.parent.is_dir():
            raise WorkerRefused(
                f"a worker on {host} does not see the folder {checkpoints.parent}: choose one with --out that all "
                "machines share, or let workers send their checkpoints with --no-shared-files."
            )


def _differing(there: Mapping[str, str], here: Mapping[str, str]) -> list[str]:
    names = [name for name in sorted({*there, *here}) if there.get(name) != here.get(name)]
    return [
        f"{name} is {there.get(name, 'missing')[:16]} there, {here.get(name, 'missing')[:16]} here" for name in names
    ]


def run_elsewhere(cell: Cell, study: str, seed: int, checkpoints: Folders | None, needs: Needs) -> CellResult:
    """`run_cell` in a process of another machine; raises `WorkerRefused` if that would give other numbers."""
    needs.check(cell, checkpoints)
    return dataclasses.replace(run_cell(cell, study, seed, checkpoints), kernels=tuple(kernels()))


def _call(payload: bytes) -> Any:
    """Call what was pickled as ``(function, *arguments)``; raises `WorkerRefused` if that needs what is not here."""
    try:
        function, *arguments = pickle.loads(payload)
    except (ImportError, AttributeError) as error:
        raise WorkerRefused(
            f"a worker on {socket.gethostname()} cannot import what it needs ({error}). Install the same there, or "
            "start the workers with the same PYTHONPATH."
        ) from error
    return function(*arguments)


# -- Dask --------------------------------------------------------------------------------------------------------------


def packed(folder: Path) -> bytes:
    """All finished files of a folder as a zip archive; ``OSError`` if one changes meanwhile."""
    before, content = _state(folder), io.BytesIO()
    with zipfile.ZipFile(content, "w") as archive:
        for name in before:
            archive.write(folder / name, name)
    if _state(folder) != before:
        raise OSError(f"{folder} changed while it was read")
    return content.getvalue()


def _state(folder: Path) -> dict[str, tuple[int, int]]:
    files = [path for path in sorted(folder.rglob("*")) if path.is_file() and not path.name.startswith(UNFINISHED)]
    return {str(file.relative_to(folder)): (file.stat().st_size, file.stat().st_mtime_ns) for file in files}


def _unpack(content: bytes, folder: Path) -> None:
    with zipfile.ZipFile(io.BytesIO(content)) as archive:
        archive.extractall(folder)


@dataclass(frozen=True)
class Sent:
    """Makes the scratch folder of a cell from bytes, and sends it back as bytes whenever it has changed.

    Attributes:
        mark: of the cell.
        content: see `packed`; ``None`` for a new folder.
        queue: name of the `distributed.Queue`.
        every: seconds between two looks; what was written since the last one is lost with the worker.
    """

    mark: str
    content: bytes | None
    queue: str
    every: float

    @contextmanager
    def folder(self) -> Iterator[Path]:
        import distributed

        queue = distributed.Queue(self.queue, client=distributed.get_client())
        with tempfile.TemporaryDirectory() as place:
            own, stop = Path(place), threading.Event()
            if self.content is not None:
                _unpack(self.content, own)
            sent = _state(own)

            def send() -> None:
                nonlocal sent
                with suppress(OSError):  # it is being written to: next time
                    if (now := _state(own)) != sent:
                        queue.put((self.mark, packed(own)))
                        sent = now

            def look() -> None:
                while not stop.wait(self.every):
                    send()

            thread = threading.Thread(target=look, daemon=True)
            thread.start()
            try:
                yield own
            except BaseException:
                send()
                raise
            finally:
                stop.set()
                thread.join()


class _Once:
    """Makes a call when it is unpickled, so that Dask's scheduler, which is sent bytes, needs no code of ours.

    It makes no second one: when a worker dies Dask calls elsewhere what it was given, and we may know more by then.
    """

    def __init__(self, payload: bytes) -> None:
        self.arguments = (uuid.uuid4().hex, payload)

    def __reduce__(self) -> Any:
        return _call_once, self.arguments


def _call_once(mark: str, payload: bytes) -> Any:
    import distributed

    begun = distributed.Event(mark, client=distributed.get_client())
    if begun.is_set():
        raise RuntimeError("the worker died")
    begun.set()
    try:
        return _call(payload)
    finally:
        begun.clear()


class DaskPool(Executor):
    """The workers of a Dask scheduler.

    Args:
        address: of the scheduler, such as ``"tcp://10.0.0.1:8786"``.
        folder: of the run.
        needs: see `Needs`.
        at_once: cells given to Dask and not yet back, at most; by default two for every thread of the workers.
        shared: the workers see ``folder``. If not, they send what is in scratch folders.

    Raises:
        OSError: nobody answers, or there is no worker.
        WorkerRefused: a worker has other versions, or cannot import ntp-envs.
    """

    def __init__(
        self, address: str, folder: Path, needs: Needs, *, at_once: int | None = None, shared: bool = True
    ) -> None:
        distributed = import_extra("distributed", what="--executor dask", install=INSTALL)
        self.address, self.needs, self.shared = address, needs, shared
        self.checkpoints = (folder / "checkpoints").absolute()
        try:
            self._client = distributed.Client(address, timeout=10, set_as_default=False)
        except (OSError, ValueError) as error:
            raise OSError(f"no Dask scheduler answers at {address} ({error})") from error
        try:
            self._greet()
        except BaseException:
            self._client.close()
            raise
        self.at_once = at_once or max(2 * sum(self._client.nthreads().values()), 8)
        self._executor = self._client.get_executor(pure=False)
        self._queue = distributed.Queue(f"ntp-bench-{digest(str(self.checkpoints))}", client=self._client)
        self._lock, self._closing = threading.Lock(), threading.Event()
        self._done: set[str] = set()
        self._thread = threading.Thread(target=self._receive, daemon=True)
        if not shared:
            self._thread.start()

    def _greet(self) -> None:
        try:
            self._client.wait_for_workers(1, timeout=30)
            there = self._client.run(versions)
        except TimeoutError as error:
            raise OSError(f"the Dask scheduler at {self.address} has no workers") from error
        except Exception as error:  # whatever a worker raises that cannot import this module
            raise WorkerRefused(
                f"the workers of {self.address} cannot use ntp-envs ({error!r}); install it there."
            ) from error
        for worker, found in there.items():
            if differing := _differing(found, self.needs.versions):
                raise WorkerRefused(f"the worker {worker} would compute something else: {'; '.join(differing)}.")

    def submit_cell(self, cell: Cell, study: str, seed: int) -> Future[CellResult]:
        folders: Folders = self.checkpoints
        if not self.shared:
            folders = Sent(mark_of(cell), self._kept(cell), self._queue.name, SEND_EVERY).folder
        future = self.submit(run_elsewhere, cell, study, seed, folders, self.needs.of(cell))
        if not self.shared:
            future.add_done_callback(lambda done: self._forget(cell, done))
        return future

    def submit(self, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Future[Any]:
        if self._client.status != "running":
            raise OSError(f"the Dask scheduler at {self.address} is gone")
        return self._executor.submit(pickle.loads, pickle.dumps(_Once(pickle.dumps((partial(fn, **kwargs), *args)))))

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        """Leave the scheduler, which drops what it has of this run; workers finish the cell that they are in."""
        self._closing.set()
        if not self.shared:
            self._thread.join(timeout=30.0)
        self._client.close()

    # what workers sent of their scratch folders is kept as a run here keeps them: either can go on

    def _kept(self, cell: Cell) -> bytes | None:
        with self._lock:
            there = sorted(self.checkpoints.glob(f"{mark_of(cell)}*"))
            return packed(there[0]) if there else None

    def _receive(self) -> None:
        while True:
            try:
                mark, content = self._queue.get(timeout=0.5)
            except Exception:  # nothing came, or the scheduler is gone, which others will say
                if self._closing.is_set() or self._client.status != "running":
                    return
                continue
            with self._lock:
                if mark not in self._done:
                    new = self.checkpoints / f"new-{mark}"
                    shutil.rmtree(new, ignore_errors=True)
                    _unpack(content, new)
                    self._remove(mark)
                    new.rename(self.checkpoints / mark)

    def _forget(self, cell: Cell, done: Future[CellResult]) -> None:
        if not done.cancelled() and done.exception() is None and done.result().error is None:
            with self._lock:
                self._done.add(mark_of(cell))
                self._remove(mark_of(cell))
                with suppress(OSError):  # another cell's folder is still in it
                    self.checkpoints.rmdir()

    def _remove(self, mark: str) -> None:
        for there in self.checkpoints.glob(f"{mark}*"):
            shutil.rmtree(there, ignore_errors=True)


# -- Slurm -------------------------------------------------------------------------------------------------------------


def _in_job(beat: Path, payload: bytes) -> Any:
    """`_call` in a Slurm job, which ends when it is told to and when the run that asked does not live."""
    signal.signal(signal.SIGTERM, signal.SIG_DFL)  # submitit ignores it, and scancel would wait half a minute
    threading.Thread(target=_end_when_still, args=(beat,), daemon=True).start()
    try:
        return _call(payload)
    except WorkerRefused as refused:  # submitit would make it a text
        return refused


def _end_when_still(beat: Path) -> None:
    """End this process when a file stays as it is; clocks of two machines are not compared."""
    seen, since = "", time.monotonic()
    while time.monotonic() - since < LEASE:
        now = seen
        with suppress(OSError):
            now = beat.read_text()
        if now != seen:
            seen, since = now, time.monotonic()
        time.sleep(BEAT)
    os._exit(1)


class SlurmPool(Executor):
    """A Slurm job for every cell, through submitit. Jobs that a killed run in this folder has left are cancelled.

    Args:
        folder: of the run; seen by all nodes.
        needs: see `Needs`.
        jobs: folder for what jobs are sent and give back; ``folder / "slurm"`` by default.
        partition: Slurm's default if empty.
        minutes: that a job may take.
        memory: of a job, in gigabytes.
        at_once: jobs that wait or run at the same time, at most.

    Raises:
        OSError: there is no Slurm here.
    """

    def __init__(
        self,
        folder: Path,
        needs: Needs,
        *,
        jobs: Path | None = None,
        partition: str = "",
        minutes: int = 60,
        memory: float = 4.0,
        at_once: int | None = None,
    ) -> None:
        submitit = import_extra("submitit", what="--executor slurm", install=INSTALL)
        for command in ("sbatch", "srun", "squeue", "scancel"):
            if shutil.which(command) is None:
                raise OSError(
                    f"--executor slurm needs {command}; start the run on a machine from which jobs are submitted"
                )
        self.needs, self.at_once, self.checkpoints = needs, at_once or 16, (folder / "checkpoints").absolute()
        self.name = f"ntp-bench-{digest(str(folder.absolute()))}"
        self.folder = (jobs or folder).absolute() / ("slurm" if jobs is None else self.name)
        self._cancel()
        shutil.rmtree(self.folder, ignore_errors=True)
        self.folder.mkdir(parents=True)
        self._executor = submitit.SlurmExecutor(self.folder)
        asked: dict[str, Any] = {"job_name": self.name, "time": minutes, "cpus_per_task": 1}
        asked |= {"mem": f"{round(1024 * memory)}M", **({"partition": partition} if partition else {})}
        self._executor.update_parameters(**asked, signal_delay_s=30)  # so long before its end a job is told so
        self._jobs: dict[str, tuple[Any, Future[Any]]] = {}
        self._lock, self._closing = threading.Lock(), threading.Event()
        self._unseen: Counter[str] = Counter()
        self._thread = threading.Thread(target=self._watch, daemon=True)
        self._thread.start()

    def submit_cell(self, cell: Cell, study: str, seed: int) -> Future[CellResult]:
        return self.submit(run_elsewhere, cell, study, seed, self.checkpoints, self.needs.of(cell))

    def submit(self, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Future[Any]:
        future: Future[Any] = Future()
        payload = pickle.dumps((partial(fn, **kwargs), *args))
        for tries in range(3):  # a controller that is busy says no now and then
            try:
                job = self._executor.submit(_in_job, self.folder / "beat", payload)
                break
            except Exception as error:  # kinds of submitit's own
                if tries == 2:
                    raise OSError(f"Slurm does not take the job ({_last_line(error)})") from error
                time.sleep(1.0 + tries)
        with self._lock:
            self._jobs[job.job_id] = (job, future)
        return future

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        """Cancel the jobs that are left, and see that they are gone."""
        self._closing.set()
        self._thread.join(timeout=30.0)
        if self._jobs:
            self._cancel()
        shutil.rmtree(self.folder, ignore_errors=True)

    def _cancel(self) -> None:
        subprocess.run(
            ["scancel", f"--name={self.name}", f"--user={getpass.getuser()}"], check=False, capture_output=True
        )
        deadline = time.monotonic() + 60.0
        while self._queued() and time.monotonic() < deadline:
            time.sleep(0.2)

    def _queued(self) -> set[str] | None:
        """Jobs that wait, run or come to their end; ``None`` where Slurm does not say."""
        try:
            asked = ["squeue", "--noheader", "--format=%i", f"--name={self.name}"]
            return set(subprocess.run(asked, check=True, capture_output=True, text=True, timeout=10.0).stdout.split())
        except (OSError, subprocess.SubprocessError):
            return None

    def _watch(self) -> None:
        for beat in itertools.count():
            with suppress(OSError):
                write_whole(self.folder / "beat", str(beat))
            for _ in range(round(BEAT / 0.2)):
                self._give_out()
                if self._closing.wait(0.2):
                    return
            with self._lock:
                waiting = set(self._jobs)
            if waiting and (queued := self._queued()) is not None:
                self._unseen.update(waiting - queued)
                for job_id in waiting - queued:
                    if self._unseen[job_id] > 1:  # twice: a result may be seen here later than its job's end
                        self._lose(job_id)

    def _give_out(self) -> None:
        with self._lock:
            ready = [(job_id, job) for job_id, (job, _) in self._jobs.items() if job.paths.result_pickle.exists()]
        for job_id, job in ready:
            with self._lock:
                _, future = self._jobs.pop(job_id)
            try:
                outcome, value = job._get_outcome_and_result()
            except Exception as error:
                outcome, value = "error", error
            if outcome == "success" and not isinstance(value, WorkerRefused):
                future.set_result(value)
                with suppress(OSError):
                    for file in self.folder.glob(f"{job_id}_*"):
                        file.unlink(missing_ok=True)
            else:
                future.set_exception(value if isinstance(value, WorkerRefused) else RuntimeError(_last_line(value)))

    def _lose(self, job_id: str) -> None:
        with self._lock:
            job, future = self._jobs.pop(job_id)
        log = ""
        with suppress(OSError):
            log = job.paths.stderr.read_text(errors="replace")
        future.set_exception(RuntimeError(f"Slurm's job {job_id} left no result; its last words: {_last_line(log)}"))


def _last_line(said: object) -> str:
    return next((line.strip() for line in reversed(str(said).splitlines()) if line.strip()), "none")


# -- the place that was asked for --------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Place:
    """Where cells run. The numbers do not depend on it."""

    executor: Literal["local", "dask", "slurm"] = "local"
    """Processes of this machine, the workers of a Dask scheduler, or Slurm jobs."""
    workers: int | None = None
    """Processes here, by default one for each processor up to 8, and 1 runs everything in this one; elsewhere, cells
    that are given away at the same time, by default 16 on Slurm and enough for all workers of Dask."""
    scheduler: str = ""
    """Address of the Dask scheduler, such as tcp://10.0.0.1:8786."""
    no_shared_files: bool = False
    """Dask's workers do not see the output folder: they send checkpoints of long cells as bytes."""
    slurm_partition: str = ""
    """Partition for Slurm jobs; the cluster's default if not given."""
    slurm_time: int = 60
    """Minutes that a Slurm job, which is one cell, may take."""
    slurm_memory: float = 4.0
    """Gigabytes of memory for a Slurm job."""
    slurm_folder: Path | None = None
    """Shared folder for what Slurm jobs are sent and give back; in the output folder if not given."""

    def __post_init__(self) -> None:
        if self.workers is not None:
            check_int("workers", self.workers, minimum=1)
        check_int("slurm_time", self.slurm_time, minimum=1)
        check_real("slurm_memory", self.slurm_memory, minimum=0.1)
        if (self.executor == "dask") != bool(self.scheduler):
            raise ValueError("--executor dask and --scheduler ADDRESS go together.")
        if self.no_shared_files and self.executor != "dask":
            raise ValueError(f"--no-shared-files is for --executor dask, not for {self.executor}.")

    def processes(self, cells: int) -> int:
        """Of this machine, for so many cells."""
        return min(self.workers or min(os.cpu_count() or 1, 8), max(cells, 1))


@contextmanager
def executor_at(place: Place, folder: Path, needs: Needs, cells: int) -> Iterator[Executor]:
    """The executor for so many cells of a run in this folder. On an exception what is queued is cancelled.

    Raises:
        ImportError, OSError: it is not there.
        WorkerRefused: a worker is not fit for the work.
    """
    if cells == 0 or place.executor == "local":
        with local_executor(place.processes(cells)) as local:
            yield local
        return
    pool: DaskPool | SlurmPool
    if place.executor == "dask":
        pool = DaskPool(place.scheduler, folder, needs, at_once=place.workers, shared=not place.no_shared_files)
    else:
        asked: dict[str, Any] = {"jobs": place.slurm_folder, "partition": place.slurm_partition}
        asked |= {"minutes": place.slurm_time, "memory": place.slurm_memory, "at_once": place.workers}
        pool = SlurmPool(folder, needs, **asked)
    try:
        yield pool
    finally:
        pool.shutdown()

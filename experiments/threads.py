"""One thread for all linear algebra, and which code it runs: the last bits of every sum depend on both."""

from __future__ import annotations

import os
import sys
import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

THREADS = 1  # of each process
_VARIABLES = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "VECLIB_MAXIMUM_THREADS")

_lock = threading.Lock()
_inside = 0
_limits = ExitStack()


@contextmanager
def one_thread() -> Iterator[None]:
    """Inside, numpy, scipy and torch compute on one thread, whatever the user has set.

    The order in which a sum is taken depends on the number of threads, so this holds around every cell of a study, in
    this process and in the workers alike. It covers libraries that are loaded already, and by the environment those
    that are loaded inside and the processes started inside. A setting of the process: where several Python threads are
    inside at once, it ends with the last of them. (A torch that is first imported inside stays at one thread.)

    >>> from threadpoolctl import threadpool_info
    >>> with one_thread():
    ...     {library["num_threads"] for library in threadpool_info()} <= {1}
    True
    """
    global _inside, _limits
    with _lock:
        if _inside == 0:
            _limits = _limited()
        _inside += 1
    try:
        yield
    finally:
        with _lock:
            _inside -= 1
            if _inside == 0:
                _limits.close()


def _limited() -> ExitStack:
    import scipy.linalg  # noqa: F401  # its own library is loaded here, not later beyond the limit
    from threadpoolctl import threadpool_limits

    with ExitStack() as limits:
        limits.callback(_restore, {name: os.environ.get(name) for name in _VARIABLES})
        os.environ.update(dict.fromkeys(_VARIABLES, str(THREADS)))
        limits.enter_context(threadpool_limits(THREADS))
        torch: Any = sys.modules.get("torch")
        if torch is not None:
            limits.callback(torch.set_num_threads, torch.get_num_threads())
            torch.set_num_threads(THREADS)
        return limits.pop_all()


def _restore(variables: dict[str, str | None]) -> None:
    for name, value in variables.items():
        if value is None:
            os.environ.pop(name, None)
        else:
            os.environ[name] = value


def kernels() -> list[str]:
    """What computes here, as ``"openblas 0.3.30 Haswell"`` and ``"numpy X86_V3"``: the code that each library chose for
    this processor."""
    import numpy as np
    import scipy.linalg  # noqa: F401
    from threadpoolctl import threadpool_info

    libraries = {
        " ".join(str(library.get(key) or "") for key in ("internal_api", "version", "architecture")).strip()
        for library in threadpool_info()
        if library["user_api"] == "blas"
    }
    loops = np.show_config(mode="dicts")["SIMD Extensions"]  # type: ignore[call-overload, index]
    return sorted([*libraries, *(f"numpy {name}" for name in (loops.get("found") or loops["baseline"])[-1:])])

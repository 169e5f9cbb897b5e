"""Torch has settings of the process and of the thread; what we compute must not depend on a caller's."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from torch.nn.attention import SDPBackend, sdpa_kernel

_AUTOCAST = ("cpu", "cuda", "mps", "xpu")
_ATTENTION = [SDPBackend.FLASH_ATTENTION, SDPBackend.EFFICIENT_ATTENTION, SDPBackend.MATH]
if hasattr(SDPBackend, "CUDNN_ATTENTION"):
    _ATTENTION.append(SDPBackend.CUDNN_ATTENTION)
#: where newer versions of torch keep the precision of float32 products, from the general to the particular
_PRECISIONS: list[Any] = [
    place
    for place in (
        torch.backends,
        getattr(torch.backends.mkldnn, "matmul", None),
        torch.backends.cuda.matmul,
    )
    if hasattr(place, "fp32_precision")
]
_SMALLEST = math.ulp(0.0)


@contextmanager
def own_torch_state(*, threads: int | None = None, grad: bool = False, device: Any = "cpu") -> Iterator[None]:
    """Inside, torch computes as it does in a fresh process, whatever the caller has set; afterwards it is as before.

    What is set: no autocast, gradients as asked for, no inference mode, float32 and ``device`` as defaults, float32
    products in full precision, the usual kernels (mkldnn, attention, no deterministic mode), subnormal numbers kept,
    and so many threads. The global random generators are neither read nor written by anything of ours.

    The order in which a sum is taken, and with it the last bits of a result, depends on the number of threads; for
    small networks one is also faster where cores are shared. Threads and most of the rest are settings of the process:
    other Python threads see them too.

    Args:
        threads: of the CPU; ``None`` leaves their number as it is.
        grad: whether operations are recorded for a backward pass.
        device: where new tensors go that do not say where.

    >>> with torch.autocast("cpu"), torch.no_grad(), own_torch_state(grad=True):
    ...     torch.is_autocast_enabled("cpu"), torch.is_grad_enabled()
    (False, True)
    """
    with ExitStack() as stack:
        if torch.is_inference_mode_enabled():
            stack.enter_context(torch.inference_mode(False))
        if torch.is_grad_enabled() != grad:
            stack.enter_context(torch.set_grad_enabled(grad))
        for kind in _AUTOCAST:
            if torch.is_autocast_enabled(kind):
                stack.enter_context(torch.autocast(kind, enabled=False))
        _settle(stack, torch.get_default_dtype, torch.set_default_dtype, torch.float32)
        if torch.empty(0).device != torch.device(device):
            stack.enter_context(torch.device(device))
        if torch.are_deterministic_algorithms_enabled():
            warns = torch.is_deterministic_algorithms_warn_only_enabled()
            stack.callback(torch.use_deterministic_algorithms, True, warn_only=warns)
            torch.use_deterministic_algorithms(False)
        _settle_products(stack)
        _settle(stack, torch._C._get_mkldnn_enabled, torch._C._set_mkldnn_enabled, True)
        if not all((torch.backends.cuda.flash_sdp_enabled(), torch.backends.cuda.math_sdp_enabled())):
            stack.enter_context(sdpa_kernel(_ATTENTION))
        if _SMALLEST * 1.0 == 0.0:
            stack.callback(torch.set_flush_denormal, True)
            torch.set_flush_denormal(False)
        if threads is not None:
            _settle(stack, torch.get_num_threads, torch.set_num_threads, threads)
        yield


def _settle(stack: ExitStack, get: Callable[[], Any], put: Callable[[Any], Any], wanted: Any) -> None:
    """Set one setting, and set it back when the stack is left."""
    before = get()
    if before != wanted:
        stack.callback(put, before)
        put(wanted)


def _settle_products(stack: ExitStack) -> None:
    """Full precision in products of float32 matrices, whether it was lowered in the old way or in the new one."""
    try:
        precision = torch.get_float32_matmul_precision()
        if precision == "highest":
            return
    except RuntimeError:  # the old way refuses to tell where it was lowered in the new way
        precision = "highest"
    before = []
    for place in _PRECISIONS:  # the particular inherits, so that its own is seen only once the general is reset
        before.append((place, place.fp32_precision))
        place.fp32_precision = "none"
    torch.set_float32_matmul_precision("highest")

    def put_back() -> None:
        torch.set_float32_matmul_precision(precision)
        for place, own in before:
            place.fp32_precision = own

    stack.callback(put_back)

"""Checks at the boundary, the errors they raise, and extras that may be missing. Public: the other packages use it."""

from __future__ import annotations

import difflib
import importlib
import inspect
import math
import numbers
import os
import warnings
from collections.abc import Callable, Iterable
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

# Exceptions of the suite. Both are ``ValueError``, so that a plain ``except ValueError`` still works.


class NotTractableError(ValueError):
    """An exact computation was asked for that would not fit in memory or time; the message gives the way round."""


class WellSpecifiedError(ValueError):
    """The approximation factor was asked for where the policy class contains the expert (it would be x / 0)."""


# Names that have changed.


#: the version in which old names go: what mentions `renamed` or an old name is deleted then
OLD_NAMES_GO_IN = "0.3"
#: the largest integer that NumPy counts with
LARGEST = 2**63 - 1


def renamed(old: str, new: str, *, stacklevel: int) -> None:
    """Warn that what was ``old`` is now ``new``; ``stacklevel`` as of `warnings.warn`, counted from the caller."""
    message = f"{old} is now {new}; the old name goes in ntp-envs {OLD_NAMES_GO_IN}."
    warnings.warn(message, DeprecationWarning, stacklevel=stacklevel + 1)


# Checks made once, at the boundary. Every message names the value, the allowed range and the fix.


#: the sum of weights; its square is finite and positive
LIGHTEST, HEAVIEST = 1e-150, 1e150


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """`` Did you mean 'x'? Known: ...`` for an error message about an unknown name."""
    known = sorted(known)
    return f"{_nearest(name, known)} Known: {', '.join(known)}."


def _nearest(name: str, known: Iterable[str]) -> str:
    by_lower = {option.lower(): option for option in known}
    close = difflib.get_close_matches(str(name).lower(), list(by_lower), n=1, cutoff=0.4)
    return f" Did you mean {by_lower[close[0]]!r}?" if close else ""


def check_names(
    complaint: str, given: Iterable[str], known: Iterable[str], error: type[Exception] = ValueError
) -> None:
    """Refuse names that are not known, all of them at once: after the complaint each, and the nearest that is."""
    known = sorted(known)
    unknown = [name for name in given if name not in known]
    if unknown:
        said = " ".join(f"{complaint} {name!r}.{_nearest(name, known)}" for name in unknown)
        raise error(f"{said} Known: {', '.join(known)}.")


def check_keywords(call: str, given: Iterable[str], known: Iterable[str]) -> None:
    """Refuse keyword arguments that are not known, in Python's own words, which other libraries look for.

    Args:
        call: what was called, such as ``"make_task()"``.
    """
    check_names(f"{call} got an unexpected keyword argument", given, known, TypeError)


def keywords_of(function: Callable[..., Any]) -> list[str]:
    """The names of its arguments, without those that stand for any others."""
    parameters = inspect.signature(function).parameters
    return [name for name, p in parameters.items() if p.kind not in (p.VAR_POSITIONAL, p.VAR_KEYWORD)]


def plain(value: Any) -> Any:
    """``value`` with Python's own numbers in place of NumPy's and others', and tuples in place of lists and arrays.

    NumPy's integers wrap around and its floats may be short; what is kept of a parameter should do neither. Anything
    that is neither a number nor a list comes back as it is.

    >>> plain([np.uint8(255), np.bool_(True)])
    (255, True)
    """
    if isinstance(value, np.generic):
        value = value.item()
    if isinstance(value, np.ndarray):
        value = value.tolist()
    if isinstance(value, (list, tuple)) and not hasattr(value, "_fields"):  # a named tuple stays one
        return tuple(plain(item) for item in value)
    if isinstance(value, bool) or not isinstance(value, numbers.Real):
        return value
    return int(value) if isinstance(value, numbers.Integral) else float(value)


def check_decoding(temperature: Any, top_k: Any, top_p: Any, vocab_size: int) -> tuple[float, int | None, float | None]:
    """What a law is sampled with; the most probable token alone is another policy."""
    temperature = check_real("temperature", temperature, minimum=0.0)
    if temperature == 0:
        raise ValueError("temperature=0 must be above 0; for greedy decoding use ntp_envs.GreedyPolicy.")
    top_k = None if top_k is None else check_int("top_k", top_k, minimum=1, maximum=vocab_size)
    top_p = None if top_p is None else check_real("top_p", top_p, minimum=0.0, maximum=1.0)
    if top_p == 0:
        raise ValueError("top_p=0 must be above 0 and at most 1; for the most probable token alone use top_k=1.")
    return temperature, top_k, top_p


def check_in(name: str, value: Any, options: Iterable[str]) -> str:
    options = list(options)
    if not isinstance(value, str) or value not in options:
        raise ValueError(f"{name}={value!r} is not an option.{did_you_mean(str(value), options)}")
    return value


def check_int(name: str, value: Any, *, minimum: int, maximum: float | None = None) -> int:
    """``value`` as an ``int`` in ``[minimum, maximum]``; by default at most what NumPy counts with."""
    wanted = f"an integer >= {minimum}" + ("" if maximum in (None, math.inf) else f" and <= {maximum}")
    if isinstance(value, bool) or not isinstance(value, numbers.Integral):
        raise TypeError(f"{name}={value!r} must be {wanted}, not {type(value).__name__}.")
    number, most = int(value), LARGEST if maximum is None else maximum
    if number > most == LARGEST:
        wanted += f" and <= {LARGEST}"
    if not minimum <= number <= most:
        raise ValueError(f"{name}={value} must be {wanted}.")
    return number


def check_callable(name: str, value: Any, form: str) -> Any:
    """``value`` itself, if it can be called as ``form`` begins: ``"(prompts, tokens) -> (B, A) log-probabilities"``."""
    says = f"{name}={value!r} must be callable: {form}."
    if not callable(value):
        raise TypeError(says)
    try:
        signature = inspect.signature(value)
    except (ValueError, TypeError):  # of some that are compiled nobody knows
        return value
    try:
        signature.bind(*form.partition(")")[0].split(","))
    except TypeError as error:
        raise TypeError(says) from error
    return value


def memory() -> float:
    """Bytes that this process may have: of the machine, or of its limit where that is less; infinite if not known."""
    try:
        import resource

        limit = resource.getrlimit(resource.RLIMIT_AS)[0]
        machine = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
        return float(machine if limit == resource.RLIM_INFINITY else min(limit, machine))
    except (ImportError, ValueError, OSError):
        return math.inf


def check_fits(name: str, count: int, each: float, what: str) -> int:
    """``count`` itself, if so many times ``each`` bytes fit into the memory of this machine."""
    if count > (most := memory()) / each:
        raise ValueError(
            f"{name}={count} must be at most {int(most // each)}: {what} take {each:g} bytes each, and there are "
            f"{most / 1e9:.3g} GB."
        )
    return count


def check_kind(name: str, value: Any, kind: type, advice: str = "") -> Any:
    """``value`` itself, if it is one of ours of this kind."""
    if not isinstance(value, kind):
        raise TypeError(f"{name} must be an ntp_envs.{kind.__name__}, not {type(value).__name__}{advice}.")
    return value


def check_list(name: str, items: Any, kind: type) -> list[Any]:
    """A list of at least one item, each of this kind."""
    if isinstance(items, (str, bytes, np.ndarray)) or not isinstance(items, Iterable):
        raise TypeError(f"{name}={items!r} must be a list of ntp_envs.{kind.__name__}, not {type(items).__name__}.")
    found = [check_kind(f"{name}[{place}]", item, kind) for place, item in enumerate(items)]
    if not found:
        raise ValueError(f"{name} is empty; at least one {kind.__name__} is needed.")
    return found


def check_flag(name: str, value: Any) -> bool:
    if not isinstance(value, bool | np.bool_):
        raise TypeError(f"{name}={value!r} must be True or False.")
    return bool(value)


def check_positive(name: str, value: Any, why: str = "") -> float:
    """``value`` as a finite ``float`` above 0; ``why`` says what 0 would do."""
    number = check_real(name, value, minimum=0.0)
    if number == 0.0:
        raise ValueError(f"{name}=0 {why}; it must be positive." if why else f"{name}={value} must be positive.")
    return number


def optional(check: Callable[[str, Any], Any]) -> Callable[[str, Any], Any]:
    """The same check, which lets ``None`` through."""
    return lambda name, value: None if value is None else check(name, value)


def check_positions(name: str, value: Any, size: int | None) -> tuple[int, ...]:
    """Distinct positions in ``[0, size)`` (2**14 if ``None``), at least one, as a sorted tuple."""
    if isinstance(value, (str, bytes)) or not hasattr(value, "__iter__"):
        inside = ">= 0" if size is None else f"in [0, {size - 1}]"
        raise TypeError(f"{name}={value!r} must be a sequence of bit positions {inside}.")
    last = (1 << 14) - 1 if size is None else size - 1
    found = sorted(check_int(name, place, minimum=0, maximum=last) for place in value)
    if not found or len(set(found)) < len(found):
        raise ValueError(f"{name}={value!r} must name at least one bit position, each once.")
    return tuple(found)


def _as_float(name: str, value: Any, kind: str) -> float:
    if isinstance(value, bool) or not isinstance(value, numbers.Real):
        raise TypeError(f"{name}={value!r} must be a {kind}, not {type(value).__name__}.")
    try:
        return float(value)
    except OverflowError:  # an integer beyond the floats
        return math.inf


def check_real(name: str, value: Any, *, minimum: float = -math.inf, maximum: float = math.inf) -> float:
    """``value`` as a finite ``float`` in the closed interval ``[minimum, maximum]``."""
    number = _as_float(name, value, "real number")
    if not math.isfinite(number) or not minimum <= number <= maximum:
        left = f"[{minimum:g}" if math.isfinite(minimum) else "(-inf"
        right = f"{maximum:g}]" if math.isfinite(maximum) else "inf)"
        raise ValueError(f"{name}={value} must be a finite number in {left}, {right}.")
    return number


def check_probability(name: str, value: Any, *, open_interval: bool = True) -> float:
    """``value`` as a ``float`` in (0, 1), or in [0, 1] if ``open_interval`` is false."""
    number = _as_float(name, value, "probability")
    inside = 0.0 < number < 1.0 if open_interval else 0.0 <= number <= 1.0
    if not inside:
        interval = "(0, 1), both ends excluded" if open_interval else "[0, 1]"
        raise ValueError(f"{name}={value} must lie in {interval}.")
    return number


def check_generator(rng: Any) -> np.random.Generator:
    """``rng`` itself, if it is a ``numpy.random.Generator``; there is no global random state in this suite."""
    if not isinstance(rng, np.random.Generator):
        raise TypeError(
            f"rng={rng!r} must be a numpy.random.Generator, not {type(rng).__name__}; "
            "use rng=np.random.default_rng(seed)."
        )
    return rng


def as_array(name: str, value: ArrayLike, dtype: Any = None) -> NDArray[Any]:
    """``value`` as an array, which may be its own; what is masked would come back as if it were data, and is refused.

    Raises:
        TypeError: masked entries, or what is not numbers (complex ones neither) where ``dtype`` is given.
        ValueError: nested lists of different lengths.
    """
    if np.ma.is_masked(value):
        count = int(np.ma.count_masked(value))
        raise TypeError(
            f"{name} is a masked array with {count} masked entries, which would be read as data; leave their rows out, "
            "or fill them: array.filled(value)."
        )
    try:
        array = np.asarray(value)
    except ValueError as error:
        raise ValueError(f"{name} cannot be read as an array: {error}") from error
    if dtype is None:
        return array
    if array.size and array.dtype != object and not np.can_cast(array.dtype, dtype, casting="same_kind"):
        raise TypeError(f"{name} has dtype {array.dtype}; numbers that fit {np.dtype(dtype)} are needed.")
    try:
        return array.astype(dtype, copy=False)
    except (TypeError, ValueError, OverflowError) as error:
        raise TypeError(f"{name} holds something that is not a number: {error}.") from error


def check_weights(weights: ArrayLike, n: int) -> NDArray[np.float64]:
    """``(n,)`` float64 weights: finite, non-negative, with a sum whose square is neither infinite nor zero."""
    array = as_array("weights", weights, np.float64)
    if array.shape != (n,):
        raise ValueError(f"weights has shape {array.shape}; ({n},) is needed.")
    if not np.isfinite(array).all() or (array < 0).any() or not (array > 0).any():
        raise ValueError("weights must be finite, non-negative and not all zero.")
    with np.errstate(over="ignore"):
        total = float(array.sum())
    if not LIGHTEST <= total <= HEAVIEST:
        raise ValueError(
            f"weights sum to {total:g}; the sum must lie in [{LIGHTEST:g}, {HEAVIEST:g}]. Only their ratios count for "
            "most learners: divide by the largest, weights / weights.max()."
        )
    return array


def check_tokens(name: str, array: ArrayLike, vocab_size: int, *, width: int | None = None) -> NDArray[np.int64]:
    """``array`` as ``(B, width)`` int64 tokens in ``[0, vocab_size)``; the message names the first bad entry."""
    return check_any_tokens(name, array, vocab_size, width=width).astype(np.int64, copy=False)


def check_any_tokens(name: str, array: ArrayLike, vocab_size: int, *, width: int | None = None) -> NDArray[np.integer]:
    """`check_tokens`, in whatever type of integers they are."""
    tokens = as_array(name, array)
    if tokens.ndim != 2:
        raise ValueError(
            f"{name} has shape {tokens.shape}; it must be two-dimensional, one sequence a row "
            f"(for a single sequence use {name}[None, :])."
        )
    if tokens.size == 0:
        tokens = tokens.astype(np.int64)
    if not np.issubdtype(tokens.dtype, np.integer):
        raise TypeError(f"{name} has dtype {tokens.dtype}; tokens are integers (use .astype(int) if they are whole).")
    if width is not None and tokens.shape[1] != width:
        raise ValueError(f"{name} has shape {tokens.shape}; {width} columns are needed.")
    if tokens.size and (int(tokens.min()) < 0 or int(tokens.max()) >= vocab_size):
        row, column = np.argwhere((tokens < 0) | (tokens >= vocab_size))[0]
        raise ValueError(
            f"{name}[{row}, {column}]={tokens[row, column]} is outside the vocabulary [0, {vocab_size - 1}]."
        )
    return tokens


def small_int_dtype(largest: int) -> np.dtype[Any]:
    """The smallest unsigned integer dtype that holds ``largest``."""
    return np.min_scalar_type(largest)


# Optional libraries, imported where they are needed, with a message that names what to install.


def import_extra(*modules: str, what: str, install: str) -> Any:
    """Import the modules and return the first.

    Args:
        *modules: names, such as ``"minari"``; all of them must be there.
        what: what cannot be done without them, in words.
        install: the command that installs them.

    Raises:
        ImportError: one is missing; the message names it, what it is for and the command.

    >>> import_extra("json", what="reading JSON", install="pip install python").__name__
    'json'
    """
    found = []
    for module in modules:
        try:
            found.append(importlib.import_module(module))
        except ImportError as error:
            raise ImportError(f"{what} needs {module}, which cannot be imported ({error}); {install}") from error
    return found[0]

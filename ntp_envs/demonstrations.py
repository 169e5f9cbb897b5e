"""Demonstrations: prompts and token sequences from an expert, optionally weighted, and the file they are kept in."""

from __future__ import annotations

import importlib
import json
import mmap
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from ntp_envs.arrays import IntArray, written
from ntp_envs.checks import as_array, check_any_tokens, check_int, check_weights, renamed, small_int_dtype
from ntp_envs.policy_classes import PolicyClass
from ntp_envs.saved import MAX_BYTES, array_digest, read_arrays, whole

FORMAT = "ntp-envs demonstrations"
FORMAT_VERSION = 2  # since texts may end early
ARRAYS = {"prompts", "tokens", "weights", "expert_log_probs"}

#: more tokens than these (256 MB as int64) are kept in the smallest type that holds the vocabulary
MANY_TOKENS = 2**25
#: tokens that are handled together where all would not fit into memory
BLOCK_TOKENS = 2**20


class WideTokens:
    """An attribute of ``(n, m)`` tokens, int64 to whoever reads it, whatever is kept.

    Where there are more than `MANY_TOKENS` they are kept in a smaller type and widened anew, read-only, at every
    reading: code for millions of sequences goes by `row_blocks` and reads `kept`.
    """

    def __init__(self, name: str) -> None:
        self.name = name

    def __get__(self, instance: Any, owner: Any = None) -> Any:
        if instance is None:
            return self
        found = vars(instance)[self.name]
        if found is None or found.dtype == np.int64:
            return found
        wide = found.astype(np.int64)
        wide.flags.writeable = False
        return wide

    def __set__(self, instance: Any, value: Any) -> None:
        vars(instance)[self.name] = value


Class = TypeVar("Class", bound=type)


def with_wide_tokens(*names: str) -> Callable[[Class], Class]:
    """A decorator of dataclasses: these fields are `WideTokens`."""

    def changed(kind: Class) -> Class:
        for name in names:
            setattr(kind, name, WideTokens(name))
        return kind

    return changed


def kept(of: Any, name: str) -> Any:
    """The array of integers behind `WideTokens`, as it is kept."""
    return vars(of)[name]


class TokenRows:
    """What has ``(n, P)`` prompts and ``(n, H)`` tokens that are `WideTokens`."""

    @property
    def shape(self) -> tuple[int, int]:
        """``(n, H)``."""
        n, horizon = kept(self, "tokens").shape
        return n, horizon

    def block(self, rows: slice | NDArray[Any]) -> tuple[IntArray, IntArray]:
        """The int64 prompts and tokens at these row numbers."""
        prompts, tokens = (kept(self, name)[rows].astype(np.int64, copy=False) for name in ("prompts", "tokens"))
        return prompts, tokens


def row_blocks(n: int, length: int) -> Iterator[slice]:
    """The rows of ``(n, length)`` tokens, about `BLOCK_TOKENS` at a time, one row at least."""
    size = max(BLOCK_TOKENS // max(length, 1), 1)
    return (slice(start, min(start + size, n)) for start in range(0, n, size))


@dataclass(frozen=True)
class Exactness:
    """For which learners a weighted set of demonstrations *is* the expert's law.

    A learner looks at demonstrations in units: single tokens (1), whole sequences (H), or chunks of K tokens. One that
    chooses for each layer by itself has no unit (``None``).

    Attributes:
        everything: the set is the complete law of (prompt, tokens): exact for every learner and policy class.
        units: chunk lengths for which it is exact, in classes with the right ``statistic``.
        statistic: what of the data the likelihoods of such a class depend on (`PolicyClass.statistic`).
        expert_units: chunk lengths for which it is exact too for what depends on the expert's own density of a chunk
            given its prefix, together with the member's. A representative has the statistic of those that it stands
            for, but the expert need not give its pieces the same probability.
    """

    everything: bool = False
    units: frozenset[int] = frozenset()
    statistic: str = ""
    expert_units: frozenset[int] = frozenset()

    def covers(self, unit: int | None, policy_class: PolicyClass, *, expert: bool = False) -> bool:
        """Whether a learner that looks at chunks of ``unit`` tokens (``None``: layer by layer) may use the set.

        ``expert``: a learner that looks at the expert's density of them, too.
        """
        units = self.units & self.expert_units if expert else self.units
        return self.everything or (unit in units and policy_class.statistic == self.statistic)

    def describe(self) -> str:
        """What it is exact for, in words."""
        if self.everything:
            return "exact for everything"
        return f"exact for chunks of {sorted(self.units)} tokens in classes whose statistic is {self.statistic!r}"


@with_wide_tokens("prompts", "tokens")
@dataclass(frozen=True, eq=False)
class Demonstrations(TokenRows):
    """Token sequences of one length, with their prompts.

    Args:
        prompts: ``(n, P)`` integer tokens (P may be 0).
        tokens: ``(n, H)`` integer tokens.
        vocab_size: A; tokens lie in [0, A).
        weights: ``(n,)`` non-negative weights, any positive sum; ``None`` means one each.
        expert_log_probs: ``(n, H)`` log-probabilities of the tokens under the expert, in nats.
        source: where they came from (task name and parameters, seed, file): what JSON can hold. Kept as JSON would:
            tuples become lists, NumPy scalars numbers.
        exactness: set by `Task.population`; ``None`` for samples.
        end_token: the token that ends a text, where texts end early: what follows it is that token again, which nobody
            wrote. ``None``: all are H tokens long.

    The arrays are read-only and its own: copies, unless what was given cannot change (other demonstrations' arrays, and
    files that are mapped into memory to be read only). Tokens are int64 to whoever reads them; many (`MANY_TOKENS`) are
    kept in the smallest type that holds them, and `block` reads some of the rows without widening them all.

    Raises:
        ValueError, TypeError: empty data, shapes that do not match, a token outside the vocabulary, bad weights, masked
            arrays, a ``source`` that JSON cannot hold, another token after the end.

    >>> import numpy as np
    >>> demos = Demonstrations(np.zeros((3, 1), int), np.ones((3, 4), int), vocab_size=2)
    >>> len(demos), demos.horizon
    (3, 4)
    """

    prompts: IntArray
    tokens: IntArray
    vocab_size: int
    weights: NDArray[np.float64] | None = None
    expert_log_probs: NDArray[np.float64] | None = None
    source: dict[str, Any] = field(default_factory=dict)
    exactness: Exactness | None = None
    end_token: int | None = None

    def __post_init__(self) -> None:
        put = lambda name, value: object.__setattr__(self, name, value)  # noqa: E731
        put("source", as_json(self.source, "source"))
        put("vocab_size", check_int("vocab_size", self.vocab_size, minimum=1))
        for name in ("tokens", "prompts"):
            given = vars(self)[name]
            tokens = check_any_tokens(name, given, self.vocab_size)
            kind = np.int64 if tokens.size <= MANY_TOKENS else small_int_dtype(self.vocab_size - 1)
            put(name, _own(given, tokens.astype(kind, copy=False)))
        n, horizon = self.shape
        if n == 0:
            raise ValueError("there are no demonstrations (tokens has 0 rows); at least one is needed.")
        if horizon == 0:
            raise ValueError("the demonstrations are empty (tokens has 0 columns); the horizon is at least 1.")
        if (rows := len(kept(self, "prompts"))) != n:
            raise ValueError(f"prompts has {rows} rows and tokens {n}; one prompt a sequence is needed.")
        if self.weights is not None:
            put("weights", _own(self.weights, check_weights(self.weights, n)))
        if self.expert_log_probs is not None:
            log_probs = as_array("expert_log_probs", self.expert_log_probs, np.float64)
            if log_probs.shape != (n, horizon):
                raise ValueError(f"expert_log_probs has shape {log_probs.shape}; {(n, horizon)} is needed.")
            if np.isnan(log_probs).any() or (log_probs > 1e-9).any():
                raise ValueError("expert_log_probs must be log-probabilities: at most 0 and not NaN.")
            put("expert_log_probs", _own(self.expert_log_probs, log_probs))
        if self.end_token is not None:
            put("end_token", check_int("end_token", self.end_token, minimum=0, maximum=self.vocab_size - 1))
            for some in row_blocks(n, horizon):
                prompts, tokens = self.block(some)
                wrong = ~written(prompts, tokens, self.end_token) & (tokens != self.end_token)
                if wrong.any():
                    row, place = np.argwhere(wrong)[0]
                    raise ValueError(
                        f"tokens[{some.start + row}, {place}]={tokens[row, place]} follows an end_token="
                        f"{self.end_token}: a text that has ended stays ended; fill the rest of the row with the end "
                        "token."
                    )

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        for value in state.values():
            if isinstance(value, np.ndarray):
                value.flags.writeable = False  # pickle forgets

    def __len__(self) -> int:
        return self.shape[0]

    @property
    def horizon(self) -> int:
        """H, the number of tokens a sequence."""
        return self.shape[1]

    @property
    def prompt_length(self) -> int:
        """P, the number of prompt tokens."""
        return kept(self, "prompts").shape[1]

    @property
    def written(self) -> NDArray[np.bool_]:
        """``(n, H)`` which tokens were written: all, or those up to the end of each text, its end token included."""
        return written(kept(self, "prompts"), kept(self, "tokens"), self.end_token)

    @property
    def lengths(self) -> NDArray[np.int64]:
        """``(n,)`` how many tokens of each text were written."""
        return self.written.sum(axis=1)

    @property
    def are_draws(self) -> bool:
        """Whether every sequence counts as one draw: no population, and no weights but equal ones."""
        return self.exactness is None and (self.weights is None or bool((self.weights == self.weights[0]).all()))

    def normalised_weights(self) -> NDArray[np.float64]:
        """``(n,)`` weights that sum to one."""
        if self.weights is None:
            return np.full(len(self), 1.0 / len(self))
        return self.weights / self.weights.sum()

    def chunks(self, length: int) -> Iterator[slice]:
        """The positions cut into chunks of ``length`` tokens; the last is shorter where ``length`` does not divide H.

        Raises:
            ValueError: ``length`` outside [1, H].
        """
        length = check_int("chunk", length, minimum=1, maximum=self.horizon)
        for start in range(0, self.horizon, length):
            yield slice(start, min(start + length, self.horizon))

    def subset(self, rows: NDArray[Any]) -> Demonstrations:
        """The demonstrations at these row numbers (or boolean mask)."""
        pick = lambda array: None if array is None else array[rows]  # noqa: E731
        return replace(
            self,
            prompts=kept(self, "prompts")[rows],
            tokens=kept(self, "tokens")[rows],
            weights=pick(self.weights),
            expert_log_probs=pick(self.expert_log_probs),
            exactness=None,
        )

    def pooled(self) -> Demonstrations:
        """The distinct demonstrations, in lexicographic order, each weighted by the total weight of its copies.

        The same data to a learner that sums over demonstrations, and less work. Expert log-probabilities are those
        of the first copy.
        """
        pairs = np.concatenate([kept(self, "prompts"), kept(self, "tokens")], axis=1)
        _, first, copies = np.unique(pairs, axis=0, return_index=True, return_inverse=True)
        weights = np.bincount(np.ravel(copies), weights=self.weights, minlength=len(first)).astype(np.float64)
        return replace(self.subset(first), weights=weights, exactness=self.exactness)

    def save(self, path: str | Path) -> Path:
        """Write an ``.npz`` file (no pickle inside) and return its path."""
        path = Path(path)
        if path.suffix != ".npz":
            path = path.with_name(path.name + ".npz")
        meta = self._metadata()
        kind = small_int_dtype(self.vocab_size - 1)
        arrays: dict[str, Any] = {name: kept(self, name).astype(kind) for name in ("prompts", "tokens")}
        if self.weights is not None:
            arrays["weights"] = self.weights
        if self.expert_log_probs is not None:
            arrays["expert_log_probs"] = self.expert_log_probs
        meta["arrays"] = {name: array_digest(array) for name, array in arrays.items()}
        with whole(path) as new:
            np.savez_compressed(new, meta=np.array(json.dumps(meta)), **arrays)
        return path

    @classmethod
    def load(cls, path: str | Path, *, max_bytes: int = MAX_BYTES) -> Demonstrations:
        """Read what `save` wrote; what was written comes back, or an error.

        Args:
            path: of the file; or of a folder that ``collect(..., out=)`` wrote, whose arrays are mapped into memory:
                the files must stay as they are for as long as the demonstrations are used.
            max_bytes: refuse a file that says that it unpacks to more.

        Raises:
            FileNotFoundError: no such file.
            ValueError: a corrupt file, a file of something else, one written by a newer version, or one too large; a
                folder that is not finished.
        """
        path = Path(path)
        check_int("max_bytes", max_bytes, minimum=1)
        try:
            if path.is_dir():
                return cls(**_mapped(path))
            arrays: dict[str, Any] = read_arrays(path, max_bytes)
            meta = json.loads(str(arrays.pop("meta")))
            fields = cls._read_metadata(meta)
            if unknown := sorted(arrays.keys() - ARRAYS):
                raise ValueError(f"it holds an array {unknown[0]!r}")
            # files of earlier releases have no such list
            if "arrays" in meta and meta["arrays"] != {name: array_digest(array) for name, array in arrays.items()}:
                raise ValueError("its arrays are not those that it lists")
            return cls(**arrays, **fields)
        except FileNotFoundError:
            raise
        except Exception as error:  # of a damaged file, zipfile, zlib, json and numpy raise a dozen kinds
            reason = str(error) or type(error).__name__
            raise ValueError(
                f"{path} is not a readable demonstrations file ({reason}); write it with save()."
            ) from error

    def _metadata(self) -> dict[str, Any]:
        """What a file says besides the arrays, for `_read_metadata`."""
        exact = self.exactness
        units = {name: sorted(getattr(exact, name, ())) for name in ("units", "expert_units")}
        return {
            "format": FORMAT,
            "version": 1 if self.end_token is None else FORMAT_VERSION,  # earlier releases read what they understand
            "vocab_size": self.vocab_size,
            "source": self.source,
            **({} if self.end_token is None else {"end_token": self.end_token}),
            "exactness": None if exact is None else {**vars(exact), **units},
        }

    @staticmethod
    def _read_metadata(meta: dict[str, Any]) -> dict[str, Any]:
        """The fields that `_metadata` wrote; ``KeyError`` or ``ValueError`` if it did not."""
        if meta.get("format") != FORMAT:
            raise ValueError(f"it holds {meta.get('format')!r}")
        if meta["version"] > FORMAT_VERSION:
            raise ValueError(f"it has format version {meta['version']}; this release reads {FORMAT_VERSION}")
        exact = meta["exactness"]
        if exact is not None:
            units, with_expert = frozenset(exact["units"]), frozenset(exact.get("expert_units", ()))
            exact = Exactness(exact["everything"], units, exact["statistic"], with_expert)
        fields = {"vocab_size": meta["vocab_size"], "source": meta["source"], "exactness": exact}
        return {**fields, "end_token": meta.get("end_token")}

    def to_minari(self, dataset_id: str, **options: Any) -> Any:
        """Deprecated: `ntp_envs.data.to_minari` with these demonstrations first."""
        return _moved("to_minari")(self, dataset_id, **options)

    @classmethod
    def from_minari(cls, dataset: Any) -> Demonstrations:
        """Deprecated: `ntp_envs.data.from_minari`."""
        return _moved("from_minari")(dataset)

    def to_imitation(self, **options: Any) -> Any:
        """Deprecated: `ntp_envs.data.to_imitation` with these demonstrations first."""
        return _moved("to_imitation")(self, **options)


# -- many demonstrations, made some at a time --------------------------------------------------------------------------

#: what a folder holds beside an ``.npy`` file for each array: this when it is finished, the other before
FINISHED, BEGUN = "demonstrations.json", "unfinished.json"


class Growing:
    """The arrays of demonstrations that are made some rows at a time: in memory, or in a folder.

    Args:
        arrays: the shape and type of each field.
        folder: where to, or ``None``. What an interrupted process has left there is gone on with.
        identity: what must be the same for that, as JSON.

    Attributes:
        done: rows that are there.

    Raises:
        FileExistsError: the folder holds something else.
    """

    def __init__(
        self, arrays: dict[str, tuple[tuple[int, int], Any]], folder: str | Path | None, identity: dict[str, Any]
    ) -> None:
        self.folder, self.done = None if folder is None else Path(folder), 0
        self.identity = {**identity, "arrays": _described(arrays)}
        if self.folder is None:
            self.arrays: dict[str, NDArray[Any]] = {name: np.empty(*of) for name, of in arrays.items()}
            return
        self.folder.mkdir(parents=True, exist_ok=True)
        if any(self.folder.iterdir()):
            self.done = self._left(self.folder)
        self.arrays = {
            name: np.lib.format.open_memmap(self.folder / f"{name}.npy", "r+" if self.done else "w+", kind, shape)
            if 0 not in shape
            else np.empty(shape, kind)
            for name, (shape, kind) in arrays.items()
        }

    def _left(self, folder: Path) -> int:
        for name in (FINISHED, BEGUN):
            if (folder / name).is_file():
                found = json.loads((folder / name).read_text(encoding="utf-8"))
                if found.get("identity") == self.identity:
                    return int(found["done"])
        raise FileExistsError(
            f"out={str(folder)!r} holds something else than these demonstrations, as far as they were made (same task, "
            "n, options and state of rng); give a new folder, or remove what is there."
        )

    def put(self, **values: NDArray[Any]) -> None:
        """The next rows of every array."""
        rows = slice(self.done, self.done + len(values["tokens"]))
        for name, array in self.arrays.items():
            array[rows] = values[name]
            if isinstance(array, np.memmap):
                array.flush()
        self.done = rows.stop
        self._say(BEGUN, {})

    def _say(self, name: str, about: dict[str, Any]) -> None:
        if self.folder is not None:
            with whole(self.folder / name) as new:
                new.write_text(json.dumps({**about, "identity": self.identity, "done": self.done}), encoding="utf-8")

    def finish(self, **about: Any) -> Demonstrations:
        """All of them, with the other fields."""
        for array in self.arrays.values():
            array.flags.writeable = False
        fields: dict[str, Any] = {**self.arrays, **about}
        found = Demonstrations(**fields)
        if self.folder is None:
            return found
        self._say(FINISHED, found._metadata())
        (self.folder / BEGUN).unlink(missing_ok=True)
        self.arrays.clear()
        return Demonstrations.load(self.folder)


def _described(arrays: dict[str, tuple[tuple[int, int], Any]]) -> dict[str, Any]:
    return {name: [np.dtype(kind).str, *shape] for name, (shape, kind) in arrays.items()}


def _mapped(folder: Path) -> dict[str, Any]:
    """The fields of `Demonstrations` in a folder."""
    if not (folder / FINISHED).is_file():
        if not (folder / BEGUN).is_file():
            raise ValueError(f"a folder without {FINISHED}")
        done = json.loads((folder / BEGUN).read_text(encoding="utf-8"))["done"]
        raise ValueError(f"only the first {done} demonstrations are there: collect with the same arguments again")
    meta = json.loads((folder / FINISHED).read_text(encoding="utf-8"))
    listed: dict[str, Any] = meta["identity"]["arrays"]
    if unknown := sorted(listed.keys() - ARRAYS):
        raise ValueError(f"it holds an array {unknown[0]!r}")
    arrays: dict[str, Any] = {
        name: np.load(folder / f"{name}.npy", mmap_mode="r", allow_pickle=False)
        if 0 not in shape
        else np.empty(shape, kind)
        for name, (kind, *shape) in listed.items()
    }
    if _described({name: (array.shape, array.dtype) for name, array in arrays.items()}) != listed:
        raise ValueError("its arrays are not those that it lists")
    return {**arrays, **Demonstrations._read_metadata(meta)}


def _moved(name: str) -> Callable[..., Any]:
    """What was a method and is a function of `ntp_envs.data`, above this module, as long as the old name answers."""
    renamed(f"Demonstrations.{name}", f"the function ntp_envs.data.{name}", stacklevel=3)
    return getattr(importlib.import_module("ntp_envs.data"), name)


def _own(given: Any, array: NDArray[Any]) -> NDArray[Any]:
    """``array`` read-only, copied if whoever holds ``given`` could still change it."""
    fresh = isinstance(given, (list, tuple)) or (
        isinstance(given, np.ndarray) and not np.may_share_memory(given, array)
    )
    if not fresh and not _is_frozen(array):
        array = array.copy()
    array.flags.writeable = False
    return array


def _is_frozen(array: Any) -> bool:
    """Whether nobody can write to this memory: read-only from the view to what it is a view of, bytes or a file."""
    while isinstance(array, np.ndarray):
        if array.flags.writeable:
            return False
        array = array.base
    return array is None or isinstance(array, (bytes, mmap.mmap))


def as_json(value: Any, place: str, *, otherwise: Callable[[Any], Any] | None = None) -> Any:
    """``value`` as it comes back from JSON, so that what is read equals what was written.

    What JSON cannot hold becomes ``otherwise`` of it, or is a ``TypeError`` that names its ``place``.
    """
    if isinstance(value, dict):
        return {str(key): as_json(item, f"{place}[{key!r}]", otherwise=otherwise) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [as_json(item, f"{place}[{index}]", otherwise=otherwise) for index, item in enumerate(value)]
    value = value.item() if isinstance(value, np.generic) else value
    if value is None or isinstance(value, (str, int, float)):
        return value
    if otherwise is not None:
        return otherwise(value)
    fix = "use .tolist()" if isinstance(value, np.ndarray) else "use a number, text, a list or a mapping"
    raise TypeError(f"{place} is a {type(value).__name__}, which a file of demonstrations cannot hold; {fix}.")

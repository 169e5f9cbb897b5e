"""Files that hold values and run nothing: how agents and policies are kept, and archives read as if they were forged.

A pickle is a program, which runs when it is loaded. A file of this format says what there is: it is a zip archive with
an ``.npy`` file for every array and ``structure.json``, a list of nodes, each a list, a mapping, an array or an object
with its attributes. A node refers only to nodes before it, so that reading neither recurses nor meets a circle, and
what was shared is shared again. Objects are made without a call of their class; which classes there are the reader
knows, not the file: those of this project that are `Savable`, and those that whoever loads it names.

Weights of networks are arrays among the others: an ``.npy`` file is as harmless as one of safetensors, needs no other
library, and keeps a policy in one file.
"""

from __future__ import annotations

import dataclasses
import dis
import hashlib
import importlib
import io
import json
import math
import operator
import os
import zipfile
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from functools import cache, cached_property
from pathlib import Path, PurePath
from types import MethodType
from typing import IO, Any, ClassVar

import numpy as np
from numpy.typing import NDArray

#: what unpacks, or says that it unpacks, to more bytes is not read unless asked for: 500 million tokens
MAX_BYTES = 2**32
#: as JSON is far larger in memory than in a file
MAX_STRUCTURE = 2**27
#: tables are made for a vocabulary when some policies are loaded: a larger one is a forgery
MAX_VOCABULARY = 2**24

STRUCTURE, FORMAT_VERSION = "structure.json", 2  # version 1 was a pickle
#: how the name of a file begins that is being written, see `whole`
UNFINISHED = ".unfinished-"
OURS = ("ntp_envs", "agents")
#: whose state, whatever it is, points nowhere in memory
GENERATORS = ("PCG64", "PCG64DXSM")


class Savable:
    """What files may hold: its attributes, unless it has a ``__getstate__`` and ``__setstate__`` of its own.

    The second is called on what a file says, which it does not trust.
    """

    #: methods that may stand as values
    savable_methods: ClassVar[frozenset[str]] = frozenset()

    def saved_state(self) -> dict[str, Any]:
        """The attributes to keep: what ``__getstate__`` says, or all but what is derived when it is asked for."""
        kinds = type(self).__mro__[:-1]  # since Python 3.11 every object has a __getstate__
        if any("__getstate__" in vars(kind) for kind in kinds):
            state: Any = self.__getstate__()
            return state
        cached = {name for kind in kinds for name, value in vars(kind).items() if isinstance(value, cached_property)}
        return {name: value for name, value in vars(self).items() if name not in cached}


class UnsavableError(ValueError):
    """Something that a file without pickle cannot hold, and where it is: ``"policy_.function"``."""

    def __init__(self, where: str, what: str) -> None:
        super().__init__(f"{where or 'it'} {what}")
        self.where = where


def place_of(kind: type) -> str:
    """A class as files name it."""
    return f"{kind.__module__}:{kind.__qualname__}"


@contextmanager
def whole(path: Path) -> Iterator[Path]:
    """Where to write what is to take the place of a file at once, when it is whole, or not at all.

    The suffix stays. What is there and is no regular file, such as a pipe, is written to as it is.
    """
    if path.exists() and not path.is_file():
        yield path
        return
    path = path.resolve()  # a link stays one
    partial = path.with_name(f"{UNFINISHED}{os.urandom(6).hex()}{path.suffix}")
    try:
        yield partial
        os.replace(partial, path)
    finally:
        partial.unlink(missing_ok=True)


# -- writing -----------------------------------------------------------------------------------------------------------


def write(path: str | Path | IO[bytes], root: Any, *, form: str) -> None:
    """Write a value, and all that it is made of, to a file.

    Args:
        path: of the file, which is replaced, or a stream.
        root: of plain Python values, arrays and tensors, NumPy generators, and objects of `Savable` classes.
        form: what the file says that it is.

    Raises:
        UnsavableError: something else, or a circle, in it.
    """
    writer = _Writer()
    try:
        top = writer.value(root, "")
    except RecursionError:
        raise UnsavableError("", "is nested too deeply") from None
    structure = {"format": form, "version": FORMAT_VERSION, "nodes": writer.nodes, "root": top}
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr(STRUCTURE, json.dumps(structure))
        for number, array in enumerate(writer.arrays):
            with archive.open(f"{number}.npy", "w", force_zip64=True) as file:
                np.lib.format.write_array(file, array, allow_pickle=False)


class _Writer:
    """Values as JSON holds them: ``[3]`` is node 3, and a node ``[kind, what it is made of]``."""

    def __init__(self) -> None:
        self.nodes: list[list[Any]] = []
        self.arrays: list[NDArray[Any]] = []
        self.places: dict[int, list[int] | None] = {}  # by id; None while it is being written
        self.kept: list[Any] = []  # so that ids stay theirs

    def value(self, value: Any, where: str) -> Any:
        if value is None or type(value) in (bool, int, float, str):
            return value
        if id(value) not in self.places:
            self.places[id(value)] = None
            self.kept.append(value)
            self.nodes.append(self.node(value, where))
            self.places[id(value)] = [len(self.nodes) - 1]
        place = self.places[id(value)]
        if place is None:
            raise UnsavableError(where, "holds itself")
        return place

    def node(self, value: Any, where: str) -> list[Any]:
        kind = type(value)
        if kind in (set, frozenset):
            return [kind.__name__, [self.value(item, where) for item in sorted(value, key=_in_words)]]
        if kind in (list, tuple):
            return [kind.__name__, [self.value(item, f"{where}[{i}]") for i, item in enumerate(value)]]
        if kind is dict:
            return ["dict", [[self.value(k, where), self.value(v, _inside(where, k))] for k, v in value.items()]]
        if isinstance(value, np.generic) or kind is np.ndarray:
            return ["array" if kind is np.ndarray else "scalar", self.array(np.asarray(value), where)]
        if kind.__module__ == "torch" and kind.__qualname__ == "Tensor":
            try:
                return ["tensor", self.array(value.detach().cpu().numpy(), where)]
            except TypeError as error:  # a type of numbers that NumPy does not have
                raise UnsavableError(where, f"is a tensor of {value.dtype}, which an array cannot hold") from error
        if isinstance(value, PurePath):
            return ["path", os.fspath(value)]
        if isinstance(value, np.random.Generator):
            state = value.bit_generator.state
            if state["bit_generator"] not in GENERATORS:
                raise UnsavableError(where, f"is a generator other than {' and '.join(GENERATORS)}")
            return ["generator", state["bit_generator"], self.value(state, where)]
        if kind is MethodType and value.__name__ in getattr(value.__self__, "savable_methods", ()):
            return ["method", value.__name__, self.value(value.__self__, where)]
        if not isinstance(value, Savable) or isinstance(value, type):
            raise UnsavableError(where, f"is {value!r:.200}, which a file without pickle cannot hold")
        state = value.saved_state()
        if type(state) is not dict:
            raise UnsavableError(where, f"is a {kind.__name__}, whose __getstate__ gives no dict of attributes")
        return ["object", place_of(kind), self.value(state, where)]

    def array(self, array: NDArray[Any], where: str) -> int:
        if array.dtype.hasobject or array.dtype.names:
            raise UnsavableError(where, f"is an array of {array.dtype}, which a file without pickle cannot hold")
        self.arrays.append(array)
        return len(self.arrays) - 1


def _in_words(item: Any) -> str:
    """What the items of a set are ordered by: the order of hashes, of sets within them too, is another each process."""
    if isinstance(item, (tuple, frozenset)):
        words = [_in_words(each) for each in item]
        return f"{type(item).__qualname__} {sorted(words) if isinstance(item, frozenset) else words}"
    return f"{type(item).__qualname__} {item!r}"


def _inside(where: str, key: Any) -> str:
    if not (isinstance(key, str) and key.isidentifier()):
        return f"{where}[{key!r:.40}]"
    return f"{where}.{key}" if where else key


# -- reading -----------------------------------------------------------------------------------------------------------


def read(
    found: dict[str, bytes], *, form: str, trusted: Iterable[type] = (), max_structure: int = MAX_STRUCTURE
) -> Any:
    """What `write` was given, from the entries of its archive (`read_archive`).

    Args:
        found: the entries, by name.
        form: what the file must say that it is.
        trusted: classes of others than this project that may be in it, and their ``__setstate__`` be called.
        max_structure: refuse a structure of more bytes.

    Raises:
        ValueError: the file is of something else, or of a newer version; it names a class that is not trusted.
        Exception: of a damaged or forged file, a dozen kinds; the caller makes one error of them.
    """
    if len(found[STRUCTURE]) > max_structure:
        raise ValueError(f"its {STRUCTURE} has {len(found[STRUCTURE])} bytes, more than {max_structure}")
    structure = json.loads(found[STRUCTURE])
    if structure["format"] != form:
        raise ValueError(f"it holds {structure['format']!r:.200}")
    if structure["version"] != FORMAT_VERSION:
        raise ValueError(f"it has format version {structure['version']!r:.200}; this release reads {FORMAT_VERSION}")
    reader = _Reader(found, {place_of(kind): kind for kind in trusted})
    for node in structure["nodes"]:
        reader.built.append(reader.node(*node))
    return reader.value(structure["root"])


class _Reader:
    def __init__(self, found: dict[str, bytes], trusted: dict[str, type]) -> None:
        self.found, self.trusted, self.built = found, trusted, list[Any]()

    def value(self, value: Any) -> Any:
        """A plain value, or a node that has been built."""
        if not isinstance(value, list):
            if isinstance(value, dict):
                raise ValueError("its structure has a mapping where a value should be")
            return value
        (number,) = value
        if type(number) is not int or not 0 <= number < len(self.built):
            raise ValueError(f"its node {len(self.built)} refers to node {number!r:.40}, which is not before it")
        return self.built[number]

    def node(self, kind: str, content: Any, more: Any = None) -> Any:
        sequences: dict[str, Callable[[Any], Any]] = {
            "list": list,
            "tuple": tuple,
            "set": set,
            "frozenset": frozenset,
        }
        if kind in sequences:
            return sequences[kind](map(self.value, content))
        if kind == "dict":
            return {self.value(key): self.value(item) for key, item in content}
        if kind in ("array", "scalar", "tensor"):
            name = f"{operator.index(content)}.npy"
            array = array_of(name, self.found[name]).copy("K")  # of its own, and to be written to
            if kind == "tensor":
                return importlib.import_module("torch").from_numpy(array)
            return array if kind == "array" else array[()]
        if kind == "path":
            return Path(content)
        if kind == "generator":
            if content not in GENERATORS:
                raise ValueError(f"it names a generator {content!r:.40}, not {' or '.join(GENERATORS)}")
            generator = getattr(np.random, content)(0)
            generator.state = self.value(more)
            return np.random.Generator(generator)
        if kind == "method":
            owner = self.value(more)
            if not isinstance(owner, Savable) or content not in owner.savable_methods:
                raise ValueError(f"it names a method {content!r:.40} of a {type(owner).__name__}, which is no value")
            return getattr(owner, content)
        if kind == "object":
            return self.object(content, self.value(more))
        raise ValueError(f"its structure has a node of an unknown kind {kind!r:.40}")

    def object(self, place: str, state: Any) -> Any:
        kind = self.trusted.get(place) or our_class(place)
        if type(state) is not dict:
            raise ValueError(f"its {place} has no attributes but a {type(state).__name__}")
        for name in state:
            if type(name) is not str or name.startswith("__") or callable(getattr(kind, name, None)):
                raise ValueError(f"its {place} has {name!r:.40}, which is no attribute to be set")
        if kind.__module__.partition(".")[0] in OURS and "vocab_size" in state:
            size = state["vocab_size"]
            if type(size) is not int or not 1 <= size <= MAX_VOCABULARY:
                raise ValueError(f"its {place} has vocab_size={size!r:.40}, not a number from 1 to {MAX_VOCABULARY}")
        made: Any = object.__new__(kind)
        if hasattr(kind, "__setstate__"):
            made.__setstate__(state)
        else:
            vars(made).update(state)
        if kind.__module__.partition(".")[0] in OURS and (missing := assigned(kind) - {*vars(made), *dir(kind)}):
            raise ValueError(f"its {place} has no {', '.join(sorted(missing))}, without which it cannot be used")
        return made


@cache
def assigned(kind: type) -> frozenset[str]:
    """The attributes that an object of a class has from its start: ``__init__``, and what it calls above, give them."""
    found = (
        {field.name for field in dataclasses.fields(kind) if field.init} if dataclasses.is_dataclass(kind) else set()
    )
    for own in (base.__init__ for base in kind.__mro__ if "__init__" in vars(base)):  # type: ignore[misc]
        if (code := getattr(own, "__code__", None)) is None:
            break
        found |= {each.argval for each in dis.get_instructions(code) if each.opname == "STORE_ATTR"}
        if "super" not in code.co_names:
            break
    return frozenset(found)


def our_class(place: str) -> type:
    """The `Savable` class of this project that a file names; nothing else is imported, or looked at.

    Raises:
        ValueError: something else; the message says how classes of one's own are read.
    """
    module, _, name = place.partition(":")
    if module.partition(".")[0] not in OURS:
        raise ValueError(
            f"it holds a {place!r:.200}, which is not a class of ntp-envs; if it is one that you trust, give it: "
            f"load(path, trusted=[{name:.80}]), or list it in the agent's trusts"
        )
    kind: Any = None
    if all(part.isidentifier() and not part.startswith("__") for part in module.split(".")):
        kind = getattr(importlib.import_module(module), name, None)
    if not (isinstance(kind, type) and issubclass(kind, Savable) and place_of(kind) == place):
        raise ValueError(f"it holds a {place!r:.200}, which is not a class of this release that files may hold")
    return kind


# -- archives and arrays, from whoever: every size is checked before memory is taken for it ----------------------------


def check_size(what: Any, size: int, max_bytes: int) -> None:
    """``ValueError`` where something, by its own word, takes more bytes in memory than it may."""
    if size > max_bytes:
        raise ValueError(f"{what} unpacks to {size} bytes, more than max_bytes={max_bytes}; raise that if it is right")


def read_archive(path: str | Path, max_bytes: int) -> dict[str, bytes]:
    """What is in the archive, by name.

    Raises:
        FileNotFoundError: no such file.
        Exception: of a damaged file, anything that the standard library raises; the caller makes one error of them.
    """
    with zipfile.ZipFile(path) as archive:
        entries = archive.infolist()
        if len({entry.filename for entry in entries}) < len(entries):
            raise ValueError("it holds two entries of one name")
        check_size("it", sum(entry.file_size for entry in entries), max_bytes)
        found = {}
        for entry in entries:
            if entry.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):  # others unpack without a limit
                raise ValueError(f"{entry.filename} is packed by method {entry.compress_type}, which np.savez is not")
            with archive.open(entry) as file:
                found[entry.filename] = file.read(entry.file_size + 1)  # no more, whatever is there
            if len(found[entry.filename]) != entry.file_size:
                raise ValueError(f"{entry.filename} is shorter than it says")
        return found


def read_arrays(path: str | Path, max_bytes: int) -> dict[str, NDArray[Any]]:
    """The arrays of an ``.npz`` file, by name and read-only; raises as `read_archive`."""
    return {name.removesuffix(".npy"): array_of(name, data) for name, data in read_archive(path, max_bytes).items()}


def array_of(name: str, data: bytes) -> NDArray[Any]:
    """The array in the bytes of an ``.npy`` file, read-only and without a copy; its header must fit its length."""
    stream = io.BytesIO(data)
    version = np.lib.format.read_magic(stream)
    if version not in ((1, 0), (2, 0)):
        raise ValueError(f"{name} has the .npy version {version}")
    read_header = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
    shape, fortran_order, dtype = read_header(stream)
    start, count = stream.tell(), math.prod(shape)
    if dtype.hasobject or min(shape, default=0) < 0 or count * dtype.itemsize != len(data) - start:
        raise ValueError(f"{name} has the shape {shape} and dtype {dtype}, which is not what follows")
    flat = np.frombuffer(data, dtype=dtype, count=count, offset=start) if count else np.empty(0, dtype=dtype)
    return flat.reshape(shape, order="F" if fortran_order else "C")


def array_digest(array: NDArray[Any]) -> str:
    """SHA-256 of an array: of its type, its shape and its entries."""
    found = hashlib.sha256(f"{array.dtype.str} {array.shape} ".encode())
    if array.size:
        found.update(np.ascontiguousarray(array).data)
    return found.hexdigest()

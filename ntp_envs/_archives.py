"""Zip archives read as if they were damaged or forged: every size is checked before memory is taken for it."""

from __future__ import annotations

import hashlib
import io
import math
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

__all__ = ["MAX_BYTES", "array_digest", "array_of", "read_archive"]

#: an archive that unpacks to more is not read unless asked for: 500 million tokens
MAX_BYTES = 2**32


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
        claimed = sum(entry.file_size for entry in entries)
        if claimed > max_bytes:
            raise ValueError(f"it says that it unpacks to {claimed} bytes, more than max_bytes={max_bytes}")
        found = {entry.filename: archive.read(entry) for entry in entries}
        for entry in entries:
            if len(found[entry.filename]) != entry.file_size:
                raise ValueError(f"{entry.filename} is shorter than it says")
        return found


def array_of(name: str, data: bytes) -> NDArray[Any]:
    """The array in the bytes of an ``.npy`` file, read-only and without a copy; its header must fit its length."""
    stream = io.BytesIO(data)
    version = np.lib.format.read_magic(stream)
    if version not in ((1, 0), (2, 0)):
        raise ValueError(f"{name} has the .npy version {version}")
    read = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
    shape, fortran_order, dtype = read(stream)
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

"""I/O: IDX, the format of MNIST.

Two zero bytes, a type, the number of dimensions, each size in big-endian order, the values (LeCun,
Cortes, Burges, "The MNIST database", section "the IDX file format").
"""

from __future__ import annotations

from math import prod
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from models.data.files import Cursor, DataError, contents

TYPES = {0x08: "u1", 0x09: "i1", 0x0B: ">i2", 0x0C: ">i4", 0x0D: ">f4", 0x0E: ">f8"}
MOST_DIMENSIONS = 8
Pair = tuple[NDArray[np.float32], NDArray[np.int64]]


def read(place: str | Path) -> NDArray[Any]:
    """The array in a file, `.gz` or not, in this machine's byte order. Raises DataError."""
    cursor = Cursor(contents(place), place)
    zero, kind, dimensions = cursor.take(2, "the magic number"), *cursor.take(2, "the type")
    if zero != b"\0\0" or kind not in TYPES or not 1 <= dimensions <= MOST_DIMENSIONS:
        cursor.at = 0
        raise cursor.error("is no IDX file: it begins with another magic number")
    sizes = [int.from_bytes(cursor.take(4, "a dimension")) for _ in range(dimensions)]
    dtype = np.dtype(TYPES[kind])
    wanted = prod(sizes) * dtype.itemsize
    if wanted != cursor.left:
        shape = " x ".join(map(str, sizes))
        raise cursor.error(f"{shape} values take {wanted} bytes, and {cursor.left} are there")
    array = np.frombuffer(cursor.take(wanted, "the values"), dtype).reshape(sizes)
    return array.astype(dtype.newbyteorder("="))


def images(place: str | Path, labels: str | Path) -> Pair:
    """Pictures (N, H, W) in [0, 1] and their labels (N,). Raises DataError if they do not pair."""
    pictures, classes = read(place), read(labels)
    if pictures.ndim != 3 or pictures.dtype != np.uint8:
        raise DataError(f"{place}: holds an array of {pictures.ndim} dimensions, not images")
    if classes.shape != pictures.shape[:1] or classes.dtype != np.uint8:
        raise DataError(
            f"{labels}: holds {classes.shape} labels for the {len(pictures)} images of {place}"
        )
    return (pictures / np.float32(255)).astype(np.float32, copy=False), classes.astype(np.int64)

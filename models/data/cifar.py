"""I/O: the batches of CIFAR-10 and CIFAR-100, as Python 2 pickled them and in binary.

A pickle is a program. This one is read beforehand, opcode by opcode, and only those that build
dictionaries, lists, numbers, texts and arrays may be in it; the three names that it may call are
ours, which note what NumPy would have been given. So no code of the file runs, and no size that it
declares is believed.
"""

from __future__ import annotations

import io
import pickle
import pickletools
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from models.data.files import Cursor, DataError, contents

PIXELS = 3 * 32 * 32
MOST = 1 << 28  # bytes; CIFAR-100's largest has 155 MB
MOST_MEMO = 1 << 20  # entries of a pickle's memory; they have one for each file name
MOST_OPCODES = 1 << 20  # an empty dictionary takes one byte of a pickle and 64 of memory
MOST_CALLS = 8  # of a pickle; an array takes four, and each can copy what it is given
HARMLESS = """
PROTO FRAME STOP MARK NONE NEWTRUE NEWFALSE INT BININT BININT1 BININT2 LONG1
EMPTY_DICT DICT SETITEM SETITEMS EMPTY_LIST LIST APPEND APPENDS
EMPTY_TUPLE TUPLE TUPLE1 TUPLE2 TUPLE3
STRING BINSTRING SHORT_BINSTRING UNICODE BINUNICODE SHORT_BINUNICODE BINBYTES SHORT_BINBYTES
PUT BINPUT LONG_BINPUT GET BINGET LONG_BINGET MEMOIZE
GLOBAL STACK_GLOBAL REDUCE BUILD
"""
OPCODES = frozenset(HARMLESS.split())
CLASS_KEYS = (b"labels", "labels", b"fine_labels", "fine_labels")
DATA_KEYS = (b"data", "data")

Pair = tuple[NDArray[np.float32], NDArray[np.int64]]


def read(place: str | Path) -> Pair:
    """Images (N, 3, 32, 32) in [0, 1] and labels (N,); of CIFAR-100 the fine ones."""
    data = contents(place, MOST)
    for labels in (1, 2):  # of an image in binary: CIFAR-10 has one, CIFAR-100 a coarse one before
        if len(data) % (labels + PIXELS) == 0 and not str(place).endswith(".pkl"):
            return _binary(data, labels)
    return _pickled(data, place)


def _binary(data: bytes, labels: int) -> Pair:
    records = np.frombuffer(data, np.uint8).reshape(-1, labels + PIXELS)
    return _pair(records[:, labels:], records[:, labels - 1])


def _pickled(data: bytes, place: str | Path) -> Pair:
    _scan(data, place)
    try:
        batch = _Unpickler(io.BytesIO(data), encoding="bytes").load()
    except DataError as error:
        raise DataError(f"{place}: {error}") from None
    except Exception as error:  # a pickle that lies about itself fails in any way it likes
        raise DataError(f"{place}: is a broken pickle: {error}") from None
    if not isinstance(batch, dict):
        raise DataError(f"{place}: holds {type(batch).__name__}, not a batch of CIFAR")
    pixels = next((batch[key] for key in DATA_KEYS if key in batch), None)
    labels = next((batch[key] for key in CLASS_KEYS if key in batch), None)
    if not isinstance(pixels, _Array) or not isinstance(labels, list):
        raise DataError(f"{place}: lacks 'data' or 'labels', so it is no batch of CIFAR")
    raw = pixels.raw
    if len(raw) != PIXELS * len(labels) or not labels:
        raise DataError(f"{place}: holds {len(raw)} bytes of images and {len(labels)} labels")
    if not all(type(label) is int and 0 <= label < 100 for label in labels):
        raise DataError(f"{place}: holds a label that is not 0 to 99")
    return _pair(np.frombuffer(raw, np.uint8).reshape(-1, PIXELS), np.array(labels))


def _pair(pixels: NDArray[np.uint8], labels: NDArray[Any]) -> Pair:
    images = pixels.reshape(-1, 3, 32, 32) / np.float32(255)
    return images.astype(np.float32, copy=False), labels.astype(np.int64)


def _scan(data: bytes, place: str | Path) -> None:
    """Raises DataError at the first opcode that has no business here."""
    cursor, opcodes, calls = Cursor(data, place), 0, 0
    try:
        for code, argument, at in pickletools.genops(data):
            cursor.at = at or 0
            if code.name not in OPCODES:
                raise cursor.error(f"pickle opcode {code.name} is not for data")
            if code.name in ("PUT", "LONG_BINPUT") and not 0 <= (argument or 0) < MOST_MEMO:
                raise cursor.error(f"a pickle's memory of {argument} entries is above {MOST_MEMO}")
            opcodes += 1
            if opcodes > MOST_OPCODES:
                raise cursor.error(f"a pickle has more than {MOST_OPCODES} opcodes")
            calls += code.name == "REDUCE"
            if calls > MOST_CALLS:
                raise cursor.error(f"a pickle makes more than {MOST_CALLS} calls")
    except DataError:
        raise
    except Exception as error:  # genops raises whatever the bytes make it raise
        raise cursor.error(f"neither CIFAR in binary nor a whole pickle: {error}") from None


class _Array:
    """What a pickle says of an array."""

    raw = b""

    def __setstate__(self, state: Any) -> None:
        *_, raw = state
        if isinstance(raw, str):  # Python 3 writes bytes for protocol 2 as latin-1 text
            raw = raw.encode("latin-1")
        if not isinstance(raw, bytes):
            raise DataError("the pickle holds an array of objects")
        self.raw = raw


class _Type:
    """What a pickle says of a dtype: nothing that we need, the size tells."""

    def __init__(self, *_: object) -> None:
        pass

    def __setstate__(self, state: object) -> None:
        pass


def _encoded(text: object, _: object = "latin1") -> bytes:
    if not isinstance(text, str):
        raise DataError("the pickle encodes what is no text")
    return text.encode("latin-1")


STANDINS: dict[tuple[str, str], Any] = {
    **{
        (module, "_reconstruct"): lambda *_: _Array()
        for module in ("numpy.core.multiarray", "numpy._core.multiarray")
    },
    ("numpy", "ndarray"): None,
    ("numpy", "dtype"): _Type,
    ("_codecs", "encode"): _encoded,
}


class _Unpickler(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        """Only our stand-ins for what NumPy writes."""
        if (module, name) not in STANDINS:
            raise DataError(f"the pickle wants to call {module}.{name}, which is not for data")
        return STANDINS[module, name]

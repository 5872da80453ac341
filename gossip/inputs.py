"""What is asked for a prediction, from bytes: JSON, NumPy's npy, tensors of the Open Inference
Protocol, or a file that the learner itself can read.

JSON has no bytes, so a tensor of files holds them as base64 and says so, as MLServer's clients do:
`"datatype": "BYTES", "parameters": {"content_type": "base64"}`.

Whoever asks has the token, but may err: all sizes are checked before anything is made of them.
"""

from __future__ import annotations

import binascii
import json
from base64 import b64decode
from io import BytesIO
from math import prod
from typing import Any

import numpy as np
from numpy.lib import format as npy

from gossip.errors import PredictionRefused
from gossip.routes import JSON

NPY = "application/x-npy"
FILE = "application/octet-stream"
DATATYPES = {
    "BOOL": np.dtype(np.bool_),
    **{f"UINT{8 * size}": np.dtype(f"u{size}") for size in (1, 2, 4, 8)},
    **{f"INT{8 * size}": np.dtype(f"i{size}") for size in (1, 2, 4, 8)},
    **{f"FP{8 * size}": np.dtype(f"f{size}") for size in (2, 4, 8)},
}


def read(media: str, body: bytes) -> list[Any]:
    """The inputs in the body of a request; one, if it is neither JSON nor npy.

    Raises PredictionRefused.
    """
    if media == JSON:
        asked = _object(body)
        if not isinstance(asked.get("inputs"), list):
            raise PredictionRefused('it takes {"inputs": [...]}, one entry for each input')
        return list(asked["inputs"])
    if media == NPY:
        return _rows(_array(body))
    return [body]


def tensors(body: bytes) -> tuple[list[Any], list[str] | None, str | None]:
    """The inputs in a request for inference, the names of the outputs that are wanted (None: all),
    and the request's id. Raises PredictionRefused.
    """
    asked = _object(body)
    given = asked.get("inputs")
    if not isinstance(given, list) or len(given) != 1 or not isinstance(given[0], dict):
        raise PredictionRefused("it takes one tensor in inputs, of shape [batch, ...]")
    tensor = given[0]
    shape, datatype, data = tensor.get("shape"), tensor.get("datatype"), tensor.get("data")
    if not isinstance(shape, list) or not shape or not all(type(n) is int for n in shape):
        raise PredictionRefused(f"shape is a list of whole numbers, [batch, ...], not {shape!r}")
    if not isinstance(data, list):
        raise PredictionRefused("data is a list of values; binary tensors are not taken")
    wanted = asked.get("outputs")
    names = None
    if wanted is not None:
        try:
            names = [str(one["name"]) for one in wanted]
        except (LookupError, TypeError):
            raise PredictionRefused('outputs is a list of {"name": NAME}') from None
    if datatype != "BYTES":
        rows = _numbers(data, shape, datatype)
    elif _content_type(tensor) == "base64":
        rows = _files(_texts(data, shape))
    else:
        rows = _texts(data, shape)
    identity = asked.get("id")
    return rows, names, identity if isinstance(identity, str) else None


def _texts(data: list[Any], shape: list[int]) -> list[Any]:
    if shape not in ([len(data)], [len(data), 1]) or not all(isinstance(one, str) for one in data):
        raise PredictionRefused(f"BYTES are texts in a shape of [batch], not {shape}")
    return data


def _content_type(tensor: dict[str, Any]) -> object:
    parameters = tensor.get("parameters")
    return parameters.get("content_type") if isinstance(parameters, dict) else None


def _files(data: list[Any]) -> list[Any]:
    try:
        return [b64decode(one, validate=True) for one in data]
    except (binascii.Error, ValueError) as error:
        raise PredictionRefused(f"data is not base64: {error}") from None


def _numbers(data: list[Any], shape: list[int], datatype: object) -> list[Any]:
    kind = DATATYPES.get(str(datatype))
    if kind is None:
        raise PredictionRefused(f"datatype is BYTES or one of {', '.join(DATATYPES)}")
    try:
        array = np.asarray(data, dtype=kind)
    except (ValueError, TypeError, OverflowError) as error:
        raise PredictionRefused(f"data is not {datatype}: {error}") from None
    if min(shape) < 1 or array.size != prod(shape):
        raise PredictionRefused(f"data has {array.size} values, which is not the shape {shape}")
    return _rows(array.reshape(shape))


def _object(body: bytes) -> dict[str, Any]:
    try:
        found = json.loads(body)
    except (ValueError, RecursionError) as error:
        raise PredictionRefused(f"it is not JSON: {error}") from None
    if not isinstance(found, dict):
        raise PredictionRefused("it is not a JSON object")
    return found


def _array(body: bytes) -> np.ndarray[Any, Any]:
    """An array of numbers; nothing is allocated for more of them than are there."""
    stream = BytesIO(body)
    try:
        version = npy.read_magic(stream)
        header = npy.read_array_header_1_0 if version == (1, 0) else npy.read_array_header_2_0
        shape, fortran, dtype = header(stream)
    except Exception as error:  # NumPy parses the header as Python; it raises what that makes it
        raise PredictionRefused(f"it is not npy: {error}") from None
    if dtype.kind not in "biuf" or not shape:
        raise PredictionRefused(f"it takes an array (batch, ...) of numbers, not {dtype} {shape}")
    data = body[stream.tell() :]
    if min(shape) < 1 or prod(shape) * dtype.itemsize != len(data):
        raise PredictionRefused(f"{len(data)} bytes are not an array {shape} of {dtype}")
    return np.frombuffer(data, dtype).reshape(shape, order="F" if fortran else "C")


def _rows(array: np.ndarray[Any, Any]) -> list[Any]:
    rows: list[Any] = array.tolist()
    return rows

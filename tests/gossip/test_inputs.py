"""Inputs for predictions, from bytes."""

from __future__ import annotations

import json
from base64 import b64encode
from contextlib import suppress
from io import BytesIO

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gossip import inputs
from gossip.errors import PredictionRefused
from gossip.routes import JSON


def npy(array: object) -> bytes:
    stream = BytesIO()
    np.save(stream, np.asarray(array))
    return stream.getvalue()


def infer(**tensor: object) -> bytes:
    return json.dumps({"inputs": [{"name": "x"} | tensor]}).encode()


def test_json_and_npy_say_the_same() -> None:
    rows = [[1.0, 2.0], [3.0, 4.0]]
    assert inputs.read(JSON, json.dumps({"inputs": rows}).encode()) == rows
    assert inputs.read(inputs.NPY, npy(rows)) == rows
    assert inputs.read(inputs.NPY, npy(np.asfortranarray(rows))) == rows


def test_another_file_is_one_input() -> None:
    assert inputs.read("image/png", b"\x89PNG") == [b"\x89PNG"]


def test_a_tensor_is_a_batch_whether_its_data_are_nested_or_flat() -> None:
    for data in ([1, 2, 3, 4], [[1, 2], [3, 4]]):
        body = infer(shape=[2, 2], datatype="FP32", data=data)
        assert inputs.tensors(body) == ([[1.0, 2.0], [3.0, 4.0]], None, None)
    assert inputs.tensors(infer(shape=[2], datatype="BYTES", data=["a", "b"]))[0] == ["a", "b"]


def test_files_in_a_tensor_are_base64_that_says_so() -> None:
    files = [b"RIFF\0\xff", b""]
    coded = [b64encode(file).decode() for file in files]
    said = {"content_type": "base64"}
    body = infer(shape=[2], datatype="BYTES", data=coded, parameters=said)
    assert inputs.tensors(body)[0] == files
    for parameters in (None, {}, {"content_type": "str"}, "base64"):
        body = infer(shape=[2], datatype="BYTES", data=coded, parameters=parameters)
        assert inputs.tensors(body)[0] == coded
    for broken in ("UklGR", "%%%%", "é"):
        body = infer(shape=[1], datatype="BYTES", data=[broken], parameters=said)
        with pytest.raises(PredictionRefused, match="data is not base64"):
            inputs.tensors(body)


@pytest.mark.parametrize(
    ("body", "reason"),
    [
        (b"{", "not JSON"),
        (b"[" * 100_000, "not JSON"),
        (b"[]", "not a JSON object"),
        (b"{}", "one tensor"),
        (infer(shape=[3], datatype="FP32", data=[1, 2]), "not the shape"),
        (infer(shape=[-1, -2], datatype="FP32", data=[1, 2]), "not the shape"),
        (infer(shape=["2"], datatype="FP32", data=[1, 2]), "whole numbers"),
        (infer(shape=[2], datatype="FP128", data=[1, 2]), "datatype is"),
        (infer(shape=[2], datatype="INT8", data=[1, 2000]), "data is not INT8"),
        (infer(shape=[2], datatype="FP32", data=[1, "x"]), "data is not FP32"),
        (infer(shape=[2], datatype="FP32", data="ab"), "list of values"),
        (infer(shape=[2], datatype="BYTES", data=[1, 2]), "texts"),
    ],
)
def test_a_request_for_inference_that_makes_no_sense_says_why(body: bytes, reason: str) -> None:
    with pytest.raises(PredictionRefused, match=reason):
        inputs.tensors(body)


def test_an_array_that_claims_to_be_huge_is_not_allocated() -> None:
    header = npy([1.0]).replace(b"(1,)", b"(99999999999999,)")
    with pytest.raises(PredictionRefused, match="are not an array"):
        inputs.read(inputs.NPY, header.replace(b"      \n", b"\n", 1) + bytes(9))


@pytest.mark.parametrize("header", ["{'descr': (", "{1: 2, 'b': 3}", "{'shape': (True,)}"])
def test_a_header_that_is_no_header_is_refused(header: str) -> None:
    body = b"\x93NUMPY\x01\x00" + len(header).to_bytes(2, "little") + header.encode()
    with pytest.raises(PredictionRefused, match="it is not npy"):
        inputs.read(inputs.NPY, body)


def test_objects_are_never_unpickled() -> None:
    stream = BytesIO()
    np.save(stream, np.array([{}], dtype=object), allow_pickle=True)
    with pytest.raises(PredictionRefused, match="numbers"):
        inputs.read(inputs.NPY, stream.getvalue())


@given(st.binary(max_size=200), st.sampled_from([b"", b"\x93NUMPY\x01\x00", b"\x93NUMPY\x02\x00"]))
def test_no_bytes_do_more_than_be_refused(body: bytes, before: bytes) -> None:
    for read in (lambda: inputs.read(inputs.NPY, before + body), lambda: inputs.tensors(body)):
        with suppress(PredictionRefused):
            read()

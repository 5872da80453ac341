"""Every reader reads from wherever fsspec does: memory, files, and a store that speaks S3."""

from __future__ import annotations

import gzip
import io
import json
import os
import pickle
import wave
from collections.abc import Iterator
from pathlib import Path

import fsspec
import numpy as np
import pytest
from PIL import Image

from models import images
from models.data import cifar, files, folders, idx, sound, tables, texts, users
from models.data.files import DataError


@pytest.fixture
def s3() -> Iterator[str]:
    """A bucket of a server on this machine."""
    pytest.importorskip("s3fs")
    server = pytest.importorskip("moto.server").ThreadedMotoServer("127.0.0.1", 0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    settings = {
        "AWS_ENDPOINT_URL": f"http://{host}:{port}",
        "AWS_ACCESS_KEY_ID": "nobody",
        "AWS_SECRET_ACCESS_KEY": "nothing",
        "AWS_DEFAULT_REGION": "us-east-1",
    }
    before = dict(os.environ)
    os.environ.update(settings)
    try:
        fsspec.filesystem("s3", skip_instance_cache=True).mkdir("data")
        yield "s3://data/here"
    finally:
        server.stop()
        os.environ.clear()
        os.environ.update(before)


@pytest.fixture(params=["memory", "file", pytest.param("s3", marks=pytest.mark.slow)])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """A directory, as a URL."""
    match request.param:
        case "memory":
            return f"memory://{tmp_path.name}"
        case "file":
            return f"file://{tmp_path}"
        case _:
            found: str = request.getfixturevalue("s3")
            return found


def put(store: str, name: str, data: bytes) -> str:
    place = f"{store}/{name}"
    if store.startswith("file://"):
        Path(place.removeprefix("file://")).parent.mkdir(parents=True, exist_ok=True)
    with fsspec.open(place, "wb") as file:
        file.write(data)
    return place


def picture(shade: int) -> bytes:
    buffer = io.BytesIO()
    Image.new("L", (4, 4), shade).save(buffer, "PNG")
    return buffer.getvalue()


def word() -> bytes:
    buffer = io.BytesIO()
    with wave.open(buffer, "wb") as file:
        file.setparams((1, 2, 8000, 0, "NONE", ""))
        file.writeframes(bytes(800))
    return buffer.getvalue()


def idx_of(array: np.ndarray) -> bytes:
    sizes = b"".join(size.to_bytes(4) for size in array.shape)
    return bytes([0, 0, 8, array.ndim]) + sizes + array.tobytes()


def test_files_of_every_kind_are_read(store: str) -> None:
    numbers = np.arange(6, dtype=np.uint8).reshape(2, 3)
    assert np.array_equal(idx.read(put(store, "a.idx.gz", gzip.compress(idx_of(numbers)))), numbers)
    batch = {"data": np.zeros((2, 3072), np.uint8), "labels": [0, 1]}
    assert cifar.read(put(store, "batch", pickle.dumps(batch, 2)))[1].tolist() == [0, 1]
    assert sound.read(put(store, "a.wav", word()))[1] == 8000
    assert texts.read(put(store, "a.txt", b"eins")) == {"a.txt": "eins"}
    for name, data in (("a.csv", b"a,b\n1,x\n"), ("a.jsonl", b'{"a": "1", "b": "x"}\n')):
        assert list(tables.rows(put(store, name, data))) == [{"a": "1", "b": "x"}], name
    buffer = io.BytesIO()
    np.savez(buffer, x=numbers)
    assert np.array_equal(tables.arrays(put(store, "a.npz", buffer.getvalue()))["x"], numbers)
    leaf = {"users": ["u"], "num_samples": [1], "user_data": {"u": {"x": [1], "y": [2]}}}
    assert users.leaf(put(store, "leaf.json", json.dumps(leaf).encode())) == {"u": ([1], [2])}
    assert list(users.ratings(put(store, "u.data", b"1\t31\t2.5\t9\n"))) == [("1", "31", 2.5)]
    with pytest.raises(DataError, match=r"none\.csv: there is no such file"):
        list(tables.rows(f"{store}/none.csv"))


def test_parquet_is_read(store: str) -> None:
    pa = pytest.importorskip("pyarrow")
    parquet = pytest.importorskip("pyarrow.parquet")
    buffer = io.BytesIO()
    parquet.write_table(pa.table({"a": list(range(9000)), "b": ["x", None] * 4500}), buffer)
    found = list(tables.rows(put(store, "a.parquet", buffer.getvalue())))
    assert len(found) == 9000
    assert found[8999] == {"a": 8999, "b": None}


def test_directories_are_read(store: str) -> None:
    for name, data in (
        ("images/cat/1.png", picture(50)),
        ("images/dog/2.png", picture(200)),
        ("words/yes/anna_1.wav", word()),
        ("words/no/bob_1.wav", word()),
        ("words/testing_list.txt", b"no/bob_1.wav\n"),
        ("texts/a/one.txt", b"eins"),
    ):
        put(store, name, data)
    found = folders.files(f"{store}/images", folders.IMAGES)
    assert found.classes == ("cat", "dog")
    assert folders.picture(4, 1)(found.places[1]).mean() == pytest.approx(200 / 255)
    spoken = folders.files(f"{store}/words", folders.SOUNDS)
    assert spoken.speakers == ["bob", "anna"]
    assert spoken.named(folders.listed(f"{store}/words", "testing_list.txt")).tolist() == [
        True,
        False,
    ]
    assert texts.read(f"{store}/texts") == {"a/one.txt": "eins"}
    with pytest.raises(DataError, match="there is no such directory"):
        files.listing(f"{store}/none", (".png",))


def test_mnist_and_cifar_are_found_by_their_names(store: str) -> None:
    for part, count in (("train", 3), ("t10k", 2)):
        pixels, labels = np.zeros((count, 4, 4), np.uint8), np.arange(count, dtype=np.uint8)
        put(store, f"mnist/{part}-images-idx3-ubyte.gz", gzip.compress(idx_of(pixels)))
        put(store, f"mnist/{part}-labels-idx1-ubyte.gz", gzip.compress(idx_of(labels)))
    found = images.read(f"{store}/mnist")
    assert found.images.shape == (5, 1, 4, 4)
    assert found.testing.tolist() == [False] * 3 + [True] * 2
    for name in ("data_batch_1", "data_batch_2", "test_batch"):
        batch = {"data": np.zeros((2, 3072), np.uint8), "labels": [0, 9]}
        put(store, f"cifar/{name}", pickle.dumps(batch, 2))
    found = images.read(f"{store}/cifar")
    assert found.images.shape == (6, 3, 32, 32)
    assert len(found.classes) == 10

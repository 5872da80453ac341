"""Files that are missing, broken or meant to harm end in an error that names file and place."""

from __future__ import annotations

import gzip
import io
import os
import pickle
import struct
import tracemalloc
import wave
import zipfile
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from models.data import cifar, folders, idx, sound, tables, texts, users
from models.data.files import DataError

READERS: dict[str, Callable[[Any], Any]] = {
    "idx": idx.read,
    "cifar": cifar.read,
    "image.png": lambda place: folders.picture(8, 3)(str(place)),
    "word.wav": sound.read,
    "rows.csv": lambda place: list(tables.rows(place)),
    "rows.jsonl": lambda place: list(tables.rows(place)),
    "rows.parquet": lambda place: list(tables.rows(place)),
    "rows.csv.gz": lambda place: list(tables.rows(place)),
    "arrays.npz": tables.arrays,
    "leaf.json": users.leaf,
    "u.data": lambda place: list(users.ratings(place)),
    "text.txt": texts.read,
}
every_reader = pytest.mark.parametrize("name", READERS)


def put(directory: Path, name: str, data: bytes) -> Path:
    (directory / name).write_bytes(data)
    return directory / name


@every_reader
def test_a_missing_file_is_named(name: str, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=rf"missing/{name}: there is no such file"):
        READERS[name](tmp_path / "missing" / name)


@every_reader
def test_an_empty_file_is_named(name: str, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=name):
        READERS[name](put(tmp_path, name, b""))


@every_reader
@given(data=st.binary(min_size=1, max_size=200))
def test_no_bytes_raise_anything_else(
    name: str, tmp_path_factory: pytest.TempPathFactory, data: bytes
) -> None:
    path = put(tmp_path_factory.getbasetemp(), name, data)
    try:
        READERS[name](path)
    except DataError as error:
        assert name in str(error)  # noqa: PT017 - random bytes may be a file that is right


def whole() -> dict[str, bytes]:
    image, sound_, arrays = io.BytesIO(), io.BytesIO(), io.BytesIO()
    from PIL import Image

    Image.fromarray(np.arange(192, dtype=np.uint8).reshape(8, 8, 3)).save(image, "PNG")
    with wave.open(sound_, "wb") as file:
        file.setparams((1, 2, 8000, 0, "NONE", ""))
        file.writeframes(bytes(range(200)))
    np.savez(arrays, x=np.arange(50))
    return {
        "idx": b"\0\0\x08\x02\0\0\0\x04\0\0\0\x08" + bytes(32),
        "cifar": pickle.dumps({"data": np.zeros((2, 3072), np.uint8), "labels": [0, 1]}, 2),
        "image.png": image.getvalue(),
        "word.wav": sound_.getvalue(),
        "arrays.npz": arrays.getvalue(),
        "rows.csv.gz": gzip.compress(b"a,b\n1,2\n"),
        "leaf.json": b'{"users":["u"],"num_samples":[1],"user_data":{"u":{"x":[1],"y":[1]}}}',
    }


@pytest.mark.parametrize("name", whole())
def test_a_truncated_file_is_refused_wherever_it_ends(name: str, tmp_path: Path) -> None:
    data = whole()[name]
    READERS[name](put(tmp_path, name, data))
    needed = len(data) - (24 if name == "image.png" else 1)  # its end says only that it ends
    for size in [*range(0, needed, max(1, needed // 40)), needed]:
        with pytest.raises(DataError, match=name):
            READERS[name](put(tmp_path, name, data[:size]))


@pytest.mark.parametrize(
    ("name", "data", "message"),
    [
        ("idx", b"\x89PNG\r\n\x1a\n", "byte 0: is no IDX file"),
        ("idx", b"\0\0\x08\x03" + b"\xff" * 12, "byte 16: 4294967295 x .* and 0 are there"),
        ("idx", b"\0\0\x08\xff" + b"\0\0\0\1" * 255, "no IDX file"),
        ("word.wav", b"RIFF\x24\0\0\0WAVEfmt \x10\0\0\0\3\0\1\0", "no WAV file of plain PCM"),
        ("image.png", b"GIF89a" + b"\xff" * 40, "no whole image"),
        ("image.png", b"#!/bin/sh\necho this is no image", "byte 0: is no whole image"),
        ("rows.csv", b"a,b\n1,2\n3\n", "line 3: has 1 fields, and the header has 2"),
        ("rows.csv", b"a,a\n1,2\n", "line 1: needs one name for each column"),
        ("rows.csv", b"a,b\n1,\xff\n", "at byte 6: is not UTF-8"),
        ("rows.csv", b"a,b\n1,\0\n", "at byte 6: a zero byte"),
        ("rows.csv", b"a\n" + b"1" * (tables.MOST_LINE + 1), "line 2: is longer than"),
        ("rows.csv", b'a\n"open', "line 2: unexpected end of data"),
        ("rows.jsonl", b'{"a": 1}\n[1, 2]\n', "line 2: is no object"),
        ("rows.jsonl", b"[" * 100_000, "line 1: is not JSON"),
        (
            "leaf.json",
            b'{"users": "[[", "x": ' + b"[" * 100_000,
            "at character 5[0-9][0-9]: is nested",
        ),
        ("leaf.json", b'{"users": ["u", "v"], "num_samples": [1], "user_data": {}}', "2 users"),
        (
            "leaf.json",
            b'{"users": ["u"], "num_samples": [9], "user_data": {"u": {"x": [1], "y": [1]}}}',
            "user 'u' has 1 inputs, 1 targets and num_samples 9",
        ),
        ("u.data", b"1\t2\t5\n1\t2\tmany\n", "line 2: is not user, item and rating"),
        ("u.data", b"1\t2\tnan\n", "line 1: is not user, item and rating"),
        ("rows.csv", b'a\n"' + b"1" * 200_000 + b'"\n', "line 2: field larger than field limit"),
        ("rows.jsonl", b'{"a": "' + b"1" * tables.MOST_LINE, "line 1: is longer than"),
        ("rows.jsonl", b'{"a": ' + b"1" * 5000 + b"}", "line 1: is not JSON"),
        ("text.txt", b"caf\xe9", "at byte 3: is not UTF-8"),
    ],
)
def test_what_is_wrong_is_said_with_the_place(
    name: str, data: bytes, message: str, tmp_path: Path
) -> None:
    with pytest.raises(DataError, match=rf"{name}: .*{message}"):
        READERS[name](put(tmp_path, name, data))


class Evil:
    """Whoever unpickles it makes a directory."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (str(self.path),)


@pytest.mark.parametrize("protocol", range(6))
def test_a_pickle_that_runs_code_is_refused_and_does_not_run(protocol: int, tmp_path: Path) -> None:
    target = tmp_path / "made"
    data = pickle.dumps({"data": Evil(target), "labels": [0]}, protocol)
    with pytest.raises(DataError, match=r"wants to call .*mkdir|is not for data"):
        cifar.read(put(tmp_path, "batch", data))
    assert not target.exists()


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"\x80\x02r\xff\xff\xff\x7f.", "memory of 2147483647 entries"),
        (b"\x80\x05\x96" + b"\xff" * 7 + b"\x3f.", "pickle"),  # a bytearray of 4 EB
        (pickle.dumps([np.zeros(3, np.uint8)] + [np.zeros(i) for i in range(9)], 2), "8 calls"),
        (b"\x80\x02}.", "lacks 'data' or 'labels'"),
        (b"\x80\x02].", "holds list, not a batch"),
        (pickle.dumps({"data": np.zeros((1, 5), np.uint8), "labels": [1]}, 2), "5 bytes of images"),
        (
            pickle.dumps({"data": np.zeros((1, 3072), np.uint8), "labels": [100]}, 2),
            "a label that is not 0 to 99",
        ),
        (pickle.dumps({"data": np.array([{}]), "labels": [1]}, 2), "array of objects"),
        (pickle.dumps({"data": np.float64(3), "labels": [1]}, 2), "wants to call numpy"),
    ],
)
def test_a_pickle_that_lies_is_refused(data: bytes, message: str, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=message):
        cifar.read(put(tmp_path, "batch", data))


def test_an_array_of_a_pickle_may_declare_any_shape_and_takes_no_memory(tmp_path: Path) -> None:
    data = pickle.dumps({"data": np.zeros((1, 3072), np.uint8), "labels": [1]}, 2)
    lie = data.replace(b"M\x00\x0c", b"J\xff\xff\xff\x7f")  # 3,072 becomes 2,147,483,647
    assert lie != data
    images, _ = cifar.read(put(tmp_path, "batch", lie))
    assert images.shape == (1, 3, 32, 32)


def test_objects_in_npz_are_refused(tmp_path: Path) -> None:
    np.savez(tmp_path / "a.npz", x=np.array([Evil(tmp_path / "made")], dtype=object))
    with pytest.raises(DataError, match=r"a\.npz: .*plain arrays"):
        tables.arrays(tmp_path / "a.npz")
    assert not (tmp_path / "made").exists()


def test_an_npz_that_unpacks_to_more_than_the_limit_is_refused(tmp_path: Path) -> None:
    np.savez_compressed(tmp_path / "bomb.npz", x=np.zeros(1_000_000, np.uint8))
    with pytest.raises(DataError, match="unpacks to 1000128 bytes, and 100000 are the limit"):
        tables.arrays(tmp_path / "bomb.npz", most=100_000)


def test_an_npz_whose_array_declares_more_than_is_there_is_refused(tmp_path: Path) -> None:
    member = io.BytesIO()
    np.lib.format.write_array_header_1_0(
        member, {"descr": "|u1", "fortran_order": False, "shape": (2**40,)}
    )
    with zipfile.ZipFile(tmp_path / "lie.npz", "w") as archive:
        archive.writestr("x.npy", member.getvalue() + b"few")
    with pytest.raises(DataError, match=r"lie\.npz"):
        tables.arrays(tmp_path / "lie.npz")


def test_members_of_an_npz_that_lead_out_are_names_and_no_files(tmp_path: Path) -> None:
    np.savez(tmp_path / "a.npz", **{"../../evil": np.arange(3)})
    assert list(tables.arrays(tmp_path / "a.npz")) == ["../../evil"]
    assert [path.name for path in tmp_path.iterdir()] == ["a.npz"]


def test_a_gzip_bomb_stops_at_the_limit(tmp_path: Path) -> None:
    from models.data.files import contents

    put(tmp_path, "bomb.gz", gzip.compress(bytes(10_000_000)))
    with pytest.raises(DataError, match=r"bomb\.gz: at byte 1000: goes on"):
        contents(tmp_path / "bomb.gz", most=1000)


def test_an_image_that_declares_a_huge_size_is_refused_by_its_header(tmp_path: Path) -> None:
    from PIL import Image

    buffer = io.BytesIO()
    Image.new("L", (10, 10)).save(buffer, "BMP")
    data = bytearray(buffer.getvalue())
    data[18:26] = struct.pack("<ii", 10_000, 8_000)
    with pytest.raises(DataError, match=r"image\.png: at byte 0: declares 10000 x 8000 pixels"):
        folders.picture(8, 1)(str(put(tmp_path, "image.png", bytes(data))))


def test_whoever_sends_an_image_cannot_have_a_file_opened(tmp_path: Path) -> None:
    place = put(tmp_path, "secret.png", b"not yours")
    for sent in (str(place), f"file://{place}"):
        with pytest.raises(DataError, match="is the bytes of a file, not str"):
            folders.picture_of(8, 3)(sent)


def test_a_pickle_of_a_million_dictionaries_is_refused_before_it_is_made(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="more than 1048576 opcodes"):
        cifar.read(put(tmp_path, "batch.pkl", b"\x80\x02" + b"}" * cifar.MOST_OPCODES + b"."))


@pytest.mark.parametrize("width", [5, 8, 9])
def test_samples_of_more_than_32_bits_are_refused(tmp_path: Path, width: int) -> None:
    data = bytearray(whole()["word.wav"])
    data[32:34] = struct.pack("<H", width)
    data[34:36] = struct.pack("<H", 8 * width)
    with pytest.raises(DataError, match=r"word\.wav: at byte 0: .* above 32"):
        sound.read(put(tmp_path, "word.wav", bytes(data)))


def test_a_number_too_large_for_anything_is_named(tmp_path: Path) -> None:
    place = put(tmp_path, "rows.jsonl", b'{"a": 1}\n{"a": 1' + b"0" * 400 + b"}\n")
    with pytest.raises(DataError, match="row 2"):
        tables.encoded(tables.rows(place), ["a"], place)


def test_a_wav_that_declares_more_than_is_there_is_refused(tmp_path: Path) -> None:
    data = bytearray(whole()["word.wav"])
    data[4:8] = data[40:44] = struct.pack("<I", 2**32 - 1)
    with pytest.raises(DataError, match=r"word\.wav: at byte \d+: "):
        sound.read(put(tmp_path, "word.wav", bytes(data)))


def test_labels_that_do_not_pair_with_images_are_refused(tmp_path: Path) -> None:
    images = put(tmp_path, "images", whole()["idx"])
    with pytest.raises(DataError, match="an array of 2 dimensions, not images"):
        idx.images(images, images)
    three = put(tmp_path, "three", b"\0\0\x08\x03\0\0\0\x02\0\0\0\1\0\0\0\1ab")
    labels = put(tmp_path, "labels", b"\0\0\x08\1\0\0\0\3\0\1\2")
    with pytest.raises(DataError, match=r"labels: holds \(3,\) labels for the 2 images"):
        idx.images(three, labels)


def test_an_image_in_no_directory_has_no_class(tmp_path: Path) -> None:
    put(tmp_path, "1.png", b"x")
    with pytest.raises(DataError, match="lies in no directory that says its class"):
        folders.files(tmp_path, folders.IMAGES)
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match=r"holds no file that ends in \.png"):
        folders.files(tmp_path / "empty", folders.IMAGES)


def zipped(path: Path, member: bytes, method: int = zipfile.ZIP_DEFLATED) -> Path:
    with zipfile.ZipFile(path, "w", method) as archive:
        archive.writestr("x.npy", member)
    return path


def test_an_npz_packed_in_a_way_that_unpacks_without_bound_is_refused(tmp_path: Path) -> None:
    member = io.BytesIO()
    np.save(member, np.zeros(1000))
    for method in (zipfile.ZIP_LZMA, zipfile.ZIP_BZIP2):
        with pytest.raises(DataError, match=r"bomb\.npz: at byte 0: 'x\.npy' is packed in a way"):
            tables.arrays(zipped(tmp_path / "bomb.npz", member.getvalue(), method))
    zipped(tmp_path / "x.npz", member.getvalue())
    assert tables.arrays(tmp_path / "x.npz")["x"].shape == (1000,)


def test_an_npz_whose_array_is_larger_than_its_member_asks_for_no_memory(tmp_path: Path) -> None:
    member = io.BytesIO()
    np.lib.format.write_array_header_1_0(
        member, {"descr": "|u1", "fortran_order": False, "shape": (2**33,)}
    )
    place = zipped(tmp_path / "lie.npz", member.getvalue() + b"few")
    tracemalloc.start()
    try:
        with pytest.raises(
            DataError, match=r"'x\.npy' declares uint8 \(8589934592,\), and 3 bytes"
        ):
            tables.arrays(place)
        assert tracemalloc.get_traced_memory()[1] < 2**24
    finally:
        tracemalloc.stop()


def test_rows_that_are_held_in_memory_are_counted(tmp_path: Path) -> None:
    place = put(tmp_path, "rows.csv.gz", gzip.compress(b"a\n" + b"1\n" * 1000))
    assert len(tables.whole(place, most=1000)) == 1000
    with pytest.raises(DataError, match=r"rows\.csv\.gz: row 1000: goes on, and 999 rows"):
        tables.whole(place, most=999)


def test_leaf_of_millions_of_empty_lists_is_refused_before_they_are_made(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(users, "MOST_CONTAINERS", 1000)
    place = put(tmp_path, "leaf.json", b"[" + b"[]," * 1000 + b"1]")
    with pytest.raises(DataError, match=r"leaf\.json: holds 1001 lists and objects"):
        users.leaf(place)


def test_texts_of_a_directory_are_bounded_together(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    put(tmp_path, "a.txt", b"x" * 60)
    put(tmp_path, "b.txt", b"x" * 60)
    monkeypatch.setattr(texts, "MOST", 100)
    with pytest.raises(DataError, match=r"b\.txt: with it the directory has more than 100"):
        texts.read(tmp_path)


def test_an_image_beyond_the_limit_of_its_library_is_refused_as_well(tmp_path: Path) -> None:
    head = b"\x89PNG\r\n\x1a\n"
    size = b"IHDR" + struct.pack(">IIBBBBB", 2**15, 2**15, 8, 2, 0, 0, 0)
    chunk = struct.pack(">I", 13) + size + struct.pack(">I", zlib.crc32(size))
    place = put(tmp_path, "image.png", head + chunk + struct.pack(">I", 0) + b"IDAT" + bytes(4))
    with pytest.raises(DataError, match=r"image\.png: at byte 0: .*(limit|pixels)"):
        folders.picture(8, 1)(str(place))

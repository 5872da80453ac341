"""Readers give what was written, from files, compressed files and URLs."""

from __future__ import annotations

import gzip
import io
import json
import pickle
import wave
from pathlib import Path

import fsspec
import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from PIL import Image

from models.data import cifar, files, folders, idx, packages, sound, stream, tables, texts, users
from models.data.files import DataError

CODES = {np.dtype(value).newbyteorder("="): key for key, value in idx.TYPES.items()}
ROWS = [{"a": 1.5, "b": "x"}, {"a": -2.0, "b": "y"}]


def idx_bytes(array: np.ndarray) -> bytes:
    head = bytes([0, 0, CODES[array.dtype], array.ndim])
    sizes = b"".join(size.to_bytes(4) for size in array.shape)
    return head + sizes + array.astype(array.dtype.newbyteorder(">")).tobytes()


@given(
    arrays.arrays(
        st.sampled_from(sorted(CODES, key=str)),
        arrays.array_shapes(min_dims=1, max_dims=3, min_side=0, max_side=5),
    )
)
def test_an_idx_array_is_read_as_it_was_written(array: np.ndarray) -> None:
    with fsspec.open("memory://array.idx", "wb") as file:
        file.write(idx_bytes(array))
    found = idx.read("memory://array.idx")
    assert found.dtype == array.dtype
    assert np.array_equal(found, array, equal_nan=array.dtype.kind == "f")


def test_compressed_images_pair_with_their_labels(tmp_path: Path) -> None:
    pixels = np.arange(2 * 3 * 4, dtype=np.uint8).reshape(2, 3, 4)
    (tmp_path / "images.gz").write_bytes(gzip.compress(idx_bytes(pixels)))
    (tmp_path / "labels").write_bytes(idx_bytes(np.array([7, 9], np.uint8)))
    images, labels = idx.images(tmp_path / "images.gz", tmp_path / "labels")
    assert images[1, 2, 3] == pytest.approx(23 / 255)
    assert labels.tolist() == [7, 9]


@pytest.mark.parametrize("protocol", [2, 4])
@pytest.mark.parametrize("key", ["labels", "fine_labels"])
def test_cifar_is_read_from_pickles_and_from_binary(
    tmp_path: Path, protocol: int, key: str
) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (5, 3072), dtype=np.uint8)
    labels = [3, 1, 4, 1, 5]
    names = [f"{number}.png" for number in labels]
    batch = {"data": pixels, key: labels, "filenames": names}
    (tmp_path / "batch").write_bytes(pickle.dumps(batch, protocol))
    rows = [bytes([label]) + row.tobytes() for label, row in zip(labels, pixels, strict=True)]
    (tmp_path / "batch.bin").write_bytes(b"".join(rows))
    for place in ("batch", "batch.bin"):
        images, found = cifar.read(tmp_path / place)
        assert np.array_equal(np.round(images.reshape(5, -1) * 255), pixels)
        assert found.tolist() == labels


@pytest.mark.parametrize("width", [1, 2, 3, 4])
@pytest.mark.parametrize("channels", [1, 2])
def test_wav_of_every_width_is_read_within_its_precision(width: int, channels: int) -> None:
    samples = np.sin(np.linspace(0, 20, 500))
    whole = np.round(samples * (2 ** (8 * width - 1) - 1)).astype(np.int64)
    if width == 1:
        raw = (whole + 128).astype(np.uint8).tobytes()
    else:
        raw = b"".join(int(value).to_bytes(width, "little", signed=True) for value in whole)
    frames = [raw[at : at + width] * channels for at in range(0, len(raw), width)]
    buffer = io.BytesIO()
    with wave.open(buffer, "wb") as file:
        file.setparams((channels, width, 16000, 0, "NONE", ""))
        file.writeframes(b"".join(frames))
    found, rate = sound.decode(buffer.getvalue())
    assert rate == 16000
    assert found == pytest.approx(samples, abs=2.0 ** (2 - 8 * width) + 1e-6)


def write_rows(path: Path, ending: str) -> None:
    if ending == ".jsonl":
        path.write_text("\n".join(map(json.dumps, ROWS)))
    elif ending == ".csv.gz":
        path.write_bytes(gzip.compress(b"a,b\n1.5,x\n-2.0,y\n"))
    elif ending == ".parquet":
        parquet = pytest.importorskip("pyarrow.parquet")
        parquet.write_table(pytest.importorskip("pyarrow").Table.from_pylist(ROWS), path)
    else:
        separator = "\t" if ending == ".tsv" else ","
        path.write_text(f"\ufeffa{separator}b\n1.5{separator}x\n-2.0{separator}y\n")


@pytest.mark.parametrize("ending", [".csv", ".tsv", ".csv.gz", ".jsonl", ".parquet"])
def test_rows_are_the_same_in_every_format(tmp_path: Path, ending: str) -> None:
    path = tmp_path / f"rows{ending}"
    write_rows(path, ending)
    for place in (path, f"file://{path}"):
        found = [{"a": float(row["a"]), "b": row["b"]} for row in tables.rows(place)]
        assert found == ROWS


def test_rows_are_read_as_they_are_asked_for(tmp_path: Path) -> None:
    (tmp_path / "rows.csv").write_text("a\n1\n2\nbroken,\n")
    rows = tables.rows(tmp_path / "rows.csv")
    assert [next(rows)["a"], next(rows)["a"]] == ["1", "2"]
    with pytest.raises(DataError, match="line 4: has 2 fields"):
        next(rows)


def test_columns_become_numbers_that_all_nodes_agree_on() -> None:
    here = tables.encoded([*ROWS, {"a": "?", "b": None}], ["a", "b"])
    there = tables.encoded(ROWS[::-1], ["a", "b"])
    assert here.shape == (3, 1 + tables.BUCKETS)
    assert np.array_equal(here[:2], there[::-1])
    assert np.isnan(here[2, 0])
    assert here[2, 1:].sum() == 0


def test_arrays_of_npz_are_read(tmp_path: Path) -> None:
    np.savez_compressed(tmp_path / "a.npz", x=np.arange(5), y=np.eye(2))
    found = tables.arrays(tmp_path / "a.npz")
    assert sorted(found) == ["x", "y"]
    assert found["x"].tolist() == [0, 1, 2, 3, 4]


def test_a_directory_for_each_class_is_read_also_behind_a_url(tmp_path: Path) -> None:
    for name, shade in (("cat", 50), ("dog", 200)):
        (tmp_path / name).mkdir()
        Image.new("RGB", (9, 7), (shade, 0, 0)).save(tmp_path / name / "1.png")
    (tmp_path / "notes.md").write_text("no image")
    for place in (str(tmp_path), f"file://{tmp_path}"):
        found = folders.files(place, folders.IMAGES)
        assert found.classes == ("cat", "dog")
        assert found.labels.tolist() == [0, 1]
        picture = folders.picture(4, 3)(found.places[1])
        assert picture.shape == (3, 4, 4)
        assert picture[0].mean() == pytest.approx(200 / 255)


def test_a_link_that_leads_out_of_the_directory_is_left_aside(tmp_path: Path) -> None:
    (tmp_path / "secret.png").write_bytes(b"not yours")
    (tmp_path / "images" / "cat").mkdir(parents=True)
    (tmp_path / "images" / "cat" / "1.png").write_bytes(b"")
    (tmp_path / "images" / "cat" / "2.png").symlink_to(tmp_path / "secret.png")
    found = folders.files(tmp_path / "images", folders.IMAGES)
    assert [place.rpartition("/")[2] for place in found.places] == ["1.png"]


def test_speech_commands_says_what_is_for_testing(tmp_path: Path) -> None:
    for name in (
        "yes/anna_nohash_0.wav",
        "yes/bob_nohash_0.wav",
        "no/anna_nohash_1.wav",
        "_background_noise_/rain.wav",
    ):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    (tmp_path / "testing_list.txt").write_text("yes/bob_nohash_0.wav\n../../etc/passwd\n")
    found = folders.files(tmp_path, folders.SOUNDS)
    assert found.speakers == ["anna", "anna", "bob"]
    testing = found.named(folders.listed(tmp_path, "testing_list.txt"))
    assert testing.tolist() == [False, False, True]
    assert folders.listed(tmp_path, "validation_list.txt") == []


def test_leaf_and_movielens_are_read_by_user(tmp_path: Path) -> None:
    data = {"u": {"x": [[1.0], [2.0]], "y": [0, 1]}}
    (tmp_path / "leaf.json").write_text(
        json.dumps({"users": ["u"], "num_samples": [2], "user_data": data})
    )
    assert users.leaf(tmp_path / "leaf.json") == {"u": ([[1.0], [2.0]], [0, 1])}
    expected = [("1", "31", 2.5), ("7", "8", 4.0)]
    for name, text in (
        ("u.data", "1\t31\t2.5\t99\n7\t8\t4\t99\n"),
        ("ratings.dat", "1::31::2.5::99\n7::8::4::99\n"),
        ("ratings.csv", "userId,movieId,rating,timestamp\n1,31,2.5,99\n7,8,4,99\n"),
    ):
        (tmp_path / name).write_text(text)
        assert list(users.ratings(tmp_path / name)) == expected


def test_texts_of_a_directory_are_read_by_name(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "one.txt").write_text("eins")
    (tmp_path / "two.md").write_text("zwei")
    assert texts.read(tmp_path) == {"a/one.txt": "eins", "two.md": "zwei"}
    assert texts.read(tmp_path / "two.md") == {"two.md": "zwei"}


def test_packages_are_read_with_what_they_depend_on() -> None:
    dump = """Package: zeta
Maintainer: Z <z@example.org>
Section: contrib/games
Description: a game
 in many lines
Depends: libc6 (>= 2.1), sdl | sdl2, libc6

Package: alpha
Maintainer: A <a@example.org>
Section: mail
Description-en: reads mail
""".splitlines()
    alpha, zeta = packages.parse(dump, "here")
    assert (alpha.name, alpha.section, alpha.description) == ("alpha", "mail", "reads mail")
    assert (zeta.section, zeta.depends) == ("games", ("libc6", "sdl"))


class Squares(torch.utils.data.Dataset):  # type: ignore[type-arg]
    def __len__(self) -> int:
        return 10

    def __getitem__(self, index: int) -> dict[str, int]:
        return {"x": index, "y": index**2}


def test_a_stream_gives_every_item_of_its_shard_once_a_pass() -> None:
    seen = []
    for shard in range(2):
        batches = stream.Stream(
            stream.items(Squares()),
            lambda item: ([float(item["x"])], item["y"]),
            2,
            torch.Generator().manual_seed(0),
            buffer=3,
            shard=shard,
            shards=2,
        )
        for inputs, targets in batches:
            assert torch.equal(inputs[:, 0] ** 2, targets.float())
            seen += inputs[:, 0].tolist()
    assert sorted(seen) == list(range(10))


def test_a_stream_holds_no_more_than_its_buffer() -> None:
    taken = 0

    def source() -> object:
        nonlocal taken
        while taken < 1000:
            taken += 1
            yield taken

    batches = stream.Stream(source, lambda item: (item, item), 4, torch.Generator(), buffer=8)  # type: ignore[arg-type]
    next(iter(batches))
    assert taken <= 12


def test_a_store_that_is_not_installed_is_named_with_what_to_install() -> None:
    with pytest.raises(DataError, match="needs a package for each kind of store"):
        files.contents("nosuch://bucket/key")

"""Parquet that lies about itself is refused before memory is asked for."""

from __future__ import annotations

from pathlib import Path
from random import Random
from typing import Any

import numpy as np
import pytest

from models.data import parquet
from models.data.files import DataError

pa = pytest.importorskip("pyarrow")
pq = pytest.importorskip("pyarrow.parquet")


def written(path: Path, columns: dict[str, Any], **settings: Any) -> Path:
    pq.write_table(pa.table(columns), path, **settings)
    return path


@pytest.mark.parametrize("version", ["1.0", "2.0"])
@pytest.mark.parametrize("compression", ["none", "snappy", "gzip", "zstd"])
@pytest.mark.parametrize("dictionary", [True, False])
def test_what_was_written_is_read(
    tmp_path: Path, version: str, compression: str, dictionary: bool
) -> None:
    columns = {
        "number": [1, 2, None, 4] * 3000,
        "text": ["a", None, "ccc", "a"] * 3000,
        "list": [[1.0, 2.0], [], None, [3.0]] * 3000,
        "texts": [["a", "b"], [], None, ["a"]] * 3000,
        "truth": [True, False, None, True] * 3000,
    }
    place = written(
        tmp_path / "rows.parquet",
        columns,
        data_page_version=version,
        compression=compression,
        use_dictionary=dictionary,
        row_group_size=5000,
        data_page_size=4096,
    )
    expected = [dict(zip(columns, row, strict=True)) for row in zip(*columns.values(), strict=True)]
    assert list(parquet.rows(place)) == expected


def test_a_page_that_unpacks_to_very_much_is_refused_by_its_header(tmp_path: Path) -> None:
    zeros = np.zeros(9_000_000, np.int64)
    place = written(
        tmp_path / "bomb.parquet", {"a": zeros}, use_dictionary=False, compression="zstd",
        data_page_size=2**30, row_group_size=len(zeros), max_rows_per_page=len(zeros),
    )  # fmt: skip
    assert place.stat().st_size < 20_000
    with pytest.raises(
        DataError, match=r"bomb\.parquet: at byte \d+: a page unpacks to 72\d+ byte"
    ):
        list(parquet.rows(place))


def test_many_equal_texts_take_the_memory_of_one(tmp_path: Path) -> None:
    word = "x" * (1 << 16)
    words = pa.DictionaryArray.from_arrays(pa.array(np.zeros(4000, np.int32)), [word])
    lists = pa.ListArray.from_arrays(pa.array(np.arange(4001, dtype=np.int32)), words)
    place = written(tmp_path / "bomb.parquet", {"a": words, "b": lists}, store_schema=False)
    assert place.stat().st_size < 1 << 22
    before = pa.total_allocated_bytes()
    rows = parquet.rows(place)
    first, second = next(rows), next(rows)
    assert first["a"] is second["a"]
    assert first["a"] == word
    assert pa.total_allocated_bytes() - before < 1 << 25


def test_texts_that_repeat_the_one_before_are_refused(tmp_path: Path) -> None:
    place = written(
        tmp_path / "bomb.parquet", {"a": ["x" * 1000] * 100}, use_dictionary=False,
        column_encoding="DELTA_BYTE_ARRAY",
    )  # fmt: skip
    with pytest.raises(
        DataError, match=r"bomb\.parquet: at byte \d+: a page in encoding 7, which may unpack"
    ):
        list(parquet.rows(place))


def test_a_footer_that_is_larger_than_the_file_is_refused(tmp_path: Path) -> None:
    place = written(tmp_path / "lie.parquet", {"a": [1]})
    data = bytearray(place.read_bytes())
    data[-8:-4] = (2**32 - 1).to_bytes(4, "little")
    place.write_bytes(data)
    with pytest.raises(DataError, match=r"lie\.parquet: at byte \d+: a footer of 4294967295 bytes"):
        list(parquet.rows(place))


def test_more_rows_than_a_file_can_mean_are_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    place = written(tmp_path / "rows.parquet", {"a": [0] * 100_000})
    monkeypatch.setattr(parquet, "MOST_RATIO", 10)
    with pytest.raises(DataError, match=r"rows\.parquet: 100000 rows are too many"):
        list(parquet.rows(place))


def test_one_row_of_very_many_values_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    place = written(tmp_path / "rows.parquet", {"a": [[0] * 100_000]})
    monkeypatch.setattr(parquet, "MOST_VALUES", 10_000)
    with pytest.raises(DataError, match=r"rows\.parquet: at byte \d+: 10000\d values of a column"):
        list(parquet.rows(place))
    monkeypatch.undo()
    monkeypatch.setattr(parquet, "MOST_BATCH", 10_000)
    with pytest.raises(DataError, match=r"rows\.parquet: row group 0: 1 rows take \d+ bytes"):
        list(parquet.rows(place))


def test_wherever_a_file_is_damaged_nothing_but_an_error_comes_of_it(tmp_path: Path) -> None:
    place = written(
        tmp_path / "rows.parquet", {"a": list(range(50)), "b": [["x", "yy"], None] * 25}
    )
    data, rng = place.read_bytes(), Random(0)
    refused = 0
    for _ in range(500):
        damaged = bytearray(data)
        for _ in range(rng.randint(1, 3)):
            damaged[rng.randrange(len(data))] = rng.randrange(256)
        place.write_bytes(damaged)
        try:
            list(parquet.rows(place))
        except DataError as error:
            assert "rows.parquet" in str(error)  # noqa: PT017 - much damage changes values only
            refused += 1
    assert refused > 100

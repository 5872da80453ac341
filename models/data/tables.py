"""I/O: rows of CSV, JSON lines and Parquet, one after another, and arrays of npz.

Rows are dictionaries by column. `encoded` makes numbers of them in a way that all nodes agree on
without a word: numbers stay, and a text raises two of BUCKETS flags, which its hash tells, so
nobody has to know which texts the others have.
"""

from __future__ import annotations

import csv
import io
import json
import zipfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from hashlib import sha256
from math import isfinite, nan
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from models.data.files import MOST, DataError, contents, opened

BUCKETS = 32  # flags of a column of texts; two texts raise the same two once in 500 times
MOST_LINE = 1 << 20  # bytes
ROWS = 4096  # of Parquet at once
MISSING = ("", "na", "nan", "null", "none", "?")

Row = Mapping[str, Any]


def rows(place: str | Path) -> Iterator[Row]:
    """The rows of `.csv`, `.tsv`, `.jsonl` (also `.gz`) or `.parquet`; reads as it goes.

    Raises DataError with the line or the row.
    """
    name = str(place).removesuffix(".gz")
    for ending, read in READERS.items():
        if name.endswith(ending):
            return read(place)
    raise DataError(f"{place}: ends in none of {', '.join(READERS)}, so its format is unknown")


def arrays(place: str | Path, most: int = MOST) -> dict[str, NDArray[Any]]:
    """The arrays of an npz file by name, no larger than `most` bytes together."""
    data = contents(place, most)
    try:
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            size = sum(entry.file_size for entry in archive.infolist())
        if size > most:
            raise DataError(f"{place}: unpacks to {size} bytes, and {most} are the limit")
        with np.load(io.BytesIO(data), allow_pickle=False) as found:
            return {name: found[name] for name in found.files}
    except DataError:
        raise
    except Exception as error:  # a zip of lies makes NumPy and zipfile raise many things
        raise DataError(f"{place}: at byte 0: is no npz file of plain arrays: {error}") from None


def encoded(
    table: Iterable[Row], columns: Sequence[str], place: str | Path = "the table"
) -> NDArray[np.float32]:
    """Numbers (N, width) of some columns: a column of numbers is one wide, one of texts BUCKETS.

    What is missing is NaN in numbers and no flag in texts. The first row that has a value decides
    which a column is. Raises DataError for a row that does not fit.
    """
    values = list(table)
    parts = [_column([row.get(name) for row in values], name, place) for name in columns]
    return np.concatenate(parts, axis=1)


def number(value: object) -> float:
    """A value as a number, NaN where it is missing. Raises ValueError if it is none."""
    if value is None or (isinstance(value, str) and value.strip().lower() in MISSING):
        return nan
    found = float(value)  # type: ignore[arg-type]
    if not isfinite(found):
        raise ValueError(f"{value!r} is not finite")
    return found


def _column(values: list[object], name: str, place: str | Path) -> NDArray[np.float32]:
    if _is_text(values):
        flags = np.zeros((len(values), BUCKETS), np.float32)
        for index, value in enumerate(values):
            if value is not None and str(value).strip().lower() not in MISSING:
                first, second, *_ = sha256(str(value).strip().encode()).digest()
                flags[index, [first % BUCKETS, second % BUCKETS]] = 1
        return flags
    numbers = np.empty((len(values), 1), np.float32)
    for index, value in enumerate(values):
        try:
            numbers[index] = number(value)
        except (TypeError, ValueError, OverflowError):
            raise DataError(
                f"{place}: row {index + 1}: {name} is {str(value)[:40]!r}, and was a number before"
            ) from None
    return numbers


def _is_text(values: Iterable[object]) -> bool:
    for value in values:
        try:
            if number(value) == number(value):  # not missing
                return False
        except (TypeError, ValueError, OverflowError):
            return isinstance(value, str)
    return False


def _csv(place: str | Path) -> Iterator[Row]:
    delimiter = "\t" if str(place).removesuffix(".gz").endswith(".tsv") else ","
    with opened(place) as file:
        lines = csv.reader(_lines(file, place), delimiter=delimiter, strict=True)
        try:
            header = next(lines, [])
            if not header or len(set(header)) < len(header):
                raise DataError(f"{place}: line 1: needs one name for each column, all different")
            for row in lines:
                if len(row) != len(header):
                    raise DataError(
                        f"{place}: line {lines.line_num}: has {len(row)} fields, and the header "
                        f"has {len(header)}"
                    )
                yield dict(zip(header, row, strict=True))
        except csv.Error as error:
            raise DataError(f"{place}: line {lines.line_num}: {error}") from None


def _json_lines(place: str | Path) -> Iterator[Row]:
    with opened(place) as file:
        for index, line in enumerate(_lines(file, place), 1):
            if not line.strip():
                continue
            try:
                row = json.loads(line)
            except (ValueError, RecursionError) as error:
                raise DataError(f"{place}: line {index}: is not JSON: {error}") from None
            if not isinstance(row, dict):
                raise DataError(f"{place}: line {index}: is no object {{...}}")
            yield row


def _parquet(place: str | Path) -> Iterator[Row]:
    try:
        from pyarrow import ArrowException, parquet  # here, not above: it is an extra
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError(
            f"Parquet needs pyarrow ({error}): pip install 'gossip-learning[parquet]'",
            name=error.name,
        ) from error
    with opened(place) as file:
        try:
            for batch in parquet.ParquetFile(file).iter_batches(batch_size=ROWS):
                yield from batch.to_pylist()
        except (ArrowException, OSError, ValueError) as error:
            raise DataError(f"{place}: is no whole Parquet file: {error}") from None


def _lines(file: Any, place: str | Path) -> Iterator[str]:
    """Lines of UTF-8 text, none of them too long to hold."""
    at, index = 0, 0
    while line := file.readline(MOST_LINE + 1):
        index += 1
        if len(line) > MOST_LINE:
            raise DataError(f"{place}: line {index}: is longer than {MOST_LINE} bytes")
        try:
            decoded = line.decode("utf-8-sig" if index == 1 else "utf-8")
        except UnicodeDecodeError as error:
            raise DataError(f"{place}: at byte {at + error.start}: is not UTF-8 text") from None
        if "\0" in decoded:
            raise DataError(f"{place}: at byte {at + line.index(0)}: a zero byte is no text")
        at += len(line)
        yield decoded
    if not at:
        raise DataError(f"{place}: at byte 0: the file is empty")


READERS = {".csv": _csv, ".tsv": _csv, ".jsonl": _json_lines, ".parquet": _parquet}

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
from itertools import islice
from math import isfinite, nan, prod
from pathlib import Path
from typing import Any

import numpy as np
from numpy.lib import format as npy
from numpy.typing import NDArray

from models.data import parquet
from models.data.files import MOST, DataError, contents, opened

BUCKETS = 32  # flags of a column of texts; two texts raise the same two once in 500 times
MOST_LINE = 1 << 20  # bytes
MOST_ROWS = 1 << 22  # that are held in memory together. A guess.
ZIPPED = (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED)  # what NumPy writes
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


def whole(place: str | Path, most: int = MOST_ROWS) -> list[Row]:
    """All rows at once, up to `most`; a `stream.Stream` over `rows` takes any number."""
    found = list(islice(rows(place), most + 1))
    if len(found) > most:
        raise DataError(
            f"{place}: row {most + 1}: goes on, and {most} rows are the limit for what is held in "
            "memory; stream it (models.data.stream)"
        )
    return found


def arrays(place: str | Path, most: int = MOST) -> dict[str, NDArray[Any]]:
    """The arrays of an npz file by name, no larger than `most` bytes together."""
    data = contents(place, most)
    try:
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            _look(archive, most, place)
        with np.load(io.BytesIO(data), allow_pickle=False) as found:
            return {name: found[name] for name in found.files}
    except DataError:
        raise
    except Exception as error:  # a zip of lies makes NumPy and zipfile raise many things
        raise DataError(f"{place}: at byte 0: is no npz file of plain arrays: {error}") from None


def _look(archive: zipfile.ZipFile, most: int, place: str | Path) -> None:
    """Raises DataError for an archive that unpacks to too much, or to arrays of another size."""
    entries = archive.infolist()
    size = sum(entry.file_size for entry in entries)
    if size > most:
        raise DataError(f"{place}: unpacks to {size} bytes, and {most} are the limit")
    for entry in entries:
        at = f"{place}: at byte {entry.header_offset}: {entry.filename!r}"
        if entry.compress_type not in ZIPPED:  # the others unpack more at once than was asked for
            raise DataError(f"{at} is packed in a way that NumPy does not use")
        with archive.open(entry) as member:
            version = npy.read_magic(member)
            header = npy.read_array_header_1_0 if version == (1, 0) else npy.read_array_header_2_0
            shape, _, dtype = header(member)
            values = entry.file_size - member.tell()
        if dtype.hasobject:
            raise DataError(f"{at} holds objects, not plain arrays")
        if prod(shape) * dtype.itemsize != values:
            raise DataError(f"{at} declares {dtype} {shape}, and {values} bytes are there")


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


READERS = {".csv": _csv, ".tsv": _csv, ".jsonl": _json_lines, ".parquet": parquet.rows}

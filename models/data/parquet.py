"""I/O: rows of Parquet, whose files say of themselves how large they are, in many places.

Arrow believes each of them and asks for memory accordingly, and where its description makes no
sense may end the process. So the description is read here first, and before a row group is read,
all its pages are looked at as Arrow will see them: where a page lies, what it unpacks to, how many
values it holds (Apache, "Apache Parquet Format", `parquet.thrift`, whose numbers of fields are in
the comments below). What remains is that few bytes can stand for many equal values. Numbers are
small; texts are read as entries of a dictionary, each of which is there once; and there is a bound
on how much one batch of rows may be.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

from models.data import thrift
from models.data.files import Cursor, DataError, opened

CELLS = 1 << 17  # that are read at once, over all columns; 5 MB as Python's numbers
BUFFERS = 1 << 23  # bytes of the file that are read ahead, over all columns
MAGIC = b"PAR1"
LEAST_BUFFER = 1 << 12
MOST_FOOTER = 1 << 22  # bytes; an entry of 3 bytes becomes one of 600 in Arrow. A guess.
MOST_HEADER = 1 << 16  # bytes of a page's header; it may hold the least and the largest value
MOST_PAGE = 1 << 26  # bytes, unpacked; writers make pages of 1 MiB
MOST_VALUES = 1 << 26  # of a column in a row group, where one row may hold them all
MOST_WIDTH = 1 << 16  # bytes of a value in a column whose values are all as wide
MOST_BATCH = 1 << 28  # bytes of the rows that are read at once
MOST_RATIO = 1 << 16  # unpacked bytes, or rows, to a byte of the file; zeros reach 10,000. A guess.
TEXTS, WIDE = 6, 7  # types: BYTE_ARRAY, FIXED_LEN_BYTE_ARRAY
REPEATED = 2  # times that a value may be there: any
# Of the encodings, DELTA_BYTE_ARRAY (7) is left out: a text says how much of the one before it
# repeats, so a page unpacks to anything.
ENCODINGS = (0, 2, 3, 4, 5, 6, 8, 9)

Row = Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class _Chunk:
    """A column of a row group."""

    begin: int  # byte of the file
    end: int


@dataclass(frozen=True, slots=True)
class _Group:
    """Some of the rows."""

    rows: int
    chunks: list[_Chunk]


@dataclass(frozen=True, slots=True)
class _File:
    """What a file says of itself."""

    size: int  # bytes
    columns: int
    texts: list[str]  # columns that hold them
    nested: bool  # whether a row may hold more than one value of a column
    groups: list[_Group]


def rows(place: str | Path) -> Iterator[Row]:
    """The rows, read as they are asked for. Raises DataError with the place."""
    try:
        from pyarrow import ArrowException, parquet  # here, not above: it is an extra
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError(
            f"Parquet needs pyarrow ({error}): pip install 'gossip-learning[parquet]'",
            name=error.name,
        ) from error
    with opened(place) as file:
        try:
            described = _described(file, place)
            columns = max(described.columns, 1)
            # Without a buffer Arrow reads a whole column of a row group, and ahead the whole file.
            found = parquet.ParquetFile(
                file,
                read_dictionary=described.texts,
                pre_buffer=False,
                buffer_size=max(BUFFERS // columns, LEAST_BUFFER),
            )
            for index, group in enumerate(described.groups):
                _look(file, described, group, place)
                for batch in found.iter_batches(
                    max(CELLS // columns, 1), [index], use_threads=False
                ):
                    if batch.nbytes > MOST_BATCH:
                        raise DataError(
                            f"{place}: row group {index}: {batch.num_rows} rows take "
                            f"{batch.nbytes} bytes, and {MOST_BATCH} are the limit"
                        )
                    yield from _plain(batch)
        except DataError:
            raise
        except (ArrowException, OSError, ValueError, LookupError, OverflowError) as error:
            raise DataError(f"{place}: is no whole Parquet file: {error}") from None


def _described(file: BinaryIO, place: str | Path) -> _File:
    size = file.seek(0, 2)
    file.seek(max(size - 8, 0))
    length, magic = int.from_bytes(file.read(4), "little"), file.read(4)
    if magic != MAGIC:
        raise DataError(f"{place}: at byte {max(size - 4, 0)}: does not end as Parquet does")
    most = min(max(size - 12, 0), MOST_FOOTER)
    if length > most:
        raise DataError(f"{place}: at byte {size - 8}: a footer of {length} bytes is above {most}")
    begin = size - 8 - length
    file.seek(begin)
    cursor = Cursor(file.read(length), place, begin)
    footer = thrift.struct(cursor)
    file.seek(0)
    try:
        elements = footer[2]
        if any(each.get(2, 0) > MOST_WIDTH for each in elements if each.get(1) == WIDE):
            raise cursor.error(f"a column has values of more than {MOST_WIDTH} bytes")
        groups = [
            _Group(group[3], [_chunk(each[3], size, cursor) for each in group[1]])
            for group in footer[4]
        ]
        texts = list(_texts(elements[1:]))  # without the root
    except (LookupError, TypeError, AttributeError, UnicodeDecodeError):
        cursor.at = begin
        raise cursor.error("the footer does not describe columns and rows") from None
    nested = any(each.get(3) == REPEATED for each in elements)
    columns = sum(1 in each for each in elements)  # who has a type
    return _File(size, columns, texts, nested, groups)


def _chunk(column: dict[int, Any], size: int, cursor: Cursor) -> _Chunk:
    begin, dictionary, packed = column[9], column.get(11, 0), column[7]
    if 0 < dictionary < begin:
        begin = dictionary
    if not (len(MAGIC) <= begin and 0 <= packed <= size - begin):
        raise cursor.error(f"{packed} bytes of a column at byte {begin} are not in the file")
    return _Chunk(begin, begin + packed)


def _texts(elements: list[dict[int, Any]]) -> Iterator[str]:
    """The columns of texts in a schema: a tree, written down depth first."""
    above: list[str] = []
    left: list[int] = []  # children of each that are still to come
    for element in elements:
        while left and not left[-1]:
            above.pop()
            left.pop()
        if left:
            left[-1] -= 1
        name, children = element[4].decode(), element.get(5, 0)
        if children:
            above.append(name)
            left.append(children)
        elif element.get(1) == TEXTS:
            yield ".".join([*above, name])


def _look(file: BinaryIO, described: _File, group: _Group, place: str | Path) -> None:
    """Raises DataError for a row group that is not what it says, or too much."""
    most = described.size * MOST_RATIO
    if group.rows > most:
        raise DataError(f"{place}: {group.rows} rows are too many for {described.size} bytes")
    unpacked = 0
    for chunk in group.chunks:
        values = 0
        for page, here in _pages(file, chunk, place):
            values += page
            unpacked += here
        if described.nested and values > MOST_VALUES:
            raise DataError(
                f"{place}: at byte {chunk.begin}: {values} values of a column are above "
                f"{MOST_VALUES}"
            )
    if unpacked > most:
        raise DataError(
            f"{place}: {described.size} bytes unpack to more than {unpacked}, which is too many"
        )


def _pages(file: BinaryIO, chunk: _Chunk, place: str | Path) -> Iterator[tuple[int, int]]:
    """Of each page of a column: its values, and its bytes unpacked."""
    at = chunk.begin
    while at < chunk.end:
        file.seek(at)
        cursor = Cursor(file.read(min(MOST_HEADER, chunk.end - at)), place, at)
        header = thrift.struct(cursor)
        unpacked, packed = header.get(2), header.get(3)
        if not (isinstance(packed, int) and 0 <= packed <= chunk.end - cursor.at):
            raise cursor.error(f"a page of {packed} bytes does not fit where it is")
        if not (isinstance(unpacked, int) and 0 <= unpacked <= MOST_PAGE):
            raise cursor.error(f"a page unpacks to {unpacked} bytes; {MOST_PAGE} are the limit")
        values: Any = 0
        for kind, coded in ((5, 2), (7, 2), (8, 4)):  # data, a dictionary, data of version 2
            if isinstance(page := header.get(kind), dict):
                values = page.get(1)
                if page.get(coded) not in ENCODINGS or not isinstance(values, int):
                    raise cursor.error(
                        f"a page in encoding {page.get(coded)}, which may unpack to anything; "
                        "write the table with dictionaries"
                    )
        yield values, unpacked
        at = cursor.at + packed


def _plain(batch: Any) -> Iterator[Row]:
    """Rows; equal texts of a batch are one object, however many there are."""
    columns = []
    for column in batch.columns:
        if hasattr(column, "dictionary"):
            words = column.dictionary.to_pylist()
            chosen = column.indices.to_pylist()
            columns.append([None if index is None else words[index] for index in chosen])
        else:
            columns.append(column.to_pylist())
    for values in zip(*columns, strict=True):
        yield dict(zip(batch.schema.names, values, strict=True))

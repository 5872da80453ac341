"""I/O: bytes of files and of URLs, within limits."""

from __future__ import annotations

import gzip
import io
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any, BinaryIO, cast

MOST = 1 << 30  # bytes of a file that is read as a whole; CIFAR's are 31 MB; a guess
PIECE = 1 << 20  # bytes that are read at once
MOST_FILES = 1_000_000  # in a directory; a guess


class DataError(ValueError):
    """A file that is not what it should be; the text names it, the place, and the remedy."""


class Cursor:
    """Reads bytes from the front, and knows where it is."""

    def __init__(self, data: bytes, place: str | Path, at: int = 0) -> None:
        """The data begin `at` that byte of the place."""
        self.place, self.at = place, at
        self._data, self._begin = data, at

    @property
    def left(self) -> int:
        """Bytes that are not read yet."""
        return self._begin + len(self._data) - self.at

    def take(self, size: int, what: str) -> bytes:
        """The next bytes. Raises DataError if there are fewer."""
        if size > self.left:
            raise self.error(f"{what} takes {size} bytes and {self.left} are left")
        self.at += size
        end = self.at - self._begin
        return self._data[end - size : end]

    def error(self, problem: str) -> DataError:
        """An error about this place."""
        return DataError(f"{self.place}: at byte {self.at}: {problem}")


def is_url(place: str | Path) -> bool:
    """Whether fsspec is to find it."""
    return "://" in str(place)


def is_directory(place: str | Path) -> bool:
    """Whether it has files of its own."""
    if not is_url(place):
        return Path(place).is_dir()
    system, path = _system(place)
    return bool(system.isdir(path))


@contextmanager
def opened(place: str | Path) -> Iterator[BinaryIO]:
    """A file for reading; `.gz` is unpacked on the way.

    Raises DataError where there is none, and for what goes wrong while it is read.
    """
    try:
        with _open(place) as file:
            if str(place).endswith(".gz"):
                with gzip.open(file) as unpacked:
                    yield cast(BinaryIO, unpacked)
            else:
                yield file
    except (EOFError, gzip.BadGzipFile, zlib.error) as error:
        raise DataError(f"{place}: is no whole gzip file: {error}") from None
    except FileNotFoundError:
        raise DataError(f"{place}: there is no such file{_seen_from(place)}") from None
    except OSError as error:
        raise DataError(f"{place}: cannot be read: {error.strerror or error}") from None


def contents(place: str | Path, most: int = MOST) -> bytes:
    """All bytes of a file. Raises DataError if there are none, or more than `most`."""
    found = io.BytesIO()
    with opened(place) as file:
        # Piece by piece: a read of `most` bytes asks for as much memory, however small the file.
        while piece := file.read(min(PIECE, most + 1 - found.tell())):
            found.write(piece)
    data = found.getvalue()
    if len(data) > most:
        raise DataError(f"{place}: at byte {most}: goes on, and {most} bytes are the limit")
    if not data:
        raise DataError(f"{place}: at byte 0: the file is empty")
    return data


def text(place: str | Path, most: int = MOST) -> str:
    """A file as UTF-8. Raises DataError with the first byte that is not."""
    try:
        return contents(place, most).decode()
    except UnicodeDecodeError as error:
        raise DataError(f"{place}: at byte {error.start}: is not UTF-8 text") from None


def listing(place: str | Path, endings: tuple[str, ...]) -> list[str]:
    """Files below a directory whose names end so, sorted; links that lead out are left aside.

    Raises DataError if there is none.
    """
    if not is_directory(place):
        raise DataError(f"{place}: there is no such directory{_seen_from(place)}")
    found = []
    for path in _below(place):
        if path.lower().endswith(endings):
            found.append(path)
            if len(found) > MOST_FILES:
                raise DataError(f"{place}: holds more than {MOST_FILES} files, which is the limit")
    if not found:
        raise DataError(f"{place}: holds no file that ends in {', '.join(endings)}")
    return sorted(found)


def matching(place: str | Path, pattern: str) -> list[str]:
    """Files in a directory, not below it, whose names are like that; sorted. None if there is no
    such directory."""
    if not is_url(place):
        return sorted(str(path) for path in Path(place).glob(pattern) if path.is_file())
    system, root = _system(place)
    if not system.isdir(root):
        return []
    names = [
        str(entry["name"]).rstrip("/").rpartition("/")[2]
        for entry in system.ls(root, detail=True)
        if entry["type"] == "file"
    ]
    return sorted(
        f"{str(place).rstrip('/')}/{name}" for name in names if fnmatchcase(name, pattern)
    )


def parts(place: str | Path, path: str) -> tuple[str, ...]:
    """Directories and name of a file of `listing`, seen from the directory that was listed."""
    return tuple(path.removeprefix(str(place)).strip("/").split("/"))


def _below(place: str | Path) -> Iterator[str]:
    if is_url(place):
        system, root = _system(place)
        for path in system.find(root):
            yield f"{str(place).rstrip('/')}/{path.removeprefix(root).strip('/')}"
        return
    inside = Path(place).resolve()
    for file in Path(place).rglob("*"):
        if file.is_file() and file.resolve().is_relative_to(inside):
            yield str(file)


def _open(place: str | Path) -> Any:
    if not is_url(place):
        return open(place, "rb")
    system, path = _system(place)
    return system.open(path, "rb")


def _system(place: str | Path) -> tuple[Any, str]:
    import fsspec  # comes with PyTorch

    try:
        system, path = fsspec.core.url_to_fs(str(place))
    except (ImportError, ValueError) as error:
        raise DataError(
            f"{place}: cannot be opened: {error}. fsspec needs a package for each kind of store: "
            "s3fs for s3://, gcsfs for gs://, adlfs for abfs://"
        ) from None
    return system, str(path)


def _seen_from(place: str | Path) -> str:
    absolute = is_url(place) or Path(place).is_absolute()
    return "" if absolute else f" (seen from {Path.cwd()})"

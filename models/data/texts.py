"""I/O: text files, or directories of them."""

from __future__ import annotations

from pathlib import Path

from models.data.files import DataError, is_directory, listing, opened, parts, text

ENDINGS = (".txt", ".md", ".py", ".rst", ".csv")
MOST = 1 << 28  # bytes of a file


def read(place: str | Path) -> dict[str, str]:
    """Texts by the name of the file below `place`, or of the file itself; in a directory, empty
    files (`__init__.py`) are passed over. Raises DataError."""
    if not is_directory(place):
        return {str(place).rpartition("/")[2]: text(place, MOST)}
    found = {}
    for path in listing(place, ENDINGS):
        with opened(path) as file:
            empty = not file.read(1)
        if not empty:
            found["/".join(parts(place, path))] = text(path, MOST)
    if not found:
        raise DataError(f"{place}: all its files are empty")
    return found

"""I/O: text files, or directories of them."""

from __future__ import annotations

from pathlib import Path

from models.data.files import DataError, is_directory, listing, opened, parts, text

ENDINGS = (".txt", ".md", ".py", ".rst", ".csv")
MOST = 1 << 28  # bytes of a file, and characters of all files of a directory


def read(place: str | Path) -> dict[str, str]:
    """Texts by the name of the file below `place`, or of the file itself; in a directory, empty
    files (`__init__.py`) are passed over. Raises DataError."""
    if not is_directory(place):
        return {str(place).rpartition("/")[2]: text(place, MOST)}
    found, characters = {}, 0
    for path in listing(place, ENDINGS):
        with opened(path) as file:
            empty = not file.read(1)
        if not empty:
            read = text(path, MOST)
            characters += len(read)
            if characters > MOST:
                raise DataError(f"{path}: with it the directory has more than {MOST} characters")
            found["/".join(parts(place, path))] = read
    if not found:
        raise DataError(f"{place}: all its files are empty")
    return found

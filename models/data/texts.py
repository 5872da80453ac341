"""I/O: text files, or directories of them."""

from __future__ import annotations

from pathlib import Path

from models.data.files import is_directory, listing, parts, text

ENDINGS = (".txt", ".md", ".py", ".rst", ".csv")
MOST = 1 << 28  # bytes of a file


def read(place: str | Path) -> dict[str, str]:
    """Texts by the name of the file below `place`, or of the file itself. Raises DataError."""
    if not is_directory(place):
        return {str(place).rpartition("/")[2]: text(place, MOST)}
    return {"/".join(parts(place, path)): text(path, MOST) for path in listing(place, ENDINGS)}

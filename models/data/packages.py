"""I/O: the local package index of Debian and its kin, as `apt-cache dumpavail` prints it.

It is real data that such machines have anyhow, and that has owners: each package has a maintainer,
a section, a short description, and others that it depends on.
"""

from __future__ import annotations

import re
import subprocess
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import lru_cache

from models.data.files import DataError

COMMAND = ("apt-cache", "dumpavail")
REMEDY = (
    "run `apt-get update` on Debian, Ubuntu or their kin, or give data of your own with path=..."
)
SECONDS = 60.0
NAME = re.compile(r"[a-z0-9][a-z0-9+.-]+")


@dataclass(frozen=True, slots=True)
class Package:
    """What the index says of a package."""

    name: str
    maintainer: str
    section: str
    description: str
    depends: tuple[str, ...]  # without versions and alternatives


@lru_cache(1)
def local() -> tuple[Package, ...]:
    """All packages of this machine's index, by name. Raises DataError where there is none."""
    try:
        dump = subprocess.run(COMMAND, capture_output=True, check=True, timeout=SECONDS).stdout
    except (OSError, subprocess.SubprocessError) as error:
        raise DataError(f"there is no package index here ({error}): {REMEDY}") from None
    return parse(dump.decode(errors="replace").splitlines(), "the package index")


def parse(lines: Iterable[str], place: str) -> tuple[Package, ...]:
    """From the lines of a dump; of several versions the first counts. Raises DataError if none."""
    found: dict[str, Package] = {}
    for fields in _stanzas(lines):
        name = fields.get("Package", "")
        if name and "Maintainer" in fields:
            found.setdefault(name, _package(name, fields))
    if not found:
        raise DataError(f"{place}: holds no packages: {REMEDY}")
    return tuple(found[name] for name in sorted(found))


def _package(name: str, fields: dict[str, str]) -> Package:
    depends = []
    for alternatives in fields.get("Depends", "").split(","):
        first = NAME.match(alternatives.strip())
        if first is not None and first[0] not in depends:
            depends.append(first[0])
    return Package(
        name,
        fields["Maintainer"],
        fields.get("Section", "").rpartition("/")[2],
        fields.get("Description", fields.get("Description-en", "")),
        tuple(depends),
    )


def _stanzas(lines: Iterable[str]) -> Iterator[dict[str, str]]:
    fields: dict[str, str] = {}
    for line in lines:
        if not line.strip():
            yield fields
            fields = {}
        elif line[0] not in " \t":  # continuations are long descriptions and tags
            name, _, value = line.partition(":")
            fields[name] = value.strip()
    yield fields

"""I/O: a directory for each class, as torchvision's ImageFolder and Speech Commands have it.

    images/cat/1.png   images/dog/2.jpg     a class is what the file's directory is called
    words/yes/0a7c2a8d_nohash_0.wav         and a speaker what the name begins with

Directories whose names begin with `_` or `.` are none: Speech Commands keeps noise in one. It names
its tests in `testing_list.txt`, and what that says is compared with names and never opened.
"""

from __future__ import annotations

import io
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from models.data.files import DataError, contents, is_url, listing, parts, text

IMAGES = (".png", ".jpg", ".jpeg", ".gif", ".bmp", ".webp", ".ppm", ".pgm")
FORMATS = ("PNG", "JPEG", "GIF", "BMP", "WEBP", "PPM")
SOUNDS = (".wav",)
MOST = 1 << 26  # bytes of an image
MOST_PIXELS = 1 << 26  # of an image, unpacked

Image = NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class Files:
    """What lies in a directory of directories; one entry of each for a file."""

    places: tuple[str, ...]
    labels: NDArray[np.int64]
    classes: tuple[str, ...]  # sorted; a label is an index into them

    @property
    def speakers(self) -> list[str]:
        """What each name begins with, up to the first underscore."""
        return [place.rpartition("/")[2].partition("_")[0] for place in self.places]

    def named(self, lines: Iterable[str]) -> NDArray[np.bool_]:
        """Which files are among `class/name` lines."""
        wanted = frozenset(lines)
        return np.array(["/".join(place.split("/")[-2:]) in wanted for place in self.places])


def files(place: str | Path, endings: tuple[str, ...]) -> Files:
    """Find the files and what class each is of. Raises DataError if one lies in no directory."""
    found, names = [], []
    for path in listing(place, endings):
        *above, _ = parts(place, path)
        if any(name.startswith(("_", ".")) for name in above):
            continue
        if not above:
            raise DataError(
                f"{path}: lies in no directory that says its class; make it {place}/CLASS/NAME"
            )
        found.append(path)
        names.append(above[-1])
    if not found:
        raise DataError(f"{place}: holds no directory of a class with files in it")
    classes, labels = np.unique(names, return_inverse=True)
    return Files(tuple(found), labels.astype(np.int64), tuple(map(str, classes)))


def listed(place: str | Path, name: str) -> list[str]:
    """The lines of a list such as `testing_list.txt`; none where there is no such file."""
    path = f"{str(place).rstrip('/')}/{name}"
    if not is_url(place) and not Path(path).is_file():
        return []
    try:
        return text(path).split()
    except DataError:
        if is_url(place):
            return []  # a store says in many ways that there is none
        raise


def picture(side: int, channels: int) -> Callable[[str], Image]:
    """A reader of images, (channels, side, side) in [0, 1], from a place."""
    return lambda place: _decoded(place, contents(place, MOST), side, channels)


def picture_of(side: int, channels: int) -> Callable[[object], Image]:
    """A reader of images from the bytes of a file. It opens no place, so strangers may use it."""

    def read(data: object) -> Image:
        if not isinstance(data, bytes):
            raise DataError(f"an image is the bytes of a file, not {type(data).__name__}")
        return _decoded("the image", data, side, channels)

    return read


def _decoded(place: str, data: bytes, side: int, channels: int) -> Image:
    pillow = _pillow()
    try:
        with pillow.open(io.BytesIO(data), formats=FORMATS) as image:
            width, height = image.size
            if width * height > MOST_PIXELS:  # told by the header, before anything is unpacked
                raise DataError(
                    f"{place}: at byte 0: declares {width} x {height} pixels; {MOST_PIXELS} are "
                    "the limit"
                )
            small = image.convert("L" if channels == 1 else "RGB").resize((side, side))
    except DataError:
        raise
    except Exception as error:  # Pillow's decoders raise whatever broken files make them raise
        raise DataError(f"{place}: at byte 0: is no whole image: {error}") from None
    pixels = np.asarray(small, np.float32).reshape(side, side, channels) / 255
    return np.ascontiguousarray(pixels.transpose(2, 0, 1))


def _pillow() -> Any:
    try:
        from PIL import Image  # here, not above: it is an extra
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError(
            f"images need Pillow ({error}): pip install 'gossip-learning[images]'", name=error.name
        ) from error
    return Image

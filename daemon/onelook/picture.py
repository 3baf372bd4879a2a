"""Picture: one photograph from a file, as RGB, whatever it was."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import TypeAlias

import cv2
import numpy as np
import PIL.Image
from numpy.typing import NDArray

from onelook.errors import OwnerError

Image: TypeAlias = NDArray[np.uint8]
"""RGB, shape (height, width, 3)."""

SUFFIXES = frozenset({
    ".jpg", ".jpeg", ".jfif", ".mpo", ".png", ".webp", ".bmp", ".gif", ".tif", ".tiff", ".avif", ".heic", ".heif",
})  # fmt: skip
"""What a file's name must end with to be taken for a picture, in a folder or alone."""

MAX_PIXELS = 50_000_000
"""A larger picture is refused before it is decoded: 50 megapixels take half a gigabyte on their way."""

LONGEST = 65_500
"""Pixels of a side of a JPEG, at most."""


class PictureError(OwnerError):
    """A picture cannot be read; the sentence says which and why."""


PIL.Image.MAX_IMAGE_PIXELS = None  # Pillow's own bound warns first; MAX_PIXELS is stricter and speaks clearly
_FORMATS = ("JPEG", "PNG", "WEBP", "BMP", "GIF", "TIFF", "AVIF")
_UPRIGHT: dict[int, Callable[[Image], Image]] = {  # EXIF orientation -> what turns the picture upright
    2: np.fliplr,
    3: lambda image: np.rot90(image, 2),
    4: np.flipud,
    5: lambda image: image.swapaxes(0, 1),
    6: lambda image: np.rot90(image, -1),
    7: lambda image: np.rot90(image, 2).swapaxes(0, 1),
    8: np.rot90,
}


def is_picture(path: Path | str) -> bool:
    """Whether it is called like one."""
    return Path(path).suffix.lower() in SUFFIXES


def is_shown(file: Path) -> bool:
    """Whether it is a file called like a picture, and not hidden, as the `._party.jpg` of a Mac. Raises OSError."""
    return is_picture(file) and not file.name.startswith(".") and file.is_file()


def pictures_in(folder: Path) -> list[Path]:
    """The files there that are called like pictures and not hidden, 2 before 10. Raises OSError."""
    def by_number(file: Path) -> list[int | str]:
        return [int(part) if part.isdecimal() else part for part in re.split(r"(\d+)", file.name)]

    return sorted(filter(is_shown, folder.iterdir()), key=by_number)


def read_picture(path: Path | str) -> Image:
    """Any photograph as RGB uint8 (height, width, 3), upright as its EXIF says.

    Grey, 16-bit, palette and CMYK pictures become RGB; what is transparent becomes white, as
    viewers show it; of several pictures in one file (GIF, MPO) the first counts.

    Pillow and not OpenCV, which returns the grey rest of a truncated JPEG as if it were picture,
    and tells a picture's size only once it has decoded it.

    Raises:
        PictureError: missing, empty, not a picture, truncated or corrupt, or over MAX_PIXELS.
    """
    try:
        with PIL.Image.open(path, formats=_FORMATS) as picture:
            width, height = picture.size
            if width * height > MAX_PIXELS:
                most = f"{MAX_PIXELS // 1_000_000} million"
                raise PictureError(f"{path} has {width} x {height} pixels, over {most}: make it smaller")
            picture.load()
            orientation = picture.getexif().get(0x0112, 1)
    except PIL.UnidentifiedImageError:
        raise PictureError(_no_picture(path)) from None
    except OSError as error:  # the system's, or one of the names that Pillow has for what is broken
        why = f"cannot be read: {error.strerror}" if error.strerror else f"is a broken picture: {error}"
        raise PictureError(f"{path} {why}") from None
    except (SyntaxError, ValueError, RuntimeError) as error:  # the others
        raise PictureError(f"{path} is a broken picture: {error}") from None
    if picture.mode == "F":
        raise PictureError(f"{path} is no photograph: its pixels are fractions of no known range")
    image = _rgb(picture)
    del picture  # Pillow keeps four bytes of a pixel: no more of them at once than must be
    turn = _UPRIGHT.get(orientation)
    return image if turn is None else np.ascontiguousarray(turn(image))


def write_picture(path: Path, image: Image) -> None:
    """An annotated picture as a JPEG, in a folder that is made where there is none.

    Raises PictureError where it is too large for one, and OwnerError where it cannot be written.
    """
    if max(image.shape) > LONGEST:
        raise PictureError(f"{path} cannot be written: no side of a JPEG has more than {LONGEST} pixels")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(cv2.imencode(".jpg", cv2.cvtColor(image, cv2.COLOR_RGB2BGR))[1].tobytes())
    except OSError as error:
        raise OwnerError(f"The annotated picture {path} cannot be written: {error.strerror}.") from None


def _rgb(picture: PIL.Image.Image) -> Image:
    """Pixels of ours; what Pillow holds is let go of on the way."""
    if picture.mode.startswith("I"):  # 16-bit grey, which Pillow would clip instead of scaling
        grey = (np.asarray(picture).astype(np.float32) / 257).clip(0, 255).astype(np.uint8)
        return np.repeat(grey[..., None], 3, axis=2)
    if picture.mode == "La":  # grey times its alpha; Pillow goes from there to nothing but this
        picture = picture.convert("LA")
    if picture.mode.endswith("A") or "transparency" in picture.info:  # not has_transparency_data: Debian 12's lacks it
        picture = picture.convert("RGBA") if picture.mode != "RGBA" else picture
        paper = PIL.Image.new("RGB", picture.size, "white")
        paper.paste(picture, mask=picture)
        picture = paper
    return np.array(picture if picture.mode == "RGB" else picture.convert("RGB"))


def _no_picture(path: Path | str) -> str:
    with Path(path).open("rb") as file:
        head = file.read(16)
    if not head:
        return f"{path} is empty"
    if head[4:8] == b"ftyp" and head[8:12] in {b"heic", b"heix", b"hevc", b"mif1", b"msf1"}:
        return f"{path} is a HEIC picture, which cannot be read here: save it as JPEG"
    return f"{path} is not a picture that can be read here: save it as JPEG or PNG"

"""Picture: one photograph from a file, as RGB, whatever it was."""

from __future__ import annotations

from pathlib import Path
from typing import TypeAlias

import numpy as np
import PIL.Image
from numpy.typing import NDArray

from onelook.errors import OwnerError

Image: TypeAlias = NDArray[np.uint8]
"""RGB, shape (height, width, 3)."""

MAX_PIXELS = 50_000_000
"""A larger picture is refused before it is decoded: at 50 megapixels it already takes 150 MB."""


class PictureError(OwnerError):
    """A picture cannot be read; the sentence says which and why."""


PIL.Image.MAX_IMAGE_PIXELS = None  # Pillow's own bound warns first; MAX_PIXELS is stricter and speaks clearly
_FORMATS = ("JPEG", "PNG", "WEBP", "BMP", "GIF", "TIFF", "AVIF")
_UPRIGHT = {  # EXIF orientation -> what turns the picture upright
    2: PIL.Image.Transpose.FLIP_LEFT_RIGHT,
    3: PIL.Image.Transpose.ROTATE_180,
    4: PIL.Image.Transpose.FLIP_TOP_BOTTOM,
    5: PIL.Image.Transpose.TRANSPOSE,
    6: PIL.Image.Transpose.ROTATE_270,
    7: PIL.Image.Transpose.TRANSVERSE,
    8: PIL.Image.Transpose.ROTATE_90,
}


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
    turn = _UPRIGHT.get(orientation)
    return _rgb(picture if turn is None else picture.transpose(turn))


def _rgb(picture: PIL.Image.Image) -> Image:
    if picture.mode.startswith("I"):  # 16-bit grey, which Pillow would clip instead of scaling
        grey = (np.asarray(picture).astype(np.float32) / 257).clip(0, 255).astype(np.uint8)
        return np.repeat(grey[..., None], 3, axis=2)
    if picture.mode == "La":  # grey times its alpha; Pillow goes from there to nothing but this
        picture = picture.convert("LA")
    if picture.mode.endswith("A") or "transparency" in picture.info:  # not has_transparency_data: Debian 12's lacks it
        paper = PIL.Image.new("RGBA", picture.size, "white")
        picture = PIL.Image.alpha_composite(paper, picture.convert("RGBA"))
    return np.array(picture.convert("RGB"))


def _no_picture(path: Path | str) -> str:
    with Path(path).open("rb") as file:
        head = file.read(16)
    if not head:
        return f"{path} is empty"
    if head[4:8] == b"ftyp" and head[8:12] in {b"heic", b"heix", b"hevc", b"mif1", b"msf1"}:
        return f"{path} is a HEIC picture, which cannot be read here: save it as JPEG"
    return f"{path} is not a picture that can be read here: save it as JPEG or PNG"

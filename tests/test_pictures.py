"""Photographs as people have them: each becomes upright RGB; what cannot be read is said in a sentence."""

import io
import random
import re
import struct
import subprocess
import sys
import zlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import PIL.Image
import pytest

from onelook.errors import OwnerError
from onelook.picture import PictureError, _rgb, read_picture

RED, GREEN, BLUE, WHITE = (220, 30, 30), (30, 200, 40), (20, 40, 210), (250, 250, 250)


def quarters(width: int = 64, height: int = 48) -> PIL.Image.Image:
    """Red and green above, blue and white below."""
    picture = np.empty((height, width, 3), np.uint8)
    picture[: height // 2, : width // 2] = RED
    picture[: height // 2, width // 2 :] = GREEN
    picture[height // 2 :, : width // 2] = BLUE
    picture[height // 2 :, width // 2 :] = WHITE
    return PIL.Image.fromarray(picture)


def assert_quarters(image: np.ndarray, tolerance: int = 12) -> None:
    assert image.dtype == np.uint8
    assert image.shape == (48, 64, 3)
    assert image.flags.c_contiguous
    for (y, x), colour in {(8, 8): RED, (8, 50): GREEN, (40, 8): BLUE, (40, 50): WHITE}.items():
        assert np.abs(image[y, x].astype(int) - colour).max() <= tolerance, (y, x, image[y, x])


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "BMP", "TIFF", "AVIF"])
def test_every_common_format_becomes_rgb(kind: str, tmp_path: Path) -> None:
    quarters().save(tmp_path / "photo", kind, quality=95)
    assert_quarters(read_picture(tmp_path / "photo"))


def test_grey_that_is_stored_times_its_alpha_is_read() -> None:
    assert _rgb(quarters().convert("LA").convert("La")).shape == (48, 64, 3)


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "TIFF"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_a_photograph_taken_in_any_position_is_upright(kind: str, orientation: int, tmp_path: Path) -> None:
    lying = {  # how the pixels lie in the file when the camera was held so
        1: lambda p: p,
        2: np.fliplr,
        3: lambda p: np.rot90(p, 2),
        4: np.flipud,
        5: lambda p: p.swapaxes(0, 1),
        6: lambda p: np.rot90(p, 1),
        7: lambda p: np.rot90(p.swapaxes(0, 1), 2),
        8: lambda p: np.rot90(p, -1),
    }[orientation](np.asarray(quarters()))
    exif = PIL.Image.Exif()
    exif[0x0112] = orientation
    PIL.Image.fromarray(np.ascontiguousarray(lying)).save(tmp_path / "photo", kind, exif=exif, quality=95)
    assert_quarters(read_picture(tmp_path / "photo"))


def test_a_cmyk_jpeg_from_a_print_shop_has_its_colours(tmp_path: Path) -> None:
    quarters().convert("CMYK").save(tmp_path / "photo.jpg", quality=95)
    assert_quarters(read_picture(tmp_path / "photo.jpg"))


def test_a_palette_picture_has_its_colours(tmp_path: Path) -> None:
    quarters().quantize(8).save(tmp_path / "photo.png")
    assert_quarters(read_picture(tmp_path / "photo.png"))
    quarters().quantize(8).save(tmp_path / "photo.gif")
    assert_quarters(read_picture(tmp_path / "photo.gif"))


def test_the_first_picture_of_a_stereo_or_moving_one_counts(tmp_path: Path) -> None:
    other = PIL.Image.new("RGB", (64, 48), "black")
    quarters().save(tmp_path / "stereo.jpg", "MPO", save_all=True, append_images=[other], quality=95)
    assert_quarters(read_picture(tmp_path / "stereo.jpg"))
    quarters().save(tmp_path / "moving.gif", save_all=True, append_images=[other])
    assert_quarters(read_picture(tmp_path / "moving.gif"))


@pytest.mark.parametrize("mode", ["L", "LA", "1"])
def test_grey_becomes_three_equal_channels(mode: str, tmp_path: Path) -> None:
    PIL.Image.new(mode, (7, 5), (255, 255) if mode == "LA" else 255).save(tmp_path / "photo.png")
    image = read_picture(tmp_path / "photo.png")
    assert image.shape == (5, 7, 3)
    assert (image == 255).all()


@pytest.mark.parametrize("kind", ["PNG", "TIFF"])
def test_sixteen_bits_are_scaled_and_not_clipped(kind: str, tmp_path: Path) -> None:
    ramp = np.tile(np.linspace(0, 65535, 256).astype(np.uint16), (4, 1))
    PIL.Image.fromarray(ramp).save(tmp_path / "photo", kind)
    image = read_picture(tmp_path / "photo")
    assert image.shape == (4, 256, 3)
    assert np.abs(image[0, :, 0].astype(int) - np.arange(256)).max() <= 1
    assert (image[..., 0] == image[..., 2]).all()


def test_sixteen_bit_colour_is_read_too(tmp_path: Path) -> None:
    rows = np.asarray(quarters()).astype(">u2") * 257
    write_png(tmp_path / "photo.png", 64, 48, depth=16, colour=2, rows=[row.tobytes() for row in rows])
    assert_quarters(read_picture(tmp_path / "photo.png"))


def test_what_is_transparent_is_seen_on_white(tmp_path: Path) -> None:
    cut_out = quarters().convert("RGBA")
    cut_out.putalpha(PIL.Image.new("L", cut_out.size, 0))
    cut_out.paste(quarters().crop((0, 0, 32, 24)), (0, 0))
    cut_out.save(tmp_path / "photo.png")
    image = read_picture(tmp_path / "photo.png")
    assert image[8, 8].tolist() == list(RED)
    assert image[40, 8].tolist() == [255, 255, 255]


@pytest.mark.parametrize("size", [(1, 1), (2000, 1), (1, 2000), (33, 17)])
def test_odd_sizes_keep_their_size(size: tuple[int, int], tmp_path: Path) -> None:
    PIL.Image.new("RGB", size, GREEN).save(tmp_path / "photo.png")
    assert read_picture(str(tmp_path / "photo.png")).shape == (size[1], size[0], 3)


def test_real_photographs_are_read(testdata: Path) -> None:
    for path in [testdata / "solvay1927.jpg", testdata / "stock-group-1.jpg"]:
        image = read_picture(path)
        assert min(image.shape[:2]) > 500
        assert 10 < image.mean() < 245


# --- what cannot be read -----------------------------------------------------------------------


def write_png(path: Path, width: int, height: int, *, depth: int, colour: int, rows: list[bytes]) -> None:
    def chunk(name: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))

    head = struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, 0)
    body = zlib.compress(b"".join(b"\0" + row for row in rows))
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", body) + chunk(b"IEND", b""))


def saved(kind: str, **more: object) -> bytes:
    file = io.BytesIO()
    quarters(256, 192).save(file, kind, **more)
    return file.getvalue()


def huge(path: Path) -> None:
    write_png(path, 40_000, 40_000, depth=8, colour=2, rows=[bytes(100)])  # 4.8 GB once decoded


def fractions(path: Path) -> None:
    PIL.Image.fromarray(np.zeros((4, 4), np.float32)).save(path, "TIFF")


NO_PICTURE = "is not a picture that can be read here: save it as JPEG or PNG"
TRUNCATED = "is a broken picture: image file is truncated"


def holds(data: bytes) -> Callable[[Path], object]:
    return lambda path: path.write_bytes(data)


MESSES: dict[str, tuple[Callable[[Path], object], str]] = {
    "missing": (lambda _: None, "cannot be read: No such file or directory"),
    "folder": (Path.mkdir, "cannot be read: Is a directory"),
    "empty": (Path.touch, "is empty"),
    "text": (holds(b"hello " * 99), NO_PICTURE),
    "zeros": (holds(bytes(9999)), NO_PICTURE),
    "HEIC": (
        holds(b"\0\0\0\x18ftypheic" + bytes(99)),
        "is a HEIC picture, which cannot be read here: save it",
    ),
    "JPEG, half": (holds(saved("JPEG")[:-800]), TRUNCATED),
    "JPEG, progressive, half": (holds(saved("JPEG", progressive=True)[:-800]), "is a broken picture: "),
    "JPEG, all but two bytes": (holds(saved("JPEG")[:-2]), TRUNCATED),
    "PNG, half": (holds(saved("PNG")[:-60]), TRUNCATED),
    "PNG, wrong": (holds(saved("PNG").replace(b"IDAT", b"IDAT\x55\xaa", 1)), "is a broken picture: "),
    "WebP, half": (holds(saved("WEBP")[:-100]), "is a broken picture: "),
    "BMP, half": (holds(saved("BMP")[:-900]), TRUNCATED),
    "huge": (huge, "has 40000 x 40000 pixels, over 50 million: make it smaller"),
    "fractions": (fractions, "is no photograph: its pixels are fractions of no known range"),
}


@pytest.mark.parametrize("mess", MESSES)
def test_what_cannot_be_read_is_said_in_one_sentence(mess: str, tmp_path: Path) -> None:
    make, sentence = MESSES[mess]
    path = tmp_path / "photo.jpg"
    make(path)
    with pytest.raises(PictureError, match="^" + re.escape(f"{path} {sentence}")) as said:
        read_picture(path)
    assert "\n" not in str(said.value)
    assert isinstance(said.value, OwnerError)
    assert said.value.__suppress_context__ or said.value.__context__ is None, "no traceback of the decoder's"


MEMORY = """
import resource, sys
from onelook.picture import read_picture
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
assert read_picture(sys.argv[1]).shape == (6000, 4000, 3)
print((resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) * 1024 / 24e6)
"""


def test_a_photograph_of_a_telephone_takes_no_more_memory_than_it_must(tmp_path: Path) -> None:
    picture = PIL.Image.effect_noise((6000, 4000), 20).convert("RGB")
    exif = PIL.Image.Exif()
    exif[0x0112] = 6  # lying on its side
    picture.save(tmp_path / "photo.jpg", exif=exif)
    command = [sys.executable, "-c", MEMORY, tmp_path / "photo.jpg"]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert float(done.stdout) < 11  # bytes a pixel: Pillow's four, ours, and a copy that is turned or handed over


def test_the_bound_on_pixels_is_exact(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    quarters().save(tmp_path / "photo.png")
    monkeypatch.setattr("onelook.picture.MAX_PIXELS", 64 * 48)
    assert_quarters(read_picture(tmp_path / "photo.png"))
    monkeypatch.setattr("onelook.picture.MAX_PIXELS", 64 * 48 - 1)
    with pytest.raises(PictureError, match="has 64 x 48 pixels, over"):
        read_picture(tmp_path / "photo.png")


@pytest.mark.filterwarnings("ignore::UserWarning:PIL")
def test_no_mutilated_picture_ends_in_anything_but_a_picture_or_a_sentence(tmp_path: Path) -> None:
    dice = random.Random(1)  # noqa: S311 - no secret
    exif = PIL.Image.Exif()
    exif[0x0112] = 6
    kinds = [saved(kind, exif=exif) for kind in ("JPEG", "PNG", "WEBP")] + [saved("BMP"), saved("GIF")]
    path, refused = tmp_path / "photo", 0
    for _ in range(300):
        data = bytearray(dice.choice(kinds))
        for _ in range(dice.choice([1, 2, 20])):
            at = int(len(data) * dice.random() ** 3)  # rather in the head than in the pixels
            data[at : at + dice.choice([1, 1, 4])] = dice.randbytes(dice.choice([0, 1, 1, 4]))
        path.write_bytes(data)
        try:
            image = read_picture(path)
        except PictureError:
            refused += 1
        else:
            assert (image.dtype, image.ndim, image.shape[2]) == (np.uint8, 3, 3)
    assert 30 < refused < 270

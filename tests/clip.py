"""A clip with a story: Eileen Collins is there all the time, Grace Hopper comes and goes.

Two photographs of real faces, large and nearly still, so that the story is the same whatever
network tells it.

clip.py FOLDER writes its first five seconds there as pictures: these decode to the same bytes on every machine.
"""

import math
import sys
from collections.abc import Iterator
from fractions import Fraction
from itertools import islice
from pathlib import Path

import av
import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import Image as Pillow

import onelook
from onelook.picture import read_picture
from onelook.video import VideoWriter

PORTRAITS = Path(onelook.__file__).parent / "portraits"
EILEEN, GRACE = PORTRAITS / "eileen_collins.jpg", PORTRAITS / "grace_hopper.jpg"
FACES = {EILEEN: (178, 65, 92, 112), GRACE: (177, 123, 178, 224)}
"""x, y, width and height of the face, in pixels of the portrait."""
LANDMARKS = {
    EILEEN: ((203, 104), (248, 104), (225, 128), (204, 143), (243, 144)),
    GRACE: ((224, 197), (307, 196), (265, 239), (230, 274), (304, 272)),
}
"""Eye, eye, nose, mouth corner, mouth corner, in pixels of the portrait."""

WIDTH, HEIGHT, FPS = 640, 480, 10
COMES, GOES, SECONDS = 1.5, 4.5, 8.0
"""When Grace Hopper is to be seen, and how long the clip is."""

Image = NDArray[np.uint8]


def head(portrait: Path, height: int = 180) -> Image:
    """The head on a portrait, with what is around it; `height` pixels high."""
    picture = read_picture(portrait)
    x, y, w, h = FACES[portrait]
    cut = picture[max(0, y - h // 2) : y + h * 3 // 2, max(0, x - w // 2) : x + w * 3 // 2]
    return np.asarray(cv2.resize(cut, (height * cut.shape[1] // cut.shape[0], height)), np.uint8)


def pictures() -> Iterator[Image]:
    """The pictures of the story, FPS of them a second."""
    eileen, grace = head(EILEEN), head(GRACE)
    for index in range(round(SECONDS * FPS)):
        time = index / FPS
        canvas = np.full((HEIGHT, WIDTH, 3), (96, 110, 120), np.uint8)
        # Each pass of the clip ends where it began: it is also played round and round.
        sway = round(12 * math.sin(2 * math.pi * time / SECONDS))
        _lay(canvas, eileen, 80 + sway, 120)
        if COMES <= time < GOES:
            _lay(canvas, grace, 380 - sway, 120)
        yield canvas


def _lay(canvas: Image, picture: Image, x: int, y: int) -> None:
    canvas[y : y + picture.shape[0], x : x + picture.shape[1]] = picture


def write_mp4(path: Path) -> Path:
    """The clip as a video file."""
    with VideoWriter(path) as writer:
        for index, picture in enumerate(pictures()):
            writer.write(picture, index / FPS)
    return path


def write_h264(path: Path) -> Path:
    """The clip as a camera sends it: H.264 without a container, one slice a picture (see rtsp_server.py)."""
    with av.open(str(path), "w", format="h264") as file:
        options = {"preset": "veryfast", "bf": "0", "g": "10", "x264-params": "sliced-threads=0:slices=1"}
        stream = file.add_stream("libx264", rate=FPS, options=options)
        assert isinstance(stream, av.VideoStream)
        stream.width, stream.height, stream.pix_fmt = WIDTH, HEIGHT, "yuv420p"
        stream.codec_context.time_base = Fraction(1, FPS)
        for index, picture in enumerate(pictures()):
            frame = av.VideoFrame.from_ndarray(picture, format="rgb24")
            frame.pts = index
            file.mux(stream.encode(frame))
        file.mux(stream.encode(None))
    return path


def write_pictures(folder: Path) -> None:
    """The clip until a little after Grace Hopper has gone, as a folder of PNGs."""
    folder.mkdir()
    for index, picture in enumerate(islice(pictures(), 50)):
        Pillow.fromarray(picture).save(folder / f"{index:03}.png")


if __name__ == "__main__":
    write_pictures(Path(sys.argv[1]))

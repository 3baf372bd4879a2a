"""A camera of v4l2loopback: shows colour bars, or the clip of the tests, until it is killed.

    python v4l2_camera.py DEVICE PIXELFORMAT bars|clip

PIXELFORMAT is a V4L2 fourcc, one of FORMATS. Runs with onelook's own Python, beside clip.py.
"""

from __future__ import annotations

import fcntl
import os
import struct
import sys
import time
from collections.abc import Iterator

import av
import cv2
import numpy as np
from numpy.typing import NDArray

import clip

FORMATS = {
    "YUYV": "yuyv422", "UYVY": "uyvy422", "NV12": "nv12", "YU12": "yuv420p", "RGB3": "rgb24", "BGR3": "bgr24",
    "GREY": "gray", "MJPG": "",
}  # fmt: skip
"""V4L2's name of a pixel format: FFmpeg's."""
VIDIOC_S_FMT, OUTPUT, NO_FIELDS, SRGB = 0xC0D05605, 2, 1, 8
FPS = 5


def main() -> None:
    """Write one picture after the other."""
    device, fourcc, what = sys.argv[1:]
    pictures = [encoded(picture, fourcc) for picture in (bars() if what == "bars" else faces())]
    size = max(map(len, pictures))
    pixels = struct.pack("<II4sIIII", clip.WIDTH, clip.HEIGHT, fourcc.encode(), NO_FIELDS, 0, size, SRGB)
    camera = os.open(device, os.O_RDWR)
    fcntl.ioctl(camera, VIDIOC_S_FMT, bytearray(struct.pack("<II", OUTPUT, 0) + pixels).ljust(208, b"\0"))
    print("shows", what, "in", fourcc, flush=True)
    while True:
        for picture in pictures:
            os.write(camera, picture)
            time.sleep(1 / FPS)


def bars() -> Iterator[NDArray[np.uint8]]:
    """Red, green and blue, from left to right."""
    picture = np.zeros((clip.HEIGHT, clip.WIDTH, 3), np.uint8)
    for colour in range(3):
        picture[:, clip.WIDTH * colour // 3 : clip.WIDTH * (colour + 1) // 3, colour] = 224
    yield picture


def faces() -> Iterator[NDArray[np.uint8]]:
    """Every other picture of the clip."""
    for number, picture in enumerate(clip.pictures()):
        if number % (clip.FPS // FPS) == 0:
            yield picture


def encoded(picture: NDArray[np.uint8], fourcc: str) -> bytes:
    """RGB (H, W, 3) as a camera of that pixel format sends it."""
    if fourcc == "MJPG":
        return bytes(cv2.imencode(".jpg", picture[..., ::-1])[1])
    frame = av.VideoFrame.from_ndarray(picture, format="rgb24").reformat(format=FORMATS[fourcc])
    rows = []
    for plane in frame.planes:  # without the padding that FFmpeg may put at the end of a row
        wide = plane.width * (2 if fourcc in {"YUYV", "UYVY"} else 3 if fourcc in {"RGB3", "BGR3"} else 1)
        wide *= 2 if fourcc == "NV12" and rows else 1
        rows.append(np.frombuffer(plane, np.uint8).reshape(-1, plane.line_size)[: plane.height, :wide].tobytes())
    return b"".join(rows)


if __name__ == "__main__":
    main()

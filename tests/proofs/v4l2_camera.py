"""The lens before v4l2loopback, in onelook's own Python.

    python v4l2_camera.py DEVICE PIXELFORMAT     shows the clip of the tests, until it is killed
    python v4l2_camera.py DEVICE                 shows colour bars in each of FORMATS to onelook.capture; tells as JSON
"""

from __future__ import annotations

import fcntl
import json
import os
import struct
import subprocess
import sys
import threading
import time

import av
import cv2
import numpy as np
from numpy.typing import NDArray

import clip
from onelook.capture import frames

FORMATS = {
    "YUYV": "yuyv422", "UYVY": "uyvy422", "NV12": "nv12", "YU12": "yuv420p", "RGB3": "rgb24", "BGR3": "bgr24",
    "GREY": "gray", "MJPG": "",
}  # fmt: skip
"""V4L2's name of a pixel format: FFmpeg's."""
VIDIOC_S_FMT, OUTPUT, NO_FIELDS, SRGB = 0xC0D05605, 2, 1, 8
FPS = 5

Image = NDArray[np.uint8]


class Lens:
    """What v4l2loopback's camera sees, in one pixel format."""

    def __init__(self, device: str, fourcc: str) -> None:
        self.fourcc = fourcc
        self._camera = os.open(device, os.O_RDWR)
        size = 3 * clip.WIDTH * clip.HEIGHT
        pixels = struct.pack("<II4sIIII", clip.WIDTH, clip.HEIGHT, fourcc.encode(), NO_FIELDS, 0, size, SRGB)
        fcntl.ioctl(self._camera, VIDIOC_S_FMT, bytearray(struct.pack("<II", OUTPUT, 0) + pixels).ljust(208, b"\0"))

    def show(self, data: bytes) -> None:
        """One picture, `encoded`."""
        os.write(self._camera, data)

    def close(self) -> None:
        os.close(self._camera)


def bars() -> Image:
    """Red, green and blue, from left to right."""
    picture = np.zeros((clip.HEIGHT, clip.WIDTH, 3), np.uint8)
    for colour in range(3):
        picture[:, clip.WIDTH * colour // 3 : clip.WIDTH * (colour + 1) // 3, colour] = 224
    return picture


def encoded(picture: Image, fourcc: str) -> bytes:
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


def play(device: str, fourcc: str) -> None:
    """The clip, round and round, at FPS."""
    shown = [encoded(each, fourcc) for number, each in enumerate(clip.pictures()) if number % (clip.FPS // FPS) == 0]
    lens = Lens(device, fourcc)
    lens.show(shown[0])  # only now is it a camera
    print("shows the clip in", fourcc, flush=True)
    while True:
        for picture in shown:
            lens.show(picture)
            time.sleep(1 / FPS)


def try_formats(device: str) -> None:
    """What onelook.capture makes of colour bars in each pixel format, and what the driver says that it is."""
    for fourcc in FORMATS:
        lens, data, stop = Lens(device, fourcc), encoded(bars(), fourcc), threading.Event()

        def shine(lens: Lens = lens, data: bytes = data, stop: threading.Event = stop) -> None:
            while not stop.wait(1 / FPS):
                lens.show(data)

        lens.show(data)  # only now is it a camera
        light = threading.Thread(target=shine)
        light.start()
        try:
            told = subprocess.run(
                ["v4l2-ctl", "--device", device, "--get-fmt-video"], capture_output=True, text=True, check=True
            )
            source = frames(device)
            image = next(source).image
            source.close()  # type: ignore[attr-defined]  # a generator
        finally:
            stop.set()
            light.join()
            lens.close()
        height, width = image.shape[:2]
        print(json.dumps({
            "format": fourcc, "size": [width, height], "driver": f"'{fourcc}'" in told.stdout,
            "colours": [image[height // 2, width * x // 6].tolist() for x in (1, 3, 5)],
        }), flush=True)  # fmt: skip


if __name__ == "__main__":
    if sys.argv[2:]:
        play(sys.argv[1], sys.argv[2])
    else:
        try_formats(sys.argv[1])

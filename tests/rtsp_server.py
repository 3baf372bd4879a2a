"""A real RTSP camera for the tests. Run with the system's Python, which has GStreamer's bindings (gi).

    rtsp_server.py PORT [--user NAME --password WORD] [--clip FILE.h264]

serves on 127.0.0.1, until it is killed:

    /h264   25 fps        /h265   25 fps
    /fast   50 fps        /slow   10 fps     (both H.264)
    /clip   the file, round and round, where one is given

Every other picture is 320x240: below, three bars of red, green and blue; above, a strip of 32 black or white
squares which are the millisecond (CLOCK_MONOTONIC, so the client's clock too) at which it was drawn, most
significant bit first, two rows of 16. So a test can read how old a picture truly is.
"""

import argparse
import time

import gi

gi.require_version("Gst", "1.0")
gi.require_version("GstRtsp", "1.0")
gi.require_version("GstRtspServer", "1.0")
from gi.repository import GLib, Gst, GstRtsp, GstRtspServer  # noqa: E402

WIDTH, HEIGHT, SQUARE = 320, 240, 20
BARS = (b"\xe0\x10\x10" * 107 + b"\x10\xe0\x10" * 106 + b"\x10\x10\xe0" * 107) * (HEIGHT - 2 * SQUARE)
FAST = "tune=zerolatency speed-preset=ultrafast bitrate=1000 key-int-max=10"
# One slice a picture: rtph264pay puts parameters before every slice of a key frame, which splits it in two.
H264 = f"x264enc {FAST} sliced-threads=false ! h264parse ! rtph264pay"
H265 = f"x265enc {FAST} ! rtph265pay"


def picture():
    now = int(time.monotonic() * 1000) & 0xFFFFFFFF
    squares = [(b"\xff" if now >> bit & 1 else b"\x00") * (3 * SQUARE) for bit in range(31, -1, -1)]
    return b"".join(squares[:16]) * SQUARE + b"".join(squares[16:]) * SQUARE + BARS


class Camera(GstRtspServer.RTSPMediaFactory):
    def __init__(self, encoder, fps):
        super().__init__()
        self.fps = fps
        self.set_shared(True)
        raw = f"video/x-raw,format=RGB,width={WIDTH},height={HEIGHT},framerate={fps}/1"
        self.set_launch(
            f"( appsrc name=lens caps={raw} is-live=true do-timestamp=true format=time"
            " max-buffers=1 leaky-type=downstream"
            f" ! videoconvert ! video/x-raw,format=I420 ! {encoder} name=pay0 config-interval=-1 )"
        )
        self.connect("media-configure", self.roll)

    def roll(self, _factory, media):
        lens = media.get_element().get_by_name("lens")

        def shoot():
            lens.emit("push-buffer", Gst.Buffer.new_wrapped(picture()))
            return True  # and again

        rolling = GLib.timeout_add(1000 // self.fps, shoot)
        media.connect("unprepared", lambda _media: GLib.source_remove(rolling))


class Player(GstRtspServer.RTSPMediaFactory):
    """A camera before which the same things happen for ever."""

    def __init__(self, clip):
        super().__init__()
        self.set_shared(True)
        self.set_launch(
            f"( multifilesrc location={clip} loop=true ! h264parse ! identity sync=true"
            " ! rtph264pay name=pay0 config-interval=-1 )"
        )


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("port")
    parser.add_argument("--user")
    parser.add_argument("--password")
    parser.add_argument("--clip")
    options = parser.parse_args()
    Gst.init(None)
    server = GstRtspServer.RTSPServer()
    server.set_address("127.0.0.1")
    server.set_service(options.port)
    cameras = {"/h264": Camera(H264, 25), "/fast": Camera(H264, 50), "/slow": Camera(H264, 10)}
    if Gst.ElementFactory.find("x265enc"):
        cameras["/h265"] = Camera(H265, 25)
    if options.clip:
        cameras["/clip"] = Player(options.clip)
    if options.user:
        auth = GstRtspServer.RTSPAuth()
        auth.set_supported_methods(GstRtsp.RTSPAuthMethod.DIGEST)
        token = GstRtspServer.RTSPToken()
        token.set_string("media.factory.role", "owner")
        auth.add_digest(options.user, options.password, token)
        server.set_auth(auth)
        for camera in cameras.values():
            camera.add_role_from_structure(
                Gst.Structure.from_string("owner, media.factory.access=true, media.factory.construct=true")[0]
            )
    for path, camera in cameras.items():
        server.get_mount_points().add_factory(path, camera)
    server.attach(None)
    GLib.MainLoop().run()


if __name__ == "__main__":
    main()

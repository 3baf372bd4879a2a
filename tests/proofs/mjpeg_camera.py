"""A network camera, with nothing but Python's library: one picture round and round as MJPEG over HTTP.

mjpeg_camera.py PORT PICTURE.jpg [SECONDS BETWEEN PICTURES]
"""

import sys
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

PICTURE = Path(sys.argv[2]).read_bytes()
PAUSE = float(sys.argv[3]) if len(sys.argv) > 3 else 0.1


class Camera(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        self.send_response(200)
        self.send_header("Content-Type", "multipart/x-mixed-replace; boundary=picture")
        self.end_headers()
        try:
            while True:
                head = f"--picture\r\nContent-Type: image/jpeg\r\nContent-Length: {len(PICTURE)}\r\n\r\n"
                self.wfile.write(head.encode() + PICTURE + b"\r\n")
                time.sleep(PAUSE)
        except OSError:
            pass  # the client has gone

    def log_message(self, format: str, *args: object) -> None:
        pass


ThreadingHTTPServer(("127.0.0.1", int(sys.argv[1])), Camera).serve_forever()

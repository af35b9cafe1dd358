"""A web server of one folder, which can die while it is asked for files."""

import os
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path


class _Handler(BaseHTTPRequestHandler):
    """Files in ranges, as readers of Parquet ask for them."""

    protocol_version = "HTTP/1.1"

    def do_HEAD(self):
        self._answer(with_content=False)

    def do_GET(self):
        self._answer(with_content=True)

    def _answer(self, with_content: bool):
        server = self.server
        if "Range" in self.headers:  # not of those who only look whether it is there
            server.asked.add(self.path)
        if len(server.asked) > server.max_files:
            os._exit(1)
        content = (server.folder / self.path[1:]).read_bytes()
        first, last, size = 0, len(content) - 1, len(content)
        self.send_response(206 if "Range" in self.headers else 200)
        if "Range" in self.headers:
            begin, _, end = self.headers["Range"].removeprefix("bytes=").partition("-")
            first, last = int(begin), min(int(end or last), last)
            self.send_header("Content-Range", f"bytes {first}-{last}/{size}")
        self.send_header("Accept-Ranges", "bytes")
        self.send_header("Content-Length", str(last - first + 1))
        self.end_headers()
        if with_content:
            self.wfile.write(content[first : last + 1])

    def log_message(self, *_):
        pass


def serve(folder: Path, port: int, max_files: float, ready) -> None:
    """Say the port through the pipe `ready`, then serve until someone reads one file more than `max_files`."""
    server = ThreadingHTTPServer(("127.0.0.1", port), _Handler)
    server.folder, server.max_files, server.asked = folder, max_files, set()
    ready.send(server.server_port)
    server.serve_forever()

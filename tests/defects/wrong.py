"""Services that are not what they should be: each a server of its own on loopback, in a thread."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any


class Wrong(BaseHTTPRequestHandler):
    """Reads a request of any method, and leaves the answer to `reply`."""

    protocol_version = "HTTP/1.1"

    def reply(self, body: bytes) -> None:
        """Answer."""
        raise NotImplementedError

    def answer(self, status: int, body: bytes = b"", **headers: str) -> None:
        """Send a whole answer."""
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name.replace("_", "-"), value)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def do_GET(self) -> None:
        self.reply(self.rfile.read(int(self.headers.get("Content-Length") or 0)))

    do_POST = do_PATCH = do_DELETE = do_GET

    def log_message(self, format: str, *args: Any) -> None:
        pass


@contextmanager
def serving(kind: type[Wrong]) -> Iterator[str]:
    """The URL of a server of this kind, until the end of the block."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), kind)
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_address[1]}"
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def saying(status: int, body: bytes, **headers: str) -> type[Wrong]:
    """A server that answers the same to everything."""

    class Same(Wrong):
        def reply(self, body_: bytes) -> None:
            self.answer(status, body, **headers)

    return Same

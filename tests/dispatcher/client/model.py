"""An upstream in a thread, for the blocking client and the command line: a model server that does
as its path says."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any


@dataclass(slots=True)
class Model:
    """`/echo` answers with what it was sent, `/hold` too, once it may `go`; `/500/words` with that
    code and these words."""

    url: str = ""
    go: threading.Event = field(default_factory=threading.Event)
    called: threading.Semaphore = field(default_factory=lambda: threading.Semaphore(0))


@contextmanager
def model() -> Iterator[Model]:
    """One that runs until the end of the block."""
    made = Model()

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
            kind = self.headers.get("Content-Type", "")
            what, _, words = self.path.removeprefix("/").partition("/")
            made.called.release()
            if what == "hold":
                made.go.wait()
            code = int(what) if what.isdecimal() else 200
            if what.isdecimal():
                body, kind = words.encode(), "text/plain"
            self.send_response(code)
            self.send_header("Content-Type", kind)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, format: str, *args: Any) -> None:
            pass

        def handle(self) -> None:
            with suppress(BrokenPipeError, ConnectionResetError):  # a call that was closed
                super().handle()

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    made.url = f"http://127.0.0.1:{server.server_address[1]}"
    try:
        yield made
    finally:
        made.go.set()
        server.shutdown()
        thread.join()
        server.server_close()

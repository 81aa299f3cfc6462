#!/usr/bin/env python3
"""Runs a worker that cannot be told to give up what it works on, and restarts it when told to.

    python3 stoppable.py --port 8001 -- python3 handler.py --rp_serve_api --rp_api_port 8000

`POST /stop` answers once the worker's processes have ended, and another worker has been started.
For an endpoint with `concurrency = 1` for each worker, and

    cancel = { url = "http://127.0.0.1:8001/stop" }

Standard library alone: copy it into the worker's image.
"""

import argparse
import os
import signal
import subprocess
import sys
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

END_S = 10.0


class Worker:
    """A command that runs in a process group of its own; restarted wherever it ends."""

    def __init__(self, command: list[str]) -> None:
        self._command = command
        self._lock = threading.Lock()
        self._process = self._begin()
        self._over = False

    def _begin(self) -> "subprocess.Popen[bytes]":
        return subprocess.Popen(self._command, start_new_session=True)  # noqa: S603 - as given

    def stop(self) -> None:
        """End what it works on, whatever that is, and begin anew."""
        with self._lock:
            self._end(signal.SIGKILL)
            if not self._over:
                self._process = self._begin()

    def close(self) -> None:
        """End it for good."""
        with self._lock:
            self._over = True
            self._end(signal.SIGTERM)

    def watch(self) -> None:
        """Begin anew where it ended by itself, a second later."""
        ended = threading.Event()
        while not self._over:
            with self._lock:
                if self._process.poll() is not None and not self._over:
                    self._process = self._begin()
            ended.wait(1.0)

    def _end(self, by: int) -> None:
        for one in (by, signal.SIGKILL):
            try:
                os.killpg(self._process.pid, one)
            except ProcessLookupError:
                return
            try:
                self._process.wait(END_S)
            except subprocess.TimeoutExpired:
                continue
            return


def serve(worker: Worker, host: str, port: int) -> ThreadingHTTPServer:
    """Return a server that listens for `POST /stop`."""

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            known = self.path.partition("?")[0] == "/stop"
            if known:
                worker.stop()
            self.send_response(200 if known else 404)
            self.send_header("Content-Length", "0")
            self.end_headers()

        def log_message(self, format: str, *args: object) -> None:
            """Nothing: the dispatcher logs each stop."""

    return ThreadingHTTPServer((host, port), Handler)


def main() -> None:
    """Run until SIGTERM or SIGINT, or as long as nothing ends it."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("command", nargs=argparse.REMAINDER)
    given = parser.parse_args()
    command = given.command[1:] if given.command[:1] == ["--"] else given.command
    if not command:
        parser.error("name the worker's command behind --")
    worker = Worker(command)
    server = serve(worker, given.host, given.port)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    threading.Thread(target=worker.watch, daemon=True).start()
    try:
        server.serve_forever()
    except KeyboardInterrupt:
        pass
    finally:
        worker.close()


if __name__ == "__main__":
    main()

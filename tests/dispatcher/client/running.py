"""A whole dispatcher on a loopback socket, and a customer to deliver to, each in a thread: so that
the blocking client and the command line can talk to them."""

import asyncio
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from ipaddress import ip_network
from pathlib import Path
from typing import Any

import uvicorn

from dispatcher.app import Service
from dispatcher.settings import Settings

ADMIN_KEY = "test-admin-key-of-32-characters!!"


@dataclass(frozen=True, slots=True, kw_only=True)
class Running:
    """Where a service is, and the customer that it delivers to."""

    url: str
    customer: str
    settings: Settings

    def hook(self, code: int, name: str = "hook") -> str:
        """A URL of the customer that answers with this code."""
        return f"{self.customer}/{code}/{name}"


def settings_for(folder: Path, **changes: Any) -> Settings:
    """Settings of a service that may deliver to this machine."""
    chosen: dict[str, Any] = {
        "database_url": f"sqlite:///{folder}/postback.db",
        "admin_key": ADMIN_KEY,
        "allow_networks": (ip_network("127.0.0.0/8"),),
        "drain_grace": 0.2,
    }
    return Settings(**(chosen | changes))


@contextmanager
def running(settings: Settings) -> Iterator[Running]:
    """A service with these settings, on a free port, until the end of the block."""
    with _customer() as customer, _served(settings) as url:
        yield Running(url=url, customer=customer, settings=settings)


class _Customer(BaseHTTPRequestHandler):
    """Answers a POST to `/503/…` with 503, and a body that tries to command a terminal."""

    def do_POST(self) -> None:
        self.rfile.read(int(self.headers.get("Content-Length", 0)))
        body = b"so says \x1b[31mthe customer\x1b[0m"
        self.send_response(int(self.path.split("/")[1]))
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: Any) -> None:
        pass


@contextmanager
def _customer() -> Iterator[str]:
    server = ThreadingHTTPServer(("127.0.0.1", 0), _Customer)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_address[1]}"
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


class _Server(uvicorn.Server):
    """uvicorn's server for a thread that is not the main one; says when it listens."""

    def __init__(self, config: uvicorn.Config) -> None:
        super().__init__(config)
        self.listening = threading.Event()

    async def startup(self, sockets: Any = None) -> None:
        await super().startup(sockets)
        self.listening.set()


@contextmanager
def _served(settings: Settings) -> Iterator[str]:
    service = Service(settings)
    config = uvicorn.Config(
        service.api, port=0, lifespan="off", log_config=None, access_log=False, loop="asyncio"
    )
    server = _Server(config)
    failures: list[BaseException] = []

    async def serve() -> None:
        async with service:
            await server.serve()

    def run() -> None:
        try:
            asyncio.run(serve())
        except BaseException as error:  # told to the test, which would otherwise wait in vain
            failures.append(error)
        finally:
            server.listening.set()

    thread = threading.Thread(target=run)
    thread.start()
    try:
        assert server.listening.wait(20)
        assert not failures, failures
        port = server.servers[0].sockets[0].getsockname()[1]
        yield f"http://127.0.0.1:{port}"
    finally:
        server.should_exit = True
        thread.join(30)
    assert not thread.is_alive(), "the service does not stop"
    assert not failures, failures

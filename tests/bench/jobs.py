"""What part 8 sends and what comes back: jobs, the upstream that runs them, the sink of their
callbacks. A job has its number in its input; the upstream puts it into its output, and that is in
the callback."""

import asyncio
import re
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Final

from tests.bench.framing import Framed
from tests.bench.payload import ADMIN_KEY, address
from tests.bench.sink import Sink

ENDPOINT: Final = "bench"
SILENT: Final = "bench-silent"
HELD: Final = "held"
PLACES: Final = 4_000
IN_FLIGHT: Final = 32
_MARK: Final = "bench_" + "0" * 16
_NUMBER: Final = re.compile(rb"bench_([0-9a-f]{16})")
_INPUT: Final = f'{{"prompt": "A report on the year", "number": "{_MARK}"}}'
_OUTPUT: Final = b'{"number": "bench_%016x", "text": "%b"}'
_OUTPUT_BYTES: Final = 1_024
_TEXT: Final = b"y" * (_OUTPUT_BYTES - len(_OUTPUT % (0, b"")))
_HEAD: Final = (
    b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\n"
    b"Content-Length: %d\r\n\r\n" % _OUTPUT_BYTES
)
_OK: Final = b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n"
_BACKLOG: Final = 4_096


class JobSubmits:
    """Requests to one gateway, ready but for the number."""

    destinations = 1

    def __init__(
        self,
        url: str,
        callback_url: str | None,
        *,
        endpoint: str = ENDPOINT,
        accepted: bytes = b"HTTP/1.1 202",
    ) -> None:
        self.host, self.port = address(url)
        self.accepted = accepted
        self.arrive = callback_url is not None
        callback = "" if callback_url is None else f"Postback-Callback-Url: {callback_url}\r\n"
        head = (
            f"POST /v1/endpoints/{endpoint}/jobs HTTP/1.1\r\n"
            f"Host: {self.host}:{self.port}\r\n"
            f"Authorization: Bearer {ADMIN_KEY}\r\n{callback}"
            "Content-Type: application/json\r\n"
            f"Content-Length: {len(_INPUT)}\r\n\r\n"
        )
        self._parts = (head + _INPUT).encode().split(_MARK.encode())

    def request(self, number: int, _destination: int) -> bytes:
        """The whole request that submits job `number`."""
        return (b"bench_%016x" % number).join(self._parts)

    @staticmethod
    def body(number: int) -> bytes:
        """The input of job `number`."""
        return _INPUT.replace(_MARK, f"bench_{number:016x}").encode()


class Model:
    """An upstream that answers 1 KiB of JSON at once, or under `/silent` never. `called` says when
    each job's request was there, by `time.monotonic()`."""

    def __init__(self, port: int) -> None:
        self.url = f"http://127.0.0.1:{port}/generate"
        self.silent_url = f"http://127.0.0.1:{port}/silent"
        self.called: dict[int, float] = {}
        self.unanswered = 0


class Callbacks(Sink):
    """Where the callbacks of jobs go."""

    def __init__(self, port: int) -> None:
        super().__init__()
        self.servers = [f"http://127.0.0.1:{port}"]

    @property
    def url(self) -> str:
        """Where they are posted."""
        return f"{self.servers[0]}/hook"


@asynccontextmanager
async def listening() -> AsyncIterator[tuple[Model, Callbacks]]:
    """An upstream and a sink on free loopback ports."""
    made: list[Model | Callbacks] = []
    create = asyncio.get_running_loop().create_server
    model_server = await create(lambda: _Call(made), "127.0.0.1", 0, backlog=_BACKLOG)
    sink_server = await create(lambda: _Callback(made), "127.0.0.1", 0, backlog=_BACKLOG)
    ports = (one.sockets[0].getsockname()[1] for one in (model_server, sink_server))
    model, sink = Model(next(ports)), Callbacks(next(ports))
    made += (model, sink)
    try:
        yield model, sink
    finally:
        model_server.close()
        sink_server.close()


class _Numbered(Framed):
    """A connection whose messages have a job's number in their body."""

    length_name = b"\r\nContent-Length: "

    def __init__(self, made: "list[Model | Callbacks]") -> None:
        super().__init__()
        self._made = made

    @staticmethod
    def number_in(data: bytes, body: int, end: int) -> int:
        """The number in a body. Raises RuntimeError where there is none."""
        found = _NUMBER.search(data, body, end)
        if found is None:
            raise RuntimeError(f"no job's number in {data[body:end]!r}")
        return int(found[1], 16)


class _Call(_Numbered):
    def message(self, data: bytes, start: int, body: int, end: int) -> None:
        model = self._made[0]
        if not isinstance(model, Model):
            return
        if data.startswith(b"POST /silent", start):
            model.unanswered += 1
            return
        number = self.number_in(data, body, end)
        model.called[number] = time.monotonic()
        self.transport.write(_HEAD + _OUTPUT % (number, _TEXT))


class _Callback(_Numbered):
    def message(self, data: bytes, start: int, body: int, end: int) -> None:
        at_s, sink = time.monotonic(), self._made[1]
        self.transport.write(_OK)
        if isinstance(sink, Callbacks):
            sink.on_arrival(self.number_in(data, body, end), at_s)

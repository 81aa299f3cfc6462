"""Where deliveries go: a server that answers 200 and tells who arrived when, or stays silent."""

import asyncio
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from typing import Final

from tests.bench.framing import Framed
from tests.bench.payload import number_at

SILENT: Final = "silent"
REFUSED: Final = "refused"
_SERVERS: Final = 160  # more than all parts together use: 100 and 30 in part 3 alone
_OK: Final = b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n"
_ERROR: Final = b"HTTP/1.1 500 Internal Server Error\r\nContent-Length: 0\r\n\r\n"


def _unheard(_number: int, _at_s: float) -> None: ...


class Sink:
    """Paths under `/silent` never answer; those under `/refused` answer 500 while `refusing`."""

    def __init__(self) -> None:
        self.servers: list[str] = []
        self._taken: dict[tuple[str, int], str] = {}
        self.refusing = False
        self.unanswered = 0
        self.on_arrival: Callable[[int, float], None] = _unheard
        """Called with the job's number and `time.monotonic()` for each request answered 200."""
        self.arrivals: Counter[int] | None = None
        """How often each job arrived, where that is counted."""

    def urls(self, count: int, group: str = "ok") -> list[str]:
        """So many destinations of one behaviour, each a server of its own: URLs of one server
        share a destination, and its limits."""
        return [f"{self._server(group, n)}/{group}/{n:03d}" for n in range(count)]

    @property
    def url(self) -> str:
        """One more destination."""
        return self._server("", 0)

    def _server(self, group: str, n: int) -> str:
        return self._taken.setdefault((group, n), self.servers[len(self._taken)])

    @asynccontextmanager
    async def hearing(self, on_arrival: Callable[[int, float], None]) -> AsyncIterator[None]:
        """Tell `on_arrival` who arrives, until the end of the block."""
        self.on_arrival = on_arrival
        try:
            yield
        finally:
            self.on_arrival = _unheard

    @contextmanager
    def counting(self) -> Iterator[Counter[int]]:
        """Count the arrivals of each job, until the end of the block."""
        self.arrivals = arrivals = Counter[int]()
        try:
            yield arrivals
        finally:
            self.arrivals = None


@asynccontextmanager
async def listening() -> AsyncIterator[Sink]:
    """A sink on free loopback ports."""
    sink = Sink()
    loop = asyncio.get_running_loop()
    servers = [
        await loop.create_server(lambda: _Connection(sink), "127.0.0.1", 0, backlog=2_048)
        for _ in range(_SERVERS)
    ]
    sink.servers = [f"http://127.0.0.1:{one.sockets[0].getsockname()[1]}" for one in servers]
    try:
        yield sink
    finally:
        for one in servers:
            one.close()


class _Connection(Framed):
    length_name = b"\r\nContent-Length: "

    def __init__(self, sink: Sink) -> None:
        super().__init__()
        self._sink = sink

    def message(self, data: bytes, start: int, body: int, end: int) -> None:
        at_s = time.monotonic()
        sink = self._sink
        if data.startswith(b"POST /silent", start):
            sink.unanswered += 1
        elif sink.refusing and data.startswith(b"POST /refused", start):
            self.transport.write(_ERROR)
        else:
            self.transport.write(_OK)
            number = number_at(data, body)
            if sink.arrivals is not None:
                sink.arrivals[number] += 1
            sink.on_arrival(number, at_s)

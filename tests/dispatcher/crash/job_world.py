"""A platform that submits jobs, cancels, retries and purges them, a model server that runs them, a
customer that is told of their ends, and between them a dispatcher that dies."""

import asyncio
import json
import os
import random
import signal
import socket
import struct
import sys
import time
from collections import Counter, defaultdict, deque
from collections.abc import AsyncIterator, Callable, Iterable
from contextlib import asynccontextmanager, suppress
from dataclasses import asdict, dataclass, field
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import Any, Final

import aiohttp

from tests.dispatcher.crash.job_serve import Life
from tests.dispatcher.crash.job_telling import Followers, Telling, array_of, lines_of, stream

_TURNS: Final = 3  # of the loop, until what has arrived was read
KEY: Final = "test-crash-key-of-the-gateway"
AUTH: Final = {"Authorization": f"Bearer {KEY}"}
_ROOT: Final = Path(__file__).parents[3]
_START_S: Final = 60.0
_SLOW_S: Final = 0.2
# What a call does that nobody cancels, by what its job says.
_TAKES_S: Final = {
    "slow": _SLOW_S,
    "held": 0.05,
    "away": 3.5,
    "long": 60.0,
    "first-late": 2.5,
    "first-away": 5.0,
    "first-long": 60.0,
}
_LOST: Final = frozenset({"lose", "half"})
"""What an upstream does to the first call of a run that it answers the next time."""
RETRY: Final = {"base": 0.05, "factor": 1, "cap": 0.05}
_EVENTS: Final = {"events": ["start", "progress", "output", "end"]}
# Answered at most once each, or repeated; ended by time; alone with its place; in a bad mood; away;
# telling of its jobs; ending them itself; never telling how they ended.
ENDPOINTS: Final[dict[str, dict[str, Any]]] = {
    "again": {"concurrency": 6, "attempts": 20},
    "once": {"concurrency": 6, "delivery": "at-most-once"},
    "brief": {"concurrency": 2, "timeout": 0.3},
    "tight": {"concurrency": 1, "queueTimeout": 0.6},
    "busy": {"concurrency": 2},
    "dark": {"concurrency": 2},
    "tells": {"concurrency": 4, "attempts": 20, "callback": _EVENTS},
    "later": {"concurrency": 4, "attempts": 20, "callback": _EVENTS, "completion": "url"},
    "mute": {"concurrency": 8, "completion": "url", "timeout": 1.0},
}
# What comes in turn; of the last two little, since they hold their endpoints up.
_MIX: Final = (
    "again ok", "once ok", "again slow", "once slow", "tight held", "again fail", "once lose",
    "again lose", "tight held", "once half", "again half", "brief long", "again drip", "once drip",
    "tight held", "again ok", "once ok", "again slow", "tight held", "again ok",
    "tells stream", "later work", "once stream", "tells report", "later work", "tells stream",
)  # fmt: skip
_BATCH: Final = 10
_RARE: Final = ("busy ok", "dark ok", "dark ok")
_ALSO_EACH: Final = 20


@dataclass(slots=True, eq=False)
class Call:
    """A call as the upstream saw it, and in which life of the dispatcher: `met` is what became of
    it: "answered", a "fault" of its own doing, or "closed" by the dispatcher. `told` is what it was
    answered by URL (0: nothing)."""

    job: str
    run: int
    endpoint: str
    life: int
    began_s: float
    met: str = "open"
    ended_s: float = 0.0
    output: bytes = b""
    told: int = 0


@dataclass(slots=True)
class Upstream:
    """A model server, that counts. On the port of `dark` nobody listens until the end, and no other
    process can."""

    port: int = 0
    dark: socket.socket = field(default_factory=lambda: socket.socket(socket.AF_INET))
    life: int = 0
    calls: dict[tuple[str, int], list[Call]] = field(default_factory=lambda: defaultdict(list))
    recent: deque[Call] = field(default_factory=lambda: deque(maxlen=1_000))
    open: dict[str, set[asyncio.StreamReader]] = field(default_factory=lambda: defaultdict(set))
    made: dict[asyncio.StreamReader, Call] = field(default_factory=dict)
    most: Counter[str] = field(default_factory=Counter)
    crowds: dict[str, list[Call]] = field(default_factory=dict)
    sulks: int = 0  # so many calls more are turned away
    trap: tuple[str, Callable[[], None]] | None = None
    telling: Telling = field(default_factory=Telling)
    _servers: list[asyncio.Server] = field(default_factory=list)
    _dark: asyncio.Server | None = None

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Calls of one connection."""
        with suppress(ConnectionError, asyncio.IncompleteReadError, asyncio.CancelledError):
            while await self._take(reader, writer):
                pass
        writer.close()

    async def _take(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bool:
        head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1")
        line, *rest = head.split("\r\n")
        fields = {k.lower(): v for k, v in (one.split(": ", 1) for one in rest if one)}
        endpoint = line.split(" ")[1].strip("/")
        call = Call(
            job=fields["x-job-id"],
            run=int(fields["x-job-run"]),
            endpoint=endpoint,
            life=self.life,
            began_s=time.monotonic(),
        )
        self.calls[call.job, call.run].append(call)
        self.recent.append(call)
        self.made[reader] = call
        self.open[endpoint].add(reader)
        try:
            await self._count(endpoint)
            asked = json.loads(await reader.readexactly(int(fields["content-length"])))
            if call.endpoint in ("tells", "later", "mute") or asked["do"] == "stream":
                return await self._tell(call, asked, fields, reader, writer)
            return await self._answer(call, asked, reader, writer)
        finally:
            if call.met == "open":
                call.met = "closed"
            call.ended_s = time.monotonic()
            self.open[endpoint].remove(reader)
            del self.made[reader]

    async def _count(self, endpoint: str) -> None:
        """Count the open calls, without those that we are about to see closed: that may come in the
        same moment as the call that was made in their place. What a killed process had open is
        closed, seen by us or not."""
        for _ in range(_TURNS):
            await asyncio.sleep(0)
        together = [
            self.made[reader]
            for reader in self.open[endpoint]
            # at_eof() is false while something is left to be read of who has gone.
            if not reader._eof and reader.exception() is None  # type: ignore[attr-defined]
        ]
        together = [call for call in together if call.life == self.life]
        if len(together) > self.most[endpoint]:
            self.most[endpoint] = len(together)
            self.crowds[endpoint] = together

    async def _answer(
        self,
        call: Call,
        asked: dict[str, Any],
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
    ) -> bool:
        self._spring("call-works")
        number = len(self.calls[call.job, call.run])
        output = b'{"n": %d,\t"x": 1.0e0, "y": "\xc3\xa9", "call": %d}' % (asked["n"], number)
        do = str(asked["do"])
        if call.endpoint == "busy" and self.sulks > 0:
            self.sulks -= 1
            call.met = "fault"
            return await _write(writer, b"429 Busy", b"{}", b"Retry-After: 1\r\n")
        if do in _LOST and number == 1:
            call.met = "fault"
            if do == "half":
                writer.write(_head(b"200 OK", len(output)) + output[:5])
                await writer.drain()
            writer.transport.abort()
            return False
        takes_s = random.uniform(0, 0.02)
        if number == 1 or not do.startswith("first-"):
            takes_s = _TAKES_S.get(do, takes_s)
        if await _closed(reader, takes_s):
            return False
        if do == "fail":
            call.met, call.output = "answered", b'{"why": "no"}'
            return await _write(writer, b"422 No", call.output)
        if do == "drip":
            writer.write(_head(b"200 OK", len(output)) + output[:5])
            await writer.drain()
            self._spring("call-streams")
            if await _closed(reader, _SLOW_S / 2):
                return False
            call.met, call.output = "answered", output
            writer.write(output[5:])
            await writer.drain()
            return True
        call.met, call.output = "answered", output
        return await _write(writer, b"200 OK", output)

    async def _tell(
        self,
        call: Call,
        asked: dict[str, Any],
        fields: dict[str, str],
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
    ) -> bool:
        """Answer in chunks, report, or answer before the work is done."""
        self._spring("call-works")
        number = len(self.calls[call.job, call.run])
        lines = lines_of(asked["n"], number)
        if asked["do"] == "stream":
            self._spring("call-streams")
            if not await stream(lines, writer, partial(_closed, reader)):
                return False
            call.met, call.output = "answered", array_of(lines)
            return True
        if asked["do"] == "report":
            await self.telling.report(fields["x-job-progress-url"])
            if await _closed(reader, 0):
                return False
            call.met, call.output = "answered", lines[0]
            return await _write(writer, b"200 OK", lines[0])
        call.met, call.output = "answered", lines[0]
        if call.endpoint == "later":
            self.telling.later(call, fields["x-job-complete-url"])
        return await _write(writer, b"202 Accepted", b"")

    def _spring(self, point: str) -> None:
        if self.trap is not None and self.trap[0] == point:
            spring, self.trap = self.trap[1], None
            spring()

    async def light(self) -> None:
        """Listen from now on where nobody did."""
        if self._dark is None:
            self._dark = await asyncio.start_server(self.serve, sock=self.dark)
            self._servers.append(self._dark)

    def url(self, endpoint: str) -> str:
        """Where this endpoint's calls go."""
        port = self.dark.getsockname()[1] if endpoint == "dark" else self.port
        return f"http://127.0.0.1:{port}/{endpoint}"


def _head(status: bytes, length: int, more: bytes = b"") -> bytes:
    kind = b"Content-Type: application/json\r\n"
    return b"HTTP/1.1 %b\r\n%bContent-Length: %d\r\n%b\r\n" % (status, kind, length, more)


async def _write(
    writer: asyncio.StreamWriter, status: bytes, body: bytes, more: bytes = b""
) -> bool:
    writer.write(_head(status, len(body), more) + body)
    await writer.drain()
    return True


async def _closed(reader: asyncio.StreamReader, seconds: float) -> bool:
    """Whether the other side hangs up within this time: nothing else comes on a connection whose
    call is not answered."""
    try:
        async with asyncio.timeout(seconds):
            await reader.read(1)
    except TimeoutError:
        return False
    return True


@asynccontextmanager
async def upstream() -> AsyncIterator[Upstream]:
    """A model server that listens."""
    made = Upstream()
    server = await asyncio.start_server(made.serve, "127.0.0.1", 0)
    made._servers.append(server)
    made.port = server.sockets[0].getsockname()[1]
    made.dark.bind(("127.0.0.1", 0))
    try:
        yield made
    finally:
        await made.telling.close()
        for one in made._servers:
            one.close()
        made.dark.close()


@dataclass(frozen=True, slots=True)
class Told:
    """A callback as it arrived."""

    id: str
    job: str
    run: int
    status: str
    body: bytes


@dataclass(slots=True)
class Customer:
    """Keeps what it is told of ends, and in which order that of all else came (`order`: of each job
    and run what), and acknowledges it."""

    port: int = 0
    got: list[Told] = field(default_factory=list)
    order: list[tuple[str, int, str]] = field(default_factory=list)

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with suppress(ConnectionError, asyncio.IncompleteReadError, asyncio.CancelledError):
            while True:
                head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1")
                rest = head.split("\r\n")[1:]
                fields = {k.lower(): v for k, v in (one.split(": ", 1) for one in rest if one)}
                told = Told(
                    id=fields["webhook-id"],
                    job=fields["x-postback-job-id"],
                    run=int(fields["x-postback-job-run"]),
                    status=fields["x-postback-job-status"],
                    body=await reader.readexactly(int(fields["content-length"])),
                )
                event = fields.get("x-postback-event", "end")
                self.order.append((told.job, told.run, event))
                if event == "end":
                    self.got.append(told)
                writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok")
                await writer.drain()
        writer.close()

    @property
    def by_run(self) -> dict[tuple[str, int], list[Told]]:
        """What came about each run."""
        found: dict[tuple[str, int], list[Told]] = defaultdict(list)
        for one in self.got:
            found[one.job, one.run].append(one)
        return found


@asynccontextmanager
async def customer() -> AsyncIterator[Customer]:
    """A customer that listens."""
    made = Customer()
    async with await asyncio.start_server(made.serve, "127.0.0.1", 0) as server:
        made.port = server.sockets[0].getsockname()[1]
        yield made


@dataclass(slots=True)
class Gateway:
    """One life of a dispatcher after the other, on the same database."""

    database: str
    folder: Path
    name: str = "gateway"
    url: str = ""
    pid: int = 0
    _parent: asyncio.subprocess.Process | None = None

    @property
    def clock(self) -> Path:
        return self.folder / f"{self.name}.clock"

    @property
    def log(self) -> Path:
        return self.folder / f"{self.name}.log"

    def told(self) -> str:
        """The last that it complained of."""
        lines = self.log.read_text("utf-8", "replace").splitlines()
        return "\n".join(line for line in lines if '"level":"info"' not in line)[-4_000:]

    def set_clock(self, ahead_s: float, *, database_s: float = 0) -> None:
        """From now on its clock, in this life and the next ones, is ahead of the true time, and its
        database's, as it reads that."""
        with self.clock.open("r+b" if self.clock.exists() else "wb") as file:
            file.write(struct.pack("dd", ahead_s, database_s))

    async def start(self, **how: Any) -> bool:
        """Start, and wait until it listens; False where it has died before."""
        if not self.clock.exists():
            self.set_clock(0)
        life = Life(database=self.database, key=KEY, clock=str(self.clock), **how)
        parent = self._parent or await self._prepare()
        assert parent.stdin is not None
        parent.stdin.write(json.dumps(asdict(life)).encode() + b"\n")
        self.url = ""
        async with asyncio.timeout(_START_S):
            while True:
                word, value = await self._line()
                if word == "pid":
                    self.pid = int(value)
                elif word == "url":
                    self.url = value
                    if self.pid:
                        return True
                elif word == "exit":
                    self.pid = 0
                    assert int(value) == -signal.SIGKILL, self.told()
                    return False
                if self.url and self.pid:
                    return True

    async def _prepare(self) -> asyncio.subprocess.Process:
        with self.log.open("ab") as log:
            self._parent = await asyncio.create_subprocess_exec(
                *(sys.executable, "-m", "tests.dispatcher.crash.job_serve"),
                stdin=asyncio.subprocess.PIPE,
                stdout=asyncio.subprocess.PIPE,
                stderr=log,
                cwd=_ROOT,
            )
        return self._parent

    async def _line(self) -> tuple[str, str]:
        assert self._parent is not None
        assert self._parent.stdout is not None
        word, _, value = (await self._parent.stdout.readline()).decode().strip().partition(" ")
        assert word, self.told()
        return word, value

    async def dead(self) -> int:
        """Its exit code, once it has ended."""
        word, value = await self._line()
        assert word == "exit"
        self.pid, self.url = 0, ""
        return int(value)

    def send(self, number: signal.Signals) -> None:
        """A signal to the process that lives now, if one does."""
        if self.pid:
            with suppress(ProcessLookupError):
                os.kill(self.pid, number)

    async def end(self, *, kill: bool) -> int:
        """Its exit code, after SIGKILL or SIGTERM."""
        self.send(signal.SIGKILL if kill else signal.SIGTERM)
        async with asyncio.timeout(_START_S):
            return await self.dead()

    async def close(self) -> None:
        """Leave nothing behind."""
        if self._parent is None:
            return
        self.send(signal.SIGCONT)
        self.send(signal.SIGKILL)
        assert self._parent.stdin is not None
        self._parent.stdin.close()
        try:
            async with asyncio.timeout(10):
                await self._parent.communicate()
        except TimeoutError:
            self._parent.kill()
            await self._parent.wait()


@dataclass(slots=True)
class Platform:
    """Submits jobs of all kinds, each under a key by which it is submitted again where no answer
    came, and remembers which were accepted; and does to them what users do."""

    upstream: Upstream
    customer: Customer
    accepted: dict[int, str] = field(default_factory=dict)  # by number: the id
    tried: int = 0
    refused: Counter[str] = field(default_factory=Counter)
    cancelled: dict[tuple[str, int], str] = field(default_factory=dict)  # what was answered
    followers: Followers = field(default_factory=Followers)
    purged: int = 0
    removed: list[str] = field(default_factory=list)
    also: str = ""  # what comes now and then beside the rest
    _unanswered: dict[int, str] = field(default_factory=dict)
    _number: int = 0
    _chance: random.Random = field(default_factory=lambda: random.Random(8))

    async def prepare(self, url: str) -> None:
        """Make the endpoints."""
        async with aiohttp.ClientSession(headers=AUTH) as session:
            for name, rules in ENDPOINTS.items():
                assert await self._make(session, url, name, **rules)

    async def _make(
        self, session: aiohttp.ClientSession, url: str, name: str, **rules: Any
    ) -> bool:
        document = {
            "name": name,
            "url": self.upstream.url(name),
            "adaptive": False,
            "retry": RETRY,
            **rules,
        }
        async with session.post(f"{url}/v1/endpoints", json=document) as answer:
            assert answer.status in (201, 503), await answer.text()
            return answer.status == 201

    async def load(self, url: str, stop: asyncio.Event, *, workers: int = 6) -> None:
        """Until the dispatcher is gone, or it is told to stop."""
        timeout = aiohttp.ClientTimeout(total=20)
        async with aiohttp.ClientSession(headers=AUTH, timeout=timeout) as session:
            tasks = [self._work(session, url, stop) for _ in range(workers)]
            following = [self._follow(session, url, stop) for _ in range(2)]
            await asyncio.gather(*tasks, *following, self._operate(session, url, stop))

    async def _work(self, session: aiohttp.ClientSession, url: str, stop: asyncio.Event) -> None:
        with suppress(aiohttp.ClientError, ConnectionError, TimeoutError):
            while not stop.is_set():
                if not await self.submit(session, url):
                    await asyncio.sleep(0.05)

    async def submit(self, session: aiohttp.ClientSession, url: str, what: str = "") -> bool:
        """Whether it was taken."""
        if self._unanswered and not what and self._chance.random() < 0.2:
            number, what = self._unanswered.popitem()
        else:
            number = self._number = self._number + 1
            what = what or self._kind(number)
        endpoint, do = what.split(" ")
        headers = {
            "Content-Type": "application/json",
            "Idempotency-Key": f"key-{number}",
            "Postback-Callback-Url": f"http://127.0.0.1:{self.customer.port}/hook",
            "Postback-Policy": '{"attempts":50,"delays":[0.2],"jitter":0,"timeout":2}',
            "Postback-Tags": f"batch={number // _BATCH}",
            "Postback-Priority": ("high", "normal", "low")[number % 3],
        }
        self.tried += 1
        body = json.dumps({"n": number, "do": do})
        where = f"{url}/v1/endpoints/{endpoint}/jobs"
        try:
            async with session.post(where, data=body, headers=headers) as answer:
                text = await answer.text()
                if answer.status == 202:
                    id = json.loads(text)["id"]
                    assert self.accepted.setdefault(number, id) == id
                    if do == "stream":
                        self.followers.streams.append(id)
                    return True
        except (aiohttp.ClientError, ConnectionError, TimeoutError):
            self._leave(number, what)
            raise
        self.refused[str(answer.status)] += 1
        assert answer.status in (429, 503), (answer.status, text)
        self._leave(number, what)
        return False

    def _leave(self, number: int, what: str) -> None:
        """Have it submitted again later, under the same key."""
        if what.split(" ")[0] in ENDPOINTS:
            self._unanswered[number] = what

    def _kind(self, number: int) -> str:
        if number % 10 == 0:
            return _RARE[number // 10 % len(_RARE)]
        if self.also and number % _ALSO_EACH == 1:
            return self.also
        return _MIX[number % len(_MIX)]

    # --- what users do ---

    async def _operate(self, session: aiohttp.ClientSession, url: str, stop: asyncio.Event) -> None:
        with suppress(aiohttp.ClientError, ConnectionError, TimeoutError):
            self.upstream.sulks = 1
            await self._post(session, f"{url}/v1/endpoints/dark/resume")
            for turn in range(10**9):
                if stop.is_set():
                    return
                await asyncio.sleep(0.02)
                await self._cancel(session, url)
                await self._retry(session, url)
                if turn % 4 == 3:
                    _, document = await self._post(session, f"{url}/v1/endpoints/tight/purge")
                    self.purged += document.get("purged", 0)
                if turn % 8 == 5:
                    await self._remove(session, url)
                if turn % 8 == 1:
                    await self._sweep(session, url, ("cancel", "retry")[turn // 8 % 2])

    async def _follow(self, session: aiohttp.ClientSession, url: str, stop: asyncio.Event) -> None:
        with suppress(aiohttp.ClientError, ConnectionError, TimeoutError):
            await self.followers.follow(session, url, stop)

    async def _cancel(self, session: aiohttp.ClientSession, url: str) -> None:
        recent = list(self.accepted.values())[-12:]
        if recent:
            id = self._chance.choice(recent)
            status, job = await self._post(session, f"{url}/v1/jobs/{id}/cancel")
            if status == 200:
                self.cancelled[id, job["run"]] = job["status"]

    async def _retry(self, session: aiohttp.ClientSession, url: str) -> None:
        recent = list(self.accepted.values())[-60:]
        if recent:
            await self._post(session, f"{url}/v1/jobs/{self._chance.choice(recent)}/retry")

    async def _remove(self, session: aiohttp.ClientSession, url: str) -> None:
        """Make an endpoint, have jobs wait for it, and remove it."""
        name = f"gone-{len(self.removed)}"
        self.removed.append(name)
        if not await self._make(session, url, name):
            return
        await self._post(session, f"{url}/v1/endpoints/{name}/pause")
        for _ in range(2):
            await self.submit(session, url, f"{name} ok")
        async with session.delete(f"{url}/v1/endpoints/{name}") as answer:
            assert answer.status in (204, 503), await answer.text()

    async def _sweep(self, session: aiohttp.ClientSession, url: str, what: str) -> None:
        """Cancel or retry what came in lately."""
        batch = max(0, self._number // _BATCH - 1)
        document = {"filter": {"tag.batch": str(batch)}}
        async with session.post(f"{url}/v1/jobs/{what}", json=document) as answer:
            assert answer.status in (202, 409, 503), await answer.text()

    async def _post(self, session: aiohttp.ClientSession, url: str) -> tuple[int, dict[str, Any]]:
        async with session.post(url) as answer:
            text = await answer.text()
            assert answer.status in (200, 404, 409, 410, 429, 503), (url, answer.status, text)
            return answer.status, json.loads(text)


async def get(session: aiohttp.ClientSession, url: str) -> tuple[int, bytes]:
    """Status and body."""
    async with session.get(url) as answer:
        return answer.status, await answer.read()


def duplicates(calls: Iterable[list[Call]]) -> list[tuple[Call, Call]]:
    """Each call of a run that followed another one, with that."""
    return [pair for each in calls for pair in pairwise(each)]

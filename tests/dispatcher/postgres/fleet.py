"""Several real dispatchers on one database, a platform that submits to them, and customers that
count: what the proofs with many processes are made of."""

import asyncio
import json
import os
import random
import sys
import time
from collections import Counter, defaultdict
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import Any, Final, NamedTuple

import aiohttp
from aiohttp import web

SCALE: Final = float(os.environ.get("POSTBACK_TEST_SCALE", "1"))
ADMIN_KEY: Final = "test-admin-key-of-the-fleet"
AUTH: Final = {"Authorization": f"Bearer {ADMIN_KEY}"}
_START_S: Final = 60.0
_SETTLED_S: Final = 90.0
# Leases of three seconds: what a killed process held is taken over while the test looks on.
POLICY: Final[dict[str, Any]] = {"attempts": 50, "delays": [0.2], "jitter": 0, "timeout": 2}
LATE: Final = "late result of an old claim"
SENDER_PREFIX: Final = "X-Test-Sender-"
SETTINGS: Final = {
    "ADMIN_KEY": ADMIN_KEY,
    "ALLOW_NETWORKS": "127.0.0.0/8",
    "PORT": "0",
    "LEASE_MARGIN": "1",
    "SWEEP_INTERVAL": "0.5",
    "LOG_LEVEL": "warning",
    "LOG_FORMAT": "json",
}


@dataclass(slots=True)
class Member:
    """One dispatcher process; started again after each kill, on another port."""

    database_url: str
    log: Path
    number: int = 0
    settings: dict[str, str] = field(default_factory=dict)
    options: tuple[str, ...] = ()  # of `serve`
    url: str = ""
    process: asyncio.subprocess.Process | None = None

    async def start(self) -> None:
        """Start, and wait until it says where it listens."""
        given = {
            **SETTINGS,
            "DATABASE_URL": self.database_url,
            "SIGNATURE_HEADER": f"{SENDER_PREFIX}{self.number}",  # shows customers the sender
            **self.settings,
        }
        env = {name: value for name, value in os.environ.items() if "DISPATCHER_" not in name}
        env |= {f"DISPATCHER_{name}": value for name, value in given.items()}
        with self.log.open("ab") as log:
            self.process = await asyncio.create_subprocess_exec(
                *(sys.executable, "-m", "dispatcher", "serve", *self.options),
                stdout=asyncio.subprocess.PIPE,
                stderr=log,
                env=env,
            )
        assert self.process.stdout is not None
        async with asyncio.timeout(_START_S):
            said = (await self.process.stdout.readline()).decode()
        assert said.startswith("listening on "), self.log.read_text("utf-8", "replace")[-2_000:]
        self.url = said.removeprefix("listening on ").strip()

    def late(self) -> set[str]:
        """Deliveries whose result this process brought after their lease had ended."""
        lines = self.log.read_text("utf-8", "replace").splitlines()
        found = (json.loads(line) for line in lines if LATE in line)
        return {line["id"] for line in found}

    async def end(self, *, kill: bool) -> None:
        """As a power cut would, or as an operator would."""
        process, self.process, self.url = self.process, None, ""
        if process is not None and process.returncode is None:
            process.kill() if kill else process.terminate()
            await process.wait()


class Arrival(NamedTuple):
    """When a delivery was answered, and which dispatcher had sent it."""

    at_s: float
    sender: int


def sender_of(request: web.Request) -> int:
    """The number of the dispatcher, by the name that it gives the signature's header."""
    names = [name for name in request.headers if name.startswith(SENDER_PREFIX)]
    return int(names[0].removeprefix(SENDER_PREFIX))


@dataclass(slots=True)
class Sink:
    """The customers' servers: one path a destination. Counts what arrives and how much at once."""

    url: str = ""
    answer_s: float = 0.0
    arrivals: dict[str, list[Arrival]] = field(default_factory=lambda: defaultdict(list))
    running: Counter[str] = field(default_factory=Counter)
    most: Counter[str] = field(default_factory=Counter)
    most_of_all: int = 0
    twice_at_once: int = 0
    _open: Counter[str] = field(default_factory=Counter)

    async def take(self, request: web.Request) -> web.Response:
        where, one = request.path, request.headers["webhook-id"]
        self.running[where] += 1
        self._open[one] += 1
        self.most[where] = max(self.most[where], self.running[where])
        self.most_of_all = max(self.most_of_all, sum(self.running.values()))
        self.twice_at_once += self._open[one] > 1
        try:
            await request.read()
            await asyncio.sleep(self.answer_s * random.uniform(0.5, 1.5))
            self.arrivals[one].append(Arrival(time.time(), sender_of(request)))
            return web.Response(text="ok")
        finally:
            self.running[where] -= 1
            self._open[one] -= 1

    @property
    def duplicates(self) -> list[tuple[str, Arrival, Arrival]]:
        """Each arrival that was not the first: its id, the one before it, and itself."""
        return [
            (one, *pair) for one, arrivals in self.arrivals.items() for pair in pairwise(arrivals)
        ]


@asynccontextmanager
async def sinking(answer_s: float = 0.0) -> AsyncIterator[Sink]:
    """A sink that listens."""
    sink = Sink(answer_s=answer_s)
    app = web.Application()
    app.router.add_post("/{rest:.*}", sink.take)
    runner = web.AppRunner(app, access_log=None, shutdown_timeout=0.1)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    sink.url = f"http://127.0.0.1:{runner.addresses[0][1]}"
    try:
        yield sink
    finally:
        await runner.cleanup()


@asynccontextmanager
async def fleet(
    database_url: str, folder: Path, count: int, **settings: str
) -> AsyncIterator[list[Member]]:
    """`count` dispatchers on one database, ended with the block."""
    members = [
        Member(database_url=database_url, log=folder / f"{n}.log", number=n, settings=settings)
        for n in range(count)
    ]
    try:
        await asyncio.gather(*(member.start() for member in members))
        yield members
    finally:
        await asyncio.gather(*(member.end(kill=True) for member in members))


@dataclass(slots=True)
class Platform:
    """Submits to whichever dispatcher lives, until each callback is acknowledged."""

    members: list[Member]
    sink: Sink
    destinations: int
    acknowledged: dict[str, str] = field(default_factory=dict)  # job: callback
    refused: Counter[str] = field(default_factory=Counter)
    tried: int = 0
    path: str = "d"
    waits_s: list[float] = field(default_factory=list)  # for each acknowledgement, so for a commit

    @property
    def usual_wait_s(self) -> float:
        """What nine in ten acknowledgements took at most."""
        return sorted(self.waits_s)[len(self.waits_s) * 9 // 10]

    async def submit_all(self, count: int, *, at_once: int = 64, per_second: float = 1e9) -> None:
        """`count` callbacks, spread evenly over the destinations."""
        numbers = iter(range(count))
        began_s = time.monotonic()
        connector = aiohttp.TCPConnector(limit=0)
        async with aiohttp.ClientSession(connector=connector, headers=AUTH) as session:

            async def work() -> None:
                for number in numbers:
                    await asyncio.sleep(began_s + number / per_second - time.monotonic())
                    await self._submit(session, number)

            await asyncio.gather(*(work() for _ in range(at_once)))

    async def _submit(self, session: aiohttp.ClientSession, number: int) -> None:
        document = {
            "jobId": f"job-{number:06}",
            "callbackUrl": f"{self.sink.url}/{self.path}/{number % self.destinations:03}",
            "payload": {"status": "completed", "number": number},
            "policy": POLICY,
        }
        timeout = aiohttp.ClientTimeout(total=15)
        while True:
            living = [member.url for member in self.members if member.url]
            if not living:
                await asyncio.sleep(0.05)
                continue
            url = f"{random.choice(living)}/v1/callbacks"
            self.tried += 1
            began_s = time.monotonic()
            try:
                async with session.post(url, json=document, timeout=timeout) as answer:
                    said = await answer.json()
                    if answer.status in (200, 202):
                        self.acknowledged[document["jobId"]] = said["id"]  # type: ignore[index]
                        self.waits_s.append(time.monotonic() - began_s)
                        return
                    self.refused[str(answer.status)] += 1
                    assert answer.status == 503, said
                    assert "Retry-After" in answer.headers
            except (aiohttp.ClientError, TimeoutError) as error:
                self.refused[type(error).__name__] += 1
            await asyncio.sleep(0.05)


async def call(member: Member, method: str, path: str, **more: Any) -> tuple[int, Any]:
    """One request to one dispatcher: status and document."""
    headers = {**AUTH, **more.pop("headers", {})}
    async with (
        aiohttp.ClientSession(headers=headers) as session,
        session.request(method, f"{member.url}{path}", **more) as answer,
    ):
        return answer.status, await answer.json()


async def until_status(member: Member, path: str, expected: int, **more: Any) -> None:
    """Until a GET is answered so: another process has no event to wait for."""
    async with asyncio.timeout(60):
        while (await call(member, "GET", path, **more))[0] != expected:  # noqa: ASYNC110
            await asyncio.sleep(0.01)


async def settled(member: Member) -> dict[str, int]:
    """The counts, once nothing is on its way any more."""
    async with asyncio.timeout(_SETTLED_S):
        while True:
            status, stats = await call(member, "GET", "/v1/stats?all=true")
            if status == 200:
                counts: dict[str, int] = stats["counts"]
                if not counts["pending"] and not counts["sending"]:
                    return counts
            await asyncio.sleep(0.1)

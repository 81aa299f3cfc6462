"""One tenant's attack on what all share, as a process of its own: `python -m tests.bench.attack
NAME`, with a `Target` as JSON on standard input.

It says on standard output when the attack holds, goes on until SIGTERM, and says then what it did.
"""

import asyncio
import json
import os
import resource
import secrets
import signal
import sys
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Mapping
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from typing import Any, Final

import aiohttp

from tests.bench import sink
from tests.bench.payload import ADMIN_KEY, address, line

HOLDS: Final = "holds"
_NICE: Final = 10  # who is attacked is measured by another process on the same cores
_NUMBERS_FROM: Final = 1 << 40  # no job of those that are measured
_SILENT: Final = 1_100  # more than the slots of a process
_HUGE: Final = 80
_HUGE_BYTES: Final = (1 << 20) - 1_000
_NAMES: Final = 400
_BODIES: Final = 12
_BODY_BYTES: Final = 16 << 20
_UNREAD: Final = 60
_IDLE: Final = 2_000
_TESTS: Final = 32
_REPLAYS: Final = 500
_FLOOD: Final = 64
_BATCHES: Final = 32
_BATCH_LINES: Final = 500
_LISTINGS: Final = 32
_LISTED: Final = 5_000
# Whoever waits for the end of an attempt of the attacker waits longer than anybody measures.
_LONG: Final = {"attempts": 1, "timeout": 60}
_NDJSON: Final = {"Content-Type": "application/x-ndjson"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Target:
    """The dispatcher at `url`; `tenants` attack it in equal parts; `silent` URLs never answer.
    `scale` makes an attack smaller than the ones above."""

    url: str
    tenants: list[str]
    silent: list[str]
    scale: float = 1.0

    def sized(self, count: int) -> int:
        """`count`, or a part of it."""
        return max(1, round(count * self.scale))

    def tenant(self, n: int) -> dict[str, str]:
        """The headers of the n-th request's tenant."""
        return {"Postback-Tenant": self.tenants[n % len(self.tenants)]}

    def session(self) -> aiohttp.ClientSession:
        """A client with the platform's key and as many connections as it takes."""
        return aiohttp.ClientSession(
            self.url,
            headers={"Authorization": f"Bearer {ADMIN_KEY}"},
            connector=aiohttp.TCPConnector(limit=0),
            timeout=aiohttp.ClientTimeout(total=None),
        )


@dataclass(slots=True)
class Attack:
    """What is done to a target, and what came of it."""

    target: Target
    did: Counter[str] = field(default_factory=Counter)

    def holds(self) -> None:
        """Say that it does: from now on the others are measured."""
        print(HOLDS, flush=True)

    async def rest(self) -> None:
        """Hold until the end."""
        self.holds()
        await asyncio.Event().wait()

    async def batch(
        self, session: aiohttp.ClientSession, lines: Iterable[bytes], tenant: Mapping[str, str]
    ) -> None:
        """Submit a batch and count its statuses."""
        async with session.post(
            "/v1/callbacks/batch", data=b"\n".join(lines), headers={**_NDJSON, **tenant}
        ) as response:
            if response.status != 200:
                self.did[f"batch {response.status}"] += 1
                return
            async for answer in response.content:
                if answer.strip():
                    self.did[f"line {json.loads(answer).get('code', 'taken')}"] += 1

    async def over_and_over(
        self, connections: int, one: Callable[[int], Awaitable[None]], *, first: int = 0
    ) -> None:
        """So many loops of `one`; it holds when `first` of them are done."""
        numbers = iter(range(1 << 40))

        async def work() -> None:
            for n in numbers:
                if n == first:
                    self.holds()
                await one(n)

        async with asyncio.TaskGroup() as loops:
            for _ in range(self.target.sized(connections)):
                loops.create_task(work())


# --- what is held ---


async def slots(attack: Attack) -> None:
    """Attempts that nobody answers, more than there are slots."""
    target = attack.target
    lines = [
        line(_NUMBERS_FROM + n, target.silent[n % len(target.silent)], policy=_LONG)
        for n in range(target.sized(_SILENT))
    ]
    async with target.session() as session:
        for n in range(len(target.tenants)):
            await attack.batch(session, lines[n :: len(target.tenants)], target.tenant(n))
        await attack.rest()


async def in_flight_bytes(attack: Attack) -> None:
    """Attempts that nobody answers, a mebibyte each."""
    target = attack.target
    async with target.session() as session:
        for n in range(target.sized(_HUGE)):
            params = {"jobId": f"huge-{n}", "callbackUrl": target.silent[n % len(target.silent)]}
            headers = {"Content-Type": "application/octet-stream", **target.tenant(n)}
            async with session.post(
                "/v1/callbacks/raw", params=params, data=bytes(_HUGE_BYTES), headers=headers
            ) as response:
                attack.did[f"submit {response.status}"] += 1
        await attack.rest()


async def names(attack: Attack) -> None:
    """Names whose look-up hangs: see `tests.bench.child`."""
    target = attack.target
    lines = [
        line(_NUMBERS_FROM + n, f"http://x{n}.hang.test:80/", policy=_LONG)
        for n in range(target.sized(_NAMES))
    ]
    async with target.session() as session:
        await attack.batch(session, lines, target.tenant(0))
        await attack.rest()


async def bodies(attack: Attack) -> None:
    """Batches whose last byte does not come."""
    target = attack.target
    head = _head("POST /v1/callbacks/batch", **_NDJSON, **target.tenant(0))
    head = head[:-2] + f"Content-Length: {_BODY_BYTES}\r\n\r\n".encode()
    async with _connections(target, target.sized(_BODIES)) as writers:
        for writer in writers:
            writer.write(head)
        pieces = [asyncio.create_task(_send_most(writer)) for writer in writers]
        await asyncio.wait(pieces, timeout=5.0)
        attack.did["bodies"] = sum(piece.done() for piece in pieces)
        await attack.rest()


async def _send_most(writer: asyncio.StreamWriter) -> None:
    with suppress(OSError):
        for _ in range(_BODY_BYTES // 65_536 - 1):
            writer.write(b" " * 65_536)
            await writer.drain()


async def responses(attack: Attack) -> None:
    """Batches whose results nobody reads."""
    target = attack.target
    body = b"x\n" * 20_000
    head = _head("POST /v1/callbacks/batch", **_NDJSON, **target.tenant(0))
    head = head[:-2] + f"Content-Length: {len(body)}\r\n\r\n".encode()
    async with _connections(target, target.sized(_UNREAD)) as writers:
        for writer in writers:
            writer.write(head + body)
        await asyncio.sleep(1.0)
        await attack.rest()


async def pipelines(attack: Attack) -> None:
    """Requests of strangers, one behind the other, whose responses nobody reads."""
    requests = b"GET /openapi.json HTTP/1.1\r\nHost: a\r\n\r\n" * 1_000
    async with _connections(attack.target, attack.target.sized(_UNREAD)) as writers:
        for writer in writers:
            writer.write(requests)
        await asyncio.sleep(1.0)
        await attack.rest()


async def connections(attack: Attack) -> None:
    """Strangers that say nothing, or half a head."""
    async with _connections(attack.target, attack.target.sized(_IDLE)) as writers:
        attack.did["connections"] = len(writers)
        for writer in writers[::2]:
            writer.write(b"POST /v1/callbacks HTTP/1.1\r\nHost: a\r\n")
        await attack.rest()


async def tests(attack: Attack) -> None:
    """Test callbacks to a destination that never answers."""
    target = attack.target
    document = {"name": "silent", "url": target.silent[0], "policy": _LONG}
    async with target.session() as session:
        async with session.post(
            "/v1/destinations", json=document, headers=target.tenant(0)
        ) as response:
            id = (await response.json())["id"]

        async def one(n: int) -> None:
            async with session.post(
                f"/v1/destinations/{id}/test", headers=target.tenant(n)
            ) as response:
                attack.did[f"test {response.status}"] += 1
                if response.status != 200:
                    await asyncio.sleep(0.05)

        await attack.over_and_over(_TESTS, one, first=target.sized(_TESTS) - 1)


async def storage(attack: Attack) -> None:
    """As much as the tenant may keep, and more."""
    target = attack.target
    headers = {"Content-Type": "application/octet-stream", **target.tenant(0)}
    async with target.session() as session:
        refused = 0
        for n in range(2_000):
            params = {"jobId": f"kept-{n}", "callbackUrl": target.silent[n % len(target.silent)]}
            async with session.post(
                "/v1/callbacks/raw", params=params, data=bytes(1 << 18), headers=headers
            ) as response:
                attack.did[f"submit {response.status}"] += 1
                refused += response.status == 507
            if refused >= 10:
                break
        await attack.rest()


async def replays(attack: Attack) -> None:
    """Filtered replays that go on for years."""
    target = attack.target
    async with target.session() as session:
        once = {"attempts": 1}
        lines = [line(_NUMBERS_FROM + n, "http://127.0.0.1:1/", policy=once) for n in (0, 1)]
        await attack.batch(session, lines, target.tenant(0))
        await _until_dead(session, target.tenant(0), 2)
        document = {"filter": {"status": "dead"}, "ratePerSecond": 0.001}
        for _ in range(target.sized(_REPLAYS)):
            async with session.post(
                "/v1/replays", json=document, headers=target.tenant(0)
            ) as response:
                attack.did[f"replay {response.status}"] += 1
        await attack.rest()


async def _until_dead(
    session: aiohttp.ClientSession, tenant: Mapping[str, str], count: int
) -> None:
    async with asyncio.timeout(30):
        while True:
            async with session.get("/v1/stats", headers=tenant) as response:
                if (await response.json())["counts"]["dead"] >= count:
                    return
            await asyncio.sleep(0.02)


# --- what is busy ---


async def submits(attack: Attack) -> None:
    """Submits without a pause."""
    target = attack.target
    async with sink.listening() as own, target.session() as session:
        urls = own.urls(16)

        async def one(n: int) -> None:
            body = line(_NUMBERS_FROM + n, urls[n % len(urls)])
            headers = {"Content-Type": "application/json", **target.tenant(n)}
            async with session.post("/v1/callbacks", data=body, headers=headers) as response:
                attack.did[f"submit {response.status}"] += 1
                await response.read()

        await attack.over_and_over(_FLOOD, one, first=100)


async def batches(attack: Attack) -> None:
    """Batches side by side without a pause."""
    target = attack.target
    async with sink.listening() as own, target.session() as session:
        urls = own.urls(16)

        async def one(n: int) -> None:
            first = _NUMBERS_FROM + n * _BATCH_LINES
            lines = [line(first + m, urls[m % len(urls)]) for m in range(_BATCH_LINES)]
            await attack.batch(session, lines, target.tenant(n))

        await attack.over_and_over(_BATCHES, one, first=target.sized(_BATCHES))


async def listings(attack: Attack) -> None:
    """Listings that find nothing, side by side without a pause."""
    target = attack.target
    async with target.session() as session:
        for n in range(len(target.tenants)):
            lines = [
                line(_NUMBERS_FROM + m, target.silent[m % len(target.silent)], notBefore=86_400)
                for m in range(n, target.sized(_LISTED), len(target.tenants))
            ]
            await attack.batch(session, lines, target.tenant(n))

        async def one(n: int) -> None:
            params = {"jobStatus": "nosuch", "limit": "500"}
            async with session.get(
                "/v1/callbacks", params=params, headers=target.tenant(n)
            ) as response:
                attack.did[f"listing {response.status}"] += 1
                await response.read()

        await attack.over_and_over(_LISTINGS, one, first=100)


async def keys(attack: Attack) -> None:
    """Requests with keys that nobody gave out, each another one."""
    async with attack.target.session() as session:

        async def one(_n: int) -> None:
            headers = {"Authorization": f"Bearer pbk_{secrets.token_urlsafe(24)}"}
            async with session.get("/v1/callbacks", headers=headers) as response:
                attack.did[f"key {response.status}"] += 1
                await response.read()

        await attack.over_and_over(_FLOOD, one, first=100)


HOLDING: Final[Mapping[str, Callable[[Attack], Awaitable[None]]]] = {
    "slots": slots,
    "bytes": in_flight_bytes,
    "names": names,
    "bodies": bodies,
    "responses": responses,
    "pipelines": pipelines,
    "connections": connections,
    "tests": tests,
    "storage": storage,
    "replays": replays,
}
BUSY: Final[Mapping[str, Callable[[Attack], Awaitable[None]]]] = {
    "submits": submits,
    "batches": batches,
    "listings": listings,
    "keys": keys,
}


def _head(request: str, **headers: str) -> bytes:
    given = {"Host": "a", "Authorization": f"Bearer {ADMIN_KEY}", **headers}
    lines = "".join(f"{name}: {value}\r\n" for name, value in given.items())
    return f"{request} HTTP/1.1\r\n{lines}\r\n".encode()


@asynccontextmanager
async def _connections(target: Target, count: int) -> AsyncIterator[list[asyncio.StreamWriter]]:
    """Connections that are never read; those that are refused are left out."""
    host, port = address(target.url)
    writers = []
    for _ in range(count):
        with suppress(OSError):
            reader, writer = await asyncio.open_connection(host, port, limit=1)
            reader._transport.pause_reading()  # type: ignore[attr-defined]
            writers.append(writer)
    try:
        yield writers
    finally:
        for writer in writers:
            writer.transport.abort()


async def _run(name: str, target: Target) -> Attack:
    attack = Attack(target)
    working = asyncio.ensure_future({**HOLDING, **BUSY}[name](attack))
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, working.cancel)
    with suppress(asyncio.CancelledError):
        await working
    return attack


def main(name: str) -> None:
    """Attack until SIGTERM."""
    os.nice(_NICE)
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
    given: dict[str, Any] = json.loads(sys.stdin.readline())
    attack = asyncio.run(_run(name, Target(**given)))
    print(json.dumps(attack.did), flush=True)


if __name__ == "__main__":
    main(*sys.argv[1:])

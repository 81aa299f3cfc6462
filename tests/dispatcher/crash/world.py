"""A platform that submits, a customer that records, and a dispatcher between them that dies."""

import asyncio
import json
import struct
import sys
from collections import defaultdict
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

import aiohttp

KEY: Final = "test-crash-key"
SCRIPT: Final = Path(__file__).with_name("serve.py")
_ANSWER: Final = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"
_START_S: Final = 60.0
_SETTLED_S: Final = 60.0


@dataclass(slots=True)
class Sink:
    """The customer: answers 200 and keeps what it got, and in which life of the dispatcher."""

    port: int = 0
    life: int = 0
    silent: bool = False
    fail_first: bool = False  # whatever comes for the first time is answered 404
    got: dict[str, list[tuple[int, bytes]]] = field(default_factory=lambda: defaultdict(list))
    arrived: asyncio.Event = field(default_factory=asyncio.Event)

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with suppress(ConnectionError, asyncio.IncompleteReadError, asyncio.CancelledError):
            while True:
                head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").lower()
                fields = dict(line.split(": ", 1) for line in head.split("\r\n")[1:] if line)
                body = await reader.readexactly(int(fields["content-length"]))
                self.got[fields["webhook-id"]].append((self.life, body))
                self.arrived.set()
                if self.silent:
                    await reader.read()  # until the other side has gone
                fails = self.fail_first and len(self.got[fields["webhook-id"]]) == 1
                writer.write(_ANSWER.replace(b"200 OK", b"404 No") if fails else _ANSWER)
                await writer.drain()
        writer.close()

    @property
    def duplicates(self) -> int:
        return sum(len(one) - 1 for one in self.got.values())


@dataclass(slots=True)
class Dispatcher:
    """One life of the dispatcher after the other, on the same file."""

    database: Path
    clock: Path
    other_database: str | None = None  # the URL of one that is no file
    process: asyncio.subprocess.Process | None = None
    url: str = ""

    def set_clock(self, ahead_s: float) -> None:
        """From now on its clock, in this life and the next ones, is ahead of the true time."""
        with self.clock.open("r+b" if self.clock.exists() else "wb") as file:
            file.write(struct.pack("d", ahead_s))

    async def start(self, point: str = "never", count: int = 1, *, grace_s: float = 5) -> None:
        if not self.clock.exists():
            self.set_clock(0)
        self.process = await asyncio.create_subprocess_exec(
            sys.executable,
            str(SCRIPT),
            self.other_database or str(self.database),
            KEY,
            point,
            str(count),
            str(grace_s),
            str(self.clock),
            stdout=asyncio.subprocess.PIPE,
        )
        assert self.process.stdout is not None
        async with asyncio.timeout(_START_S):
            self.url = (await self.process.stdout.readline()).decode().strip()
        assert self.url.startswith("http://"), "the dispatcher did not start"

    async def end(self, *, kill: bool) -> int:
        """Its exit code, after SIGKILL or SIGTERM."""
        assert self.process is not None
        if self.process.returncode is None:
            if kill:
                self.process.kill()
            else:
                self.process.terminate()
        return await self.dead()

    async def dead(self) -> int:
        assert self.process is not None
        async with asyncio.timeout(_START_S):
            code = await self.process.wait()
        self.process = None
        return code


@dataclass(slots=True)
class Platform:
    """Submits one callback after the other and remembers which were acknowledged."""

    sink: Sink
    more: str = ""  # of each submit's document
    acknowledged: dict[str, bytes] = field(default_factory=dict)
    tried: int = 0
    taken: asyncio.Event = field(default_factory=asyncio.Event)
    _names: int = 0

    async def load(self, url: str, workers: int = 8) -> None:
        """Until the dispatcher is gone."""
        async with aiohttp.ClientSession(headers={"Authorization": f"Bearer {KEY}"}) as session:
            await asyncio.gather(*(self._submit_on(session, url) for _ in range(workers)))

    async def _submit_on(self, session: aiohttp.ClientSession, url: str) -> None:
        with suppress(aiohttp.ClientError, ConnectionError):
            while await self.submit(session, url):
                pass

    async def submit(self, session: aiohttp.ClientSession, url: str) -> bool:
        """Whether it was taken; the only other answer is that it is stopping."""
        self._names += 1
        self.tried += 1
        job = f"job-{self._names}"
        payload = f'{{"jobId": "{job}",\t"status":"completed" , "n": 1.0e0, "x": "\\u00e9é"}}'
        target = f"http://127.0.0.1:{self.sink.port}/lane-{self._names % 3}"
        body = f'{{"jobId":"{job}","callbackUrl":"{target}","payload":{payload}{self.more}}}'
        async with session.post(
            f"{url}/v1/callbacks",
            data=body.encode(),
            headers={"Content-Type": "application/json"},
        ) as answer:
            text = await answer.text()
            if answer.status == 503:
                return False
            assert answer.status == 202, text
            self.acknowledged[json.loads(text)["id"]] = payload.encode()
            self.taken.set()
            return True


async def counts(url: str) -> dict[str, int]:
    """The dispatcher's own figures."""
    async with (
        aiohttp.ClientSession(headers={"Authorization": f"Bearer {KEY}"}) as session,
        session.get(f"{url}/v1/stats") as answer,
    ):
        found: dict[str, int] = (await answer.json())["counts"]
        return found


async def settled(url: str) -> dict[str, int]:
    """The figures once nothing waits and nothing is under way any more."""
    async with asyncio.timeout(_SETTLED_S):
        while True:
            found = await counts(url)
            if not found["pending"] and not found["sending"]:
                return found
            await asyncio.sleep(0.05)  # there is no event across processes to wait for

"""Both halves as processes that are told to stop: while they start, serve, or cannot go on. Each
ends within its bound, and what it had taken on is finished or handed back (I1, I3, D7)."""

import asyncio
import json
import os
import random
import signal
import sqlite3
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

import aiohttp
import psycopg
import pytest

from receiver.signature import signed_headers
from tests.dispatcher.postgres import server
from tests.dispatcher.postgres.proxy import proxied

KEY = "test-admin-key-of-stopping"
SECRET = "whsec_dGVzdC10ZXN0LXRlc3QtdGVzdC10ZXN0"
ENDS_S = 30.0  # on a busy machine; what a bound promises is measured where it is shorter
GRACE_S = 0.5
ROUNDS = 6
TERM = signal.SIGTERM
SHOP = """
import asyncio

async def slow(event):
    print(flush=True)
    await asyncio.sleep(60)
"""


@dataclass(slots=True)
class Customer:
    """Answers 200, when it may."""

    url: str = ""
    got: int = 0
    arrived: asyncio.Event = field(default_factory=asyncio.Event)
    may_answer: asyncio.Event = field(default_factory=asyncio.Event)

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with suppress(ConnectionError, asyncio.IncompleteReadError):
            while True:
                head = (await reader.readuntil(b"\r\n\r\n")).lower()
                await reader.readexactly(int(head.split(b"content-length: ")[1].split()[0]))
                self.got += 1
                self.arrived.set()
                await self.may_answer.wait()
                writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n")
                await writer.drain()
        writer.close()


@pytest.fixture
async def customer() -> AsyncIterator[Customer]:
    made = Customer()
    listening = await asyncio.start_server(made.serve, "127.0.0.1", 0)
    made.url = f"http://127.0.0.1:{listening.sockets[0].getsockname()[1]}/hook"
    yield made
    made.may_answer.set()
    listening.close()


@pytest.fixture
def postgres() -> Iterator[str]:
    with server.database() as made:
        yield made


def environment(
    half: str, folder: Path, database: str | None = None, **more: str
) -> dict[str, str]:
    given = {
        "PORT": "0",
        "LOG_FORMAT": "json",
        "ADMIN_KEY": KEY,
        "DRAIN_GRACE": str(GRACE_S),
        "DATABASE_URL": database or f"sqlite:///{folder}/{half}.db",
        **more,
    }
    if half == "dispatcher":
        given |= {"ALLOW_NETWORKS": "127.0.0.0/8", "SIGNING_SECRET": SECRET}
    else:
        given |= {"SECRETS": SECRET}
    prefix = half.upper()
    return os.environ | {f"{prefix}_{name}": value for name, value in given.items()}


@asynccontextmanager
async def started(
    half: str, folder: Path, *words: str, database: str | None = None, **more: str
) -> AsyncIterator[asyncio.subprocess.Process]:
    """A process of its own group, killed with the block where it still lives."""
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", half, "serve", *words),
        env=environment(half, folder, database, **more),
        cwd=folder,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
        start_new_session=True,
    )
    try:
        yield process
    finally:
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        await process.wait()


async def listening(process: asyncio.subprocess.Process, half: str) -> str:
    """Its URL, once it listens."""
    stream = process.stdout if half == "dispatcher" else process.stderr
    assert stream is not None
    async with asyncio.timeout(ENDS_S):
        while line := (await stream.readline()).decode():
            if line.startswith("listening on "):
                return line.removeprefix("listening on ").strip()
            if line.startswith("{") and json.loads(line)["event"] == "listening":
                return f"http://127.0.0.1:{json.loads(line)['port']}"
    raise AssertionError("it did not start")


async def ended(process: asyncio.subprocess.Process) -> tuple[int, str]:
    """Its exit code, and what it said on standard error."""
    async with asyncio.timeout(ENDS_S):
        _, said = await process.communicate()
    assert process.returncode is not None
    return process.returncode, said.decode()


async def submit(url: str, customer: Customer) -> None:
    policy = {"attempts": 5, "delays": [0.2], "timeout": 5}  # its lease is soon over
    document = {"jobId": "job", "callbackUrl": customer.url, "payload": {}, "policy": policy}
    headers = {"Authorization": f"Bearer {KEY}"}
    async with (
        aiohttp.ClientSession(headers=headers) as session,
        session.post(f"{url}/v1/callbacks", json=document) as answer,
    ):
        assert answer.status == 202


# --- while it starts ---


@pytest.mark.parametrize("half", ["dispatcher", "receiver"])
async def test_sigterm_at_any_moment_of_a_start_ends_it_at_once(half: str, tmp_path: Path) -> None:
    """In order, or by the signal while nothing is open yet; and the next start finds nothing."""
    chance = random.Random(half)
    for _ in range(ROUNDS):
        async with started(half, tmp_path) as process:
            await asyncio.sleep(chance.uniform(0, 1.2))  # the moment is what is random here
            process.send_signal(TERM)
            began_s = time.monotonic()
            code, said = await ended(process)
            assert code in (0, -TERM), said
            assert "Traceback" not in said
            assert time.monotonic() - began_s < GRACE_S + 8
    async with started(half, tmp_path) as process:
        await listening(process, half)
        process.send_signal(TERM)
        assert (await ended(process))[0] == 0


@pytest.mark.parametrize("half", ["dispatcher", "receiver", "workers"])
async def test_sigterm_while_the_database_says_nothing_ends_a_start(
    half: str, tmp_path: Path
) -> None:
    """Whatever the start waits for: a server that takes connections, and never answers."""
    asked = asyncio.Event()

    async def silent(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        asked.set()
        await reader.read()
        writer.close()

    listener = await asyncio.start_server(silent, "127.0.0.1", 0)
    database = (
        f"postgresql://u@127.0.0.1:{listener.sockets[0].getsockname()[1]}/x?connect_timeout=0"
    )
    words = ("--workers", "2") if half == "workers" else ()
    package = "dispatcher" if half == "workers" else half
    async with listener, started(package, tmp_path, *words, database=database) as process:
        async with asyncio.timeout(ENDS_S):
            await asked.wait()
        process.send_signal(TERM)
        began_s = time.monotonic()
        code, said = await ended(process)
        assert time.monotonic() - began_s < 8
        assert (code, "something hangs" in said) in ((0, False), (1, True))


@pytest.mark.parametrize("children", [1, 3])
async def test_sigterm_while_workers_are_started_reaches_all(
    children: int, postgres: str, tmp_path: Path
) -> None:
    """Those that are being started too."""
    words = ("--workers", "3")
    async with started("dispatcher", tmp_path, *words, database=postgres) as process:
        async with asyncio.timeout(ENDS_S):
            while len(workers_of(process.pid)) < children:  # noqa: ASYNC110  # it says nothing
                await asyncio.sleep(0.001)
        process.send_signal(TERM)
        code, said = await ended(process)
        assert code == 0, said
        assert workers_of(process.pid) == []


def workers_of(group: int) -> list[int]:
    """Worker processes, without the helper that multiprocessing keeps; zombies say nothing."""
    found = []
    for one in Path("/proc").iterdir():
        with suppress(OSError, ValueError):
            pid = int(one.name)
            if b"spawn_main" in (one / "cmdline").read_bytes() and os.getpgid(pid) == group:
                found.append(pid)
    return found


# --- while it serves ---


@pytest.fixture
def hangs_up() -> Iterator[None]:
    """Where the tests ignore hang-ups, as under `nohup`, what they start would ignore them too."""
    before = signal.signal(signal.SIGHUP, signal.SIG_DFL)
    yield
    signal.signal(signal.SIGHUP, before)


@pytest.mark.usefixtures("hangs_up")
@pytest.mark.parametrize("signals", [["HUP"], ["HUP", "HUP"], ["TERM", "HUP"], ["HUP", "TERM"]])
async def test_sighup_drains(signals: list[str], tmp_path: Path, customer: Customer) -> None:
    """As a terminal that closes, and some service managers, send it: beside others, or twice."""
    async with started("dispatcher", tmp_path, DRAIN_GRACE="20") as process:
        await submit(await listening(process, "dispatcher"), customer)
        await customer.arrived.wait()
        for name in signals:
            process.send_signal(signal.Signals[f"SIG{name}"])
        await asyncio.sleep(0.2)
        customer.may_answer.set()
        assert (await ended(process))[0] == 0
    assert states(tmp_path) == [("delivered", 1)]
    assert customer.got == 1


@pytest.mark.usefixtures("hangs_up")
async def test_sighup_drains_the_receiver(tmp_path: Path) -> None:
    async with started("receiver", tmp_path) as process:
        await listening(process, "receiver")
        process.send_signal(signal.SIGHUP)
        code, said = await ended(process)
        assert code == 0
        assert '"event": "stopped"' in said


async def test_requests_and_handlers_share_the_grace(tmp_path: Path) -> None:
    """A request that does not end and a handler that runs on: one grace for both."""
    grace_s = 4.0
    (tmp_path / "shop.py").write_text(SHOP, "ascii")
    words = ("--handler", "shop:slow")
    async with started("receiver", tmp_path, *words, DRAIN_GRACE=str(grace_s)) as process:
        url = await listening(process, "receiver")
        body = b'{"jobId":"job_1","status":"completed"}'
        headers = signed_headers(body, [SECRET], message_id="a", timestamp_s=int(time.time()))
        async with (
            aiohttp.ClientSession() as session,
            session.post(f"{url}/webhooks", data=body, headers=headers) as answer,
        ):
            assert answer.status == 200
        assert process.stdout is not None
        async with asyncio.timeout(ENDS_S):
            await process.stdout.readline()  # it is being handled
        _, writer = await asyncio.open_connection("127.0.0.1", int(url.rpartition(":")[2]))
        writer.write(b"POST /webhooks HTTP/1.1\r\nHost: a\r\nContent-Length: 9\r\n\r\n{")
        await writer.drain()
        process.send_signal(TERM)
        began_s = time.monotonic()
        code, said = await ended(process)
        assert code == 0, said
        assert time.monotonic() - began_s < grace_s + 3
        writer.close()


async def test_sighup_that_is_ignored_stays_so(tmp_path: Path) -> None:
    """`nohup dispatcher serve`: its terminal may close."""
    ignored = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        async with started("dispatcher", tmp_path) as process:
            url = await listening(process, "dispatcher")
            process.send_signal(signal.SIGHUP)
            await asyncio.sleep(0.3)
            async with aiohttp.ClientSession() as session, session.get(f"{url}/readyz") as answer:
                assert answer.status == 200
            process.send_signal(TERM)
            assert (await ended(process))[0] == 0
    finally:
        signal.signal(signal.SIGHUP, ignored)


async def test_a_signal_to_all_workers_and_their_parent_is_one_signal(
    postgres: str, tmp_path: Path, customer: Customer
) -> None:
    """As a service manager sends it: each still finishes what it has in flight."""
    words = ("--workers", "2")
    async with started(
        "dispatcher", tmp_path, *words, database=postgres, DRAIN_GRACE="20"
    ) as process:
        await submit(await listening(process, "dispatcher"), customer)
        await customer.arrived.wait()
        for worker in workers_of(process.pid):
            os.kill(worker, TERM)
        await asyncio.sleep(0.3)  # until theirs is heard: two at once may count as one
        process.send_signal(TERM)
        await asyncio.sleep(0.3)
        customer.may_answer.set()
        code, said = await ended(process)
        assert code == 0, said
    assert customer.got == 1
    with psycopg.connect(postgres) as connection:
        states = connection.execute("SELECT state, attempts FROM callbacks").fetchall()
    assert states == [("delivered", 1)]


async def test_results_that_cannot_be_recorded_keep_no_process(
    postgres: str, tmp_path: Path, customer: Customer
) -> None:
    """The database is away for good: it tries for a while, says what will be sent again, and
    leaves with 1. Nothing is lost."""
    async with proxied(postgres) as proxy:
        async with started("dispatcher", tmp_path, database=proxy.url, LEASE_MARGIN="1") as process:
            await submit(await listening(process, "dispatcher"), customer)
            await customer.arrived.wait()
            proxy.refusing = True
            proxy.cut()
            customer.may_answer.set()
            process.send_signal(TERM)
            began_s = time.monotonic()
            code, said = await ended(process)
            assert time.monotonic() - began_s < GRACE_S + 8 + 2
        assert code == 1
        assert "these deliveries will be sent again" in said
        assert "could not be recorded" in said
        proxy.refusing = False
        customer.arrived.clear()
        again = {"SWEEP_INTERVAL": "0.2"}
        async with started("dispatcher", tmp_path, database=proxy.url, **again) as process:
            await listening(process, "dispatcher")
            async with asyncio.timeout(90):  # its lease has to end
                await customer.arrived.wait()
            process.send_signal(TERM)
            assert (await ended(process))[0] == 0


async def test_a_database_that_says_nothing_keeps_no_process(
    postgres: str, tmp_path: Path, customer: Customer
) -> None:
    """Its connections stand, and no answer comes: there is nothing that would fail."""
    async with (
        proxied(postgres) as proxy,
        started("dispatcher", tmp_path, database=proxy.url) as process,
    ):
        await submit(await listening(process, "dispatcher"), customer)
        await customer.arrived.wait()
        proxy.silent = True
        customer.may_answer.set()
        process.send_signal(TERM)
        began_s = time.monotonic()
        code, said = await ended(process)
        assert time.monotonic() - began_s < GRACE_S + 8 + 3
        assert code == 1
        assert "these deliveries will be sent again" in said


@pytest.mark.parametrize("half", ["dispatcher", "receiver"])
async def test_answers_that_nobody_reads_keep_no_process(half: str, tmp_path: Path) -> None:
    """Of many requests on one connection, and within the grace."""
    async with started(half, tmp_path) as process:
        url = await listening(process, half)
        port = int(url.rpartition(":")[2])
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        request = b"GET /metrics HTTP/1.1\r\nHost: a\r\nAuthorization: Bearer %b\r\n\r\n"
        writer.transport.pause_reading()  # type: ignore[attr-defined]
        writer.write(request % KEY.encode() * 5_000)
        with suppress(TimeoutError):
            async with asyncio.timeout(1):
                await writer.drain()
        process.send_signal(TERM)
        began_s = time.monotonic()
        code, said = await ended(process)
        assert time.monotonic() - began_s < GRACE_S + 3 + 2
        assert code == 0, said
        assert not reader.at_eof()
        writer.transport.abort()


@pytest.mark.parametrize("half", ["dispatcher", "receiver"])
async def test_a_log_that_nobody_reads_keeps_no_process(half: str, tmp_path: Path) -> None:
    """Whether the service goes on beside a full pipe, or stands still."""
    process = subprocess.Popen(  # noqa: ASYNC220  # asyncio's would read its pipes
        [sys.executable, "-m", half, "serve"],
        env=environment(half, tmp_path, LOG_LEVEL="debug"),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    try:
        url = await asyncio.to_thread(first_url, process, half)
        flooding = [asyncio.create_task(flood(url)) for _ in range(4)]
        await asyncio.wait(flooding, timeout=3)
        process.terminate()
        began_s = time.monotonic()
        code = await asyncio.to_thread(process.wait, ENDS_S)
        assert time.monotonic() - began_s < GRACE_S + 8 + 3
        assert code in (0, 1)
        for task in flooding:
            task.cancel()
        await asyncio.wait(flooding)
    finally:
        process.kill()
        process.communicate()


def first_url(process: subprocess.Popen[bytes], half: str) -> str:
    if half == "dispatcher":
        assert process.stdout is not None
        return process.stdout.readline().decode().removeprefix("listening on ").strip()
    assert process.stderr is not None
    return f"http://127.0.0.1:{json.loads(process.stderr.readline())['port']}"


async def flood(url: str) -> None:
    """Requests that are logged: a wrong path's by the receiver, a secret revealed by the other."""
    async with aiohttp.ClientSession(headers={"Authorization": f"Bearer {KEY}"}) as session:
        with suppress(aiohttp.ClientError, TimeoutError):
            for n in range(1_000):
                path = f"v1/secrets/reveal?{n}" if n % 2 else "x" * 500
                async with session.post(f"{url}/{path}", json={}) as answer:
                    await answer.read()


def states(folder: Path) -> list[tuple[str, int]]:
    """State and attempts of each callback."""
    connection = sqlite3.connect(folder / "dispatcher.db")
    found = connection.execute("SELECT state, attempts FROM callbacks").fetchall()
    connection.close()
    return found

"""Few descriptors, in real processes: they are bounded in advance, and where they end all the same
nobody else pays for it (D21)."""

import asyncio
import json
import os
import resource
import sys
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx

from receiver.testing import signed_request
from tests.dispatcher.peers import OK, answers, listening
from tests.receiver.waiting import until

KEY = "test-key-of-the-platform-01"
SECRET = "whsec_dGVzdC10ZXN0LXRlc3QtdGVzdC10ZXN0"
WITHIN_S = 60.0
FILES = resource.RLIMIT_NOFILE
ONCE = {"attempts": 1, "delays": [0.1], "timeout": 30}


@dataclass(slots=True)
class Process:
    """One half of it, as a process with a limit of open files; its log is in a file."""

    child: asyncio.subprocess.Process
    log: Path
    url: str
    idle: list[asyncio.StreamWriter] = field(default_factory=list)

    def lines(self, event: str) -> list[dict[str, Any]]:
        """Its lines of log of this name."""
        lines = (json.loads(line) for line in self.log.read_text().splitlines() if line)
        return [line for line in lines if line["event"] == event]

    def descriptors(self) -> int:
        return len(os.listdir(f"/proc/{self.child.pid}/fd"))

    def limit(self, soft: int) -> None:
        """From now on it may have so many files open."""
        hard = resource.prlimit(self.child.pid, FILES)[1]
        resource.prlimit(self.child.pid, FILES, (soft, hard))

    async def connect_idle(self, count: int) -> None:
        """So many clients that say nothing."""
        host, _, port = self.url.removeprefix("http://").partition(":")
        for _ in range(count):
            with suppress(OSError):
                _, writer = await asyncio.open_connection(host, int(port))
                self.idle.append(writer)


@asynccontextmanager
async def running(
    module: str, folder: Path, environ: dict[str, str], *, files: tuple[int, int], words: Any = ()
) -> AsyncIterator[Process]:
    """`dispatcher serve` or `receiver serve`, with (soft, hard) limits of open files."""
    log = folder / f"{module}.log"
    with log.open("wb") as stream:
        child = await asyncio.create_subprocess_exec(
            sys.executable,
            *("-m", module, "serve", *words),
            env={**os.environ, **environ},
            stdout=asyncio.subprocess.DEVNULL,
            stderr=stream,
            preexec_fn=lambda: resource.setrlimit(FILES, files),
        )
    process = Process(child=child, log=log, url="")
    try:
        listening = await first(process, "listening")
        process.url = "/".join(listening["url"].split("/")[:3])
        yield process
    finally:
        for writer in process.idle:
            writer.close()
        process.child.terminate()
        async with asyncio.timeout(WITHIN_S):
            await process.child.wait()


async def first(process: Process, event: str) -> dict[str, Any]:
    async def there() -> bool:
        assert process.child.returncode is None, process.log.read_text()
        with suppress(ValueError):  # half a line
            return bool(process.lines(event))
        return False

    await until(there)
    return process.lines(event)[0]


@asynccontextmanager
async def dispatching(
    folder: Path, *, files: tuple[int, int], **settings: Any
) -> AsyncIterator[tuple[Process, httpx.AsyncClient]]:
    environ = {
        "DISPATCHER_PORT": "0",
        "DISPATCHER_DATABASE_URL": f"sqlite:///{folder}/dispatcher.db",
        "DISPATCHER_ADMIN_KEY": KEY,
        "DISPATCHER_ALLOW_NETWORKS": "127.0.0.0/8",
        "DISPATCHER_LOG_FORMAT": "json",
        "DISPATCHER_DRAIN_GRACE": "0.2",
        **{f"DISPATCHER_{name.upper()}": str(value) for name, value in settings.items()},
    }
    async with (
        running("dispatcher", folder, environ, files=files, words=("--port", "0")) as process,
        httpx.AsyncClient(
            base_url=process.url,
            headers={"Authorization": f"Bearer {KEY}"},
            trust_env=False,
            timeout=WITHIN_S,
            limits=httpx.Limits(max_connections=4),
        ) as api,
    ):
        yield process, api


def inbox(folder: Path) -> dict[str, str]:
    """The settings of a receiver."""
    return {
        "RECEIVER_SECRETS": SECRET,
        "RECEIVER_PORT": "0",
        "RECEIVER_DATABASE_URL": f"sqlite:///{folder}/inbox.db",
        "RECEIVER_LOG_FORMAT": "json",
    }


async def submit(api: httpx.AsyncClient, url: str, job: str) -> str:
    document = {"jobId": job, "callbackUrl": url, "payload": {}, "policy": ONCE}
    response = await api.post("/v1/callbacks", json=document)
    assert response.status_code == 202, response.text
    return str(response.json()["id"])


def delivered(api: httpx.AsyncClient, count: int) -> Callable[[], Awaitable[bool]]:
    async def all_delivered() -> bool:
        counts = (await api.get("/v1/stats")).json()["counts"]
        assert counts["dead"] == 0
        return bool(counts["delivered"] == count)

    return all_delivered


async def test_the_soft_limit_is_raised_to_the_hard_one(tmp_path: Path) -> None:
    """Both halves, at their start: 1,024 is what most shells and systemd give."""
    async with (
        dispatching(tmp_path, files=(256, 10_000)) as (dispatcher, _),
        running("receiver", tmp_path, inbox(tmp_path), files=(256, 10_000)) as receiver,
    ):
        for process in (dispatcher, receiver):
            assert resource.prlimit(process.child.pid, FILES) == (10_000, 10_000)
            assert not process.lines("the limit of open files is too low for a setting")


async def test_idle_clients_and_slow_destinations_leave_descriptors_for_each_other(
    tmp_path: Path,
) -> None:
    """D21: as many slots and connections as the hard limit has descriptors for, told at start; so
    nothing fails for a lack of them, whoever takes all that may be had."""
    silent = asyncio.Event()

    async def slow(peer: Any, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while await peer.receive(reader) is not None:
            await silent.wait()
            writer.write(OK)

    async with (
        listening(slow) as peer,
        dispatching(tmp_path, files=(256, 256), destination_concurrency=1_024) as (process, api),
    ):
        told = process.lines("the limit of open files is too low for a setting")
        used = {line["setting"]: line["used"] for line in told}
        assert {"DISPATCHER_SLOTS", "DISPATCHER_CONNECTIONS_MAX"} < set(used)
        assert {line["limit"] for line in told} == {256}
        assert 4 < used["DISPATCHER_SLOTS"] < 128
        await asyncio.gather(*(submit(api, f"{peer.url}/{n}", f"job-{n}") for n in range(60)))
        await process.connect_idle(300)
        await asyncio.gather(*(submit(api, f"{peer.url}/{n}", f"more-{n}") for n in range(60)))
        silent.set()
        await until(delivered(api, 120))
        outcomes = Counter(line["outcome"] for line in process.lines("attempt"))
        assert outcomes == {"acknowledged": 120}


async def test_without_descriptors_deliveries_wait_and_nobody_pays(tmp_path: Path) -> None:
    """I2, D21: no try, no circuit; loud in log and metrics; and they go out once there are some."""
    async with (
        listening(answers(OK)) as peer,
        dispatching(tmp_path, files=(4_096, 4_096)) as (process, api),
    ):
        await api.get("/healthz")  # its connection stays
        process.limit(process.descriptors())
        ids = [await submit(api, f"{peer.url}/{n}", f"job-{n}") for n in range(300)]
        await until(lambda: len(process.lines("attempt")) >= 5)
        assert len(process.lines("attempt")) < 100  # most are not tried in vain
        assert {line["outcome"] for line in process.lines("attempt")} == {"interrupted"}
        (told, *_) = process.lines("we cannot deliver: the fault is ours")
        assert (told["lack"], told["level"]) == ("descriptors", "error")
        metrics = (await api.get("/metrics")).text
        assert 'dispatcher_own_faults_total{lack="descriptors"}' in metrics
        (destination,) = (await api.get("/v1/destinations")).json()["data"]
        assert destination["health"] == "healthy"

        process.limit(4_096)
        await until(delivered(api, 300))
        assert len(peer.received) == 300
        shown = (await api.get(f"/v1/callbacks/{ids[0]}")).json()
        assert shown["attempts"] >= 2


async def test_a_receiver_without_descriptors_spends_no_attempt(tmp_path: Path) -> None:
    """D21: what it could not forward waits, and goes out as the first attempt that it is."""
    body = b'{"jobId":"job_1","status":"completed"}'
    async with listening(answers(OK)) as peer:
        words = ("--forward", peer.url)
        environ = inbox(tmp_path)
        files = (4_096, 4_096)
        async with (
            running("receiver", tmp_path, environ, files=files, words=words) as process,
            httpx.AsyncClient(base_url=process.url, trust_env=False) as http,
        ):
            await http.get("/healthz")  # its connection stays
            process.limit(process.descriptors())
            headers = signed_request(body, SECRET)
            assert (await http.post("/webhooks", content=body, headers=headers)).is_success
            told = await first(process, "cannot run handlers: the fault is ours")
            assert (told["lack"], told["level"]) == ("descriptors", "error")
            assert 'own_faults_total{lack="descriptors"}' in (await http.get("/metrics")).text
            assert not process.lines("handling")

            process.limit(4_096)
            await until(lambda: bool(peer.received))
            assert [request.header("Postback-Attempt") for request in peer.received] == ["1"]
            assert (await first(process, "handling"))["outcome"] == "handled"


async def test_a_receiver_keeps_descriptors_for_its_handlers(tmp_path: Path) -> None:
    """Fewer connections than are set, told with the setting's name."""
    async with running("receiver", tmp_path, inbox(tmp_path), files=(256, 256)) as process:
        (told,) = process.lines("the limit of open files is too low for a setting")
        assert told["setting"] == "RECEIVER_CONNECTIONS_MAX"
        assert (told["configured"], told["limit"]) == (1_000, 256)
        assert 64 < told["used"] < 256

"""A service that is killed at each step of storing outputs, of linking, expiring and deleting them:
whatever is named is there, and after the next sweep nothing else is."""

import asyncio
import json
import os
import signal
import sys
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from hashlib import sha256
from itertools import islice
from pathlib import Path
from typing import Any, Final

import pytest
from aiohttp import web

from receiver.base import settings as bounds
from receiver.base.clock import now_ms
from tests.dispatcher.blobs import s3
from tests.dispatcher.crash.output_lives import LEASE_S, POINTS, WEEK_MS
from tests.dispatcher.gateway.rig import World, running, served
from tests.dispatcher.postgres import folders
from tests.dispatcher.postgres.fleet import SCALE

KILLS: Final = int(os.environ.get("POSTBACK_OUTPUT_KILLS", "0"))
"""So many in all; 0: a few."""
BODY: Final = bytes(range(256)) * 4 * 1024 * 3  # three parts
PATIENCE_S: Final = 60.0
pytestmark = [pytest.mark.timeout(3_000 if KILLS else 240)]


@pytest.fixture(params=["sqlite-file", "postgres-database", "postgres-s3"])
def kept(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    """The URL of a database, and the settings of where outputs are."""
    kind, _, place = request.param.partition("-")
    if place == "s3" and s3.program() is None:
        pytest.skip("there is no S3 server here")
    if kind == "sqlite":
        yield f"sqlite:///{tmp_path}/jobs.db", {"outputs": f"file:{tmp_path}/outputs"}
        return
    url = folders.url_for(tmp_path, used=True)
    if place == "database":
        yield url, {"outputs": "database"}
    else:
        with s3.running(tmp_path) as server:
            yield url, server.settings
    folders.empty_under(tmp_path)


def chosen(place: int) -> list[tuple[str, int]]:
    """At which points it dies, the how manieth time: all in turn, where there are enough kills,
    else a third of them in each place, so that together they are all."""
    ordered = [point for n in range(3) for point in POINTS[(place + n) % 3 :: 3]]
    count = KILLS or max(len(POINTS[place::3]), round(4 * (SCALE - 1)))
    endless = ((point, nth) for nth in (1, 2, 3) * count for point in ordered)
    return list(islice(endless, count))


async def take(request: web.Request) -> web.StreamResponse:
    """A long output; of what is to break off a half, each time."""
    body = await request.read()
    response = web.StreamResponse(headers={"Content-Length": str(len(BODY))})
    await response.prepare(request)
    if b"break off" in body:
        await response.write(BODY[: len(BODY) // 2])
        assert request.transport is not None
        request.transport.abort()
    else:
        await response.write(BODY)
    return response


@asynccontextmanager
async def lives() -> AsyncIterator[Any]:
    """Asks for lives, one after another; returns how each ended."""
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        "-m",
        "tests.dispatcher.crash.output_lives",
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
    )
    assert process.stdin is not None
    assert process.stdout is not None
    stdin, stdout = process.stdin, process.stdout

    async def live(**given: Any) -> int:
        stdin.write(json.dumps(given).encode() + b"\n")
        await stdin.drain()
        async with asyncio.timeout(PATIENCE_S):
            while line := (await stdout.readline()).decode():
                if line.startswith("exit "):
                    return int(line.removeprefix("exit "))
        raise AssertionError("nobody lives any more")

    yield live
    stdin.close()
    await process.wait()


async def test_no_link_leads_nowhere_and_no_bytes_are_left(
    kept: tuple[str, dict[str, Any]], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whenever it is killed."""
    url, settings = kept
    monkeypatch.setattr(bounds, "check_bounds", lambda *_: None)
    settings = {**settings, "job_lease": LEASE_S}
    killed = 0
    async with served(take) as upstream, lives() as live:
        async with running(url, **settings) as world:
            waits = {"base": 0.05, "factor": 1.0, "cap": 0.05}
            await world.endpoint(upstream, attempts=2, retry=waits)
        del settings["job_lease"]
        place = ("file", "database", "s3").index(settings["outputs"].partition(":")[0])
        planned = chosen(place)
        for point, count in planned:
            code = await live(
                database=url, upstream=upstream, point=point, count=count, settings=settings
            )
            assert code in (-signal.SIGKILL, 0), (point, count)
            killed += code != 0
            async with running(url, job_lease=LEASE_S, **settings) as world:
                await _settled(world)
                await _whole(world, settings)
                await _expired(world, settings)
    name = "s3" if place == 2 else url.partition(":")[0]
    print(f"{name}: {killed} of {len(planned)} lives ended by kill -9")
    assert killed >= 3


async def _settled(world: World) -> None:
    """Until all jobs have ended, and nothing is being written."""
    store = world.service.store

    async def is_settled() -> bool:
        going: int = await store._read(
            lambda tx: (
                tx.one("SELECT count(*) FROM jobs WHERE state IN ('queued', 'running')") or (1,)
            )[0]
        )
        return not going and not world.service.gateway.engine.running

    await world.until(is_settled)


async def _swept(world: World) -> None:
    """Until no process is known that does not live any more, and all is deleted that may be."""
    blobs, store = world.service.gateway.blobs, world.service.store

    async def is_swept() -> bool:
        while await blobs.sweep():
            pass
        loose: int = await store._read(
            lambda tx: (tx.one("SELECT count(*) FROM blobs WHERE state <> 'kept'") or (1,))[0]
        )
        return not loose

    await world.until(is_swept)


async def _whole(world: World, settings: dict[str, Any]) -> None:
    """Whatever is named is there, whole; nothing else is."""
    await _swept(world)
    store, blobs = world.service.store, world.service.gateway.blobs
    named = await store._read(
        lambda tx: tx.all(
            "SELECT o.job, o.blob, j.tenant FROM outputs o JOIN jobs j ON j.id = o.job "
            "WHERE o.blob IS NOT NULL"
        )
    )
    for job, id, tenant in named:
        output = await store.jobs.output(tenant, job)
        assert output.blob is not None
        assert output.blob.id == id
        body = await blobs.whole(output.blob)
        assert sha256(body).digest() == output.blob.sha256
        assert body in (BODY, BODY[: len(BODY) // 2])
    assert await _there(world, settings) == {id for _, id, _ in named}


async def _expired(world: World, settings: dict[str, Any]) -> None:
    """After a week nothing is."""
    while await world.service.store.jobs.prune(now_ms=now_ms() + WEEK_MS, limit=50):
        pass
    await _swept(world)
    assert await _there(world, settings) == set()
    assert world.service.store.output_bytes("default") == 0


async def _there(world: World, settings: dict[str, Any]) -> set[str]:
    """All that is kept, by rows and by bytes, which are the same."""
    place, read = settings["outputs"], world.service.store._read
    rows = {one for (one,) in await read(lambda tx: tx.all("SELECT id FROM blobs"))}
    if place == "database":
        parts = await read(lambda tx: tx.all("SELECT DISTINCT blob FROM blob_parts"))
        found = {one for (one,) in parts}
    elif place.startswith("file:"):
        found = files(Path(place.removeprefix("file:")))
    else:
        server = s3.S3(settings["s3_endpoint"])
        keys = await asyncio.to_thread(server.objects)
        found = {one.rpartition("/")[2] for one in keys}
    assert found == rows
    return found


def files(folder: Path) -> set[str]:
    """The names of all that are there."""
    return {one.name for one in folder.rglob("*") if one.is_file()}

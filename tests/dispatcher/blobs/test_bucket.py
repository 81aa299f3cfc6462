"""Outputs on an S3 server, a real one: uploaded in parts as they come, linked to, deleted, and
nothing left of what was not finished."""

import json
import os
from collections.abc import AsyncIterator, Iterator
from hashlib import sha256
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import httpx
import pytest

from dispatcher.blobs.blobs import Blobs, Gone
from dispatcher.blobs.bucket import Bucket
from dispatcher.blobs.storage import StorageError
from dispatcher.jobs.blobs import PART_BYTES, Range
from dispatcher.settings import Settings
from dispatcher.store import open_store
from dispatcher.store.store import Store
from tests.dispatcher.blobs import s3
from tests.dispatcher.blobs.s3 import S3
from tests.dispatcher.dialects.stage import platform
from tests.dispatcher.gateway.rig import KEYS

pytestmark = pytest.mark.skipif(s3.program() is None, reason="there is no S3 server here")
PNG = {"Content-Type": "image/png"}


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[S3]:
    with s3.running(tmp_path_factory.mktemp("s3")) as made:
        yield made


@pytest.fixture
async def store(tmp_path: Path) -> AsyncIterator[Store]:
    made = open_store(Settings(database_url=f"sqlite:///{tmp_path}/a.db"))
    await made.open()
    yield made
    await made.close()


@pytest.fixture
async def blobs(server: S3, store: Store) -> AsyncIterator[Blobs]:
    made = Blobs(Settings(**server.settings), store.jobs, process="us")
    await made.open()
    yield made
    await made.close()


@pytest.mark.parametrize("size", [1, PART_BYTES + 1, 5 * PART_BYTES, 12 * PART_BYTES + 7])
async def test_what_is_uploaded_is_read(blobs: Blobs, server: S3, size: int) -> None:
    """Byte for byte, whole and in part; anybody may fetch it by a link, as what it is."""
    body = os.urandom(size)
    spool = blobs.spool("a" * 32, "acme", "output")
    spool.content_type = "image/png"
    for at in range(0, size, 700_000):
        await spool.write(body[at : at + 700_000])
    blob = await spool.finish()
    assert blob is not None
    assert blob.sha256 == sha256(body).digest()
    assert await blobs.whole(blob) == body
    end = min(size, PART_BYTES + 1)
    found = [part async for part in blobs.stream(blob, Range(size // 3, end))]
    assert b"".join(found) == body[size // 3 : end]
    link = await blobs.link(blob, 60)
    assert link is not None
    async with httpx.AsyncClient(trust_env=False) as anybody:
        fetched = await anybody.get(link)
    assert (fetched.status_code, fetched.content) == (200, body)
    assert fetched.headers["content-type"] == "image/png"
    assert fetched.headers["content-disposition"] == "attachment"
    await spool.end()
    while await blobs.sweep():
        pass
    assert server.objects() == []
    with pytest.raises(Gone):
        await blobs.part(blob, 0)


async def test_an_upload_that_was_not_finished_goes_too(blobs: Blobs, server: S3) -> None:
    """Nobody sees it, and it takes room."""
    spool = blobs.spool("a" * 32, "acme", "output")
    await spool.write(bytes(7 * PART_BYTES))
    bucket = blobs._storage(blobs.storage)
    assert isinstance(bucket, Bucket)
    await spool._written()
    assert len(server.objects()) == 1
    after = Blobs(Settings(**server.settings), blobs._store, process="next")
    while await after.sweep():
        pass
    assert server.objects() == []
    await after.close()
    await spool.end()


async def test_a_bucket_that_is_not_there_is_said_at_the_start(server: S3, store: Store) -> None:
    """And so is a key that may not use it."""
    for wrong in ({"outputs": "s3://elsewhere/kept"}, {"s3_secret_access_key": "wrong"}):
        given: dict[str, Any] = {**server.settings, **wrong}
        made = Blobs(Settings(**given), store.jobs, process="us")
        with pytest.raises(StorageError):
            await made.open()
        await made.close()


@pytest.mark.parametrize("sealed", [False, True], ids=["plain", "sealed"])
async def test_a_link_of_ours_leads_there(server: S3, tmp_path: Path, sealed: bool) -> None:
    """T34, T55: signed when it is read; what is sealed comes through us, since nobody else could
    open it. A key's `/output` never leads elsewhere."""
    body = os.urandom(6 * PART_BYTES + 5)
    settings = dict(server.settings)
    if sealed:
        settings |= {"encryption_keys": KEYS, "encrypt_payloads": "on"}
    async with platform(f"sqlite:///{tmp_path}/jobs.db", **settings) as made:
        await made.world.endpoint(made.model.url)
        made.model.body, made.model.headers = body, PNG
        headers = {"Postback-Callback-Url": made.hook.url}
        taken = await made.api.post("/v1/endpoints/ep/jobs", content=b"{}", headers=headers)
        ((_, told),) = await made.hook.received(1)
        link = urlsplit(json.loads(told)["output"]["url"])
        async with httpx.AsyncClient(base_url=made.url, trust_env=False) as anybody:
            answer = await anybody.get(f"{link.path}?{link.query}")
            if not sealed:
                assert answer.status_code == 307
                assert answer.headers["location"].startswith(server.url)
                assert s3.SECRET not in answer.headers["location"]
            answer = await anybody.get(f"{link.path}?{link.query}", follow_redirects=True)
            assert (answer.status_code, answer.content) == (200, body)
        by_key = await made.api.get(f"/v1/jobs/{taken.json()['id']}/output")
        assert (by_key.status_code, by_key.content) == (200, body)
        job = taken.json()["id"].removeprefix("job_")
        await made.api.post(f"/v1/jobs/{taken.json()['id']}/retry", json={"force": True})
        await made.world.until_state(job, "completed")
        await made.world.until_idle()
        while await made.world.service.gateway.blobs.sweep():
            pass
        assert len(server.objects()) == 1
        stored = server.client().get_object(Bucket=s3.BUCKET, Key=server.objects()[0])
        assert (stored["Body"].read(len(body)) == body) != sealed
        server.client().delete_object(Bucket=s3.BUCKET, Key=server.objects()[0])

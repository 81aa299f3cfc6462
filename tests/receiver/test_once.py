"""Fifty copies at once of each of two hundred completions: two hundred effects."""

import asyncio
import sqlite3
from collections import Counter
from contextlib import closing
from pathlib import Path
from typing import Any

import aiohttp

from receiver import Event, Receiver, Settings
from receiver.testing import Client, callback_id, signed_request
from tests.receiver.serving import served

SECRET = "whsec_dGVzdC10ZXN0LXRlc3QtdGVzdC10ZXN0"
COPIES, COMPLETIONS = 50, 200


async def test_fifty_copies_of_two_hundred_completions_have_two_hundred_effects(
    tmp_path: Path,
) -> None:
    """Counted in the customer's table, which would take a second one."""
    shop = tmp_path / "shop.db"
    with closing(sqlite3.connect(shop)) as db:
        db.execute("PRAGMA journal_mode=WAL")
        db.execute("CREATE TABLE effects (job TEXT)")
    receiver = Receiver(
        Settings(
            secrets=(SECRET,),
            database_url=f"sqlite:///{tmp_path}/inbox.db",
            effects_url=f"sqlite:///{shop}",
            log_level="error",
        )
    )

    @receiver.on("completed")
    def fulfil(event: Event, tx: Any) -> None:
        tx.execute("INSERT INTO effects VALUES (?)", (event.job_id,))

    async with Client(receiver, SECRET) as client:
        verdicts = await _post_all(receiver)
        await client.idle(timeout_s=60)
    assert verdicts == {"accepted": COMPLETIONS, "duplicate": COMPLETIONS * (COPIES - 1)}
    with closing(sqlite3.connect(shop)) as db:
        effects = Counter(job for (job,) in db.execute("SELECT job FROM effects"))
    assert effects == {f"job_{n}": 1 for n in range(COMPLETIONS)}


async def _post_all(receiver: Receiver) -> Counter[str]:
    verdicts: Counter[str] = Counter()
    connector = aiohttp.TCPConnector(limit=COPIES)
    async with served(receiver) as url, aiohttp.ClientSession(connector=connector) as http:
        for n in range(COMPLETIONS):
            body = b'{"jobId":"job_%d","status":"completed"}' % n
            headers = signed_request(body, SECRET, message_id=callback_id(n))
            posts = (_post(http, url + "/webhooks", body, headers) for _ in range(COPIES))
            verdicts.update(await asyncio.gather(*posts))
    return verdicts


async def _post(http: aiohttp.ClientSession, url: str, body: bytes, headers: dict[str, str]) -> str:
    async with http.post(url, data=body, headers=headers) as answer:
        return str((await answer.json())["status"])

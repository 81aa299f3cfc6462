"""The drill of a key's rotation: clients send on while their key is rotated, and change over when
it suits them, within the overlap. No request of theirs is refused, at whichever process (D14).

Sized by POSTBACK_TEST_SCALE: rounds and clients.
"""

import asyncio
import os
import random
import time
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import httpx
import pytest

from dispatcher.app import Service
from dispatcher.settings import Settings
from tests.dispatcher.api.talk import ADMIN_KEY
from tests.dispatcher.postgres import folders
from tests.receiver.serving import served

SCALE: Final = float(os.environ.get("POSTBACK_TEST_SCALE", "1"))
ROUNDS: Final = max(1, round(2 * SCALE))
CLIENTS: Final = max(4, round(8 * SCALE))
OVERLAP_S: Final = 2.0
MARGIN_S: Final = 0.5  # before the end: a request under way then would be late
PAUSE_S: Final = 0.005  # of a client, between two requests


@pytest.fixture(params=["postgres", "sqlite"])
async def urls(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[list[str]]:
    """A process on SQLite, two on PostgreSQL."""
    is_postgres = request.param == "postgres"
    database = folders.url_for(tmp_path, used=True) if is_postgres else f"sqlite:///{tmp_path}/d.db"
    settings = Settings(database_url=database, admin_key=ADMIN_KEY, drain_grace=0.2)
    async with AsyncExitStack() as stack:
        found = []
        for _ in range(1 + is_postgres):
            service = await stack.enter_async_context(Service(settings))
            found.append(await stack.enter_async_context(served(service.api)))
        yield found
    folders.empty_under(tmp_path)


@dataclass
class Drill:
    """What the clients use, and what they met: (which text, status)."""

    urls: list[str]
    text: str
    http: httpx.AsyncClient
    ends_s: float = 0.0  # of the overlap, by the monotonic clock
    met: Counter[tuple[str, int]] = field(default_factory=Counter)

    async def ask(self, text: str, which: str) -> int:
        answer = await self.http.get(
            f"{random.choice(self.urls)}/v1/callbacks?limit=1",
            headers={"Authorization": f"Bearer {text}"},
        )
        self.met[which, answer.status_code] += 1
        return answer.status_code

    async def client(self, rotated: asyncio.Event) -> None:
        """Send on with the text that it has; with the new one from some moment of the overlap."""
        own, changes_s, which = self.text, float("inf"), "before"
        until_s = float("inf")
        while time.monotonic() < until_s:
            if rotated.is_set() and until_s == float("inf"):
                until_s = self.ends_s + 0.2
                changes_s = random.uniform(time.monotonic(), self.ends_s - MARGIN_S)
                which = "old, within the overlap"
            if time.monotonic() >= changes_s and own != self.text:
                own, which = self.text, "new"
            await self.ask(own, which)
            await asyncio.sleep(PAUSE_S)


async def rotate(drill: Drill, id: str) -> dict[str, Any]:
    began_s = time.monotonic()
    answer = await drill.http.post(
        f"{drill.urls[0]}/v1/keys/{id}/rotate",
        json={"overlap": OVERLAP_S},
        headers={"Authorization": f"Bearer {ADMIN_KEY}"},
    )
    assert answer.status_code == 201, answer.text
    drill.ends_s = began_s + OVERLAP_S
    body: dict[str, Any] = answer.json()
    return body


async def test_no_request_is_refused_while_keys_are_rotated(urls: list[str]) -> None:
    async with httpx.AsyncClient(timeout=30) as http:
        answer = await http.post(
            f"{urls[0]}/v1/keys",
            json={"scopes": ["read"]},
            headers={"Authorization": f"Bearer {ADMIN_KEY}"},
        )
        key = answer.json()
        drill = Drill(urls, key["key"], http)
        for _ in range(ROUNDS):
            rotated, old = asyncio.Event(), drill.text
            clients = [asyncio.create_task(drill.client(rotated)) for _ in range(CLIENTS)]
            await asyncio.sleep(0.2)  # they send on for a while
            drill.text = (await rotate(drill, key["id"]))["key"]
            rotated.set()
            await asyncio.gather(*clients)
            # The clients went on a little beyond the end, by which every process ends it itself.
            assert [await _status(http, url, old) for url in urls] == [401] * len(urls)
        refused = {met: n for met, n in drill.met.items() if met[1] != 200}
        print(f"\n{len(urls)} processes, {ROUNDS} rotations, {CLIENTS} clients:", dict(drill.met))
        assert refused == {}
        for which in ("before", "old, within the overlap", "new"):
            assert drill.met[which, 200] > 0


async def _status(http: httpx.AsyncClient, url: str, text: str) -> int:
    headers = {"Authorization": f"Bearer {text}"}
    return (await http.get(f"{url}/v1/callbacks?limit=1", headers=headers)).status_code

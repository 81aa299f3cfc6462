"""A running service that is spoken to over a socket, with a model behind it and a customer before
it: what the tests of all dialects begin with."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any, Final

import httpx

from tests.dispatcher.api.talk import make_key
from tests.dispatcher.gateway.rig import (
    ADMIN_KEY,
    PATIENCE_S,
    Sink,
    Upstream,
    World,
    running,
    sink,
    upstream,
)
from tests.receiver.serving import served

JSON: Final = {"Content-Type": "application/json"}


@dataclass(slots=True)
class Platform:
    """`api` speaks to the service under the platform's key."""

    world: World
    api: httpx.AsyncClient
    url: str
    model: Upstream
    hook: Sink

    async def tenant(self, name: str, **fields: object) -> httpx.AsyncClient:
        """A client of one customer; whoever asks for it closes it."""
        scopes = ["submit", "read", "operate"]
        key = await make_key(self.api, tenant=name, scopes=scopes, **fields)
        return client(self.url, key)

    async def ended(self, id: str) -> dict[str, Any]:
        """A job as `/v1` shows it, by any spelling of its id, once it has ended."""
        shown = await self.api.get(f"/v1/jobs/{id}", params={"wait": "30"})
        assert shown.status_code == 200, shown.text
        view: dict[str, Any] = shown.json()
        assert view["status"] not in ("queued", "running"), view
        return view

    async def callback(self, id: str) -> dict[str, Any]:
        """The callback of a job that has ended, as `/v1` shows it."""
        view = await self.ended(id)
        shown = await self.api.get(f"/v1/callbacks/{view['callback']['id']}")
        assert shown.status_code == 200, shown.text
        found: dict[str, Any] = shown.json()
        return found


def client(url: str, key: str) -> httpx.AsyncClient:
    """A client with a key."""
    headers = {"Authorization": f"Bearer {key}"}
    return httpx.AsyncClient(base_url=url, headers=headers, timeout=PATIENCE_S, trust_env=False)


@asynccontextmanager
async def platform(database_url: str, **settings: Any) -> AsyncIterator[Platform]:
    """A service with a model and a customer."""
    async with (
        upstream() as model,
        sink() as hook,
        between(database_url, model, hook, **settings) as made,
    ):
        yield made


@asynccontextmanager
async def between(
    database_url: str, model: Upstream, hook: Sink, **settings: Any
) -> AsyncIterator[Platform]:
    """A service between a model and a customer that outlive it."""
    async with (
        running(database_url, **settings) as world,
        served(world.service.api) as url,
        client(url, ADMIN_KEY) as api,
    ):
        yield Platform(world, api, url, model, hook)
        model.go.set()

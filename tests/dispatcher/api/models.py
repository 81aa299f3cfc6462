"""An upstream that the test holds and lets go, and an endpoint that names it."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

import httpx

from tests.dispatcher.peers import Peer, Received, answer, listening

JSON = "Content-Type: application/json"
SAID = b'{"text":  "HELLO"}'


@dataclass(slots=True)
class Model:
    """Answers each call once it may (`go`), with the next of `answers`, then with `SAID`."""

    peer: Peer
    go: asyncio.Event = field(default_factory=asyncio.Event)
    answers: list[bytes] = field(default_factory=list)
    closed: int = 0

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.peer.port}/generate"

    @property
    def received(self) -> list[Received]:
        return self.peer.received


@asynccontextmanager
async def model_server() -> AsyncIterator[Model]:
    """A model server on loopback; it answers at once unless `go` is cleared."""

    async def behave(
        peer: Peer, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        while await peer.receive(reader) is not None:
            going, gone = (
                asyncio.create_task(model.go.wait()),
                asyncio.create_task(reader.read(1)),
            )
            await asyncio.wait((going, gone), return_when=asyncio.FIRST_COMPLETED)
            going.cancel()
            if gone.done():
                model.closed += 1
                return
            gone.cancel()
            await asyncio.wait((gone,))
            said = model.answers.pop(0) if model.answers else answer("200 OK", JSON, body=SAID)
            writer.write(said)

    async with listening(behave) as peer:
        model = Model(peer)
        model.go.set()
        yield model


async def make_endpoint(api: httpx.AsyncClient, model: Model, **fields: Any) -> dict[str, Any]:
    """An endpoint that names the model: `shout`, unless it is told otherwise."""
    made = await api.post("/v1/endpoints", json={"name": "shout", "url": model.url, **fields})
    assert made.status_code == 201, made.text
    view: dict[str, Any] = made.json()
    return view


async def submit_job(
    api: httpx.AsyncClient,
    endpoint: str = "shout",
    body: bytes = b'{"text":"hello"}',
    **headers: str,
) -> dict[str, Any]:
    """A job that is taken."""
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    taken = await api.post(
        f"/v1/endpoints/{endpoint}/jobs",
        content=body,
        headers={"Content-Type": "application/json", **named},
    )
    assert taken.status_code == 202, taken.text
    view: dict[str, Any] = taken.json()
    return view


async def ended(api: httpx.AsyncClient, id: str) -> dict[str, Any]:
    """The job once it has ended."""
    shown = await api.get(f"/v1/jobs/{id}", params={"wait": "20"})
    assert shown.status_code == 200, shown.text
    view: dict[str, Any] = shown.json()
    assert view["status"] not in ("queued", "running"), view
    return view

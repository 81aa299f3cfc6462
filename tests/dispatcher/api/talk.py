"""Speaking to the API in tests: clients, keys, submits, and what an error answer must look like."""

import asyncio
import contextlib
from dataclasses import replace

import httpx

from dispatcher.app import Service
from dispatcher.states import State

ADMIN_KEY = "test-admin-key-of-tests"


def connect(service: Service, key: str, **headers: str) -> httpx.AsyncClient:
    """A client with this key."""
    return httpx.AsyncClient(
        transport=httpx.ASGITransport(service.api),
        base_url="http://dispatcher.test",
        headers={"Authorization": f"Bearer {key}", **headers},
    )


async def make_key(api: httpx.AsyncClient, **fields: object) -> str:
    """A new API key's text."""
    made = await api.post("/v1/keys", json=fields)
    assert made.status_code == 201, made.text
    key: str = made.json()["key"]
    return key


async def submit(api: httpx.AsyncClient, job_id: str, destination: str, **fields: object) -> str:
    """Submit a small callback to a registered destination; its id."""
    body = {"jobId": job_id, "destination": destination, "payload": {"status": "completed"}}
    taken = await api.post("/v1/callbacks", json=body | fields)
    assert taken.status_code == 202, taken.text
    callback_id: str = taken.json()["id"]
    return callback_id


async def until_state(service: Service, callback_id: str, state: State) -> None:
    """Wait, commit by commit, until the callback is in this state."""
    committed = asyncio.Event()
    events = service.store._events

    def on_commit(operations: int, seconds: float) -> None:
        events.on_commit(operations, seconds)
        committed.set()

    service.store._events = replace(events, on_commit=on_commit)
    async with asyncio.timeout(60):
        while (await service.store.get("default", callback_id)).state != state:
            committed.clear()
            with contextlib.suppress(TimeoutError):
                # A commit between the look and the wait would be missed: look again at times.
                await asyncio.wait_for(committed.wait(), 0.2)


def reject(answer: httpx.Response, status: int, code: str) -> dict[str, object]:
    """The details of an error answer, which has the one shape of them all (D13)."""
    body = answer.json()
    assert (answer.status_code, body["error"]) == (status, code), answer.text
    assert set(body) == {"error", "message", "details", "requestId"}
    assert body["message"]
    assert body["requestId"] == answer.headers["X-Request-Id"]
    details: dict[str, object] = body["details"]
    return details

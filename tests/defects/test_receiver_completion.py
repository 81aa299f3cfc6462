"""What the receiver makes of completions of other platforms, and of its own wiring."""

import logging
import sqlite3
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, closing
from datetime import timedelta
from pathlib import Path

import httpx
import pytest
from starlette.applications import Starlette
from starlette.routing import Mount

from receiver import Event, Receiver, Settings
from receiver.inbox.message import Message
from receiver.signature import Job
from receiver.testing import Client, Clock, signed_request
from receiver.verification.cerebrium import sign
from tests.receiver.waiting import until

SECRET = "whsec_dGVzdC10ZXN0LXRlc3QtdGVzdC10ZXN0"
TOKEN = "t" * 20
BODY = b'{"run_id":"r","result":1}'


def settings(folder: Path, **more: object) -> Settings:
    fields = {"secrets": (SECRET,), "database_url": f"sqlite:///{folder}/inbox.db", **more}
    return Settings(**fields)  # type: ignore[arg-type]  # as each test wants it


@asynccontextmanager
async def serving(receiver: Receiver) -> AsyncIterator[httpx.AsyncClient]:
    transport = httpx.ASGITransport(app=receiver)
    async with receiver, httpx.AsyncClient(transport=transport, base_url="http://x") as http:
        yield http


def cerebrium(id: str, body: bytes = BODY) -> dict[str, str]:
    at_s = int(time.time())
    return {
        "X-Request-Id": id,
        "X-Cerebrium-Webhook-Timestamp": str(at_s),
        "X-Cerebrium-Webhook-Signature": sign(SECRET, id, at_s, body),
    }


async def test_a_locked_inbox_asks_cerebrium_to_come_back(tmp_path: Path) -> None:
    """It tries again after a 404 and after no 5xx: a 503 would lose the result. Others get 503."""
    receiver = Receiver(settings(tmp_path, dialect="cerebrium", lock_timeout=0.05))
    async with serving(receiver) as http:
        assert (await http.post("/webhooks", content=BODY, headers=cerebrium("a"))).is_success
        path = tmp_path / "inbox.db"
        with closing(sqlite3.connect(path, isolation_level=None)) as other:
            other.execute("BEGIN IMMEDIATE")
            refused = await http.post("/webhooks", content=BODY, headers=cerebrium("b"))
            other.execute("ROLLBACK")
        assert (refused.status_code, refused.json()["error"]) == (404, "UNAVAILABLE")
        assert refused.headers["retry-after"]
        assert (await http.post("/webhooks", content=BODY, headers=cerebrium("b"))).is_success


async def test_cerebriums_unsigned_results_are_taken_where_the_url_vouches(tmp_path: Path) -> None:
    """Its signature is switched on apart. The request id names the job, else its bytes do."""
    receiver = Receiver(settings(tmp_path, secrets=(), url_token=TOKEN, dialect="cerebrium"))
    handled: list[tuple[str, str, object]] = []
    receiver.on("completed")(
        lambda event: handled.append((event.job_id, event.status, event.output))
    )
    async with serving(receiver) as http:
        for headers in ({"X-Request-Id": "run-1"}, {"X-Request-Id": "run-1"}, {}):
            answer = await http.post(
                f"/webhooks?token={TOKEN}", content=b'{"smile":"wave"}', headers=headers
            )
            assert answer.status_code == 200, answer.text
        assert (await http.post("/webhooks", content=b"{}")).status_code == 401

        async def both() -> bool:
            return len(handled) == 2

        await until(both)
    assert handled[0] == ("run-1", "completed", {"smile": "wave"})
    assert handled[1][0].startswith("sha256:")


@pytest.mark.parametrize("first", ["webhook", "status"])
async def test_a_dead_end_is_armed_again_by_its_callback(tmp_path: Path, first: str) -> None:
    """However it was learned."""
    clock, works = Clock(), False
    receiver = Receiver(settings(tmp_path, handler_attempts=1), now_ms=clock)

    @receiver.on("completed")
    def handle(event: Event) -> None:
        if not works:
            raise RuntimeError

    async with Client(receiver, SECRET, clock=clock) as client:
        if first == "status":
            await receiver.inbox.receive(
                Message(
                    source="/webhooks",
                    message_id=None,
                    body=b'{"jobId":"job_1","status":"completed"}',
                    content_type=None,
                    kind="terminal",
                    job_id="job_1",
                    job_status="completed",
                    sent_ms=None,
                    received_ms=clock(),
                    via="status",
                    has_handler=True,
                )
            )
        else:
            await client.send({"jobId": "job_1", "status": "completed"}, message_id="m1")
        await client.idle()
        works = True
        payload = {"jobId": "job_1", "status": "completed"}
        if first == "status":
            payload["output"] = "1"
        assert await client.send(payload, message_id="m1") == "duplicate"
        await client.idle()
        (message,) = (await receiver.inbox.page()).messages
        assert message.state == "handled"


SPELLED = "succeeded success done finished error canceled CANCELED timed-out aborted complete OK"


@pytest.mark.parametrize("status", [*SPELLED.split(), "expired", "errored", "TIMED_OUT"])
async def test_an_end_is_an_end_however_it_is_spelled(tmp_path: Path, status: str) -> None:
    """It is handled, settles what is expected, and progress after it is late."""
    clock, handled = Clock(), []
    receiver = Receiver(settings(tmp_path), now_ms=clock)

    @receiver.on("completed", "failed", "cancelled", "timeout")
    def handle(event: Event) -> None:
        handled.append((event.is_final, event.sent_status))

    async with Client(receiver, SECRET, clock=clock) as client:
        await receiver.expect("job_1", "http://127.0.0.1:1/", by=timedelta(days=1))
        assert await client.send({"jobId": "job_1", "status": status}) == "accepted"
        assert await client.send({"jobId": "job_1", "status": "running"}) == "late"
        assert await client.send({"jobId": "job_1", "status": "failed", "n": 1}) == "conflict"
        await client.idle()
        assert handled == [(True, status)]
        (expected,) = await receiver.inbox.expectations(state=None, limit=9)
        assert expected.state == "known"


async def test_an_unknown_status_settles_nothing_and_is_shown(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """It goes to handlers of `unknown` or `*`, and an operator sees it."""
    clock, handled = Clock(), []
    receiver = Receiver(settings(tmp_path), now_ms=clock)
    receiver.on("completed")(lambda event: handled.append(("completed", event.status)))
    receiver.on("unknown")(lambda event: handled.append(("unknown", event.sent_status)))
    caplog.set_level(logging.WARNING)
    async with Client(receiver, SECRET, clock=clock) as client:
        await receiver.expect("job_1", "http://127.0.0.1:1/", by=timedelta(days=1))
        assert await client.send({"jobId": "job_1", "status": "who knows"}) == "accepted"
        assert await client.send({"jobId": "job_1", "status": "running"}) == "accepted"
        cut = b'{"jobId":"job_1","status":"fai'
        response = await client.post(cut, job=Job(id="job_1"))
        assert response.json() == {"status": "accepted"}
        await client.idle()
        (expected,) = await receiver.inbox.expectations(state=None, limit=9)
        assert expected.state == "expected"
    assert handled == [("unknown", "who knows"), ("unknown", "unknown")]
    assert sum("unknownStatus" in str(record.__dict__) for record in caplog.records) == 2


async def test_a_request_to_a_receiver_that_was_never_opened_is_a_500_that_says_why(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Mounted without its lifespan: the sender comes back, the host application sees no exception,
    and the log says what to do."""
    receiver = Receiver(settings(tmp_path))
    app = Starlette(routes=[Mount("/hooks", app=receiver)])
    body = b'{"jobId":"job_1","status":"completed"}'
    transport = httpx.ASGITransport(app=app)
    async with httpx.AsyncClient(transport=transport, base_url="http://x") as http:
        for path in ("/hooks/webhooks", "/hooks/readyz"):
            headers = signed_request(body, SECRET)
            answer = await http.post(path, content=body, headers=headers)
            assert (answer.status_code, answer.json()["error"]) == (500, "INTERNAL")
            assert answer.json()["requestId"] == answer.headers["x-request-id"]
    assert "lifespan" in str([record.__dict__ for record in caplog.records])
    with pytest.raises(RuntimeError, match="lifespan"):
        _ = receiver.inbox

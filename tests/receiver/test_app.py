"""app.py: what every request is answered, whatever it is made of."""

import asyncio
import json
import logging
import sqlite3
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any

import httpx
import pytest
from starlette.applications import Starlette
from starlette.routing import Mount

from receiver.app import Receiver, create_app
from receiver.base.completion import canonical
from receiver.base.log import JsonFormatter
from receiver.base.settings import SettingError
from receiver.inbox.sqlite.database import SqliteDatabase
from receiver.server import LOG_STYLE
from receiver.settings import Settings
from receiver.signature import Job, sign_sha256, signed_headers

SECRET = "whsec_dGVzdC10ZXN0LXRlc3QtdGVzdC10ZXN0"
BODY = b'{"jobId":"job_1","status":"completed"}'
ADMIN = {"Authorization": "Bearer test-admin-key-of-tests"}


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    return Settings(
        secrets=(SECRET,),
        database_url=f"sqlite:///{tmp_path}/receiver.db",
        admin_key="test-admin-key-of-tests",
        body_bytes_max=10_000,
        in_flight_bytes_max=20_000,
        request_timeout=0.2,
        lock_timeout=0.05,
    )


@pytest.fixture
async def app(settings: Settings) -> AsyncIterator[Receiver]:
    async with create_app(settings) as opened:
        yield opened


@pytest.fixture
async def http(app: Receiver) -> AsyncIterator[httpx.AsyncClient]:
    async with client(app) as made:
        yield made


def client(app: Any) -> httpx.AsyncClient:
    return httpx.AsyncClient(transport=httpx.ASGITransport(app=app), base_url="http://receiver")


def signed(body: bytes = BODY, id: str = "cb_1", at_s: int | None = None) -> dict[str, str]:
    return signed_headers(
        body, [SECRET], message_id=id, timestamp_s=int(time.time()) if at_s is None else at_s
    )


def check_error(answer: httpx.Response, status: int, code: str) -> dict[str, Any]:
    """The one shape of errors; returns its details."""
    document = answer.json()
    assert (answer.status_code, document["error"]) == (status, code)
    assert set(document) == {"error", "message", "details", "requestId"}
    assert document["requestId"] == answer.headers["x-request-id"]
    assert document["message"]
    details: dict[str, Any] = document["details"]
    return details


def rows(settings: Settings) -> int:
    with closing(sqlite3.connect(settings.database_url.removeprefix("sqlite:///"))) as db:
        return int(db.execute("SELECT count(*) FROM messages").fetchone()[0])


async def post(
    http: httpx.AsyncClient, body: bytes = BODY, *, encoding: str = "identity"
) -> httpx.Response:
    headers = {**signed(body), "Content-Encoding": encoding}
    return await http.post("/webhooks", content=body, headers=headers)


async def test_a_completion_is_answered_by_its_verdict(http: httpx.AsyncClient) -> None:
    """accepted, duplicate, conflict, late: all 200."""
    other, running = (b'{"jobId":"job_1","status":"%s"}' % s for s in (b"failed", b"running"))
    told = [
        (await http.post("/webhooks", content=body, headers=signed(body, id))).json()["status"]
        for body, id in ((BODY, "a"), (BODY, "a"), (BODY, "b"), (other, "c"), (running, "d"))
    ]
    assert told == ["accepted", "duplicate", "duplicate", "conflict", "late"]


async def test_fifty_copies_at_once_are_accepted_once(http: httpx.AsyncClient) -> None:
    """Exactly one accepted, forty-nine duplicates."""
    answers = await asyncio.gather(*(post(http) for _ in range(50)))
    assert Counter(a.json()["status"] for a in answers) == {"accepted": 1, "duplicate": 49}


async def test_a_founding_sender_with_sha256_alone_is_understood(http: httpx.AsyncClient) -> None:
    """JobId from the body, no id from anywhere; the same bytes under a signed id stay one."""
    headers = {"X-Webhook-Signature": sign_sha256(SECRET, BODY)}
    told = [
        (await http.post("/webhooks", content=BODY, headers=h)).json()["status"]
        for h in (headers, headers, signed())
    ]
    assert told == ["accepted", "duplicate", "duplicate"]


@pytest.mark.parametrize(
    ("headers", "reason"),
    [
        ({}, "missing"),
        ({"X-Webhook-Signature": "sha256=" + "0" * 64}, "mismatch"),
        ({"X-Webhook-Signature": "sha1=" + "0" * 40}, "malformed"),
        ({**signed(), "webhook-id": "cb_2"}, "mismatch"),
        (signed(at_s=1), "stale"),
        (signed(at_s=int(time.time()) + 3600), "stale"),
        (signed(BODY + b" "), "mismatch"),
        ({"webhook-id": "cb_1"}, "missing"),
    ],
)
async def test_an_unverified_request_writes_nothing(
    http: httpx.AsyncClient, settings: Settings, headers: dict[str, str], reason: str
) -> None:
    """401 with the reason, and not one row."""
    answer = await http.post("/webhooks", content=BODY, headers=headers)
    assert check_error(answer, 401, "SIGNATURE_INVALID") == {"reason": reason}
    assert rows(settings) == 0


async def test_a_flood_of_bad_signatures_costs_no_disk_write(
    app: Receiver, http: httpx.AsyncClient
) -> None:
    """Not one statement reaches the writing connection."""
    statements: list[str] = []
    database = app.inbox._database
    assert isinstance(database, SqliteDatabase)
    await database._file.write(lambda db: db.set_trace_callback(statements.append))
    forged = {**signed(), "webhook-id": "cb_2"}
    answers = await asyncio.gather(
        *(http.post("/webhooks", content=BODY, headers=forged) for _ in range(200))
    )
    assert {answer.status_code for answer in answers} == {401}
    assert statements == []
    assert (await post(http)).json() == {"status": "accepted"}
    assert "COMMIT" in statements


async def test_a_repeated_signature_header_is_refused(http: httpx.AsyncClient) -> None:
    """Also when both say the same."""
    value = sign_sha256(SECRET, BODY)
    pairs = [("X-Webhook-Signature", value), ("x-webhook-signature", value)]
    answer = await http.post("/webhooks", content=BODY, headers=pairs)
    assert check_error(answer, 401, "SIGNATURE_INVALID")["reason"] == "ambiguous"


async def test_the_signature_is_judged_before_the_body_is_read(http: httpx.AsyncClient) -> None:
    """Unsigned garbage is 401, never a parse error that would tell a stranger something."""
    for body in (b"", b"{", b"\xff", b"[" * 9000):
        answer = await http.post("/webhooks", content=body)
        assert check_error(answer, 401, "SIGNATURE_INVALID")["reason"] == "missing"


@pytest.mark.parametrize(
    ("body", "status", "code", "reason"),
    [
        (b'{"jobId":"a","jobId":"b"}', 400, "MALFORMED_JSON", "duplicate_key"),
        (b'{"jobId":"a","x":NaN}', 400, "MALFORMED_JSON", "number"),
        (b"[" * 9000, 400, "MALFORMED_JSON", "nesting"),
        (b'{"jobId":"a\\u0000"}', 400, "MALFORMED_JSON", "nul"),
        (b'{"jobId":7}', 422, "VALIDATION_ERROR", "job_id"),
        (b'{"jobId":null}', 422, "VALIDATION_ERROR", "job_id"),
        (b'{"status":"completed"}', 422, "VALIDATION_ERROR", "identity"),
    ],
)
async def test_a_signed_body_that_names_nothing_is_a_clean_4xx(
    http: httpx.AsyncClient, settings: Settings, body: bytes, status: int, code: str, reason: str
) -> None:
    """And writes nothing: nothing names it, where only its bytes are signed."""
    headers = {"X-Webhook-Signature": sign_sha256(SECRET, body)}
    answer = await http.post("/webhooks", content=body, headers=headers)
    assert check_error(answer, status, code)["reason"] == reason
    assert rows(settings) == 0


async def test_a_body_that_names_two_jobs_is_a_clean_4xx(
    http: httpx.AsyncClient, settings: Settings
) -> None:
    """A signed id does not say which of them is meant; signed headers do."""
    body = b'{"jobId":"a","jobId":"b","status":"failed"}'
    answer = await http.post("/webhooks", content=body, headers=signed(body))
    assert check_error(answer, 400, "MALFORMED_JSON")["reason"] == "duplicate_key"
    assert rows(settings) == 0
    named = signed_headers(
        body, [SECRET], message_id="cb_1", timestamp_s=int(time.time()), job=Job(id="b")
    )
    answer = await http.post("/webhooks", content=body, headers=named)
    assert answer.json() == {"status": "accepted"}


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"{",
        b"\xff",
        b'{"jobId":"a","x":NaN}',
        b"[" * 9000,
        b'{"jobId":"a\\u0000"}',
        b'{"jobId":7,"status":"who knows"}',
        b'{"jobId":"a","status":[]}',
        '{"jobId":"a","status":"failed"}'.encode("utf-16"),
    ],
)
async def test_a_message_that_names_itself_is_never_refused_for_its_body(
    app: Receiver, http: httpx.AsyncClient, body: bytes
) -> None:
    """By its signed id alone it is taken, and its status is unknown: it is no success."""
    answer = await http.post("/webhooks", content=body, headers=signed(body))
    assert answer.json() == {"status": "accepted"}
    (message,) = (await app.inbox.page()).messages
    assert (message.kind, canonical(message.job_status)) == ("opaque", "unknown")


@pytest.mark.parametrize("body", [b"", b"\x89PNG\xff", b"[1]", b'{"output":1}'])
async def test_a_body_without_a_job_needs_a_signed_id(http: httpx.AsyncClient, body: bytes) -> None:
    """With one it is a message of its own; with sha256= alone a clean 4xx."""
    told = [
        (await http.post("/webhooks", content=body, headers=signed(body, id))).json()["status"]
        for id in ("a", "a", "b")
    ]
    assert told == ["accepted", "duplicate", "accepted"]
    headers = {"X-Webhook-Signature": sign_sha256(SECRET, body)}
    answer = await http.post("/webhooks", content=body, headers=headers)
    assert answer.status_code in (400, 422)


async def test_require_standard_refuses_the_founding_scheme_alone(settings: Settings) -> None:
    """Stripped headers do not get past it."""
    async with create_app(replace(settings, require="standard")) as app, client(app) as http:
        headers = {"X-Webhook-Signature": sign_sha256(SECRET, BODY)}
        answer = await http.post("/webhooks", content=BODY, headers=headers)
        assert check_error(answer, 401, "SIGNATURE_INVALID")["reason"] == "missing"
        assert (await post(http)).json() == {"status": "accepted"}


async def test_too_large_a_body_is_413_declared_or_not(http: httpx.AsyncClient) -> None:
    """By its Content-Length, and while it streams; one byte less is let through."""

    async def stream() -> AsyncIterator[bytes]:
        for _ in range(11):
            yield b"x" * 1000

    for body in (b"x" * 10_001, stream()):
        answer = await http.post("/webhooks", content=body, headers=signed())
        assert check_error(answer, 413, "PAYLOAD_TOO_LARGE") == {"bytesMax": 10_000}
    fits = b'{"jobId":"job_1","x":"' + b"x" * (10_000 - 24) + b'"}'
    assert len(fits) == 10_000
    assert (await post(http, fits)).status_code == 200


async def test_a_huge_content_length_is_413(app: Receiver) -> None:
    """However many digits it has."""
    for length in (b"9" * 5000, b"10001"):
        sent = await call(app, [(b"content-length", length)], [{"type": "http.request"}])
        assert sent[0]["status"] == 413


async def call(
    app: Receiver, headers: list[tuple[bytes, bytes]], events: list[dict[str, Any]]
) -> list[dict[str, Any]]:
    """One raw ASGI call; after the last event the client is silent for ever."""
    sent: list[dict[str, Any]] = []

    async def receive() -> dict[str, Any]:
        if events:
            return events.pop(0)
        await asyncio.Event().wait()
        raise AssertionError

    async def send(event: Any) -> None:
        sent.append(event)

    scope = {"type": "http", "method": "POST", "path": "/webhooks", "headers": headers}
    await app(scope, receive, send)
    return sent


async def test_a_body_that_never_ends_is_408_and_the_connection_closed(app: Receiver) -> None:
    """Within the request timeout."""
    sent = await call(app, [], [{"type": "http.request", "body": b"{", "more_body": True}])
    assert sent[0]["status"] == 408
    assert (b"connection", b"close") in sent[0]["headers"]


async def test_a_client_that_leaves_is_answered_nothing(app: Receiver, settings: Settings) -> None:
    """Half a body is no message."""
    half = {"type": "http.request", "body": BODY[:9], "more_body": True}
    assert await call(app, [], [half, {"type": "http.disconnect"}]) == []
    assert rows(settings) == 0


async def test_bodies_in_flight_are_bounded_together(app: Receiver) -> None:
    """When the budget is used up, the next one is 503; when it is given back, all is well."""
    slow = [{"type": "http.request", "body": b"x" * 9_000, "more_body": True}]
    answers = await asyncio.gather(*(call(app, [], list(slow)) for _ in range(3)))
    assert sorted(sent[0]["status"] for sent in answers) == [408, 408, 503]
    async with client(app) as http:
        assert (await post(http)).json() == {"status": "accepted"}


@pytest.mark.parametrize("encoding", ["gzip", "br", "identity, gzip", "nonsense"])
async def test_compressed_bodies_are_415(http: httpx.AsyncClient, encoding: str) -> None:
    """A signature covers the bytes as sent; we unpack nothing."""
    answer = await post(http, encoding=encoding)
    check_error(answer, 415, "UNSUPPORTED_MEDIA_TYPE")
    assert (await post(http, encoding="identity")).status_code == 200


async def test_too_many_or_too_long_headers_are_431(http: httpx.AsyncClient) -> None:
    """Before anything else is looked at."""
    for headers in ({f"x-{n}": "1" for n in range(101)}, {"x-long": "x" * 99_000}):
        answer = await http.post("/webhooks", content=BODY, headers=headers)
        check_error(answer, 431, "HEADERS_TOO_LARGE")


@pytest.mark.parametrize(
    ("method", "path", "status", "allow"),
    [
        ("GET", "/webhooks", 405, "POST"),
        ("PUT", "/webhooks", 405, "POST"),
        ("POST", "/healthz", 405, "GET, HEAD"),
        ("DELETE", "/inbox", 405, "GET, HEAD"),
        ("POST", "/webhooks/", 404, None),
        ("POST", "/", 404, None),
        ("GET", "/inboxes", 404, None),
    ],
)
async def test_wrong_methods_and_paths(
    http: httpx.AsyncClient, method: str, path: str, status: int, allow: str | None
) -> None:
    """405 says what is allowed; 404 says nothing."""
    answer = await http.request(method, path, headers=ADMIN)
    check_error(answer, status, "METHOD_NOT_ALLOWED" if allow else "NOT_FOUND")
    assert answer.headers.get("allow") == allow


async def test_a_locked_store_is_503_and_recovers_by_itself(
    http: httpx.AsyncClient, settings: Settings
) -> None:
    """Retry-After and never a 2xx while it is down; ready again without a restart."""
    path = settings.database_url.removeprefix("sqlite:///")
    with closing(sqlite3.connect(path, isolation_level=None)) as other:
        other.execute("BEGIN IMMEDIATE")
        answer = await post(http)
        assert check_error(answer, 503, "UNAVAILABLE") == {"retryAfter": 5}
        assert answer.headers["retry-after"] == "5"
        assert (await http.get("/readyz")).status_code == 503
        assert (await http.get("/healthz")).json() == {"status": "ok"}
        other.execute("ROLLBACK")
    assert (await http.get("/readyz")).json() == {"status": "ready"}
    assert (await post(http)).json() == {"status": "accepted"}


async def test_a_bug_is_a_500_in_the_one_shape(
    app: Receiver, http: httpx.AsyncClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nothing of it is told to the caller; the log has it all."""

    async def broken(*_: object) -> None:
        raise RuntimeError("inner detail")

    monkeypatch.setattr("receiver.inbox.inbox.Inbox.receive", broken)
    answer = await post(http)
    check_error(answer, 500, "INTERNAL")
    assert "inner detail" not in answer.text


async def test_the_inbox_is_listed_and_shown_to_the_admin_key(http: httpx.AsyncClient) -> None:
    """In pages, with filters; the body only where one message is shown."""
    bodies = [b'{"jobId":"job_%d","status":"running","n":%d}' % (n % 2, n) for n in range(5)]
    for n, body in enumerate(bodies):
        await http.post("/webhooks", content=body, headers=signed(body, f"m{n}"))
    seen: list[str] = []
    query: dict[str, str] = {"jobId": "job_0", "limit": "2", "status": "accepted"}
    while True:
        page = (await http.get("/inbox", params=query, headers=ADMIN)).json()
        seen += [message["messageId"] for message in page["data"]]
        if page["nextCursor"] is None:
            break
        query["cursor"] = page["nextCursor"]
    assert seen == ["m4", "m2", "m0"]
    id = page["data"][-1]["id"]
    shown = (await http.get(f"/inbox/{id}", headers=ADMIN)).json()
    assert shown["body"].encode() == bodies[0]
    assert shown["receivedAt"].endswith("Z")
    assert (shown["status"], shown["jobStatus"]) == ("accepted", "running")


async def test_a_binary_body_is_shown_in_base64(http: httpx.AsyncClient) -> None:
    """Byte for byte, and not under the name of text."""
    await post(http, b"\xff\x00")
    shown = (await http.get("/inbox/1", headers=ADMIN)).json()
    assert shown["bodyBase64"] == "/wA="
    assert "body" not in shown


@pytest.mark.parametrize(
    "query",
    [
        "limit=0",
        "limit=501",
        "limit=x",
        "limit=٣",
        "limit=" + "9" * 5000,
        "cursor=",
        "cursor=-1",
        "cursor=abc",
        "status=duplicate",
        "order=asc",
        "jobId=a&jobId=b",
        "&".join(f"a{n}=1" for n in range(30)),
    ],
)
async def test_a_bad_query_is_422(http: httpx.AsyncClient, query: str) -> None:
    """Unknown, repeated and out of range: told, not ignored."""
    answer = await http.get(f"/inbox?{query}", headers=ADMIN)
    assert {"field", "value", "reason"} == set(check_error(answer, 422, "VALIDATION_ERROR"))


@pytest.mark.parametrize("id", ["0", "99", "x", "-1", "1/2", "9" * 30, "%31%00"])
async def test_an_unknown_message_is_404(http: httpx.AsyncClient, id: str) -> None:
    """Whatever its name is made of."""
    check_error(await http.get(f"/inbox/{id}", headers=ADMIN), 404, "NOT_FOUND")


@pytest.mark.parametrize(
    "value",
    [None, "", "Bearer", "Bearer x", "Basic test-admin-key-of-tests", "é"],
)
async def test_the_admin_routes_need_the_key(http: httpx.AsyncClient, value: str | None) -> None:
    """Every wrong one is 401, on every path under them."""
    headers = [] if value is None else [(b"authorization", value.encode("latin-1"))]
    for path in ("/inbox", "/inbox/1"):
        answer = await http.get(path, headers=headers)
        check_error(answer, 401, "UNAUTHORIZED")
        assert answer.headers["www-authenticate"] == "Bearer"


async def test_without_an_admin_key_there_are_no_admin_routes(settings: Settings) -> None:
    """They answer like any unknown path."""
    async with create_app(replace(settings, admin_key=None)) as app, client(app) as http:
        check_error(await http.get("/inbox", headers=ADMIN), 404, "NOT_FOUND")


async def test_it_can_be_mounted_in_a_customers_application(settings: Settings) -> None:
    """Under a prefix, opened by the outer application's lifespan."""
    async with create_app(settings) as app:
        outer = Starlette(routes=[Mount("/hooks", app=app)])
        answer = await client(outer).post("/hooks/webhooks", content=BODY, headers=signed())
        assert answer.json() == {"status": "accepted"}


async def test_its_own_lifespan_opens_and_closes_the_inbox(settings: Settings) -> None:
    """For servers that run it alone; a failure is told, not raised."""
    events: asyncio.Queue[dict[str, str]] = asyncio.Queue()
    sent: asyncio.Queue[dict[str, str]] = asyncio.Queue()

    def lifespan(app: Receiver) -> asyncio.Task[None]:
        send: Callable[[Any], Any] = sent.put
        return asyncio.create_task(app({"type": "lifespan"}, events.get, send))

    app = create_app(settings)
    running = lifespan(app)
    await events.put({"type": "lifespan.startup"})
    assert (await sent.get())["type"] == "lifespan.startup.complete"
    failing = lifespan(create_app(settings))
    await events.put({"type": "lifespan.startup"})
    failed = await sent.get()
    assert failed["type"] == "lifespan.startup.failed"
    assert "in use" in failed["message"]
    await failing
    await events.put({"type": "lifespan.shutdown"})
    assert (await sent.get())["type"] == "lifespan.shutdown.complete"
    await running


async def test_a_conflict_is_reported_above_the_daily_lines(
    http: httpx.AsyncClient, caplog: pytest.LogCaptureFixture
) -> None:
    """A second end of a job is a warning; probes are heard only when they fail."""
    with caplog.at_level(logging.INFO, "receiver"):
        for id, body in (("a", BODY), ("b", BODY.replace(b"completed", b"failed"))):
            await http.post("/webhooks", content=body, headers=signed(body, id))
        await http.get("/readyz")
    levels = [r.levelname for r in caplog.records if r.name == "receiver.http"]
    assert levels == ["INFO", "WARNING"]


def test_it_does_not_start_without_a_secret() -> None:
    """A receiver that can verify nothing is a mistake, not an open door."""
    with pytest.raises(SettingError, match="RECEIVER_SECRETS"):
        create_app(Settings())


async def test_one_line_per_request_without_bodies_or_secrets(
    http: httpx.AsyncClient, caplog: pytest.LogCaptureFixture
) -> None:
    """What came, what became of it; never what it said."""
    body = b'{"jobId":"job_1","status":"completed","output":"private words"}'
    with caplog.at_level(logging.DEBUG, "receiver"):
        await post(http, body)
        await http.post("/webhooks", content=body, headers={"X-Webhook-Signature": "sha256=bad"})
        await http.get("/inbox", headers=ADMIN)
    formatter = JsonFormatter(LOG_STYLE)
    lines = [
        formatter.format(record) for record in caplog.records if record.name == "receiver.http"
    ]
    first, second, third = (json.loads(line) for line in lines)
    assert (first["outcome"], first["jobId"], first["messageId"]) == ("accepted", "job_1", "cb_1")
    assert (second["status"], second["reason"]) == (401, "malformed")
    assert third["status"] == 200
    for secret in (
        "private words",
        SECRET,
        SECRET.removeprefix("whsec_"),
        "test-admin-key-of-tests",
        "v1,",
    ):
        assert secret not in "".join(lines)

"""Offers to upgrade on both halves, and under uvicorn as it comes: no body is lost or made a
request; one request has one answer. Then anything at all, on both halves' servers."""

import asyncio
import hashlib
import socket
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, nullcontext
from ipaddress import ip_network
from pathlib import Path
from random import Random
from typing import Literal

import httpx
import pytest
import uvicorn
from starlette.applications import Starlette
from starlette.routing import Mount

from dispatcher.app import Service
from dispatcher.settings import Settings as DispatcherSettings
from receiver import Receiver, Settings
from receiver.signature import signed_headers
from tests.base.wire import (
    H2C,
    OFFERS,
    pieces,
    request,
    statuses,
    strangely_framed,
    talk,
)
from tests.receiver.serving import served

SECRET = "whsec_dGVzdC10ZXN0LXRlc3QtdGVzdC10ZXN0"
KEY = "test-admin-key-of-tests"
CLOSE = "Connection: close\r\n"
SMUGGLED = request("/metrics")
RAW = "/v1/callbacks/raw?jobId={}&callbackUrl=http://127.0.0.1:9/parked"


@pytest.fixture
async def receiver(tmp_path: Path) -> AsyncIterator[Receiver]:
    settings = Settings(secrets=(SECRET,), database_url=f"sqlite:///{tmp_path}/r.db", admin_key=KEY)
    async with Receiver(settings) as running:
        yield running


@pytest.fixture
async def service(tmp_path: Path) -> AsyncIterator[Service]:
    settings = DispatcherSettings(
        database_url=f"sqlite:///{tmp_path}/d.db",
        admin_key=KEY,
        allow_networks=(ip_network("127.0.0.0/8"),),
        drain_grace=0.2,
    )
    async with Service(settings) as running:
        yield running


def body_of(job: str) -> bytes:
    return f'{{"jobId":"{job}","status":"completed"}}'.encode()


def signature(body: bytes) -> str:
    digest = hashlib.sha256(body).hexdigest()
    signed = signed_headers(body, [SECRET], message_id=digest, timestamp_s=int(time.time()))
    return "".join(f"{name}: {value}\r\n" for name, value in signed.items())


def delivery(job: str, headers: str = "", path: str = "/webhooks") -> bytes:
    body = body_of(job)
    return request(path, body, signature(body) + headers)


def bearer(more: str = "") -> str:
    return f"Authorization: Bearer {KEY}\r\nContent-Type: application/json\r\n{more}"


async def jobs(receiver: Receiver) -> list[str | None]:
    page = await receiver.inbox.page(limit=100)
    return [message.job_id for message in page.messages]


@pytest.mark.parametrize("offer", [H2C, *OFFERS])
async def test_a_signed_delivery_with_an_offer_is_stored(receiver: Receiver, offer: str) -> None:
    """200 in one packet and in two, and the next request on the connection is its own."""
    async with served(receiver) as url:
        for job, pause_s in (("one", 0.0), ("two", 0.05)):
            sent = delivery(job, offer)
            body = len(body_of(job))
            parts = (sent[:-body], sent[-body:], delivery(f"{job}-next", CLOSE))
            answers = await talk(url, *parts, pause_s=pause_s)
            assert [answer.document["status"] for answer in answers] == ["accepted", "accepted"]
    assert sorted(filter(None, await jobs(receiver))) == ["one", "one-next", "two", "two-next"]


@pytest.mark.parametrize("offer", ["", H2C, "Connection: Upgrade\r\nUpgrade: x\r\n"])
async def test_one_post_whose_body_is_a_request_has_one_answer(
    receiver: Receiver, service: Service, offer: str
) -> None:
    """401 to the POST, and the body is nobody's GET."""
    for app, path in ((receiver, "/webhooks"), (service.api, "/v1/callbacks")):
        async with served(app) as url:
            head = request(path, SMUGGLED, offer)[: -len(SMUGGLED)]
            answers = await talk(url, head, SMUGGLED, request("/x", headers=CLOSE), pause_s=0.05)
            assert statuses(answers) == [401, 404]


@pytest.mark.parametrize("offer", ["", H2C])
async def test_a_raw_callback_with_an_offer_keeps_its_body(service: Service, offer: str) -> None:
    """What is acknowledged is what was sent."""
    async with served(service.api) as url:
        sent = request(RAW.format("j"), b"hours of work", bearer(offer + CLOSE))
        (answer,) = await talk(url, sent)
        assert answer.status == 202
        assert await payload(url, answer.document["id"]) == b"hours of work"
        body = b'{"jobId":"k","callbackUrl":"http://127.0.0.1:9/x","payload":1}'
        sent = request("/v1/callbacks", body, bearer(offer + CLOSE))
        assert statuses(await talk(url, sent)) == [202]


async def payload(url: str, callback_id: str) -> bytes:
    sent = request(f"/v1/callbacks/{callback_id}/payload", headers=bearer(CLOSE))
    (answer,) = await talk(url, sent)
    assert answer.status == 200
    return answer.body


@asynccontextmanager
async def under_uvicorn(app: object, parser: Literal["httptools", "h11"]) -> AsyncIterator[str]:
    """The URL of an application under uvicorn as it comes."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        config = uvicorn.Config(app, http=parser, lifespan="off", log_config=None)  # type: ignore[arg-type]
        server = uvicorn.Server(config)
        server.capture_signals = nullcontext  # type: ignore[assignment,method-assign]
        running = asyncio.create_task(server.serve(sockets=[listener]))
        while not server.started:  # noqa: ASYNC110
            await asyncio.sleep(0.01)
        try:
            yield f"http://127.0.0.1:{listener.getsockname()[1]}"
        finally:
            server.should_exit = True
            await running


async def test_mounted_under_h11_an_offer_changes_nothing(receiver: Receiver) -> None:
    """As the README says."""
    async with under_uvicorn(Starlette(routes=[Mount("/hooks", receiver)]), "h11") as url:
        answers = await talk(
            url,
            delivery("one", H2C, "/hooks/webhooks"),
            delivery("two", CLOSE, "/hooks/webhooks"),
        )
        assert statuses(answers) == [200, 200]
    assert sorted(filter(None, await jobs(receiver))) == ["one", "two"]


@pytest.mark.parametrize("pause_s", [0, 0.1])
async def test_mounted_under_httptools_a_lost_body_is_refused(
    receiver: Receiver, pause_s: float
) -> None:
    """400, nothing stored; the connection is closed, so that the body is no request."""
    async with under_uvicorn(Starlette(routes=[Mount("/hooks", receiver)]), "httptools") as url:
        for length in (f"Content-Length: {len(SMUGGLED)}\r\n", "Transfer-Encoding: chunked\r\n"):
            for path, status in (("/hooks/webhooks", 400), ("/hooks/nowhere", 404)):
                head = f"POST {path} HTTP/1.1\r\nHost: r\r\n{signature(b'')}{length}{H2C}\r\n"
                (answer,) = await talk(url, head.encode(), SMUGGLED, pause_s=pause_s)
                assert (answer.status, answer.headers["connection"]) == (status, "close")
        (answer,) = await talk(url, delivery("one", CLOSE, "/hooks/webhooks"))
        assert answer.status == 200
    assert await jobs(receiver) == ["one"]


@pytest.mark.parametrize("declared", [b"0", b"5", b"007", b"8", b"99", b"6 "])
async def test_a_body_of_another_length_than_declared_is_never_taken(
    receiver: Receiver, service: Service, declared: bytes
) -> None:
    """Whatever server the applications run under, they compare."""
    body, right = b"abcdef", declared == b"6 "
    headers = {"Authorization": f"Bearer {KEY}", "Content-Length": declared.decode()}
    transport = httpx.ASGITransport(service.api)
    async with httpx.AsyncClient(transport=transport, base_url="http://d") as client:
        answer = await client.post(RAW.format("j"), content=body, headers=headers)
        assert answer.status_code == (202 if right else 400), answer.text
    body = body_of("one")
    headers = signed_headers(body, [SECRET], message_id="a", timestamp_s=int(time.time()))
    headers["Content-Length"] = f"{len(body)} " if right else declared.decode()
    transport = httpx.ASGITransport(receiver)
    async with httpx.AsyncClient(transport=transport, base_url="http://r") as client:
        answer = await client.post("/webhooks", content=body, headers=headers)
        assert answer.status_code == (200 if right else 400), answer.text
    assert await jobs(receiver) == ["one"] * right


@pytest.mark.parametrize("seed", range(8))
async def test_a_receiver_answers_whatever_is_sent_once_and_in_turn(
    receiver: Receiver, seed: int
) -> None:
    """Each delivery is stored with its status, however it is framed, cut and followed."""
    random = Random(seed)
    sent, expected = b"", []
    stored: list[str] = []
    for number in range(random.randrange(1, 15)):
        job = f"job_{number}"
        body = body_of(job)
        case = random.choice(["signed", "signed", "unsigned", "again", "nowhere"])
        if case == "signed" or (case == "again" and not stored):
            expected.append("accepted")
            stored.append(job)
        elif case == "again":
            body = body_of(random.choice(stored))
            expected.append("duplicate")
        else:
            body = random.choice([SMUGGLED, SMUGGLED * 9, b"", body])
            expected.append({"unsigned": "SIGNATURE_INVALID", "nowhere": "NOT_FOUND"}[case])
        headers = "" if case == "unsigned" else signature(body)
        path = "/nowhere" if case == "nowhere" else "/webhooks"
        sent += strangely_framed(random, path, body, headers)
    expected.append(random.choice(["ok", "MALFORMED_REQUEST"]))
    last = request("/healthz", headers=CLOSE)
    sent += last if expected[-1] == "ok" else b"\0nonsense\r\n\r\n" + last
    async with served(receiver) as url:
        answers = await talk(url, *pieces(random, sent), pause_s=random.choice([0, 0.001]))
    documents = [answer.document for answer in answers]
    assert [one.get("status") or one["error"] for one in documents] == expected
    assert sorted(filter(None, await jobs(receiver))) == sorted(stored)


@pytest.mark.parametrize("seed", range(8))
async def test_a_dispatcher_answers_whatever_is_sent_once_and_in_turn(
    service: Service, seed: int
) -> None:
    """Each answer names its request, and each 202 the bytes that were sent."""
    random = Random(seed)
    sent, expected = b"", []
    for number in range(random.randrange(1, 15)):
        body = random.choice([SMUGGLED, b"x", b"\r\n\r\n", b"y" * random.randrange(1, 100_000)])
        target, key, status = random.choice(
            [
                (RAW.format(f"job_{number}"), KEY, 202),
                (RAW.format(f"job_{number}"), KEY, 202),
                (RAW.format(f"job_{number}"), "wrong", 401),
                ("/v1/callbacks", KEY, 400),
                ("/v1%2fcallbacks", KEY, 404),
            ]
        )
        headers = f"{bearer().replace(KEY, key)}X-Request-Id: n{number}\r\n"
        sent += strangely_framed(random, target, body, headers)
        expected.append((f"n{number}", status, body))
        if status == 404:  # what has not arrived by then is not waited for
            break
    sent += request("/healthz", headers=CLOSE)
    async with served(service.api) as url:
        answers = await talk(url, *pieces(random, sent), pause_s=random.choice([0, 0.001]))
        assert len(answers) in (len(expected), len(expected) + 1)
        for answer, (name, status, body) in zip(answers, expected, strict=False):
            assert (answer.headers["x-request-id"], answer.status) == (name, status)
            if status == 202:
                assert await payload(url, answer.document["id"]) == body


@pytest.mark.parametrize("framing", ["Content-Length: 500\r\n", "Transfer-Encoding: chunked\r\n"])
@pytest.mark.parametrize("offer", ["", H2C])
async def test_a_body_that_ends_early_is_never_taken(
    receiver: Receiver, service: Service, framing: str, offer: str
) -> None:
    """The sender hangs up before its end: no answer says that it was taken, though what came of it
    is signed, or could be a callback."""
    body = body_of("one")
    chunk = b"%x\r\n%b\r\n" % (len(body), body) if "chunked" in framing else body
    targets = ((receiver, "/webhooks", signature(body)), (service.api, RAW.format("j"), bearer()))
    for app, path, headers in targets:
        async with served(app) as url:
            head = f"POST {path} HTTP/1.1\r\nHost: r\r\n{headers}{framing}{offer}\r\n"
            reader, writer = await asyncio.open_connection("127.0.0.1", int(url.split(":")[-1]))
            writer.write(head.encode() + chunk)
            writer.write_eof()
            assert b" 20" not in (await asyncio.wait_for(reader.read(), 30))[:20]
            writer.close()
    async with served(service.api) as url:
        (listing,) = await talk(url, request("/v1/callbacks", headers=bearer(CLOSE)))
    assert listing.document["data"] == []
    assert await jobs(receiver) == []

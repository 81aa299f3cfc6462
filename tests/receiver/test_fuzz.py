"""Whatever headers and bodies are made of: a clean 4xx, or a 200 for what was signed; never a 500,
and nothing written before it is verified."""

import json
import time
from pathlib import Path
from random import Random
from typing import Any

import pytest

from receiver import Receiver, Settings, Source
from receiver.signature import sign_sha256, signed_headers
from receiver.verification.cerebrium import sign

SECRET = "whsec_dGVzdC10ZXN0LXRlc3QtdGVzdC10ZXN0"
TOKEN = "test-token-test-token"
NAMES = [
    b"x-webhook-signature",
    b"x-webhook-signature-previous",
    b"webhook-id",
    b"webhook-timestamp",
    b"webhook-signature",
    b"x-request-id",
    b"x-cerebrium-webhook-timestamp",
    b"x-cerebrium-webhook-signature",
    b"content-length",
    b"content-encoding",
    b"content-type",
    b"authorization",
]
VALUES = [
    b"",
    b" ",
    b"sha256=",
    b"sha1=" + b"0" * 40,
    b"sha256=" + b"A" * 64,
    b"sha256=" + b"0" * 64 + b", sha256=" + b"0" * 64,
    b"v1,",
    b"v1," + b"A" * 43 + b"=",
    b"v1," + b"0" * 64,
    b"\xff\xfe",
    b"\xe2\x80\xae",
    b"-1",
    b"9" * 400,
    b"1e9",
    b"nan",
    b"identity",
    b"gzip",
    b"x" * 15_000,
    b"x" * 1_000_000,
    "é".encode(),
]
BODIES = [
    b"",
    b"null",
    b"[]",
    b'"x"',
    b"{",
    b"\x00" * 50,
    b"\x1f\x8b\x08\x00\x00",
    '{"jobId":"a","status":"completed"}'.encode("utf-16"),
    b'\xef\xbb\xbf{"jobId":"a"}',
    b'{"jobId":"a","jobId":"b"}',
    b'{"jobId":["a"]}',
    b'{"jobId":"%b"}' % (b"a" * 9000),
    b'{"jobId":"a","x":NaN}',
    b'{"jobId":"a","x":%b}' % (b"9" * 5000),
    b'{"jobId":"a","x":%b}' % (b"[" * 100_000),
    b'{"jobId":"a","x":"\\ud800"}',
    b'{"jobId":"a\\u0000","status":"completed"}',
    b'{"jobId":"a","status":{}}',
    b'{"jobId":"a","status":"completed"}',
    b'{"id":"a","status":"COMPLETED"}',
    b"x" * 2_000_000,
]


async def call(
    app: Receiver, path: str, headers: list[tuple[bytes, bytes]], chunks: list[bytes], query: bytes
) -> tuple[int, Any]:
    """One raw ASGI call: headers as no client library would send them, the body in chunks."""
    sent: list[Any] = []
    waiting = list(chunks)

    async def receive() -> dict[str, Any]:
        chunk = waiting.pop(0) if waiting else b""
        return {"type": "http.request", "body": chunk, "more_body": bool(waiting)}

    async def send(event: Any) -> None:
        sent.append(event)

    scope = {
        "type": "http",
        "method": "POST",
        "path": path,
        "headers": headers,
        "query_string": query,
    }
    await app(scope, receive, send)
    return int(sent[0]["status"]), json.loads(sent[1]["body"])


def signatures(random: Random, body: bytes) -> dict[str, str]:
    """Right ones, of one scheme, of both, or of Cerebrium's; or none."""
    at_s = int(time.time())
    ours = signed_headers(
        body, [SECRET], message_id=f"m{random.randrange(10**9)}", timestamp_s=at_s
    )
    cerebrium = {
        "x-request-id": "run-1",
        "x-cerebrium-webhook-timestamp": str(at_s),
        "x-cerebrium-webhook-signature": sign(SECRET, "run-1", at_s, body),
    }
    founding = {"x-webhook-signature": sign_sha256(SECRET, body)}
    return random.choice([ours, ours, founding, cerebrium, {}])


@pytest.mark.parametrize("seed", range(4))
async def test_any_request_is_answered_cleanly(tmp_path: Path, seed: int) -> None:
    """Right signatures with wrong headers beside, in place of and after them; any body."""
    random = Random(seed)
    sources = [Source(secrets=(SECRET,)), Source(path="/open", url_token=TOKEN, dialect="runpod")]
    settings = Settings(database_url=f"sqlite:///{tmp_path}/inbox.db", body_bytes_max=1_000_000)
    async with Receiver(settings, sources=sources) as app:
        for _ in range(300):
            body = random.choice(BODIES)
            good = signatures(random, body)
            headers = [(name.lower().encode(), value.encode()) for name, value in good.items()]
            strange = range(random.choice([0, 0, 1, 1, 3, 150]))
            headers += [(random.choice(NAMES), random.choice(VALUES)) for _ in strange]
            random.shuffle(headers)
            cut = random.randrange(len(body) + 1)
            path = random.choice(["/webhooks", "/open"])
            query = random.choice([b"", f"token={TOKEN}".encode(), b"token=\xff", b"&&=%"])
            before = (await app.inbox.page(limit=1)).messages
            status, document = await call(app, path, headers, [body[:cut], body[cut:]], query)
            assert status == 200 or 400 <= status < 500, (status, document)
            if status != 200:
                assert set(document) == {"error", "message", "details", "requestId"}
                assert (await app.inbox.page(limit=1)).messages == before

"""For a customer's own tests: requests signed exactly as the dispatcher signs them, a client that
posts them in process, and a clock that tests move by hand. A whole example, for pytest:

    import asyncio
    from datetime import timedelta

    from receiver import Job, Receiver, Settings
    from receiver.testing import Client, Clock

    SECRET = "whsec_dGVzdC10ZXN0LXRlc3QtdGVzdC10ZXN0"


    def shop(tmp_path, handle, clock):
        url = f"sqlite:///{tmp_path}/inbox.db"
        receiver = Receiver(Settings(secrets=(SECRET,), database_url=url), now_ms=clock)
        receiver.on("completed", "failed")(handle)
        return Client(receiver, SECRET, clock=clock)


    def test_a_completion_is_fulfilled_once(tmp_path):
        orders = []

        async def story():
            async with shop(tmp_path, lambda event: orders.append(event.job_id), Clock()) as client:
                done = {"jobId": "job_1", "status": "completed"}
                assert await client.send(done) == "accepted"
                assert await client.send(done) == "duplicate"
                assert await client.send({**done, "status": "failed"}) == "conflict"
                await client.idle()

        asyncio.run(story())
        assert orders == ["job_1"]


    def test_what_failed_is_tried_again_after_a_while(tmp_path):
        tries = []

        def handle(event):
            tries.append((event.job_id, event.attempt))
            if event.attempt == 1:
                raise ConnectionError("the shop's own database is away")

        async def story():
            async with shop(tmp_path, handle, Clock()) as client:
                await client.send({"pages": 50}, job=Job(id="job_2", status="completed"))
                await client.advance(timedelta(minutes=1))  # no test waits for it

        asyncio.run(story())
        assert tries == [("job_2", 1), ("job_2", 2)]


    def test_a_forged_request_is_refused(tmp_path):
        async def story():
            async with shop(tmp_path, lambda event: None, Clock()) as client:
                answer = await client.post(b"{}", headers={"X-Webhook-Signature": "sha256=00"})
                assert answer.status_code == 401

        asyncio.run(story())
"""

import asyncio
import itertools
import json
import os
import time
from datetime import timedelta
from typing import Any, Final, Self

import httpx

from receiver.app import Receiver
from receiver.signature import SHA256_HEADER, Job, signed_headers

_IDLE_NAP_S: Final = 0.005
IDLE_TIMEOUT_S: Final = 10.0
_EPOCH_MS: Final = 1_700_000_000_000

_numbers: Final = itertools.count()


class Clock:
    """Unix milliseconds that stand still until they are moved."""

    def __init__(self, now_ms: int = _EPOCH_MS) -> None:
        self._now_ms = now_ms

    def __call__(self) -> int:
        return self._now_ms

    def advance(self, by: timedelta) -> None:
        self._now_ms += round(by.total_seconds() * 1000)


def callback_id(now_ms: int) -> str:
    """Return an id such as the dispatcher makes: later ones sort after earlier ones."""
    return f"cb_{now_ms:012x}{next(_numbers):08x}{os.urandom(6).hex()}"


def signed_request(
    body: bytes,
    secret: str,
    *,
    previous_secret: str | None = None,
    message_id: str | None = None,
    timestamp_s: int | None = None,
    attempt: int = 1,
    sha256_header: str = SHA256_HEADER,
    job: Job | None = None,
) -> dict[str, str]:
    """Return the headers of a delivery of `body`, in both schemes. `previous_secret` signs beside
    the current one, as during a rotation; `timestamp_s` is Unix time, now where not given; `job`
    is named in signed headers, as the dispatcher does."""
    at_s = int(time.time()) if timestamp_s is None else timestamp_s
    signatures = signed_headers(
        body,
        [secret] if previous_secret is None else [secret, previous_secret],
        message_id=message_id or callback_id(at_s * 1000),
        timestamp_s=at_s,
        sha256_header=sha256_header,
        job=job,
    )
    return {
        "Content-Type": "application/json",
        "User-Agent": "Postback/test",
        "X-Postback-Attempt": str(attempt),
        **signatures,
    }


class Client:
    """Opens a receiver and posts to it in process: no port, no server. `async with` it."""

    def __init__(
        self,
        receiver: Receiver,
        secret: str,
        *,
        path: str | None = None,
        clock: Clock | None = None,
    ) -> None:
        """Post to the source at `path`, by default the first; `clock` is the receiver's own."""
        self.receiver = receiver
        self._secret = secret
        self._path = path or next(iter(receiver.sources))
        self._clock = clock
        self._http = httpx.AsyncClient(
            transport=httpx.ASGITransport(app=receiver), base_url="http://receiver"
        )

    async def __aenter__(self) -> Self:
        await self.receiver.__aenter__()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._http.aclose()
        await self.receiver.__aexit__()

    async def post(
        self,
        body: bytes,
        *,
        headers: dict[str, str] | None = None,
        message_id: str | None = None,
        job: Job | None = None,
    ) -> httpx.Response:
        """Post these bytes, signed unless `headers` are given; `job` as in `signed_request`."""
        if headers is None:
            at_s = self.receiver.now_ms() // 1000
            headers = signed_request(
                body, self._secret, message_id=message_id, timestamp_s=at_s, job=job
            )
        return await self._http.post(self._path, content=body, headers=headers)

    async def send(
        self, payload: Any, *, message_id: str | None = None, job: Job | None = None
    ) -> str:
        """Post a payload; return the verdict: accepted, duplicate, conflict or late. AssertionError
        when it is refused, with the receiver's message."""
        response = await self.post(json.dumps(payload).encode(), message_id=message_id, job=job)
        assert response.status_code == 200, f"{response.status_code}: {response.text}"  # noqa: S101 - for tests
        return str(response.json()["status"])

    async def advance(self, by: timedelta) -> None:
        """Finish what is due, move the clock, and wait until what came due by then is done."""
        if self._clock is None:
            raise ValueError("give the client the receiver's clock")
        await self.idle()
        self._clock.advance(by)
        self.receiver.wake()
        await self.idle()

    async def idle(self, timeout_s: float = IDLE_TIMEOUT_S) -> None:
        """Wait until no handler is at work and none is due, or raise TimeoutError."""
        async with asyncio.timeout(timeout_s):
            while not await self._is_idle():  # noqa: ASYNC110 - what is due is in the file alone
                await asyncio.sleep(_IDLE_NAP_S)

    async def _is_idle(self) -> bool:
        if not self.receiver.handlers:
            return True
        due_ms = await self.receiver.due_ms()
        return self.receiver.is_idle and (due_ms is None or due_ms > self.receiver.now_ms())

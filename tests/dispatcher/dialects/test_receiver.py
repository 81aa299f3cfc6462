"""What the gateway tells, in each dialect's shape, over the wire to our own receiver: each end of a
run is one event, handled once by the handler of its true status."""

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import pytest

from receiver import Event, Receiver, Settings, Source
from receiver.base.completion import parse
from tests.dispatcher.dialects.stage import Platform, platform
from tests.dispatcher.gateway.rig import SECRET
from tests.receiver.serving import served
from tests.receiver.waiting import until

CALLERS_SECRET: Final = "the-callers-own-secret-of-cerebrium"
STATUSES: Final = ("completed", "failed", "cancelled", "timeout", "running", "queued")
DIALECTS: Final = ("cerebrium", "runpod", "tensorone")
ANSWER: Final = {"smile": "wave", "n": [1.5, None]}


@dataclass(slots=True)
class Customer:
    """A receiver with a source for each dialect, and one that is left to guess; what it handled."""

    receiver: Receiver
    url: str = ""
    handled: list[tuple[str, Event]] = field(default_factory=list)

    def of(self, id: str) -> list[tuple[str, Event]]:
        """What was handled of a job."""
        return [one for one in self.handled if one[1].job_id == id]

    async def until_handled(self, id: str, count: int) -> list[tuple[str, Event]]:
        """What was handled of a job, once that is so much."""
        await until(lambda: len(self.of(id)) >= count)
        return self.of(id)

    async def verdicts(self) -> dict[str, int]:
        """How many messages are kept, by what they were found to be; and repeated ones."""
        page = await self.receiver.inbox.page(limit=500)
        counted: dict[str, int] = {}
        for message in page.messages:
            counted[message.verdict] = counted.get(message.verdict, 0) + 1
            counted["duplicate"] = counted.get("duplicate", 0) + message.duplicates
        return counted


@asynccontextmanager
async def customer(folder: Path) -> AsyncIterator[Customer]:
    """An open one."""
    sources = [
        Source(path="/hooks/cerebrium", secrets=(SECRET,), dialect="cerebrium"),
        Source(path="/hooks/runpod", secrets=(SECRET,), dialect="runpod"),
        Source(path="/hooks/tensorone", secrets=(SECRET,), dialect="tensorone"),
        Source(path="/hooks/auto", secrets=(SECRET,)),
        Source(path="/hooks/both", secrets=(SECRET, CALLERS_SECRET), dialect="cerebrium"),
        Source(path="/hooks/theirs", secrets=(CALLERS_SECRET,), dialect="cerebrium"),
    ]
    settings = Settings(secrets=(SECRET,), database_url=f"sqlite:///{folder}/inbox.db")
    made = Customer(Receiver(settings, sources=sources))
    for status in STATUSES:

        def handle(event: Event, status: str = status) -> None:
            made.handled.append((status, event))

        made.receiver.on(status)(handle)

    async with made.receiver, served(made.receiver) as made.url:
        yield made


@pytest.fixture
async def its(tmp_path: Path) -> AsyncIterator[Customer]:
    async with customer(tmp_path) as made:
        yield made


@pytest.fixture
async def at(tmp_path: Path) -> AsyncIterator[Platform]:
    """A platform with three apps: one that answers, one that is cut short, one that fails."""
    async with platform(f"sqlite:///{tmp_path}/jobs.db") as made:
        await made.world.endpoint(made.model.url, "app", attempts=1, delivery="at-most-once")
        await made.world.endpoint(made.model.url, "short", timeout=0.2)
        made.model.body = json.dumps(ANSWER).encode()
        yield made


async def submitted(
    at: Platform, dialect: str, hook: str, app: str = "app", secret: str | None = None
) -> str:
    """The id of a job, as its dialect spells it."""
    if dialect == "cerebrium":
        params = {"async": "true", "webhookEndpoint": hook}
        headers = {} if secret is None else {"X-Webhook-Secret": secret}
        taken = await at.api.post(f"/v4/p/{app}/run", json={}, params=params, headers=headers)
        name = "run_id"
    elif dialect == "runpod":
        taken = await at.api.post(f"/v2/{app}/run", json={"input": {}, "webhook": hook})
        name = "id"
    else:
        body = {"input": {}, "callbackUrl": hook}
        taken = await at.api.post(f"/v2/endpoints/{app}/runasync", json=body)
        name = "jobId"
    assert taken.is_success, taken.text
    id: str = taken.json()[name]
    return id


async def delivered(at: Platform, id: str, attempts: int = 1) -> dict[str, Any]:
    """The callback of a job's last run, once it is delivered in so many attempts."""
    shown: dict[str, Any] = {}

    async def is_delivered() -> bool:
        nonlocal shown
        shown = await at.callback(id)
        assert shown["status"] != "dead", shown
        return bool(shown["status"] == "delivered" and shown["attempts"] >= attempts)

    await until(is_delivered)
    assert shown["attempts"] == attempts
    return shown


@pytest.mark.parametrize("path", ["own", "auto"])
@pytest.mark.parametrize("dialect", DIALECTS)
async def test_each_shape_is_understood_and_handled_once(
    at: Platform, its: Customer, dialect: str, path: str
) -> None:
    """A 200 at the first attempt, and one call of the handler of the true status, with the job's id
    as its dialect spells it and its run; whether the source knows the dialect or not."""
    hook = f"{its.url}/hooks/{dialect if path == 'own' else 'auto'}"
    completed = await submitted(at, dialect, hook)
    [(status, event)] = await its.until_handled(completed, 1)
    assert (status, event.run, event.is_final) == ("completed", 1, True)
    assert event.output == ANSWER
    await delivered(at, completed)

    at.model.status, at.model.body = 500, b'{"detail":"out of memory"}'
    failed = await submitted(at, dialect, hook)
    [(status, event)] = await its.until_handled(failed, 1)
    assert (status, event.run) == ("failed", 1)
    if path == "own":
        assert event.error == {"detail": "out of memory"} or (
            json.loads(event.error) == {"detail": "out of memory"}
        )
    at.model.status = 200
    at.model.go.clear()
    late = await submitted(at, dialect, hook, "short")
    [(status, _)] = await its.until_handled(late, 1)
    assert status == "timeout"
    stopped = await submitted(at, dialect, hook)
    assert (await at.api.post(f"/v1/jobs/{stopped}/cancel")).status_code == 200
    [(status, _)] = await its.until_handled(stopped, 1)
    assert status == "cancelled"
    for id in (failed, late, stopped):
        await delivered(at, id)
    assert len(its.handled) == 4


@pytest.mark.parametrize("dialect", DIALECTS)
async def test_an_end_is_known_by_its_job_and_its_run(
    at: Platform, its: Customer, dialect: str
) -> None:
    """A replay of a callback is a duplicate, and handled by nobody; the end of the next run is an
    end of its own, also where it says the very same."""
    hook = f"{its.url}/hooks/{dialect}"
    at.model.status = 500
    id = await submitted(at, dialect, hook)
    await its.until_handled(id, 1)
    first = await delivered(at, id)
    assert (await at.api.post(f"/v1/callbacks/{first['id']}/replay")).status_code == 200
    assert (await delivered(at, id, 2))["id"] == first["id"]

    assert (await at.api.post(f"/v1/jobs/{id}/retry")).status_code == 200  # and fails again
    await its.until_handled(id, 2)
    second = await delivered(at, id)
    assert second["id"] != first["id"]
    at.model.status = 200
    assert (await at.api.post(f"/v1/jobs/{id}/retry")).status_code == 200
    handled = await its.until_handled(id, 3)
    assert [(status, event.run) for status, event in handled] == [
        ("failed", 1), ("failed", 2), ("completed", 3),
    ]  # fmt: skip
    await delivered(at, id)
    assert (await at.api.post(f"/v1/callbacks/{second['id']}/replay")).status_code == 200

    async def is_replayed() -> bool:
        shown = (await at.api.get(f"/v1/callbacks/{second['id']}")).json()
        return bool(shown["status"] == "delivered" and shown["attempts"] == 2)

    await until(is_replayed)
    assert len(its.of(id)) == 3
    verdicts = await its.verdicts()
    assert (verdicts["accepted"], verdicts["duplicate"]) == (3, 2)
    assert set(verdicts) == {"accepted", "duplicate"}


async def test_one_job_in_three_dialects_is_three_jobs(at: Platform, its: Customer) -> None:
    """Sources never meet, nor do ids: nothing of one hides another."""
    told = {one: await submitted(at, one, f"{its.url}/hooks/{one}") for one in DIALECTS}
    for dialect, id in told.items():
        [(_, event)] = await its.until_handled(id, 1)
        assert event.source == f"/hooks/{dialect}"


@pytest.mark.parametrize("path", ["both", "theirs"])
async def test_cerebriums_own_signature_is_verified(at: Platform, its: Customer, path: str) -> None:
    """On a real callback: beside our own signature, where the receiver has both secrets; and its
    own secret alone tells nothing of ours, which then cannot hold."""
    hook = f"{its.url}/hooks/{path}"
    id = await submitted(at, "cerebrium", hook, secret=CALLERS_SECRET)
    if path == "theirs":

        async def is_refused() -> bool:
            shown = await at.callback(id)
            return bool(shown["status"] == "dead")

        await until(is_refused)
        assert its.handled == []
        return
    [(status, event)] = await its.until_handled(id, 1)
    assert (status, event.job_id, event.output) == ("completed", id, ANSWER)
    await delivered(at, id)
    [message] = (await its.receiver.inbox.page(limit=5)).messages
    assert (message.job_id, message.run, message.platform) == (id, 1, "cerebrium")


async def test_a_wrong_secret_of_the_callers_is_refused(at: Platform, its: Customer) -> None:
    """Every signature that is there must hold."""
    hook = f"{its.url}/hooks/both"
    id = await submitted(at, "cerebrium", hook, secret="another-secret-than-is-expected")

    async def is_refused() -> bool:
        return bool((await at.callback(id))["status"] == "dead")

    await until(is_refused)
    assert its.handled == []


# Whatever an upstream may answer: (body, content type, status).
ANSWERS: Final = [
    (b"", "application/json", 200),
    (b"", "text/plain", 500),
    (b"null", "application/json", 200),
    (b'"text"', "application/json", 200),
    (b"[1, 2]", "application/json", 201),
    (b'{"status":"failed","jobId":"another"}', "application/json", 200),
    (b'{"status":"COMPLETED","id":"another"}', "application/json", 422),
    (b'{"id":7,"id":8,"status":{}}', "application/json", 200),
    (b'{"run_id":"another","result":null,"run_time_ms":"x"}', "application/json", 200),
    (b'{"error":{"error":"{}"}}', "application/json", 503),
    (b"\xef\xbb\xbf {} \r\n", "application/json", 200),
    (b'{"n":NaN,"m":1e400,"i":' + b"9" * 150 + b"}", "application/json", 200),
    (b'{"s":"a\\u0000b","half":"\\ud800"}', "application/json", 200),
    (b"[" * 100 + b"]" * 100, "application/json", 200),
    (b"[" * 62 + b"]" * 62, "application/json", 200),
    (b"\xff\xfe{\0}\0", "application/json; charset=utf-16", 200),
    ("gr\u00fc\u00df".encode("latin-1"), "text/plain; charset=iso-8859-1", 200),
    (b"\x89PNG\0", "image/png", 200),
    (b"<x>", "application/xml", 404),
    (b"\x1f\x8b\x08\0", "application/json", 200),
    (b'{"big":"' + b"x" * 400_000 + b'"}', "application/json", 200),
    (b"\0" * 5_000, "application/octet-stream", 500),
    (b"a\0b\x1f\x7f", "text/plain", 500),
    (b"plain", "x" * 100 + "/" + "y" * 100 + '; z="' + "q" * 40 + '"', 200),
]


@pytest.mark.parametrize("dialect", DIALECTS)
async def test_whatever_is_answered_202_is_told_and_answered_200(
    at: Platform, its: Customer, dialect: str
) -> None:
    """Whatever its upstream answers: the callback that tells it is acknowledged at the first
    attempt, and handled as what it is."""
    hook = f"{its.url}/hooks/{dialect}"
    expected: dict[str, tuple[str, bytes]] = {}
    for body, content_type, code in ANSWERS:
        at.model.body, at.model.status = body, code
        at.model.headers = {"Content-Type": content_type}
        before = len(at.model.calls)
        id = await submitted(at, dialect, hook)
        await at.model.reached(before + 1)
        await at.ended(id)
        expected[id] = ("completed" if 200 <= code < 300 else "failed", body)
    for id, (status, body) in expected.items():
        [(handled, event)] = await its.until_handled(id, 1)
        assert (handled, event.run) == (status, 1), body[:60]
        await delivered(at, id)
        if dialect == "cerebrium" and status == "completed":
            assert event.raw == body
            assert event.unread is not None or event.output == read(body)
    assert len(its.handled) == len(expected)
    verdicts = await its.verdicts()
    assert verdicts == {"accepted": len(expected), "duplicate": 0}


def read(body: bytes) -> Any:
    """What an event says of a body that everybody reads alike."""
    document = parse(body, depth_max=200)
    is_envelope = isinstance(document, dict) and {"run_id", "result"} <= set(document)
    return document["result"] if is_envelope else document


async def test_a_flood_is_told_once_each(at: Platform, its: Customer) -> None:
    """Many at once, of all dialects, to one receiver."""
    wanted = [DIALECTS[n % 3] for n in range(60)]
    told = await asyncio.gather(*(submitted(at, one, f"{its.url}/hooks/{one}") for one in wanted))
    await until(lambda: len(its.handled) >= len(told))
    assert sorted(event.job_id for _, event in its.handled) == sorted(told)

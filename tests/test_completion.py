"""What a completion is, in both halves: whatever the dispatcher takes, the receiver takes, and
hands to the handler of its true status."""

import asyncio
import json
from collections.abc import Coroutine, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from dispatcher import signing, wire
from dispatcher.api.json import decode, decoder
from dispatcher.api.submits import raw_submission
from dispatcher.intake import IntakeError, Submission, from_wire, new_callback
from dispatcher.settings import Settings as DispatcherSettings
from dispatcher.values import NewCallback
from receiver import Event, Receiver, Settings
from receiver.base.clock import now_ms
from receiver.base.completion import STATUSES
from receiver.base.http import Refusal
from receiver.signature import Job
from receiver.testing import Client, Clock

T = TypeVar("T")

SECRET = "whsec_dGVzdC10ZXN0LXRlc3QtdGVzdC10ZXN0"
URL = "https://example.com/hook"
DISPATCHER = DispatcherSettings()

SPELLINGS = {
    "completed": "completed COMPLETED succeeded success done finished complete OK",
    "failed": "failed FAILED error errored Failure crashed",
    "cancelled": "cancelled CANCELED canceled aborted",
    "timeout": "timeout TIMED_OUT timed-out expired",
    "running": "running IN_PROGRESS processing",
    "queued": "queued IN_QUEUE pending",
    "unknown": "who-knows 200 fertig läuft done! unknown",
}
STATED = [(word, true) for true, words in SPELLINGS.items() for word in words.split()]
# What a payload may state as its status, in JSON, and what that is.
IN_PAYLOAD: list[tuple[str | None, str]] = [
    (None, "completed"),
    ("null", "completed"),
    ('""', "completed"),
    ("7", "unknown"),
    ("true", "unknown"),
    ('{"a":1}', "unknown"),
    ('["completed"]', "unknown"),
    *((json.dumps(word), true) for word, true in STATED),
    (json.dumps("s" * 200), "unknown"),
    (json.dumps("s" * 201), "unknown"),
    ('"done\\u0000"', "unknown"),
]
# What results hold that one reader or another trips over.
HAZARDS = [
    '"n": 1e400',
    '"n": -1e999',
    '"n": ' + "9" * 150,
    '"n": ' + "9" * 5000,
    '"text": "a\\u0000b"',
    '"text": "\\ud83d\\ude00 \\u2028 \\u200d"',
    '"text": "\\ud800"',
    '"x": {"y": 1, "y": 2}',
    '"x": ' + "[" * 60 + "]" * 60,
    '"x": ' + "[" * 70 + "]" * 70,
    '"jobId": "another"',
    '"jobId": 7',
    '"jobId": null',
    '"id": "abc"',
    '"status": "failed"',
    '"jobId": "a", "jobId": "b"',
    '"output": {"status": "failed", "jobId": "inner"}',
]
JOB_IDS = (
    st.text(min_size=1, max_size=180)
    | st.text("\u200d\xa0\x85\u2028.~%+ /é作😀", min_size=1, max_size=180)
    | st.sampled_from(["job_1", "a b", " ", "..", "%2E", "\x7f", "a\0b", "\ud800"])
)
HEADERS = st.none() | st.dictionaries(
    st.from_regex(r"x-[a-z]{1,62}", fullmatch=True),
    st.just("v" * 2048) | st.text("abc é", max_size=9),
    max_size=16,
)


@dataclass
class Halves:
    """The receiver, and what its handlers were handed."""

    client: Client
    runner: asyncio.Runner
    handled: list[tuple[str, Event]] = field(default_factory=list)
    count: int = 0

    def run(self, work: Coroutine[Any, Any, T]) -> T:
        return self.runner.run(work)

    async def deliver(self, new: NewCallback) -> tuple[str, Event]:
        """Send what was taken as the dispatcher does; who handled it, and what he was handed."""
        self.handled.clear()
        signed = signing.headers(
            message_id=new.id,
            body=new.body,
            secrets=signing.Secrets(current=SECRET),
            job=Job(id=new.job_id, status=new.job_status, run=new.run),
            now_s=self.client.receiver.now_ms() // 1000,
        )
        headers = {**dict(new.headers), **dict(signed), "Content-Type": new.content_type}
        response = await self.client.post(new.body, headers=headers)
        assert (response.status_code, response.json()["status"]) == (200, "accepted"), response.text
        await self.client.idle()
        (handled,) = self.handled
        return handled


@pytest.fixture
def halves(tmp_path: Path) -> Iterator[Halves]:
    with opened(tmp_path) as both:
        yield both


@contextmanager
def opened(folder: Path) -> Iterator[Halves]:
    clock = Clock(now_ms())
    receiver = Receiver(
        Settings(secrets=(SECRET,), database_url=f"sqlite:///{folder}/inbox.db"), now_ms=clock
    )
    client = Client(receiver, SECRET, clock=clock)
    with asyncio.Runner() as runner:
        both = Halves(client, runner)
        for status in STATUSES:

            def handle(event: Event, status: str = status) -> None:
                both.handled.append((status, event))

            receiver.on(status)(handle)
        runner.run(client.__aenter__())
        yield both
        runner.run(client.__aexit__())


def taken(submission: Submission) -> NewCallback | None:
    """What is stored, or None for a clean refusal."""
    try:
        return new_callback(submission, "default", DISPATCHER, now_ms())
    except IntakeError:
        return None


def submitted(document: str) -> NewCallback | None:
    """What becomes of a submit's body."""
    try:
        body = document.encode("utf-8", "surrogatepass")
        shape = decode(decoder(wire.Submit), body, depth_max=DISPATCHER.json_depth_max)
        return taken(from_wire(shape, None))
    except IntakeError:
        return None
    except Refusal as refusal:
        if refusal.status >= 500:
            raise
        return None


BOUNDED = settings(
    max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)


@BOUNDED
@given(
    job_id=JOB_IDS,
    named=st.none() | st.sampled_from(STATED),
    stated=st.sampled_from(IN_PAYLOAD),
    hazards=st.lists(st.sampled_from(HAZARDS), max_size=3, unique=True),
    bare=st.none() | st.sampled_from(["7", "[1, 1e400]", '"text"', "null"]),
    headers=HEADERS,
    run=st.none() | st.integers(-1, 10**9),
)
def test_what_is_submitted_as_json_reaches_the_handler_of_its_true_status(
    halves: Halves,
    job_id: str,
    named: tuple[str, str] | None,
    stated: tuple[str | None, str],
    hazards: list[str],
    bare: str | None,
    headers: dict[str, str] | None,
    run: int | None,
) -> None:
    """Whatever the payload holds; the status that was named, else the payload's own."""
    halves.count += 1
    job_id = f"{job_id}:{halves.count}"
    raw_status, true = stated
    if '"status": "failed"' in hazards and raw_status is None:
        true = "failed"
    members = [*hazards, *([] if raw_status is None else [f'"status": {raw_status}'])]
    payload = "{" + ", ".join(members) + "}"
    if bare is not None:
        payload, true = bare, "completed"
    if named is not None:
        true = named[1]
    fields: dict[str, Any] = {"jobId": job_id, "callbackUrl": URL, "headers": headers}
    if named is not None:
        fields["jobStatus"] = named[0]
    if run is not None:
        fields["run"] = run
    document = json.dumps(fields)[:-1] + f', "payload": {payload}}}'
    new = submitted(document)
    if new is None:
        return
    handler, event = halves.run(halves.deliver(new))
    assert (handler, event.status, event.job_id) == (true, true, job_id)
    assert (event.run, event.raw) == (run or 1, payload.encode())


WAYS: dict[str, Any] = {
    "as it is": lambda text: text.encode(),
    "with a byte order mark": lambda text: b"\xef\xbb\xbf" + text.encode(),
    "cut": lambda text: text.encode()[:-1],
    "UTF-16": lambda text: text.encode("utf-16"),
    "UTF-16, without its mark": lambda text: text.encode("utf-16-be"),
    "Latin-1": lambda text: text.replace("}", ', "place": "Köln"}').encode("latin-1"),
    "twice": lambda text: (text + text).encode(),
}


@BOUNDED
@given(
    named=st.none() | st.sampled_from(STATED),
    stated=st.sampled_from([one for one in STATED if one[1] != "unknown"]),
    hazards=st.lists(st.sampled_from(HAZARDS[:10]), max_size=2, unique=True),
    way=st.sampled_from(sorted(WAYS)),
)
def test_what_is_submitted_raw_reaches_the_handler_of_its_true_status(
    halves: Halves,
    named: tuple[str, str] | None,
    stated: tuple[str, str],
    hazards: list[str],
    way: str,
) -> None:
    """However its bytes came out: of what cannot be read nothing is believed, least of all that it
    is a success."""
    halves.count += 1
    text = "{" + ", ".join([*hazards, f'"status": "{stated[0]}"']) + "}"
    body = WAYS[way](text)
    query = {"jobId": f"job {halves.count}", "callbackUrl": URL}
    if named is not None:
        query["jobStatus"] = named[0]
    content_type = "application/json"
    new = taken(raw_submission(query, content_type=content_type, body=body, key=None))
    assert new is not None
    handler, event = halves.run(halves.deliver(new))
    if named is not None:
        true = named[1]
    elif way in ("as it is", "with a byte order mark") and event.unread is None:
        true = stated[1]
    else:
        true = "unknown"
    assert (handler, event.job_id, event.raw) == (true, query["jobId"], body)
    if way == "as it is" and not hazards:
        assert event.unread is None


@BOUNDED
@given(body=st.binary(max_size=60), named=st.none() | st.sampled_from(STATED))
def test_any_bytes_are_a_completion_of_the_job_that_is_named(
    halves: Halves, body: bytes, named: tuple[str, str] | None
) -> None:
    """Bytes that are no object state no status."""
    halves.count += 1
    query = {"jobId": f"job {halves.count}", "callbackUrl": URL}
    if named is not None:
        query["jobStatus"] = named[0]
    new = taken(raw_submission(query, content_type="image/png", body=body, key=None))
    assert new is not None
    handler, event = halves.run(halves.deliver(new))
    is_object = b"{" in body[:20]
    if named is not None or not is_object:
        assert handler == (named[1] if named else "completed")
    assert event.raw == body


def test_ids_and_headers_at_their_limits_are_taken_by_both(halves: Halves) -> None:
    """200 characters of any kind; 16 headers of 2,048, of the callback and of its destination."""
    headers = {f"x-{'n' * 59}-{n:02}": "v" * 2048 for n in range(32)}
    for job_id in ("😀" * 200, "x" * 200, "." * 200):
        submission = Submission(
            job_id=job_id, body=b"{}", callback_url=URL, job_status="é" * 200, headers=None
        )
        new = taken(submission)
        assert new is not None
        object.__setattr__(new, "headers", tuple(headers.items()))
        assert halves.run(halves.deliver(new))[1].job_id == job_id
    assert taken(Submission(job_id="x" * 201, body=b"{}", callback_url=URL)) is None

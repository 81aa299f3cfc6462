"""The inbox's promises, on both stores: stored once, durable, and told by its verdict."""

import asyncio
import hashlib
from collections import Counter
from dataclasses import replace
from random import Random

import pytest

from receiver.inbox.inbox import Inbox, InboxUnavailable
from tests.receiver.inbox.messages import message
from tests.receiver.inbox.places import Place


async def test_fifty_copies_at_once_are_one_message(inbox: Inbox) -> None:
    """One is accepted, forty-nine are duplicates, and one row counts them."""
    verdicts = await asyncio.gather(*(inbox.receive(message(id="cb_1")) for _ in range(50)))
    assert Counter(verdicts) == {"accepted": 1, "duplicate": 49}
    (stored,) = (await inbox.page()).messages
    assert (stored.verdict, stored.duplicates) == ("accepted", 49)


async def test_fifty_different_ends_at_once_end_a_job_once(inbox: Inbox) -> None:
    """One is accepted; the others are kept beside it as conflicts."""
    ends = [message(id=f"cb_{n}", text=str(n)) for n in range(50)]
    verdicts = await asyncio.gather(*(inbox.receive(end) for end in ends))
    assert Counter(verdicts) == {"accepted": 1, "conflict": 49}
    assert len((await inbox.page(verdict="conflict", limit=100)).messages) == 49


async def test_the_verdicts_of_a_job_in_turn(inbox: Inbox) -> None:
    """Progress, its copy, the end, its copy under another id, another end, late progress."""
    story = [
        (message(status="running", id="m1"), "accepted"),
        (message(status="running", id="m1"), "duplicate"),
        (message(status="running", id="m2"), "accepted"),
        (message(status="running"), "duplicate"),
        (message(id="m3"), "accepted"),
        (message(id="m4"), "duplicate"),
        (message(), "duplicate"),
        (message(status="failed", id="m5"), "conflict"),
        (message(status="failed", id="m5"), "duplicate"),
        (message(id="m6", text="other bytes"), "conflict"),
        (message(status="running", id="m7"), "late"),
        (message(status="running", id="m1"), "duplicate"),
        (message(None, None, id="m8"), "accepted"),
        (message(None, None, id="m9"), "accepted"),
        (message(None, None, id="m9", text="x"), "conflict"),
        (message("job_2", id="m3"), "accepted"),
    ]
    assert [(m, await inbox.receive(m)) for m, _ in story] == story


async def test_two_sources_never_share_a_job(inbox: Inbox) -> None:
    """The same id from another platform is another job."""
    assert await inbox.receive(message(id="m1", source="/a")) == "accepted"
    assert await inbox.receive(message(id="m1", source="/b")) == "accepted"


async def test_two_jobs_with_the_same_result_are_two(inbox: Inbox) -> None:
    """A platform whose body is the bare result sends the same bytes for many jobs."""
    both = [replace(message(job, id=job), body=b'{"ok":true}') for job in ("run_1", "run_2")]
    assert [await inbox.receive(one) for one in both] == ["accepted", "accepted"]
    assert [await inbox.receive(one) for one in both] == ["duplicate", "duplicate"]


async def test_a_random_history_ends_every_job_once(inbox: Inbox) -> None:
    """Hundreds of concurrent messages: the rows agree with every answer."""
    random = Random(7)
    history = [
        message(
            f"job_{random.randrange(20)}",
            random.choice(["completed", "FAILED", None, "running", "queued"]),
            id=random.choice([None, f"m{random.randrange(100)}"]),
            text=str(random.randrange(2)),
        )
        for _ in range(600)
    ]
    verdicts = Counter(await asyncio.gather(*(inbox.receive(m) for m in history)))
    stored = (await inbox.page(limit=1000)).messages
    rows = Counter(one.verdict for one in stored)
    duplicates = sum(one.duplicates for one in stored)
    ends = Counter(
        one.job_id for one in stored if (one.kind, one.verdict) == ("terminal", "accepted")
    )
    assert {**rows, "duplicate": duplicates} == verdicts
    ended = {m.job_id for m in history if m.kind == "terminal"}
    assert ends == dict.fromkeys(ended, 1)


async def test_what_is_stored_is_shown_byte_for_byte(inbox: Inbox) -> None:
    """With its hash, its size and its times."""
    sent = replace(message(id="cb_1"), body=bytes(range(256)), sent_ms=1000)
    await inbox.receive(sent)
    (listed,) = (await inbox.page()).messages
    shown = await inbox.show(listed.id)
    assert shown is not None
    assert shown.body == sent.body
    assert shown.body_sha256 == hashlib.sha256(sent.body).digest()
    assert (shown.body_bytes, shown.sent_ms, shown.received_ms) == (256, 1000, sent.received_ms)
    hashed = None if shown.kid else shown.body_sha256  # a listing opens nothing
    assert listed == replace(shown, body=None, body_sha256=hashed)


async def test_pages_are_newest_first_and_complete(inbox: Inbox) -> None:
    """Every message once, however the pages are cut; filters cut first."""
    for n in range(7):
        await inbox.receive(message(f"job_{n % 2}", "running", id=f"m{n}"))
    below: int | None = None
    seen = []
    while True:
        page = await inbox.page(below=below, limit=2, job_id="job_0")
        seen += [m.message_id for m in page.messages]
        below = page.next_below
        if below is None:
            break
    assert seen == ["m6", "m4", "m2", "m0"]
    assert (await inbox.page(verdict="late")).messages == []
    assert (await inbox.page(job_id="\0\ud800")).messages == []
    for id in (0, -1, 99, 2**63, 10**30):
        assert await inbox.show(id) is None


async def test_everything_that_was_answered_survives_reopening(place: Place) -> None:
    """And is still a duplicate then."""
    first = await place.open()
    assert await first.receive(message(id="m1")) == "accepted"
    await first.close()
    second = await place.open()
    assert await second.receive(message(id="m1")) == "duplicate"
    await second.close()


async def test_a_bad_row_fails_alone(inbox: Inbox) -> None:
    """Its neighbours in the same commit are stored."""
    bad = replace(message("bad"), job_id="\ud800")
    sent = [message("a"), bad, message("b")]
    results = await asyncio.gather(*(inbox.receive(m) for m in sent), return_exceptions=True)
    assert [results[0], type(results[1]), results[2]] == [
        "accepted",
        UnicodeEncodeError,
        "accepted",
    ]
    assert len((await inbox.page()).messages) == 2


async def test_a_caller_that_goes_away_harms_no_other(inbox: Inbox) -> None:
    """Its message may be stored; the writer goes on."""
    tasks = [asyncio.create_task(inbox.receive(message(f"job_{n}"))) for n in range(20)]
    await asyncio.sleep(0)
    for task in tasks[::2]:
        task.cancel()
    results = await asyncio.gather(*tasks, return_exceptions=True)
    assert results[1::2] == ["accepted"] * 10


async def test_closing_commits_what_waits(place: Place) -> None:
    """Nobody who was let in is dropped at the door."""
    inbox = await place.open()
    waiting = [asyncio.create_task(inbox.receive(message(f"job_{n}"))) for n in range(10)]
    await asyncio.sleep(0)
    await inbox.close()
    assert await asyncio.gather(*waiting) == ["accepted"] * 10
    with pytest.raises(InboxUnavailable, match="closing"):
        await inbox.receive(message())

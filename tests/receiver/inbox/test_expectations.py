"""Jobs that are waited for, on both stores."""

import asyncio

from receiver.inbox.expectations import AskResult, Expectation, NewExpectation
from receiver.inbox.inbox import Inbox
from tests.receiver.inbox.messages import NOW_MS, message

UNTIL_MS = NOW_MS + 15_000


async def expect(inbox: Inbox, job_id: str = "job_1", ask_ms: int = NOW_MS) -> Expectation:
    new = NewExpectation(
        source="/webhooks",
        job_id=job_id,
        status_url="https://api.example/status",
        credentials=None,
        platform="auto",
        now_ms=NOW_MS,
        ask_ms=ask_ms,
    )
    return await inbox.expect(new)


async def take(inbox: Inbox, now_ms: int = NOW_MS, until_ms: int = UNTIL_MS) -> list[str]:
    taken, _ = await inbox.take_expected(now_ms=now_ms, until_ms=until_ms, limit=16)
    return [one.job_id for one in taken]


def result(ask_ms: int | None, **more: str | int) -> AskResult:
    given: dict[str, object] = {"source": "/webhooks", "job_id": "job_1", "now_ms": NOW_MS}
    return AskResult(**{**given, **more, "ask_ms": ask_ms})  # type: ignore[arg-type]  # as wanted


async def test_a_job_is_taken_by_one_who_asks(inbox: Inbox) -> None:
    """Nobody else asks until that time is over; then it is asked for again."""
    made = await expect(inbox)
    assert (made.state, made.ask_ms, made.asked) == ("expected", NOW_MS, 0)
    await expect(inbox, "job_2", NOW_MS + 1)
    both = await asyncio.gather(take(inbox), take(inbox))
    assert sorted(both) == [[], ["job_1"]]
    taken, next_ms = await inbox.take_expected(now_ms=NOW_MS, until_ms=0, limit=16)
    assert (taken, next_ms) == ([], NOW_MS + 1)
    assert sorted(await take(inbox, UNTIL_MS, UNTIL_MS + 1)) == ["job_1", "job_2"]


async def test_what_asking_led_to_is_kept(inbox: Inbox) -> None:
    """An answer, failures in a row, and the end of patience."""
    await expect(inbox)
    assert not await inbox.record_ask(result(NOW_MS + 1))
    failed = result(NOW_MS + 2, failing_since_ms=NOW_MS, error="no answer\0")
    assert not await inbox.record_ask(failed)
    (found,) = await inbox.expectations(state="expected", limit=10)
    assert (found.asked, found.ask_ms, found.failing_since_ms) == (2, NOW_MS + 2, NOW_MS)
    assert (found.last_error or "").startswith("no answer")
    assert await inbox.record_ask(result(None, failing_since_ms=NOW_MS, error="no answer"))
    assert (await inbox.backlog()).lost == 1
    assert await take(inbox, NOW_MS + 10) == []
    assert (await expect(inbox)).state == "expected"
    assert await inbox.expectations(state="lost", limit=10) == []


async def test_the_end_of_a_job_ends_the_waiting(inbox: Inbox) -> None:
    """Before it is expected or after; and asking changes nothing of it any more."""
    await expect(inbox)
    await inbox.receive(message(status="running"))
    assert (await inbox.backlog()).expected == 1
    await inbox.receive(message())
    (known,) = await inbox.expectations(state=None, limit=10)
    assert (known.state, known.ask_ms, known.settled_ms) == ("known", None, NOW_MS)
    assert not await inbox.record_ask(result(None, error="too late"))
    assert (await expect(inbox)).state == "known"
    await inbox.receive(message("job_2"))
    assert (await expect(inbox, "job_2")).state == "known"


async def test_settled_ones_are_forgotten_with_the_messages_of_their_time(inbox: Inbox) -> None:
    """Those that are waited for are not."""
    await expect(inbox)
    await expect(inbox, "job_2")
    await inbox.receive(message())
    await inbox.prune(bodies_before_ms=NOW_MS + 1, messages_before_ms=NOW_MS + 1)
    assert [one.job_id for one in await inbox.expectations(state=None, limit=10)] == ["job_2"]

"""Runs of a job, unknown statuses and ends learned by asking, on both stores."""

from receiver.inbox.attempts import Settlement
from receiver.inbox.inbox import Inbox
from receiver.inbox.message import Claimed, Message
from tests.receiver.inbox.messages import NOW_MS, message


def of(run: int | None, status: str = "completed", text: str = "", n: int = 0) -> Message:
    return message(
        status=status, text=text, run=run, id=f"m{run}{status}{text}{n}", has_handler=True
    )


async def claim(inbox: Inbox) -> list[Claimed]:
    return (await inbox.claim(now_ms=NOW_MS, limit=10)).claimed


async def settle(inbox: Inbox, claimed: Claimed, state: str = "handled") -> None:
    settled = Settlement(id=claimed.id, fence=claimed.fence, state=state, now_ms=NOW_MS)  # type: ignore[arg-type]  # a state
    assert await inbox.settle(settled)


async def ends(inbox: Inbox) -> list[tuple[int | None, str, str]]:
    page = await inbox.page(limit=50)
    return [(one.run, one.verdict, one.state) for one in reversed(page.messages)]


async def test_a_higher_run_replaces_the_end_of_a_lower_one(inbox: Inbox) -> None:
    """Each run's first end counts; one of a lower run that comes later is late."""
    told = [
        await inbox.receive(one)
        for one in (
            of(None),
            of(None, "failed"),
            of(2),
            of(2, n=1),
            of(2, "failed"),
            of(1, "cancelled"),
            of(1, "running"),
            of(3, "running"),
            of(3, "failed"),
            of(2, "running"),
            of(2, n=1),
        )
    ]
    assert told == [
        *("accepted", "conflict", "accepted", "duplicate", "conflict"),
        *("late", "late", "accepted", "accepted", "late", "duplicate"),
    ]


async def test_one_batch_is_judged_as_one_after_another(inbox: Inbox) -> None:
    """Two runs with the same bytes are two ends."""
    import asyncio

    told = await asyncio.gather(*(inbox.receive(of(run)) for run in (1, 2, 3, 2, 1)))
    assert told == ["accepted", "accepted", "accepted", "duplicate", "duplicate"]


async def test_the_same_message_is_the_same_however_its_run_is_signed(inbox: Inbox) -> None:
    """As when the sender learns to sign it between two tries."""
    first = message(id="m1", has_handler=True)
    assert await inbox.receive(first) == "accepted"
    assert await inbox.receive(message(id="m1", run=2, has_handler=True)) == "duplicate"


async def test_each_run_is_handled_and_a_lower_one_never_after_a_higher(inbox: Inbox) -> None:
    """What waits of lower runs is skipped with the end; what waits of higher ones goes on."""
    await inbox.receive(of(1))
    (first,) = await claim(inbox)
    assert (first.run, first.job_status) == (1, "completed")
    await settle(inbox, first)
    await inbox.receive(of(2, "running"))
    await inbox.receive(of(2, "failed"))
    (running,) = await claim(inbox)
    await settle(inbox, running)
    (second,) = await claim(inbox)
    assert (second.run, second.job_status) == (2, "failed")
    await inbox.receive(of(3, "running"))
    await settle(inbox, second)
    (third,) = await claim(inbox)
    assert third.run == 3
    await settle(inbox, third)
    assert [state for _, _, state in await ends(inbox)] == ["handled"] * 4


async def test_an_end_that_waits_is_skipped_once_a_higher_runs_end_is_handled(inbox: Inbox) -> None:
    """It would undo it."""
    await inbox.receive(of(1))
    (first,) = await claim(inbox)
    await inbox.receive(of(2))
    await inbox.settle(
        Settlement(
            id=first.id, fence=first.fence, state="pending", now_ms=NOW_MS, due_ms=NOW_MS + 1
        )
    )
    (second,) = await claim(inbox)
    await settle(inbox, second)
    assert await ends(inbox) == [(1, "accepted", "skipped"), (2, "accepted", "handled")]
    assert not await inbox.replay(first.id, NOW_MS)


async def test_an_unknown_status_is_neither_an_end_nor_progress(inbox: Inbox) -> None:
    """Never late, never skipped, and it ends nothing."""
    unknown = of(None, "who knows")
    assert (unknown.kind, await inbox.receive(unknown)) == ("opaque", "accepted")
    assert await inbox.receive(of(None)) == "accepted"
    (first,) = await claim(inbox)
    assert first.job_status == "who knows"
    assert await inbox.receive(of(None, "who knows", "again")) == "accepted"
    await settle(inbox, first, "dead")
    claimed = await claim(inbox)
    while claimed:
        for one in claimed:
            await settle(inbox, one)
        claimed = await claim(inbox)
    assert [state for _, _, state in await ends(inbox)] == ["dead", "handled", "handled"]
    assert await inbox.replay(first.id, NOW_MS)


async def test_an_end_learned_by_asking_comes_back_with_its_callback(inbox: Inbox) -> None:
    """Its handling is dead; the callback of the same end arms it again, and so does a replay."""
    asked = message(text="asked", via="status", has_handler=True)
    assert await inbox.receive(asked) == "accepted"
    for n in range(2):
        (claimed,) = await claim(inbox)
        await settle(inbox, claimed, "dead")
        assert await claim(inbox) == []
        callback = message(text="called", id="m1", run=1 if n else None, has_handler=True)
        assert await inbox.receive(callback) == "duplicate"
    (claimed,) = await claim(inbox)
    await settle(inbox, claimed)
    assert [state for _, _, state in await ends(inbox)] == ["handled"]

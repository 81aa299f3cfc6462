"""What becomes of a message once it is in, on both stores."""

import asyncio
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest

from receiver.inbox import retention
from receiver.inbox.attempts import CRASHED, Settlement
from receiver.inbox.inbox import Inbox
from receiver.inbox.message import Claimed, StoredMessage
from tests.receiver.inbox.messages import NOW_MS, message
from tests.receiver.inbox.places import Place


async def claim(inbox: Inbox, *, now_ms: int = NOW_MS, limit: int = 10) -> list[Claimed]:
    return (await inbox.claim(now_ms=now_ms, limit=limit)).claimed


def settlement(claimed: Claimed, state: str = "handled", **more: object) -> Settlement:
    given = {"id": claimed.id, "fence": claimed.fence, "state": state, "now_ms": NOW_MS}
    return Settlement(**{**given, **more})  # type: ignore[arg-type]  # as each test wants it


async def stored(inbox: Inbox, id: int) -> StoredMessage:
    found = await inbox.show(id)
    assert found is not None
    return found


async def test_a_message_with_a_handler_is_due_at_once_and_says_so(place: Place) -> None:
    """One that nobody wants is not, nor is a duplicate, a conflict or a late one."""
    told: list[str] = []
    inbox = await place.open(on_due=lambda: told.append("due"))
    await inbox.receive(message("a"))
    assert await claim(inbox) == []
    assert told == []
    await inbox.receive(message("b", has_handler=True, id="m1"))
    assert told == ["due"]
    for again in (message("b", has_handler=True), message("b", "failed", has_handler=True)):
        await inbox.receive(again)
    (claimed,) = await claim(inbox)
    assert (claimed.job_id, claimed.message_id, claimed.attempt) == ("b", "m1", 1)
    assert claimed.body == message("b").body
    assert told == ["due"]
    await inbox.close()


async def test_messages_of_one_job_take_turns(inbox: Inbox) -> None:
    """In the order of their times; other jobs do not wait for them."""
    for n in range(3):
        await inbox.receive(message("a", "running", text=str(n), has_handler=True))
    await inbox.receive(message("b", has_handler=True))
    first, other = await claim(inbox)
    assert (first.job_id, first.body, other.job_id) == ("a", b"a running 0", "b")
    assert await claim(inbox) == []
    assert await inbox.settle(settlement(first))
    (second,) = await claim(inbox)
    assert second.body == b"a running 1"


async def test_an_attempt_that_failed_comes_again_at_its_time(inbox: Inbox) -> None:
    """With its number and, to an operator, its traceback; which goes once it is handled."""
    await inbox.receive(message(has_handler=True))
    (first,) = await claim(inbox)
    later = NOW_MS + 1000
    await inbox.settle(settlement(first, "pending", due_ms=later, error="Traceback\0…\ud800"))
    turn = await inbox.claim(now_ms=NOW_MS, limit=10)
    assert (turn.claimed, turn.next_due_ms) == ([], later)
    assert "Traceback" in ((await stored(inbox, first.id)).error or "")
    (second,) = await claim(inbox, now_ms=later)
    assert second == replace(first, attempt=2, fence=2)
    await inbox.settle(settlement(second, now_ms=later))
    shown = await stored(inbox, first.id)
    assert (shown.state, shown.handled_ms, shown.error) == ("handled", later, None)


async def test_only_the_running_attempt_settles(inbox: Inbox) -> None:
    """One that was handed back, or settled already, changes nothing any more."""
    await inbox.receive(message(has_handler=True))
    (first,) = await claim(inbox)
    await inbox.settle(settlement(first, "pending", due_ms=NOW_MS))
    assert not await inbox.settle(settlement(first))
    (second,) = await claim(inbox)
    assert not await inbox.settle(settlement(first))
    assert (await stored(inbox, first.id)).state == "running"
    await inbox.hand_back(second.id, second.fence, NOW_MS, "completed")
    (third,) = await claim(inbox)
    assert (third.id, third.attempt) == (second.id, second.attempt)
    assert not await inbox.settle(settlement(second))
    assert await inbox.settle(settlement(third, "dead", error="no"))
    assert await inbox.replay(first.id, NOW_MS)
    (fourth,) = await claim(inbox)
    assert fourth.attempt == first.attempt
    assert not await inbox.settle(settlement(first))


async def test_the_handled_end_of_a_job_skips_what_waits_of_it(inbox: Inbox) -> None:
    """It would undo the end. A replay of it is refused for the same reason."""
    await inbox.receive(message(status="running", has_handler=True))
    await inbox.receive(message(status="queued", has_handler=True))
    (running,) = await claim(inbox)
    await inbox.settle(settlement(running, "dead", error="no"))
    await inbox.receive(message(has_handler=True))
    (queued,) = await claim(inbox, limit=1)
    await inbox.settle(settlement(queued, "pending", due_ms=NOW_MS + 5000))
    (end,) = await claim(inbox)
    assert end.job_status == "completed"
    await inbox.settle(settlement(end))
    assert (await stored(inbox, queued.id)).state == "skipped"
    assert not await inbox.replay(queued.id, NOW_MS)
    assert not await inbox.replay(running.id, NOW_MS)


async def test_a_dead_message_comes_back_by_replay_or_by_its_duplicate(place: Place) -> None:
    """And tells whoever handles."""
    told: list[str] = []
    inbox = await place.open(on_due=lambda: told.append("due"))
    await inbox.receive(message(has_handler=True))
    for back in (
        lambda id: inbox.replay(id, NOW_MS),
        lambda id: inbox.replay_all("dead", NOW_MS),
        lambda id: inbox.receive(message(has_handler=True)),
    ):
        (claimed,) = await claim(inbox)
        assert claimed.attempt == 1
        await inbox.settle(settlement(claimed, "dead", error="no"))
        assert (await inbox.backlog()).dead == 1
        assert await back(claimed.id)
    assert len(told) >= 3
    assert len(await claim(inbox)) == 1
    await inbox.close()


async def test_replaying_all_goes_through_every_slice(inbox: Inbox) -> None:
    """Those that cannot be replayed are passed over."""
    await asyncio.gather(*(inbox.receive(message(f"job_{n}")) for n in range(450)))
    await inbox.receive(message("job_1", "failed"))
    assert await inbox.replay_all("ignored", NOW_MS) == 450
    assert (await inbox.backlog()).pending == 450
    assert await inbox.due_ms() == NOW_MS
    with pytest.raises(ValueError, match="running"):
        await inbox.replay_all("running", NOW_MS)


async def test_the_later_runs_end_is_the_end(inbox: Inbox) -> None:
    """By the order of the signed ids, in whichever order they come; and in one batch too."""
    ids = [f"cb_{n:032x}" for n in range(4)]
    runs = [message(text=id, id=id, has_handler=True, latest=True) for id in ids]
    order = [runs[1], runs[0], runs[3], runs[2], runs[3]]
    verdicts = await asyncio.gather(*(inbox.receive(one) for one in order))
    assert verdicts == ["accepted", "conflict", "accepted", "conflict", "duplicate"]
    again = [await inbox.receive(message(text=ids[3], id="cb_" + "f" * 32, latest=True))]
    assert again == ["duplicate"]
    newer = message(text="x", id="cb_" + "e" * 32, latest=True)
    assert await inbox.receive(newer) == "conflict"


async def test_what_was_running_is_taken_back(place: Place) -> None:
    """When its process has ended; and is dead where that was its last attempt."""
    before = await place.open(lease_s=0)
    await before.receive(message("a", has_handler=True))
    await before.receive(message("b", has_handler=True))
    (first,) = await claim(before, limit=1)
    await before.settle(settlement(first, "pending", due_ms=NOW_MS))
    assert sorted(one.attempt for one in await claim(before)) == [1, 2]
    await before.close()
    after = await place.open()
    assert await after.recover(now_ms=NOW_MS, attempts_max=2) == 2
    backlog = await after.backlog()
    assert (backlog.pending, backlog.dead, backlog.running) == (1, 1, 0)
    assert (await stored(after, first.id)).error == CRASHED
    await after.close()


async def test_who_sends_waits_for_few_statements_of_retention(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A slice is a few of them, however many rows it has: each is a round trip on PostgreSQL."""
    inbox = await place.open()
    await asyncio.gather(*(inbox.receive(message(f"job_{n}")) for n in range(450)))
    done: list[int] = []

    def counted(slice: Callable[..., Any]) -> Callable[..., Any]:
        def act(tx: Any, **given: Any) -> Any:
            seen = Seen(tx)
            found = slice(seen, **given)
            done.append(seen.statements)
            return found

        return act

    for name in ("prune_bodies", "prune_messages"):
        monkeypatch.setattr(retention, name, counted(getattr(retention, name)))
    later = NOW_MS + 1
    assert await inbox.prune(bodies_before_ms=later, messages_before_ms=later) == (450, 450)
    assert len(done) >= 2 * 450 // retention.SLICE_ROWS
    assert max(done) <= 3
    await inbox.close()


class Seen:
    """A transaction whose statements are counted."""

    def __init__(self, tx: Any) -> None:
        self.tx = tx
        self.statements = 0

    def __getattr__(self, name: str) -> Any:
        self.statements += name in ("all", "one", "run", "many")
        return getattr(self.tx, name)


async def test_retention_takes_what_is_done_with(inbox: Inbox) -> None:
    """Bodies first, messages later; what waits or is dead stays, whatever its age."""
    await asyncio.gather(*(inbox.receive(message(f"job_{n}")) for n in range(450)))
    await inbox.receive(message("dead", has_handler=True))
    (claimed,) = await claim(inbox)
    await inbox.settle(settlement(claimed, "dead", error="no"))
    await inbox.receive(message("waits", has_handler=True))
    later = NOW_MS + 1
    assert await inbox.prune(bodies_before_ms=later, messages_before_ms=0) == (450, 0)
    (newest,) = (await inbox.page(job_id="job_7")).messages
    assert (await stored(inbox, newest.id)).body is None
    assert not await inbox.replay(newest.id, NOW_MS)
    assert await inbox.receive(message("job_7")) == "duplicate"
    assert await inbox.prune(bodies_before_ms=later, messages_before_ms=later) == (0, 450)
    assert {one.job_id for one in (await inbox.page()).messages} == {"dead", "waits"}
    assert await inbox.receive(message("job_7")) == "accepted"

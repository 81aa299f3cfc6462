"""What operators list keeps the receiver from nothing that it reads for its own work (I6)."""

import asyncio
from typing import Any

import pytest

from receiver.inbox import listing
from receiver.inbox.inbox import Inbox, InboxUnavailable
from tests.receiver.inbox.messages import message

LISTINGS = 300
SOON_S = 4.0  # less than a read's deadline
ENDLESS = "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n) SELECT max(i) FROM n"


async def test_i6_slow_listings_leave_the_receivers_own_reads_answered(
    inbox: Inbox, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And as many wait as may, the rest is refused at once; none goes on once nobody waits."""
    await inbox.receive(message("job_1"))
    began, loop = asyncio.Event(), asyncio.get_running_loop()

    def slow(tx: Any, **_named: object) -> Any:
        loop.call_soon_threadsafe(began.set)
        return tx.all(ENDLESS)

    with monkeypatch.context() as patched:
        patched.setattr(listing, "page", slow)
        listings = [asyncio.create_task(inbox.page()) for _ in range(LISTINGS)]
        async with asyncio.timeout(SOON_S):
            await began.wait()
            await inbox.check()
            assert await inbox.running() == []
            await inbox.due_ms()
            await inbox.clock_ms()
        refused = [one.exception() for one in listings if one.done()]
        assert len(refused) == LISTINGS - 1 - 256
        assert {type(one) for one in refused} == {InboxUnavailable}
        for one in listings:
            one.cancel()
        await asyncio.wait(listings)
    async with asyncio.timeout(SOON_S):
        assert len((await inbox.page()).messages) == 1

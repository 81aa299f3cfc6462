"""open_calls.py: what is looked at, and what is closed."""

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import Any

import pytest

from dispatcher.gateway.open_calls import OpenCalls, Running
from dispatcher.store.errors import StoreUnavailable
from receiver.base.clock import monotonic_ms, now_ms
from tests.dispatcher.upstreams import claimed, until


class Claims:
    """A store that says which claims are current; or does what it is told instead."""

    def __init__(self) -> None:
        self.current_ones: set[tuple[str, int]] = set()
        self.raises: Exception | None = None
        self.asked = 0

    async def current(self, claims: Sequence[tuple[str, int]]) -> set[tuple[str, int]]:
        self.asked += 1
        if self.raises is not None:
            raise self.raises
        return self.current_ones & set(claims)


@asynccontextmanager
async def calls(store: Claims) -> AsyncIterator[tuple[OpenCalls, Running]]:
    """Open calls of one job, whose call lasts until it is closed."""
    given: Any = store
    opened = OpenCalls(given, "a", now_ms, monotonic_ms, lease_ms=1_000)
    one = Running(claimed(), 0)
    one.task = asyncio.create_task(asyncio.Event().wait())  # type: ignore[arg-type]
    one.begun = True
    opened.add(one)
    yield opened, one
    one.task.cancel()
    await asyncio.wait({one.task})
    opened.remove(one)
    assert not opened.all()


async def test_a_call_is_closed_whose_claim_is_not_current() -> None:
    store = Claims()
    async with calls(store) as (opened, one):
        opened.on_ended([one.job.id])
        await until(lambda: one.closing == "cancelled")
        await until(lambda: not opened.looking)


async def test_news_of_jobs_that_do_not_run_here_asks_nothing() -> None:
    store = Claims()
    async with calls(store) as (opened, _):
        opened.on_ended(["another"])
        assert not opened.looking
        assert store.asked == 0


@pytest.mark.parametrize("error", [StoreUnavailable("test"), RuntimeError("test")])
async def test_a_look_that_fails_closes_nothing_and_is_told(
    error: Exception, capsys: pytest.CaptureFixture[str]
) -> None:
    """The next one, of a beat or of the sweeper, sees it."""
    store = Claims()
    store.raises = error
    seen: list[object] = []
    asyncio.get_running_loop().set_exception_handler(lambda _, context: seen.append(context))
    async with calls(store) as (opened, one):
        opened.on_ended([one.job.id])
        await until(lambda: store.asked == 1 and not opened.looking)
        assert one.closing is None
        store.raises = None
        opened.on_ended([one.job.id])
        await until(lambda: one.closing == "cancelled")
    assert not seen

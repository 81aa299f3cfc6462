"""A deadline for what a task awaits: as `asyncio.timeout`."""

import asyncio

import pytest

from receiver.base.deadline import Deadline


async def test_what_ends_in_time_has_no_deadline_any_more() -> None:
    with Deadline(30) as deadline:
        await asyncio.sleep(0)
    assert not deadline.expired
    with pytest.raises(KeyError), Deadline(30):
        raise KeyError


@pytest.mark.parametrize("seconds", [-1.0, 0.0, 0.001])
async def test_what_lasts_for_longer_is_ended(seconds: float) -> None:
    """And the task goes on."""
    deadline = Deadline(seconds)
    with pytest.raises(TimeoutError), deadline:
        await asyncio.Event().wait()
    assert deadline.expired
    task = asyncio.current_task()
    assert task is not None
    assert task.cancelling() == 0
    await asyncio.sleep(0)


async def test_who_cancels_the_task_gets_no_timeout() -> None:
    began = asyncio.Event()

    async def wait() -> None:
        with Deadline(30):
            began.set()
            await asyncio.Event().wait()

    task = asyncio.create_task(wait())
    await began.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task


async def test_who_cancels_the_task_at_the_deadline_is_heeded() -> None:
    began = asyncio.Event()

    async def wait() -> None:
        deadline = Deadline(0)
        with deadline:
            began.set()
            await asyncio.sleep(0)
            await asyncio.Event().wait()

    task = asyncio.create_task(wait())
    await began.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task


async def test_the_inner_of_two_ends_alone() -> None:
    with Deadline(30) as outer:
        with pytest.raises(TimeoutError), Deadline(0):
            await asyncio.Event().wait()
        await asyncio.sleep(0)
    assert not outer.expired


async def test_an_error_of_its_own_passes_though_the_time_was_over() -> None:
    async def fail() -> None:
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            raise KeyError from None

    with pytest.raises(KeyError), Deadline(0):
        await fail()
    task = asyncio.current_task()
    assert task is not None
    assert task.cancelling() == 0

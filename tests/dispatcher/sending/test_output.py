"""output.py: answers of thousands of calls in bounded memory, and none that starves."""

import asyncio
import tracemalloc
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dispatcher.sending.output import OutputBudget, OutputRoom
from tests.dispatcher.peers import OK, Peer, answer, answers, listening
from tests.dispatcher.upstreams import call, calling, until

_KIB = 1024
_MIB = 1024 * _KIB


async def waits(work: Any) -> bool:
    task = asyncio.ensure_future(work)
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    waiting = not task.done()
    if waiting:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
    return waiting


async def test_an_endpoint_has_half_of_what_the_others_leave() -> None:
    budget = OutputBudget(1_000)
    hog, other = OutputRoom(budget, "hog"), OutputRoom(budget, "other")
    assert budget.take(hog, 500)
    assert not budget.take(hog, 1)
    assert budget.take(other, 250)
    assert not budget.take(other, 1)
    budget.give_back(hog)
    assert budget.take(other, 100)
    assert budget.held == 350


async def test_calls_that_hold_a_part_and_wait_for_the_rest_get_on_one_after_another() -> None:
    budget = OutputBudget(1_000)
    rooms = [OutputRoom(budget, "ep") for _ in range(5)]
    for room in rooms:
        await room.take(100)
    tasks = [asyncio.create_task(room.take(400)) for room in rooms]
    ended = []
    for _ in rooms:
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        (first, *_) = [task for task in tasks if task.done() and task not in ended]
        ended.append(first)
        budget.give_back(rooms[tasks.index(first)])
    await asyncio.gather(*tasks)
    for room in rooms:
        budget.give_back(room)
    assert (budget.held, budget.waiting) == (0, 0)


async def test_one_that_waits_no_longer_leaves_no_trace() -> None:
    budget = OutputBudget(100)
    first, second = OutputRoom(budget, "a"), OutputRoom(budget, "a")
    assert budget.take(first, 50)
    await first.take(60)  # goes beyond
    assert first.is_beyond
    assert await waits(second.take(60))
    assert second.is_waiting
    assert budget.waiting == 0
    budget.give_back(first)
    await OutputRoom(budget, "a").take(50)


@settings(max_examples=100, deadline=None)
@given(steps=st.lists(st.tuples(st.integers(0, 5), st.integers(1, 60)), max_size=60))
def test_whatever_calls_take_all_of_them_get_on_and_nothing_is_lost(
    steps: list[tuple[int, int]],
) -> None:
    """Each of six calls of two endpoints takes its pieces one after another, and then ends."""

    async def run() -> None:
        budget = OutputBudget(100)
        pieces: dict[int, list[int]] = {}
        for number, size in steps:
            pieces.setdefault(number, []).append(size)

        async def read(number: int) -> None:
            with OutputRoom(budget, f"ep{number % 2}") as room:
                for size in pieces[number]:
                    await room.take(size)
                    await asyncio.sleep(0)
                    assert budget.held <= 100

        async with asyncio.timeout(10):
            await asyncio.gather(*map(read, pieces))
        assert (budget.held, budget.waiting) == (0, 0)
        assert budget.take(OutputRoom(budget, "ep0"), 50)

    asyncio.run(run())


async def test_only_a_few_go_beyond_the_budget() -> None:
    budget = OutputBudget(10)
    rooms = [OutputRoom(budget, f"ep{number}") for number in range(9)]
    for room in rooms[:8]:
        await room.take(_MIB)
    assert await waits(rooms[8].take(_MIB))


async def test_many_large_answers_at_once_stay_within_the_budget_and_all_come_home() -> None:
    """40 MiB of answers, 4 MiB of budget: upstreams wait, nothing fails."""

    async def streams(peer: Peer, reader: Any, writer: Any) -> None:
        while await peer.receive(reader) is not None:
            writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % _MIB)
            for _ in range(64):
                writer.write(b"x" * (_MIB // 64))
                await writer.drain()

    async with listening(streams) as peer, calling(output_bytes_max=4 * _MIB) as upstreams:
        held: list[int] = []

        async def work() -> int:
            with upstreams.room("ep") as room:
                outcome = await upstreams.call(call(peer.url, limit_s=60), room)
                held.append(upstreams.budget.held)
                await asyncio.sleep(0.01)  # it is being stored
                assert outcome.output is not None, outcome
                return len(outcome.output.body)

        tracemalloc.start()
        try:
            sizes = await asyncio.gather(*(work() for _ in range(40)))
            peak_bytes = tracemalloc.get_traced_memory()[1]
        finally:
            tracemalloc.stop()
        assert (upstreams.budget.held, upstreams.budget.waiting) == (0, 0)

    assert sizes == [_MIB] * 40
    assert max(held) <= 4 * _MIB
    # And for each what it has read and found no room for, and what its peer has buffered.
    assert peak_bytes < 12 * _MIB


async def test_one_that_finds_no_room_until_its_time_is_over_is_our_lack() -> None:
    """It has waited for us, not for its upstream."""
    raw = answer("200 OK", body=b"x" * 1_000)
    async with listening(answers(raw)) as peer, calling(output_bytes_max=1_000) as upstreams:
        hogs = [upstreams.room("ep") for _ in range(2)]
        await hogs[0].take(500)
        await hogs[1].take(500)  # goes beyond, and holds that
        outcome = await upstreams.call(call(peer.url, limit_s=0.3))
        for hog in hogs:
            upstreams.budget.give_back(hog)
        later = await upstreams.call(call(peer.url))

    assert (outcome.kind, outcome.lack, outcome.sent) == ("interrupted", "memory", True)
    assert outcome.status_code == 200
    assert later.kind == "answered"


async def test_an_endpoint_that_fills_its_share_keeps_no_other_waiting() -> None:
    """Upstreams that drip hold what they have sent, and no more."""

    async def stalls(peer: Peer, reader: Any, writer: Any) -> None:
        await peer.receive(reader)
        writer.write(b"HTTP/1.1 200 OK\r\n\r\n" + b"x" * 600 * _KIB)
        await writer.drain()
        await asyncio.Event().wait()

    async with (
        listening(stalls) as hostile,
        listening(answers(answer("200 OK", body=b"x" * 100 * _KIB))) as peer,
        calling(output_bytes_max=2 * _MIB) as upstreams,
    ):
        tasks = [
            asyncio.create_task(upstreams.call(call(hostile.url, endpoint="bad", limit_s=60)))
            for _ in range(20)
        ]
        await until(lambda: upstreams.budget.waiting >= 15)
        outcomes = [
            await upstreams.call(call(peer.url, endpoint="good", limit_s=10)) for _ in range(20)
        ]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks)
        assert (upstreams.budget.held, upstreams.budget.waiting) == (0, 0)

    assert {outcome.kind for outcome in outcomes} == {"answered"}


@pytest.mark.parametrize("once", [False, True])
async def test_a_small_answer_holds_nothing_once_its_call_returns(once: bool) -> None:
    async with listening(answers(OK)) as peer, calling() as upstreams:
        await upstreams.call(call(peer.url, once=once))
        assert upstreams.budget.held == 0
        with upstreams.room("ep") as room:
            await upstreams.call(call(peer.url, once=once), room)
            assert upstreams.budget.held == 2
        assert upstreams.budget.held == 0

"""One schedule for all filtered replays: fair between tenants, cheap however many wait."""

import asyncio
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dispatcher.engine.replayer import Fed, Pace, Replayer, Schedule, first_due_ms
from dispatcher.values import Replay
from receiver.base.clock import now_ms
from tests.dispatcher.engine.rig import rigged

MADE = Replay(
    id="rp_1", tenant="acme", filter="{}", rate_per_second=None, state="running",
    matched=9, replayed=0, skipped=0, created_ms=1_000_000, finished_ms=None,
)  # fmt: skip


def fed(n: int, tenant: str) -> Fed:
    return Fed(f"rp_{n}", tenant, Pace(None, 0), 0)


@given(
    added=st.lists(st.tuples(st.integers(0, 50), st.sampled_from("abc")), max_size=30),
    again=st.lists(st.integers(-1, 60), max_size=60),
)
def test_each_tenant_is_taken_once_at_a_time_and_nothing_is_lost(
    added: list[tuple[int, str]], again: list[int]
) -> None:
    """Against a plain list: the earliest of the tenants that are not held, and all in the end."""
    schedule, waiting, held = Schedule(), {}, {}
    for n, (due_ms, tenant) in enumerate(added):
        schedule.add(fed(n, tenant), due_ms)
        waiting[f"rp_{n}"] = (due_ms, tenant)
    for what in again:
        one = schedule.take(30)
        free = {
            id: due for id, (due, tenant) in waiting.items() if tenant not in held and due <= 30
        }
        assert (one is None) == (not free)
        if one is not None:
            assert free[one.id] == min(free.values())
            waiting.pop(one.id)
            held[one.tenant] = one
        if held and what % 2:
            tenant, back = held.popitem()
            if what < 0:
                schedule.drop(back)
            else:
                schedule.put_back(back, what)
                waiting[back.id] = (what, tenant)
    assert len(schedule) == len(waiting) + len(held)


def test_a_restart_keeps_a_replay_to_its_rate() -> None:
    """What is next is told by the rows that went since it was made; nothing is caught up."""

    def wait(rate: float | None, replayed: int, after_ms: int) -> float:
        replay = replace(MADE, rate_per_second=rate, replayed=replayed)
        return first_due_ms(replay, now_ms=MADE.created_ms + after_ms, at_ms=500) - 500

    assert wait(None, 5, 0) == 0
    assert wait(1.0, 0, 0) == 0
    assert wait(1.0, 3, 2_500) == 500
    assert wait(1.0, 3, 1_000_000) == 0
    assert wait(1e-6, 1, 1_000) == pytest.approx(1e9 - 1_000)
    assert wait(1.0, 30, -1_000_000_000) == 1_000, "whatever a clock says, no longer than one takes"


async def test_many_replays_that_wait_cost_next_to_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """30,000 that run at a row in eleven days, as an earlier version allowed (now it is one in 17
    minutes): taken up at once, in pages, and from then on the processor rests."""
    async with rigged(tmp_path, sweep_interval=0.05) as rig:
        made = now_ms() - 60_000
        rows = [
            (f"rp_{made + n:012x}0000", f"t{n % 1_500}", '{"status":"dead"}', 1e-6, made)
            for n in range(30_000)
        ]

        def insert(connection: Any) -> None:
            connection.executemany(
                "INSERT INTO replays (id, tenant, filter, rate, state, matched, replayed, "
                "created_ms) VALUES (?, ?, ?, ?, 'running', 9, 1, ?)",
                rows,
            )

        await rig.store._database._file.write(insert)  # type: ignore[attr-defined]  # SQLite's
        replayer = Replayer(rig.settings, rig.store)
        pages = 0
        read = rig.store.running_replays

        async def reading(**page: Any) -> Any:
            nonlocal pages
            pages += 1
            return await read(**page)

        fed = 0
        feed = rig.store.feed_replay

        async def feeding(*arguments: Any, **more: Any) -> Any:
            nonlocal fed
            fed += 1
            return await feed(*arguments, **more)

        monkeypatch.setattr(rig.store, "running_replays", reading)
        monkeypatch.setattr(rig.store, "feed_replay", feeding)
        replayer.start()
        try:
            async with asyncio.timeout(60):
                while len(replayer._schedule) < len(rows):  # noqa: ASYNC110 - nothing tells of it
                    await asyncio.sleep(0.01)
            assert 31 <= pages < 40
            pages = 0
            await asyncio.sleep(1)
        finally:
            await replayer.stop()
        # A look every 50 ms, of one page, in place of the 31 that all of them fill.
        assert pages <= 25
        assert fed == 0
        assert not any(replay.skipped for replay in await read())

"""Filtered replays: a fixed set, fed in small commits, resumable, and one tenant's only."""

import asyncio
from dataclasses import replace
from typing import Any

import pytest

from dispatcher.filters import Filter, parse
from dispatcher.store.errors import Conflict, NotFound
from dispatcher.store.requests import Retention
from dispatcher.values import Replay
from tests.dispatcher.store.builders import TENANT, URL, World, raises

FOREVER = 10**13
DEAD = Filter(status="dead")


async def dead(world: World, count: int, prefix: str = "old", **more: Any) -> list[str]:
    ids = [await world.ended(f"{prefix}-{n}", **more) for n in range(count)]
    world.tick()
    return ids


async def make(world: World, wanted: Filter = DEAD, tenant: str = TENANT) -> Replay:
    made = await world.store.make_replay(tenant, wanted, rate_per_second=None, now_ms=world.now_ms)
    world.tick()
    return made


async def feed(world: World, made: Replay, limit: int = 100) -> Replay:
    return await world.store.feed_replay(made.id, limit=limit, now_ms=world.now_ms)


async def feed_all(world: World, made: Replay, limit: int = 100) -> Replay:
    while made.state == "running":
        made = await feed(world, made, limit)
    return made


async def test_a_replay_makes_its_set_due_and_counts_it(world: World) -> None:
    ids = await dead(world, 5)
    made = await make(world)
    assert (made.state, made.matched, made.replayed, made.skipped) == ("running", 5, 0, 0)
    assert await world.states(ids) == ["dead"] * 5
    done = await feed_all(world, made, 2)
    assert (done.state, done.replayed, done.skipped) == ("done", 5, 0)
    assert done.finished_ms == world.now_ms
    assert await world.states(ids) == ["pending"] * 5
    found = await world.store.get_replay(TENANT, made.id)
    assert replace(found, outcomes=None) == done
    assert await world.store.running_replays() == []


async def test_a_set_that_no_look_sees_whole_is_walked_whole(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is counted as far as a few looks reach, and exactly once it was walked; what ends while it
    is walked is not in it."""
    for name in ("SCAN_MAX", "COVERED_MAX"):
        monkeypatch.setattr(f"dispatcher.store.search.{name}", 2)
    ids = [await world.ended(f"old-{n}", job_status="ab"[n % 5 == 1]) for n in range(20)]
    world.tick()
    wanted = Filter(status="dead", job_status="b")
    counted = await world.store.preview_replay(TENANT, wanted, sample=10)
    assert (counted.matched, counted.exact) == (1, False)
    assert [one.id for one in counted.sample] == [ids[16]]
    made = await make(world, wanted)
    assert (made.state, made.matched, made.matched_exactly) == ("running", 1, False)
    later = await world.ended("later", job_status="b")
    seen = [made]
    while seen[-1].state == "running":
        seen.append(await feed(world, made, 1))
    done = seen[-1]
    assert (done.state, done.matched, done.matched_exactly) == ("done", 4, True)
    assert (done.replayed, done.skipped) == (4, 0)
    assert all(one.matched >= one.replayed + one.skipped for one in seen)
    assert await world.states([*ids[1::5], later]) == ["pending"] * 4 + ["dead"]


async def test_a_set_of_which_no_look_shows_any_is_still_walked(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("SCAN_MAX", "COVERED_MAX"):
        monkeypatch.setattr(f"dispatcher.store.search.{name}", 1)
    wanted_id = await world.ended("first", job_status="b")
    await dead(world, 6)
    made = await make(world, Filter(status="dead", job_status="b"))
    assert (made.state, made.matched, made.matched_exactly) == ("running", 0, False)
    done = await feed_all(world, made)
    assert (done.matched, done.replayed) == (1, 1)
    assert await world.states([wanted_id]) == ["pending"]


async def test_many_are_counted_to_a_bound(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("dispatcher.store.replays.COUNTED_MAX", 3)
    await dead(world, 3)
    counted = await world.store.preview_replay(TENANT, DEAD, sample=2)
    assert (counted.matched, counted.exact, len(counted.sample)) == (3, True, 2)
    await dead(world, 1, "new")
    counted = await world.store.preview_replay(TENANT, DEAD, sample=2)
    assert (counted.matched, counted.exact, len(counted.sample)) == (3, False, 2)
    done = await feed_all(world, await make(world))
    assert (done.matched, done.matched_exactly, done.replayed) == (4, True, 4)


async def test_a_replay_that_matches_nothing_is_done_at_once(world: World) -> None:
    await world.submit()
    made = await make(world)
    assert (made.state, made.matched) == ("done", 0)
    assert made.finished_ms is not None


async def test_only_what_is_final_is_in_the_set(world: World) -> None:
    (old,) = await dead(world, 1)
    await world.submit("waiting", tags={"t": "1"})
    made = await make(world, Filter(destination=URL))
    assert made.matched == 1
    await feed_all(world, made)
    assert (await world.get(old)).state == "pending"


async def test_a_delivery_that_dies_later_is_not_in_the_set(world: World) -> None:
    await dead(world, 3)
    made = await make(world)
    later = await dead(world, 2, "later")
    done = await feed_all(world, made)
    assert (done.matched, done.replayed) == (3, 3)
    assert await world.states(later) == ["dead", "dead"]


async def test_a_delivery_is_replayed_once_even_if_it_dies_again_meanwhile(world: World) -> None:
    ids = await dead(world, 4)
    made = await make(world)
    await feed(world, made, 2)
    for one in await world.claim():
        await world.settle(one, "dead")
    done = await feed_all(world, made, 2)
    assert (done.replayed, done.skipped) == (4, 0)
    assert sorted(await world.states(ids)) == ["dead", "dead", "pending", "pending"]


async def test_what_left_the_set_on_its_own_is_skipped(world: World) -> None:
    ids = await dead(world, 3)
    made = await make(world)
    await world.store.replay(TENANT, ids[1], now_ms=world.now_ms)
    done = await feed_all(world, made)
    assert (done.matched, done.replayed, done.skipped) == (3, 2, 1)


async def test_what_has_no_payload_left_is_skipped(world: World) -> None:
    await dead(world, 2, "gone", state="delivered")
    keep = Retention(delivered_payload_ms=0, delivered_ms=FOREVER, dead_ms=FOREVER)
    await world.store.prune(keep, now_ms=world.now_ms, limit=10)
    kept = await dead(world, 1)
    done = await feed_all(world, await make(world, Filter(destination=URL)))
    assert (done.matched, done.replayed, done.skipped) == (3, 1, 2)
    assert await world.states(kept) == ["pending"]


async def test_what_is_for_a_disabled_destination_is_skipped(world: World) -> None:
    await dead(world, 2)
    await world.change(disabled_reason="test")
    done = await feed_all(world, await make(world))
    assert (done.replayed, done.skipped) == (0, 2)


async def test_cursor_and_rows_move_together_and_survive_a_restart(world: World) -> None:
    ids = await dead(world, 7)
    made = await make(world)
    half = await feed(world, made, 3)
    assert half.replayed == 3
    await world.reopen()
    (found,) = await world.store.running_replays()
    assert found == half
    assert sorted(await world.states(ids)) == ["dead"] * 4 + ["pending"] * 3
    done = await feed_all(world, found, 3)
    assert (done.replayed, done.skipped) == (7, 0)


async def test_two_feeders_do_not_feed_the_same_rows(world: World) -> None:
    await dead(world, 6)
    made = await make(world)
    await asyncio.gather(*(feed(world, made, 2) for _ in range(3)))
    done = await feed_all(world, made, 2)
    assert (done.replayed, done.skipped) == (6, 0)


async def test_cancelling_stops_the_feeding_and_keeps_what_was_fed(world: World) -> None:
    ids = await dead(world, 4)
    made = await make(world)
    await feed(world, made, 1)
    stopped = await world.store.cancel_replay(TENANT, made.id, now_ms=world.now_ms)
    assert (stopped.state, stopped.finished_ms) == ("cancelled", world.now_ms)
    after = await feed(world, made, 10)
    assert (after.state, after.replayed) == ("cancelled", 1)
    assert sorted(await world.states(ids)) == ["dead", "dead", "dead", "pending"]
    assert await world.store.running_replays() == []
    again = await world.store.cancel_replay(TENANT, made.id, now_ms=world.tick())
    assert again == stopped


async def test_a_replay_that_is_done_cannot_be_cancelled(world: World) -> None:
    await dead(world, 1)
    done = await feed_all(world, await make(world))
    await raises(Conflict, world.store.cancel_replay(TENANT, done.id, now_ms=world.now_ms))


async def test_a_replay_never_touches_another_tenants_callbacks(world: World) -> None:
    """I9: not with the same job ids, tags and URLs either."""
    mine = await dead(world, 2, tags={"t": "1"})
    theirs = await dead(world, 2, tags={"t": "1"}, tenant="other")
    made = await make(world, Filter(tags=(("t", "1"),)))
    assert made.matched == 2
    await feed_all(world, made)
    assert await world.states(mine) == ["pending"] * 2
    assert await world.states(theirs, "other") == ["dead"] * 2


async def test_another_tenants_replay_is_as_unknown_as_none(world: World) -> None:
    await dead(world, 1)
    made = await make(world)
    for unknown in (made.id, "rp_unknown"):
        await raises(NotFound, world.store.get_replay("other", unknown))
        await raises(NotFound, world.store.cancel_replay("other", unknown, now_ms=world.now_ms))
    assert (await world.store.get_replay(TENANT, made.id)).state == "running"


@pytest.mark.parametrize(
    "wanted",
    [
        {"status": "dead", "tag.team": "a"},
        {"tag.team": "a", "tag.env": "prod"},
        {"jobStatus": "failed", "priority": "high"},
        {"error": "http_404"},
        {"destination": URL},
        {"jobId": "old-1"},
        {"since": "2020-01-01T00:00:00Z", "until": "2100-01-01T00:00:00Z"},
    ],
    ids="+".join,
)
async def test_a_replay_takes_what_the_listing_shows(world: World, wanted: dict[str, str]) -> None:
    """The filter's keys are the listing's, and it is kept as it was given."""
    for n in range(4):
        await world.ended(
            f"old-{n}",
            tags={"team": "ab"[n % 2], "env": "prod"},
            priority="high" if n < 3 else "normal",
            job_status="failed" if n else "completed",
        )
    world.tick()
    listed = await world.store.search(TENANT, parse(wanted), after=None, limit=100)
    counted = await world.store.preview_replay(TENANT, parse(wanted), sample=100)
    made = await make(world, parse(wanted))
    assert made.matched == counted.matched == len(listed.callbacks) > 0
    assert {one.id for one in counted.sample} == {one.id for one in listed.callbacks}
    done = await feed_all(world, made, 1)
    assert done.replayed == counted.matched
    assert {one.id for one in await world.claim()} == {one.id for one in counted.sample}


async def test_a_preview_shows_only_what_a_replay_would_take(world: World) -> None:
    ids = await dead(world, 2)
    await world.many(5, "waiting")
    counted = await world.store.preview_replay(TENANT, Filter(destination=URL), sample=3)
    assert counted.matched == 2
    assert {one.id for one in counted.sample} == set(ids)
    assert await world.states(ids) == ["dead", "dead"]


async def test_a_circuit_that_was_open_before_is_cleared_once(world: World) -> None:
    """The operator believes the destination to be repaired; if it is not, it opens again."""
    await dead(world, 2)
    await world.many(1, "probe")
    for _ in range(20):
        world.tick(3_200)
        await world.settle(await world.one(), "pending", kind="unreachable")
    assert (await world.destination()).circuit_open
    made = await make(world)
    await feed(world, made, 1)
    assert not (await world.destination()).circuit_open

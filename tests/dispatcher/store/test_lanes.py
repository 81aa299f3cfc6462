"""Destinations and lanes are two things (D5): a server has few lanes and one bound on what is in
flight to it, however many URLs it has; what fails before it reaches a path counts for it."""

import asyncio
import os
from collections import Counter
from pathlib import Path
from typing import Any, Final

import pytest

from dispatcher.health import CIRCUIT_FAILURES, CIRCUIT_SPAN_MS
from dispatcher.ids import LANES, lane_id
from dispatcher.store.errors import DestinationDisabled
from tests.dispatcher.store.builders import LOOKERS, SERVER, TENANT, URL, World, raises
from tests.dispatcher.store.conftest import Build

SCALE: Final = float(os.environ.get("POSTBACK_TEST_SCALE", "1"))
# Between failures, so that as many as open a circuit take long enough to.
STEP_MS: Final = CIRCUIT_SPAN_MS // (CIRCUIT_FAILURES - 1) + 1
OTHER: Final = "http://other.test/hook"


def apart(count: int) -> list[str]:
    """URLs of one server, each with a lane of its own."""
    found: dict[str, str] = {}
    for n in range(1_000):
        url = f"{SERVER}/path-{n}"
        found.setdefault(lane_id(TENANT, url), url)
    return list(found.values())[:count]


async def test_as_many_paths_as_there_are_jobs_are_few_lanes_and_one_destination(
    build: Build, store_name: str, tmp_path: Path
) -> None:
    """3,000 callbacks with 3,000 paths to one dead server: what is in flight to it stays within one
    destination's concurrency, and another server is served at once."""
    world = await build()
    for n in range(3_000 if store_name == "sqlite" else 500):
        await world.submit(f"job-{n}", url=f"{SERVER}/jobs/{n}?token={n}")
    folder = tmp_path / "0"
    (lanes,) = LOOKERS[store_name](folder, "SELECT count(*) FROM lanes")[0]
    assert lanes <= LANES
    found, _ = await world.store.destinations(TENANT, after=None, limit=100)
    assert [one.url for one in found] == [SERVER]
    taken = [one for _ in range(20) for one in await world.claim(100)]
    assert len(taken) == 64
    await world.submit("elsewhere", url=OTHER)
    assert [one.job_id for one in await world.claim(100)] == ["elsewhere"]
    for one in taken:
        await world.settle(one, "pending", kind="timeout", due_in_ms=10_000)
    # Silent, each lane has one slot.
    assert sum([len(await world.claim(100)) for _ in range(20)]) <= LANES


@pytest.mark.slow
async def test_a_million_paths_leave_a_handful_of_lanes(build: Build, store_name: str) -> None:
    """Sized by POSTBACK_TEST_SCALE: 1,000,000 at 100."""
    world = await build()
    for n in range(round(10_000 * SCALE) if store_name == "sqlite" else round(1_000 * SCALE)):
        submitted = await world.submit(f"job-{n}", url=f"{SERVER}/jobs/{n}", handover=True)
        if submitted.delivery is not None:
            await world.settle(submitted.delivery)
    found, _ = await world.store.destinations(TENANT, after=None, limit=100)
    assert [(one.url, one.backlog) for one in found] == [(SERVER, 0)]


async def test_all_lanes_of_a_server_share_one_bound(build: Build) -> None:
    """By direct dispatch and by claims; what one lane leaves free, another has next."""
    world = await build(destination_concurrency=5)
    urls = apart(4)
    handed = [
        (await world.submit(f"direct-{n}", url=urls[n % 4], handover=True)).delivery
        for n in range(8)
    ]
    assert sum(one is not None for one in handed) == 5
    await world.many(6, url=urls[0], prefix="waiting")
    assert await world.claim() == []
    assert world.next_ready_ms() is None  # a full server keeps nobody awake
    shown = await world.destination(SERVER)
    assert (shown.sending, shown.backlog) == (5, 9)
    for one in (one for one in handed if one is not None):
        assert await world.settle(one)
        assert world.next_ready_ms() is not None
        assert len(await world.claim()) == 1
    assert (await world.destination(SERVER)).sending == 5


async def test_a_claim_shares_a_servers_room_among_its_lanes(build: Build) -> None:
    world = await build(destination_concurrency=6)
    urls = apart(3)
    for url in urls:
        await world.many(6, url=url, prefix=url)
    assert Counter(one.url for one in await world.claim()) == dict.fromkeys(urls, 2)


async def test_the_bound_of_a_server_is_set_as_any_other(world: World) -> None:
    urls = apart(4)
    for url in urls:
        await world.many(2, url=url, prefix=url)
    await world.change(SERVER, concurrency=3)
    taken = await world.claim()
    assert len(taken) == 3
    await world.change(SERVER, concurrency=None)
    assert len(await world.claim()) == 5


async def test_pausing_and_disabling_act_for_the_whole_server(world: World) -> None:
    urls = apart(3)
    ids = [(await world.submit(url, url=url)).id for url in urls]
    await world.change(urls[0], paused=True)
    await world.submit("new", url=SERVER + "/new/path")
    assert await world.claim() == []
    await world.change(SERVER, paused=False)
    assert len(await world.claim(1)) == 1
    await world.change((await world.destination(SERVER)).id, disabled_reason="by hand")
    await raises(DestinationDisabled, world.submit("refused", url=SERVER + "/another"))
    await world.store.expire(now_ms=world.now_ms, limit=100)
    assert Counter(await world.states(ids))["dead"] >= 2


async def test_a_rate_is_the_servers_over_all_its_lanes(world: World) -> None:
    urls = apart(4)
    for url in urls:
        await world.many(5, url=url, prefix=url)
    await world.change(SERVER, rate_per_second=2.0)
    taken = 0
    for _ in range(100):
        taken += len(await world.claim())
        world.tick(50)
    assert 9 <= taken <= 12


# --- whose fault ---


async def test_what_fails_before_it_reaches_a_path_opens_the_servers_circuit(
    world: World,
) -> None:
    """Over paths that each fail once; then one probe at a time goes out, and its success opens all
    lanes."""
    urls = apart(LANES)
    for n in range(CIRCUIT_FAILURES + LANES):
        await world.submit(f"job-{n}", url=urls[n % LANES])
    await world.submit("elsewhere", url=OTHER)
    for _ in range(CIRCUIT_FAILURES):
        world.tick(STEP_MS)
        got = [one for one in await world.claim(1) if one.url != OTHER] or await world.claim(1)
        await world.settle(got[0], "pending", kind="unreachable", due_in_ms=10**6)
    shown = await world.destination(SERVER)
    assert (shown.circuit_open, shown.held_reason) == (True, "circuit")
    assert shown.failures == CIRCUIT_FAILURES
    assert await world.claim() == []
    assert (await world.submit("held", url=urls[0], handover=True)).delivery is None
    assert shown.held_until_ms is not None
    world.now_ms = shown.held_until_ms
    (probe,) = await world.claim()
    assert await world.claim() == []
    assert await world.settle(probe, "dead", code=500)  # it has a living server
    shown = await world.destination(SERVER)
    assert (shown.circuit_open, shown.held_until_ms) == (False, None)
    assert len(await world.claim()) >= 8


async def test_answers_and_silence_count_for_the_lane_alone(world: World) -> None:
    """A path that times out or turns away keeps no slot of a good one beside it."""
    good, dead, busy = apart(3)
    for url in (good, dead, busy):
        await world.many(20, url=url, prefix=url)
    for _ in range(10):
        for one in await world.claim():
            if one.url == good:
                assert await world.settle(one)
            elif one.url == dead:
                await world.settle(one, "pending", kind="timeout")
            else:
                await world.settle(
                    one, "pending", code=429, retry_after_ms=60_000, due_in_ms=60_000
                )
        world.tick(10)
    await world.many(40, url=good, prefix="more")
    got = Counter([one.url for _ in range(4) for one in await world.claim()])
    assert got[good] >= 16
    assert got[dead] == 1
    assert got[busy] == 0


async def test_a_replay_closes_the_servers_circuit(world: World) -> None:
    urls = apart(2)
    ended = await world.ended("ended", url=urls[1])
    for n in range(CIRCUIT_FAILURES):
        await world.submit(f"job-{n}", url=urls[0])
    for _ in range(CIRCUIT_FAILURES):
        world.tick(STEP_MS)
        await world.settle(await world.one(), "dead", kind="unreachable")
    await world.submit("held", url=urls[0])
    assert await world.claim() == []
    await world.store.replay(TENANT, ended, now_ms=world.now_ms)
    assert {one.job_id for one in await world.claim()} == {"ended", "held"}


async def test_a_callback_url_never_picks_up_a_registration(world: World) -> None:
    await world.register("named", url=URL, concurrency=1)
    await world.change("named", paused=True)
    await world.submit("by-name", name="named")
    await world.submit("by-url")
    assert [one.job_id for one in await world.claim()] == ["by-url"]


@pytest.mark.parametrize("registered", [True, False])
async def test_a_repair_complains_of_nothing_that_its_own_commit_changed(
    world: World, registered: bool
) -> None:
    """A metric that should stay 0 and an ERROR line: no false alarms beside settlements, replays
    and cancellations of the same commit."""
    where: dict[str, Any] = {"url": URL}
    if registered:
        await world.register("named")
        where = {"name": "named"}
    await world.many(2, **where)
    first, second = await world.claim(2)
    *_, (repaired, _) = await asyncio.gather(
        world.settle(first, "pending", due_in_ms=1_000),
        world.settle(second, "dead"),
        world.store.repair_lanes(now_ms=world.now_ms, after="", limit=100),
    )
    assert repaired == 0
    (waiting,) = await world.many(1, "more", **where)
    *_, (repaired, _) = await asyncio.gather(
        world.store.cancel(TENANT, waiting, now_ms=world.now_ms),
        world.store.replay(TENANT, second.id, now_ms=world.tick(10)),
        world.store.repair_lanes(now_ms=world.now_ms, after="", limit=100),
    )
    assert repaired == 0

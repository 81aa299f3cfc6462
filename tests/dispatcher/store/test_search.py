"""Search: every filter alone and together against a brute-force oracle, and pages that hold."""

import asyncio
from itertools import combinations
from pathlib import Path
from typing import Any, Final

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dispatcher.filters import Filter
from dispatcher.ids import server_of
from dispatcher.states import STATES
from dispatcher.store.errors import NotFound, PayloadGone
from dispatcher.store.requests import Retention
from dispatcher.values import Callback
from tests.dispatcher.store.builders import FACTORIES, T0, TENANT, URL, World, raises

URLS: Final = (URL, "http://other.test/b")
FIELDS: Final[dict[str, tuple[Any, ...]]] = {
    "status": STATES,
    "job_status": ("completed", "failed", "none"),
    "job_id": ("job-3", "job-8", "job-none"),
    "destination": (URL, "HTTP://other.test", "named", "ds_" + "0" * 32),
    "callback_url": (URL, "http://other.test/b", URL + "?query=1"),
    "priority": ("high", "normal"),
    "error": ("http_404", "timeout", "http_500"),
    "since_ms": (T0, T0 + 15, T0 + 10_000),
    "until_ms": (T0, T0 + 15, T0 + 10_000),
    "tags": ((("team", "a"),), (("team", "b"), ("env", "x")), (("team", "none"),)),
}


async def filled(world: World) -> World:
    """Sixty callbacks of two tenants in all states, that share job ids, tags and URLs."""
    for tenant in (TENANT, "other"):
        await world.register("named", tenant=tenant, url=URL)
    for n in range(60):
        world.tick()
        await world.submit(
            f"job-{n % 10}",
            key=str(n),
            tenant=TENANT if n % 4 else "other",
            name="named" if n % 5 == 0 else None,
            url=URLS[n % 2],
            job_status=(None, "completed", "failed")[n % 3],
            priority="high" if n % 7 == 0 else "normal",
            tags={"team": "ab"[n % 2], **({"env": "x"} if n % 3 == 0 else {})},
        )
    for n, delivery in enumerate(await world.claim()):
        world.tick()
        if n % 4 == 0:
            await world.settle(delivery, "dead")
        elif n % 4 == 1:
            await world.settle(delivery, "pending", kind="timeout", due_in_ms=10**7)
        elif n % 4 == 2:
            await world.settle(delivery)
    (some, *_) = await world.search(status="pending")
    await world.store.cancel(TENANT, some, now_ms=world.now_ms)
    return world


def matches(found: Callback, wanted: Filter) -> bool:
    """The filter's meaning, told without SQL."""
    where = wanted.destination or ""
    by_url = found.destination_name is None and server_of(found.url) == server_of(where)
    return (
        (wanted.status in (None, found.state))
        and (wanted.job_status in (None, found.job_status))
        and (wanted.job_id in (None, found.job_id))
        and (wanted.priority in (None, found.priority))
        and (wanted.error in (None, found.last_error))
        and (
            wanted.callback_url is None
            or (found.destination_name is None and found.url == wanted.callback_url)
        )
        and (not where or where in (found.destination_name, found.destination) or by_url)
        and (wanted.since_ms is None or found.created_ms >= wanted.since_ms)
        and (wanted.until_ms is None or found.created_ms < wanted.until_ms)
        and all(found.tags.get(key) == value for key, value in wanted.tags)
    )


class Oracle:
    """A filled store with an event loop of its own, for tests that hypothesis runs many times."""

    def __init__(self, name: str, folder: Path, *, reach: int) -> None:
        self.loop = asyncio.new_event_loop()
        self.reach = reach  # how many callbacks one look is about

        def make() -> Any:
            return FACTORIES[name](folder, {})

        self.world = World(make=make, store=make())
        self.loop.run_until_complete(self.world.open())
        self.loop.run_until_complete(filled(self.world))
        page = self.loop.run_until_complete(
            self.world.store.search(TENANT, Filter(), after=None, limit=500)
        )
        self.all = list(page.callbacks)

    def check(self, wanted: Filter, page_size: int) -> None:
        """Each page and all of them together are what the oracle says, newest first."""
        expected = sorted((one.id for one in self.all if matches(one, wanted)), reverse=True)
        seen: list[str] = []
        after = None
        while True:
            with pytest.MonkeyPatch.context() as patched:
                patched.setattr("dispatcher.store.search.SCAN_MAX", self.reach)
                patched.setattr("dispatcher.store.search.COVERED_MAX", self.reach)
                page = self.loop.run_until_complete(
                    self.world.store.search(TENANT, wanted, after=after, limit=page_size)
                )
            seen += [one.id for one in page.callbacks]
            assert len(page.callbacks) <= page_size
            after = page.next_id
            if after is None:
                break
            assert len(page.callbacks) == page_size or self.reach < len(self.all)
        assert seen == expected

    def close(self) -> None:
        self.loop.run_until_complete(self.world.store.close())
        self.loop.close()


@pytest.fixture(scope="module", params=[(n, r) for n in sorted(FACTORIES) for r in (25_000, 4)])
def oracle(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Any:
    """For each store twice: one whose looks reach the end, and one whose looks go on and on."""
    name, reach = request.param
    made = Oracle(name, tmp_path_factory.mktemp("search"), reach=reach)
    yield made
    made.close()


def test_the_oracle_has_something_of_everything(oracle: Oracle) -> None:
    """Else the comparisons below could not fail."""
    assert len(oracle.all) == 45
    assert {one.state for one in oracle.all} == set(STATES)
    for field, values in FIELDS.items():
        for value in values[:2]:
            found = [one for one in oracle.all if matches(one, Filter(**{field: value}))]
            some = {"since_ms": T0 + 15, "until_ms": T0 + 15}.get(field, value) == value
            assert bool(found) or not some, (field, value)


@pytest.mark.parametrize("field", FIELDS)
def test_each_filter_alone_finds_what_it_says(oracle: Oracle, field: str) -> None:
    for value in FIELDS[field]:
        oracle.check(Filter(**{field: value}), 500)
        oracle.check(Filter(**{field: value}), 3)


@pytest.mark.parametrize("pair", list(combinations(FIELDS, 2)), ids="+".join)
def test_each_two_filters_find_what_both_say(oracle: Oracle, pair: tuple[str, str]) -> None:
    for first in FIELDS[pair[0]][:2]:
        for second in FIELDS[pair[1]][:2]:
            oracle.check(Filter(**{pair[0]: first, pair[1]: second}), 500)


@given(
    wanted=st.fixed_dictionaries(
        {}, optional={field: st.sampled_from(values) for field, values in FIELDS.items()}
    ),
    page_size=st.integers(1, 50),
)
@settings(max_examples=150, deadline=None)
def test_any_filters_find_what_all_say_page_by_page(
    oracle: Oracle, wanted: dict[str, Any], page_size: int
) -> None:
    oracle.check(Filter(**wanted), page_size)


# --- pages under change ---


@pytest.fixture
async def full(world: World) -> World:
    return await filled(world)


@pytest.mark.parametrize(
    "wanted", [Filter(), Filter(tags=(("team", "a"),)), Filter(job_id="job-5")]
)
async def test_pages_hold_while_callbacks_come_in(full: World, wanted: Filter) -> None:
    """What was there when the listing began is listed once, and nothing twice."""
    before = [
        one.id for one in (await full.store.search(TENANT, wanted, after=None, limit=500)).callbacks
    ]
    seen: list[str] = []
    after = None
    while True:
        page = await full.store.search(TENANT, wanted, after=after, limit=2)
        seen += [one.id for one in page.callbacks]
        after = page.next_id
        if after is None:
            break
        full.tick()
        await full.submit("job-5", key=f"new-{len(seen)}", tags={"team": "a"})
    assert seen == before


async def test_creation_times_are_inclusive_below_and_exclusive_above(world: World) -> None:
    ids = [(await world.submit(str(n), now_ms=T0 + n)).id for n in range(5)]
    assert await world.search(since_ms=T0 + 1, until_ms=T0 + 3) == [ids[2], ids[1]]


# --- single callbacks ---


@pytest.mark.parametrize("verb", ["get", "attempts", "payload"])
async def test_another_tenants_callback_reads_like_an_unknown_one(world: World, verb: str) -> None:
    """I9: word for word."""
    theirs = await world.ended("a")
    read = getattr(world.store, verb)
    told = [
        str(await raises(NotFound, read("other", one))).replace(one, "ID")
        for one in (theirs, "cb_unknown")
    ]
    assert told[0] == told[1]


async def test_a_pruned_payload_is_gone_and_said_to_be(world: World) -> None:
    ended = await world.ended("a", "delivered")
    keep = Retention(delivered_payload_ms=0, delivered_ms=10**13, dead_ms=10**13)
    await world.store.prune(keep, now_ms=world.tick(), limit=10)
    await raises(PayloadGone, world.store.payload(TENANT, ended))
    shown = await world.get(ended)
    assert shown.payload_pruned
    assert shown.payload_size > 0


async def test_stats_are_one_tenants_or_everybodys(full: World) -> None:
    """I9."""
    mine = await full.store.stats(TENANT)
    theirs = await full.store.stats("other")
    both = await full.store.stats(None)
    for state in STATES:
        assert mine.counts[state] == len(await full.search(status=state))
        assert theirs.counts[state] == len(await full.search("other", status=state))
        assert both.counts[state] == mine.counts[state] + theirs.counts[state]
    pending = [
        one.created_ms
        for one in (
            await full.store.search(TENANT, Filter(status="pending"), after=None, limit=500)
        ).callbacks
    ]
    assert mine.oldest_pending_ms == min(pending)
    assert full.store.queued(TENANT) == mine.counts["pending"] + mine.counts["sending"]
    assert full.store.queued() == both.counts["pending"] + both.counts["sending"]
    assert (await full.store.stats("nobody")).oldest_pending_ms is None


async def test_the_oldest_of_all_is_found_among_tenants_of_whom_some_wait_for_nothing(
    world: World,
) -> None:
    for n, tenant in enumerate(("b", "d", "a", "c", "e")):
        world.tick()
        submitted = await world.submit(tenant, tenant=tenant)
        if n in (0, 3):
            await world.store.cancel(tenant, submitted.id, now_ms=world.now_ms)
    assert (await world.store.stats(None)).oldest_pending_ms == T0 + 2
    assert (await world.store.stats("b")).oldest_pending_ms is None


async def test_rates_are_of_the_last_minute(world: World) -> None:
    for n in range(6):
        await world.ended(f"done-{n}", "delivered")
    await world.ended("failed", "dead")
    stats = await world.store.stats(TENANT)
    assert (stats.accepted_per_second, stats.delivered_per_second) == (7.0, 6.0)
    assert stats.failed_attempts_per_second == 1.0
    assert (await world.store.stats("other")).accepted_per_second == 0.0
    world.tick(61_000)
    later = await world.store.stats(TENANT)
    assert later.accepted_per_second == 0.0

"""The audit trail: appended with the change, once, and never without it; looked through by
index."""

import asyncio
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from typing import Any

import pytest

from dispatcher.audit import DETAIL_CHARS_MAX, Entry, EntryFilter, new_entry
from dispatcher.engine.trimmer import Trimmer
from dispatcher.filters import Filter
from dispatcher.settings import Settings
from dispatcher.store import audit
from dispatcher.store.errors import Conflict, NotFound, TooManyMatch
from dispatcher.store.requests import Retention
from dispatcher.values import Submitted
from tests.dispatcher.store.builders import DAY_MS, T0, TENANT, World, callback, raises, secret

EVERYTHING = EntryFilter(tenant=None)


def entry(action: str = "callback.replay", *, at_ms: int = T0, **fields: Any) -> Entry:
    given: dict[str, Any] = {"actor": "key_1", "tenant": TENANT, "address": "192.0.2.1"}
    return new_entry(action, at_ms=at_ms, **given | fields)


async def trail(world: World, **wanted: Any) -> list[Entry]:
    """All entries that match, newest first, from pages of two."""
    chosen = replace(EVERYTHING, **wanted)
    found: list[Entry] = []
    after: str | None = None
    while True:
        page = await world.store.audit_trail(chosen, after=after, limit=2)
        assert len(page.entries) <= 2
        found += page.entries
        after = page.next_id
        if after is None:
            return found


async def names(world: World, **wanted: Any) -> list[str]:
    return [f"{one.action} {one.target}" for one in await trail(world, **wanted)]


@pytest.fixture
def lines(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, dict[str, Any]]]:
    """What went to the log."""
    written: list[tuple[str, dict[str, Any]]] = []

    class Log:
        def info(self, event: str, /, **fields: Any) -> None:
            written.append((event, fields))

    monkeypatch.setattr(audit, "_LOG", Log())
    return written


async def test_an_entry_reads_back_as_it_was_appended_and_is_a_line_of_the_log(
    world: World, lines: list[tuple[str, dict[str, Any]]]
) -> None:
    full = entry(
        "key.create",
        target="key_2",
        session="se_1",
        by_platform=False,
        detail={"scopes": ["read"], "label": "Zoë", "n": 1.5},
        reason="Zoë asked: 4711",
    )
    platforms = entry("service.start", tenant=None, address=None)
    await world.store.record(full, platforms)
    assert await trail(world) == [platforms, full]
    (event, fields), (second, _) = lines
    assert (event, second) == ("key.create", "service.start")
    assert fields["id"] == full.id
    assert fields["reason"] == "Zoë asked: 4711"
    assert fields["detail"] == {"scopes": ["read"], "label": "Zoë", "n": 1.5}


async def test_what_is_refused_leaves_no_entry_and_what_is_done_leaves_one(
    world: World, lines: list[tuple[str, dict[str, Any]]]
) -> None:
    """All in one commit: each fails or is recorded alone."""
    dead = await world.ended("dead")
    await world.submit("waits")
    entries = [entry(target=str(n), at_ms=T0 + n) for n in range(5)]
    at: dict[str, Any] = {"now_ms": world.now_ms}
    results = await asyncio.gather(
        world.store.replay(TENANT, "cb_unknown", entries=[entries[0]], **at),
        world.store.replay(TENANT, dead, entries=[entries[1]], **at),
        world.store.cancel("other", dead, entries=[entries[2]], **at),
        world.store.remove_key("key_0", entries=[entries[3]]),
        world.store.change_destination(TENANT, "nobody", {}, entries=[entries[4]], **at),
        return_exceptions=True,
    )
    assert [type(one) for one in results[2:]] == [NotFound] * 3
    assert isinstance(results[0], NotFound)
    assert await trail(world) == [entries[1]]
    assert [fields["id"] for _, fields in lines] == [entries[1].id]


async def test_a_batch_that_is_split_appends_once(
    world: World, lines: list[tuple[str, dict[str, Any]]]
) -> None:
    """D3: what fails as a whole is tried in halves, and again; entries come once all the same."""
    await world.store.ensure_tenant(TENANT, secret())
    broken = replace(callback("broken"), tags=(("t", "1"), ("t", "1")))
    entries = [entry("signing-secret.rotate", target=str(n), at_ms=T0 + n) for n in range(8)]
    results = await asyncio.gather(
        *(world.store.record(one) for one in entries[:4]),
        world.store.submit(broken, handover=True),
        world.submit("good"),
        *(world.store.record(one) for one in entries[4:]),
        return_exceptions=True,
    )
    assert isinstance(results[4], Exception)
    assert isinstance(results[5], Submitted)
    assert await trail(world) == entries[::-1]
    assert [fields["id"] for _, fields in lines] == [one.id for one in entries]


async def test_a_change_whose_caller_gave_up_is_recorded_all_the_same(
    world: World, lines: list[tuple[str, dict[str, Any]]]
) -> None:
    dead = await world.ended("dead")
    one = entry(target=dead)
    replaying = asyncio.create_task(
        world.store.replay(TENANT, dead, now_ms=world.now_ms, entries=[one])
    )
    await asyncio.sleep(0)
    replaying.cancel()
    with pytest.raises(asyncio.CancelledError):
        await replaying
    await world.store.check()
    assert (await world.get(dead)).state == "pending"
    assert await trail(world) == [one]
    assert len(lines) == 1


async def test_what_changes_nothing_is_not_recorded(world: World) -> None:
    """A tenant that is there, a replay that was cancelled before, an erasure that goes on."""
    made = [entry("tenant.create", target=str(n)) for n in range(2)]
    for one in made:
        await world.store.ensure_tenant(TENANT, secret(), entry=one)
    dead = await world.ended("dead")
    replay = await world.store.make_replay(
        TENANT,
        Filter(status="dead"),
        rate_per_second=None,
        now_ms=world.tick(),
        entry=entry("replay.start", detail={"filter": {"status": "dead"}}, at_ms=T0 + 1),
    )
    assert dead
    for n in (2, 3):
        one = entry("replay.cancel", target=replay.id, at_ms=T0 + n)
        await world.store.cancel_replay(TENANT, replay.id, now_ms=world.now_ms, entry=one)
    for n in (4, 5):
        one = entry("tenant.erase", target=TENANT, at_ms=T0 + n)
        await world.store.begin_erasing(TENANT, now_ms=world.now_ms, entry=one)
    assert await names(world) == [
        f"tenant.erase {TENANT}",
        f"replay.cancel {replay.id}",
        f"replay.start {replay.id}",
        "tenant.create 0",
    ]
    (started,) = await trail(world, action="replay.start")
    assert started.detail == {
        "filter": {"status": "dead"}, "matched": 1, "matchedExactly": True,
    }  # fmt: skip


async def some(world: World) -> Sequence[Entry]:
    """Entries of two tenants and the platform, oldest first."""
    made = [
        entry(
            ("key.create", "key.revoke", "callback.replay")[n % 3],
            at_ms=T0 + n,
            tenant=(TENANT, "other", None)[n % 4 % 3],
            actor=f"key_{n % 2}",
            target=f"cb_{n % 5}",
        )
        for n in range(30)
    ]
    await world.store.record(*made)
    return made


@pytest.mark.parametrize("scan_max", [1, 3, 25_000])
async def test_the_trail_is_found_by_what_was_asked_for(
    world: World, scan_max: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever one look may cost: what it did not reach is on the pages behind it."""
    monkeypatch.setattr(audit, "SCAN_MAX", scan_max)
    made = list(await some(world))[::-1]
    wanted: dict[str, Any]
    for wanted in (
        {},
        {"tenant": TENANT},
        {"tenant": "other", "action": "key.revoke"},
        {"tenant": TENANT, "actor": "key_1", "action": "key.create"},
        {"target": "cb_3"},
        {"tenant": "other", "target": "cb_3"},
        {"tenant": TENANT, "target": "cb_3", "actor": "key_0"},
        {"action": "callback.replay"},
        {"tenant": "nobody"},
        {"target": "cb_9"},
    ):
        expected = [
            one for one in made if all(getattr(one, name) == wanted[name] for name in wanted)
        ]
        assert await trail(world, **wanted) == expected, wanted
    within = {"since_ms": T0 + 5, "until_ms": T0 + 20}
    assert await trail(world, **within) == [one for one in made if T0 + 5 <= one.at_ms < T0 + 20]
    chosen = await trail(world, **within, tenant=TENANT, action="key.create")
    assert chosen == [
        one
        for one in made
        if T0 + 5 <= one.at_ms < T0 + 20 and (one.tenant, one.action) == (TENANT, "key.create")
    ]


async def test_i9_nothing_of_another_tenant_by_whatever_filter(world: World) -> None:
    made = await some(world)
    for wanted in ({}, *({"target": one.target, "actor": one.actor} for one in made)):
        found = await trail(world, tenant="other", **wanted)
        assert {one.tenant for one in found} <= {"other"}


async def test_entries_go_after_their_time_and_not_before(world: World) -> None:
    """In slices; what belongs to an erased tenant as well."""
    made = await some(world)
    world.now_ms = T0 + 10 + DAY_MS
    keep = Retention(delivered_payload_ms=0, delivered_ms=0, dead_ms=0, audit_ms=DAY_MS)
    assert await world.store.prune(keep, now_ms=world.now_ms, limit=7) == 7
    assert await world.store.prune(keep, now_ms=world.now_ms, limit=7) == 3
    assert await world.store.prune(keep, now_ms=world.now_ms, limit=7) == 0
    assert await trail(world) == list(made[10:])[::-1]


async def test_a_tenant_has_so_many_entries_and_its_oldest_go_first(world: World) -> None:
    """I7: whatever others have. By the sweeper's steps, a slice of it at a time."""
    made = list(await some(world))
    settings = replace(Settings(), tenant_audit_max=1_000)
    trimmer = Trimmer(settings, world.store)
    trimmer._entries_max = 4
    assert await trimmer.step()
    while await trimmer.step():
        pass
    for tenant in (TENANT, "other"):
        own = [one for one in made if one.tenant == tenant]
        assert len(own) > 4
        assert await trail(world, tenant=tenant) == own[-4:][::-1]
    platforms = [one for one in made if one.tenant is None]
    assert [one for one in await trail(world) if one.tenant is None] == platforms[::-1]
    assert await world.store.trim_audit("", entries_max=2, limit=1) == (1, TENANT)
    assert len(await trail(world, tenant=TENANT)) == 3


async def test_i9_a_tenant_that_comes_again_is_younger_than_all_that_is_recorded_of_it(
    world: World,
) -> None:
    """Its entries stay when it is erased, and were somebody else's, also where the clock was set
    back."""
    await world.store.ensure_tenant("acme", secret("acme", now_ms=world.now_ms))
    last = entry(tenant="acme", at_ms=world.now_ms + 60_000)
    await world.store.record(last)
    await world.store.begin_erasing("acme", now_ms=world.now_ms)
    while await world.store.erase("acme", now_ms=world.tick(5_000), limit=10) != "done":
        pass
    made_ms = await world.store.ensure_tenant("acme", secret("acme", now_ms=T0))
    assert made_ms > last.at_ms
    (tenant,) = [one for one in await world.store.tenants() if one.name == "acme"]
    assert tenant.created_ms == made_ms
    assert await world.store.ensure_tenant("acme", secret("acme", now_ms=T0)) == made_ms
    assert await trail(world, tenant="acme") == [last]
    assert await trail(world, tenant="acme", since_ms=made_ms) == []


async def test_a_replay_of_more_than_expected_is_not_made(world: World) -> None:
    for n in range(3):
        await world.ended(f"dead-{n}")
    chosen: dict[str, Any] = {"rate_per_second": None, "now_ms": world.tick()}
    make = partial(world.store.make_replay, TENANT, Filter(status="dead"), **chosen)
    await raises(TooManyMatch, make(matched_max=2))
    assert await world.store.running_replays() == []
    assert (await make(matched_max=3)).matched == 3


async def test_a_rotation_that_is_refused_is_not_recorded(world: World) -> None:
    await world.store.ensure_tenant(TENANT, secret())
    for n in range(2):
        new = secret(now_ms=world.tick())
        rotating = world.store.rotate_secret(
            new,
            overlap_ms=DAY_MS,
            force=False,
            now_ms=world.now_ms,
            entries=[entry("signing-secret.rotate", target=new.id, at_ms=T0 + n)],
        )
        if n:
            await raises(Conflict, rotating)
        else:
            await rotating
    assert len(await trail(world)) == 1


def test_an_entrys_detail_is_bounded() -> None:
    """I7: values are cut, and what is too long even so is left out."""
    few = entry(detail={"label": "x" * 10_000, "n": 5, "none": None})
    many = entry(detail={f"n{n}": "x" * 100 for n in range(1_000)})
    assert len(few.detail_text()) <= DETAIL_CHARS_MAX
    assert '"n": 5' in few.detail_text()
    assert "none" not in few.detail_text()
    assert len(many.detail_text()) <= DETAIL_CHARS_MAX


def test_an_action_that_there_is_not_is_no_entry() -> None:
    with pytest.raises(KeyError):
        entry("key.creation")

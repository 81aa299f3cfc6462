"""Submit: stored durably, once per idempotency key, handed straight over where that is fair."""

import asyncio
from collections import Counter
from typing import Any

import pytest

from dispatcher.filters import Filter
from dispatcher.policy import PRESETS, dump
from dispatcher.policy import Policy as Rule
from dispatcher.store.errors import DestinationDisabled, KeyReused, NotFound
from tests.dispatcher.store.builders import (
    DAY_MS,
    SERVER,
    T0,
    TENANT,
    URL,
    World,
    callback,
    raises,
)
from tests.dispatcher.store.conftest import Build


async def test_everything_submitted_reads_back_as_it_was(world: World) -> None:
    body = bytes(range(256)) + b'{"a" :1.0}'
    new = callback("jöb", body=body, tags={"team": "a", "": "é"}, priority="high", url=URL + "?t=1")
    submitted = await world.store.submit(new, handover=False)
    assert (submitted.id, submitted.job_id, submitted.state) == (new.id, "jöb", "pending")
    assert (submitted.created_ms, submitted.duplicate, submitted.delivery) == (T0, False, None)
    shown = await world.get(new.id)
    assert (shown.job_id, shown.job_status, shown.priority) == ("jöb", "completed", "high")
    assert shown.tags == {"team": "a", "": "é"}
    assert (shown.url, shown.destination_name) == (URL + "?t=1", None)
    assert (shown.state, shown.due_ms, shown.attempts, shown.tries) == ("pending", T0, 0, 0)
    assert (shown.payload_size, shown.payload_sha256) == (len(body), new.body_sha256)
    payload = await world.store.payload(TENANT, new.id)
    assert (payload.body, payload.content_type) == (body, "application/json")


async def test_the_delivery_handed_over_is_what_a_claim_would_have_leased(world: World) -> None:
    """One value, whichever way the work goes to the sender."""
    await world.register("named", headers=(("X-Theirs", "1"),), policy="runpod")
    more: dict[str, Any] = {"headers": (("X-Own", "2"),), "name": "named", "body": b"\x00\xff"}
    handed = (await world.submit("one", handover=True, **more)).delivery
    await world.submit("two", **more)
    claimed = await world.one()
    assert handed is not None
    for name in (
        "tenant",
        "destination",
        "registered",
        "url",
        "body",
        "content_type",
        "headers",
        "policy",
        "fence",
        "attempt",
        "tries",
        "created_ms",
        "expires_ms",
        "high",
    ):
        assert getattr(handed, name) == getattr(claimed, name), name
    assert handed.policy == PRESETS["runpod"]
    assert handed.headers == (("X-Theirs", "1"), ("X-Own", "2"))


async def test_a_submit_survives_reopening(world: World) -> None:
    """I1, as far as one process can show it."""
    ids = await world.many(50)
    await world.reopen()
    assert await world.states(ids) == ["pending"] * 50
    assert world.store.queued() == 50


# --- idempotency (D12) ---


async def test_the_same_key_and_content_is_answered_with_the_first(world: World) -> None:
    first = await world.submit("a", key="k")
    again = await world.submit("a", key="k", handover=True)
    assert again.duplicate
    assert again.delivery is None
    assert (again.id, again.created_ms, again.job_id) == (first.id, first.created_ms, "a")
    assert world.store.queued() == 1


async def test_a_duplicate_shows_the_state_that_the_first_has_now(world: World) -> None:
    await world.ended("a", "delivered")
    assert (await world.submit("a")).state == "delivered"


@pytest.mark.parametrize("key", [None, "k"])
async def test_the_same_key_with_other_content_is_refused(world: World, key: str | None) -> None:
    first = await world.submit("a", key=key)
    error = await raises(KeyReused, world.submit("a", key=key, body=b"other"))
    assert isinstance(error, KeyReused)
    assert error.first_id == first.id
    assert world.store.queued() == 1
    assert len(await world.search()) == 1


async def test_an_explicit_key_holds_across_jobs(world: World) -> None:
    await world.submit("a", key="k")
    await raises(KeyReused, world.submit("b", key="k"))


async def test_a_key_means_nothing_to_another_tenant(world: World) -> None:
    """I9."""
    first = await world.submit("a", key="k")
    other = await world.submit("a", key="k", tenant="other", body=b"other")
    assert not other.duplicate
    assert other.id != first.id


async def test_of_a_hundred_submits_of_one_key_exactly_one_is_stored(world: World) -> None:
    """Also within a single commit, and with hand-over."""
    answers = await asyncio.gather(*(world.submit("a", key="k", handover=True) for _ in range(100)))
    assert len({one.id for one in answers}) == 1
    assert Counter(one.duplicate for one in answers) == {True: 99, False: 1}
    assert sum(one.delivery is not None for one in answers) == 1
    assert len(await world.search()) == 1
    assert world.store.queued() == 1


async def test_an_expired_key_is_usable_again(build: Build) -> None:
    world = await build(keep_keys=2 * DAY_MS / 1000)
    first = await world.submit("a", key="k")
    world.tick(2 * DAY_MS)
    assert (await world.submit("a", key="k")).duplicate
    world.tick(1)
    answers = await asyncio.gather(*(world.submit("a", key="k", body=b"new") for _ in range(3)))
    assert len({one.id for one in answers}) == 1
    assert [one.duplicate for one in answers].count(False) == 1
    assert answers[0].id != first.id
    await raises(KeyReused, world.submit("a", key="k"))
    assert (await world.get(first.id)).state == "pending"


# --- destinations ---


async def test_a_name_that_is_not_registered_is_not_found(world: World) -> None:
    await world.register("theirs", tenant="other")
    await raises(NotFound, world.submit("a", name="nobody"))
    await raises(NotFound, world.submit("b", name="theirs"))
    assert world.store.queued() == 0


async def test_a_disabled_destination_takes_nothing(world: World) -> None:
    await world.register("named")
    await world.change("named", disabled_reason="because of the test")
    error = await raises(DestinationDisabled, world.submit("a", name="named"))
    assert "because of the test" in str(error)
    await world.change("named", disabled_reason=None)
    assert (await world.submit("a", name="named")).state == "pending"


async def test_a_removed_destination_is_not_found(world: World) -> None:
    await world.register("named")
    await world.store.remove_destination(TENANT, "named", now_ms=world.now_ms)
    await raises(NotFound, world.submit("a", name="named"))


async def test_a_url_whose_destination_was_removed_can_be_submitted_to_again(world: World) -> None:
    """Removing forgets; a URL that nobody registered comes into being with its next callback."""
    old = (await world.submit("a")).id
    await world.store.remove_destination(TENANT, URL, now_ms=world.now_ms)
    await raises(DestinationDisabled, world.submit("b"))
    await world.store.expire(now_ms=world.now_ms, limit=100)
    new, _ = await asyncio.gather(world.submit("b"), world.submit("c", url=URL + "?again"))
    assert await world.states([old, new.id]) == ["dead", "pending"]
    assert len(await world.claim()) == 2
    assert (await world.destination()).disabled_reason is None


async def test_a_new_destination_is_its_urls_server(world: World) -> None:
    await world.submit("a", url=URL + "?token=1#part")
    assert (await world.destination()).url == SERVER
    delivery = await world.one()
    assert delivery.url == URL + "?token=1#part"


async def test_a_server_is_one_destination_whatever_path_and_query(world: World) -> None:
    await world.submit("a", url=URL + "?token=1")
    await world.submit("b", url=URL + "?token=2")
    await world.submit("c", url=SERVER + "/other")
    await world.submit("d", url="http://127.0.0.1:10/hook")
    found, _ = await world.store.destinations(TENANT, after=None, limit=10)
    assert {(one.url, one.backlog) for one in found} == {
        (SERVER, 3),
        ("http://127.0.0.1:10", 1),
    }


# --- hand-over (D6) ---


async def test_an_idle_lane_gets_its_delivery_at_once(world: World) -> None:
    submitted = await world.submit(handover=True)
    assert submitted.state == "sending"
    assert submitted.delivery is not None
    assert (submitted.delivery.fence, submitted.delivery.attempt) == (1, 1)
    assert await world.claim() == []
    assert await world.settle(submitted.delivery)


async def test_nothing_is_handed_over_that_was_not_asked_for(world: World) -> None:
    assert (await world.submit(handover=False)).delivery is None


async def test_hand_over_never_goes_beyond_the_window(world: World) -> None:
    """A lane begins with eight slots, however many submits share the commit."""
    answers = await asyncio.gather(*(world.submit(f"job-{n}", handover=True) for n in range(50)))
    assert sum(one.delivery is not None for one in answers) == 8
    assert (await world.destination()).sending == 8


async def test_hand_over_respects_the_destinations_own_concurrency(world: World) -> None:
    await world.register("named", concurrency=2)
    answers = await asyncio.gather(
        *(world.submit(f"job-{n}", name="named", handover=True) for n in range(5))
    )
    assert sum(one.delivery is not None for one in answers) == 2


async def test_a_new_callback_does_not_overtake_due_work_of_its_lane(world: World) -> None:
    await world.submit("first")
    assert (await world.submit("second", handover=True)).delivery is None


async def test_a_commit_that_claims_what_was_due_hands_new_callbacks_over(world: World) -> None:
    """Else each one that comes while a claim is under way would wait for the next, for ever."""
    await world.many(3)
    _, claimed, new = await asyncio.gather(
        world.submit("elsewhere", url="http://elsewhere.test/hook"),  # may begin a commit alone
        world.claim(),
        world.submit("new", handover=True),
    )
    assert world.commits[-1] >= 2
    assert len(claimed) == 3
    assert new.state == "sending"


async def test_a_retry_of_later_does_not_hold_a_new_callback_up(world: World) -> None:
    delivery = (await world.submit("first", handover=True)).delivery
    assert delivery is not None
    await world.settle(delivery, "pending", due_in_ms=60_000)
    assert (await world.submit("second", handover=True)).delivery is not None


async def test_a_replay_that_waits_does_not_hold_a_new_callback_up(world: World) -> None:
    await world.ended("old")
    made = await world.store.make_replay(
        TENANT, Filter(status="dead"), rate_per_second=None, now_ms=world.now_ms
    )
    await world.store.feed_replay(made.id, limit=10, now_ms=world.tick())
    assert (await world.submit("new", handover=True)).delivery is not None


@pytest.mark.parametrize("how", ["paused", "rate", "retry-after"])
async def test_a_lane_that_is_held_paused_or_paced_gets_nothing_straight(
    world: World, how: str
) -> None:
    await world.register("named")
    if how == "paused":
        await world.change("named", paused=True)
    elif how == "rate":
        await world.change("named", rate_per_second=1_000.0)
    else:
        first = (await world.submit("first", name="named", handover=True)).delivery
        assert first is not None
        await world.settle(first, "dead", code=429, retry_after_ms=5_000)
    assert (await world.submit("second", name="named", handover=True)).delivery is None


async def test_each_callback_has_its_policys_maximum_age_and_lease(world: World) -> None:
    policy = dump(Rule(attempts=1, timeout=2, max_age=60))
    delivery = (await world.submit(policy=policy, handover=True)).delivery
    assert delivery is not None
    assert delivery.expires_ms == T0 + 60_000
    assert await world.store.reclaim(now_ms=T0 + 2_000 + 10_000 - 1) == 0
    assert await world.store.reclaim(now_ms=T0 + 2_000 + 10_000) == 1


async def test_what_may_not_go_yet_is_stored_to_be_due_then(world: World) -> None:
    """No direct dispatch; due at that moment, and others of its lane meanwhile go."""
    later = await world.submit("later", handover=True, not_before_ms=world.now_ms + 60_000)
    assert (later.state, later.delivery) == ("pending", None)
    assert world.next_ready_ms() == T0 + 60_000
    assert (await world.submit("now", handover=True)).delivery is not None
    world.tick(59_999)
    assert await world.claim() == []
    world.tick()
    assert [one.id for one in await world.claim()] == [later.id]


async def test_a_callback_does_not_expire_before_it_may_first_go(world: World) -> None:
    """The maximum age counts from then, in the row and in what is leased."""
    short = dump(Rule(attempts=1, max_age=10))
    one = await world.submit("j", policy=short, not_before_ms=T0 + 60_000)
    world.tick(60_000)
    assert await world.store.expire(now_ms=world.now_ms, limit=10) == 0
    delivery = await world.one()
    assert (delivery.id, delivery.expires_ms) == (one.id, T0 + 70_000)


async def test_the_run_and_the_status_go_with_the_delivery(world: World) -> None:
    """Handed over or claimed, for the job's own headers."""
    handed = (await world.submit("one", handover=True, run=3, job_status="failed")).delivery
    assert handed is not None
    await world.submit("two", run=4, job_status=None)
    claimed = await world.one()
    assert (handed.run, handed.job_status) == (3, "failed")
    assert (claimed.run, claimed.job_status) == (4, None)
    assert (await world.get(claimed.id)).run == 4

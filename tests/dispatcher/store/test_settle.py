"""Settle: an attempt and its verdict in one commit, fenced by the claim, and what lanes learn."""

import asyncio
from dataclasses import replace

import pytest

from dispatcher.filters import Filter
from dispatcher.outcome import Kind
from dispatcher.store.errors import DestinationDisabled
from dispatcher.values import Delivery
from tests.dispatcher.store.builders import LEASE_MS, TENANT, URL, World, raises
from tests.dispatcher.store.conftest import Build


async def straight(world: World, job: str, **more: str) -> Delivery:
    delivery = (await world.submit(job, handover=True, **more)).delivery
    assert delivery is not None
    return delivery


async def fail(world: World, times: int, *, kind: Kind = "unreachable", every_ms: int = 0) -> None:
    """`times` attempts of one delivery fail, as soon as the lane lets them out."""
    for _ in range(times):
        world.tick(every_ms)
        world.now_ms = max(world.now_ms, world.next_ready_ms() or 0)
        await world.settle(await world.one(), "pending", kind=kind)


async def test_an_attempt_is_kept_with_all_that_it_met(world: World) -> None:
    one = await straight(world, "a")
    assert await world.settle(one, "pending", code=503, due_in_ms=100)
    (attempt,) = await world.store.attempts(TENANT, one.id)
    assert (attempt.n, attempt.started_ms, attempt.duration_ms) == (1, world.now_ms, 1.5)
    assert (attempt.outcome, attempt.status_code) == ("rejected", 503)
    assert (attempt.error, attempt.excerpt) == ("answered 503", "ok")
    shown = await world.get(one.id)
    assert (shown.state, shown.attempts, shown.tries) == ("pending", 1, 1)
    assert (shown.due_ms, shown.last_error) == (world.now_ms + 100, "http_503")
    world.tick(100)
    assert await world.settle(await world.one(), "delivered")
    shown = await world.get(one.id)
    assert (shown.state, shown.due_ms, shown.finished_ms) == ("delivered", None, world.now_ms)
    assert shown.last_error is None
    assert [one.n for one in await world.store.attempts(TENANT, one.id)] == [1, 2]


async def test_a_claim_settles_once(world: World) -> None:
    """I4: also when both results come in one commit."""
    one = await straight(world, "a")
    answers = tuple(await asyncio.gather(world.settle(one, "delivered"), world.settle(one, "dead")))
    assert answers == (True, False)
    assert (await world.get(one.id)).state == "delivered"
    assert len(await world.store.attempts(TENANT, one.id)) == 1
    assert not await world.settle(one, "dead")


async def test_a_late_result_of_an_old_claim_changes_nothing(world: World) -> None:
    """I4: neither the delivery, nor its history, nor its lane, nor the counts."""
    late = await straight(world, "a")
    world.tick(LEASE_MS)
    assert await world.store.reclaim(now_ms=world.now_ms) == 1
    assert not await world.settle(late, "delivered")
    new = await world.one()
    assert (new.fence, new.attempt, new.tries) == (2, 1, 0)
    before = await world.destination(), await world.store.stats(None)
    assert not await world.settle(late, "dead", kind="timeout", gone=True)
    assert (
        await world.destination(),
        await world.store.stats(None),
    ) == before
    assert await world.store.attempts(TENANT, late.id) == []
    assert await world.settle(new, "delivered")


async def test_settling_something_unknown_changes_nothing(world: World) -> None:
    one = await straight(world, "a")
    assert not await world.settle(replace(one, id="cb_unknown"))
    assert not await world.settle(replace(one, fence=7))


async def test_a_settlement_makes_room_in_its_lane(world: World) -> None:
    await world.many(9)
    first, *_ = await world.claim()
    assert await world.claim() == []
    await world.settle(first)
    assert len(await world.claim()) == 1


# --- cancelling a running attempt ---


@pytest.mark.parametrize(
    ("verdict", "state"),
    [("delivered", "delivered"), ("pending", "cancelled"), ("dead", "cancelled")],
)
async def test_a_cancelled_attempt_is_the_last(world: World, verdict: str, state: str) -> None:
    """Its answer still counts: what the customer acknowledged was delivered."""
    one = await straight(world, "a")
    shown = await world.store.cancel(TENANT, one.id, now_ms=world.now_ms)
    assert shown.state == "sending"
    assert await world.settle(one, verdict)  # type: ignore[arg-type]  # parametrised
    shown = await world.get(one.id)
    assert (shown.state, shown.finished_ms, shown.due_ms) == (state, world.now_ms, None)
    assert world.store.queued() == 0


@pytest.mark.parametrize("how", ["release", "reclaim", "take_over"])
async def test_a_cancelled_attempt_without_result_is_cancelled(world: World, how: str) -> None:
    one = await straight(world, "a")
    await world.store.cancel(TENANT, one.id, now_ms=world.now_ms)
    world.tick(LEASE_MS)
    if how == "release":
        await world.store.release([one], now_ms=world.now_ms)
    else:
        await getattr(world.store, how)(now_ms=world.now_ms)
    assert (await world.get(one.id)).state == "cancelled"


# --- 410 ---


async def test_gone_disables_a_registered_destination_and_dooms_its_backlog(world: World) -> None:
    await world.register("named")
    ids = await world.many(5, name="named")
    one = await world.one()
    assert await world.settle(one, "dead", code=410, gone=True)
    shown = await world.destination("named")
    assert shown.disabled_reason == "it answered 410 Gone"
    assert await world.claim() == []
    await raises(DestinationDisabled, world.submit("new", name="named"))
    assert await world.store.expire(now_ms=world.now_ms, limit=100) == 4
    assert await world.states(ids) == ["dead"] * 5
    assert {(await world.get(one)).last_error for one in ids} == {"disabled", "http_410"}


async def test_gone_ends_only_that_callback_where_nobody_registered_the_url(world: World) -> None:
    await world.many(2)
    await world.settle(await world.one(), "dead", code=410, gone=True)
    assert (await world.destination()).disabled_reason is None
    assert len(await world.claim()) == 1


# --- what lanes learn ---


async def test_a_timeout_shrinks_the_lane_to_one_slot_and_answers_grow_it(build: Build) -> None:
    world = await build(destination_concurrency=16)
    await world.many(60)
    first, *others = await world.claim()
    await world.settle(first, "dead", kind="timeout")
    for other in others:
        await world.settle(other, "dead", kind="timeout")
    sizes = []
    for _ in range(6):
        got = await world.claim()
        sizes.append(len(got))
        for one in got:
            await world.settle(one, "delivered")
    assert sizes == [1, 2, 4, 8, 16, 16]


async def test_the_circuit_opens_holds_one_row_and_lets_one_probe_out(world: World) -> None:
    await world.many(30)
    await fail(world, 20, every_ms=3_200)
    shown = await world.destination()
    assert shown.circuit_open
    assert (shown.held_reason, shown.failures) == ("circuit", 20)
    assert shown.backlog == 30
    opened_ms = world.now_ms
    assert await world.claim() == []
    assert world.next_ready_ms() == opened_ms + 5_000  # the middle of ±20 %
    world.now_ms = opened_ms + 5_000
    assert len(await world.claim()) == 1


async def test_each_failed_probe_doubles_the_hold_up_to_five_minutes(world: World) -> None:
    await world.many(30)
    await fail(world, 20, every_ms=3_200)
    holds = []
    for _ in range(8):
        at_ms = world.next_ready_ms()
        assert at_ms is not None
        holds.append(at_ms - world.now_ms)
        await fail(world, 1)
    assert holds == [5_000, 10_000, 20_000, 40_000, 80_000, 160_000, 300_000, 300_000]


async def test_deliveries_behind_an_open_circuit_spend_no_tries(world: World) -> None:
    ids = await world.many(30)
    await fail(world, 20, every_ms=3_200)
    world.tick(3_600_000)
    tries = sorted([(await world.get(one)).tries for one in ids])
    assert sum(tries) == 20


async def test_a_successful_probe_closes_the_circuit(world: World) -> None:
    await world.many(30)
    await fail(world, 20, every_ms=3_200)
    world.now_ms = world.next_ready_ms() or 0
    await world.settle(await world.one())
    shown = await world.destination()
    assert (shown.circuit_open, shown.failures, shown.held_until_ms) == (False, 0, None)
    assert len(await world.claim()) == 2


async def test_a_replay_clears_the_circuit(world: World) -> None:
    dead = await world.ended("old")
    await world.many(30)
    await fail(world, 20, every_ms=3_200)
    assert await world.claim() == []
    await world.store.replay(TENANT, dead, now_ms=world.now_ms)
    assert not (await world.destination()).circuit_open
    assert len(await world.claim()) == 1


async def test_pausing_and_resuming_clears_the_circuit(world: World) -> None:
    await world.many(30)
    await fail(world, 20, every_ms=3_200)
    await world.change(paused=True)
    await world.change(paused=False)
    shown = await world.destination()
    assert (shown.circuit_open, shown.held_reason) == (False, None)
    assert len(await world.claim()) == 1


async def test_client_errors_never_open_the_circuit(world: World) -> None:
    await world.many(1)
    for _ in range(40):
        world.tick(5_000)
        await world.settle(await world.one(), "pending", code=404)
    assert not (await world.destination()).circuit_open


@pytest.mark.parametrize(("code", "held"), [(429, True), (503, True), (500, False), (404, False)])
async def test_retry_after_holds_the_lane_for_429_and_503(
    world: World, code: int, held: bool
) -> None:
    await world.many(3)
    await world.settle(await world.one(), "dead", code=code, retry_after_ms=9_000)
    assert bool(await world.claim()) is not held
    shown = await world.destination()
    assert shown.held_reason == ("retry-after" if held else None)
    assert shown.held_until_ms == (world.now_ms + 9_000 if held else None)


async def test_being_turned_away_spends_no_try_and_is_in_the_history(world: World) -> None:
    one = await straight(world, "a")
    for n in range(3):
        await world.settle(one, "pending", code=429, due_in_ms=1_000, spent=False)
        shown = await world.get(one.id)
        assert (shown.state, shown.attempts, shown.tries) == ("pending", n + 1, 0)
        assert shown.last_error == "http_429"
        world.now_ms = max(world.now_ms + 1_000, (await world.destination()).held_until_ms or 0)
        one = await world.one()
    history = await world.store.attempts(TENANT, one.id)
    assert {(met.outcome, met.status_code) for met in history} == {("rejected", 429)}
    assert len(history) == 3


async def test_what_we_could_not_send_is_in_the_history_and_nowhere_else(world: World) -> None:
    """D21: no try spent, nothing learned of lane and server, no failure in the figures; not even
    beside a server that fails, whose count it neither ends nor goes on with."""
    await world.submit()
    await fail(world, 19)
    await world.store.cancel(TENANT, (await world.search())[0], now_ms=world.now_ms)
    assert (await world.destination()).failures == 19
    ours = [await straight(world, f"ours-{n}", url=f"{URL}/{n}") for n in range(30)]
    for one in ours:
        failed = (await world.store.stats(TENANT)).failed_attempts_per_second
        await world.settle(one, "pending", kind="interrupted", due_in_ms=1_000, spent=False)
        assert (await world.store.stats(TENANT)).failed_attempts_per_second == failed
        shown = await world.get(one.id)
        assert (shown.state, shown.attempts, shown.tries) == ("pending", 1, 0)
        assert shown.last_error == "interrupted"
    one = ours[-1]
    (met,) = await world.store.attempts(TENANT, one.id)
    assert met.outcome == "interrupted"
    after = await world.destination()
    assert (after.failures, after.circuit_open, after.held_until_ms) == (19, False, None)
    world.tick(1_000)
    claimed = await world.claim(slots=100)
    assert {(again.tries, again.turned_away_ms) for again in claimed} == {(0, None)}


async def test_a_delivery_remembers_how_often_it_alone_was_turned_away(world: World) -> None:
    """While others of its lane are answered; and since when. A replay starts anew."""
    one = await straight(world, "a")
    first_ms = world.now_ms
    for n in range(3):
        await world.settle(one, "pending", code=429, due_in_ms=9_000, spent=False)
        world.tick(8_000)
        if n != 1:  # nobody else is answered in the second round
            await world.settle(await straight(world, f"other-{n}"), "delivered")
        world.tick(1_000)
        one = await world.one()
        assert one.turned_away == (1, 2, 2)[n]
        assert one.turned_away_ms == first_ms
    await world.settle(one, "dead")
    await world.store.replay(TENANT, one.id, now_ms=world.tick())
    again = await world.one()
    assert (again.turned_away, again.turned_away_ms) == (0, None)


async def test_a_peer_that_turns_away_is_left_alone(world: World) -> None:
    await world.many(3)
    await world.settle(await world.one(), "pending", code=429, due_in_ms=1_500, spent=False)
    assert await world.claim() == []
    shown = await world.destination()
    assert shown.held_reason == "turned-away"
    assert shown.held_until_ms == world.now_ms + 1_000


@pytest.mark.parametrize("how", ["replay", "resume", "replays"])
@pytest.mark.parametrize("asked_ms", [None, 3_600_000])
async def test_no_operator_clears_what_a_peer_asked_for(
    world: World, how: str, asked_ms: int | None
) -> None:
    dead = await world.ended("old")
    await world.many(20)
    await world.settle(await world.one(), "dead", code=429, retry_after_ms=asked_ms)
    before = await world.destination()
    if how == "replay":
        await world.store.replay(TENANT, dead, now_ms=world.now_ms)
    elif how == "replays":
        made = await world.store.make_replay(
            TENANT, Filter(status="dead"), rate_per_second=None, now_ms=world.now_ms
        )
        await world.store.feed_replay(made.id, limit=5, now_ms=world.now_ms)
    else:
        await world.change(paused=True)
        await world.change(paused=False)
    after = await world.destination()
    assert (after.held_until_ms, after.held_reason) == (before.held_until_ms, before.held_reason)
    assert await world.claim() == []


async def test_a_lane_is_held_no_longer_than_the_delivery_may_live_that_was_told_to_wait(
    world: World,
) -> None:
    one = await straight(world, "a")
    await world.settle(one, "pending", code=503, retry_after_ms=9_999_000, due_in_ms=5_000)
    world.tick(5_000)
    assert (await world.one()).id == one.id


# --- results that come late ---


async def retargeted(world: World, how: str) -> None:
    if how == "url":
        await world.change("named", url=URL + "/new")
    elif how == "resume":
        await world.change("named", paused=True)
        await world.change("named", paused=False)
    elif how == "enable":
        await world.change("named", disabled_reason="by an operator")
        await world.change("named", disabled_reason=None)
    elif how == "disable":
        await world.change("named", disabled_reason="by an operator")


@pytest.mark.parametrize("how", ["url", "resume", "enable", "disable"])
@pytest.mark.parametrize("handover", [True, False])
async def test_what_an_attempt_meets_says_nothing_of_a_destination_changed_since(
    world: World, how: str, handover: bool
) -> None:
    """It is recorded for its delivery; the lane learns nothing, and is not disabled."""
    await world.register("named")
    submits = [await world.submit(f"a{n}", name="named", handover=handover) for n in range(4)]
    deliveries = [one.delivery for one in submits if one.delivery] or await world.claim()
    gone, busy, hung, slow = deliveries
    await retargeted(world, how)
    before = await world.destination("named")
    assert await world.settle(gone, "dead", code=410, gone=True)
    assert await world.settle(busy, "dead", code=429, retry_after_ms=3_600_000)
    assert await world.settle(hung, "dead", kind="timeout")
    assert await world.settle(slow, "dead", code=503, retry_after_ms=3_600_000)
    assert await world.states([one.id for one in deliveries]) == ["dead"] * 4
    after = await world.destination("named")
    assert (after.disabled_reason, after.failures) == (before.disabled_reason, 0)
    assert (after.held_until_ms, after.held_reason) == (None, None)
    if how != "disable":
        await world.many(12, "new", name="named")
        assert len(await world.claim()) == 8  # its window is whole


async def test_results_of_a_removed_destination_are_recorded(world: World) -> None:
    await world.register("named")
    one = await straight(world, "a", name="named")
    await world.store.remove_destination(TENANT, "named", now_ms=world.now_ms)
    assert await world.settle(one, "dead", code=410, gone=True)
    assert (await world.get(one.id)).last_error == "http_410"
    await world.register("named")
    assert (await world.destination("named")).disabled_reason is None


async def test_another_url_begins_with_a_clean_lane(world: World) -> None:
    await world.register("named")
    await world.many(3, name="named")
    await world.settle(await world.one(), "dead", code=503, retry_after_ms=3_600_000)
    assert await world.claim() == []
    await world.change("named", url=URL)  # the same
    assert await world.claim() == []
    await world.change("named", url=URL + "/new")
    assert len(await world.claim()) == 2


async def test_one_lanes_trouble_is_its_own(world: World) -> None:
    """I6."""
    await world.many(3)
    await world.submit("b", url=URL + "/other")
    got = await world.claim()
    for one in got:
        if one.url == URL:
            await world.settle(one, "pending", kind="timeout", due_in_ms=50)
        else:
            await world.settle(one, "delivered")
    await world.many(9, "more", url=URL + "/other")
    assert len(await world.claim()) >= 8


async def test_a_commits_settlements_free_slots_for_its_claims(world: World) -> None:
    await world.many(9)
    first, *_ = await world.claim()
    settled, claimed = await asyncio.gather(world.settle(first), world.claim())
    assert settled
    assert len(claimed) <= 1  # it may have been ready too late to be looked at
    assert len(claimed) + len(await world.claim()) == 1

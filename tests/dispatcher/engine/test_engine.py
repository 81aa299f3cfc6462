"""The engine: work goes out at once or on time, is settled whatever happens, and ends in order."""

import asyncio
from collections import Counter
from pathlib import Path

import pytest

from dispatcher.store.errors import StoreFull, StoreUnavailable
from dispatcher.store.requests import Settlement
from dispatcher.values import Delivery
from receiver.base.clock import now_ms
from tests.dispatcher.engine.rig import QUICK, rigged
from tests.dispatcher.store.builders import callback

URLS = "http://127.0.0.1:9/{n}"


async def test_a_submit_to_an_idle_lane_goes_straight_to_the_sender(tmp_path: Path) -> None:
    """D6: without a claim."""
    async with rigged(tmp_path) as rig:
        await rig.woken()
        before = rig.claims
        submitted = await rig.submit()
        assert submitted.state == "sending"
        await rig.idle()
        assert [one.id for one in rig.script.sent] == [submitted.id]
        assert (await rig.get(submitted.id)).state == "delivered"
        assert rig.claims == before


async def test_what_finds_no_slot_is_claimed_when_one_is_free(tmp_path: Path) -> None:
    async with rigged(tmp_path, slots=4) as rig:
        rig.script.hold()
        ids = await rig.many(12, url=URLS)
        await rig.script.reached(3)
        rig.script.go.set()
        await rig.idle()
        assert Counter(one.id for one in rig.script.sent) == Counter(ids)


async def test_a_retry_goes_out_on_time_and_nothing_polls_for_it(tmp_path: Path) -> None:
    async with rigged(tmp_path) as rig:
        rig.script.codes = [500, 500]
        one = await rig.submit(policy=QUICK)
        await rig.script.reached(1)
        before = rig.claims
        await rig.idle()
        assert (await rig.get(one.id)).state == "delivered"
        waits = [rig.script.at_ms[n + 1] - rig.script.at_ms[n] for n in range(2)]
        assert all(150 <= wait < 600 for wait in waits), waits
        assert [one.attempt for one in rig.script.sent] == [1, 2, 3]
        assert rig.claims - before <= 4


async def test_an_idle_engine_asks_for_nothing(tmp_path: Path) -> None:
    async with rigged(tmp_path) as rig:
        await rig.woken()
        await rig.submit()
        await rig.idle()
        before = rig.claims
        await asyncio.sleep(0.2)  # long enough for a poller to show itself
        assert rig.claims == before


async def test_tries_end_and_the_delivery_is_dead(tmp_path: Path) -> None:
    async with rigged(tmp_path) as rig:
        rig.script.codes = [500, 500, 500]
        one = await rig.submit(policy=QUICK)
        await rig.idle()
        shown = await rig.get(one.id)
        assert (shown.state, shown.attempts, shown.last_error) == ("dead", 3, "http_500")


# --- limits ---


async def test_slots_are_never_exceeded(tmp_path: Path) -> None:
    """I7: by neither way in, nor by both together."""
    async with rigged(tmp_path, slots=8) as rig:
        for turn in range(5):
            await asyncio.gather(
                *(rig.submit(f"{turn}-{n}", tenant=f"t{n % 8}") for n in range(60)),
                *(rig.submit(f"{turn}-{n}", url=URLS.format(n=n)) for n in range(20)),
            )
        await rig.idle()
        assert rig.script.most <= 8
        assert rig.engine.in_flight == 0


async def test_a_tenant_alone_leaves_a_quarter_of_the_slots(tmp_path: Path) -> None:
    async with rigged(tmp_path, slots=16) as rig:
        rig.script.hold()
        await rig.many(30, url=URLS)
        await rig.script.reached(12)
        await rig.claimed_in_vain()
        assert rig.script.most == 12
        assert (await rig.submit("other", tenant="t1")).state == "sending"
        rig.script.go.set()
        await rig.idle()


async def test_silent_destinations_do_not_keep_others_from_slots(tmp_path: Path) -> None:
    """I6: what waits for the one is no obstacle to the other."""
    async with rigged(tmp_path, slots=16) as rig:
        rig.script.hold()
        await asyncio.gather(*(rig.submit(f"{n}", tenant="t0") for n in range(40)))
        await rig.script.reached(8)
        for n in range(1, 4):
            assert (await rig.submit("quick", tenant=f"t{n}")).state == "sending"
        rig.script.go.set()
        await rig.idle()


async def test_payload_in_memory_is_bounded(tmp_path: Path) -> None:
    """I7: of one tenant three quarters of what there may be in all."""
    async with rigged(tmp_path, in_flight_bytes_max=2**20) as rig:
        rig.script.hold()
        await asyncio.gather(
            *(
                rig.submit(f"{n}", url=f"http://127.0.0.1:9/{n}", body=b"x" * 2**16)
                for n in range(20)
            )
        )
        await rig.script.reached(12)
        await rig.claimed_in_vain()
        assert sum(len(one.body) for one in rig.script.sent) == 2**20 * 3 // 4
        rig.script.go.set()
        await rig.idle()


# --- settling ---


@pytest.mark.parametrize("error", [StoreUnavailable("test"), StoreFull("test")])
async def test_an_answer_is_recorded_however_often_the_store_fails(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    """The customer's answer is not forgotten, and nothing is sent again for it."""
    async with rigged(tmp_path) as rig:
        settle, failures = rig.store.settle, iter(range(2))

        async def failing(settlement: Settlement) -> bool:
            for _ in failures:
                raise error
            return await settle(settlement)

        monkeypatch.setattr(rig.store, "settle", failing)
        one = await rig.submit()
        await rig.idle()
        assert (await rig.get(one.id)).state == "delivered"
        assert len(rig.script.sent) == 1


async def test_a_late_result_is_discarded_and_counted(tmp_path: Path) -> None:
    """I4."""
    async with rigged(tmp_path) as rig:
        rig.script.hold()
        rig.script.codes = [500, 200]
        one = await rig.submit()
        await rig.script.reached(1)
        # As if its lease had ended: the reclaimer that takes all does not look at the clock.
        assert await rig.store.take_over(now_ms=now_ms()) == 1
        await rig.script.reached(2)
        rig.script.go.set()
        await rig.idle()
        assert [sent.fence for sent in rig.script.sent] == [1, 2]
        assert rig.figure("dispatcher_stale_settlements_total") == 1
        shown = await rig.get(one.id)
        assert (shown.state, shown.attempts) == ("delivered", 1)


# --- callers that go away ---


@pytest.mark.parametrize("steps", [0, 1, 2, 5])
async def test_a_caller_that_goes_away_loses_no_delivery(tmp_path: Path, steps: int) -> None:
    """I2: whenever it went, what was stored is delivered and its slot given back."""
    async with rigged(tmp_path) as rig:
        new = callback("a", now_ms=now_ms())
        submitting = asyncio.create_task(rig.engine.submit(new))
        for _ in range(steps):
            await asyncio.sleep(0)
        submitting.cancel()
        await asyncio.wait({submitting})
        again = await rig.submit("a")
        await rig.idle()
        assert (await rig.get(again.id)).state == "delivered"
        assert len(rig.script.sent) == 1
        assert rig.engine.in_flight == 0


async def test_a_refused_submit_gives_its_slot_back(tmp_path: Path) -> None:
    async with rigged(tmp_path) as rig:
        for n in range(3):
            with pytest.raises(Exception, match="no destination named"):
                await rig.submit(f"{n}", name="nobody")
        assert rig.engine.in_flight == 0


@pytest.mark.parametrize("error", [StoreUnavailable("test"), RuntimeError("test")])
async def test_claiming_goes_on_after_a_failure_of_any_kind(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    """I2: one bad moment does not leave everything that waits stuck."""
    monkeypatch.setattr("dispatcher.engine.claiming._RETRY_S", 0.01)
    async with rigged(tmp_path, started=False) as rig:
        await rig.store.submit(callback("waiting", now_ms=now_ms()), handover=False)
        claim, failures = rig.store.claim, iter(range(1))

        async def failing(ask: object) -> list[Delivery]:
            for _ in failures:
                raise error
            return await claim(ask)  # type: ignore[arg-type]  # handed through

        monkeypatch.setattr(rig.store, "claim", failing)
        rig.engine.start()
        await rig.idle()
        assert len(rig.script.sent) == 1


# --- the end ---


async def test_draining_finishes_what_is_in_flight(tmp_path: Path) -> None:
    async with rigged(tmp_path, drain_grace=10) as rig:
        rig.script.hold()
        ids = await rig.many(5, url=URLS)
        await rig.script.reached(5)
        draining = asyncio.create_task(rig.engine.drain())
        await asyncio.sleep(0)
        assert not rig.engine.ready
        rig.script.go.set()
        await draining
        assert {(await rig.get(one)).state for one in ids} == {"delivered"}
        assert len(rig.script.sent) == 5


async def test_after_the_grace_the_rest_is_handed_back_unspent(tmp_path: Path) -> None:
    async with rigged(tmp_path, drain_grace=0.05) as rig:
        rig.script.hold()
        ids = await rig.many(3, url=URLS)
        await rig.script.reached(3)
        await rig.engine.drain()
        for one in ids:
            shown = await rig.get(one)
            assert (shown.state, shown.tries, shown.attempts) == ("pending", 0, 0)
        assert rig.engine.in_flight == 0
        assert len(rig.script.sent) == 3


async def test_a_draining_engine_stores_and_sends_nothing_new(tmp_path: Path) -> None:
    async with rigged(tmp_path) as rig:
        await rig.engine.drain()
        one = await rig.submit()
        assert (one.state, one.delivery) == ("pending", None)
        assert rig.script.sent == []


async def test_draining_waits_for_what_is_just_being_stored(tmp_path: Path) -> None:
    """A delivery handed over by the last commit is finished, not left leased."""
    async with rigged(tmp_path, drain_grace=10) as rig:
        submitting = asyncio.create_task(rig.submit())
        await asyncio.sleep(0)
        await rig.engine.drain()
        assert submitting.done()
        assert (await rig.get((await submitting).id)).state == "delivered"
        assert rig.engine.in_flight == 0


async def test_draining_waits_for_a_claim_that_is_under_way(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with rigged(tmp_path, started=False, drain_grace=10) as rig:
        ids = [
            (await rig.store.submit(callback(str(n), now_ms=now_ms()), handover=False)).id
            for n in range(3)
        ]
        claim, asked, go_on = rig.store.claim, asyncio.Event(), asyncio.Event()

        async def slow(ask: object) -> list[Delivery]:
            got = await claim(ask)  # type: ignore[arg-type]  # handed through
            asked.set()
            await go_on.wait()
            return got

        monkeypatch.setattr(rig.store, "claim", slow)
        rig.engine.start()
        await asked.wait()
        draining = asyncio.create_task(rig.engine.drain())
        await asyncio.sleep(0)
        go_on.set()
        await draining
        assert {(await rig.get(one)).state for one in ids} == {"delivered"}


async def test_a_store_that_fails_at_the_end_does_not_keep_the_rest_from_closing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with rigged(tmp_path, drain_grace=0.02) as rig:

        async def failing(*_args: object, **_more: object) -> None:
            raise StoreUnavailable("test")

        monkeypatch.setattr(rig.store, "release", failing)
        rig.script.hold()
        await rig.submit()
        await rig.script.reached(1)
        await rig.engine.drain()
        assert rig.engine.in_flight == 0

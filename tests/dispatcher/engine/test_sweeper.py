"""What happens on its own: ended leases, maximum ages, retention and replays."""

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, cast

import pytest

from dispatcher.engine.replayer import Replayer
from dispatcher.engine.sweeper import Sweeper
from dispatcher.filters import Filter
from dispatcher.metrics import Metrics
from dispatcher.policy import Policy, dump
from dispatcher.settings import Settings
from dispatcher.store.errors import NotFound, StoreUnavailable
from dispatcher.store.store import Store
from dispatcher.values import Replay
from receiver.base.clock import now_ms
from tests.dispatcher.engine.rig import Rig, rigged
from tests.dispatcher.store.builders import TENANT, callback

ONCE = dump(Policy(attempts=1))
DEAD = Filter(status="dead")


@asynccontextmanager
async def kept(rig: Rig) -> AsyncIterator[Replayer]:
    sweeper = Sweeper(rig.settings, rig.store, rig.metrics)
    replayer = Replayer(rig.settings, rig.store)
    sweeper.start()
    replayer.start()
    try:
        yield replayer
    finally:
        await replayer.stop()
        await sweeper.stop()


async def dead(rig: Rig, count: int) -> list[str]:
    rig.script.codes = [500] * count
    ids = await rig.many(count, policy=ONCE)
    await rig.idle()
    await asyncio.sleep(0.002)  # a replay's set is what was final before its millisecond
    return ids


async def make(rig: Rig, rate: float | None = None) -> Replay:
    return await rig.store.make_replay(TENANT, DEAD, rate_per_second=rate, now_ms=now_ms())


async def replayed(rig: Rig, made: Replay) -> Replay:
    async def done() -> bool:
        return (await rig.store.get_replay(TENANT, made.id)).state == "done"

    await rig.until(done)
    return await rig.store.get_replay(TENANT, made.id)


async def test_a_lease_that_ended_is_taken_back(tmp_path: Path) -> None:
    """I2: a result that never comes does not keep a delivery."""
    async with rigged(tmp_path, sweep_interval=0.05) as rig, kept(rig):
        new = callback("a", now_ms=now_ms() - 3_600_000, policy=ONCE)
        lost = (await rig.store.submit(new, handover=True)).delivery
        assert lost is not None
        await rig.idle()
        assert (await rig.get(new.id)).state == "delivered"
        assert [one.fence for one in rig.script.sent] == [2]
        assert rig.figure("dispatcher_reclaimed_total") == 1


async def test_a_delivery_past_its_age_ends_while_its_lane_is_held(tmp_path: Path) -> None:
    async with rigged(tmp_path, sweep_interval=0.05) as rig, kept(rig):
        old = callback("old", now_ms=now_ms() - 5_000, policy=dump(Policy(attempts=5, max_age=1)))
        await rig.submit("makes-the-lane")
        await rig.idle()
        await rig.store.change_destination(
            TENANT, old.destination, {"paused": True}, now_ms=now_ms()
        )
        await rig.store.submit(old, handover=False)
        await rig.idle()
        shown = await rig.get(old.id)
        assert (shown.state, shown.last_error) == ("dead", "expired")


async def test_retention_goes_on_by_itself(tmp_path: Path) -> None:
    periods: dict[str, Any] = {
        "keep_delivered_payload": 0.1,
        "keep_delivered": 0.2,
        "keep_keys": 0.1,
    }
    async with rigged(tmp_path, sweep_interval=0.05, **periods) as rig, kept(rig):
        one = await rig.submit()
        await rig.idle()

        async def gone() -> bool:
            try:
                await rig.get(one.id)
            except NotFound:
                return True
            return False

        await rig.until(gone)


class Busy:
    """A store of which each verb has so many slices to do, and that notes their order."""

    committed = 0

    def __init__(self, **slices: int) -> None:
        self.slices = slices
        self.calls: list[str] = []
        self.done = asyncio.Event()

    def __getattr__(self, verb: str) -> Any:
        async def act(*_: object, **__: object) -> Any:
            await asyncio.sleep(0)
            self.calls.append(verb)
            left = self.slices.get(verb, 0)
            self.slices[verb] = max(0, left - 1)
            if not any(self.slices.values()):
                self.done.set()
            if verb == "hasten":
                return 0, (1, "") if left else None
            if verb == "repair_lanes":
                return 0, None
            return {"prune": 200, "expire": 200, "shrink": 256}.get(verb, 0) if left else 0

        return act


async def swept(busy: Busy, interval_s: float) -> list[str]:
    """The calls until all was done, with a clock that moves a millisecond each time it is read."""
    now_ms = [0]

    def tick() -> int:
        now_ms[0] += 1
        return now_ms[0]

    sweeper = Sweeper(
        Settings(sweep_interval=interval_s),
        cast(Store, busy),
        Metrics(),
        clock=lambda: now_ms[0],
        monotonic_ms=tick,
    )
    sweeper.start()
    async with asyncio.timeout(60):
        await busy.done.wait()
    await sweeper.stop()
    return busy.calls


async def test_what_there_is_much_of_keeps_nothing_else_waiting() -> None:
    """Retention, maximum ages and the clock's walk go on in turn, slice by slice, and space is
    given back once retention is done."""
    calls = await swept(Busy(prune=40, expire=20, hasten=10, shrink=3), 3600)
    busy = [verb for verb in calls if verb in ("prune", "expire", "hasten")]
    assert busy[:30] == ["hasten", "expire", "prune"] * 10
    assert busy[30:52] == ["hasten", *["expire", "prune"] * 10, "expire"][:22]
    assert calls.index("shrink") > max(n for n, verb in enumerate(calls) if verb == "prune")
    assert calls.count("shrink") >= 3


async def test_a_prune_that_does_not_end_delays_no_lease_and_no_age() -> None:
    """What ended in the meantime is looked for after each interval, as if nothing else was due."""
    busy = Busy(prune=3_000)
    calls = await swept(busy, 0.05)
    assert calls.count("reclaim") >= 3
    between = calls[calls.index("reclaim") + 1 :]
    assert between.index("reclaim") < between.count("prune")
    assert calls.count("expire") == calls.count("reclaim")


async def test_a_replay_is_fed_and_delivered(tmp_path: Path) -> None:
    async with rigged(tmp_path) as rig, kept(rig) as replayer:
        ids = await dead(rig, 5)
        made = await make(rig)
        replayer.wake()
        done = await replayed(rig, made)
        assert (done.replayed, done.skipped) == (5, 0)
        await rig.idle()
        assert {(await rig.get(one)).state for one in ids} == {"delivered"}


async def test_a_replay_goes_on_after_a_restart(tmp_path: Path) -> None:
    """Nobody has to ask for it again."""
    async with rigged(tmp_path) as rig:
        ids = await dead(rig, 5)
        made = await make(rig)
        await rig.store.feed_replay(made.id, limit=2, now_ms=now_ms())
    async with rigged(tmp_path) as rig, kept(rig):
        assert (await replayed(rig, made)).replayed == 5
        await rig.idle()
        assert {(await rig.get(one)).state for one in ids} == {"delivered"}


async def test_a_replay_keeps_its_rate(tmp_path: Path) -> None:
    async with rigged(tmp_path) as rig, kept(rig) as replayer:
        await dead(rig, 4)
        made = await make(rig, rate=20.0)
        began_ms = now_ms()
        replayer.wake()
        await replayed(rig, made)
        assert now_ms() - began_ms >= 3 / 20 * 1000


async def test_a_replay_outlives_a_store_that_fails_for_a_while(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whether the failure meets the search for replays or the feeding of one."""
    monkeypatch.setattr("dispatcher.engine.replayer._RETRY_S", 0.01)
    async with rigged(tmp_path, sweep_interval=0.05) as rig:
        await dead(rig, 3)
        made = await make(rig)
        find, feed = rig.store.running_replays, rig.store.feed_replay
        failures = {"find": 1, "feed": 2}

        async def finding(**page: Any) -> Sequence[Replay]:
            if failures["find"]:
                failures["find"] -= 1
                raise StoreUnavailable("test")
            return await find(**page)

        async def feeding(replay: str, *, limit: int, now_ms: int, tenant: str) -> Replay:
            if failures["feed"]:
                failures["feed"] -= 1
                raise (StoreUnavailable if failures["feed"] else RuntimeError)("test")
            return await feed(replay, limit=limit, now_ms=now_ms, tenant=tenant)

        monkeypatch.setattr(rig.store, "running_replays", finding)
        monkeypatch.setattr(rig.store, "feed_replay", feeding)
        async with kept(rig):
            assert (await replayed(rig, made)).replayed == 3

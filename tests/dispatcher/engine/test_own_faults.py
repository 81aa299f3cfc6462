"""Our own lack is ours (D21): it is handed back unspent, and nothing is sent too late."""

import asyncio
import errno
from collections.abc import Sequence
from pathlib import Path

import pytest

from dispatcher.engine.faults import Faults, stored_secret_pause_ms
from dispatcher.metrics import Metrics
from dispatcher.outcome import Outcome
from dispatcher.signing import SecretCache, Secrets
from dispatcher.store.errors import StoreUnavailable
from dispatcher.store.requests import Settlement
from dispatcher.values import Delivery, SecretRef, SigningSecret, StoredSecret
from receiver.base.clock import now_ms
from receiver.base.db.readers import Reader
from tests.dispatcher.engine.rig import QUICK, Rig, Script, rigged
from tests.dispatcher.store.builders import TENANT, World, outcome, secret


class Clock:
    """A monotonic clock that the test moves."""

    def __init__(self) -> None:
        self.ms = 1_000_000

    def __call__(self) -> int:
        return self.ms


class Vault:
    """Secrets, once they may be read; until then reading fails, or hangs."""

    def __init__(self, *, hangs: bool = False) -> None:
        self.go = asyncio.Event()
        self.asked = asyncio.Event()
        self._hangs = hangs

    async def read(self, tenant: str) -> Sequence[SigningSecret]:
        self.asked.set()
        if self._hangs:
            await self.go.wait()
        elif not self.go.is_set():
            raise StoreUnavailable("the test says so")
        return [secret(tenant)]


async def recorded(rig: Rig, one: str, count: int) -> list[str]:
    """Until history holds so many attempts: their outcomes."""

    async def there() -> bool:
        return len(await rig.store.attempts(TENANT, one)) >= count

    await rig.until(there)
    return [attempt.outcome for attempt in await rig.store.attempts(TENANT, one)]


@pytest.mark.parametrize(
    ("error", "lack"),
    [
        (OSError(errno.EMFILE, "test"), "descriptors"),
        (OSError(errno.ENOBUFS, "test"), "memory"),
        (MemoryError(), "memory"),
        (RuntimeError("can't start new thread"), "threads"),
        (ValueError("a bug"), "internal"),
    ],
)
async def test_what_we_could_not_send_is_tried_again_unspent(
    tmp_path: Path, error: Exception, lack: str
) -> None:
    """I2, D21: whatever kept us from it; the only try of its policy is left for the peer."""
    errors = [error]
    script = Script()

    async def send(delivery: Delivery, secrets: Secrets) -> Outcome:
        if errors:
            raise errors.pop()
        return await script.send(delivery, secrets)

    async with rigged(tmp_path, send=send) as rig:
        one = await rig.submit(policy=QUICK.replace('"attempts":3', '"attempts":1'))
        assert await recorded(rig, one.id, 1) == ["interrupted"]
        await rig.idle()
        shown = await rig.get(one.id)
        assert (shown.state, shown.attempts) == ("delivered", 2)
        assert [sent.tries for sent in script.sent] == [0]
        assert f'dispatcher_own_faults_total{{lack="{lack}"}} 1.0' in rig.metrics.render().decode()


async def test_our_own_faults_open_no_circuit_and_shrink_no_window(tmp_path: Path) -> None:
    """D21: they say nothing of the peer, nor do they count as its failures."""
    failing = True
    script = Script()

    async def send(delivery: Delivery, secrets: Secrets) -> Outcome:
        if failing:
            raise OSError(errno.EMFILE, "test")
        return await script.send(delivery, secrets)

    async with rigged(tmp_path, send=send) as rig:
        ids = await rig.many(30, url="http://127.0.0.1:9/hook")

        await recorded(rig, ids[0], 1)
        (destination,), _ = await rig.store.destinations(TENANT, after=None, limit=10)
        assert (destination.failures, destination.circuit_open) == (0, False)
        assert destination.held_until_ms is None
        stats = await rig.store.stats(TENANT)
        assert stats.failed_attempts_per_second == 0
        failing = False
        await rig.idle()
        assert {(await rig.get(one)).state for one in ids} == {"delivered"}


async def test_slow_listings_keep_no_delivery_from_its_secrets(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """I3, I6: many readings that do not end, of a tenant that may only read, and secrets that are
    read for each delivery: all go out, once."""
    monkeypatch.setattr("dispatcher.signing._FRESH_MS", 0)
    endless = "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n) SELECT max(i) FROM n"

    async with rigged(tmp_path, read_timeout=60.0) as rig:
        reads = [
            asyncio.create_task(rig.store._read(lambda tx: tx.all(endless), Reader("t7")))
            for _ in range(50)
        ]
        await asyncio.sleep(0)
        async with asyncio.timeout(30):  # half of what the listings may take
            ids = [(await rig.submit(f"job-{n}", tenant=f"t{n % 3}")).id for n in range(12)]
            await rig.idle()
        assert not any(one.done() for one in reads)
        assert sorted(one.id for one in rig.script.sent) == sorted(ids)
        for one in reads:
            one.cancel()
        await asyncio.wait(reads)


async def test_a_delivery_waits_for_its_secrets_while_its_lease_lasts(tmp_path: Path) -> None:
    """I2: a read that fails is repeated, and the attempt is made, once."""
    vault = Vault()
    async with rigged(tmp_path, secrets=SecretCache(vault.read)) as rig:
        one = await rig.submit()
        await vault.asked.wait()
        vault.go.set()
        await rig.idle()
        assert [sent.id for sent in rig.script.sent] == [one.id]
        assert (await rig.get(one.id)).attempts == 1


@pytest.mark.parametrize("hangs", [False, True])
async def test_nothing_is_sent_that_got_its_secrets_too_late(tmp_path: Path, hangs: bool) -> None:
    """I4: an attempt that could outlast its lease is not made, but handed back unspent."""
    vault, clock = Vault(hangs=hangs), Clock()
    async with rigged(
        tmp_path, secrets=SecretCache(vault.read), monotonic_ms=clock, lease_margin=2
    ) as rig:
        one = await rig.submit()
        await vault.asked.wait()
        clock.ms += 1_001  # the attempt and its answer's body need the rest
        vault.go.set()
        if not hangs:
            vault.go.clear()  # the last reading fails too
        assert await recorded(rig, one.id, 1) == ["interrupted"]
        assert rig.script.sent == []
        vault.go.set()
        await rig.idle()
        assert [sent.tries for sent in rig.script.sent] == [0]
        assert [sent.fence for sent in rig.script.sent] == [2]


async def test_a_delivery_whose_lease_was_taken_meanwhile_is_sent_by_its_new_holder_alone(
    tmp_path: Path,
) -> None:
    """I4: who waited too long for secrets neither sends nor changes anything."""
    vault, clock = Vault(hangs=True), Clock()
    async with rigged(tmp_path, secrets=SecretCache(vault.read), monotonic_ms=clock) as rig:
        one = await rig.submit()
        await vault.asked.wait()
        clock.ms += 60_000
        assert await rig.store.take_over(now_ms=now_ms()) == 1

        async def claimed() -> bool:
            return rig.engine.in_flight == 2

        await rig.until(claimed)
        vault.go.set()
        await rig.idle()
        assert [sent.fence for sent in rig.script.sent] == [2]
        shown = await rig.get(one.id)
        assert (shown.state, shown.attempts) == ("delivered", 1)
        assert rig.figure("dispatcher_stale_settlements_total") == 1


async def test_while_nothing_can_go_out_little_is_tried(tmp_path: Path) -> None:
    """I7: neither history nor the database pays for a backlog that we cannot deliver; and all of
    it goes out once we can."""
    failing, tried = True, 0
    script = Script()

    async def send(delivery: Delivery, secrets: Secrets) -> Outcome:
        nonlocal tried
        if failing:
            tried += 1
            raise OSError(errno.EMFILE, "test")
        return await script.send(delivery, secrets)

    async with rigged(tmp_path, send=send) as rig:
        one = await rig.submit()
        await recorded(rig, one.id, 1)
        await rig.many(300, url="http://127.0.0.1:9/{n}")

        async def tried_again() -> bool:
            return tried > 4

        await rig.until(tried_again)
        assert tried <= 20
        failing = False
        await rig.idle()
        assert len(script.sent) == 301


@pytest.mark.parametrize("error", [ValueError("odd"), RuntimeError("odder"), MemoryError()])
async def test_a_result_is_recorded_whatever_settling_meets(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    """I2: not only errors that the store knows; and nothing is sent again for it."""
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


async def test_a_result_whose_texts_cannot_be_stored_is_recorded_without_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """I2: what a peer sent keeps no delivery from its end."""
    async with rigged(tmp_path) as rig:
        settle = rig.store.settle

        async def picky(settlement: Settlement) -> bool:
            if settlement.outcome.excerpt is not None:
                raise ValueError("this text is odd")
            return await settle(settlement)

        monkeypatch.setattr(rig.store, "settle", picky)
        one = await rig.submit()
        await rig.idle()
        (attempt,) = await rig.store.attempts(TENANT, one.id)
        assert (attempt.outcome, attempt.excerpt) == ("acknowledged", None)


def test_faults_in_a_row_lengthen_the_pause_and_are_told_of_now_and_then(
    caplog: pytest.LogCaptureFixture,
) -> None:
    """I7: an hour without descriptors fills neither the history nor the log."""
    faults = Faults(Metrics())
    outcome = Outcome(kind="interrupted", started_ms=0, duration_ms=0, lack="descriptors")
    pauses = [
        faults.pause_ms(outcome.lack, outcome.detail, chance=0.0, monotonic_ms=n * 10)
        for n in range(1_001)
    ]
    assert pauses[0] == 1_000
    assert pauses == sorted(pauses)
    assert pauses[-1] == 16_000
    assert len(caplog.records) == 2  # at once, and ten seconds later
    faults.none()
    assert faults.pause_ms(outcome.lack, outcome.detail, chance=0.5, monotonic_ms=0) == 1_500


def test_i7_a_delivery_without_its_header_waits_longer_each_time() -> None:
    """Nobody may store the secret for as long as the delivery lives: neither its history nor those
    of a large backlog grow by the second."""
    waits = [stored_secret_pause_ms(attempt, 0.0) for attempt in range(1, 2_200)]
    assert waits[0] == 1_000
    assert waits == sorted(waits)
    assert waits[-1] == 300_000
    assert stored_secret_pause_ms(2_199, 1.0) == 600_000
    week_ms, tried = 7 * 86_400_000, 0
    while week_ms > 0:
        week_ms -= waits[tried]
        tried += 1
    assert tried < 2_100


async def test_a_header_that_cannot_be_made_keeps_nobody_else_waiting(tmp_path: Path) -> None:
    """Neither the tenant's other destinations nor others' (I6); no try is spent, the lane learns
    nothing, and what waited goes out once it can be made (D21)."""
    there: dict[str, StoredSecret] = {}
    sent: list[tuple[str, str]] = []

    async def send(delivery: Delivery, secrets: Secrets) -> Outcome:
        assert delivery.job_id[:4] != "held" or delivery.headers == (("X-Key", "test-value"),)
        sent.append((delivery.tenant, delivery.job_id))
        return outcome(200, now_ms=now_ms())

    async with rigged(tmp_path, send=send) as rig:
        names = (("X-Key", SecretRef("crm")),)

        async def stored(_owner: str) -> dict[str, StoredSecret]:
            return dict(there)

        cache = SecretCache(rig.store.secrets, stored)
        rig.engine._secrets = cache
        world = World(make=lambda: rig.store, store=rig.store, now_ms=now_ms())
        there["crm"] = StoredSecret(name="crm", value="test-value", updated_ms=0)
        await rig.store.store_secret(TENANT, "crm", "test-value", now_ms=now_ms())
        await world.register("crm", headers=names)
        there.clear()
        held = [(await rig.submit(f"held-{n}", name="crm")).id for n in range(20)]
        for n in range(20):
            await rig.submit(f"free-{n}", tenant="t1")
            await rig.submit(f"own-{n}")

        async def others() -> bool:
            return len(sent) == 40

        await rig.until(others)
        assert not {job for _, job in sent if job.startswith("held")}
        shown = await rig.store.get_destination(TENANT, "crm")
        assert (shown.failures, shown.circuit_open, shown.held_until_ms) == (0, False, None)
        there["crm"] = StoredSecret(name="crm", value="test-value", updated_ms=0)
        cache.forget(TENANT)
        await rig.idle()
        for one in held:
            found = await rig.get(one)
            assert (found.state, found.tries) == ("delivered", 1)

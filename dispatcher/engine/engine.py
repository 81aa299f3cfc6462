"""Delivering: claim → send → judge → settle, for many at once, and an orderly end (D6, D7)."""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import replace
from functools import partial
from typing import Any, Final

from dispatcher.engine.alarm import EMPTY_CLAIM_WAIT_MS
from dispatcher.engine.claiming import RANDOM, RECORD_S, Claiming, result_of, wait_for
from dispatcher.engine.faults import INTERNAL, Faults, interrupted, stored_secret_pause_ms
from dispatcher.engine.slots import Slots
from dispatcher.metrics import Metrics
from dispatcher.outcome import Outcome
from dispatcher.policy import Verdict, attempt_outcome, judge
from dispatcher.settings import Settings
from dispatcher.signing import STORED_SECRETS, SecretCache, Secrets, with_secrets
from dispatcher.store.errors import StoreError
from dispatcher.store.requests import Settlement
from dispatcher.store.store import Store
from dispatcher.values import Delivery, NewCallback, Submitted
from receiver.base import log
from receiver.base.clock import monotonic_ms, now_ms
from receiver.base.lack import OwnLack

_LOG: Final = log.get("dispatcher.engine")
_SETTLE_RETRY_S: Final = (0.05, 0.2, 1.0)  # then every second, until it is recorded
# An error that is not the store's may be one that what the peer sent causes: after so many of them
# a result is recorded without its texts.
_ODD_ERRORS_MAX: Final = 3
_SECRETS_RETRY_S: Final = 0.2
_IDS_SHOWN: Final = 20


class Engine:
    """Takes work on while slots are free and sees each piece through to its settlement.

    `send` makes one attempt and never raises what the peer did.
    """

    def __init__(
        self,
        settings: Settings,
        store: Store,
        send: Callable[[Delivery, Secrets], Awaitable[Outcome]],
        secrets: SecretCache,
        metrics: Metrics,
        *,
        clock: Callable[[], int] = now_ms,
        chance: Callable[[], float] = RANDOM.random,
        monotonic_ms: Callable[[], int] = monotonic_ms,
    ) -> None:
        self._settings = settings
        self._store = store
        self._send = send
        self._secrets = secrets
        self._metrics = metrics
        self._clock = clock
        self._chance = chance
        self._monotonic_ms = monotonic_ms
        self._slots = Slots(settings.slots, bytes_max=settings.in_flight_bytes_max)
        self._faults = Faults(metrics)
        # A lease lasts for the timeout and this much: what is recorded by its end leaves so much
        # for what comes before the attempt.
        self._ahead_ms = round(1000 * (settings.lease_margin - settings.body_read_s))
        self._claiming = Claiming(
            self._claim,
            lambda: self._slots.free,
            self._faults,
            clock,
            monotonic_ms,
            log=_LOG,
            what="deliveries",
        )
        self._working: set[asyncio.Task[None]] = set()
        self._sending: dict[asyncio.Task[None], Delivery] = {}
        self._held: dict[asyncio.Task[None], tuple[str, int]] = {}
        self.ready = False

    @property
    def in_flight(self) -> int:
        """Attempts that run now in this process."""
        return self._slots.taken

    def held(self) -> frozenset[tuple[str, int]]:
        """Return what this process works on, from its lease to its settlement: ids and fences."""
        return frozenset(self._held.values())

    def missing_key(self) -> str | None:
        """Return what could not be sent lately, since no key of ours opens it; None where there was
        nothing."""
        return self._faults.missing_key(self._monotonic_ms())

    # --- life ---

    def start(self) -> None:
        """Begin to claim and to take submits."""
        self._claiming.start()
        self.ready = True

    def refuse_submits(self) -> None:
        """Take no more submits: the process is about to stop."""
        self.ready = False

    async def drain(self, grace_s: float | None = None) -> int:
        """Stop claiming, finish what is in flight within `grace_s` (by default the setting), and
        hand back the rest unspent.

        Results that cannot be recorded have `RECORD_S` more, then they are given up: returns how
        many. Their leases end, or the next start ends them, and they are sent again.
        """
        self.refuse_submits()
        clock = asyncio.get_running_loop().time
        ends_s = clock() + (self._settings.drain_grace if grace_s is None else grace_s)
        recorded_s = ends_s + RECORD_S
        await self._claiming.stop()
        await wait_for(self._claiming.incoming, recorded_s - clock())  # what they lease is ours
        await wait_for(self._working, ends_s - clock())
        unfinished = dict(self._sending)
        for task in unfinished:
            task.cancel()
        await wait_for(set(unfinished), recorded_s - clock())
        await asyncio.gather(
            self._release(list(unfinished.values())), wait_for(self._working, recorded_s - clock())
        )
        return self._give_up()

    def _give_up(self) -> int:
        """Forget results that could not be recorded, loudly; return how many."""
        ids = [id for task, (id, _) in self._held.items() if not task.done()]
        for task in (*self._working, *self._claiming.incoming):
            task.cancel()
        if ids:
            _LOG.error(
                "results were not recorded: these deliveries will be sent again",
                deliveries=len(ids),
                ids=ids[:_IDS_SHOWN],
            )
        return len(ids)

    async def _release(self, deliveries: Sequence[Delivery]) -> None:
        if not deliveries:
            return
        try:
            async with asyncio.timeout(RECORD_S):
                await self._store.release(deliveries, now_ms=self._clock())
        except Exception as error:
            # The rest must still be closed in order; the leases end, or the next start ends them.
            reason = str(error) or "the database does not answer"
            _LOG.warning("cannot hand back", deliveries=len(deliveries), reason=reason)
        else:
            _LOG.warning("handed back at shutdown", deliveries=len(deliveries))

    # --- what the API asks for ---

    async def submit(self, new: NewCallback) -> Submitted:
        """Store durably and start to deliver. Raises what `Store.submit` raises."""
        high, size = new.priority == "high", len(new.body)
        handover = new.not_before_ms is None and self.reserve(new.tenant, high=high, size=size)
        leased_ms = self._monotonic_ms() - max(0, self._clock() - new.created_ms)
        try:
            stored = self._claiming.follow(
                self._store.submit(new, handover=handover),
                partial(self._submitted, new, handover, leased_ms),
            )
        except BaseException:
            if handover:
                self.free(new.tenant, high=high, size=size)
            raise
        # Shielded: a caller that goes away does not keep a leased delivery from its sender.
        return await asyncio.shield(stored)

    def _submitted(
        self, new: NewCallback, handover: bool, leased_ms: int, stored: "asyncio.Future[Submitted]"
    ) -> None:
        submitted = result_of(stored)
        if submitted is not None and submitted.delivery is not None:
            self.begin(submitted.delivery, leased_ms)
        elif handover:
            self.free(new.tenant, high=new.priority == "high", size=len(new.body))

    def reserve(self, tenant: str, *, high: bool, size: int) -> bool:
        """Hold a slot for a callback that is about to be stored and may be handed straight over,
        if there is one: `begin` or `free` follows."""
        admitted = self.ready and not self._faults.until_ms
        admitted = admitted and self._slots.admits(tenant, high=high, size=size)
        if admitted:
            self._slots.take(tenant, high=high, size=size)
        return admitted

    def free(self, tenant: str, *, high: bool, size: int) -> None:
        """Let a slot go, and look for what may have it."""
        self._slots.give(tenant, high=high, size=size)
        self._claiming.on_room()

    async def probe(self, delivery: Delivery) -> Outcome:
        """Send once, outside the store."""
        started_ms = self._clock()
        try:
            secrets = await self._secrets_of(delivery)
            return await self._send(with_secrets(delivery, secrets), secrets)
        except OwnLack as error:
            return interrupted(error, started_ms=started_ms, ended_ms=self._clock())

    def wake(self) -> None:
        """Look for due work: some was made due."""
        self._claiming.wake()

    def drain_rate(self) -> float:
        """Deliveries that came to a final state a second, over the last minute."""
        return self._store.finished_per_second()

    # --- claiming ---

    def on_ready(self, next_ready_ms: int | None) -> None:
        """Take over when the store's next work is due."""
        self._claiming.on_ready(next_ready_ms)

    async def _claim(self) -> int:
        leased_ms = self._monotonic_ms()
        waiting = self._store.queued() - self._slots.taken
        ask = self._slots.ask(self._clock(), waiting=waiting)
        probes = self._faults.probes(leased_ms)
        request = ask if probes is None else replace(ask, slots=min(ask.slots, probes))
        try:
            deliveries = await self._store.claim(request)
        finally:
            self._slots.answered(ask)
        for delivery in deliveries:
            self._slots.take(delivery.tenant, high=delivery.high, size=len(delivery.body))
            self.begin(delivery, leased_ms)
        return 0 if deliveries else EMPTY_CLAIM_WAIT_MS

    # --- delivering ---

    def begin(self, delivery: Delivery, leased_ms: int) -> None:
        """Start on what was leased not earlier than `leased_ms`, by the monotonic clock, in the
        slot that was taken for it."""
        task = asyncio.create_task(self._deliver(delivery, leased_ms + self._ahead_ms))
        self._working.add(task)
        self._sending[task] = delivery
        self._held[task] = delivery.id, delivery.fence
        task.add_done_callback(self._end)

    def _end(self, task: asyncio.Task[None]) -> None:
        self._working.discard(task)
        self._sending.pop(task, None)
        self._held.pop(task, None)
        if not task.cancelled() and task.exception() is not None:
            _LOG.error("delivering failed", error=repr(task.exception()))

    async def _deliver(self, delivery: Delivery, by_ms: int) -> None:
        try:
            outcome = await self._attempt(delivery, by_ms)
            self._no_longer_sending()
            settlement = self._judge(delivery, outcome)
            recorded = await self._settle(settlement)
            self._log_attempt(settlement, recorded)
        finally:
            self.free(delivery.tenant, high=delivery.high, size=len(delivery.body))

    async def _attempt(self, delivery: Delivery, by_ms: int) -> Outcome:
        """Return what an attempt met. Nothing goes out after `by_ms`, since it could not end before
        its lease (I4); that, and whatever else we fail at, is our own fault (D21)."""
        started_ms = self._clock()
        try:
            secrets = await self._secrets_in_time(delivery, by_ms)
            return await self._send(with_secrets(delivery, secrets), secrets)
        except Exception as error:
            outcome = interrupted(error, started_ms=started_ms, ended_ms=self._clock())
            if outcome.lack == INTERNAL:
                _LOG.exception("delivering failed", error, id=delivery.id)
            return outcome

    async def _secrets_in_time(self, delivery: Delivery, by_ms: int) -> Secrets:
        """Return a delivery's secrets, asked for while there is time left to use them, where there
        is something to sign."""
        if delivery.unopened is not None:
            raise OwnLack(delivery.unopened.lack, delivery.unopened.message)
        while True:
            try:
                secrets = await self._secrets_of(delivery)
            except OwnLack:
                raise  # no time that passes opens what is sealed
            except Exception as error:
                if self._monotonic_ms() > by_ms:
                    raise OwnLack("secrets", str(error)) from error
            else:
                if self._monotonic_ms() <= by_ms:
                    return secrets
                raise OwnLack("time", "too little was left of its lease")
            await asyncio.sleep(_SECRETS_RETRY_S)

    def _no_longer_sending(self) -> None:
        """From here on a shutdown waits: what was sent is recorded."""
        task = asyncio.current_task()
        if task is not None:
            self._sending.pop(task, None)

    async def _secrets_of(self, delivery: Delivery) -> Secrets:
        names = [ref.name for _, ref in delivery.secret_headers] if delivery.secret_headers else ()
        return await self._secrets.for_delivery(
            delivery.tenant, delivery.destination, self._clock(), names
        )

    def _judge(self, delivery: Delivery, outcome: Outcome) -> Settlement:
        at_ms, chance = self._clock(), self._chance()
        pause_ms = 0
        if outcome.kind != "interrupted":
            self._faults.none()
        else:
            pause_ms = self._faults.pause_ms(
                outcome.lack, outcome.detail, chance=chance, monotonic_ms=self._monotonic_ms()
            )
            if outcome.lack == INTERNAL:  # it may well happen each time
                pause_ms = max(pause_ms, delivery.policy.delay_ms(delivery.attempt, chance))
            elif outcome.lack == STORED_SECRETS:  # until somebody stores it, however many wait
                pause_ms = max(pause_ms, stored_secret_pause_ms(delivery.attempt, chance))
        verdict = judge(
            outcome,
            delivery.policy,
            tries=delivery.tries + 1,
            turned_away=delivery.turned_away,
            turned_away_ms=delivery.turned_away_ms,
            expires_ms=delivery.expires_ms,
            now_ms=at_ms,
            random=chance,
            pause_ms=pause_ms,
        )
        return Settlement(
            delivery=delivery, outcome=outcome, verdict=verdict, random=chance, now_ms=at_ms
        )

    async def _settle(self, settlement: Settlement) -> bool:
        """Retried without end, whatever it meets: an answer that the customer gave must not be
        forgotten."""
        waits = iter(_SETTLE_RETRY_S)
        odd = 0
        while True:
            try:
                return await self._store.settle(settlement)
            except StoreError as error:
                _LOG.warning("cannot settle yet", id=settlement.delivery.id, reason=str(error))
            except Exception as error:
                odd += 1
                if odd <= _ODD_ERRORS_MAX:
                    _LOG.exception("settling failed", error, id=settlement.delivery.id)
                if odd == _ODD_ERRORS_MAX:
                    bare = replace(settlement.outcome, excerpt=None, error=None)
                    settlement = replace(settlement, outcome=bare)
            await asyncio.sleep(next(waits, _SETTLE_RETRY_S[-1]))

    def _log_attempt(self, settlement: Settlement, recorded: bool) -> None:
        delivery, outcome, verdict = settlement.delivery, settlement.outcome, settlement.verdict
        if not recorded:
            self._metrics.stale_settlement()
            _LOG.warning("late result of an old claim", id=delivery.id, claim=delivery.fence)
            return
        name = attempt_outcome(outcome, delivery.policy)
        registered = delivery.destination if delivery.registered else None
        self._metrics.attempted(name, outcome, verdict, registered)
        if verdict.state == "delivered":
            self._metrics.latency(max(0, settlement.now_ms - delivery.created_ms) / 1000)
        _LOG.info("attempt", **attempt_fields(delivery, name, outcome, verdict))


def attempt_fields(
    delivery: Delivery, name: str, outcome: Outcome, verdict: Verdict
) -> dict[str, Any]:
    """Return the fields of the one line that is written about each attempt; `name` is what its
    outcome is called."""
    due_ms = verdict.due_ms
    ended_ms = outcome.started_ms + outcome.duration_ms
    return {
        "id": delivery.id,
        "tenant": delivery.tenant,
        "jobId": delivery.job_id,
        "destination": delivery.destination,
        "n": delivery.attempt,
        "outcome": name,
        "statusCode": outcome.status_code,
        "durationMs": round(outcome.duration_ms, 1),
        "state": verdict.state,
        "dueInMs": None if due_ms is None else max(0, round(due_ms - ended_ms)),
        "reason": verdict.reason,
        "detail": outcome.detail,
    }

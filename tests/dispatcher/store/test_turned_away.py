"""A herd at a peer that takes only so much: the store, the verdicts and the lane's health
together, on a clock that the test moves. Nobody is lost, and the peer is not asked much more than
it takes."""

import heapq
from collections import Counter
from dataclasses import dataclass, field
from random import Random
from typing import Final

import pytest

from dispatcher.policy import Policy, dump, judge
from dispatcher.store.requests import Settlement
from dispatcher.values import Delivery
from tests.dispatcher.store.builders import TENANT, World, outcome
from tests.dispatcher.store.conftest import Build

FIVE_TRIES: Final = dump(Policy(attempts=5, delays=(1,)))


@dataclass(slots=True)
class Limited:
    """Takes `rate` a second, turns the rest away, and answers after `rtt_ms`."""

    rate: int
    retry_after_ms: int | None = 1_000
    code: int = 429
    rtt_ms: int = 5
    posts: list[int] = field(default_factory=list)
    taken: Counter[int] = field(default_factory=Counter)  # per second

    def receive(self, now_ms: int) -> int:
        self.posts.append(now_ms)
        second = now_ms // 1_000
        if self.taken[second] >= self.rate:
            return self.code
        self.taken[second] += 1
        return 200

    def busiest_second(self) -> int:
        return max(Counter(at_ms // 1_000 for at_ms in self.posts).values())


async def deliver(world: World, peer: Limited, deliveries: list[Delivery], random: Random) -> None:
    """Until nothing waits and nothing is under way."""
    under_way: list[tuple[int, int, Delivery, int]] = []
    number = 0

    def send(delivery: Delivery) -> None:
        nonlocal number
        number += 1
        row = (world.now_ms + peer.rtt_ms, number, delivery, peer.receive(world.now_ms))
        heapq.heappush(under_way, row)

    for delivery in deliveries:
        send(delivery)
    while world.store.queued():
        ready_ms = world.next_ready_ms()
        moments = [under_way[0][0]] if under_way else []
        moments += [] if ready_ms is None else [ready_ms]
        world.now_ms = max(world.now_ms, min(moments))
        while under_way and under_way[0][0] <= world.now_ms:
            _, _, delivery, code = heapq.heappop(under_way)
            await settle(world, peer, delivery, code, random.random())
        for delivery in await world.claim():
            send(delivery)


async def settle(world: World, peer: Limited, delivery: Delivery, code: int, random: float) -> None:
    retry_after_ms = None if code == 200 else peer.retry_after_ms
    met = outcome(code, now_ms=world.now_ms - peer.rtt_ms, retry_after_ms=retry_after_ms)
    verdict = judge(
        met,
        delivery.policy,
        tries=delivery.tries + 1,
        turned_away=delivery.turned_away,
        turned_away_ms=delivery.turned_away_ms,
        expires_ms=delivery.expires_ms,
        now_ms=world.now_ms,
        random=random,
    )
    settlement = Settlement(
        delivery=delivery, outcome=met, verdict=verdict, random=random, now_ms=world.now_ms
    )
    assert await world.store.settle(settlement)


@pytest.mark.parametrize("seed", [1])
@pytest.mark.parametrize(
    ("code", "retry_after_ms", "rtt_ms"),
    [(429, 1_000, 5), (503, 1_000, 5), (429, None, 5), (429, 1_000, 400), (429, 2_000, 50)],
)
async def test_a_herd_at_a_busy_peer_is_delivered_without_loss_and_without_a_storm(
    build: Build, code: int, retry_after_ms: int | None, rtt_ms: int, seed: int
) -> None:
    """150 callbacks with five tries a second apart, at a peer that takes five a second: it had 604
    posts, 96 in one second, and 85 callbacks were dead."""
    world, random = await build(), Random(seed)
    peer = Limited(rate=5, code=code, retry_after_ms=retry_after_ms, rtt_ms=rtt_ms)
    made = [await world.submit(f"job-{n}", handover=True, policy=FIVE_TRIES) for n in range(150)]
    at_once = [one.delivery for one in made if one.delivery is not None]
    started_ms = world.now_ms
    await deliver(world, peer, at_once, random)

    counts = (await world.store.stats(TENANT)).counts
    assert counts["delivered"] == 150
    assert len(peer.posts) <= 2.5 * 150
    assert peer.busiest_second() <= 20
    assert world.now_ms - started_ms <= 120_000  # the peer's own limit makes it 30 s

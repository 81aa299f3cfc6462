"""The database is away: what runs goes on, its ends are stored when it is back, and nobody takes
anything over."""

import asyncio
from contextlib import AsyncExitStack
from typing import Final

from dispatcher.gateway.beats import BEATS, Pulse, Watch
from tests.dispatcher.gateway.rig import World, running, sink, told_at, upstream
from tests.dispatcher.postgres.proxy import proxied

LEASE_MS: Final = 2_000


def hasten(world: World) -> None:
    """Leases of two seconds, which no setting allows."""
    beats = world.service.gateway.beats
    beats._every_ms = LEASE_MS // BEATS
    beats._pulse, beats._watch = Pulse(LEASE_MS), Watch(LEASE_MS)


async def hastened(stack: AsyncExitStack, url: str) -> World:
    world = await stack.enter_async_context(running(url, read_timeout=1.0))
    hasten(world)

    async def may_start() -> bool:
        return world.service.gateway.beats.may_start()

    await world.until(may_start)
    return world


async def test_a_database_that_is_away_for_three_leases_costs_no_job(postgres: str) -> None:
    """The upstream answers meanwhile: each answer is kept, stored once, and told once. Nothing is
    called twice, at-least-once or at-most-once."""
    async with upstream() as model, sink() as customer, AsyncExitStack() as stack:
        proxy = await stack.enter_async_context(proxied(postgres))
        worlds = [await hastened(stack, proxy.url) for _ in range(2)]
        await worlds[0].endpoint(model.url, "again")
        await worlds[0].endpoint(model.url, "once", delivery="at-most-once")
        await worlds[1].service.gateway.book.reload()
        model.go.clear()
        target = told_at(customer)
        taken = [
            await world.submit(at=at, callback=target)
            for world in worlds
            for at in ("again", "once")
        ]
        await model.reached(len(taken))
        proxy.refusing = True
        proxy.cut()
        await asyncio.sleep(LEASE_MS / 1000)
        assert not any(world.service.gateway.beats.may_start() for world in worlds)
        model.go.set()
        await model.until(lambda one: one.open == 0)
        await asyncio.sleep(2 * LEASE_MS / 1000)
        proxy.refusing = False
        for one in taken:
            job = await worlds[0].until_state(one.id, "completed")
            assert (job.run, job.calls) == (1, 1)
        await customer.received(len(taken))
        # And not before a lease of contact either.
        await asyncio.sleep(1.5 * LEASE_MS / 1000)
        assert set(model.by_job.values()) == {1}
        assert len(customer.got) == len(taken)
        assert [world.figure("jobs_taken_over_total") for world in worlds] == [0, 0]


async def test_calls_go_on_however_long_the_database_is_away(postgres: str) -> None:
    """Nobody closes them: an hour's work is not worth less for it."""
    async with upstream() as model, AsyncExitStack() as stack:
        proxy = await stack.enter_async_context(proxied(postgres))
        worlds = [await hastened(stack, proxy.url) for _ in range(2)]
        await worlds[0].endpoint(model.url)
        model.go.clear()
        taken = await worlds[0].submit()
        await model.reached(1)
        proxy.refusing = True
        proxy.cut()
        await asyncio.sleep(3 * LEASE_MS / 1000)
        proxy.refusing = False
        for world in worlds:

            async def beats(world: World = world) -> bool:
                return world.service.gateway.beats.may_start()

            await world.until(beats)
        await asyncio.sleep(1.5 * LEASE_MS / 1000)
        assert (model.open, len(model.calls)) == (1, 1)
        model.go.set()
        await worlds[0].until_state(taken.id, "completed")
        assert len(model.calls) == 1

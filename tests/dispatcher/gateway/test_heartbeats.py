"""heartbeats.py: which calls are given up, by a clock that stands still between looks."""

from collections.abc import Collection, Mapping, Sequence
from typing import Any

from dispatcher.gateway.heartbeats import Heartbeats
from dispatcher.gateway.open_calls import Running
from dispatcher.gateway.streams import Streams
from dispatcher.jobs.endpoint import EndpointRules
from dispatcher.jobs.values import NewChunks
from tests.dispatcher.upstreams import claimed


class World:
    """A call that is open, whose endpoint asks for a sign of life each second."""

    def __init__(self) -> None:
        self.at_ms = 0
        self.signs_stored: dict[tuple[str, int], int] = {}
        self.one = Running(claimed(), 0, sign_ms=0)
        self.one.rules = EndpointRules(url="", heartbeat_timeout=1.0)
        given: Any = self
        self.heartbeats = Heartbeats(given, given, given, lambda: self.at_ms)

    def all(self) -> list[Any]:
        """Be the book of endpoints, and the open calls."""
        return [self.one]

    async def signs(self, claims: Sequence[tuple[str, int]]) -> Mapping[tuple[str, int], int]:
        """Be the store."""
        return {one: n for one, n in self.signs_stored.items() if one in claims}

    async def is_given_up(self, at_ms: int) -> bool:
        self.at_ms = at_ms
        await self.heartbeats.look()
        return self.one.closing == "silent"


async def test_a_call_without_a_sign_is_given_up() -> None:
    world = World()
    assert not await world.is_given_up(999)
    assert await world.is_given_up(1_000)


async def test_a_report_that_another_process_took_counts() -> None:
    world = World()
    world.signs_stored[world.one.job.id, world.one.job.claim] = 3
    assert not await world.is_given_up(1_500)
    assert not await world.is_given_up(2_400)
    assert await world.is_given_up(2_600)


async def test_a_chunk_of_the_answer_counts() -> None:
    """As long as there are new ones."""

    async def put(given: Sequence[NewChunks]) -> Collection[tuple[str, int]]:
        return {(one.job, one.claim) for one in given}

    world, streams = World(), Streams(put)
    stream = world.one.stream = streams.open(world.one.job)
    stream.joined.add(b"1")
    assert not await world.is_given_up(1_500)
    stream.joined.add(b"2")
    assert not await world.is_given_up(2_600)
    assert await world.is_given_up(3_700)

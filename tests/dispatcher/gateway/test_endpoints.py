"""endpoints.py: rules as they are now."""

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

from dispatcher.gateway.endpoints import EndpointBook
from dispatcher.jobs.endpoint import Endpoint, EndpointRules
from dispatcher.jobs.schema import InputSchema
from dispatcher.store.errors import StoreUnavailable


def endpoint(name: str, **rules: Any) -> Endpoint:
    made = EndpointRules(url="http://127.0.0.1:9000/", **rules)
    return Endpoint(name=name, rules=made, text="{}", created_ms=0, updated_ms=0)


class World:
    def __init__(self) -> None:
        self.stored: list[Endpoint] = []
        self.failures = 0
        self.reads = 0
        self.on_read: Callable[[], object] = lambda: None
        self.book = EndpointBook(self._read)

    async def _read(self) -> Sequence[Endpoint]:
        self.reads += 1
        self.on_read()
        if self.failures:
            self.failures -= 1
            raise StoreUnavailable("gone")
        return list(self.stored)


async def test_rules_are_those_of_now() -> None:
    """A change acts on the backlog: nothing is frozen in a job."""
    world = World()
    world.stored = [endpoint("b"), endpoint("a")]
    await world.book.reload()
    assert [one.name for one in world.book.all()] == ["a", "b"]
    world.stored = [replace(endpoint("a", concurrency=9), paused=True)]
    await world.book.reload()
    found = world.book.get("a")
    assert found is not None
    assert (found.rules.concurrency, found.paused) == (9, True)
    assert world.book.get("b") is None


async def test_what_was_read_before_a_change_never_replaces_what_was_read_after_it() -> None:
    """A reading may take longer than one that began later: a schema is compiled in between."""
    stored, slow = [endpoint("a", concurrency=1)], asyncio.Event()
    held = [slow]

    async def read() -> Sequence[Endpoint]:
        seen = list(stored)
        if held:
            await held.pop().wait()
        return seen

    book = EndpointBook(read)
    early = asyncio.create_task(book.reload())
    await asyncio.sleep(0)
    stored[0] = endpoint("a", concurrency=2)
    await book.reload()
    slow.set()
    await early
    found = book.get("a")
    assert found is not None
    assert found.rules.concurrency == 2


async def test_a_schema_is_compiled_when_it_is_read_and_once() -> None:
    """Not with the first job; one that cannot be used any more keeps no other from being known."""
    world = World()

    def stored(**schemas: dict[str, Any]) -> None:
        world.stored = [
            endpoint(name, schema=InputSchema(schema)) for name, schema in schemas.items()
        ]

    def compiled(name: str) -> Any:
        found = world.book.get(name)
        assert found is not None
        assert found.rules.schema is not None
        return vars(found.rules.schema).get("_validator")

    stored(a={"type": "object"}, b={"$ref": "http://x/y"})
    await world.book.reload()
    first = compiled("a")
    assert first is not None
    assert compiled("b") is None
    stored(a={"type": "object"})
    await world.book.reload()
    assert compiled("a") is first
    stored(a={"type": "array"})
    await world.book.reload()
    assert compiled("a") is not first


async def test_what_another_process_changed_is_read_until_it_is() -> None:
    world = World()
    world.stored, world.failures = [endpoint("a")], 1
    twice = asyncio.Event()
    world.on_read = lambda: twice.set() if world.reads == 2 else None
    world.book.changed()
    await asyncio.wait_for(twice.wait(), 5)
    await asyncio.sleep(0)
    assert world.book.get("a") is not None


async def test_a_change_during_the_reading_is_read_too() -> None:
    world = World()
    twice = asyncio.Event()

    def on_read() -> None:
        if world.reads == 1:
            world.stored = [endpoint("a")]
            world.book.changed()
        else:
            twice.set()

    world.on_read = on_read
    world.book.changed()
    await asyncio.wait_for(twice.wait(), 5)
    await asyncio.sleep(0)
    assert world.book.get("a") is not None

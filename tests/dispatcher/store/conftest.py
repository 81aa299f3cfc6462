"""An open store for each store there is."""

from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest

from tests.dispatcher.postgres import folders
from tests.dispatcher.store.builders import CLOCKS, FACTORIES, T0, World

Build = Callable[..., Awaitable[World]]


@pytest.fixture(params=sorted(FACTORIES))
def store_name(request: pytest.FixtureRequest) -> str:
    name: str = request.param
    return name


@pytest.fixture
async def build(
    store_name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> AsyncIterator[Build]:
    """Opens a world on a store of its own, with the given settings; the last one's clock is the
    wall clock."""
    opened: list[World] = []
    for clock in CLOCKS:
        monkeypatch.setattr(clock, lambda: opened[-1].now_ms if opened else T0)

    async def opening(**changes: Any) -> World:
        folder = tmp_path / str(len(opened))
        folder.mkdir()

        def make() -> Any:
            return FACTORIES[store_name](folder, changes)

        world = World(make=make, store=make())
        await world.open()
        opened.append(world)
        return world

    yield opening
    for world in opened:
        await world.store.close()
    folders.empty_under(tmp_path)


@pytest.fixture
async def world(build: Build) -> World:
    return await build()

"""An open store for each store there is."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest

from tests.dispatcher.store.builders import FACTORIES, World

Build = Callable[..., Awaitable[World]]


@pytest.fixture(params=sorted(FACTORIES))
def store_name(request: pytest.FixtureRequest) -> str:
    name: str = request.param
    return name


@pytest.fixture
async def build(store_name: str, tmp_path: Path) -> AsyncIterator[Build]:
    """Opens a world on a store of its own, with the given settings."""
    opened: list[World] = []

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


@pytest.fixture
async def world(build: Build) -> World:
    return await build()

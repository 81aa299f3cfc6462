"""The store: where a database URL becomes verbs."""

from __future__ import annotations

import asyncio
from pathlib import Path

from dispatcher.settings import Settings
from dispatcher.store.base import Store
from dispatcher.store.sqlite import file
from dispatcher.store.sqlite.store import SqliteStore


def open_store(settings: Settings) -> Store:
    """The store for `settings.database_url`, not yet opened. Raises CannotStart for a URL that
    names no database we know."""
    return SqliteStore(settings)


async def backup(settings: Settings, target: Path) -> None:
    """Copy the database to `target`, whether or not a service is using it. Raises CannotStart,
    Conflict and StoreUnavailable."""
    await asyncio.to_thread(file.backup, file.path_of(settings.database_url), target)

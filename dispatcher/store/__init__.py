"""The store: where a database URL becomes verbs."""

import asyncio
from pathlib import Path

from dispatcher.settings import Settings
from dispatcher.store.database import Database
from dispatcher.store.errors import CannotStart, Conflict
from dispatcher.store.sqlite.database import SqliteDatabase, backup_file, path_of
from dispatcher.store.sqlite.key_file import key_file_of
from dispatcher.store.store import Store
from receiver.base.db.url import DatabaseURLError, is_postgres
from receiver.base.db.url import redacted as url_redacted


def open_store(settings: Settings) -> Store:
    """Return the store for `settings.database_url`, not yet opened. Raises CannotStart for a URL
    that names no database we know."""
    if is_postgres(settings.database_url):
        return Store(_postgres(settings), settings)
    return Store(SqliteDatabase(settings), settings)


def redacted(url: str) -> str:
    """`url` without password and parameters, fit to print. Raises CannotStart."""
    if not is_postgres(url):
        return url.split("@")[-1]
    try:
        return url_redacted(url)
    except DatabaseURLError as error:
        raise CannotStart(f"cannot use the database URL: it takes {error.takes}") from None


def located(url: str) -> str:
    """Return a database's URL as `redacted` does, that of a file with its whole path. Raises
    CannotStart."""
    return redacted(url) if is_postgres(url) else f"sqlite:///{path_of(url).absolute()}"


def _postgres(settings: Settings) -> Database:
    try:
        from dispatcher.store.postgres.database import PostgresDatabase
    except ModuleNotFoundError as error:
        raise CannotStart(
            f"PostgreSQL needs the package {error.name}: pip install '.[postgres]' in a checkout"
        ) from error
    return PostgresDatabase(settings)


def key_file(settings: Settings) -> Path | None:
    """Return the key file beside the database, None where there is none."""
    if is_postgres(settings.database_url):
        return None
    file = key_file_of(path_of(settings.database_url))
    return file if file.exists() else None


async def backup(settings: Settings, target: Path) -> None:
    """Copy the database to `target`, whether or not a service is using it. Raises CannotStart,
    Conflict and StoreUnavailable."""
    if is_postgres(settings.database_url):
        raise Conflict(
            "a PostgreSQL database is backed up by its own tools: "
            f'pg_dump --format=custom --file={target} "$DISPATCHER_DATABASE_URL"'
        )
    await asyncio.to_thread(backup_file, path_of(settings.database_url), target)

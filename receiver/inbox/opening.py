"""The inbox that the settings name: which database, and which key ring."""

from collections.abc import Callable

from receiver.base.db import CannotOpen
from receiver.base.db.url import is_postgres, sqlite_path
from receiver.base.keyring import Keyring, KeyringError, read_keys
from receiver.inbox.inbox import Database, Inbox, InboxError
from receiver.inbox.seals import SETTING
from receiver.inbox.sqlite.database import SqliteDatabase
from receiver.settings import Settings


async def open_inbox(settings: Settings, *, on_due: Callable[[], None] | None = None) -> Inbox:
    """Return the inbox that the settings name, of our schema. `on_due` is called after a commit
    that left something to handle now. Raises InboxError."""
    try:
        ring = _ring(settings)
        database = _database(settings)
    except (CannotOpen, KeyringError) as error:
        raise InboxError(str(error)) from None
    return await Inbox.open(
        database,
        on_due=on_due,
        commit_rows_max=settings.commit_rows_max,
        ring=ring,
        is_required=settings.encryption == "required",
    )


def _ring(settings: Settings) -> Keyring | None:
    """Return the key ring of the settings. Raises KeyringError."""
    if not settings.encryption_keys:
        return None
    try:
        return Keyring(read_keys(",".join(settings.encryption_keys), SETTING))
    except KeyringError as error:
        raise KeyringError(f"{SETTING}: {error}") from None


def _database(settings: Settings) -> Database:
    if not is_postgres(settings.database_url):
        return SqliteDatabase(
            sqlite_path(settings.database_url),
            lock_timeout_s=settings.lock_timeout,
            read_timeout_s=settings.read_timeout,
        )
    try:
        from receiver.inbox.postgres.database import PostgresDatabase
    except ImportError:  # the driver is an extra of its own
        raise InboxError(
            'RECEIVER_DATABASE_URL is PostgreSQL: pip install ".[receiver,postgres]" in a checkout'
        ) from None
    return PostgresDatabase(
        settings.database_url,
        lease_s=settings.lease,
        read_timeout_s=settings.read_timeout,
        is_sealing=bool(settings.encryption_keys),
    )

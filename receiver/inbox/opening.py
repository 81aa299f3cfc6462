"""Which store: told by the URL."""

from receiver.base.db.url import is_postgres, sqlite_path
from receiver.inbox.inbox import Inbox, InboxError
from receiver.inbox.sqlite.inbox import SqliteInbox
from receiver.settings import Settings


async def open_inbox(settings: Settings) -> Inbox:
    """Return the inbox that the settings name, of our schema. Raises InboxError."""
    if not is_postgres(settings.database_url):
        return await SqliteInbox.open(
            sqlite_path(settings.database_url),
            lock_timeout_s=settings.lock_timeout,
            read_timeout_s=settings.read_timeout,
            commit_rows_max=settings.commit_rows_max,
        )
    try:
        from receiver.inbox.postgres.inbox import PostgresInbox
    except ImportError:  # the driver is an extra of its own
        raise InboxError(
            'RECEIVER_DATABASE_URL is PostgreSQL: pip install ".[receiver,postgres]" in a checkout'
        ) from None
    return await PostgresInbox.open(
        settings.database_url,
        lease_s=settings.lease,
        read_timeout_s=settings.read_timeout,
        commit_rows_max=settings.commit_rows_max,
    )

"""Which store: told by the URL."""

from receiver.settings import Settings, database_path
from receiver.store.inbox import Inbox
from receiver.store.sqlite.inbox import SqliteInbox


async def open_inbox(settings: Settings) -> Inbox:
    """The inbox that the settings name, of our schema. Raises InboxError."""
    return await SqliteInbox.open(
        database_path(settings.database_url),
        lock_timeout_s=settings.lock_timeout,
        read_timeout_s=settings.read_timeout,
        commit_rows_max=settings.commit_rows_max,
    )

"""Where an inbox may lie: each test of its promises runs in every such place."""

from dataclasses import dataclass

from receiver.store.inbox import Inbox
from receiver.store.postgres.inbox import PostgresInbox
from receiver.store.sqlite.inbox import SqliteInbox


@dataclass(frozen=True, slots=True)
class Place:
    """A database of one test's own, empty at first."""

    url: str

    async def open(self, *, lease_s: float = 30.0) -> Inbox:
        """The inbox there, as a process opens it."""
        if self.url.startswith("sqlite:///"):
            return await SqliteInbox.open(self.url.removeprefix("sqlite:///"))
        return await PostgresInbox.open(self.url, lease_s=lease_s)

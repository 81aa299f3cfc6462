"""Where an inbox may lie: each test of its promises runs in every such place."""

from collections.abc import Callable
from dataclasses import dataclass

from receiver.inbox.inbox import Inbox, open_inbox
from receiver.settings import Settings


@dataclass(frozen=True, slots=True)
class Place:
    """A database of one test's own, empty at first."""

    url: str

    async def open(
        self, *, lease_s: float = 30.0, on_due: Callable[[], None] | None = None
    ) -> Inbox:
        """The inbox there, as a process opens it."""
        settings = Settings(database_url=self.url)
        object.__setattr__(settings, "lease", lease_s)  # also one that is over at once
        return await open_inbox(settings, on_due=on_due)

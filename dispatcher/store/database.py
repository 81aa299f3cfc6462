"""What a database is to the store: a place that commits batches and answers queries."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, Protocol, TypeVar

from dispatcher.states import State
from dispatcher.store.batch import Committed
from dispatcher.store.requests import Rules, Usage
from dispatcher.store.tx import Tx
from receiver.base.db import migrate
from receiver.base.db.migrate import Migration

T = TypeVar("T")
Counts = Mapping[tuple[str, State], int]
Dialect = Literal["sqlite", "postgres"]


def migrations(dialect: Dialect) -> list[Migration]:
    """Return the dialect's migrations, in order."""
    return migrate.migrations("dispatcher.store", f"migrations/{dialect}")


@dataclass(frozen=True, slots=True, kw_only=True)
class StoreEvents:
    """What a store calls, on the event loop, when something happened."""

    on_ready: Callable[[int | None], None] = lambda _next_ready_ms: None
    """After a commit, with the time of the next due work, or None."""

    on_commit: Callable[[int, float], None] = lambda _operations, _seconds: None
    """After a commit, with how many operations it held and how many seconds it took."""

    on_access: Callable[[], None] = lambda: None
    """When another process has changed keys, tenants or secrets."""

    on_replays: Callable[[], None] = lambda: None
    """When another process has made a filtered replay."""


class Database(Protocol):
    """One of SQLite's files, or a PostgreSQL database."""

    shared: bool
    """Whether other processes may use it at the same time."""

    usage: Usage
    """As last measured, at most about a second ago."""

    async def open(self, events: StoreEvents, recount: Callable[[Counts], None]) -> None:
        """Open, lock and migrate; `recount` is told what others changed. Raises CannotStart."""

    async def close(self) -> None:
        """Let go."""

    async def backup(self, target: Path) -> None:
        """Write a consistent copy to `target`, while work goes on. Raises Conflict if it exists."""

    async def write(self, operations: Sequence[object], rules: Rules) -> Committed:
        """Apply all operations in one durable transaction.

        An operation that fails does so alone. Raises StoreFull or StoreUnavailable when nothing
        was committed; other errors of the database are ours, and loud.
        """

    async def read(self, query: Callable[[Tx], T]) -> T:
        """Return what `query` finds in one consistent view. Raises StoreUnavailable past the
        deadline."""

    async def shrink(self, *, pages: int) -> int:
        """Give up to `pages` free pages back to the file system; return how many."""

"""What the verbs see of the running transaction, whichever database it runs on."""

from collections import Counter
from collections.abc import Iterable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from typing import Any, Literal, Protocol

from dispatcher.states import State

Row = tuple[Any, ...]
Event = Literal["accepted", "delivered", "failed"]


@dataclass(slots=True)
class Notes:
    """What a commit changed: lanes to refresh, those among them that may have been forgotten, and
    how far the counts and the meters moved."""

    lanes: set[str] = field(default_factory=set)
    revived_lanes: set[str] = field(default_factory=set)
    served_tenants: set[str] = field(default_factory=set)
    counts: Counter[tuple[str, State]] = field(default_factory=Counter)
    events: Counter[tuple[str, Event]] = field(default_factory=Counter)

    def absorb(self, other: "Notes") -> None:
        """Take over what a savepoint noted. (`Counter.update` adds, negative numbers too.)"""
        self.lanes |= other.lanes
        self.revived_lanes |= other.revived_lanes
        self.served_tenants |= other.served_tenants
        self.counts.update(other.counts)
        self.events.update(other.events)

    def moved(self, tenant: str, before: State | None, after: State | None) -> None:
        """Return a callback of `tenant` came (from None), went (to None) or changed its state."""
        if before is not None:
            self.counts[tenant, before] -= 1
        if after is not None:
            self.counts[tenant, after] += 1


class Tx(Protocol):
    """Plain SQL in, tuples out. Parameters are `?`; `notes` is for the end of the commit."""

    notes: Notes
    skip_locked: str = ""
    """What ends a SELECT of rows to be deleted, where other processes delete too."""

    def all(self, sql: str, *params: object) -> list[Row]:
        """Every row."""

    def one(self, sql: str, *params: object) -> Row | None:
        """Return the first row, if any."""

    def run(self, sql: str, *params: object) -> int:
        """How many rows were changed."""

    def many(self, sql: str, rows: Iterable[Sequence[object]]) -> int:
        """How many rows were changed by all."""

    def savepoint(self) -> AbstractContextManager[None]:
        """Undo everything inside, notes too, if it raises."""


def marks(values: Sequence[object]) -> str:
    """Placeholders for `IN (…)`."""
    return ", ".join("?" * len(values))

"""One commit for everyone who waits: what the writer's thread does with a batch of operations."""

import sqlite3
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Final, Generic, TypeVar

from dispatcher.health import WINDOW_START
from dispatcher.store.errors import StoreFull, StoreUnavailable
from dispatcher.store.requests import ClaimRequest, Rules, Settlement
from dispatcher.store.sqlite import claim, lanes, settle, submit
from dispatcher.store.sqlite.submit import Submit
from dispatcher.store.sqlite.tx import SqliteTx
from dispatcher.store.tx import Notes, Tx

T = TypeVar("T")
Bulk = Callable[[Tx, Sequence[Any]], Sequence[object]]


@dataclass(frozen=True, slots=True)
class Do(Generic[T]):
    """An operation that is neither submit, settle nor claim."""

    act: Callable[[Tx], T]


@dataclass(frozen=True, slots=True)
class Committed:
    """What is on disk now: each operation's result or the exception it alone met, what the
    commit noted, and when the next work is ready."""

    results: Sequence[object]
    notes: Notes
    next_ready_ms: int | None


# Settling first frees slots, claiming last fills them, in the same commit.
def _kinds(rules: Rules) -> Sequence[tuple[type, Bulk]]:
    return (
        (Settlement, settle.settle),
        (Do, lambda tx, items: [item.act(tx) for item in items]),
        (Submit, lambda tx, items: submit.submit(tx, items, rules)),
        (ClaimRequest, lambda tx, items: [claim.claim(tx, item, rules) for item in items]),
    )


def commit(connection: sqlite3.Connection, operations: Sequence[object], rules: Rules) -> Committed:
    """Apply all operations in one durable transaction.

    An operation that fails does so alone. Raises StoreFull or StoreUnavailable when nothing was
    committed; other errors of SQLite are ours, and loud.
    """
    tx = SqliteTx(connection)
    results: list[object] = [None] * len(operations)
    try:
        connection.execute("BEGIN IMMEDIATE")
        for kind, bulk in _kinds(rules):
            places = [n for n, operation in enumerate(operations) if isinstance(operation, kind)]
            items = [operations[place] for place in places]
            for place, result in zip(places, _together(tx, bulk, items), strict=True):
                results[place] = result
        if tx.notes.revived_lanes:
            lanes.make(
                tx,
                tx.notes.revived_lanes,
                concurrency=rules.concurrency,
                window=WINDOW_START,
                now_ms=0,
            )
        lanes.refresh(tx, tx.notes.lanes, tx.notes.served_tenants)
        _count(tx)
        next_ready_ms = lanes.next_ready_ms(tx)
        connection.execute("COMMIT")
    except BaseException as error:
        if connection.in_transaction:
            connection.execute("ROLLBACK")
        if isinstance(error, sqlite3.Error):
            raise translated(error) from error
        raise
    return Committed(results, tx.notes, next_ready_ms)


def _together(tx: SqliteTx, bulk: Bulk, items: Sequence[object]) -> Sequence[object]:
    """All items in one go; if that fails, one by one, so that only the bad one does."""
    if not items:
        return []
    if len(items) > 1:
        try:
            with tx.savepoint():
                return bulk(tx, items)
        except Exception:
            if not tx.alive:
                raise
    return [_alone(tx, bulk, item) for item in items]


def _alone(tx: SqliteTx, bulk: Bulk, item: object) -> object:
    try:
        with tx.savepoint():
            return bulk(tx, [item])[0]
    except Exception as error:  # whatever it is, only its own caller gets it
        if not tx.alive:
            raise
        return translated(error) if isinstance(error, sqlite3.Error) else error


def _count(tx: Tx) -> None:
    moves = [(tenant, state, n) for (tenant, state), n in tx.notes.counts.items() if n]
    if moves:
        tx.many(
            "INSERT INTO counts (tenant, state, n) VALUES (?, ?, ?) "
            "ON CONFLICT (tenant, state) DO UPDATE SET n = n + excluded.n",
            moves,
        )


_FULL: Final = frozenset({sqlite3.SQLITE_FULL, sqlite3.SQLITE_TOOBIG})
_TRANSIENT: Final = frozenset(
    {
        sqlite3.SQLITE_BUSY,
        sqlite3.SQLITE_LOCKED,
        sqlite3.SQLITE_IOERR,
        sqlite3.SQLITE_READONLY,
        sqlite3.SQLITE_CANTOPEN,
        sqlite3.SQLITE_INTERRUPT,
        sqlite3.SQLITE_CORRUPT,
        sqlite3.SQLITE_NOTADB,
    }
)


def translated(error: sqlite3.Error) -> Exception:
    """Return what an error of SQLite means for the caller; one that is our fault stays what it
    is."""
    code = (getattr(error, "sqlite_errorcode", None) or 0) & 0xFF
    if code in _FULL:
        return StoreFull("the disk has no room for this")
    if code in _TRANSIENT:
        return StoreUnavailable(f"the database cannot be used right now: {error}")
    return error

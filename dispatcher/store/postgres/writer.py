"""One commit for everyone who waits: what the writer's thread does with a batch of operations."""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Final, Generic, TypeVar

import psycopg

from dispatcher.health import WINDOW_START
from dispatcher.store.errors import StoreUnavailable
from dispatcher.store.postgres import claim, lanes, locks, settle, submit
from dispatcher.store.postgres.errors import collided, of_the_batch, translated
from dispatcher.store.postgres.session import Session
from dispatcher.store.postgres.submit import Submit
from dispatcher.store.postgres.tx import PostgresTx
from dispatcher.store.requests import ClaimRequest, Rules, Settlement
from dispatcher.store.tx import Notes

T = TypeVar("T")
Bulk = Callable[[PostgresTx, Sequence[Any]], Sequence[object]]

# Collisions with other processes' commits are rare and short; these many in a row are neither.
_TRIES_MAX: Final = 6


@dataclass(frozen=True, slots=True)
class Do(Generic[T]):
    """An operation that is neither submit, settle nor claim. Differs: `lanes` are those it will
    touch, to be held with all others of the batch."""

    act: Callable[[PostgresTx], T]
    lanes: locks.Lanes = locks.none


@dataclass(frozen=True, slots=True)
class Committed:
    """What is on disk now: each operation's result or the exception it alone met, what the
    commit noted, and when the next work is ready (by this process's clock)."""

    results: Sequence[object]
    notes: Notes
    next_ready_ms: int | None


class _Again(Exception):
    """Nothing was committed, and the same batch once more may well be."""


class _Bad(Exception):
    """An operation failed, and with it the batch: apply it again, each kind in a savepoint."""


# Settling first frees slots, claiming last fills them, in the same commit.
def _kinds(rules: Rules) -> Sequence[tuple[type, Bulk]]:
    return (
        (Settlement, settle.settle),
        (Do, lambda tx, items: [item.act(tx) for item in items]),
        (Submit, lambda tx, items: submit.submit(tx, items, rules)),
        (ClaimRequest, lambda tx, items: [claim.claim(tx, item, rules) for item in items]),
    )


def commit(session: Session, operations: Sequence[object], rules: Rules) -> Committed:
    """Apply all operations in one durable transaction.

    An operation that fails does so alone. Raises StoreFull or StoreUnavailable when nothing was
    committed, or when the connection broke while committing and could not be mended in time to
    learn what became of it; other errors of PostgreSQL are ours, and loud.

    Differs: a batch that met another process's lock, or lost its connection before it was
    committed, is applied again. And at first without savepoints, each of which is two round trips:
    only a batch with a bad operation in it, which is rare, is applied again with them.
    """
    reason: BaseException | None = None
    careful = False
    for tried in range(_TRIES_MAX):
        try:
            committed = _commit_once(session, operations, rules, careful=careful)
        except _Bad:
            careful = True
        except _Again as again:
            reason = again.__cause__ or again
            if tried:
                time.sleep(0.01 * tried)
        else:
            if session.is_past(committed.next_ready_ms):
                session.tell_ready()
            return committed
    raise translated(reason) if isinstance(reason, psycopg.Error) else StoreUnavailable(str(reason))


def _commit_once(
    session: Session, operations: Sequence[object], rules: Rules, *, careful: bool
) -> Committed:
    tx = session.begin()
    try:
        results = _apply(tx, operations, rules, careful=careful)
        next_ready_ms = session.mark(tx)
    except psycopg.Error as error:
        again = collided(error) or tx.lost(error)
        if tx.lost(error):
            session.drop()
        else:
            session.roll_back()
        if again:
            raise _Again from error
        raise translated(error) from error
    except BaseException:
        session.roll_back()
        raise
    committed = Committed(results, tx.notes, next_ready_ms)
    if not session.commit(tx):
        raise _Again("the connection was lost while committing, and nothing was committed")
    return committed


def _apply(
    tx: PostgresTx, operations: Sequence[object], rules: Rules, *, careful: bool
) -> list[object]:
    lanes.lock(tx, _lanes_of(tx, operations))
    results: list[object] = [None] * len(operations)
    for kind, bulk in _kinds(rules):
        places = [n for n, operation in enumerate(operations) if isinstance(operation, kind)]
        items = [operations[place] for place in places]
        # The verbs of operators refuse by raising: they are worth a savepoint from the start.
        apply = _together if careful or kind is Do else _at_once
        for place, result in zip(places, apply(tx, bulk, items), strict=True):
            results[place] = result
    if tx.notes.revived_lanes - tx.locked:
        lanes.make(
            tx,
            tx.notes.revived_lanes,
            concurrency=rules.concurrency,
            window=WINDOW_START,
            now_ms=0,
        )
    lanes.refresh(tx, tx.notes.lanes, tx.notes.served_tenants)
    return results


def _lanes_of(tx: PostgresTx, operations: Sequence[object]) -> set[str]:
    """Every lane that the batch is known to touch. One that cannot be looked up, since its
    operation is bad, is left to the operation, which fails alone."""
    wanted: set[str] = set()
    for operation in operations:
        if isinstance(operation, Settlement):
            wanted.add(operation.delivery.destination)
        elif isinstance(operation, Submit):
            wanted.add(operation.new.destination)
        elif isinstance(operation, Do) and operation.lanes is not locks.none:
            try:
                with tx.savepoint():
                    wanted.update(operation.lanes(tx))
            except Exception as error:
                if of_the_batch(error):
                    raise
    return wanted


def _at_once(tx: PostgresTx, bulk: Bulk, items: Sequence[object]) -> Sequence[object]:
    """All items in one go; if that fails, the batch does. Raises _Bad."""
    if not items:
        return []
    try:
        return bulk(tx, items)
    except Exception as error:
        if not tx.alive or of_the_batch(error):
            raise
        raise _Bad from error


def _together(tx: PostgresTx, bulk: Bulk, items: Sequence[object]) -> Sequence[object]:
    """All items in one go; if that fails, one by one, so that only the bad one does."""
    if not items:
        return []
    if len(items) > 1:
        try:
            with tx.savepoint():
                return bulk(tx, items)
        except Exception as error:
            if not tx.alive or of_the_batch(error):
                raise
    return [_alone(tx, bulk, item) for item in items]


def _alone(tx: PostgresTx, bulk: Bulk, item: object) -> object:
    try:
        with tx.savepoint():
            return bulk(tx, [item])[0]
    except Exception as error:  # whatever it is, only its own caller gets it
        if not tx.alive or of_the_batch(error):
            raise
        return error

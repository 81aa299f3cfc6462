"""One commit for everyone who waits: what is done with a batch of operations, in one transaction.

An operation that fails does so alone. What begins and ends the transaction is each database's own.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Final, Generic, TypeVar

from dispatcher.store import claim, lanes, settle, submit
from dispatcher.store.lanes import Lanes
from dispatcher.store.requests import ClaimRequest, Rules, Settlement, SubmitRequest
from dispatcher.store.tx import ChangeSet, Tx

T = TypeVar("T")
Bulk = Callable[[Tx, Sequence[Any], Rules], Sequence[object]]


@dataclass(frozen=True, slots=True)
class Operation(Generic[T]):
    """Something to write that is neither submit, settle nor claim; `lanes` are those it touches."""

    act: Callable[[Tx], T]
    lanes: Lanes = lanes.none


@dataclass(frozen=True, slots=True)
class Committed:
    """What is on disk now: each operation's result or the exception it alone met, what the commit
    changed, and when the next work is ready (by this process's clock)."""

    results: Sequence[object]
    changes: ChangeSet
    next_ready_ms: int | None


class PoisonOperation(Exception):
    """An operation failed, and with it the batch: apply it again, with each kind isolated."""


# Settling first frees slots, claiming last fills them, in the same commit.
_KINDS: Final[Sequence[tuple[type, Bulk]]] = (
    (Settlement, lambda tx, items, _rules: settle.settle(tx, items)),
    (Operation, lambda tx, items, _rules: [item.act(tx) for item in items]),
    (SubmitRequest, submit.submit),
    (ClaimRequest, lambda tx, items, rules: [claim.claim(tx, item, rules) for item in items]),
)


def apply(
    tx: Tx, operations: Sequence[object], rules: Rules, *, isolate: bool = True
) -> list[object]:
    """Apply all operations, and bring the lanes that they touched up to date.

    Without `isolate` only kind `Operation`, whose verbs refuse by raising, is worth a savepoint
    from the start; raises PoisonOperation when another one fails.
    """
    results: list[object] = [None] * len(operations)
    for kind, bulk in _KINDS:
        places = [n for n, operation in enumerate(operations) if isinstance(operation, kind)]
        if not places:
            continue
        items = [operations[place] for place in places]
        run = _isolated if isolate or kind is Operation else _together
        for place, result in zip(places, run(tx, bulk, items, rules), strict=True):
            results[place] = result
    changes = tx.changes
    if changes.revived_lanes - tx.held:
        lanes.make(tx, changes.revived_lanes, rules, now_ms=0)
    lanes.refresh(tx, changes.lanes, changes.served_tenants, changes.served_ms)
    return results


def lanes_of(tx: Tx, operations: Sequence[object]) -> set[str]:
    """Return every lane that the batch is known to touch. One that cannot be looked up, since its
    operation is bad, is left to the operation, which fails alone."""
    touched: set[str] = set()
    for operation in operations:
        if isinstance(operation, Settlement):
            touched.add(operation.delivery.destination)
        elif isinstance(operation, SubmitRequest):
            touched.add(operation.new.destination)
        elif isinstance(operation, Operation) and operation.lanes is not lanes.none:
            try:
                with tx.savepoint():
                    touched.update(operation.lanes(tx))
            except Exception as error:
                if tx.spoiled(error):
                    raise
    return touched


def _together(tx: Tx, bulk: Bulk, items: Sequence[object], rules: Rules) -> Sequence[object]:
    """Apply all items in one go; if that fails, the batch does. Raises PoisonOperation."""
    try:
        return bulk(tx, items, rules)
    except Exception as error:
        if tx.spoiled(error):
            raise
        raise PoisonOperation from error


def _isolated(tx: Tx, bulk: Bulk, items: Sequence[object], rules: Rules) -> Sequence[object]:
    """Apply all items in one go; if that fails, one by one, so that only the bad one does."""
    if len(items) > 1:
        try:
            with tx.savepoint():
                return bulk(tx, items, rules)
        except Exception as error:
            if tx.spoiled(error):
                raise
    return [_alone(tx, bulk, item, rules) for item in items]


def _alone(tx: Tx, bulk: Bulk, item: object, rules: Rules) -> object:
    try:
        with tx.savepoint():
            return bulk(tx, [item], rules)[0]
    except Exception as error:  # whatever it is, only its own caller gets it
        if tx.spoiled(error):
            raise
        return tx.translated(error)

"""One commit for everyone who waits: what is done with a batch of operations, in one transaction.

An operation that fails does so alone. What begins and ends the transaction is each database's own.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import TypeVar

from dispatcher.store import claim, lanes, settle, submit
from dispatcher.store.lanes import Lanes
from dispatcher.store.requests import ClaimRequest, Rules, Settlement, SubmitRequest
from dispatcher.store.tx import ChangeSet, Tx
from receiver.base.db.group_commit import (
    Write,
    apply_isolated,
    apply_kinds,
    apply_together,
    write_all,
)

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Operation(Write[T]):
    """Something to write that is neither submit, settle nor claim; `lanes` are those it touches."""

    lanes: Lanes = lanes.none


@dataclass(frozen=True, slots=True)
class Committed:
    """What is on disk now: each operation's result or the exception it alone met, what the commit
    changed, and when the next work is ready (by this process's clock)."""

    results: Sequence[object]
    changes: ChangeSet
    next_ready_ms: int | None


def apply(
    tx: Tx, operations: Sequence[object], rules: Rules, *, isolate: bool = True
) -> list[object]:
    """Apply all operations, and bring the lanes that they touched up to date.

    Without `isolate` only kind `Operation`, whose verbs refuse by raising, is worth a savepoint
    from the start; raises PoisonedBatch when another one fails.
    """

    def submitted(tx: Tx, items: Sequence[SubmitRequest]) -> Sequence[object]:
        return submit.submit(tx, items, rules)

    def claimed(tx: Tx, items: Sequence[ClaimRequest]) -> Sequence[object]:
        return [claim.claim(tx, item, rules) for item in items]

    run = apply_isolated if isolate else apply_together
    # Settling first frees slots, claiming last fills them, in the same commit.
    kinds = (
        (Settlement, partial(run, tx, settle.settle)),
        (Operation, partial(apply_isolated, tx, write_all)),
        (SubmitRequest, partial(run, tx, submitted)),
        (ClaimRequest, partial(run, tx, claimed)),
    )
    results = apply_kinds(kinds, operations)
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
                if tx.is_fatal(error):
                    raise
    return touched

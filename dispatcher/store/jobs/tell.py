"""The callbacks that tell how jobs ended: stored in the commit that ends them, whatever becomes of
them. One that cannot be taken is born dead, with the reason, and can be replayed."""

from collections.abc import Sequence
from typing import Any

from dispatcher import policy as policies
from dispatcher.store import rows, submit
from dispatcher.store.requests import Rules, SubmitRequest
from dispatcher.store.tx import Tx
from dispatcher.values import NewCallback, Submitted
from receiver.base.db.group_commit import apply_isolated

_REASON_CHARS_MAX = 500
_BURY = """
UPDATE callbacks SET state = 'dead', due_ms = NULL, finished_ms = ?, last_error = ? WHERE id = ?
"""


def tell(
    tx: Tx, requests: Sequence[SubmitRequest], rules: Rules, *, isolated: bool = True
) -> dict[str, Submitted]:
    """Store callbacks; return what came of those that can go out, by their ids. Raises, unless each
    is `isolated`, what storing one raised: then nothing may be committed."""
    if not requests:
        return {}

    def submitted(tx: Any, items: Sequence[Any]) -> Sequence[object]:
        return submit.submit(tx, items, rules)

    results = apply_isolated(tx, submitted, requests) if isolated else submitted(tx, requests)
    taken: dict[str, Submitted] = {}
    for request, result in zip(requests, results, strict=True):
        if isinstance(result, Submitted):
            taken[request.new.id] = result
        else:
            _bury(tx, request.new, str(result) or type(result).__name__)
    return taken


def _bury(tx: Tx, new: NewCallback, reason: str) -> None:
    """Store a callback as one that is dead. It touches no lane: none is to look at it."""
    policy = new.policy or policies.load(None)
    now_ms = tx.at(new.created_ms)
    row, parts = rows.new_callback(new, policy, None, now_ms), rows.payload(tx, new)
    if not tx.statements.insert_callbacks(tx, [row], [parts]):
        return  # its run was told before
    tx.run(_BURY, now_ms, reason[:_REASON_CHARS_MAX], new.id)
    if tx.ring is not None:
        rows.put_secrets(tx, [new])
    tags = [(new.tenant, key, value, new.id) for key, value in new.tags]
    if tags:
        tx.bulk(tx.statements.INSERT_TAGS, tags)
    tx.changes.moved(new.tenant, None, "dead")
    tx.changes.bytes[new.tenant] += rows.stored_bytes(new)
    tx.changes.events[new.tenant, "accepted"] += 1
    tx.changes.events[new.tenant, "finished"] += 1

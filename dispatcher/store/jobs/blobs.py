"""What is kept outside of its row: a row comes before the first byte and goes after the last one,
so that there are no bytes that no row names. Portable.

`writing` until the commit that has an input or an output name it, which makes it `kept`; `doomed`
from the commit on that takes that name away, or finds that nobody writes it any more. What is
doomed is deleted where it is, and then forgotten.
"""

from collections.abc import Iterable, Sequence
from typing import Final

from dispatcher.jobs.blobs import Blob, NewBlob, What
from dispatcher.store import rows
from dispatcher.store.sealing import BLOB_KEYS
from dispatcher.store.tx import Tx

_BEGIN: Final = """
INSERT INTO blobs (id, storage, state, tenant, job, what, process, key, created_ms)
VALUES (?, ?, 'writing', ?, ?, ?, ?, ?, ?) ON CONFLICT DO NOTHING
"""
_KEEP: Final = """
UPDATE blobs SET state = 'kept', process = NULL, size = ?, sha256 = ?
WHERE id = ? AND state = 'writing'
"""
_DOOM: Final = "UPDATE blobs SET state = 'doomed', process = NULL WHERE"
_DOOMED: Final = (
    "SELECT id, storage FROM blobs WHERE state = 'doomed' AND id > ? ORDER BY id LIMIT ?"
)
_OTHERS: Final = "state = 'writing' AND process <> ?"
_GONE: Final = "state = 'writing' AND NOT EXISTS (SELECT 1 FROM processes p WHERE p.id = process)"
_PUT_PART: Final = "INSERT INTO blob_parts (blob, n, body) VALUES (?, ?, ?) ON CONFLICT DO NOTHING"
# Of those that a commit is about to write, whoever has called their process dead is waited for.
_WRITTEN: Final = "SELECT id FROM blobs WHERE state <> 'doomed' AND id"


def begin(tx: Tx, new: NewBlob) -> bool:
    """Note what is about to be kept; return whether its parts are to be sealed with its key."""
    key = None
    if tx.seals_payloads and tx.ring is not None and new.key is not None:
        key = rows.seal_text(tx, new.key.hex(), BLOB_KEYS, new.id, new.tenant)
    what = (new.id, new.storage, new.tenant, new.job, new.what, new.process, key)
    tx.run(_BEGIN, *what, tx.at(new.created_ms))
    return key is not None


def written(tx: Tx, ids: Iterable[str]) -> set[str]:
    """Return which of these may be named: nobody has doomed them, nor can before this transaction
    ends."""
    found = tx.all(f"{_WRITTEN}{tx.job_statements.IN} ORDER BY id{tx.for_update}", tx.ids(ids))
    return {row[0] for row in found}


def keep(tx: Tx, blobs: Sequence[Blob]) -> None:
    """Note that these are named from now on."""
    tx.many(_KEEP, [(one.size, one.sha256, one.id) for one in blobs])


def loosen(tx: Tx, id: str) -> None:
    """Have what nothing names by now be deleted."""
    tx.run(f"{_DOOM} id = ? AND state = 'writing'", id)


def doom_of(tx: Tx, jobs: Sequence[str], what: What | None = None) -> None:
    """Have what these jobs named be deleted: of their outputs, of their inputs, or of both."""
    if jobs:
        of = "" if what is None else f" AND what = '{what}'"
        tx.run(f"{_DOOM} job{tx.job_statements.IN}{of} AND state = 'kept'", tx.ids(jobs))


def orphaned(tx: Tx, process: str) -> int:
    """Have what processes were writing that are gone be deleted; return how much. `process` is
    ours, the only one where nobody else uses the database."""
    if tx.sole_owner:
        return tx.run(f"{_DOOM} {_OTHERS}", process)
    found = tx.all(f"SELECT id FROM blobs WHERE {_GONE} ORDER BY id LIMIT 1000{tx.for_update}")
    if not found:
        return 0
    ids = tx.ids(row[0] for row in found)
    return tx.run(f"{_DOOM} id{tx.job_statements.IN} AND {_GONE}", ids)


def has_orphaned(tx: Tx, process: str) -> bool:
    """Whether `orphaned` would find some."""
    head = "SELECT 1 FROM blobs WHERE"
    if tx.sole_owner:
        return tx.one(f"{head} {_OTHERS} LIMIT 1", process) is not None
    return tx.one(f"{head} {_GONE} LIMIT 1") is not None


def doomed(tx: Tx, after: str, limit: int) -> list[tuple[str, str]]:
    """Return at most `limit` that are to be deleted, after this one, each with its storage."""
    return [(id, storage) for id, storage in tx.all(_DOOMED, after, limit)]


def forget(tx: Tx, ids: Sequence[str]) -> None:
    """Forget those whose bytes are gone."""
    tx.run(f"DELETE FROM blobs WHERE id{tx.job_statements.IN} AND state = 'doomed'", tx.ids(ids))


def get(tx: Tx, id: str, tenant: str) -> Blob | None:
    """Return what a row names; None where it is not there. Raises CannotUnseal."""
    row = tx.one("SELECT storage, size, sha256, key FROM blobs WHERE id = ? AND state = 'kept'", id)
    if row is None:
        return None
    storage, size, sha256, stored = row
    key = None
    if stored is not None:
        key = bytes.fromhex(rows.open_text(tx, stored, BLOB_KEYS, id, tenant))
    return Blob(id=id, storage=storage, size=size, sha256=bytes(sha256 or b""), key=key)


# --- those that the database keeps itself ---


def put_part(tx: Tx, id: str, n: int, body: bytes | bytearray) -> None:
    """Store a part."""
    tx.run(_PUT_PART, id, n, body)


def part(tx: Tx, id: str, n: int) -> bytes | None:
    """Return a part as it is stored."""
    row = tx.one("SELECT body FROM blob_parts WHERE blob = ? AND n = ?", id, n)
    return None if row is None else bytes(row[0])


def drop_parts(tx: Tx, id: str, limit: int) -> bool:
    """Delete some parts; return whether there are more."""
    found = tx.all("SELECT n FROM blob_parts WHERE blob = ? ORDER BY n DESC LIMIT ?", id, limit)
    if found:
        tx.run("DELETE FROM blob_parts WHERE blob = ? AND n >= ?", id, found[-1][0])
    return len(found) == limit

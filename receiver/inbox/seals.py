"""What an inbox seals where there is a key ring, and how it opens it again.

Sealed are bodies, what failed attempts left (it may quote a body), status URLs (they may hold a
token) and what asking there met. Each is bound to its table, column, row and source. What messages
are found and listed by stays plain: sources, ids of jobs and messages, statuses, sizes, times.

The hash that copies are known by is a keyed one, or who has the file could try guesses at a body
against it. Its key is made once, and stored sealed: it outlives the keys of the ring. It is the
HMAC of the plain hash, so that a row of before gets its own without its body.
"""

import hmac
import os
from collections.abc import Sequence
from typing import Any, Final, Protocol

from receiver.base.db import Row, Tx
from receiver.base.keyring import PREFIX, Keyring, SealedError, kid_of

KEY_BYTES: Final = 32
SETTING: Final = "RECEIVER_ENCRYPTION_KEYS"

_KEYS: Final = "SELECT id, kid, key FROM seals ORDER BY id, kid"
_ADD: Final = """
    INSERT INTO seals (id, kid, key) VALUES (?, ?, ?)
    ON CONFLICT (id, kid) DO UPDATE SET key = excluded.key
"""
_DROP_OLD: Final = """
    DELETE FROM seals
     WHERE kid <> ? AND id IN (SELECT id FROM seals AS others WHERE others.kid = ?)
"""
# Whoever opens an inbox holds this for a moment, as others hold a job.
LOCK: Final = ("", "seals")


class Seals:
    """Seals and opens what one inbox keeps. `lost` names the keys without which copies of what was
    stored under them are not known as such; `begun` says whether what is stored is sealed by now,
    or only opened: others may be there that have no key."""

    def __init__(
        self,
        ring: Keyring,
        hash_keys: Sequence[bytes],
        *,
        begun: bool = True,
        lost: Sequence[str] = (),
    ) -> None:
        """Of the keys of hashes the last one is for what is stored from now on."""
        self._ring = ring
        self._hash_keys = tuple(hash_keys)
        self.kid = ring.kid
        self.kids = frozenset(ring.kids)
        self.begun = begun
        self.lost = tuple(lost)

    def begin(self) -> "Seals":
        """Return what seals from now on."""
        return Seals(self._ring, self._hash_keys, begun=True, lost=self.lost)

    def forms(self, sha256: bytes) -> tuple[bytes, ...]:
        """Return all that bytes of this hash may be stored under; first what they are to be."""
        keyed = [hmac.digest(key, sha256, "sha256") for key in reversed(self._hash_keys)]
        return (*keyed, sha256) if self.begun else (sha256, *keyed)

    def hashed(self, sha256: bytes) -> bytes:
        """Return what bytes of this hash are stored under once they are sealed."""
        return hmac.digest(self._hash_keys[-1], sha256, "sha256")

    def seal_body(self, body: bytes, id: int, source: str) -> bytes:
        return self._ring.seal(body, "bodies", "body", str(id), source)

    def open_body(self, stored: bytes, id: int, source: str) -> bytes:
        """Return a body that its row says is sealed. Raises SealedError."""
        return self._ring.open(stored, "bodies", "body", str(id), source)

    def seal_text(self, text: str, table: str, column: str, row: str, source: str) -> str:
        return self._ring.seal_text(text, table, column, row, source)

    def open_text(self, stored: str, table: str, column: str, row: str, source: str) -> str:
        """Return a text, plain or sealed. Raises SealedError."""
        return self._ring.open_text(stored, table, column, row, source)


class Opening(Protocol):
    """What opening an inbox needs of the database, in its dialect."""

    def lock(self, tx: Any, job: tuple[str, str]) -> None:
        """Wait until nobody else opens it, and keep it so until the transaction ends."""

    def others(self, tx: Any, *, plain: bool) -> int:
        """Return how many other processes use the inbox: those without a ring, or those with."""

    def has_begun(self, tx: Any) -> bool:
        """Whether some process has begun to seal."""

    def begin_sealing(self, tx: Any) -> None:
        """Note that, and keep out versions of before: they would take what is sealed for a
        message."""


def open_seals(
    opening: Opening, tx: Tx, ring: Keyring | None, *, is_required: bool = False
) -> Seals | str | None:
    """Return what seals this inbox (None: nothing does), or why it cannot be opened with this
    ring: copies would not be known as such, or others would meet what they cannot read."""
    opening.lock(tx, LOCK)
    rows, begun = tx.all(_KEYS), opening.has_begun(tx)
    kids = ", ".join(sorted({kid for _, kid, _ in rows}))
    if ring is None:
        return without_ring(kids) if begun else None
    keys = _opened(rows, ring)
    if not keys:
        if rows and (count := opening.others(tx, plain=False)):
            return (
                f"the inbox is sealed with the key {kids}, which is not in {SETTING}, and {count} "
                "other process(es) use it: add that key"
            )
        keys[max((id for id, _, _ in rows), default=0) + 1] = os.urandom(KEY_BYTES)
    there = _opened([row for row in rows if row[1] == ring.kid], ring)
    for id in keys.keys() - there.keys():
        tx.run(_ADD, id, ring.kid, ring.seal(keys[id], "seals", "key", str(id)))
    count = 0 if begun else begin(opening, tx)
    if count and is_required:
        return f"{count} process(es) without {SETTING} use the inbox: stop them first"
    lost = sorted({kid for id, kid, _ in rows if id not in keys})
    return Seals(ring, [keys[id] for id in sorted(keys)], begun=not count, lost=lost)


def begin(opening: Opening, tx: Tx) -> int:
    """Begin to seal, unless processes are there that could not read it; return how many."""
    opening.lock(tx, LOCK)
    count = opening.others(tx, plain=True)
    if not count:
        opening.begin_sealing(tx)
    return count


def without_ring(kids: str) -> str:
    """Return why an inbox in which these keys sealed something cannot be opened without a ring."""
    return f"the inbox is sealed with the key {kids}: set {SETTING}"


def drop_old(tx: Tx, kid: str) -> None:
    """Delete the copies of hashes' keys that other keys of the ring open: all that was sealed with
    those is sealed with this one now."""
    tx.run(_DROP_OLD, kid, kid)


def _opened(rows: Sequence[Row], ring: Keyring) -> dict[int, bytes]:
    keys: dict[int, bytes] = {}
    for id, _, key in rows:
        if id not in keys:
            try:
                keys[id] = ring.open(bytes(key), "seals", "key", str(id))
            except SealedError:
                continue
    return keys


# --- with a ring or without ---


def body_stored(seals: Seals | None, kid: str, stored: bytes, id: int, source: str) -> bytes:
    """Return a body that is sealed with the key `kid`. Raises SealedError."""
    if seals is None:
        raise SealedError(("bodies", str(id)), kid, missing=True)
    return seals.open_body(stored, id, source)


def text_to_store(
    seals: Seals | None, text: str, table: str, column: str, row: str, source: str
) -> str:
    """Return a text as it is stored. Without a ring as it is, only never like a sealed one."""
    if seals is not None and seals.begun:
        return seals.seal_text(text, table, column, row, source)
    return f" {text}" if text.startswith(PREFIX) else text


def text_stored(
    seals: Seals | None, stored: str, table: str, column: str, row: str, source: str
) -> tuple[str | None, str | None]:
    """Return a stored text; or None, and why no key opens it."""
    if seals is None or not stored.startswith(PREFIX):
        return stored, None
    try:
        return seals.open_text(stored, table, column, row, source), None
    except SealedError as error:
        return None, str(error)


def is_sealed(text: str) -> bool:
    """Whether a stored text is a sealed one."""
    return kid_of(text) is not None

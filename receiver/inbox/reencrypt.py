"""Sealing what is plain, and sealing anew what an older key sealed: all that an inbox keeps, in
slices of a few milliseconds, while messages come in. A place to go on from is a text, so that
whoever asked for one slice asks for the next; what is done already is passed over, so that it can
begin again at any time.
"""

import base64
import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, TypeAlias

from receiver.base.db import Row, Tx
from receiver.base.keyring import PREFIX, SealedError
from receiver.inbox.seals import Seals

SLICE_ROWS: Final = 200
SLICE_BYTES: Final = 4 * 2**20  # of bodies
_PASSED: Final = 5  # times as many rows as a slice may change are looked at

_MESSAGES: Final = """
    SELECT id, source, kid, body_kept, body_bytes, body_sha256 FROM messages
     WHERE id > ? ORDER BY id LIMIT ?
"""
_BODY: Final = "SELECT body FROM bodies WHERE id = ?"
# Only if nobody else has sealed it meanwhile; from then on the row is held.
_SEAL: Final = """
    UPDATE messages SET kid = ?, body_sha256 = ? WHERE id = ? AND coalesce(kid, '') = ?
"""
_SET_BODY: Final = "UPDATE bodies SET body = ? WHERE id = ?"
_FAILURES: Final = """
    SELECT id, source, error FROM failures JOIN messages USING (id) WHERE id > ? ORDER BY id LIMIT ?
"""
_SET_ERROR: Final = "UPDATE failures SET error = ? WHERE id = ? AND error = ?"
_JOBS: Final = """
    SELECT source, job_id, status_url, last_error FROM expectations
     WHERE (source, job_id) > (?, ?) ORDER BY source, job_id LIMIT ?
"""
_SET_JOB: Final = """
    UPDATE expectations SET status_url = ?, last_error = ?
     WHERE source = ? AND job_id = ? AND status_url = ? AND coalesce(last_error, '') = ?
"""

Place: TypeAlias = tuple[str, int, str, str]
"""A table's first letter, and the message or the job (source, job id) that it has come to."""

START: Final[Place] = ("m", 0, "", "")
_AFTER: Final = {"m": "f", "f": "e"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Resealed:
    """What a slice did: where to go on (None: that was all), how many values it sealed, and how
    many no key opens."""

    next: Place | None
    sealed: int
    unreadable: int


def to_text(place: Place) -> str:
    """Return a place as whoever asks for the next slice names it."""
    return base64.urlsafe_b64encode(json.dumps(place).encode()).decode("ascii")


def from_text(text: str) -> Place:
    """Return the place of a text. Raises ValueError for what is none of ours."""
    try:
        table, id, source, job_id = json.loads(base64.urlsafe_b64decode(text))
    except (ValueError, RecursionError):
        raise ValueError("is not one of ours") from None
    kinds = (str, int, str, str)
    given = (table, id, source, job_id)
    if not all(type(one) is kind for one, kind in zip(given, kinds, strict=True)):
        raise ValueError("is not one of ours")
    if table not in ("m", "f", "e") or not 0 <= id < 2**63:
        raise ValueError("is not one of ours")
    return table, id, source, job_id


def reseal(tx: Tx, seals: Seals, place: Place) -> Resealed:
    """Seal a slice of what is not sealed with the ring's first key."""
    table, id, source, job_id = place
    work = _Work(tx, seals)
    if table == "m":
        went_to: Place | None = work.messages(id)
    elif table == "f":
        went_to = work.failures(id)
    else:
        went_to = work.jobs(source, job_id)
    if went_to is None and table in _AFTER:
        went_to = (_AFTER[table], 0, "", "")
    return Resealed(next=went_to, sealed=work.sealed, unreadable=work.unreadable)


class _Work:
    """One slice."""

    def __init__(self, tx: Tx, seals: Seals) -> None:
        self._tx = tx
        self._seals = seals
        self.sealed = 0
        self.unreadable = 0

    def messages(self, after: int) -> Place | None:
        rows = self._tx.all(_MESSAGES, after, SLICE_ROWS * _PASSED)
        size = count = 0
        for row in rows:
            after, kid, bytes_ = row[0], row[2], row[4]
            if kid == self._seals.kid:
                continue
            self._message(row)
            size, count = size + bytes_, count + 1
            if count >= SLICE_ROWS or size >= SLICE_BYTES:
                return ("m", after, "", "")
        return ("m", after, "", "") if len(rows) == SLICE_ROWS * _PASSED else None

    def _message(self, row: Row) -> None:
        id, source, kid, body_kept, _, hashed = row
        sealed = None
        if body_kept:
            sealed = self._body(id, source, kid)
            if sealed is None:
                return
        if kid is None:
            hashed = self._seals.hashed(hashed)
        if self._tx.run(_SEAL, self._seals.kid, hashed, id, kid or ""):
            self.sealed += 1
            if sealed is not None:
                self._tx.run(_SET_BODY, sealed, id)

    def _body(self, id: int, source: str, kid: str | None) -> bytes | None:
        """Return a body sealed anew; None where no key opens it, or it has gone meanwhile."""
        found = self._tx.one(_BODY, id)
        if found is None:
            return None
        try:
            body = found[0] if kid is None else self._seals.open_body(found[0], id, source)
        except SealedError:
            self.unreadable += 1
            return None
        return self._seals.seal_body(body, id, source)

    def failures(self, after: int) -> Place | None:
        rows = self._tx.all(_FAILURES, after, SLICE_ROWS)
        for id, source, error in rows:
            after = id
            sealed = self._text(error, "failures", "error", str(id), source)
            if sealed != error:
                self.sealed += self._tx.run(_SET_ERROR, sealed, id, error)
        return ("f", after, "", "") if len(rows) == SLICE_ROWS else None

    def jobs(self, source: str, job_id: str) -> Place | None:
        rows = self._tx.all(_JOBS, source, job_id, SLICE_ROWS)
        for source, job_id, url, error in rows:
            row = ("expectations", "status_url", job_id, source)
            new_url = self._text(url, *row)
            new_error = error
            if error is not None:
                new_error = self._text(error, "expectations", "last_error", job_id, source)
            if (new_url, new_error) != (url, error):
                values = (new_url, new_error, source, job_id, url, error or "")
                self.sealed += self._tx.run(_SET_JOB, *values)
        return ("e", 0, source, job_id) if len(rows) == SLICE_ROWS else None

    def _text(self, stored: str, *where: str) -> str:
        """Return a text sealed with the ring's first key; as it is where it is so already, or no
        key opens it."""
        if stored.startswith(f"{PREFIX}{self._seals.kid}:"):
            return stored
        table, column, row, source = where
        try:
            text = self._seals.open_text(stored, table, column, row, source)
        except SealedError:
            self.unreadable += 1
            return stored
        return self._seals.seal_text(text, table, column, row, source)


# --- counting ---

# Where the body is gone, only the hash is left, which no key of the ring has to open.
_COUNT_MESSAGES: Final = """
    SELECT CASE WHEN kid IS NULL THEN '' WHEN body_kept = 1 THEN kid ELSE ? END AS it, count(*)
      FROM messages GROUP BY 1
"""
_COUNT_STATES: Final = "SELECT state, count(*) FROM messages GROUP BY state"


@dataclass(frozen=True, slots=True, kw_only=True)
class Sealing:
    """How values are stored: plain; sealed with the ring's first key, with an older one of it, or
    with one that is not in it."""

    plain: int = 0
    sealed: int = 0
    old: int = 0
    unreadable: int = 0


def states(tx: Tx) -> dict[str, int]:
    """Count all messages by their state."""
    return {state: int(count) for state, count in tx.all(_COUNT_STATES)}


def count(tx: Tx, seals: Seals | None) -> dict[str, Sealing]:
    """Count messages, failures and status URLs by how they are stored. It reads all of them."""
    rows = tx.all(_COUNT_MESSAGES, "-" if seals is None else seals.kid)
    return {
        "messages": _sealing(rows, seals),
        "failures": _count_texts(tx, seals, "failures", "error"),
        "expectations": _count_texts(tx, seals, "expectations", "status_url"),
    }


def _count_texts(tx: Tx, seals: Seals | None, table: str, column: str) -> Sealing:
    kids = sorted(seals.kids) if seals is not None else []
    of_each = " ".join(
        f"WHEN substr({column}, 1, {len(PREFIX) + len(kid) + 1}) = ? THEN ?" for kid in kids
    )
    # Of what is sealed with no key of ours it does not matter with which.
    sql = f"""
        SELECT CASE WHEN substr({column}, 1, {len(PREFIX)}) <> '{PREFIX}' THEN ''
                    {of_each} ELSE '-' END AS kid, count(*)
          FROM {table} GROUP BY 1
    """  # noqa: S608 - constants of ours
    values = [value for kid in kids for value in (f"{PREFIX}{kid}:", kid)]
    return _sealing(tx.all(sql, *values), seals)


def _sealing(rows: Sequence[Row], seals: Seals | None) -> Sealing:
    counts = {"plain": 0, "sealed": 0, "old": 0, "unreadable": 0}
    for kid, number in rows:
        if not kid:
            how = "plain"
        elif seals is None or kid not in seals.kids:
            how = "unreadable"
        else:
            how = "sealed" if kid == seals.kid else "old"
        counts[how] += int(number)
    return Sealing(**counts)

"""Which messages are wanted: the handlers of all processes that share an inbox. One process's
configuration never decides for the others: a message that some process wants waits for it."""

import time
from collections.abc import Callable, Collection, Sequence, Set
from typing import Final, TypeAlias

from receiver.base.completion import canonical
from receiver.base.db import Row, Tx
from receiver.inbox.message import storable

Wanted: TypeAlias = frozenset[tuple[str, str]]
"""Sources and canonical statuses."""

SEEN_S: Final = 600.0  # a process that is silent for longer wants nothing any more
SLICE_ROWS: Final = 200

REGISTERED: Final = "SELECT process, source, status, beat FROM handlers"
_SEEN: Final = "SELECT source, status, max(seen_ms) FROM handlers GROUP BY source, status"
_REGISTER: Final = """
    INSERT INTO handlers (process, source, status, seen_ms) VALUES (?, ?, ?, ?)
    ON CONFLICT (process, source, status) DO NOTHING
"""
_REPLACE: Final = """
    DELETE FROM handlers WHERE source = ? AND status = ? AND process <> ? AND seen_ms < ?
"""
_FAR_MS: Final = 2**62
_RENEW: Final = "UPDATE handlers SET beat = beat + 1, seen_ms = ? WHERE process = ?"
_FORGET: Final = "DELETE FROM handlers WHERE process = ? AND seen_ms < ?"
_UNSORTED: Final = """
    SELECT id, job_status FROM messages WHERE state = 'pending' AND canonical IS NULL
     LIMIT ?{skip_locked}
"""
_SORT: Final = "UPDATE messages SET canonical = ? WHERE id = ?"
_WAITING: Final = """
    SELECT DISTINCT source, canonical FROM messages
     WHERE state = 'pending' AND canonical IS NOT NULL
"""
_UNCLAIMED: Final = """
    SELECT id FROM messages
     WHERE state = 'pending' AND source = ? AND canonical = ? AND due_ms <= ?
     ORDER BY due_ms, id LIMIT ?{skip_locked}
"""
_IGNORE: Final = "UPDATE messages SET state = 'ignored', due_ms = NULL WHERE id = ?"
_REASON: Final = """
    INSERT INTO failures VALUES (?, ?) ON CONFLICT (id) DO UPDATE SET error = excluded.error
"""
_IGNORED: Final = """
    SELECT source, canonical, job_status, count(*) FROM messages
     WHERE state = 'ignored' AND verdict = 'accepted' AND body_kept = 1
     GROUP BY source, canonical, job_status
"""


class Beats:
    """Which processes live: each one's beat, and when it was first seen, by a clock of our own.
    Used on the writer's thread alone."""

    def __init__(self, monotonic: Callable[[], float] = time.monotonic) -> None:
        self._monotonic = monotonic
        self._since: dict[str, tuple[int, float]] = {}

    def is_alive(self, process: str, beat: int) -> bool:
        """Whether its beat is new to us, or was so within `SEEN_S`."""
        now_s = self._monotonic()
        known = self._since.get(process)
        if known is None or known[0] != beat:
            self._since[process] = (beat, now_s)
            return True
        return now_s - known[1] < SEEN_S

    def keep(self, processes: Set[str]) -> None:
        """Let go of all others: their rows are gone."""
        if len(self._since) > len(processes):
            self._since = {process: self._since[process] for process in processes}


def register(
    tx: Tx,
    process: str,
    sources: Collection[str],
    wanted: Set[tuple[str, str]],
    now_ms: int,
    *,
    is_alone: bool,
) -> set[tuple[str, str]]:
    """Say which sources a process has and what it wants; return what nobody wanted of late.

    It takes the place of those that wanted the same and are gone: all others, where it `is_alone`.
    One that is not gone after all registers again."""
    since_ms = now_ms - SEEN_S * 1000
    known = {(source, status) for source, status, ms in tx.all(_SEEN) if ms >= since_ms}
    rows = sorted([*((source, "") for source in sources), *wanted])
    gone_ms = _FAR_MS if is_alone else since_ms
    tx.many(_REPLACE, [(*row, process, round(gone_ms)) for row in rows])
    tx.many(_REGISTER, [(process, *row, now_ms) for row in rows])
    return set(wanted) - known


def renew(tx: Tx, process: str, now_ms: int) -> bool:
    """Say that a process lives; False where it is not registered any more."""
    return tx.run(_RENEW, now_ms, process) > 0


def live(tx: Tx, beats: Beats) -> Wanted:
    """Return what is wanted by processes that live."""
    return wanted_of(tx.all(REGISTERED), beats)


def wanted_of(rows: Sequence[Row], beats: Beats) -> Wanted:
    """Return what is wanted by those of the registered that live."""
    if not rows:
        return frozenset()
    alive = frozenset(
        (source, status) for process, source, status, beat in rows if beats.is_alive(process, beat)
    )
    beats.keep({row[0] for row in rows})
    return alive


def foreign_sources(tx: Tx, own: Collection[str]) -> list[str]:
    """Return the sources of other processes, which are not for us to sweep, however long those are
    away; until they are forgotten."""
    return sorted({source for source, _, _ in tx.all(_SEEN)} - set(own))


def forget_processes(tx: Tx, beats: Beats, before_ms: int) -> None:
    """Forget the processes that do not live and were last seen before."""
    for process, beat in {(process, beat) for process, _, _, beat in tx.all(REGISTERED)}:
        if not beats.is_alive(process, beat):
            tx.run(_FORGET, process, before_ms)


def sort(tx: Tx) -> int:
    """Set the canonical status of a slice of what waits without one; how many."""
    rows = tx.all(_UNSORTED.format(skip_locked=tx.skip_locked), SLICE_ROWS)
    tx.many(_SORT, [(canonical(job_status), id) for id, job_status in rows])
    return len(rows)


def unclaimed(tx: Tx, beats: Beats, own: Collection[str], before_ms: int) -> list[tuple[str, str]]:
    """Return what waits in our sources, or in nobody's, and was last wanted before."""
    wanted = live(tx, beats)
    foreign = set(foreign_sources(tx, own))
    seen = {(source, status): ms for source, status, ms in tx.all(_SEEN)}
    return [
        (source, status)
        for source, status in tx.all(_WAITING)
        if (source, status) not in wanted
        and source not in foreign
        and seen.get((source, status), before_ms) <= before_ms
    ]


def ignore_unclaimed(
    tx: Tx, what: tuple[str, str], before_ms: int, reason: str, *, limit: int
) -> int:
    """Ignore a slice of what is wanted by nobody and waits since before; how many."""
    sql = _UNCLAIMED.format(skip_locked=tx.skip_locked)
    ids = [id for (id,) in tx.all(sql, *what, before_ms, limit)]
    tx.many(_IGNORE, [(id,) for id in ids])
    tx.many(_REASON, [(id, storable(reason)) for id in ids])
    return len(ids)


def ignored(tx: Tx) -> dict[tuple[str, str], int]:
    """Count what was let in and ignored, and can be replayed."""
    counts: dict[tuple[str, str], int] = {}
    for source, status, job_status, count in tx.all(_IGNORED):
        what = (source, status or canonical(job_status))
        counts[what] = counts.get(what, 0) + count
    return counts

"""Processes that run jobs: each counts its beat up, and the others watch it by their own clocks.
Portable."""

from typing import Final

from dispatcher.jobs.values import HeldJob
from dispatcher.store.tx import Tx

_BEGIN: Final = """
INSERT INTO processes (id, beat, started_ms, beaten_ms) VALUES (?, 1, ?, ?)
ON CONFLICT (id) DO UPDATE SET beat = processes.beat + 1, beaten_ms = excluded.beaten_ms
"""
# When is for who looks: the others count by their own clocks for how long it is unchanged.
_BEAT: Final = "UPDATE processes SET beat = beat + 1, beaten_ms = ? WHERE id = ?"


def beat(tx: Tx, process: str, *, begins: bool, now_ms: int) -> dict[str, int] | None:
    """Count a process's beat up, or have it begin; return the beats of all others. None where its
    own is gone: somebody has called it dead."""
    if begins:
        tx.run(_BEGIN, process, now_ms, tx.at(now_ms))
    elif not tx.run(_BEAT, tx.at(now_ms), process):
        return None
    return {id: n for id, n in tx.all("SELECT id, beat FROM processes") if id != process}


def leave(tx: Tx, process: str) -> None:
    """Have nobody watch it any more."""
    tx.run("DELETE FROM processes WHERE id = ?", process)


def held(tx: Tx, process: str) -> list[HeldJob]:
    """Return what a process runs, and the calls that it has open of jobs that have ended."""
    sql = (
        "SELECT id, claim, releasing FROM jobs "
        "WHERE process = ? AND (state = 'running' OR releasing = 1)"
    )
    return [HeldJob(id, claim, bool(releasing)) for id, claim, releasing in tx.all(sql, process)]

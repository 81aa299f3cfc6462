"""The commits that the path of a job is made of, each by its name, and a fuse that burns down where
one of them is about to be made, or has just been made and nobody was told.

The list is shared by the process that dies (`job_serve.py`) and the tests; one of them holds that
each verb of the store that writes is on it, or is named as one that no job's path crosses.
"""

import os
import signal
import sqlite3
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Final, Literal

from dispatcher.jobs.states import FINAL
from dispatcher.jobs.values import CallOutcome, JobClaimRequest
from dispatcher.sending.upstream import Upstreams
from dispatcher.store import database
from dispatcher.store.errors import StoreUnavailable
from dispatcher.store.jobs.store import JobStore
from dispatcher.store.postgres import database as postgres
from dispatcher.store.requests import JobEnd, JobSubmitRequest, Rules
from dispatcher.store.tx import Tx
from receiver.base.db import sqlite

Dialect = Literal["sqlite", "postgres"]

# By name: the verb of the store.
COMMITS: Final = {
    "submit": "submit",
    "hand-over": "submit",
    "claim": "claim",
    "settle-completed": "settle",
    "settle-failed": "settle",
    "settle-timeout": "settle",
    "settle-unknown": "settle",  # back to the queue, as all below
    "settle-turned-away": "settle",
    "settle-not-sent": "settle",
    "settle-handed-back": "settle",
    "settle-let-go": "settle",  # to be ended by URL
    "settle-told": "settle",  # which it is
    "chunks": "put_chunks",
    "piece": "append_chunk",
    "progress": "report",
    "event": "tell_event",
    "cancel-queued": "cancel",
    "cancel-running": "cancel",
    "freed": "freed",
    "retry": "retry",
    "expire": "expire",
    "purge": "purge",
    "purge-step": "end_purged",
    "remove": "remove_endpoint",
    "sweep": "make_sweep",
    "sweep-step": "step_sweep",
    "release": "release",
    "orphans": "reclaim_orphans",
    "beat": "beat",
    "reclaim": "reclaim",
    "leave": "leave",
}
ELSEWHERE: Final = frozenset({
    "put_endpoint", "set_paused", "cancel_sweep", "sweeps_jobs", "bring_back", "bring_calls_back",
    "hasten", "repair", "prune", "erase", "purge_on", "tell_untold", "hand_out",
    "ensure_endpoint_secret", "rotate_endpoint_secret", "mark_endpoint_secret_revealed",
    "ensure_link_key", "rotate_link_key", "bring_link_key_back", "look_later", "late_by_url",
    "running",
    "set_health", "watches_upstreams", "take_stops",
    "begin_blob", "loosen_blob", "orphan_blobs", "forget_blobs",
})  # fmt: skip
"""Verbs that change what endpoints are, put right what nobody meant, note what was handed out, look
at what others must not change meanwhile, or delete what is past its time: no job's path crosses
these. (Those of long outputs have a proof of their own.)"""
CALLS: Final = ("call-begins", "call-works", "call-streams", "call-answered")
"""Where a call is: nothing of it is out, its upstream works, its answer is half there, it is whole.
In the middle two it is the upstream that kills."""
ONLY: Final[dict[str, Dialect]] = {
    "orphans": "sqlite",  # where several share a database, these are of processes that are gone
    "beat": "postgres",
    "reclaim": "postgres",
    "leave": "postgres",
}


def points(dialect: Dialect) -> list[str]:
    """Return all points of a store: before and after each commit, and those of a call."""
    commits = [name for name in COMMITS if ONLY.get(name, dialect) == dialect]
    return [f"{when} {name}" for name in commits for when in ("before", "after")] + list(CALLS)


def writing_verbs() -> set[str]:
    """Return the verbs of the store that commit."""
    found = set()
    for name, verb in vars(JobStore).items():
        code = getattr(verb, "__code__", None)
        names = set() if code is None or name.startswith("_") else set(code.co_names)
        if {"_write", "_commit"} & names:
            found.add(name)
    return found


@dataclass(slots=True)
class Fuse:
    """Kills its process the `count`-th time that it is touched at `point`. Each `lost`-th claim
    that brings something has its reply lost, as with a connection (0: none has)."""

    point: str = ""
    count: int = 1
    lost: int = 0
    crossed: list[str] = field(default_factory=list)
    _claims: int = 0

    def touch(self, point: str) -> None:
        if point != self.point:
            return
        self.count -= 1
        if self.count <= 0:
            os.kill(os.getpid(), signal.SIGKILL)

    def touch_all(self, when: str) -> None:
        for name in self.crossed:
            self.touch(f"{when} {name}")

    def lose_reply(self) -> None:
        """Raise what a commit raises of which nobody learns that it was made."""
        if not self.lost or "claim" not in self.crossed:
            return
        self._claims += 1
        if self._claims % self.lost == 0:
            raise StoreUnavailable("the connection was lost while committing (a test's doing)")


def name_of(operation: object, result: Any) -> str | None:
    """Return the name of what an operation came to, None where it changed nothing."""
    if isinstance(result, BaseException):
        return None
    if isinstance(operation, JobSubmitRequest):
        if result.duplicate:
            return None
        return "submit" if result.claimed is None else "hand-over"
    if isinstance(operation, JobClaimRequest):
        return "claim" if result else None
    if isinstance(operation, JobEnd):
        return _end_of(operation) if result.recorded else None
    return None


def _end_of(end: JobEnd) -> str:
    verdict, outcome = end.settlement.verdict, end.settlement.outcome
    if verdict.state == "running":
        return "settle-let-go"
    if verdict.state == "completed" and end.settlement.job.endpoint == "later":
        return "settle-told"
    if verdict.state in FINAL:
        return f"settle-{verdict.state}"
    if verdict.turned_away:
        return "settle-turned-away"
    kinds = {"not_sent": "settle-not-sent", "interrupted": "settle-handed-back"}
    return kinds.get(outcome.kind, "settle-unknown")


def _name_of_verb(verb: str, result: Any) -> str | None:
    """Return the name of what a verb came to that is one function of the transaction."""
    if verb == "cancel":
        if not result.changed:
            return None
        return "cancel-queued" if result.process is None else "cancel-running"
    names = {of: name for name, of in COMMITS.items()}
    if verb == "end_purged":
        result = result.ended
    if verb == "tell_event":
        result = result == "told"
    changed = result is not None if verb == "beat" else result is None or bool(result)
    return names.get(verb) if changed else None


def arm(fuse: Fuse) -> None:
    """Put the fuse into the path of jobs."""
    apply, made = database.apply, JobStore.__init__

    def applying(tx: Tx, operations: Sequence[object], rules: Rules) -> list[object]:
        fuse.crossed.clear()
        results = apply(tx, operations, rules)
        for operation, result in zip(operations, results, strict=True):
            name = name_of(operation, result)
            if name is not None:
                fuse.crossed.append(name)
        fuse.touch_all("before")
        return results

    def making(self: JobStore, commit: Any, write: Any, *given: Any, **more: Any) -> None:
        async def writing(act: Callable[[Tx], Any], **more: Any) -> Any:
            verb = act.__qualname__.partition(".<locals>")[0].rpartition(".")[2]

            def acting(tx: Tx) -> Any:
                result = act(tx)
                name = _name_of_verb(verb, result)
                if name is not None:
                    fuse.crossed.append(name)
                return result

            return await write(acting, **more)

        made(self, commit, writing, *given, **more)

    replace(database, "apply", applying)
    replace(JobStore, "__init__", making)
    _arm_commits(fuse)
    _arm_calls(fuse)


def _arm_commits(fuse: Fuse) -> None:
    end_batch, commit_once = sqlite.end_batch, postgres._commit_once

    def ending(connection: sqlite3.Connection) -> None:
        end_batch(connection)
        fuse.touch_all("after")
        fuse.lose_reply()

    def committing_once(session: Any, operations: Sequence[object], rules: Rules) -> Any:
        committed = commit_once(session, operations, rules)
        fuse.touch_all("after")
        fuse.lose_reply()
        return committed

    replace(sqlite, "end_batch", ending)
    replace(postgres, "_commit_once", committing_once)


def _arm_calls(fuse: Fuse) -> None:
    call = Upstreams.call

    async def calling(self: Upstreams, *given: Any, **more: Any) -> CallOutcome:
        fuse.touch("call-begins")
        outcome = await call(self, *given, **more)
        fuse.touch("call-answered")
        return outcome

    replace(Upstreams, "call", calling)


def replace(where: object, name: str, replacement: Callable[..., Any]) -> None:
    """Put something else in the place of a function: in a process that is to die of it."""
    setattr(where, name, replacement)

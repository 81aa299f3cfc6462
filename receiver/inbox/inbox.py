"""The durable inbox: every message that was let in, once; what became of it; and the jobs that
are waited for. The same promises on SQLite and on PostgreSQL."""

from collections.abc import Callable, Collection, Sequence
from functools import partial
from typing import Any, Final, Protocol, Self, TypeVar

from receiver.base.db import CannotOpen, DatabaseFull, DatabaseUnavailable, Tx
from receiver.base.db.group_commit import (
    GroupCommit,
    Operation,
    Write,
    apply_kinds,
    write_all,
)
from receiver.base.db.readers import SERVICE, Reader
from receiver.base.keyring import Keyring
from receiver.base.slices import Slices
from receiver.inbox import attempts, batch, expectations, listing, reencrypt, retention, wanted
from receiver.inbox.attempts import ClaimedBatch, Running, Settlement
from receiver.inbox.dedupe import Verdict
from receiver.inbox.expectations import AskResult, Expectation, NewExpectation
from receiver.inbox.listing import Backlog
from receiver.inbox.message import Message, Page, State, StoredMessage
from receiver.inbox.reencrypt import Place, Resealed, Sealing
from receiver.inbox.seals import SETTING, Opening, Seals, begin, drop_old, open_seals
from receiver.inbox.wanted import Beats, Wanted

T = TypeVar("T")

# Whose turns its listings take; handling reads through a connection of its own.
_OPERATOR: Final = Reader("operator")
_MONITORING: Final = Reader("monitoring")


class InboxError(Exception):
    """The inbox cannot be opened; the message tells the operator why, in one line."""


class InboxUnavailable(Exception):
    """The inbox cannot write or read just now (disk full, locked, away, too slow)."""


class Statements(batch.Stored, attempts.Claims, expectations.Jobs, Opening, Protocol):
    """What differs between the dialects within a transaction: a module of each."""

    def clock_ms(self, tx: Any) -> int | None:
        """Return the time by the clock that all processes share; None where there is none."""

    def touch(self, tx: Any) -> None:
        """Write something that shows whether the disk takes it."""


class Database(Protocol):
    """Where an inbox lies, and how its transactions get there."""

    errors: type[Exception]
    """What its driver raises."""

    @property
    def statements(self) -> Statements:
        """Those of its dialect."""

    @property
    def lease_s(self) -> float | None:
        """How long a claim holds without `renew`; None: as long as this process lives."""

    @property
    def rows_max(self) -> int | None:
        """How many operations one commit can hold; None: any number."""

    async def open(self) -> None:
        """Connect and migrate. Raises CannotOpen."""

    async def close(self) -> None:
        """Disconnect."""

    async def commit(self, apply: Callable[[Any], T]) -> T:
        """Return what `apply(tx)` did in one transaction, once it is on disk. It may be done again.
        Raises PoisonedBatch where what it did is to blame."""

    async def read(self, query: Callable[[Any], T], reader: Reader) -> T:
        """Return what one query finds, cut off at its deadline, in the turn of whom it is for."""

    async def shrink(self) -> None:
        """Return to the file system what retention freed, where that does not happen by itself."""

    async def scrub(self) -> None:
        """Leave nothing of what was deleted or written over, where that can be done."""


class Inbox:
    """All that a receiver knows. Opened by `open_inbox` of `opening.py`."""

    def __init__(
        self,
        database: Database,
        seals: Seals | None,
        *,
        on_due: Callable[[], None],
        commit_rows_max: int,
    ) -> None:
        self.lease_s = database.lease_s
        self.seals = seals
        self.failing = False  # whether the last commit failed
        self._database = database
        self._statements = database.statements
        self._lease_ms = round((database.lease_s or 0) * 1000)
        self._on_due = on_due
        self._beats = Beats()
        self._trust = retention.Trust()
        self._committed = 0  # operations
        self._slices = Slices(lambda: self._committed, rows_max=retention.SLICE_ROWS, endless=True)
        self._commits = GroupCommit(
            self._apply, operations_max=min(commit_rows_max, database.rows_max or commit_rows_max)
        )

    @classmethod
    async def open(
        cls,
        database: Database,
        *,
        on_due: Callable[[], None] | None = None,
        commit_rows_max: int = 256,
        ring: Keyring | None = None,
        is_required: bool = False,
    ) -> Self:
        """Return the inbox there, which seals what it stores where there is a `ring`; with
        `is_required`, from the first message on. `on_due` is called after a commit that left
        something to handle now. Raises InboxError."""
        try:
            await database.open()
        except CannotOpen as error:
            raise InboxError(str(error)) from None
        seals = await _opened(database, ring, is_required=is_required)
        inbox = cls(database, seals, on_due=on_due or _nobody, commit_rows_max=commit_rows_max)
        inbox._commits.start()
        return inbox

    async def receive(self, message: Message) -> Verdict:
        """Store a message that is new, and say what it is. On return it is on disk.

        Of any number of copies, at the same time or later, at this replica or at others, one is
        stored. Raises InboxUnavailable.
        """
        verdict: Verdict = await self._commit(message)
        return verdict

    async def claim(
        self,
        *,
        now_ms: int,
        limit: int,
        wanted: Wanted | None = None,
        wait_max_ms: int | None = None,
    ) -> ClaimedBatch:
        """Return the messages whose turn it is and that are `wanted` here (None: all), at most
        `limit`, marked as running here: never two of one job at once, wherever they run. What waits
        longer than `wait_max_ms` is due. Raises InboxUnavailable."""
        work = partial(
            attempts.claim,
            self._statements,
            wanted=wanted,
            now_ms=now_ms,
            limit=limit,
            lease_ms=self._lease_ms,
            wait_max_ms=wait_max_ms,
            seals=self.seals,
        )
        return await self._write(work)

    async def renew(self, running: Sequence[tuple[int, int]]) -> set[int]:
        """Hold these (id, fence) for another lease; the ids that are still ours."""
        if self.lease_s is None:
            return {id for id, _ in running}
        work = partial(attempts.renew, self._statements, running=running, lease_ms=self._lease_ms)
        return await self._write(work)

    async def running(self) -> list[Running]:
        """Return all that runs, wherever, with the marks of its leases."""
        return await self._read(partial(attempts.running, self._statements))

    async def recover(
        self, left: Sequence[Running] | None = None, *, now_ms: int, attempts_max: int
    ) -> int:
        """Take back what ended processes left running (None: all that runs); how many that were.
        Those whose attempts are used up are dead."""
        left = await self.running() if left is None else left
        if not left:
            return 0
        work = partial(
            attempts.recover,
            self._statements,
            left=left,
            now_ms=now_ms,
            attempts_max=attempts_max,
            seals=self.seals,
        )
        return await self._write(work)

    async def settle(self, settlement: Settlement) -> bool:
        """Write what came of an attempt; False when it was not ours any more."""
        work = partial(attempts.settle, settlement=settlement, seals=self.seals)
        return await self._write(work)

    async def hand_back(self, id: int, fence: int, now_ms: int, status: str) -> None:
        """Make a running message due again, its attempt unspent; `status` is its canonical one."""
        work = partial(attempts.hand_back, id=id, fence=fence, now_ms=now_ms, status=status)
        await self._write(work)

    async def wake_unreadable(self, now_ms: int) -> int:
        """Make due what waits for a key that is in our ring; how many."""
        if self.seals is None:
            return 0
        count = await self._write(partial(attempts.wake, seals=self.seals, now_ms=now_ms))
        if count:
            self._on_due()
        return count

    async def replay(self, id: int, now_ms: int) -> bool:
        """Whether a message could be made due again."""
        replayed = await self._write(partial(attempts.replay, id=id, now_ms=now_ms))
        if replayed:
            self._on_due()
        return replayed

    async def replay_all(
        self, state: State, now_ms: int, which: attempts.Which = attempts.EVERY
    ) -> int:
        """Replay all messages of a state that can be, `which` of them, in slices; how many."""
        count, above = 0, 0
        while True:
            work = partial(
                attempts.replay_all,
                state=state,
                now_ms=now_ms,
                above=above,
                which=which,
            )
            replayed, last = await self._in_slice(work)
            if last is None:
                self._slices.end()
                return count
            count, above = count + replayed, last
            self._on_due()
            await self._slices.rest()

    async def replayable(
        self, state: State, which: attempts.Which, *, sample: int
    ) -> tuple[int, Sequence[StoredMessage]]:
        """Return how many messages `replay_all` would be about, and the first of them; in slices,
        which change nothing."""
        count, above, shown = 0, 0, list[StoredMessage]()
        while True:
            look = partial(
                attempts.replayable,
                state=state,
                limit=retention.SLICE_ROWS,
                above=above,
                which=which,
            )
            ids, last = await self._read(look, _OPERATOR)
            for id in ids[: sample - len(shown)]:
                message = await self.show(id)
                shown += [] if message is None else [message]
            count += len(ids)
            if last is None:
                return count, shown
            above = last

    async def expect(self, new: NewExpectation) -> Expectation:
        """Wait for a job from now on; what is known of it already."""
        work = partial(expectations.expect, self._statements, new=new, seals=self.seals)
        return await self._write(work)

    async def take_expected(
        self,
        *,
        now_ms: int,
        until_ms: int,
        limit: int,
        sources: Sequence[str] | None = None,
        wait_max_ms: int | None = None,
    ) -> tuple[list[Expectation], int | None]:
        """Return the jobs of these sources (None: of all) to ask for now, which nobody else asks
        for until then; and when the next one will be due."""
        work = partial(
            expectations.take,
            sources=sources,
            now_ms=now_ms,
            until_ms=until_ms,
            limit=limit,
            wait_max_ms=wait_max_ms,
            seals=self.seals,
        )
        return await self._write(work)

    async def record_ask(self, result: AskResult) -> bool:
        """Write what asking for a job led to; whether it is lost now."""
        work = partial(expectations.record_ask, result=result, seals=self.seals)
        return await self._write(work)

    async def expectations(self, *, state: str | None, limit: int) -> list[Expectation]:
        """Return the jobs that are or were waited for, newest first."""
        query = partial(expectations.listed, state=state, limit=limit, seals=self.seals)
        return await self._read(query, _OPERATOR)

    async def prune(
        self,
        *,
        bodies_before_ms: int,
        messages_before_ms: int,
        sources: Collection[str] | None = None,
    ) -> tuple[int, int]:
        """Delete what was done with before these times, of these sources and of nobody's (None: of
        all): (bodies, messages) deleted. In slices, so that messages that come in meanwhile do not
        wait."""
        foreign = await self._foreign(sources)
        bodies = await self._prune(retention.prune_bodies, bodies_before_ms, foreign)
        messages = await self._prune(retention.prune_messages, messages_before_ms, foreign)
        await self._repeat(
            partial(retention.forget_expectations, before_ms=messages_before_ms, foreign=foreign)
        )
        await self._database.shrink()
        return bodies, messages

    async def give_up(
        self, *, before_ms: int, now_ms: int, sources: Collection[str]
    ) -> tuple[int, int]:
        """Delete what has been dead, and give up the jobs that have been asked for, since before:
        (messages, jobs)."""
        foreign = await self._foreign(sources)
        dead = await self._repeat(
            partial(retention.prune_dead, before_ms=before_ms, foreign=foreign)
        )
        lost = await self._repeat(
            partial(retention.lose_endless, before_ms=before_ms, foreign=foreign, now_ms=now_ms)
        )
        return dead, lost

    async def trusted_ms(self, now_ms: int) -> int:
        """Return the time to sweep by, which follows the clock (`retention.Trust`)."""
        return await self._write(lambda tx: self._trust.follow(tx, now_ms))

    async def clock_ms(self) -> int | None:
        """Return the time by the clock that all processes share; None where there is none."""
        return await self._read(self._statements.clock_ms)

    async def register(
        self, process: str, sources: Collection[str], what: Wanted, now_ms: int
    ) -> set[tuple[str, str]]:
        """Say which sources a process has and what it wants; return what nobody wanted of late."""
        work = partial(
            wanted.register,
            process=process,
            sources=sources,
            wanted=what,
            now_ms=now_ms,
            is_alone=self.lease_s is None,
        )
        return await self._write(work)

    async def renew_registration(self, process: str, now_ms: int) -> bool:
        """Say that a process lives; False where it is not registered any more."""
        return await self._write(lambda tx: wanted.renew(tx, process, now_ms))

    async def forget_processes(self, before_ms: int) -> None:
        """Forget processes that have ended and were last seen before."""
        await self._write(lambda tx: wanted.forget_processes(tx, self._beats, before_ms))

    async def sort(self) -> int:
        """Prepare a slice of what an earlier version stored to be claimed; how many. It is due."""
        count = await self._write(wanted.sort)
        if count:
            self._on_due()
        return count

    async def ignore_unclaimed(
        self, *, before_ms: int, sources: Collection[str], reason: str
    ) -> dict[tuple[str, str], int]:
        """Ignore what waits in these sources, or in nobody's, and is wanted by nobody since before;
        how many of what."""
        counts: dict[tuple[str, str], int] = {}
        find = partial(wanted.unclaimed, beats=self._beats, own=sources, before_ms=before_ms)
        for what in await self._write(find):
            count = await self._repeat(
                partial(wanted.ignore_unclaimed, what=what, before_ms=before_ms, reason=reason)
            )
            counts.update({what: count} if count else {})
        return counts

    async def ignored(self) -> dict[tuple[str, str], int]:
        """Count what was let in and ignored, and can be replayed."""
        return await self._read(wanted.ignored)

    async def page(
        self,
        *,
        below: int | None = None,
        limit: int = 50,
        job_id: str | None = None,
        verdict: str | None = None,
        state: str | None = None,
    ) -> Page:
        """Messages, newest first. Raises InboxUnavailable."""
        query = partial(
            listing.page,
            below=below,
            limit=limit,
            job_id=job_id,
            verdict=verdict,
            state=state,
            seals=self.seals,
        )
        return await self._read(query, _OPERATOR)

    async def show(self, id: int) -> StoredMessage | None:
        """One message with its body, or None. Raises InboxUnavailable."""
        return await self._read(partial(listing.show, id=id, seals=self.seals), _OPERATOR)

    async def backlog(self) -> Backlog:
        """Return what is not done with. Raises InboxUnavailable."""
        return await self._read(listing.backlog, _MONITORING)

    async def unreadable(self) -> int:
        """Count what waits for a key that opens it. Raises InboxUnavailable."""
        return await self._read(listing.unreadable, _MONITORING)

    async def stats(self) -> tuple[dict[str, int], dict[str, Sealing]]:
        """Count all messages by state, and all that could be sealed by how it is stored: it reads
        all of that. Raises InboxUnavailable."""
        states = await self._read(reencrypt.states, _OPERATOR)
        return states, await self._read(partial(reencrypt.count, seals=self.seals), _OPERATOR)

    async def begin_sealing(self) -> bool:
        """Begin to seal, where there is a ring and nobody is left who has none; whether that was
        done just now. Raises InboxUnavailable."""
        if self.seals is None or self.seals.begun:
            return False
        if await self._write(partial(begin, self._statements)):
            return False
        self.seals = self.seals.begin()
        return True

    async def reseal(self, place: Place) -> Resealed:
        """Seal a slice of what is plain, or sealed with an older key. Raises InboxUnavailable, and
        ValueError where nothing is sealed yet."""
        if self.seals is None:
            raise ValueError(f"there is no key to seal with: set {SETTING}")
        if not self.seals.begun:
            raise ValueError(f"processes without {SETTING} use the inbox: stop them")
        done = await self._write(partial(reencrypt.reseal, seals=self.seals, place=place))
        if done.next is None:
            await self._drop_old(self.seals)
        return done

    async def _drop_old(self, seals: Seals) -> None:
        """Forget what only older keys of the ring are needed for, once nothing else is."""
        counts = await self._read(partial(reencrypt.count, seals=seals), _OPERATOR)
        if not any(one.old or one.unreadable for one in counts.values()):
            await self._write(partial(drop_old, kid=seals.kid))

    async def scrub(self) -> None:
        """Leave nothing in the file of what was deleted or written over; what comes in meanwhile
        waits. Raises InboxUnavailable."""
        try:
            await self._database.scrub()
        except (DatabaseUnavailable, DatabaseFull, self._database.errors) as error:
            raise self._unavailable(error) from error

    async def due_ms(self, wanted: Wanted | None = None) -> int | None:
        """When the first that waits, and is wanted here (None: any), is due; 0 while one is being
        handled, None when none waits."""
        return await self._read(partial(listing.due_ms, wanted=wanted))

    async def check(self) -> None:
        """Whether it can read, and write if the last commit failed. Raises InboxUnavailable."""
        await self._read(lambda tx: tx.one("SELECT 1"))
        if self.failing:
            await self._write(self._statements.touch)

    async def close(self) -> None:
        """Commit what waits, then let go of the database."""
        await self._commits.close()
        await self._database.close()

    async def _write(self, work: Callable[[Any], T]) -> T:
        return await self._commit(Write(work))

    async def _commit(self, operation: Operation[T]) -> T:
        """Return the result of an operation once it is on disk. Raises InboxUnavailable."""
        if self._commits.is_closing:
            raise InboxUnavailable("the inbox is closing")
        try:
            result = await self._commits.do(operation)
        except (DatabaseUnavailable, DatabaseFull, self._database.errors) as error:
            self.failing = True
            # The others in the batch have the same one: each raises its own.
            raise self._unavailable(error) from error
        self.failing = False
        return result

    async def _apply(self, operations: Sequence[object]) -> Sequence[object]:
        """Return what came of each operation, once all are on disk."""
        results, has_due = await self._database.commit(partial(self._apply_within, operations))
        self._committed += len(operations)
        if has_due:
            self._on_due()
        return results

    def _apply_within(self, operations: Sequence[object], tx: Any) -> tuple[list[object], bool]:
        """Apply the messages together, then the rest one after another; whether there is something
        to handle now."""
        has_due = False

        def receive(tx: Any, messages: Sequence[Message]) -> Sequence[Verdict]:
            nonlocal has_due
            verdicts, is_due = batch.receive(
                self._statements, tx, messages, self._beats, self.seals
            )
            has_due |= is_due
            return verdicts

        kinds = ((Message, partial(receive, tx)), (Write, partial(write_all, tx)))
        return apply_kinds(kinds, operations), has_due

    async def _read(self, query: Callable[[Tx], T], reader: Reader = SERVICE) -> T:
        """Return what one query finds, cut off at its deadline. Raises InboxUnavailable."""
        try:
            return await self._database.read(query, reader)
        except (DatabaseUnavailable, DatabaseFull, self._database.errors) as error:
            raise self._unavailable(error) from error

    def _unavailable(self, error: Exception) -> InboxUnavailable:
        """Return what any error of the driver's is to our callers, expected or not: a table that is
        gone is no reason to have a sender give up."""
        if isinstance(error, self._database.errors):
            return InboxUnavailable(f"the database refuses it: {type(error).__name__}: {error}")
        return InboxUnavailable(str(error))

    async def _foreign(self, sources: Collection[str] | None) -> list[str]:
        if sources is None:
            return []
        return await self._read(lambda tx: wanted.foreign_sources(tx, sources))

    async def _prune(
        self,
        slice: Callable[..., tuple[int, int | None]],
        before_ms: int,
        foreign: Sequence[str],
    ) -> int:
        count = 0
        after_ms: int | None = 0
        while True:
            work = partial(slice, before_ms=before_ms, foreign=foreign, after_ms=after_ms)
            deleted, after_ms = await self._in_slice(work)
            count += deleted
            if after_ms is None:
                self._slices.end()
                return count
            await self._slices.rest()

    async def _repeat(self, slice: Callable[..., int]) -> int:
        count = 0
        while done := await self._in_slice(slice):
            count += done
            await self._slices.rest()
        self._slices.end()
        return count

    async def _in_slice(self, work: Callable[..., T]) -> T:
        return await self._slices.do(lambda rows: self._write(partial(work, limit=rows)))


async def _opened(database: Database, ring: Keyring | None, *, is_required: bool) -> Seals | None:
    """Return what seals an inbox. Raises InboxError, and lets go of the database then."""
    work = partial(open_seals, database.statements, ring=ring, is_required=is_required)
    try:
        seals = await database.commit(work)
    except (DatabaseUnavailable, DatabaseFull) as error:
        await database.close()
        raise InboxError(str(error)) from None
    except BaseException:
        await database.close()
        raise
    if isinstance(seals, str):
        await database.close()
        raise InboxError(seals)
    return seals


def _nobody() -> None:
    """Do nothing: without handlers nobody waits for what is due."""

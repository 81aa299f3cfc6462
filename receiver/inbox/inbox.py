"""The durable inbox: every message that was let in, once; what became of it; and the jobs that
are waited for. The same promises on SQLite and on PostgreSQL."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, TypeVar

from receiver.guard import Verdict
from receiver.inbox import expectations, handling, listing, retention
from receiver.inbox.commit import GroupCommit, Op
from receiver.inbox.expectations import Asked, Expectation
from receiver.inbox.handling import Settlement, Turn
from receiver.inbox.listing import Backlog
from receiver.inbox.tx import Tx
from receiver.message import Message, Page, State, StoredMessage
from receiver.verification.identity import Dialect

T = TypeVar("T")


class InboxError(Exception):
    """The inbox cannot be opened; the message tells the operator why, in one line."""


class InboxUnavailable(Exception):
    """The inbox cannot write or read just now (disk full, locked, away, too slow)."""


class Inbox(ABC):
    """All that a receiver knows. Made by `open_inbox`."""

    lease_s: float | None = None
    """How long a claim holds without `renew`; None: as long as this process lives."""

    def __init__(self, *, commit_rows_max: int) -> None:
        self.on_due: Callable[[], None] = _nobody  # called when something is there to handle
        self.failing = False  # whether the last commit failed
        self._commits = GroupCommit(self._commit_batch, rows_max=commit_rows_max)

    async def receive(self, message: Message) -> Verdict:
        """Store a message that is new, and says what it is. On return it is on disk.

        Of any number of copies, at the same time or later, at this replica or at others, one is
        stored. Raises InboxUnavailable.
        """
        verdict: Verdict = await self._commit(message)
        return verdict

    @abstractmethod
    async def claim(self, *, now_ms: int, limit: int) -> Turn:
        """Return the messages whose turn it is, at most `limit`, marked as running here: never two
        of one job at once, wherever they run. Raises InboxUnavailable."""

    @abstractmethod
    async def renew(self, running: Sequence[tuple[int, int]]) -> set[int]:
        """Hold these (id, fence) for another lease; the ids that are still ours."""

    @abstractmethod
    async def recover(self, *, now_ms: int, attempts_max: int) -> int:
        """Take back what ended processes left running; how many that were. Those whose attempts
        are used up are dead."""

    async def settle(self, settlement: Settlement) -> bool:
        """Write what came of an attempt; False when it was not ours any more."""
        return await self._write(partial(handling.settle, settlement=settlement))

    async def hand_back(self, id: int, fence: int, now_ms: int) -> None:
        """Make a running message due again, its attempt unspent."""
        await self._write(partial(handling.hand_back, id=id, fence=fence, now_ms=now_ms))

    async def replay(self, id: int, now_ms: int) -> bool:
        """Whether a message could be made due again."""
        replayed = await self._write(partial(handling.replay, id=id, now_ms=now_ms))
        if replayed:
            self.on_due()
        return replayed

    async def replay_all(self, state: State, now_ms: int) -> int:
        """Replays all messages of a state that can be, in slices; how many."""
        count, above = 0, 0
        while True:
            work = partial(
                handling.replay_all,
                state=state,
                now_ms=now_ms,
                limit=retention.SLICE_ROWS,
                above=above,
            )
            replayed, last = await self._write(work)
            if last is None:
                return count
            count, above = count + replayed, last
            self.on_due()

    async def expect(
        self,
        *,
        source: str,
        job_id: str,
        status_url: str,
        credentials: str | None,
        platform: Dialect,
        now_ms: int,
        ask_ms: int,
    ) -> Expectation:
        """Wait for a job from now on; it is asked for at `ask_ms` if it stays silent."""
        work = partial(
            expectations.expect,
            source=source,
            job_id=job_id,
            status_url=status_url,
            credentials=credentials,
            platform=platform,
            now_ms=now_ms,
            ask_ms=ask_ms,
        )
        return await self._write(work)

    async def take_expected(
        self, *, now_ms: int, until_ms: int, limit: int
    ) -> tuple[list[Expectation], int | None]:
        """Return the jobs to ask for now, which nobody else asks for until then; and when the next
        one will be due."""
        work = partial(expectations.take, now_ms=now_ms, until_ms=until_ms, limit=limit)
        return await self._write(work)

    async def asked(self, result: Asked) -> bool:
        """Write what asking for a job led to; whether it is lost now."""
        return await self._write(partial(expectations.asked, result=result))

    async def expectations(self, *, state: str | None, limit: int) -> list[Expectation]:
        """Return the jobs that are or were waited for, newest first."""
        return await self._read(partial(expectations.listed, state=state, limit=limit))

    async def prune(self, *, bodies_before_ms: int, messages_before_ms: int) -> tuple[int, int]:
        """Lets go of what was done with before these times: (bodies, messages) deleted. In
        slices, so that messages that come in meanwhile do not wait."""
        bodies = await self._prune(retention.prune_bodies, bodies_before_ms)
        messages = await self._prune(retention.prune_messages, messages_before_ms)
        if bodies or messages:
            await self._give_back()
        return bodies, messages

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
            listing.page, below=below, limit=limit, job_id=job_id, verdict=verdict, state=state
        )
        return await self._read(query)

    async def show(self, id: int) -> StoredMessage | None:
        """One message with its body, or None. Raises InboxUnavailable."""
        return await self._read(partial(listing.show, id=id))

    async def backlog(self) -> Backlog:
        """Return what is not done with. Raises InboxUnavailable."""
        return await self._read(listing.backlog)

    async def due_ms(self) -> int | None:
        """When the first that waits is due; 0 while one is being handled, None when none waits."""
        return await self._read(listing.due_ms)

    async def check(self) -> None:
        """Whether it can read, and write if the last commit failed. Raises InboxUnavailable."""
        await self._read(lambda tx: tx.all("SELECT 1 AS one", {}))
        if self.failing:
            await self._check_write()
            self.failing = False

    @abstractmethod
    async def close(self) -> None:
        """Commit what waits, then lets go of the database."""

    @abstractmethod
    async def _commit_batch(self, ops: Sequence[Op]) -> Sequence[Any]:
        """Return what came of each operation, once all are on disk. Raises InboxUnavailable."""

    @abstractmethod
    async def _check_write(self) -> None:
        """Write something. Raises InboxUnavailable."""

    @abstractmethod
    async def _read(self, query: Callable[[Tx], T]) -> T:
        """Return what one query finds, cut off at its deadline. Raises InboxUnavailable."""

    @abstractmethod
    async def _give_back(self) -> None:
        """Return to the file system what retention freed, where that does not happen by itself."""

    async def _write(self, work: Callable[[Any], T]) -> T:
        result: T = await self._commit(work)
        return result

    async def _commit(self, op: Op) -> Any:
        """Return the result of an operation once it is on disk. Raises InboxUnavailable."""
        if self._commits.is_closing:
            raise InboxUnavailable("the inbox is closing")
        try:
            result = await self._commits.submit(op)
        except InboxUnavailable as error:
            self.failing = True
            # The others in the batch have the same one: each raises its own.
            raise InboxUnavailable(str(error)) from error
        self.failing = False
        return result

    async def _prune(self, slice: Callable[[Tx, int], int], before_ms: int) -> int:
        count = 0
        while found := await self._write(lambda tx: slice(tx, before_ms)):
            count += found
        return count


def _nobody() -> None:
    """Without handlers there is nobody to tell."""

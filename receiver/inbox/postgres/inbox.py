"""The inbox on PostgreSQL, shared by all replicas that name the same database."""

import asyncio
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any, Final, Self, TypeVar

import psycopg

from receiver.base.db.postgres import CannotConnect, line, shown_url
from receiver.inbox.commit import Op
from receiver.inbox.handling import Turn
from receiver.inbox.inbox import Inbox, InboxError
from receiver.inbox.postgres.claim import claim, recover, renew
from receiver.inbox.postgres.migrate import SchemaError
from receiver.inbox.postgres.sessions import Reader, Writer

T = TypeVar("T")

# Each may hold two locks until the commit, and a server has room for 6,400 by default.
_ROWS_MAX: Final = 128
_TOUCH: Final = "UPDATE schema_version SET version = version"


class PostgresInbox(Inbox):
    """Open it with `await PostgresInbox.open(url)`."""

    def __init__(
        self, writer: Writer, reader: Reader, *, lease_s: float, commit_rows_max: int
    ) -> None:
        super().__init__(commit_rows_max=min(commit_rows_max, _ROWS_MAX))
        self.lease_s = lease_s
        self._lease_ms = round(lease_s * 1000)
        self._writer = writer
        self._reader = reader
        self._writing = ThreadPoolExecutor(1, thread_name_prefix="inbox-writer")
        self._reading = ThreadPoolExecutor(1, thread_name_prefix="inbox-reader")

    @classmethod
    async def open(
        cls,
        url: str,
        *,
        lease_s: float = 30.0,
        read_timeout_s: float = 5.0,
        commit_rows_max: int = 256,
    ) -> Self:
        """Connect, and brings the database to our schema. Raises InboxError."""
        writer, reader = Writer(url), Reader(url, timeout_s=read_timeout_s)
        try:
            await asyncio.to_thread(writer.open)
        except (CannotConnect, SchemaError) as error:
            await asyncio.to_thread(writer.close)
            raise InboxError(str(error)) from None
        except psycopg.Error as error:
            await asyncio.to_thread(writer.close)
            raise InboxError(f"cannot use {shown_url(url)}: {line(error)}") from None
        return cls(writer, reader, lease_s=lease_s, commit_rows_max=commit_rows_max)

    async def claim(self, *, now_ms: int, limit: int) -> Turn:
        return await self._write(
            partial(claim, now_ms=now_ms, limit=limit, lease_ms=self._lease_ms)
        )

    async def renew(self, running: Sequence[tuple[int, int]]) -> set[int]:
        return await self._write(partial(renew, running=running, lease_ms=self._lease_ms))

    async def recover(self, *, now_ms: int, attempts_max: int) -> int:
        return await self._write(partial(recover, now_ms=now_ms, attempts_max=attempts_max))

    async def close(self) -> None:
        await self._commits.close()
        loop = asyncio.get_running_loop()
        for threads, one in ((self._writing, self._writer), (self._reading, self._reader)):
            await loop.run_in_executor(threads, one.close)
            threads.shutdown()

    async def _commit_batch(self, ops: Sequence[Op]) -> Sequence[Any]:
        loop = asyncio.get_running_loop()
        outcomes, has_due = await loop.run_in_executor(self._writing, self._writer.commit, ops)
        if has_due:
            self.on_due()
        return outcomes

    async def _read(self, query: Callable[[Any], T]) -> T:
        loop = asyncio.get_running_loop()
        return await loop.run_in_executor(self._reading, self._reader.look, query)

    async def _check_write(self) -> None:
        await self._write(lambda tx: tx.run(_TOUCH, {}))

    async def _give_back(self) -> None:
        """Vacuum is the server's own affair."""

"""The inbox's PostgreSQL database, shared by all replicas that name it: sessions and threads."""

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any, Final, TypeVar

import psycopg

from receiver.base.db import DatabaseUnavailable
from receiver.base.db.migrate import migrations
from receiver.base.db.postgres import (
    QUIET,
    WRITER,
    Connection,
    PostgresTx,
    Readers,
    Server,
    Session,
    commit_with_retries,
    migrate,
    refuse_older,
)
from receiver.base.db.readers import Reader
from receiver.inbox.postgres import statements
from receiver.inbox.seals import LOCK, without_ring

T = TypeVar("T")

SCHEMA: Final = "postback_receiver"
MIGRATIONS: Final = migrations("receiver.inbox.postgres")
# Any number will do, as long as nobody else takes it for a lock of their own in this database.
_MIGRATING: Final = 0x7265636569766572
_IN_SCHEMA: Final = {"search_path": SCHEMA}
_WAIT_FOR_OPENING: Final = f"SELECT pg_advisory_xact_lock({statements.lock_key(*LOCK)})".encode()


_SCHEMA_TABLE: Final = "schema_version"
_WRITERS: Final = f"^{statements.WRITER_NAME}(, sealing)?$"


class PostgresDatabase:
    """One session that writes, on a thread of its own, one for what operators read, and one for
    what the receiver reads itself."""

    statements = statements
    errors: type[Exception] = psycopg.Error
    rows_max: int | None = 128
    """Each row may hold two locks until the commit, and a server has room for 6,400 by default."""

    def __init__(
        self,
        url: str,
        *,
        lease_s: float = 30.0,
        read_timeout_s: float = 5.0,
        is_sealing: bool = False,
    ) -> None:
        """`is_sealing` says that there is a key ring. Raise CannotOpen for what is no URL of a
        PostgreSQL database."""
        self.lease_s: float | None = lease_s
        self._server = Server(url)
        self._session = Session(
            self._server,
            statements.SEALING_NAME if is_sealing else statements.WRITER_NAME,
            {**_IN_SCHEMA, **WRITER},
            check=_refuse_older if is_sealing else _refuse_older_or_sealed,
        )
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="inbox-writer")
        self._readers = Readers(
            self._server,
            "postback receiver, reading",
            settings=_IN_SCHEMA,
            listings=1,
            own=1,
            timeout_s=read_timeout_s,
        )

    async def open(self) -> None:
        """Bring the database to our schema. Raises CannotOpen."""
        try:
            await asyncio.to_thread(self._prepare)
        except BaseException:
            await self.close()
            raise

    async def close(self) -> None:
        """Disconnect."""
        await self._readers.close()
        await self._in_thread(self._session.drop)
        self._thread.shutdown()

    async def commit(self, apply: Callable[[Any], T]) -> T:
        """Return what `apply(tx)` did, once it is on disk.

        A batch that met another replica's, or lost its connection before the commit, is done
        again. Raises PoisonedBatch; and DatabaseUnavailable and DatabaseFull, with which it may
        have been committed all the same if the connection broke meanwhile: which is why every
        operation can be done twice.
        """
        return await self._in_thread(commit_with_retries, partial(self._commit_once, apply))

    async def read(self, query: Callable[[Any], T], reader: Reader) -> T:
        """Return what a query finds. Raises DatabaseUnavailable."""
        return await self._readers.read(lambda connection: query(PostgresTx(connection)), reader)

    async def shrink(self) -> None:
        """Differs: vacuum is the server's own affair."""

    async def scrub(self) -> None:
        """Differs: what the server keeps of rows of before is its own affair; the README says how
        to have it written anew."""

    def _prepare(self) -> None:
        self._server.opened(
            f"{statements.WRITER_NAME} migration", {**_IN_SCHEMA, **QUIET}, _migrate
        ).close()

    def _commit_once(self, apply: Callable[[Any], T]) -> T:
        tx = self._session.begin_with(_begin)
        with self._session.rolled_back_on_error():
            result = apply(tx)
        self._session.commit()
        return result

    async def _in_thread(self, function: Callable[..., T], *arguments: object) -> T:
        return await asyncio.get_running_loop().run_in_executor(self._thread, function, *arguments)


def _migrate(connection: Connection) -> None:
    migrate(
        connection,
        MIGRATIONS,
        table=_SCHEMA_TABLE,
        lock=_MIGRATING,
        schema=SCHEMA,
        writers=_WRITERS,
    )


def _refuse_older(connection: Connection) -> None:
    refuse_older(connection, MIGRATIONS, _SCHEMA_TABLE)


def _refuse_older_or_sealed(connection: Connection) -> None:
    """Refuse also what another process has begun to seal while this one, which has no key, was
    away; who begins just now is waited for."""
    _refuse_older(connection)
    connection.execute(_WAIT_FOR_OPENING)
    if connection.execute(statements.HAS_BEGUN.encode()).fetchone() is not None:
        row = connection.execute("SELECT string_agg(DISTINCT kid, ', ') FROM seals").fetchone()
        raise DatabaseUnavailable(without_ring(str(row[0]) if row is not None else "?"))


def _begin(connection: Connection) -> PostgresTx:
    connection.execute(b"BEGIN")
    return PostgresTx(connection)

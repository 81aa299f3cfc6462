"""Sessions beside the one that commits for everyone: for what is large, is looked at by nobody yet,
and would make everyone's commits wait."""

import asyncio
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from functools import partial
from typing import Final, TypeVar

import psycopg

from dispatcher.store.postgres.session import PostgresTx
from dispatcher.store.tx import Tx
from receiver.base.db.postgres import QUIET, Connection, Server, Session, commit_with_retries

T = TypeVar("T")

_SESSIONS: Final = 2
_BEGIN: Final = b"BEGIN"
# What is written here is named by a later commit, which is synced, and with it all before it.
_UNSYNCED: Final = b"SET LOCAL synchronous_commit = off"


class Aside:
    """A few sessions, each on a thread of its own, made when they are first needed."""

    def __init__(self, server: Server) -> None:
        self._server = server
        self._threads = ThreadPoolExecutor(_SESSIONS, thread_name_prefix="postgres-aside")
        self._own = threading.local()
        self._all: list[Session] = []

    async def run(self, act: Callable[[Tx], T], *, synced: bool = False) -> T:
        """Return what `act` did in a transaction of its own, which is on disk once any later commit
        is, or, if `synced`, by now. Raises StoreUnavailable and such."""
        loop = asyncio.get_running_loop()
        work = partial(commit_with_retries, partial(self._once, act, synced))
        return await loop.run_in_executor(self._threads, work)

    def _once(self, act: Callable[[Tx], T], synced: bool) -> T:
        session = self._session()
        connection = session.begin_with(_begun if synced else _begun_unsynced)
        with session.rolled_back_on_error():
            result = act(PostgresTx(connection))
        session.commit()
        return result

    def _session(self) -> Session:
        session: Session | None = getattr(self._own, "session", None)
        if session is None:
            session = self._own.session = Session(self._server, "postback parts", QUIET)
            self._all.append(session)
        return session

    async def close(self) -> None:
        """Let go of them, once what runs has ended."""
        await asyncio.to_thread(self._threads.shutdown)
        for session in self._all:
            with suppress(psycopg.Error):
                session.drop()


def _begun(connection: Connection) -> Connection:
    connection.execute(_BEGIN, prepare=False)
    return connection


def _begun_unsynced(connection: Connection) -> Connection:
    connection.execute(_BEGIN, prepare=False)
    connection.execute(_UNSYNCED, prepare=False)
    return connection

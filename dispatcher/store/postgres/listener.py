"""What other processes notify: work was left ready, keys or secrets changed, a replay was made."""

import asyncio
from collections.abc import Callable
from typing import Final, get_args

import psycopg

from dispatcher.store.postgres.session import CHANNEL
from dispatcher.store.tx import Topic
from receiver.base import log
from receiver.base.db.postgres import Server, line

_LOG: Final = log.get("dispatcher.store")
_RETRY_S: Final = 1.0

OnNotification = Callable[[str, str], None]
"""Told a topic and which session notified; on a new connection every topic, for what was missed."""


class Listener:
    """One connection that waits for notifications, made again whenever it is lost."""

    def __init__(self, server: Server, on_notification: OnNotification) -> None:
        self._server = server
        self._on_notification = on_notification
        self._task: asyncio.Task[None] | None = None

    def start(self) -> None:
        """Begin to listen."""
        self._task = asyncio.create_task(self._listen_on(), name="listener")

    async def stop(self) -> None:
        """Disconnect."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.wait({self._task})

    async def _listen_on(self) -> None:
        missed = False
        while True:
            try:
                await self._listen(missed=missed)
            except psycopg.Error as error:
                _LOG.info("not listening", reason=line(error))
            missed = True
            await asyncio.sleep(_RETRY_S)

    async def _listen(self, *, missed: bool) -> None:
        connection = await psycopg.AsyncConnection.connect(
            self._server.conninfo("postback listener"), autocommit=True
        )
        async with connection:
            await connection.execute(f"LISTEN {CHANNEL}")
            if missed:
                for topic in get_args(Topic):
                    self._on_notification(topic, "")
            async for notice in connection.notifies():
                topic, _, session = notice.payload.partition(" ")
                self._on_notification(topic, session)

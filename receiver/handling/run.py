"""One attempt at one message: the customer's function, on the loop or in a thread of its own."""

import asyncio
import inspect
import threading
from collections.abc import Callable
from contextlib import suppress
from types import FrameType
from typing import Any, Final

from receiver.base.completion import DEPTH_MAX, UNKNOWN
from receiver.base.lack import OwnLack
from receiver.event import Event, read_event
from receiver.handling.handlers import Handler
from receiver.handling.tx import AsyncTx, Effects, Transaction
from receiver.inbox.message import Claimed
from receiver.verification.identity import Identity, read

_DEPTH_MAX: Final = 900  # under the interpreter's own limit of about 1000


class HandlerTimeout(Exception):
    """The handler did not end within its time."""


class HandlerNotRun(Exception):
    """The handler returned something that would have to be awaited or iterated over for it to do
    anything; the message says what."""


class Run:
    """A running attempt. `work` ends when the handler has truly ended, and not before."""

    def __init__(
        self, handler: Handler, event: Event, effects: Effects | None, now_ms: Callable[[], int]
    ) -> None:
        self._handler = handler
        self._event = event
        self._effects = effects
        self._now_ms = now_ms
        self._transaction: Transaction | None = None
        self._timed_out = False
        self._loop = asyncio.get_running_loop()
        # Done when the handler's own time begins: waiting for a turn in the database is not it.
        self.begun: asyncio.Future[None] = self._loop.create_future()
        if not handler.takes_tx:
            self.begun.set_result(None)
        start = self._async if handler.is_async else self._sync
        self.work: asyncio.Future[None] = asyncio.ensure_future(start())

    @property
    def has_transaction(self) -> bool:
        """Whether all that it did can be undone, and is when it is cut short."""
        return self._handler.takes_tx

    def cut_short(self) -> None:
        """End it as far as it can be ended: a coroutine is cancelled, a transaction is rolled
        back; a thread goes on, and `work` with it."""
        self._timed_out = True
        if self._transaction is not None:
            # Beside the loop: a statement may have to end first.
            threading.Thread(target=self._transaction.abandon, daemon=True).start()
        if self._handler.is_async:
            self.work.cancel()

    async def _async(self) -> None:
        try:
            await (self._in_async_transaction() if self._handler.takes_tx else self._call())
        except (SystemExit, KeyboardInterrupt) as error:
            raise RuntimeError(f"the handler raised {type(error).__name__}") from error

    async def _call(self, *arguments: Any) -> None:
        check_ran(self._handler, await self._handler.function(self._event, *arguments))

    async def _in_async_transaction(self) -> None:
        transaction = await in_thread(self._begin)
        try:
            if await in_thread(lambda: transaction.mark(self._event, self._now_ms())):
                await self._call(AsyncTx(transaction.tx))
            await in_thread(transaction.commit)
        finally:
            await in_thread(transaction.close)

    async def _sync(self) -> None:
        await in_thread(self._in_transaction if self._handler.takes_tx else self._plain)

    def _plain(self) -> None:
        check_ran(self._handler, self._handler.function(self._event))

    def _in_transaction(self) -> None:
        transaction = self._begin()
        try:
            if transaction.mark(self._event, self._now_ms()):
                check_ran(self._handler, self._handler.function(self._event, transaction.tx))
            transaction.commit()
        finally:
            transaction.close()

    def _begin(self) -> Transaction:
        if self._effects is None:
            raise RuntimeError(f"{self._handler.name} takes tx, and there is no database for it")
        transaction = self._transaction = self._effects.begin()
        if self._timed_out:  # nobody is there any more who would end it
            transaction.close()
            raise HandlerTimeout("it was not its turn in your database in time")
        with suppress(RuntimeError):  # the loop is gone, and with it who waited
            self._loop.call_soon_threadsafe(self.begun.set_result, None)
        return transaction


def handler_of(frame: FrameType) -> str | None:
    """Return the name of the async handler that runs in the frames above this one of a stack: this
    one is ours, which awaits it. None for any other frame."""
    if frame.f_code is not Run._call.__code__:
        return None
    run = frame.f_locals.get("self")  # nothing of one that has just ended
    return run._handler.name if isinstance(run, Run) else None


def check_ran(handler: Handler, result: Any) -> None:
    """Raise HandlerNotRun for the result of a handler that has not done its work: a decorator that
    is not async around a function that is, or a `yield`."""
    if inspect.isgenerator(result) or inspect.isasyncgen(result):
        kind = "it is a generator: without the yield it would run"
    elif inspect.isawaitable(result):
        kind = "make it, and each decorator around it, an async function that awaits it"
        if inspect.iscoroutine(result):
            result.close()  # or Python would warn of it, somewhere else
    else:
        return
    what = type(result).__name__
    raise HandlerNotRun(f"{handler.name} returned {what}, and nothing ran: {kind}")


def event_of(claimed: Claimed) -> Event:
    """Return the event that a stored message is. Its body is read again, as when it came."""
    # Where its status was not to be read when it came, nothing in it is believed now.
    depth_max = DEPTH_MAX if claimed.job_status == UNKNOWN else _DEPTH_MAX
    document, unread = read(claimed.body, depth_max=depth_max)
    identity = Identity(
        job_id=claimed.job_id,
        status=claimed.job_status,
        run=claimed.run,
        platform=claimed.platform,
        document=document,
        unread=None if unread is None else unread.reason,
    )
    return read_event(
        identity,
        claimed.body,
        message_id=claimed.message_id,
        source=claimed.source,
        content_type=claimed.content_type,
        attempt=claimed.attempt,
    )


async def in_thread(function: Callable[[], Any]) -> Any:
    """Return the function's result, from a thread of its own; one that hangs keeps nobody from
    leaving (a pool's threads are waited for when the process ends). Raises OwnLack where there can
    be none."""
    loop = asyncio.get_running_loop()
    future: asyncio.Future[Any] = loop.create_future()

    def resolve(result: Any, error: Exception | None) -> None:
        if future.done():
            return
        if error is None:
            future.set_result(result)
        else:
            future.set_exception(error)

    def work() -> None:
        result: Any = None
        error: Exception | None = None
        try:
            result = function()
        except Exception as caught:
            # A future takes no StopIteration: it would end whoever awaits it, without an error.
            error = RuntimeError(repr(caught)) if isinstance(caught, StopIteration) else caught
        except BaseException as caught:  # sys.exit() in a handler ends the handler, not us
            error = RuntimeError(f"the handler raised {type(caught).__name__}")
            error.__cause__ = caught
        with suppress(RuntimeError):  # the loop is gone, and with it who waited
            loop.call_soon_threadsafe(resolve, result, error)

    try:
        threading.Thread(target=work, name="receiver handler", daemon=True).start()
    except RuntimeError as error:  # the system's limit of threads: nothing has run
        raise OwnLack("threads", str(error)) from error
    return await future

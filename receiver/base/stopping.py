"""How a process is told to stop, at any moment of its life; and that it then ends, whatever
hangs."""

import asyncio
import os
import select
import signal
import threading
import time
from collections.abc import Callable, Coroutine, Iterator, Sequence
from contextlib import contextmanager, suppress
from types import FrameType
from typing import Any, Final

from receiver.base.log import Log

SIGNALS: Final = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
START_S: Final = 3.0  # for a process that is told to stop while it starts: it has nothing to finish
CLOSE_S: Final = 3.0  # beyond what a stopping process may take to finish, to close what is open
_LAST_WORDS_S: Final = 1.0  # a log that nobody reads must not keep the process
_LOOK_S: Final = 0.5
_ASKED: Final = b"s"
_DONE: Final = b"d"


class Stop:
    """The wish that this process stops, and the bound within which it then ends.

    The first signal begins an orderly end; a second SIGINT or SIGTERM ends the process at once,
    which is safe: what was acknowledged is on disk. A SIGHUP is never the second one: a terminal
    that closes, and some service managers, send it beside others. Where it is ignored (`nohup`)
    it stays so.
    """

    def __init__(self, log: Log, *, signals: Sequence[signal.Signals] = SIGNALS) -> None:
        self.within_s = START_S
        """How long after the wish the process ends at the latest; it then leaves with 1."""
        self.at_once: Callable[[], object] = lambda: None
        """Called right before a second signal ends the process."""
        self._log = log
        self._numbers = signals
        self._asked_s: float | None = None
        self._signals = 0
        self._calls: list[Callable[[], object]] = []
        self._pipe: int | None = None  # where the guard listens
        self._pid = os.getpid()

    @property
    def is_asked(self) -> bool:
        """Whether the process is to stop."""
        return self._asked_s is not None

    def left_s(self, grace_s: float) -> float:
        """Return what is left of the `grace_s` seconds that begin with the wish."""
        if self._asked_s is None:
            return grace_s
        return max(0.0, self._asked_s + grace_s - time.monotonic())

    def ask(self) -> None:
        """Stop in order; once more changes nothing. For any thread, and for signal handlers."""
        if self._asked_s is None:
            self._asked_s = time.monotonic()
            self._tell(_ASKED)
            for call in tuple(self._calls):
                call()

    @contextmanager
    def calling(self, call: Callable[[], object]) -> Iterator[None]:
        """Inside, `call` is called when the process is to stop, from wherever it is told so; at
        once where it was before."""
        self._calls.append(call)
        if self.is_asked:
            call()
        try:
            yield
        finally:
            self._calls.remove(call)

    async def allows(self, work: Coroutine[Any, Any, None]) -> bool:
        """Return True once `work` is done; False where it was cancelled, since the process is to
        stop. Raises what it raises."""
        task = asyncio.ensure_future(work)
        loop = asyncio.get_running_loop()
        with self.calling(lambda: loop.call_soon_threadsafe(task.cancel)):
            await asyncio.wait({task})
        if not task.cancelled() and (task.exception() is None or not self.is_asked):
            task.result()
            return True
        return False

    @contextmanager
    def signals(self) -> Iterator[None]:
        """Inside, signals are heard, and the process ends within the bound. For the main thread."""
        numbers = [
            number
            for number in self._numbers
            if number != signal.SIGHUP or signal.getsignal(number) != signal.SIG_IGN
        ]
        reading, self._pipe = os.pipe()
        os.set_blocking(self._pipe, False)
        threading.Thread(target=self._guard, args=(reading,), name="stop", daemon=True).start()
        previous = {number: signal.signal(number, self._take) for number in numbers}
        if self.is_asked:
            self._tell(_ASKED)
        try:
            yield
        finally:
            for number, handler in previous.items():
                signal.signal(number, handler)
            self._tell(_DONE)
            writing, self._pipe = self._pipe, None
            os.close(writing)

    def _take(self, number: int, _frame: FrameType | None) -> None:
        if os.getpid() != self._pid:  # a forked child, which inherits this: no affair of ours
            _end_by(number)
        if number != signal.SIGHUP:
            self._signals += 1
            if self._signals > 1:
                self.at_once()
                _end_by(number)
        self.ask()

    def _tell(self, word: bytes) -> None:
        # Not by a lock or an event: whoever holds it may be what the signal has interrupted.
        if self._pipe is not None:
            with suppress(OSError):
                os.write(self._pipe, word)

    def _guard(self, reading: int) -> None:
        """End the process when its time is over: whatever its other threads wait for."""
        asked = False
        while True:
            wait_s = min(_LOOK_S, self.left_s(self.within_s)) if asked else None
            readable, _, _ = select.select([reading], [], [], wait_s)
            if readable:
                word = os.read(reading, 1)
                if word != _ASKED:
                    os.close(reading)
                    return
                asked = True
            elif self.left_s(self.within_s) <= 0:
                self._leave()

    def _leave(self) -> None:
        words = threading.Thread(target=self._say_why, daemon=True)
        words.start()
        words.join(_LAST_WORDS_S)
        os._exit(1)

    def _say_why(self) -> None:
        self._log.error(
            "ended before everything was closed in order: something hangs",
            seconds=round(self.within_s, 1),
        )


def _end_by(number: int) -> None:
    signal.signal(number, signal.SIG_DFL)
    signal.raise_signal(number)

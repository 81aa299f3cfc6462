"""Stalls of the event loop: code on it that waits, or computes, without awaiting keeps every other
request waiting. A thread beside it notices, and says where it stands."""

import asyncio
import sys
import sysconfig
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType
from typing import Final, Self

from receiver.base.log import Log

# What a person notices and a health check may fail by: its timeout is commonly one second. A turn
# of a busy loop takes milliseconds.
STALL_S: Final = 1.0
_LOOK_S: Final = 0.25
# A look that comes later than this was itself kept from running: by a machine that was suspended, a
# process that was stopped, too few processors.
_LATE_S: Final = 2 * _LOOK_S
# A stall as long as this is told while it lasts: a health check may end the process before it ends.
_TELL_S: Final = 5.0
_ADVICE: Final = "await it with an async library, or run it in a thread (asyncio.to_thread)"
_ADVICE_HANDLER: Final = (
    "make the handler `def` (it then runs in a thread), or await with an async library"
)
_LOOP: Final = frozenset({"asyncio.events", "asyncio.base_events", "asyncio.runners"})
_IDLE: Final = "selectors"  # where the loop waits, if it is not uvloop's
_DEBUGGER: Final = "bdb"
_LIBRARIES: Final = tuple(
    {sysconfig.get_path(name) for name in ("stdlib", "platstdlib", "purelib", "platlib")}
)

NameOf = Callable[[FrameType], str | None]
"""Returns the name of the handler that a frame of the stack is about to run; None for others."""


@dataclass(slots=True)
class Stalls:
    """How often the loop stood still since the start, and for how long at most."""

    count: int = 0
    longest_s: float = 0.0


@dataclass(frozen=True, slots=True)
class Place:
    """Where the loop's thread stands, and in which handler where that is known."""

    at: str
    handler: str | None


@dataclass(frozen=True, slots=True)
class Look:
    """Times of one moment, in seconds: the clock, the loop's thread at work, and waiting for a
    processor (0 where the system does not say)."""

    now_s: float
    worked_s: float
    queued_s: float


@dataclass(slots=True)
class _Stall:
    """What is known of the loop's present turn."""

    lasted_s: float = 0.0
    place: Place | None = None
    is_told: bool = False


@dataclass(slots=True)
class _Clocks:
    """The clocks of the thread that makes it."""

    cpu: int | None = field(
        default_factory=lambda: (
            time.pthread_getcpuclockid(threading.get_ident())
            if hasattr(time, "pthread_getcpuclockid")
            else None
        )
    )
    scheduled: Path = field(
        default_factory=lambda: Path(f"/proc/self/task/{threading.get_native_id()}/schedstat")
    )

    def look(self) -> Look:
        """Return the times; for any thread."""
        worked_s = queued_s = 0.0
        with suppress(OSError):  # the thread has ended
            worked_s = 0.0 if self.cpu is None else time.clock_gettime(self.cpu)
        with suppress(OSError, ValueError, IndexError):  # Linux alone has it
            queued_s = int(self.scheduled.read_bytes().split()[1]) / 1e9
        return Look(time.monotonic(), worked_s, queued_s)


def blamed_s(before: Look, now: Look) -> float:
    """Return how much of the time between two looks the code on the loop kept for itself. Waiting
    for a processor is not its fault, nor is anything while the one who looks was kept from it as
    well, unless the loop's thread was at work all along: code in C may let no other thread run."""
    elapsed_s = now.now_s - before.now_s
    if elapsed_s > _LATE_S:
        return min(elapsed_s, now.worked_s - before.worked_s)
    return max(0.0, elapsed_s - (now.queued_s - before.queued_s))


class Watch:
    """Watches the loop that it is made on, until it is closed. Four times a second it asks the loop
    for a sign of life; that is all it costs while nothing stands still. Each stall of more than
    `STALL_S` is one warning, when it ends or once it has lasted for five seconds."""

    def __init__(self, log: Log, stalls: Stalls, name_of: NameOf = lambda _: None) -> None:
        self._log = log
        self._stalls = stalls
        self._name_of = name_of
        self._loop = asyncio.get_running_loop()
        self._ident = threading.get_ident()
        self._clocks = _Clocks()
        self._closed = threading.Event()
        self._turned_s: float | None = time.monotonic()  # None while no sign has come
        self._stall = _Stall()
        self._thread = threading.Thread(target=self._watch, name="loop watch", daemon=True)
        with suppress(RuntimeError):  # no threads are left: that is told where one is needed
            self._thread.start()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """End the thread."""
        self._closed.set()
        if self._thread.is_alive():
            self._thread.join(_LATE_S)  # it has nothing to wait for, unless it writes a line

    def _watch(self) -> None:
        before = self._clocks.look()
        while not self._closed.wait(_LOOK_S):
            now = self._clocks.look()
            self._see(before, now)
            before = now
        self._end()

    def _turn(self) -> None:
        self._turned_s = time.monotonic()

    def _see(self, before: Look, now: Look) -> None:
        """Count the time between two looks, and ask again where the last sign has come."""
        stall, turned_s = self._stall, self._turned_s
        blamed = blamed_s(before, now)
        if turned_s is not None:
            stall.lasted_s += min(blamed, max(0.0, turned_s - before.now_s))
            self._end()
            self._turned_s = None
            try:
                self._loop.call_soon_threadsafe(self._turn)
            except RuntimeError:  # it was closed, and whoever made it did not close us
                self._closed.set()
            return
        stall.lasted_s += blamed
        if stall.lasted_s < STALL_S:
            return
        if stall.place is None:
            stall.place = place_of(sys._current_frames().get(self._ident), self._name_of)
        if stall.lasted_s >= _TELL_S and stall.place is not None and not stall.is_told:
            stall.is_told = True
            self._tell(stall.place, stall.lasted_s, so_far=True)

    def _end(self) -> None:
        stall, self._stall = self._stall, _Stall()
        if stall.place is None:  # it was short, or it was nobody's
            return
        self._stalls.count += 1
        self._stalls.longest_s = max(self._stalls.longest_s, stall.lasted_s)
        if stall.is_told:
            self._log.info("the event loop turns again", seconds=round(stall.lasted_s, 1))
        else:
            self._tell(stall.place, stall.lasted_s, so_far=False)

    def _tell(self, place: Place, seconds: float, *, so_far: bool) -> None:
        self._log.warning(
            "the event loop stands still" if so_far else "the event loop stood still",
            seconds=round(seconds, 1),
            handler=place.handler,
            at=place.at,
            advice=_ADVICE if place.handler is None else _ADVICE_HANDLER,
        )


def place_of(frame: FrameType | None, name_of: NameOf) -> Place | None:
    """Return where a thread stands by its innermost frame: the innermost line that is not Python's
    own nor an installed package's, where there is one. None where it runs nothing but the loop, or
    a debugger waits for somebody."""
    stack: list[FrameType] = []
    handler: str | None = None
    while frame is not None and handler is None:
        module = frame.f_globals.get("__name__")
        if module == _DEBUGGER:
            return None
        if module in _LOOP:
            break
        handler = name_of(frame)
        if handler is None:
            stack.append(frame)
        frame = frame.f_back
    if not stack or (len(stack) == 1 and stack[0].f_globals.get("__name__") == _IDLE):
        return None
    otherwise = stack[0] if handler is None else stack[-1]
    shown = next((one for one in stack if _is_own(one)), otherwise)
    code = shown.f_code
    return Place(f"{code.co_filename}:{shown.f_lineno} in {code.co_qualname}", handler)


def _is_own(frame: FrameType) -> bool:
    return not frame.f_code.co_filename.startswith((*_LIBRARIES, "<frozen"))

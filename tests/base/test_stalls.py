"""stalls.py: who keeps the event loop from turning, and who is not to blame."""

import asyncio
import logging
import sys
import threading
import time
from collections.abc import Iterator
from types import FrameType

import pytest

from receiver.base import log, stalls
from receiver.base.stalls import Look, Place, Stalls, Watch, blamed_s, place_of
from tests import marks

ENDS_WITHIN_S = 60.0
LOG = log.get("stalls-of-tests")
HERE = f"{__file__}:"


class Told(logging.Handler):
    """What a watch has told, and a sign that it has told something."""

    def __init__(self) -> None:
        super().__init__()
        self.records: list[logging.LogRecord] = []
        self.some = threading.Event()

    def emit(self, record: logging.LogRecord) -> None:
        self.records.append(record)
        self.some.set()

    @property
    def warnings(self) -> list[dict[str, object]]:
        return [vars(one)["fields"] for one in self.records if one.levelno == logging.WARNING]


@pytest.fixture
def told() -> Iterator[Told]:
    before = marks.look()
    logger = logging.getLogger("stalls-of-tests")
    handler = Told()
    logger.handlers[:] = [handler]
    logger.setLevel("INFO")
    logger.propagate = False
    yield handler
    marks.put_back(before)


async def until(happened: threading.Event) -> None:
    await asyncio.to_thread(happened.wait, ENDS_WITHIN_S)


def look(now_s: float, worked_s: float = 0.0, queued_s: float = 0.0) -> Look:
    return Look(now_s, worked_s, queued_s)


@pytest.mark.parametrize(
    ("now", "blamed"),
    [
        (look(0.25), 0.25),  # it sleeps
        (look(0.25, worked_s=0.25), 0.25),  # it computes
        (look(0.25, worked_s=0.05, queued_s=0.2), 0.05),  # it gets no processor
        (look(0.25, queued_s=0.3), 0.0),
        (look(600.0), 0.0),  # the process was stopped, or the machine suspended
        (look(600.0, worked_s=0.01), 0.0),
        (look(3.0, worked_s=2.9), 2.9),  # code in C lets no other thread run
    ],
)
def test_nobody_is_blamed_for_time_that_nobody_had(now: Look, blamed: float) -> None:
    """A machine that was suspended, a process that was stopped, and too few processors keep the one
    who looks from looking as well, or the loop from running."""
    assert blamed_s(look(0.0), now) == pytest.approx(blamed, abs=0.011)


async def test_a_stall_is_one_warning_with_the_line_that_blocks(told: Told) -> None:
    """Told when it ends, with how long it lasted; counted, too. The next one is another."""
    seen = threading.Event()

    def name_of(frame: FrameType) -> str | None:
        if frame.f_code is test_a_stall_is_one_warning_with_the_line_that_blocks.__code__:
            seen.set()  # the watch looks where the loop stands
        return None

    counted = Stalls()
    with Watch(LOG, counted, name_of):
        for number in (1, 2):
            seen.clear()
            told.some.clear()
            # Blocks the loop.
            seen.wait(ENDS_WITHIN_S)
            await until(told.some)
            assert len(told.records) == counted.count == number
    for warning in told.warnings:
        assert float(str(warning["seconds"])) >= stalls.STALL_S
        assert str(warning["at"]).startswith(HERE)
        assert str(warning["at"]).endswith(" in " + name_of.__qualname__.split(".")[0])
        assert warning["handler"] is None
        assert "to_thread" in str(warning["advice"])
    assert counted.longest_s >= stalls.STALL_S


async def test_a_long_stall_is_told_while_it_lasts(
    told: Told, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whoever looks for why nobody is answered finds it at once; the end is no second warning."""
    monkeypatch.setattr(stalls, "_TELL_S", stalls.STALL_S)

    def handler_of(frame: FrameType) -> str | None:
        outer = frame.f_code is test_a_long_stall_is_told_while_it_lasts.__code__
        return "fulfil" if outer else None

    def blocks() -> None:
        told.some.wait(ENDS_WITHIN_S)

    with Watch(LOG, Stalls(), handler_of):
        blocks()
        assert [one["handler"] for one in told.warnings] == ["fulfil"]
        assert str(told.warnings[0]["at"]).endswith("<locals>.blocks")
        assert "`def`" in str(told.warnings[0]["advice"])
        told.some.clear()
        await until(told.some)
    assert [one.levelno for one in told.records] == [logging.WARNING, logging.INFO]


async def test_a_watch_ends_with_what_it_watches(told: Told) -> None:
    """Its thread is gone when it is closed, and when the loop was closed without a word."""
    before = set(threading.enumerate())
    with Watch(LOG, Stalls()):
        assert len(set(threading.enumerate()) - before) == 1
    assert set(threading.enumerate()) <= before

    async def leaves() -> Watch:
        return Watch(LOG, Stalls())

    left = await asyncio.to_thread(asyncio.run, leaves())
    await asyncio.to_thread(left._thread.join, ENDS_WITHIN_S)
    assert not left._thread.is_alive()
    assert told.records == []


def test_a_debugger_that_waits_for_somebody_is_no_stall() -> None:
    """Who stands at a breakpoint knows that the process stands still."""
    debugger = {"__name__": "bdb"}
    exec("def interact(look): return look()", debugger)
    here = place_of(sys._getframe(), lambda _: None)
    assert here is not None
    assert here.at.startswith(HERE)
    assert debugger["interact"](lambda: place_of(sys._getframe(), lambda _: None)) is None  # type: ignore[operator]


def test_a_loop_that_waits_for_work_stands_nowhere() -> None:
    """Where its thread runs nothing but the loop, there is nobody to blame."""
    loop, places = asyncio.new_event_loop(), list[Place | None]()
    running, idle = threading.Event(), threading.Event()
    thread = threading.Thread(target=loop.run_forever)
    loop.call_soon(running.set)
    thread.start()
    running.wait(ENDS_WITHIN_S)
    deadline = time.monotonic() + ENDS_WITHIN_S
    try:
        while not idle.is_set() and time.monotonic() < deadline:
            frame = sys._current_frames()[thread.ident or 0]
            if frame.f_globals["__name__"] == "selectors":
                places.append(place_of(frame, lambda _: None))
                idle.set()
    finally:
        loop.call_soon_threadsafe(loop.stop)
        thread.join()
        loop.close()
    assert places == [None]

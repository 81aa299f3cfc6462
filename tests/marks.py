"""What a test may leave behind in its process, where the next one finds it: such a mark has tests
depend on what ran before."""

import gc
import logging
import os
import resource
import signal
import sys
import time
import tracemalloc
from collections.abc import Callable
from typing import Any, Final, TypeAlias

from _pytest.logging import LogCaptureHandler

_SIGNALS: Final = (signal.SIGHUP, signal.SIGINT, signal.SIGTERM, signal.SIGQUIT, signal.SIGPIPE,
                   signal.SIGCHLD, signal.SIGUSR1, signal.SIGUSR2)  # fmt: skip
_LIMITS: Final = (resource.RLIMIT_NOFILE, resource.RLIMIT_CORE, resource.RLIMIT_AS)
_PYTESTS: Final = "PYTEST_"  # variables that it changes itself, from test to test
# Each configuration of a server sets what it logs of requests, and ours is as good as another.
_UVICORNS: Final = "uvicorn.access"

# Level, propagate, disabled, handlers, filters.
_Logger: TypeAlias = tuple[int, bool, bool, list[logging.Handler], list[Any]]
_PLAIN: Final[_Logger] = (logging.NOTSET, True, False, [], [])


def look() -> list[Any]:
    """Return how this process is now."""
    return [read() for _, read, _ in _MARKS]


def put_back(before: list[Any]) -> list[str]:
    """Have this process be as it was `before`, and return what was not so any more."""
    left = list[str]()
    for (name, read, write), was in zip(_MARKS, before, strict=True):
        if (now := read()) != was:
            left.append(f"{name}: {now!r} instead of {was!r}")
            write(was)
    return left


def _loggers() -> dict[str, _Logger]:
    """Of those that are not as `logging` makes them; the root's name is empty."""
    every = {"": logging.root, **logging.root.manager.loggerDict}
    return {
        name: now
        for name, one in every.items()
        if isinstance(one, logging.Logger) and name != _UVICORNS and (now := _logger(one)) != _PLAIN
    }


def _logger(one: logging.Logger) -> _Logger:
    # Without those of pytest, which come and go between a test's setup and its call.
    handlers = [each for each in one.handlers if not isinstance(each, LogCaptureHandler)]
    return one.level, one.propagate, one.disabled, handlers, one.filters[:]


def _set_loggers(before: dict[str, _Logger]) -> None:
    for name in before.keys() | _loggers().keys():
        logger = logging.getLogger(name or None)
        level, logger.propagate, logger.disabled, handlers, filters = before.get(name, _PLAIN)
        logger.setLevel(level)
        pytests = [one for one in logger.handlers if isinstance(one, LogCaptureHandler)]
        logger.handlers[:] = [*handlers, *pytests]
        logger.filters[:] = filters


def _set_signals(before: list[Any]) -> None:
    for number, handler in zip(_SIGNALS, before, strict=True):
        signal.signal(number, handler)


def _environment() -> dict[str, str]:
    return {name: text for name, text in os.environ.items() if not name.startswith(_PYTESTS)}


def _set_environment(before: dict[str, str]) -> None:
    for name in _environment().keys() - before.keys():
        del os.environ[name]
    os.environ.update(before)


def _set_path(before: list[str]) -> None:
    sys.path[:] = before


def _umask() -> int:
    now = os.umask(0o077)
    os.umask(now)
    return now


def _set_limits(before: list[tuple[int, int]]) -> None:
    for which, limits in zip(_LIMITS, before, strict=True):
        resource.setrlimit(which, limits)


def _set_tracing(before: bool) -> None:
    (tracemalloc.start if before else tracemalloc.stop)()


def _collector() -> tuple[bool, int, tuple[int, int, int]]:
    return gc.isenabled(), gc.get_freeze_count(), gc.get_threshold()


def _set_collector(before: tuple[bool, int, tuple[int, int, int]]) -> None:
    enabled, _, thresholds = before
    (gc.enable if enabled else gc.disable)()
    gc.unfreeze()
    gc.set_threshold(*thresholds)


# Of each: its name, how it is read, and how it is set.
_MARKS: Final[tuple[tuple[str, Callable[[], Any], Callable[[Any], Any]], ...]] = (
    ("loggers", _loggers, _set_loggers),
    ("logging.disable", lambda: logging.root.manager.disable, logging.disable),
    ("signals", lambda: [signal.getsignal(one) for one in _SIGNALS], _set_signals),
    ("environment", _environment, _set_environment),
    ("working directory", os.getcwd, os.chdir),
    ("sys.path", lambda: sys.path[:], _set_path),
    ("umask", _umask, os.umask),
    ("limits", lambda: [resource.getrlimit(one) for one in _LIMITS], _set_limits),
    ("garbage collector", _collector, _set_collector),
    ("tracemalloc", tracemalloc.is_tracing, _set_tracing),
    ("time zone", lambda: time.tzname, lambda _was: time.tzset()),
)

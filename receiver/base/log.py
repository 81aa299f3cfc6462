"""Logs: an event is one line, JSON for machines, coloured text on a terminal. A line holds names,
numbers and verdicts, is of bounded length, and never has a body, a secret or a signature.

The standard library's logging is underneath: where an application listens it gets records with
`fields`, and other libraries' lines come out as ours do.
"""

import asyncio
import json
import logging
import os
import re
import sys
import time
import traceback
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import cache
from typing import Any, Final, Literal, TextIO, TypeAlias

from receiver.base.clock import iso
from receiver.base.encoding import encoder
from receiver.base.outlet import Outlet

LogFormat: TypeAlias = Literal["auto", "json", "text"]
LogLevel: TypeAlias = Literal["debug", "info", "warning", "error"]
Fields: TypeAlias = dict[str, Any]
# When (Unix time), level, component, event, fields, traceback.
Entry: TypeAlias = tuple[float, int, str, str, Fields, str | None]

# Collectors commonly cut or drop lines beyond 16 KiB; ours stay well under that.
LINE_CHARS_MAX: Final = 8_192
TRACEBACK: Final = "traceback"  # what the field is called
_TRACEBACK_CHARS_MAX: Final = 4_096
_CUT_CHARS: Final = 200  # of each value, in a line that is too long as it is
_UVICORN: Final = "uvicorn"

_SECRETS: Final = re.compile(r"(whsec_|pbk_|[Bb]earer\s+)[A-Za-z0-9+/=_.~-]+")
_PLAIN: Final = re.compile(r"[!#-<>-~]+")  # visible ASCII without quotes and equals signs
_encode: Final = encoder(default=str)
_COLOURS: Final = {10: "2", 20: "32", 30: "33", 40: "31", 50: "31;1"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Style:
    """What is a program's own in its lines: the root of its loggers' names, limits, and how JSON is
    made."""

    root: str
    line_chars_max: int = LINE_CHARS_MAX  # of a line without a traceback
    value_chars_max: int  # of each value, in a line that would be longer
    uvicorn_level: str | None = None  # of the server's lines; as ours, unless given
    others: bool  # whether other libraries' warnings come out here as well
    encode: Callable[[Fields], str] = _encode


def configure(
    style: Style, log_format: LogFormat, level: LogLevel, stream: TextIO | None = None
) -> None:
    """Send the lines of this process, and its server's, to `stream` (default: standard error).
    Colours follow the terminal and NO_COLOR."""
    out = sys.stderr if stream is None else stream
    terminal = out.isatty()
    text = log_format == "text" or (log_format == "auto" and terminal)
    colour = terminal and not os.environ.get("NO_COLOR")
    lines = Lines(out, TextFormatter(style, colour=colour) if text else JsonFormatter(style))
    for name, threshold in ((style.root, level), (_UVICORN, style.uvicorn_level or level)):
        logger = logging.getLogger(name)
        for replaced in logger.handlers:
            if isinstance(replaced, Lines):
                replaced.close()
        logger.handlers[:] = [lines]
        logger.propagate = False
        logger.setLevel(threshold.upper())
    for name in ("error", "access", "asgi"):
        logger = logging.getLogger(f"{_UVICORN}.{name}")
        logger.handlers.clear()
        logger.propagate = True
    if style.others:
        root = logging.getLogger()
        root.handlers[:] = [*(one for one in root.handlers if not isinstance(one, Lines)), lines]


def get(name: str, *, level: LogLevel | None = None) -> "Log":
    """Return a program's log (`receiver`), or that of one of its components (`receiver.inbox`).
    With `level`, its lines are written from there on, whatever the program's level is."""
    if level is not None:
        logging.getLogger(name).setLevel(level.upper())
    return Log(name)


class Log:
    """Writes events: a short name, and what there is to say about it as fields."""

    __slots__ = ("_component", "_logger", "_root")

    def __init__(self, name: str) -> None:
        root, _, self._component = name.partition(".")
        self._logger = logging.getLogger(name)
        self._root = logging.getLogger(root)

    def debug(self, event: str, /, **fields: Any) -> None:
        """Write what helps whoever looks for a fault in the service."""
        self._write(logging.DEBUG, event, fields)

    def info(self, event: str, /, **fields: Any) -> None:
        """Write the ordinary course of things."""
        self._write(logging.INFO, event, fields)

    def warning(self, event: str, /, **fields: Any) -> None:
        """Write something that an operator may want to look at."""
        self._write(logging.WARNING, event, fields)

    def error(self, event: str, /, **fields: Any) -> None:
        """Write something that an operator has to look at."""
        self._write(logging.ERROR, event, fields)

    def log(self, level: int, event: str, /, **fields: Any) -> None:
        """Write an event whose level depends."""
        self._write(level, event, fields)

    def exception(self, event: str, error: BaseException | None = None, /, **fields: Any) -> None:
        """Write an error with its traceback: that of `error`, else of the exception that is being
        handled."""
        self._write(logging.ERROR, event, fields, error or sys.exception())

    def _write(
        self, level: int, event: str, fields: Fields, error: BaseException | None = None
    ) -> None:
        logger = self._logger
        if not logger.isEnabledFor(level):
            return
        handlers = self._root.handlers
        if len(handlers) == 1 and isinstance(handlers[0], Lines) and not self._root.filters:
            # Nobody else listens: a LogRecord and its way through logging cost more than the line.
            trace = None if error is None else _trace(error)
            handlers[0].add((time.time(), level, self._component, event, fields, trace))
            return
        # Not through the logger's own methods: they walk the stack for the caller's line.
        info = None if error is None else (type(error), error, error.__traceback__)
        record = logging.LogRecord(logger.name, level, "", 0, event, None, info)
        record.fields = fields
        logger.handle(record)


def dropped() -> int:
    """Return how many lines of this process's log nobody read in time."""
    return Outlet.dropped


def redact(text: str) -> str:
    """Return `text` without what looks like one of our secrets or keys: a last resort, since none
    should come this far."""
    if "whsec_" in text or "pbk_" in text or "earer" in text:
        return _SECRETS.sub(r"\1***", text)
    return text


class Lines(logging.Handler):
    """Makes and writes the lines of one turn of the event loop together, where one runs: with all
    of it in the processor's caches a line costs half as much, and a write for each of them took
    longer than all the rest. A warning, and what waits before it, is written before the call
    returns, unless nobody reads what is written; `logging` flushes at the interpreter's exit."""

    def __init__(self, out: TextIO, formatter: "LineFormatter") -> None:
        super().__init__()
        self._lines = formatter
        self._outlet = Outlet(out, self._told)
        self._waiting: list[Entry] = []
        self._loop: asyncio.AbstractEventLoop | None = None  # that will write them

    def emit(self, record: logging.LogRecord) -> None:
        try:
            self.add(self._lines.entry(record))
        except Exception:  # as every handler of logging: no line is worth a request
            self.handleError(record)

    def add(self, entry: Entry) -> None:
        """Write one entry, now or with the others of this turn."""
        self._waiting.append(entry)
        loop = None if entry[1] >= logging.WARNING else _running_loop()
        if loop is None:
            self.flush()
        elif self._loop is not loop:
            self._loop = loop
            loop.call_soon(self.flush)

    def flush(self) -> None:
        self.acquire()
        try:
            self._loop = None
            waiting = self._waiting[:]
            del self._waiting[: len(waiting)]  # another thread may have added to it just now
            if waiting and self._outlet.is_full:
                self._outlet.drop(len(waiting))
            elif waiting:
                line = self._lines.line
                text = "".join([line(entry) + "\n" for entry in waiting])
                with suppress(OSError, ValueError):  # full, or closed: there is nowhere to say so
                    self._outlet.write(text, len(waiting))
        finally:
            self.release()

    def close(self) -> None:
        self.flush()
        self._outlet.close()
        super().close()

    def _told(self, dropped: int) -> str:
        event = "lines of this log were dropped: nobody read it"
        fields = {"lines": dropped}
        return self._lines.line((time.time(), logging.WARNING, "log", event, fields, None)) + "\n"


class LineFormatter:
    """One line from an entry, or from a record of logging."""

    def __init__(self, style: Style) -> None:
        self._style = style
        self._chars_max = style.line_chars_max

    def format(self, record: logging.LogRecord) -> str:
        """Return the line of a record."""
        return self.line(self.entry(record))

    def entry(self, record: logging.LogRecord) -> Entry:
        """Return what `line` takes, out of a record."""
        root = self._style.root
        component = "" if record.name == root else record.name.removeprefix(f"{root}.")
        error = record.exc_info[1] if record.exc_info else None
        trace = None if error is None else _trace(error)
        fields: Fields = getattr(record, "fields", {})
        return record.created, record.levelno, component, record.getMessage(), fields, trace

    def line(self, entry: Entry) -> str:
        """Return the line, without its end, shortened where it would be too long."""
        at_s, level, component, event, fields, trace = entry
        chars_max = self._chars_max
        if trace is not None:
            fields = {**fields, TRACEBACK: trace}
            chars_max = LINE_CHARS_MAX
        line = redact(self._render(at_s, level, component, event, fields))
        if len(line) > chars_max:  # rare, so that looking at each value is not worth it
            chars = self._style.value_chars_max
            event, fields = _short(event, chars), _all_short(fields, chars)
            line = redact(self._render(at_s, level, component, event, fields))
        if len(line) > chars_max:
            event, fields = _short(event, _CUT_CHARS), _all_short(fields, _CUT_CHARS)
            line = redact(self._render(at_s, level, component, event, fields | {"truncated": True}))
        if len(line) > chars_max:
            line = redact(self._render(at_s, level, component, event, {"truncated": True}))
        return line

    def _render(self, at_s: float, level: int, component: str, event: str, fields: Fields) -> str:
        raise NotImplementedError


class JsonFormatter(LineFormatter):
    """One JSON object a line."""

    def __init__(self, style: Style) -> None:
        super().__init__(style)
        self._encode = style.encode

    def _render(self, at_s: float, level: int, component: str, event: str, fields: Fields) -> str:
        line = {"ts": iso(int(at_s * 1000)), "level": _level(level)}
        if component:
            line["logger"] = component
        line["event"] = event
        try:
            line |= fields
            return self._encode(line)
        except (UnicodeEncodeError, TypeError, ValueError, RecursionError):
            # Lone surrogates and what else JSON cannot hold: a log line must never be lost.
            return json.dumps(line | {name: repr(value) for name, value in fields.items()})


class TextFormatter(LineFormatter):
    """One short line: time, level and component where there is one, event, fields."""

    def __init__(self, style: Style, *, colour: bool) -> None:
        super().__init__(style)
        self._colour = colour

    def _render(self, at_s: float, level: int, component: str, event: str, fields: Fields) -> str:
        clock = datetime.fromtimestamp(at_s, UTC).strftime("%H:%M:%S.%f")[:-3]
        colour = _colour(level, fields)
        where = f"{component}: " if component else ""
        head = f"{self._paint(colour, f'{_level(level):<7}')} {where}{_escaped(event)}"
        words = " ".join(
            f"{self._paint('2', f'{name}=')}{_word(value)}"
            for name, value in fields.items()
            if value is not None and name != TRACEBACK
        )
        trace = str(fields.get(TRACEBACK, "")).splitlines()
        line = f"{self._paint('2', clock)} {head} {words}".rstrip()
        return "\n".join([line, *(f"  {_escaped(traced)}" for traced in trace)])

    def _paint(self, code: str, text: str) -> str:
        return f"\x1b[{code}m{text}\x1b[0m" if self._colour else text


def _running_loop() -> asyncio.AbstractEventLoop | None:
    """Return None in a thread of its own, and before and after the loop."""
    try:
        return asyncio.get_running_loop()
    except RuntimeError:
        return None


def _trace(error: BaseException) -> str:
    """Return the end of a traceback, which says what happened. Local values are never in it."""
    return "".join(traceback.format_exception(error)).rstrip()[-_TRACEBACK_CHARS_MAX:]


@cache  # there are five
def _level(level: int) -> str:
    return logging.getLevelName(level).lower()


def _colour(level: int, fields: Fields) -> str:
    """Return the colour of how grave it is; a response's status counts as well."""
    status = fields.get("status")
    if isinstance(status, int) and level < logging.ERROR and status >= 400:
        return _COLOURS[logging.ERROR if status >= 500 else logging.WARNING]
    return _COLOURS.get(level, "0")


def _all_short(fields: Fields, chars_max: int) -> Fields:
    return {name: _short(value, chars_max) for name, value in fields.items()}


def _short(value: Any, chars_max: int) -> Any:
    if value is None or isinstance(value, int | float):
        return value
    text = value if isinstance(value, str) else str(value)
    return text[: chars_max - 1] + "…" if len(text) > chars_max else value


def _word(value: Any) -> str:
    text = value if isinstance(value, str) else str(value)
    return text if _PLAIN.fullmatch(text) else json.dumps(text, ensure_ascii=not text.isprintable())


def _escaped(text: str) -> str:
    """Return `text` as it is, unless it could move a terminal's cursor or fake a second line."""
    return text if text.isprintable() else json.dumps(text)[1:-1]

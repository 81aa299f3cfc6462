"""Logs: JSON lines for machines, coloured lines on a terminal. One line per request.

A line holds names, numbers and verdicts; never a body, a secret or a signature.
"""

import asyncio
import json
import logging
import sys
import time
from contextlib import suppress
from datetime import UTC, datetime
from typing import Any, Final, Literal, TextIO, TypeAlias

from receiver.base.clock import iso

LOGGER: Final = logging.getLogger("receiver")
LINE_CHARS_MAX: Final = 1000  # a request's has some 350; a path or an id can be made very long
VALUE_CHARS_MAX: Final = 300  # of each text in a line that would be longer

_GREEN, _YELLOW, _RED, _DIM, _PLAIN = "\033[32m", "\033[33m", "\033[31m", "\033[2m", "\033[0m"

_encode: Final = json.JSONEncoder(check_circular=False, default=str).encode

LogFormat: TypeAlias = Literal["auto", "json", "text"]
LogLevel: TypeAlias = Literal["debug", "info", "warning", "error"]
Fields: TypeAlias = dict[str, Any]
Told: TypeAlias = tuple[float, int, str, Fields, str | None]  # when, level, what, fields, exception


def configure(log_format: LogFormat, level: LogLevel, stream: TextIO | None = None) -> None:
    """Send the receiver's and the server's lines to `stream` (default: standard error)."""
    out = stream or sys.stderr
    text = log_format == "text" or (log_format == "auto" and out.isatty())
    handler = Lines(out, TextFormatter(colour=out.isatty()) if text else JsonFormatter())
    for logger in (LOGGER, logging.getLogger("uvicorn")):
        logger.handlers[:] = [handler]
        logger.propagate = False
    LOGGER.setLevel(level.upper())
    # Our lines name neither thread nor process, and looking them up is a third of a line's cost.
    logging.logThreads = logging.logProcesses = logging.logMultiprocessing = False
    logging.getLogger("uvicorn").setLevel("ERROR")  # a peer's nonsense is not our news


def event(name: str, level: int = logging.INFO, **fields: Any) -> None:
    """One line: what happened, and its fields (None is left out)."""
    if not LOGGER.isEnabledFor(level):
        return
    handlers = LOGGER.handlers
    if len(handlers) == 1 and isinstance(handlers[0], Lines) and not LOGGER.filters:
        # Nobody else listens: a LogRecord and its way through logging cost more than the line.
        handlers[0].tell(time.time(), level, name, fields)
        return
    # As LOGGER.log() does it, without the search for the calling line: a third of its time.
    record = logging.LogRecord(LOGGER.name, level, "", 0, name, (), None)
    record.fields = fields
    LOGGER.handle(record)


class LineFormatter(logging.Formatter):
    """One line from what happened; `logging` hands it over in a record."""

    def format(self, record: logging.LogRecord) -> str:
        return self.line(*self.told(record))

    def told(self, record: logging.LogRecord) -> Told:
        """Return what `line` takes, out of a record."""
        fields: Fields = getattr(record, "fields", {})
        exception = self.formatException(record.exc_info) if record.exc_info else None
        return record.created, record.levelno, record.getMessage(), fields, exception

    def line(
        self, at_s: float, level: int, name: str, fields: Fields, exception: str | None = None
    ) -> str:
        """Return the line, without its end. `at_s` is Unix time."""
        raise NotImplementedError


class JsonFormatter(LineFormatter):
    """One JSON object a line."""

    def line(
        self, at_s: float, level: int, name: str, fields: Fields, exception: str | None = None
    ) -> str:
        line: Fields = {
            "time": iso(int(at_s * 1000)),
            "level": logging.getLevelName(level).lower(),
            "event": name,
        }
        if None in fields.values():
            fields = {key: value for key, value in fields.items() if value is not None}
        line |= fields
        text = _encode(line)
        if len(text) > LINE_CHARS_MAX:  # rare, so that looking at each value is not worth it
            text = _encode({key: _short(value) for key, value in line.items()})
        if exception is not None:
            text = f'{text[:-1]}, "exception": {_encode(exception)}}}'
        return text


class TextFormatter(LineFormatter):
    """One short line: time, event, fields; coloured by how grave it is."""

    def __init__(self, *, colour: bool) -> None:
        super().__init__()
        self._colour = colour

    def line(
        self, at_s: float, level: int, name: str, fields: Fields, exception: str | None = None
    ) -> str:
        clock = datetime.fromtimestamp(at_s, tz=UTC).strftime("%H:%M:%S")
        told = " ".join(
            f"{key}={_printable(value)}" for key, value in fields.items() if value is not None
        )
        line = f"{self._paint(_DIM, clock)} {self._paint(_grade(level, fields), name)} {told}"
        if exception is not None:
            line += "\n" + exception
        return line.rstrip()

    def _paint(self, colour: str, text: str) -> str:
        return f"{colour}{text}{_PLAIN}" if self._colour else text


class Lines(logging.Handler):
    """Makes and writes the lines of one turn of the event loop together, where one runs: with all
    of it in the processor's caches a line costs half as much, and a write for each of them took
    longer than all the rest. A warning, and what waits before it, is written before `event`
    returns; `logging` flushes at the interpreter's exit."""

    def __init__(self, out: TextIO, formatter: LineFormatter) -> None:
        super().__init__()
        self.setFormatter(formatter)
        self._lines = formatter
        self._out = out
        self._waiting: list[Told] = []
        self._loop: asyncio.AbstractEventLoop | None = None  # that will write them

    def emit(self, record: logging.LogRecord) -> None:
        try:
            self.tell(*self._lines.told(record))
        except Exception:  # as every handler of logging: no line is worth a request
            self.handleError(record)

    def tell(
        self, at_s: float, level: int, name: str, fields: Fields, exception: str | None = None
    ) -> None:
        """One line, as `LineFormatter.line` takes it."""
        self._waiting.append((at_s, level, name, fields, exception))
        loop = None if level >= logging.WARNING else _running_loop()
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
            if waiting:
                line = self._lines.line
                text = "".join([line(*told) + "\n" for told in waiting])
                with suppress(OSError, ValueError):  # full, or closed: there is nobody to tell
                    self._out.write(text)
                    self._out.flush()
        finally:
            self.release()


def _running_loop() -> asyncio.AbstractEventLoop | None:
    """None in a thread of its own, and before and after the loop."""
    try:
        return asyncio.get_running_loop()
    except RuntimeError:
        return None


def _printable(value: Any) -> str:
    """As text that cannot steer a terminal or fake a second line."""
    text = str(_short(value))
    return text if text.isprintable() and " " not in text else ascii(text)


def _short(value: Any) -> Any:
    if isinstance(value, str) and len(value) > VALUE_CHARS_MAX:
        return value[:VALUE_CHARS_MAX] + "…"
    return value


def _grade(level: int, fields: Fields) -> str:
    status = int(fields.get("status") or 200)
    if level >= logging.ERROR or status >= 500:
        return _RED
    return _YELLOW if level >= logging.WARNING or status >= 400 else _GREEN

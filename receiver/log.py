"""Logs: JSON lines for machines, coloured lines on a terminal. One line per request.

A line holds names, numbers and verdicts; never a body, a secret or a signature.
"""

import json
import logging
import sys
from datetime import UTC, datetime
from typing import Any, Final, TextIO

LOGGER: Final = logging.getLogger("receiver")
VALUE_CHARS_MAX: Final = 300  # of one value in a line; a path or an id can be made very long

_GREEN, _YELLOW, _RED, _DIM, _PLAIN = "\033[32m", "\033[33m", "\033[31m", "\033[2m", "\033[0m"


def configure(log_format: str, level: str, stream: TextIO | None = None) -> None:
    """Sends the receiver's and the server's lines to ``stream`` (default: standard error)."""
    out = stream or sys.stderr
    text = log_format == "text" or (log_format == "auto" and out.isatty())
    handler = logging.StreamHandler(out)
    handler.setFormatter(TextFormatter(colour=out.isatty()) if text else JsonFormatter())
    for logger in (LOGGER, logging.getLogger("uvicorn")):
        logger.handlers[:] = [handler]
        logger.propagate = False
    LOGGER.setLevel(level.upper())
    # Our lines name neither thread nor process, and looking them up is a third of a line's cost.
    logging.logThreads = logging.logProcesses = logging.logMultiprocessing = False
    logging.getLogger("uvicorn").setLevel("ERROR")  # a peer's nonsense is not our news


def event(name: str, level: int = logging.INFO, **fields: Any) -> None:
    """One line: what happened, and its fields (None is left out)."""
    if LOGGER.isEnabledFor(level):
        # As LOGGER.log() does it, without the search for the calling line: a third of its time.
        record = logging.LogRecord(LOGGER.name, level, "", 0, name, (), None)
        record.fields = fields
        LOGGER.handle(record)


def iso(ms: int | None) -> str | None:
    """Unix milliseconds as ISO-8601 UTC with Z; None stays None."""
    if ms is None:
        return None
    text = datetime.fromtimestamp(ms / 1000, tz=UTC).isoformat(timespec="milliseconds")
    return text.replace("+00:00", "Z")


class JsonFormatter(logging.Formatter):
    """One JSON object a line."""

    def format(self, record: logging.LogRecord) -> str:
        line: dict[str, Any] = {
            "time": iso(int(record.created * 1000)),
            "level": record.levelname.lower(),
            "event": record.getMessage(),
            **_fields(record),
        }
        if record.exc_info:
            line["exception"] = self.formatException(record.exc_info)
        return json.dumps(line, ensure_ascii=True)


class TextFormatter(logging.Formatter):
    """One short line: time, event, fields; coloured by how grave it is."""

    def __init__(self, *, colour: bool) -> None:
        super().__init__()
        self._colour: Final = colour

    def format(self, record: logging.LogRecord) -> str:
        fields = _fields(record)
        time = datetime.fromtimestamp(record.created, tz=UTC).strftime("%H:%M:%S")
        told = " ".join(f"{name}={_printable(value)}" for name, value in fields.items())
        what = self._paint(_grade(record, fields), record.getMessage())
        line = f"{self._paint(_DIM, time)} {what} {told}"
        if record.exc_info:
            line += "\n" + self.formatException(record.exc_info)
        return line.rstrip()

    def _paint(self, colour: str, text: str) -> str:
        return f"{colour}{text}{_PLAIN}" if self._colour else text


def _fields(record: logging.LogRecord) -> dict[str, Any]:
    fields: dict[str, Any] = getattr(record, "fields", {})
    return {name: _short(value) for name, value in fields.items() if value is not None}


def _short(value: Any) -> Any:
    if isinstance(value, str) and len(value) > VALUE_CHARS_MAX:
        return value[:VALUE_CHARS_MAX] + "…"
    return value


def _printable(value: Any) -> str:
    """As text that cannot steer a terminal or fake a second line."""
    text = str(value)
    return text if text.isprintable() and " " not in text else ascii(text)


def _grade(record: logging.LogRecord, fields: dict[str, Any]) -> str:
    status = int(fields.get("status", 200))
    if record.levelno >= logging.ERROR or status >= 500:
        return _RED
    return _YELLOW if record.levelno >= logging.WARNING or status >= 400 else _GREEN

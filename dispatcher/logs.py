"""Events as JSON lines, or as coloured text on a terminal. The standard library's logging is
underneath, so that other libraries' lines come out the same way."""

import json
import logging
import os
import re
import sys
import traceback
from datetime import UTC, datetime
from types import TracebackType
from typing import Any, Final, TextIO

import msgspec

from dispatcher.outcome import Outcome
from dispatcher.policy import Verdict, attempt_outcome
from dispatcher.values import Delivery
from receiver.base.clock import iso
from receiver.base.log import LogFormat

# Collectors commonly cut or drop lines beyond 16 KiB; ours stay well under that.
LINE_CHARS_MAX: Final = 8_192
_VALUE_CHARS_MAX: Final = 2_048
_TRACEBACK_CHARS_MAX: Final = 4_096
_CUT_CHARS: Final = 200  # of each value, in a line that is too long as it is
_ROOT: Final = "dispatcher"
_UVICORN: Final = ("uvicorn", "uvicorn.error", "uvicorn.access", "uvicorn.asgi")

_SECRETS: Final = re.compile(r"(whsec_|pbk_|[Bb]earer\s+)[A-Za-z0-9+/=_.~-]+")
_HINTS: Final = ("whsec_", "pbk_", "earer")
_PLAIN: Final = re.compile(r"[!#-<>-~]+")  # visible ASCII without quotes and equals signs
_COLOURS: Final = {"debug": "2", "info": "32", "warning": "33", "error": "31", "critical": "31;1"}

_encode: Final = msgspec.json.Encoder(enc_hook=str).encode
_ExcInfo = tuple[type[BaseException], BaseException, TracebackType | None]


def configure(fmt: LogFormat, level: str, stream: TextIO | None = None) -> None:
    """Send every line of this process to `stream` (standard error): ours from `level` on, other
    libraries' from `warning` on, uvicorn's as ours."""
    stream = sys.stderr if stream is None else stream
    terminal = stream.isatty()
    as_json = fmt == "json" or (fmt == "auto" and not terminal)
    handler = logging.StreamHandler(stream)
    colour = terminal and not os.environ.get("NO_COLOR")
    handler.setFormatter(_Json() if as_json else _Text(colour=colour))
    root = logging.getLogger()
    for old in [old for old in root.handlers if isinstance(old.formatter, _Line)]:
        root.removeHandler(old)
    root.addHandler(handler)
    logging.getLogger(_ROOT).setLevel(level.upper())
    for name in _UVICORN:
        logger = logging.getLogger(name)
        logger.handlers.clear()
        logger.propagate = True
        logger.setLevel(level.upper())


def get(name: str) -> "Log":
    """Return the log of one room, such as `engine`."""
    return Log(name)


class Log:
    """Writes events: a short name, and what there is to say about it as fields."""

    __slots__ = ("_logger",)

    def __init__(self, name: str) -> None:
        self._logger = logging.getLogger(f"{_ROOT}.{name}")

    def debug(self, event: str, **fields: Any) -> None:
        """For whoever looks for a fault in the service."""
        self._write(logging.DEBUG, event, fields)

    def info(self, event: str, **fields: Any) -> None:
        """Return the ordinary course of things."""
        self._write(logging.INFO, event, fields)

    def warning(self, event: str, **fields: Any) -> None:
        """Something an operator may want to look at."""
        self._write(logging.WARNING, event, fields)

    def error(self, event: str, **fields: Any) -> None:
        """Something an operator has to look at."""
        self._write(logging.ERROR, event, fields)

    def exception(self, event: str, **fields: Any) -> None:
        """Return an error with the traceback of the exception that is being handled."""
        kind, error, trace = sys.exc_info()
        info = (kind, error, trace) if kind is not None and error is not None else None
        self._write(logging.ERROR, event, fields, info)

    def _write(
        self, level: int, event: str, fields: dict[str, Any], info: _ExcInfo | None = None
    ) -> None:
        logger = self._logger
        if logger.isEnabledFor(level):
            # Not through the logger's own methods: they walk the stack for the caller's line.
            record = logging.LogRecord(logger.name, level, "", 0, event, None, info)
            record.fields = fields
            logger.handle(record)


def attempt_fields(delivery: Delivery, outcome: Outcome, verdict: Verdict) -> dict[str, Any]:
    """Return the fields of the one line that is written about each attempt."""
    due_ms = verdict.due_ms
    ended_ms = outcome.started_ms + outcome.duration_ms
    return {
        "id": delivery.id,
        "tenant": delivery.tenant,
        "jobId": delivery.job_id,
        "destination": delivery.destination,
        "n": delivery.attempt,
        "outcome": attempt_outcome(outcome, delivery.policy),
        "statusCode": outcome.status_code,
        "durationMs": round(outcome.duration_ms, 1),
        "state": verdict.state,
        "dueInMs": None if due_ms is None else max(0, round(due_ms - ended_ms)),
        "reason": verdict.reason,
        "detail": outcome.detail,
    }


def redact(text: str) -> str:
    """`text` without what looks like one of our secrets or keys: a last resort, since none should
    come this far."""
    if any(hint in text for hint in _HINTS):
        return _SECRETS.sub(r"\1***", text)
    return text


class _Line(logging.Formatter):
    """What the two formats share: the parts of a line, each of bounded length."""

    def format(self, record: logging.LogRecord) -> str:
        fields = _parts(record)
        line = redact(self._line(record, fields))
        if len(line) > LINE_CHARS_MAX:
            cut = {name: str(value)[:_CUT_CHARS] for name, value in fields.items()}
            line = redact(self._line(record, cut | {"truncated": True}))
        if len(line) > LINE_CHARS_MAX:
            line = self._line(record, {"truncated": True})
        return line

    def _line(self, record: logging.LogRecord, fields: dict[str, Any]) -> str:
        raise NotImplementedError


class _Json(_Line):
    def _line(self, record: logging.LogRecord, fields: dict[str, Any]) -> str:
        line = {
            "ts": iso(int(record.created * 1000)),
            "level": record.levelname.lower(),
            "logger": record.name.removeprefix(f"{_ROOT}."),
            "event": _short(record.getMessage()),
        }
        try:
            return _encode(line | fields).decode()
        except (UnicodeEncodeError, TypeError, ValueError, RecursionError):
            # Lone surrogates and what else JSON cannot hold: a log line must never be lost.
            return json.dumps(line | {name: repr(value) for name, value in fields.items()})


class _Text(_Line):
    def __init__(self, *, colour: bool) -> None:
        super().__init__()
        self._colour = colour

    def _line(self, record: logging.LogRecord, fields: dict[str, Any]) -> str:
        moment = datetime.fromtimestamp(record.created, UTC).strftime("%H:%M:%S.%f")[:-3]
        level = record.levelname.lower()
        trace = str(fields.get("traceback", ""))
        words = " ".join(
            f"{self._paint('2', f'{name}=')}{_word(value)}"
            for name, value in fields.items()
            if value is not None and name != "traceback"
        )
        line = (
            f"{self._paint('2', moment)} {self._paint(_COLOURS.get(level, '0'), f'{level:<7}')} "
            f"{record.name.removeprefix(f'{_ROOT}.')}: {_shown(_short(record.getMessage()))}"
        )
        return "\n".join(
            [
                f"{line} {words}".rstrip(),
                *(f"  {_shown(traced)}" for traced in trace.splitlines()),
            ]
        )

    def _paint(self, code: str, text: str) -> str:
        return f"\x1b[{code}m{text}\x1b[0m" if self._colour else text


def _parts(record: logging.LogRecord) -> dict[str, Any]:
    fields = getattr(record, "fields", {})
    parts = {name: _short(value) for name, value in fields.items()}
    if record.exc_info and record.exc_info[1] is not None:
        # The end of a traceback says what happened. Local values are never in it.
        trace = "".join(traceback.format_exception(record.exc_info[1]))
        parts["traceback"] = trace[-_TRACEBACK_CHARS_MAX:]
    return parts


def _short(value: Any) -> Any:
    if isinstance(value, str) and len(value) > _VALUE_CHARS_MAX:
        return value[: _VALUE_CHARS_MAX - 1] + "…"
    return value


def _word(value: Any) -> str:
    text = value if isinstance(value, str) else str(value)
    return text if _PLAIN.fullmatch(text) else json.dumps(text, ensure_ascii=not text.isprintable())


def _shown(text: str) -> str:
    """`text` as it is, unless it could move a terminal's cursor."""
    return text if text.isprintable() else json.dumps(text)[1:-1]

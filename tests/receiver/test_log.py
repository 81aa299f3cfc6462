"""log.py: a line is a line, on a terminal and in a file."""

import asyncio
import io
import json
import logging
import re
from collections.abc import Iterator

import pytest

from dispatcher.server import LOG_STYLE as DISPATCHER_STYLE
from receiver.base import log
from receiver.handling.retry import failure_of
from receiver.server import LOG_STYLE
from tests import marks

LOG = log.get("receiver")
LOGGER = logging.getLogger("receiver")


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.fixture(autouse=True)
def restored() -> Iterator[None]:
    """Give the process its logging back."""
    before = marks.look()
    yield
    marks.put_back(before)


def test_auto_is_json_in_a_file_and_coloured_text_on_a_terminal() -> None:
    """Machines get objects, people get lines."""
    file, terminal = io.StringIO(), Terminal()
    for stream in (file, terminal):
        log.configure(LOG_STYLE, "auto", "info", stream)
        LOG.info("request", status=200, jobId="job_1", reason=None)
        LOG.debug("hidden")
    line = json.loads(file.getvalue())
    assert (line["event"], line["status"], line["jobId"]) == ("request", 200, "job_1")
    assert line["ts"].endswith("Z")
    assert line["reason"] is None
    text = terminal.getvalue()
    assert "\033[32minfo   \033[0m request " in text
    assert re.sub(r"\033\[\d+m", "", text).endswith(" request status=200 jobId=job_1\n")
    assert text.count("\n") == 1


@pytest.mark.parametrize("log_format", ["text", "json"])
def test_no_value_fakes_a_line_or_steers_a_terminal(log_format: log.LogFormat) -> None:
    """Control characters come out escaped, and very long values short."""
    stream = io.StringIO()
    log.configure(LOG_STYLE, log_format, "info", stream)
    LOG.info("request", path="/a\n2026 fake\x1b[2J\u202e", jobId="x" * 10_000)
    text = stream.getvalue()
    assert text.count("\n") == 1
    assert text.strip().isprintable()
    assert len(text) < 1000


def test_an_exception_is_in_the_line() -> None:
    """For bugs, which only the log is told."""
    stream = io.StringIO()
    log.configure(LOG_STYLE, "json", "info", stream)
    try:
        int("inner detail")
    except ValueError:
        LOG.exception("bug")
    assert "inner detail" in json.loads(stream.getvalue())["traceback"]


class Counted(io.StringIO):
    """Counts its writes."""

    writes = 0

    def write(self, text: str) -> int:
        self.writes += 1
        return super().write(text)


async def test_lines_of_one_turn_are_one_write_and_a_warning_waits_for_nothing() -> None:
    """In an event loop lines cost one write together; what is news is there at once, in order."""
    stream = Counted()
    log.configure(LOG_STYLE, "json", "info", stream)
    for n in range(5):
        LOG.info("request", n=n)
    assert stream.getvalue() == ""
    await asyncio.sleep(0)
    assert (stream.writes, stream.getvalue().count("\n")) == (1, 5)
    LOG.info("request", n=5)
    LOG.warning("outage", n=6)
    lines = [json.loads(line) for line in stream.getvalue().splitlines()]
    assert [line["n"] for line in lines] == list(range(7))


async def test_no_line_is_lost_between_threads_nor_at_the_end() -> None:
    """Whoever writes, and when nothing of the loop runs any more: logging flushes at the exit."""
    stream = io.StringIO()
    log.configure(LOG_STYLE, "json", "info", stream)
    await asyncio.gather(*(asyncio.to_thread(LOG.info, "request", n=n) for n in range(50)))
    LOG.info("request", n=50)
    logging.shutdown([lambda: LOGGER.handlers[0]])  # as it calls its weak references
    lines = [json.loads(line)["n"] for line in stream.getvalue().splitlines()]
    assert sorted(lines) == list(range(51))


def test_a_log_that_cannot_be_written_stops_nobody() -> None:
    """A full disk, or a reader that has gone, is no reason to fail a request."""
    stream = io.StringIO()
    log.configure(LOG_STYLE, "json", "info", stream)
    stream.close()
    LOG.info("request", status=200)


def test_lines_go_through_logging_where_an_application_listens() -> None:
    """Mounted in one, its handlers and filters see a record with the fields."""
    log.configure(LOG_STYLE, "json", "info", io.StringIO())
    seen: list[logging.LogRecord] = []

    class Application(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            seen.append(record)

    LOGGER.addHandler(Application())
    LOG.info("request", status=200, enough=True, reason=None, took=1.5)
    (record,) = seen
    assert (record.getMessage(), record.levelname) == ("request", "INFO")
    line = json.loads(log.JsonFormatter(LOG_STYLE).format(record))
    assert (line["status"], line["enough"], line["took"]) == (200, True, 1.5)


def test_a_handlers_failure_is_told_with_its_message_and_its_place() -> None:
    """The place is the handler's own, where a library it called raised; and nothing where nothing
    failed."""

    def handler() -> None:
        json.loads("{")

    with pytest.raises(ValueError, match="property name") as caught:
        handler()
    told = failure_of(caught.value)
    assert told["error"] == "JSONDecodeError"
    assert "Expecting property name" in (told["reason"] or "")
    line = handler.__code__.co_firstlineno + 1
    assert told["at"] == f"test_log.py:{line}"
    assert set(failure_of(None).values()) == {None}
    assert failure_of(ValueError())["reason"] is None
    assert failure_of(caught.value, told=False) == told | {"reason": None}


def test_a_failures_message_is_bounded_and_redacted() -> None:
    """Whatever a handler puts into its exception."""
    stream = io.StringIO()
    log.configure(LOG_STYLE, "json", "info", stream)
    LOG.warning("handling", **failure_of(ValueError("whsec_AAAA " + "x" * 100_000)))
    assert len(stream.getvalue()) < 1_200
    assert "AAAA" not in stream.getvalue()


@pytest.mark.parametrize("style", [LOG_STYLE, DISPATCHER_STYLE], ids=["receiver", "dispatcher"])
def test_both_halves_speak_one_dialect(style: log.Style) -> None:
    """The same names in the same order, in JSON; the same words on a terminal."""
    told = {}
    for fmt in ("json", "text"):
        stream = io.StringIO()
        log.configure(style, fmt, "info", stream)
        try:
            int("x")
        except ValueError as error:
            log.get(f"{style.root}.server").exception("bug", error, id="a", none=None)
        told[fmt] = stream.getvalue()
    names = ["ts", "level", "logger", "event", "id", "none", "traceback"]
    assert list(json.loads(told["json"])) == names
    first, *trace = told["text"].splitlines()
    assert re.fullmatch(r"\d\d:\d\d:\d\d\.\d{3} error   server: bug id=a", first)
    assert trace[0] == "  Traceback (most recent call last):"

"""log.py: a line is a line, on a terminal and in a file."""

import asyncio
import io
import json
import logging
import re
from collections.abc import Iterator

import pytest

from receiver.base import log
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
    assert line["time"].endswith("Z")
    assert "reason" not in line
    text = terminal.getvalue()
    assert "\033[32mrequest\033[0m " in text
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
    assert "inner detail" in json.loads(stream.getvalue())["exception"]


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

"""log.py: a line is a line, on a terminal and in a file."""

import io
import json
import logging
from collections.abc import Iterator

import pytest

from receiver import log


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.fixture(autouse=True)
def restored() -> Iterator[None]:
    loggers = (log.LOGGER, logging.getLogger("uvicorn"))
    before = [(logger.handlers[:], logger.propagate, logger.level) for logger in loggers]
    flags = (logging.logThreads, logging.logProcesses, logging.logMultiprocessing)
    yield
    logging.logThreads, logging.logProcesses, logging.logMultiprocessing = flags
    for logger, (handlers, propagate, level) in zip(loggers, before, strict=True):
        logger.handlers[:] = handlers
        logger.propagate = propagate
        logger.setLevel(level)


def test_auto_is_json_in_a_file_and_coloured_text_on_a_terminal() -> None:
    """Machines get objects, people get lines."""
    file, terminal = io.StringIO(), Terminal()
    for stream in (file, terminal):
        log.configure("auto", "info", stream)
        log.event("request", status=200, jobId="job_1", reason=None)
        log.event("hidden", logging.DEBUG)
    line = json.loads(file.getvalue())
    assert (line["event"], line["status"], line["jobId"]) == ("request", 200, "job_1")
    assert line["time"].endswith("Z")
    assert "reason" not in line
    text = terminal.getvalue()
    assert "\033[32mrequest\033[0m status=200 jobId=job_1\n" in text
    assert text.count("\n") == 1


@pytest.mark.parametrize("log_format", ["text", "json"])
def test_no_value_fakes_a_line_or_steers_a_terminal(log_format: str) -> None:
    """Control characters come out escaped, and very long values short."""
    stream = io.StringIO()
    log.configure(log_format, "info", stream)
    log.event("request", path="/a\n2026 fake\x1b[2J\u202e", jobId="x" * 10_000)
    text = stream.getvalue()
    assert text.count("\n") == 1
    assert text.strip().isprintable()
    assert len(text) < 1000


def test_an_exception_is_in_the_line() -> None:
    """For bugs, which only the log is told."""
    stream = io.StringIO()
    log.configure("json", "info", stream)
    try:
        int("inner detail")
    except ValueError:
        log.LOGGER.exception("bug")
    assert "inner detail" in json.loads(stream.getvalue())["exception"]


def test_times_are_iso_8601_with_z() -> None:
    """And none stays none."""
    assert log.iso(1_700_000_000_123) == "2023-11-14T22:13:20.123Z"
    assert log.iso(None) is None

"""A log that nobody reads stops nothing: lines wait, up to a bound, then are dropped and
counted."""

import io
import json
import os
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final, TextIO

import pytest

from dispatcher.server import LOG_STYLE
from receiver.base import log
from receiver.base.log import JsonFormatter, Lines
from receiver.base.outlet import WAITING_BYTES_MAX
from tests.base.wire import request
from tests.defects.halves import Name, running

PAD: Final = "x" * 200
LAST: Final = request("/healthz", headers="Connection: close\r\n")
MANY: Final = 3 * WAITING_BYTES_MAX // len(PAD)


@contextmanager
def pipe() -> Iterator[tuple[int, TextIO]]:
    """Both ends of a pipe."""
    reading, writing = os.pipe()
    with os.fdopen(writing, "w") as out:
        yield reading, out
    os.close(reading)


@contextmanager
def socket_pair() -> Iterator[tuple[int, TextIO]]:
    """As the journal's: a stream socket."""
    reading, writing = socket.socketpair()
    with reading, writing, os.fdopen(os.dup(writing.fileno()), "w") as out:
        yield reading.fileno(), out


@contextmanager
def terminal() -> Iterator[tuple[int, TextIO]]:
    """A terminal whose output is held up."""
    reading, writing = os.openpty()
    with os.fdopen(writing, "w") as out:
        yield reading, out
    os.close(reading)


def write(lines: Lines, event: str, number: int = 0, level: int = 20) -> None:
    lines.add((0.0, level, "x", event, {"n": number, "pad": PAD}, None))


def read_until(reading: int, is_last: Callable[[dict[str, Any]], bool]) -> list[dict[str, Any]]:
    """The lines that come, up to this one."""
    data = b""
    while True:
        data += os.read(reading, 65_536)
        seen = [json.loads(line) for line in data.replace(b"\r", b"").split(b"\n")[:-1]]
        if seen and is_last(seen[-1]):
            return seen


@pytest.mark.parametrize("opened", [pipe, socket_pair, terminal])
def test_lines_that_nobody_reads_are_dropped_and_counted(opened: Any) -> None:
    """Writing returns at once; what is read later is whole lines in order, and how many are lost;
    then all is as before, without a thread."""
    with opened() as (reading, out):
        lines = Lines(out, JsonFormatter(LOG_STYLE))
        before = log.dropped()
        for number in range(MANY):
            write(lines, "a", number, level=30 if number % 10 == 0 else 20)
        dropped = log.dropped() - before
        assert dropped > MANY // 3
        seen = read_until(reading, lambda line: "lines" in line)
        assert [line["n"] for line in seen[:-1]] == list(range(MANY - dropped))
        assert (seen[-1]["level"], seen[-1]["lines"]) == ("warning", dropped)
        write(lines, "again")
        assert read_until(reading, lambda _: True)[-1]["event"] == "again"
        lines.close()
        assert "log" not in {thread.name for thread in threading.enumerate()}


def test_what_is_kept_is_bounded() -> None:
    """By bytes, whatever the length of the lines."""
    with pipe() as (reading, out):
        lines = Lines(out, JsonFormatter(LOG_STYLE))
        for number in range(MANY):
            write(lines, "a", number)
        assert lines._outlet._waiting_bytes <= WAITING_BYTES_MAX
        read_until(reading, lambda line: "lines" in line)
        lines.close()


def test_a_reader_that_has_gone_is_nobody() -> None:
    """No error, and nothing that waits."""
    reading, writing = os.pipe()
    os.close(reading)
    with os.fdopen(writing, "w") as out:
        lines = Lines(out, JsonFormatter(LOG_STYLE))
        for number in range(MANY):
            write(lines, "a", number)
        lines.close()


def test_memory_and_files_take_everything(tmp_path: Path) -> None:
    """At once, and as ever."""
    with (tmp_path / "log").open("w+") as file:
        for out in (file, io.StringIO()):
            lines = Lines(out, JsonFormatter(LOG_STYLE))
            for number in range(MANY):
                write(lines, "a", number)
            out.seek(0)
            assert len(out.readlines()) == MANY


def test_where_one_cannot_ask_a_thread_writes(monkeypatch: pytest.MonkeyPatch) -> None:
    """On systems without a way to open a pipe once more."""

    def refuse(path: str) -> None:
        raise FileNotFoundError(path)

    monkeypatch.setattr("receiver.base.outlet._Descriptor", refuse)
    with pipe() as (reading, out):
        lines = Lines(out, JsonFormatter(LOG_STYLE))
        for number in range(MANY):
            write(lines, "a", number)
        seen = read_until(reading, lambda line: "lines" in line)
        numbers = [line["n"] for line in seen[:-1]]
        assert numbers == sorted(set(numbers))  # the thread may make room for some in between
        assert numbers[0] == 0
        lines.close()


@pytest.mark.parametrize("name", ["dispatcher", "receiver"])
def test_a_service_whose_log_nobody_reads_serves_and_ends(name: Name, tmp_path: Path) -> None:
    """However much it has to say."""
    broken, unsigned = b"\0\r\n\r\n", request("/webhooks", b"{}")  # a line of log each
    connections = [broken] * 1_000 if name == "dispatcher" else [unsigned * 5_000]
    with running(name, tmp_path, reads_log=False) as half:
        for sent in connections:
            with half.connect() as peer:
                peer.sendall(sent + LAST)
                while peer.recv(65_536):
                    pass
        assert half.get("/healthz").status_code == 200
        figures = dict(line.rsplit(" ", 1) for line in half.get("/metrics").text.splitlines())
        dropped = float(figures[f"{name}_log_lines_dropped_total"])
        assert (dropped > 0) == (name == "receiver")  # the other's lines are fewer
        assert half.terminate() < 10
        assert half.popen.returncode == 0

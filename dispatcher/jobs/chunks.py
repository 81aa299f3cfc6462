"""Answers that come in chunks while a job runs: events of a `text/event-stream`, lines of NDJSON.
Pure, and in bounded memory.

A chunk is a JSON value: what the event or the line says, where that is JSON, else as a string. All
of them joined, a JSON array, are the output. An event called `progress` is no chunk.
"""

import json
from array import array
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Final, Literal, Protocol

from receiver.base.completion import BOM, DEPTH_MAX, ParseError, parse

CHUNK_BYTES_MAX: Final = 1024 * 1024
CHUNKS_MAX: Final = 10_000
"""So many a job."""
PROGRESS: Final = "progress"
"""What an event is called that says how far its job is."""
_EVENTS: Final = "text/event-stream"
_LINES: Final = frozenset({
    "application/x-ndjson",
    "application/ndjson",
    "application/jsonl",
    "application/x-jsonl",
    "application/jsonlines",
    "application/x-jsonlines",
    "application/json-lines",
})  # fmt: skip
_LEVELS: Final = 4  # of what it may stand in

Framing = Literal["events", "lines"]


class TooManyChunks(Exception):
    """An answer has a chunk that is too long, or too many of them; its text says which."""


@dataclass(frozen=True, slots=True)
class Piece:
    """An event's data, or a line; `is_progress`: it says how far the job is, and is no output."""

    data: bytes
    is_progress: bool = False


def framing(content_type: str, coding: str | None) -> Framing | None:
    """Return how an answer of this type and `Content-Encoding` is read in chunks; None where it is
    one whole."""
    if coding is not None and coding.strip().lower() not in ("", "identity"):
        return None
    kind = content_type.partition(";")[0].strip().lower()
    if kind == _EVENTS:
        return "events"
    return "lines" if kind in _LINES else None


def value_of(data: bytes) -> bytes:
    """Return a chunk as a JSON value. Raises TooManyChunks for one that is too long."""
    value = data.removeprefix(BOM).strip(b" \t\r\n")
    if not is_value(value):
        text = data.decode(errors="replace")
        value = json.dumps(text, ensure_ascii=False).encode(errors="replace")
    if len(value) > CHUNK_BYTES_MAX:
        raise TooManyChunks(f"a chunk has more than {CHUNK_BYTES_MAX} bytes")
    return value


def is_value(data: bytes) -> bool:
    """Whether these bytes are one JSON value that any reader takes."""
    if not data:
        return False
    try:
        parse(data, depth_max=DEPTH_MAX - _LEVELS)
    except ParseError:
        return False
    return True


@dataclass(slots=True)
class Joined:
    """The chunks of one call until now, joined by commas in `body`: all of them, or those from
    `dropped` bytes on, where the first ones are written and stored elsewhere. `spooled` is how many
    are written where long outputs are kept."""

    body: bytearray = field(default_factory=bytearray, repr=False)
    ends: "array[int]" = field(default_factory=lambda: array("Q"), repr=False)
    dropped: int = 0
    spooled: int = 0

    @property
    def count(self) -> int:
        """How many there are."""
        return len(self.ends)

    @property
    def size(self) -> int:
        """How many bytes their array has."""
        return self.dropped + len(self.body) + 2

    @property
    def held(self) -> int:
        """How many bytes they take in memory."""
        return len(self.body) + len(self.ends) * self.ends.itemsize

    def add(self, value: bytes) -> None:
        """Append one, a JSON value. Raises TooManyChunks."""
        if len(self.ends) >= CHUNKS_MAX:
            raise TooManyChunks(f"there are more than {CHUNKS_MAX} chunks")
        if self.ends:
            self.body += b","
        self.body += value
        self.ends.append(self.dropped + len(self.body))

    def let_go(self, stored: int) -> None:
        """Let go of the first ones, of which so many are stored, as far as they are spooled, too:
        but for the last of them, which may still be told of."""
        last = min(stored, self.spooled) - 1
        start = self.ends[last - 1] if last > 0 else 0
        if start - self.dropped >= CHUNK_BYTES_MAX:
            del self.body[: start - self.dropped]
            self.dropped = start

    def array(self) -> bytes:
        """Return all of them as one JSON array; of one whose beginning was let go of, the rest."""
        return b"[%b]" % bytes(self.body)

    def value(self, number: int) -> bytes:
        """Return the one of this number, from 0, that was not let go of."""
        start = self.ends[number - 1] + 1 if number else 0
        return bytes(self.body[start - self.dropped : self.ends[number] - self.dropped])

    def since(self, first: int, bytes_max: int = CHUNK_BYTES_MAX) -> tuple[bytes, int]:
        """Return those from number `first` on, as one array of about so many bytes at most, and
        how many these are: one at least, where there is any."""
        count = len(self.ends)
        if first >= count:
            return b"[]", 0
        start = self.ends[first - 1] + 1 if first else 0
        last = first + 1
        while last < count and self.ends[last] - start <= bytes_max:
            last += 1
        part = self.body[start - self.dropped : self.ends[last - 1] - self.dropped]
        return b"[%b]" % bytes(part), last - first


class Sink(Protocol):
    """Takes the chunks of one call while it goes on."""

    joined: Joined

    def added(self) -> None:
        """Note that there are more."""

    def progress(self, data: bytes) -> None:
        """Take what an event said of how far the job is."""


class Reader:
    """Reads an answer as it comes."""

    def __init__(self, how: Framing) -> None:
        self._is_events = how == "events"
        self._buffer = bytearray()  # of a line whose end has not come
        self._seen = 0  # of it, without an end
        self._data = bytearray()  # of an event: its lines, each with an end
        self._name = b""
        self._after_cr = False
        self._is_first = True

    @property
    def held(self) -> int:
        """How many bytes it holds of what has not come whole."""
        return len(self._buffer) + len(self._data)

    def feed(self, data: bytes) -> Iterator[Piece]:
        """Yield what has come whole. Raises TooManyChunks."""
        self._buffer += data
        while (line := self._line()) is not None:
            piece = self._of(line)
            if piece is not None:
                yield piece
        if self.held > CHUNK_BYTES_MAX:
            raise TooManyChunks(f"a chunk has more than {CHUNK_BYTES_MAX} bytes")

    def end(self) -> Iterator[Piece]:
        """Yield what the end of the answer makes whole: a line that nothing ends. An event that no
        empty line ends is none, as everywhere."""
        rest, self._buffer = bytes(self._buffer), bytearray()
        if rest and not self._is_events:
            piece = self._of(rest)
            if piece is not None:
                yield piece

    def _line(self) -> bytes | None:
        buffer = self._buffer
        if self._after_cr and buffer:
            self._after_cr = False
            if buffer.startswith(b"\n"):
                del buffer[:1]
        at = self._end_of_line()
        if at < 0:
            self._seen = len(buffer)
            return None
        self._seen = 0
        line = bytes(buffer[:at])
        self._after_cr = buffer[at] == 0x0D
        del buffer[: at + 1]
        if self._is_first:
            self._is_first = False
            line = line.removeprefix(BOM)
        return line

    def _end_of_line(self) -> int:
        at = self._buffer.find(b"\n", self._seen)
        if not self._is_events:
            return at
        carriage = self._buffer.find(b"\r", self._seen, len(self._buffer) if at < 0 else at)
        return at if carriage < 0 else carriage

    def _of(self, line: bytes) -> Piece | None:
        if not self._is_events:
            line = line.strip(b" \t\r\n")
            return Piece(line) if line else None
        if not line:
            return self._dispatched()
        field, _, value = line.partition(b":")
        value = value.removeprefix(b" ")
        if field == b"data":
            self._data += value
            self._data += b"\n"
            if len(self._data) > CHUNK_BYTES_MAX:
                raise TooManyChunks(f"a chunk has more than {CHUNK_BYTES_MAX} bytes")
        elif field == b"event":
            self._name = value
        return None

    def _dispatched(self) -> Piece | None:
        data, name = self._data, self._name
        self._data, self._name = bytearray(), b""
        if not data:
            return None
        return Piece(bytes(data[:-1]), is_progress=name == PROGRESS.encode())

"""Bytes that are kept outside of their job's row: what is known of them, in which parts they are
read, and what a request for a range of them gets. Pure."""

import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Final, Literal, Protocol

What = Literal["input", "output"]

INLINE_BYTES_MAX: Final = 64 * 1024
"""Longer ones are kept outside of their rows."""
HEAD_BYTES_MAX: Final = 1024 * 1024
"""So much of the beginning of an output is in memory until its end is stored: what callbacks and
errors say of it."""
PART_BYTES: Final = 1024 * 1024
"""In parts of so many bytes they are written, sealed and read."""
SEAL_BYTES: Final = 16
"""What a sealed part has more than what it says."""
OUTPUT_BYTES_MAX: Final = 256 * 1024 * 1024 * 1024
"""The most that an endpoint's `output_max`, or its `input_max`, may be."""
INPUT_INLINE_BYTES_MAX: Final = 1024 * 1024
"""Longer inputs are kept outside of their rows."""
_HELD_BYTES: Final = 4 * PART_BYTES
_RANGE: Final = re.compile(r"bytes=([0-9]{0,19})-([0-9]{0,19})")


def held_bytes(input_bytes: int) -> int:
    """Return how much of an input is in memory while it is sent: of a long one a few parts."""
    return input_bytes if input_bytes <= INPUT_INLINE_BYTES_MAX else _HELD_BYTES


class CannotKeep(Exception):
    """There is no room for an output, or it cannot be stored; its text may be shown."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Blob:
    """Bytes that are kept in a `storage`: `file:…`, `database` or `s3://…`. `key` is what their
    parts are sealed with, None where they are plain."""

    id: str
    storage: str
    size: int
    sha256: bytes = field(repr=False)
    key: bytes | None = field(default=None, repr=False)

    @property
    def step(self) -> int:
        """How many bytes a part takes up where it is kept."""
        return PART_BYTES if self.key is None else PART_BYTES + SEAL_BYTES


@dataclass(frozen=True, slots=True, kw_only=True)
class NewBlob:
    """Bytes that are about to be kept, of a job's input or output, by a process."""

    id: str
    storage: str
    tenant: str
    job: str
    what: What
    process: str
    key: bytes | None = field(default=None, repr=False)
    created_ms: int


class Spool(Protocol):
    """Takes the bytes of an output as they come."""

    content_type: str
    """Of what comes, once that is known."""

    async def write(self, data: bytes) -> None:
        """Take some more, waiting for those before them. Raises CannotKeep."""


@dataclass(frozen=True, slots=True)
class Range:
    """Bytes from `start` on, `end` not included."""

    start: int
    end: int

    @property
    def size(self) -> int:
        """How many these are."""
        return self.end - self.start


class Unsatisfiable(Exception):
    """A range begins behind the end."""


def parse_range(header: str | None, size: int) -> Range | None:
    """Return the one range that a `Range` header asks for; None where the whole is to be sent:
    there is no header, or one of another kind, of several ranges, or with a mistake (RFC 9110,
    14.2). Raises Unsatisfiable."""
    found = None if header is None else _RANGE.fullmatch(header.replace(" ", ""))
    if found is None:
        return None
    first, last = found[1], found[2]
    if not first and not last:
        return None
    if not first:
        count = int(last)
        if count == 0 or size == 0:
            raise Unsatisfiable
        return Range(max(0, size - count), size)
    start = int(first)
    if last and int(last) < start:
        return None
    if start >= size:
        raise Unsatisfiable
    return Range(start, min(size, int(last) + 1) if last else size)


@dataclass(frozen=True, slots=True)
class Part:
    """One part to read: its number, and which of its bytes are meant."""

    n: int
    start: int
    end: int


def parts_of(wanted: Range) -> Iterator[Part]:
    """Yield the parts in which a range lies, in order."""
    at = wanted.start
    while at < wanted.end:
        n, within = divmod(at, PART_BYTES)
        upto = min(PART_BYTES, wanted.end - n * PART_BYTES)
        yield Part(n, within, upto)
        at = n * PART_BYTES + upto


def matches(header: str | None, etag: str) -> bool:
    """Whether an `If-None-Match` or `If-Range` header names this entity."""
    if header is None:
        return False
    if header.strip() == "*":
        return True
    return any(one.strip().removeprefix("W/") == etag for one in header.split(","))

"""Names we make: time-ordered callback ids, and destination ids that follow from what they name."""

import os
import re
from hashlib import sha256
from typing import Final
from urllib.parse import urlsplit, urlunsplit

CALLBACK_ID: Final = re.compile(r"cb_[0-9a-f]{32}")
_RANDOM_BYTES: Final = 10  # 80 random bits beside 48 bits of milliseconds, as in a ULID


class _Ids:
    """Makes ids that sort in the order in which they were made, within a millisecond too."""

    def __init__(self) -> None:
        self._ms = -1
        self._random = 0

    def next(self, prefix: str, now_ms: int) -> str:
        """One more than the last id of the same millisecond, else a random start."""
        if now_ms == self._ms:
            self._random += 1
        else:
            self._ms = now_ms
            # The highest bit is left free: so many ids fit into no millisecond.
            self._random = int.from_bytes(os.urandom(_RANDOM_BYTES), "big") >> 1
        return f"{prefix}_{now_ms:012x}{self._random:020x}"


_ids: Final = _Ids()


def new_id(prefix: str, now_ms: int) -> str:
    """Return a unique id that sorts by the time it was made, and holds no dots (they separate the
    parts of a Standard Webhooks signature). For one thread of a process."""
    return _ids.next(prefix, now_ms)


def id_floor(prefix: str, now_ms: int) -> str:
    """Return the smallest id that `new_id` can make at `now_ms`: turns a time bound into an id
    bound."""
    return f"{prefix}_{max(0, now_ms):012x}{'0' * 2 * _RANDOM_BYTES}"


def destination_id(tenant: str, *, name: str | None = None, url: str | None = None) -> str:
    """Return the id of a tenant's destination: registered ones are known by name, others by their
    URL without its query, so that a token in the query does not make a lane of its own."""
    what = f"name\0{name}" if name is not None else f"url\0{lane_url(url or '')}"
    return "ds_" + sha256(f"{tenant}\0{what}".encode()).hexdigest()[:32]


def lane_url(url: str) -> str:
    """`url` without query and fragment: what unregistered callbacks share a lane by."""
    parts = urlsplit(url)
    return urlunsplit((parts.scheme, parts.netloc, parts.path, "", ""))

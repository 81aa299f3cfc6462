"""Names we make: time-ordered callback ids, and digests that follow from what they name: ids of
destinations, and the keys that make two submits the same one (D12)."""

import os
import re
from hashlib import sha256
from typing import Final
from urllib.parse import urlsplit, urlunsplit

DIGEST_BYTES: Final = 16

CALLBACK_ID: Final = re.compile(r"cb_[0-9a-f]{32}")
_DESTINATION_ID: Final = re.compile(r"ds_[0-9a-f]{32}")
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


def resolve_destination(tenant: str, destination: str) -> str:
    """Return the destination's id, given its id, its registered name or a URL."""
    if _DESTINATION_ID.fullmatch(destination):
        return destination
    if "://" in destination:
        return destination_id(tenant, url=destination)
    return destination_id(tenant, name=destination)


def lane_url(url: str) -> str:
    """`url` without query and fragment: what unregistered callbacks share a lane by."""
    parts = urlsplit(url)
    return urlunsplit((parts.scheme, parts.netloc, parts.path, "", ""))


def explicit_key(tenant: str, key: str) -> bytes:
    """Return the digest of an `Idempotency-Key`."""
    return _digest("key", tenant, key)


def natural_key(
    tenant: str,
    job_id: str,
    job_status: str | None,
    destination: str,
    body_sha256: bytes,
    run: int | None = None,
    *,
    is_end: bool,
) -> bytes:
    """Return the digest of a submit without a key: one per job, status, destination and run, where
    that is given; statuses that are not the end may come again with another payload."""
    payload = "" if is_end else body_sha256.hex()
    return _digest("job", tenant, job_id, job_status or "", destination, payload, *_run(run))


def content_digest(
    job_id: str,
    job_status: str | None,
    destination: str,
    url: str | None,
    body_sha256: bytes,
    content_type: str,
    run: int | None = None,
) -> bytes:
    """Return the digest of what a repeated key must come with again."""
    parts = (job_id, job_status or "", destination, url or "", body_sha256.hex(), content_type)
    return _digest(*parts, *_run(run))


def _run(run: int | None) -> tuple[str, ...]:
    return () if run is None else (f"run {run}",)


def _digest(*parts: str) -> bytes:
    # NUL is refused in every part, so no two lists of parts read the same.
    return sha256("\0".join(parts).encode()).digest()[:DIGEST_BYTES]

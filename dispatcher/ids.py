"""Names we make: time-ordered ids of callbacks and jobs, and digests that follow from what they
name: ids of destinations, and the keys that make two submits the same one (D12)."""

import os
import re
from functools import lru_cache
from hashlib import sha256
from typing import Final
from urllib.parse import urlsplit, urlunsplit

from dispatcher.values import NewCallback

DIGEST_BYTES: Final = 16

# What the earlier rule of keys took for the end of a job.
_EARLIER_ENDS: Final = frozenset({
    "completed", "complete", "succeeded", "success", "successful", "done", "finished", "failed",
    "failure", "error", "errored", "crashed", "cancelled", "canceled", "aborted", "timeout",
    "timedout", "expired",
})  # fmt: skip
_SEPARATORS: Final = str.maketrans("", "", " -_")
CALLBACK_ID: Final = re.compile(r"cb_[0-9a-f]{32}")
# The lanes that a server has at most: one hexadecimal digit.
LANES: Final = 16
DESTINATION_CHARS: Final = 35
_LANE_SIGN: Final = "."
_LANES_END: Final = "/"  # the character after the sign
_DESTINATION_ID: Final = re.compile(r"ds_[0-9a-f]{32}")
_MS_CHARS: Final = 12
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


def random_id(prefix: str, now_ms: int) -> str:
    """Return an id like those of `new_id`, on any thread; within a millisecond in no order."""
    return f"{prefix}_{now_ms:012x}{os.urandom(_RANDOM_BYTES).hex()}"


def id_floor(prefix: str, now_ms: int) -> str:
    """Return the smallest id that `new_id` can make at `now_ms`: turns a time bound into an id
    bound."""
    return f"{prefix}_{max(0, now_ms):012x}{'0' * 2 * _RANDOM_BYTES}"


def made_ms(id: str) -> int:
    """Return when an id was made."""
    return int(id.partition("_")[2][:_MS_CHARS], 16)


# --- jobs: a UUIDv7, kept as 32 hexadecimal digits (RFC 9562) ---

_JOB_ID: Final = re.compile(
    r"(?:job_|sync-)?(?:([0-9a-f]{32})|([0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}))",
    re.IGNORECASE | re.ASCII,
)
_UUID_RANDOM_BITS: Final = 74
_STEP_BYTES: Final = 4
_RUN_BYTES: Final = 8


class _JobIds:
    """Makes UUIDs of version 7 that sort in the order in which they were made, also when the clock
    is set back; the next one cannot be told from the last."""

    def __init__(self) -> None:
        self._ms = -1
        self._random = 0

    def next(self, now_ms: int) -> str:
        """Return an id some random step above the last one of the same millisecond, or of a later
        one; else from a random start, whose highest bit is left free: so many ids fit into none."""
        if now_ms > self._ms:
            self._ms = now_ms
            self._random = int.from_bytes(os.urandom(10), "big") >> (80 - _UUID_RANDOM_BITS + 1)
        else:
            self._random += 1 + int.from_bytes(os.urandom(_STEP_BYTES), "big")
        return _uuid7(self._ms, self._random)


def _uuid7(ms: int, random: int) -> str:
    high, low = random >> 62, random & ((1 << 62) - 1)
    return f"{ms:012x}7{high:03x}{(0b10 << 62) | low:016x}"


_job_ids: Final = _JobIds()


def new_job_id(now_ms: int) -> str:
    """Return a job's unique id, as it is kept. Ids of one process sort in the order in which they
    were made. For one thread of a process."""
    return _job_ids.next(now_ms)


def job_id_floor(now_ms: int) -> str:
    """Return the smallest id that a job can have that was made at `now_ms`: turns a time bound into
    an id bound."""
    return _uuid7(max(0, now_ms), 0)


def parse_job_id(text: str) -> str | None:
    """Return a job's id as it is kept, given any spelling of it: 32 hexadecimal digits or a UUID,
    bare or behind `job_` or `sync-`. None for what is no job's id."""
    spelled = _JOB_ID.fullmatch(text)
    if spelled is None:
        return None
    return (spelled[1] or spelled[2].replace("-", "")).lower()


def spelled(id: str, dialect: str, *, waited: bool = False) -> str:
    """Return a job's id as a dialect spells it: `job_` and 32 digits for TensorOne and `/v1`, a
    UUID for the others, with `sync-` before it for one that RunPod's caller `waited` for."""
    if dialect in ("cerebrium", "runpod"):
        uuid = f"{id[:8]}-{id[8:12]}-{id[12:16]}-{id[16:20]}-{id[20:]}"
        return f"sync-{uuid}" if waited and dialect == "runpod" else uuid
    return f"job_{id}"


def job_key(tenant: str, key: str) -> bytes:
    """Return the digest of an `Idempotency-Key` of a job's submit."""
    return _digest("job key", tenant, key)


def job_content(
    endpoint: str, function: str | None, target: str | None, body_sha256: bytes, content_type: str
) -> bytes:
    """Return the digest of what a job's repeated key must come with again. `target` is where its
    end is told, as given: a URL or a registered destination's name."""
    parts = (endpoint, function or "", target or "", body_sha256.hex(), content_type)
    return _digest("job content", *parts)


def end_key(job: str, run: int) -> bytes:
    """Return the key of the callback that tells a run's end: there is one. It is longer than any
    digest, and sorts by when the job was made, so that the newest stand together in an index."""
    return bytes.fromhex(job) + run.to_bytes(_RUN_BYTES, "big")


def event_key(callback: str) -> bytes:
    """Return the key of a callback that tells what a job does: each is another one."""
    return _digest("job-event", callback)


# --- destinations and their lanes ---


def destination_id(tenant: str, *, name: str | None = None, url: str | None = None) -> str:
    """Return the id of a tenant's destination: registered ones are known by name, others by the
    server of their URL, so that a job's id or a token in it does not make one of its own."""
    what = f"name\0{name}" if name is not None else f"server\0{server_of(url or '')}"
    return _destination_id(tenant, what)


def earlier_destination_id(tenant: str, url: str) -> str:
    """Return the id that a URL's destination had by the earlier rule, which took the URL without
    its query for one."""
    return _destination_id(tenant, f"url\0{lane_url(url)}")


def _destination_id(tenant: str, what: str) -> str:
    return "ds_" + sha256(f"{tenant}\0{what}".encode()).hexdigest()[:32]


@lru_cache(maxsize=4_096)  # the URLs of busy destinations come again and again
def lane_id(tenant: str, url: str) -> str:
    """Return the lane of an unregistered callback: one of `LANES` of its server, by its URL without
    query, so that a bad path holds no more than the few that share its lane."""
    digit = sha256(lane_url(url).encode()).hexdigest()[0]
    return f"{destination_id(tenant, url=url)}{_LANE_SIGN}{digit}"


def destination_of(lane: str) -> str:
    """Return the id of the destination that a lane belongs to."""
    return lane[:DESTINATION_CHARS]


def lanes_end(destination: str) -> str:
    """Return the first id behind all lanes of a destination, which begin with its own id."""
    return destination + _LANES_END


def resolve_destination(tenant: str, destination: str) -> str:
    """Return the destination's id, given its id, its registered name or a URL of its server."""
    if _DESTINATION_ID.fullmatch(destination):
        return destination
    if "://" in destination:
        return destination_id(tenant, url=destination)
    return destination_id(tenant, name=destination)


def server_of(url: str) -> str:
    """Return `scheme://host:port` of a URL; what is none stays as it is."""
    try:
        parts = urlsplit(url)
        host, port = parts.hostname or "", parts.port
    except ValueError:
        return url
    scheme = parts.scheme.lower()
    if port is None:
        port = 443 if scheme == "https" else 80
    return f"{scheme}://[{host}]:{port}" if ":" in host else f"{scheme}://{host}:{port}"


def lane_url(url: str) -> str:
    """`url` without query and fragment: what callbacks of one server share a lane by."""
    try:
        parts = urlsplit(url)
    except ValueError:
        return url
    return urlunsplit((parts.scheme, parts.netloc, parts.path, "", ""))


# --- the keys of callbacks ---


def explicit_key(tenant: str, key: str) -> bytes:
    """Return the digest of an `Idempotency-Key`."""
    return _digest("key", tenant, key)


def natural_key(
    tenant: str,
    job_id: str,
    job_status: str | None,
    target: str,
    body_sha256: bytes,
    run: int | None = None,
    *,
    is_end: bool,
) -> bytes:
    """Return the digest of a submit without a key: one per job, status, `target` (the callback URL
    as given or the destination's name) and run, where that is given; statuses that are not the end
    may come again with another payload."""
    payload = "" if is_end else body_sha256.hex()
    return _digest("job", tenant, job_id, job_status or "", target, payload, *_run(run))


def earlier_natural_key(new: NewCallback) -> bytes:
    """Return the key that this submit would have had by the earlier rule."""
    status = new.job_status
    return natural_key(
        new.tenant,
        new.job_id,
        status,
        _earlier_destination(new),
        new.body_sha256,
        new.run,
        is_end=status is None or status.lower().translate(_SEPARATORS) in _EARLIER_ENDS,
    )


def earlier_content_digest(new: NewCallback) -> bytes:
    """Return the content digest that this submit would have had by the earlier rule."""
    return content_digest(
        new.job_id,
        new.job_status,
        _earlier_destination(new),
        new.url,
        new.body_sha256,
        new.content_type,
        new.run,
    )


def _earlier_destination(new: NewCallback) -> str:
    return new.destination if new.url is None else earlier_destination_id(new.tenant, new.url)


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

"""What makes two submits the same one (D12): digests, pure."""

from hashlib import sha256
from typing import Final

DIGEST_BYTES: Final = 16

# How platforms write the end of a job, without case, spaces, `-` and `_`.
_TERMINAL: Final = frozenset(
    {
        "completed",
        "complete",
        "succeeded",
        "success",
        "successful",
        "done",
        "finished",
        "failed",
        "failure",
        "error",
        "errored",
        "crashed",
        "cancelled",
        "canceled",
        "aborted",
        "timeout",
        "timedout",
        "expired",
    }
)
_SEPARATORS: Final = str.maketrans("", "", " -_")


def terminal(job_status: str | None) -> bool:
    """Whether nothing comes after this status; a job without one says so by calling back."""
    return job_status is None or job_status.lower().translate(_SEPARATORS) in _TERMINAL


def explicit_key(tenant: str, key: str) -> bytes:
    """Return the digest of an `Idempotency-Key`."""
    return _digest("key", tenant, key)


def natural_key(
    tenant: str, job_id: str, job_status: str | None, destination: str, body_sha256: bytes
) -> bytes:
    """Return the digest of a submit without a key: one per job, status and destination; statuses
    that are not the end may come again with another payload."""
    payload = "" if terminal(job_status) else body_sha256.hex()
    return _digest("job", tenant, job_id, job_status or "", destination, payload)


def content(
    job_id: str,
    job_status: str | None,
    destination: str,
    url: str | None,
    body_sha256: bytes,
    content_type: str,
) -> bytes:
    """Return the digest of what a repeated key must come with again."""
    return _digest(
        job_id, job_status or "", destination, url or "", body_sha256.hex(), content_type
    )


def _digest(*parts: str) -> bytes:
    # NUL is refused in every part, so no two lists of parts read the same.
    return sha256("\0".join(parts).encode()).digest()[:DIGEST_BYTES]

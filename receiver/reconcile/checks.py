"""What may be expected: the arguments of `expect`, checked before anything is stored. Pure."""

from datetime import UTC, datetime, timedelta
from typing import Final
from urllib.parse import urlsplit

from receiver.verification.identity import JOB_ID_CHARS_MAX, is_name

STATUS_URL_CHARS_MAX: Final = 2048  # what browsers and proxies agree on


def check_job_id(job_id: str) -> None:
    """Raise ValueError for what cannot name a job."""
    if not is_name(job_id, JOB_ID_CHARS_MAX):
        raise ValueError(f"jobId must be a string of 1 to {JOB_ID_CHARS_MAX} printable characters")


def check_status_url(url: str) -> None:
    """Raise ValueError for what cannot be asked, or hold a secret."""
    unusable = ValueError("statusUrl must be an http or https URL of printable ASCII characters")
    try:
        parts = urlsplit(url)
        usable = parts.scheme in ("http", "https") and parts.hostname and parts.port != 0
    except ValueError:
        raise unusable from None
    if not usable or len(url) > STATUS_URL_CHARS_MAX or not url.isascii() or not url.isprintable():
        raise unusable
    if parts.username is not None or parts.password is not None:
        raise ValueError("statusUrl must hold no credentials: give their name instead")


def ask_ms(by: datetime | timedelta, now_ms: int) -> int:
    """When a job that stays silent is asked for, in Unix milliseconds. Raises ValueError for a
    time without an offset."""
    if isinstance(by, timedelta):
        return now_ms + max(0, round(by.total_seconds() * 1000))
    if by.tzinfo is None:
        raise ValueError("by must be a time with its offset, or a duration")
    return round(by.astimezone(UTC).timestamp() * 1000)

"""What is kept of a destination's answer: pure readers of hostile text."""

import codecs
import re
from email.utils import parsedate_to_datetime
from typing import Final

_SECONDS: Final = re.compile(r"[0-9]{1,10}")
# The three forms of RFC 9110 section 5.6.7; the parser behind them would take far more.
_DATE: Final = re.compile(
    r"[A-Z][a-z]{2}, \d{2} [A-Z][a-z]{2} \d{4} \d{2}:\d{2}:\d{2} GMT"
    r"|[A-Z][a-z]{5,8}, \d{2}-[A-Z][a-z]{2}-\d{2} \d{2}:\d{2}:\d{2} GMT"
    r"|[A-Z][a-z]{2} [A-Z][a-z]{2} [ \d]\d \d{2}:\d{2}:\d{2} \d{4}",
    re.ASCII,
)
# C0 and C1 controls but tab and newline, and what turns the direction of text around it.
_UNSAFE: Final = dict.fromkeys(
    (
        *(code for code in range(0x20) if code not in (0x09, 0x0A)),
        *range(0x7F, 0xA0),
        0x061C,
        *range(0x200E, 0x2010),
        *range(0x2028, 0x202F),
        *range(0x2066, 0x206A),
    ),
    "\ufffd",
)


def retry_after_ms(value: str | None, now_ms: int) -> int | None:
    """Return the wait that a `Retry-After` asks for: seconds or an HTTP date; 0 for one in the
    past. None where there is none, or none that can be understood."""
    if value is None:
        return None
    text = value.strip(" \t")
    if _SECONDS.fullmatch(text):
        return int(text) * 1000
    if not _DATE.fullmatch(text):
        return None
    try:
        moment = parsedate_to_datetime(text)
        # A form without a zone is in GMT all the same.
        until_ms = round(moment.timestamp() * 1000) if moment.tzinfo else _utc_ms(text)
    except (ValueError, TypeError, OverflowError):
        return None
    return max(0, until_ms - now_ms)


def _utc_ms(text: str) -> int:
    return round(parsedate_to_datetime(f"{text} GMT").timestamp() * 1000)


def excerpt(body: bytes, bytes_max: int) -> str | None:
    """Return the beginning of an answer as text that is safe to store, to log and to show: what is
    not UTF-8, control characters and direction marks are replaced. None for an empty body."""
    decoder = codecs.getincrementaldecoder("utf-8")("replace")
    # Not final: a character cut in two by the limit is left out.
    text = decoder.decode(body[:bytes_max], len(body) <= bytes_max)
    if not text.isprintable():
        text = text.replace("\r\n", "\n").translate(_UNSAFE)
    return text or None

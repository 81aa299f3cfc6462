"""Pages: the limit, and the opaque cursor that leads on from one page to the next."""

import base64
import binascii
import re
from collections.abc import Mapping
from hashlib import sha256
from typing import Final

from dispatcher.wire import Page
from receiver.base.http import invalid

LIMIT_DEFAULT: Final = 50
LIMIT_MAX: Final = 500
_MARK_BYTES: Final = 6
_ID: Final = re.compile(r"[A-Za-z0-9._-]{1,128}")  # an id of ours, or a tenant's name


def limit_of(text: str | None) -> int:
    """How many to list. Raises ApiError (422) unless it is a number from 1 to 500."""
    if text is None:
        return LIMIT_DEFAULT
    if not re.fullmatch(r"[0-9]{1,3}", text) or not 1 <= int(text) <= LIMIT_MAX:
        raise invalid("limit", text, f"must be a whole number from 1 to {LIMIT_MAX}")
    return int(text)


def cursor_after(next_id: str | None, about: str) -> str | None:
    """Return the cursor for what follows `next_id` in a listing; `about` names the tenant, the
    listing and its filter, and the cursor is good for that one only."""
    if next_id is None:
        return None
    return base64.urlsafe_b64encode(_mark(next_id, about) + next_id.encode()).decode().rstrip("=")


def after(text: str | None, about: str) -> str | None:
    """Return the id that a cursor holds. Raises ApiError (422) for one that we did not make, or
    made for another listing."""
    if text is None:
        return None
    try:
        raw = base64.b64decode(text + "=" * (-len(text) % 4), altchars=b"-_", validate=True)
        next_id = raw[_MARK_BYTES:].decode("ascii")
    except (binascii.Error, ValueError):
        raw, next_id = b"", ""
    if not _ID.fullmatch(next_id) or raw[:_MARK_BYTES] != _mark(next_id, about):
        raise invalid("cursor", text, "not a cursor of this listing; start again without it")
    return next_id


def _mark(next_id: str, about: str) -> bytes:
    return sha256(f"{about}\0{next_id}".encode()).digest()[:_MARK_BYTES]


def page(
    entries: Mapping[str, object], about: str, *, cursor: str | None, limit: str | None
) -> Page[object]:
    """One page of entries that are all at hand, in the order of their names."""
    most, begin = limit_of(limit), after(cursor, about)
    names = sorted(name for name in entries if begin is None or name > begin)
    next_id = names[most - 1] if len(names) > most else None
    data = [entries[name] for name in names[:most]]
    return Page(data=data, next_cursor=cursor_after(next_id, about))

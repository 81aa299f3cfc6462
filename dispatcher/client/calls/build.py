"""What calls send: paths, parameters, headers and JSON. What cannot be sent as it is meant raises
ValueError before it is."""

import json
import re
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from typing import Any, Final, TypeVar
from urllib.parse import quote

import msgspec

from dispatcher.audit import reason_fault
from dispatcher.client.calls import read
from dispatcher.client.errors import NotFound
from dispatcher.client.transport import Call, Response
from dispatcher.malformed import malformed

T = TypeVar("T")
Pairs = tuple[tuple[str, str], ...]

Policy = str | Mapping[str, Any]
"""A preset's name, or the policy object of the API."""

Moment = datetime | str | float
"""A time (a datetime, or ISO-8601 text), or seconds from now."""

JSON: Final = "application/json"
_VISIBLE: Final = re.compile(r"[!-~]{1,255}")
_CONTENT_TYPE: Final = re.compile(r"[!-~]([ -~]{0,254}[!-~])?")


# --- whole calls ---


def get(reads: Callable[[Response], T], *parts: str, params: Pairs = ()) -> Call[T]:
    """Return a call that asks for something."""
    return Call(method="GET", path=path(*parts), read=reads, repeatable=True, params=params)


def post(
    reads: Callable[[Response], T],
    *parts: str,
    fields: Mapping[str, Any] | None = None,
    repeatable: bool = False,
    reason: str | None = None,
) -> Call[T]:
    """Return a call that has something done, with `fields` as JSON where there are any."""
    return Call(
        method="POST",
        path=path(*parts),
        read=reads,
        repeatable=repeatable,
        headers=reasoned(reason),
        body=b"" if fields is None else json.dumps(fields, default=dict).encode(),
        content_type=None if fields is None else JSON,
    )


def put(
    reads: Callable[[Response], T],
    *parts: str,
    fields: Mapping[str, Any],
    params: Pairs = (),
    reason: str | None = None,
) -> Call[T]:
    """Return a call that makes something what `fields` say."""
    return _set("PUT", reads, parts, fields, params, reason)


def patch(
    reads: Callable[[Response], T],
    *parts: str,
    fields: Mapping[str, Any],
    reason: str | None = None,
) -> Call[T]:
    """Return a call that changes the fields that are named."""
    return _set("PATCH", reads, parts, fields, (), reason)


def delete(*parts: str, params: Pairs = (), reason: str | None = None) -> Call[None]:
    """Return a call that removes something."""
    return Call(
        method="DELETE",
        path=path(*parts),
        read=read.nothing,
        repeatable=False,
        params=params,
        headers=reasoned(reason),
    )


def _set(
    method: str,
    reads: Callable[[Response], T],
    parts: tuple[str, ...],
    fields: Mapping[str, Any],
    params: Pairs,
    reason: str | None,
) -> Call[T]:
    return Call(
        method=method,
        path=path(*parts),
        read=reads,
        repeatable=True,
        params=params,
        headers=reasoned(reason),
        body=json.dumps(fields).encode(),
        content_type=JSON,
    )


# --- their parts ---


def path(*parts: str) -> str:
    """Return the path with these parts. Raises NotFound for an id that would make another one."""
    for part in parts:
        if part in ("", ".", ".."):
            raise NotFound("NOT_FOUND", f"nothing has the id {part!r}", status=404)
    return "/" + "/".join(quote(part, safe="") for part in parts)


def given(fields: Mapping[str, Any]) -> dict[str, Any]:
    """Return the fields that are not None."""
    return {name: value for name, value in fields.items() if value is not None}


def paging(cursor: str | None, limit: int | None) -> Pairs:
    """Return the parameters of a page."""
    return tuple(given({"cursor": cursor, "limit": None if limit is None else str(limit)}).items())


def flags(**set_: bool) -> Pairs:
    """Return the parameters that are true."""
    return tuple((name, "true") for name, is_set in set_.items() if is_set)


def key(idempotency_key: str | None) -> Pairs:
    """Return the header of an idempotency key."""
    if idempotency_key is None:
        return ()
    if not _VISIBLE.fullmatch(idempotency_key):
        raise ValueError("an idempotency key is 1 to 255 visible ASCII characters")
    return (("Idempotency-Key", idempotency_key),)


def reasoned(reason: str | None) -> Pairs:
    """Return the header that says why."""
    if not reason:
        return ()
    fault = reason_fault(reason)
    if fault is not None:
        raise ValueError(f"a reason {fault}")
    return (("Postback-Reason", reason),)


def content_type(text: str) -> str:
    """Return a content type as it is."""
    if not _CONTENT_TYPE.fullmatch(text):
        raise ValueError("a content type is 1 to 256 visible ASCII characters")
    return text


def moment(time: Moment | None) -> str | float | None:
    """Return a time as text; one without a zone is taken as UTC."""
    if not isinstance(time, datetime):
        return time
    return (time if time.tzinfo else time.replace(tzinfo=UTC)).isoformat()


# --- filters ---


def filters(chosen: Mapping[str, object], names: Mapping[str, str], about: str) -> dict[str, str]:
    """Return the filters that were chosen under the API's `names`, and `tags` where it is one of
    these; `about` is what they choose from. Raises ValueError for what cannot be one of them."""
    found: dict[str, str] = {}
    for name, value in chosen.items():
        if name not in names:
            raise ValueError(f"{about} have no filter {name!r}, only: {', '.join(names)}")
        if name == "tags":
            found |= _tags(value)
        elif isinstance(value, datetime) and name in ("since", "until"):
            found[names[name]] = _iso(value)
        elif isinstance(value, str):
            found[names[name]] = str(value)
        else:
            raise ValueError(f"the filter {name} cannot be {value!r}: leave it out, or give a text")
    return found


def _tags(tags: object) -> dict[str, str]:
    pairs: Mapping[Any, Any] = tags if isinstance(tags, Mapping) else {"": tags}
    for name, value in pairs.items():
        if not (isinstance(name, str) and name and isinstance(value, str)):
            raise ValueError(f"the filter tags maps texts to texts, and cannot be {tags!r}")
    return {f"tag.{name}": value for name, value in pairs.items()}


def _iso(time: datetime) -> str:
    if time.tzinfo is None:
        time = time.replace(tzinfo=UTC)
    return time.astimezone(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


# --- JSON ---


def one_value(text: bytes) -> bytes:
    """Return JSON text as it is. Raises ValueError unless it is exactly one value: behind it, it
    would be read as fields of ours."""
    try:
        text.decode()
        msgspec.json.decode(text, type=msgspec.Raw)  # looked through, not built
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        why = malformed(str(error)) if isinstance(error, msgspec.DecodeError) else "not UTF-8"
        if isinstance(error, RecursionError):
            why = "nested too deep"
        raise ValueError(f"its bytes are not exactly one JSON value ({why})") from None
    return text


def dumps(value: Any, default: Callable[[Any], Any] | None = None) -> bytes:
    """Return a value as JSON. Raises TypeError or ValueError for one that is not JSON (NaN, an
    object, …)."""
    text = json.dumps(
        value, ensure_ascii=False, allow_nan=False, separators=(",", ":"), default=default
    )
    return text.encode()

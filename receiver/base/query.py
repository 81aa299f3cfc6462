"""Reading a query string: known fields, each once, or a 422 that says which is wrong."""

from typing import Final
from urllib.parse import parse_qsl

from receiver.base.http import Refusal

FIELDS_MAX: Final = 20
DIGITS_MAX: Final = 18  # an id fits 63 bits


def read_query(raw: bytes, allowed: tuple[str, ...]) -> dict[str, str]:
    """Return the fields by name. Raises Refusal for an unknown or repeated one."""
    found: dict[str, str] = {}
    for name, value in _pairs(raw):
        if name not in allowed:
            raise invalid(name, value, f"unknown; there are: {', '.join(allowed) or 'none'}")
        if name in found:
            raise invalid(name, value, "is there more than once")
        found[name] = value
    return found


def query_values(raw: bytes, name: str) -> list[str]:
    """All values of one field."""
    return [value for key, value in _pairs(raw) if key == name]


def number(query: dict[str, str], name: str, most: int, *, least: int = 1) -> int | None:
    """Return a whole number from `least` to `most`, or None where there is none."""
    text = query.get(name)
    if text is None:
        return None
    is_number = text.isascii() and text.isdecimal() and len(text) <= DIGITS_MAX
    if not is_number or not least <= int(text) <= most:
        ours = f"must be a number from {least} to {most}"
        raise invalid(name, text, "is not one of ours" if name == "cursor" else ours)
    return int(text)


def choice(query: dict[str, str], name: str, allowed: tuple[str, ...]) -> str | None:
    """One of the words that are allowed, or None where there is none."""
    value = query.get(name)
    if value is not None and value not in allowed:
        raise invalid(name, value, f"must be one of: {', '.join(allowed)}")
    return value


def invalid(field: str, value: str, reason: str) -> Refusal:
    """Return the 422 for a field."""
    details = {"field": field[:100], "value": value[:100], "reason": reason}
    return Refusal(422, "VALIDATION_ERROR", f"{field[:100]} {reason}", details=details)


def _pairs(raw: bytes) -> list[tuple[str, str]]:
    try:
        return parse_qsl(raw.decode("latin-1"), keep_blank_values=True, max_num_fields=FIELDS_MAX)
    except ValueError:
        raise invalid("query", "", "has too many fields") from None

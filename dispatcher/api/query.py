"""Query parameters: each at most once, none unknown."""

from collections.abc import Collection, Mapping
from typing import Final
from urllib.parse import parse_qsl

from dispatcher.api.errors import invalid

_PARAMETERS_MAX: Final = 64
_SHOWN: Final = ", "


def parse(raw: bytes) -> dict[str, str]:
    """Return the parameters of a query string. Raises ApiError (422) for one that is there twice,
    for text that is not UTF-8 and for more than 64."""
    if not raw:
        return {}
    try:
        pairs = parse_qsl(
            raw.decode("ascii"),
            keep_blank_values=True,
            errors="strict",
            max_num_fields=_PARAMETERS_MAX,
        )
    except UnicodeError:
        raise invalid("query", None, "must be percent-encoded UTF-8") from None
    except ValueError:
        raise invalid("query", None, f"at most {_PARAMETERS_MAX} parameters") from None
    found: dict[str, str] = {}
    for name, value in pairs:
        if name in found:
            raise invalid(name, value, "the parameter is there twice")
        found[name] = value
    return found


def only(found: Mapping[str, str], allowed: Collection[str]) -> None:
    """Raise ApiError (422) for a parameter that the route does not have."""
    for name, value in found.items():
        if name not in allowed:
            there_are = f"there are {_SHOWN.join(allowed)}" if allowed else "there are none"
            raise invalid(name, value, f"unknown parameter; {there_are}")

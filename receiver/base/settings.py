"""Settings from environment variables: a dataclass declares each with its default, bounds and
reason; what is read is bounded, and each fault is told in one line that names the variable and what
it takes. A secret's value is in no message and no repr.

A field's type says how it is read: numbers within their bounds, `tuple[str, ...]` at commas and
line ends, `tuple[Network, ...]` as CIDRs, a Literal as one of its words, everything else as text.
"""

import ipaddress
import os
import re
from collections.abc import Callable, Mapping
from dataclasses import Field, field, fields
from typing import Any, Final, Literal, TypeAlias, TypeVar, get_args, get_origin

Network: TypeAlias = ipaddress.IPv4Network | ipaddress.IPv6Network
Environ: TypeAlias = Mapping[str, str]

KIB: Final = 1024
MIB: Final = 1024 * KIB
GIB: Final = 1024 * MIB
HOUR_S: Final = 3_600.0
DAY_S: Final = 24 * HOUR_S

_EVERYWHERE: Final = ("0.0.0.0", "::")  # noqa: S104 - compared, not bound

_Settings = TypeVar("_Settings")


class SettingError(Exception):
    """A setting that cannot be used: its message names the variable and what it takes."""


def setting(
    default: Any,
    about: str,
    *,
    unit: str = "",
    min: float = 0,
    max: float = 1e15,
    secret: bool = False,
    split: Callable[[str], tuple[str, ...]] | None = None,
) -> Any:
    """Return a field with what its variable takes and why. `split` is how a list is split, where
    not at commas and line ends; it raises ValueError."""
    metadata = {"about": about, "unit": unit, "min": min, "max": max, "secret": secret}
    metadata["split"] = split or split_list
    return field(default=default, metadata=metadata, repr=not secret)


def load(kind: type[_Settings], prefix: str, environ: Environ | None = None) -> _Settings:
    """Return the settings of this dataclass that the environment (the process's, unless given)
    asks for; an empty variable is as good as none. Raises SettingError."""
    environ = os.environ if environ is None else environ
    values: dict[str, Any] = {}
    for one in fields(kind):  # type: ignore[arg-type]  # a TypeVar cannot say "dataclass"
        name = f"{prefix}{one.name.upper()}"
        raw = environ.get(name, "").strip()
        if raw:
            values[one.name] = _value(name, one, raw)
    return kind(**values)


def check_bounds(settings: Any, prefix: str) -> None:
    """Raise SettingError where a number, which code may have set, is none that its variable would
    take."""
    for one in fields(settings):
        if one.type is int or one.type is float:
            _check_number(f"{prefix}{one.name.upper()}", one, getattr(settings, one.name))


def check_choices(settings: Any, prefix: str) -> None:
    """Raise SettingError where a field of a Literal type holds none of its words."""
    for one in fields(settings):
        value = getattr(settings, one.name)
        if get_origin(one.type) is Literal and value not in get_args(one.type):
            *words, last = get_args(one.type)
            choices = f"{', '.join(words)} or {last}"
            raise SettingError(f"{prefix}{one.name.upper()} must be {choices}, not {value!r}")


def service_url(prefix: str, environ: Environ | None, listens: Callable[[], Any]) -> str:
    """Return where the commands find the running service: at the prefix's `URL`, else where the
    settings that `listens` loads say that it listens (`host`, `port`), on this machine."""
    environ = os.environ if environ is None else environ
    url = environ.get(f"{prefix}URL", "").strip()
    if not url:
        settings = listens()
        host = "127.0.0.1" if settings.host in _EVERYWHERE else settings.host
        url = f"http://{f'[{host}]' if ':' in host else host}:{settings.port}"
    return url.rstrip("/")


def split_list(text: str) -> tuple[str, ...]:
    """Return what is separated by commas or line ends, without the empty ones."""
    return tuple(part.strip() for part in re.split(r"[,\r\n]", text) if part.strip())


def _value(name: str, one: Field[Any], raw: str) -> Any:
    if one.type is int or one.type is float:
        return _number(name, one, raw)
    if one.type == tuple[str, ...]:
        return _split(name, one, raw)
    return _networks(name, raw) if one.type == tuple[Network, ...] else raw


def _split(name: str, one: Field[Any], raw: str) -> tuple[str, ...]:
    try:
        parts: tuple[str, ...] = one.metadata["split"](raw)
    except ValueError as error:
        raise SettingError(f"{name}: {error}") from None
    return parts


def _number(name: str, one: Field[Any], raw: str) -> float:
    kind: Any = one.type
    try:
        number: float = kind(raw)
    except ValueError:
        whole = "a whole number" if kind is int else "a number"
        raise SettingError(f"{name} must be {whole}, not {raw!r}") from None
    _check_number(name, one, number, raw)
    return number


def _check_number(name: str, one: Field[Any], value: object, shown: object = None) -> None:
    low, high = one.metadata["min"], one.metadata["max"]
    kinds = int if one.type is int else int | float
    if not isinstance(value, kinds) or isinstance(value, bool):
        raise SettingError(f"{name} must be a number, not {value!r}")
    if not low <= value <= high:
        raise SettingError(f"{name} must be from {low:g} to {high:g}, not {shown or repr(value)}")


def _networks(name: str, raw: str) -> tuple[Network, ...]:
    try:
        return tuple(ipaddress.ip_network(part.strip()) for part in raw.split(",") if part.strip())
    except ValueError as error:
        raise SettingError(f"{name} takes CIDRs such as 10.0.0.0/8: {error}") from None

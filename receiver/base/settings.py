"""Reading settings from environment variables, each bounded, each fault told in one line."""

import re
from collections.abc import Iterable, Mapping
from dataclasses import Field, field
from typing import Any

_LISTS = ("secrets", "credentials")


class SettingError(Exception):
    """A setting that cannot be used: its message names the variable and what it takes."""


def setting(
    default: Any,
    about: str,
    *,
    unit: str = "",
    least: float = 0,
    most: float = 1e15,
    secret: bool = False,
) -> Any:
    """Return a field with what its variable takes and why; a secret one is in no repr."""
    metadata = {"about": about, "unit": unit, "least": least, "most": most, "secret": secret}
    return field(default=default, metadata=metadata, repr=not secret)


def variable(name: str) -> str:
    """Return the environment variable of a setting."""
    return f"RECEIVER_{name.upper()}"


def read(fields: Iterable[Field[Any]], environ: Mapping[str, str]) -> dict[str, Any]:
    """Return the values of the fields whose variables are set and not empty. Raises
    SettingError."""
    found: dict[str, Any] = {}
    for one in fields:
        raw = environ.get(variable(one.name), "").strip()
        if raw:
            found[one.name] = _value(one.name, one.type, raw, one.metadata)
    return found


def split_secrets(text: str) -> tuple[str, ...]:
    """Secrets separated by commas or line ends, without the empty ones."""
    return tuple(part.strip() for part in re.split(r"[,\r\n]", text) if part.strip())


def _value(name: str, kind: Any, raw: str, metadata: Mapping[str, Any]) -> Any:
    if kind in (int, float):
        return _number(name, kind, raw, metadata)
    return split_secrets(raw) if name in _LISTS else raw


def _number(name: str, kind: type[int | float], raw: str, metadata: Mapping[str, Any]) -> float:
    least, most = metadata["least"], metadata["most"]
    try:
        number = kind(raw)
    except ValueError:
        whole = "a whole number" if kind is int else "a number"
        raise SettingError(f"{variable(name)} must be {whole}, not {raw!r}") from None
    if not least <= number <= most:
        raise SettingError(f"{variable(name)} must be from {least:g} to {most:g}, not {raw}")
    return number

"""Profiles of a config file: where a service is, and the key to use there, under a name. A table
`[dispatcher.NAME]` or `[receiver.NAME]` holds what the variables of that half's clients would,
their names in lower case and without what they begin with:

    [dispatcher.production]
    url = "https://postback.example.com"
    api_key_file = "/home/me/.postback-key"
    tenant = "acme"

A profile that is asked for by its name is used in the place of what the environment says of these;
the one called `default`, where there is one, where that says neither where the service is nor with
which key. So no key is ever sent to a service that it was not set beside.
"""

import difflib
import os
import stat
import tomllib
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any, Final

from receiver.base.settings import (
    FILE,
    Environ,
    SettingError,
    environment,
    read_file,
)

CONFIG: Final = "POSTBACK_CONFIG"
"""The variable that names the config file, where it is another."""
DEFAULT: Final = "default"
_BYTES_MAX: Final = 256 * 1024


def with_profile(
    prefix: str,
    names: Collection[str],
    profile: str | None = None,
    environ: Environ | None = None,
) -> Environ:
    """Return the environment with what a profile says: the one called `profile`, else the one that
    the prefix's `PROFILE` names, else the default. `names` are those of the settings that it may
    hold, of which secret ones end in `key`. Raises SettingError."""
    environ = environment(environ)
    named = profile or environ.get(f"{prefix}PROFILE", "").strip() or None
    path = _path(environ)
    if path is None or (named is None and not path.is_file()):
        return environ
    if named is None and any(_is_set(one, environ) for one in _variables(prefix, names)):
        return environ
    half = prefix.rstrip("_").lower()
    tables = _tables(path, half)
    if named is not None and named not in tables:
        raise SettingError(f"there is no profile {named!r} in {path}{_near(named, tables)}")
    values = _values(path, f"{half}.{named or DEFAULT}", tables.get(named or DEFAULT, {}), names)
    found = {f"{prefix}{name.upper()}": value for name, value in values.items()}
    gone = {*_variables(prefix, names), *found, *map(_other, found)}
    return {key: value for key, value in environ.items() if key not in gone} | found


def _variables(prefix: str, names: Collection[str]) -> set[str]:
    """Return the variables that say where a service is, and with which key."""
    own = {name for name in names if name == "url" or name.endswith("key")} | {"admin_key"}
    variables = {f"{prefix}{name.upper()}" for name in own}
    return variables | set(map(_other, variables))


def _path(environ: Environ) -> Path | None:
    given = environ.get(CONFIG, "").strip()
    if given:
        return Path(given)
    folder = environ.get("XDG_CONFIG_HOME", "").strip()
    home = environ.get("HOME", "").strip()
    if not folder and not home:
        return None
    return (Path(folder) if folder else Path(home) / ".config") / "postback" / "config.toml"


def _tables(path: Path, half: str) -> Mapping[str, Any]:
    text = read_file(CONFIG, str(path), bytes_max=_BYTES_MAX)
    try:
        tables = tomllib.loads(text).get(half, {})
    except tomllib.TOMLDecodeError as error:
        raise SettingError(f"{path}: {error}") from None
    if not isinstance(tables, dict) or not all(isinstance(one, dict) for one in tables.values()):
        raise SettingError(f"{path}: a profile is a table such as [{half}.production]")
    return tables


def _values(
    path: Path, table: str, given: Mapping[str, Any], names: Collection[str]
) -> dict[str, str]:
    known = {*names, *(f"{name}{FILE.lower()}" for name in names)}
    for name, value in given.items():
        if name not in known:
            there = ", ".join(sorted(names))
            raise SettingError(
                f"{path}: [{table}] has no {name!r}{_near(name, known)}; there are {there}, each "
                "also as a file's path with _file behind its name"
            )
        if not isinstance(value, str) or not value:
            raise SettingError(f"{path}: {name} in [{table}] must be a text")
        if name.endswith("key") and _is_open(path):
            raise SettingError(
                f"{path} holds a key and others can read it: chmod 600 it, or name a file with "
                f"{name}{FILE.lower()}"
            )
    return dict(given)


def _is_open(path: Path) -> bool:
    """Whether others than its owner can read a file."""
    return bool(os.stat(path).st_mode & (stat.S_IRGRP | stat.S_IROTH))


def _is_set(key: str, environ: Environ) -> bool:
    return bool(environ.get(key, "").strip())


def _other(key: str) -> str:
    """Return the other variable that can hold the same."""
    return key.removesuffix(FILE) if key.endswith(FILE) else f"{key}{FILE}"


def _near(name: str, names: Collection[str]) -> str:
    near = difflib.get_close_matches(name, names, n=1)
    return f"; did you mean {near[0]!r}?" if near else ""

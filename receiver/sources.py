"""All sources: the one of the settings, and those of a TOML file, one `[[source]]` table each."""

import tomllib
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path
from typing import Any, Final

from receiver.base.settings import SettingError
from receiver.settings import OWN_PATHS, PATH, SECRETS, Settings
from receiver.source import CHOICES, Source

_OWN_BELOW: Final = ("/inbox/", "/expected/")
FILE_BYTES_MAX: Final = 1024 * 1024
_FIELDS: Final[dict[str, type | tuple[type, ...]]] = {
    "path": str,
    "secrets": list,
    "url_token": str,
    "dialect": str,
    "require": str,
    "reruns": str,
    "signature_header": str,
    "tolerance": (int, float),
}


def all_sources(settings: Settings) -> dict[str, Source]:
    """Return all sources by path: the one of the settings and those of RECEIVER_SOURCES_FILE.
    Raises SettingError, also when there is none."""
    sources: dict[str, Source] = {}
    if settings.secrets or settings.url_token is not None:
        sources[settings.path] = settings.main_source()
    if settings.sources_file is not None:
        for source in _read(Path(settings.sources_file), settings):
            if source.path in sources:
                raise SettingError(f"RECEIVER_SOURCES_FILE: {source.path} is there twice")
            sources[source.path] = source
    if not sources:
        raise SettingError.of_missing(SECRETS, "give at least one signing secret")
    return sources


def by_path(sources: Iterable[Source]) -> dict[str, Source]:
    """Return sources that a program has made by their paths. Raises SettingError where two have
    one, or one has a path of ours."""
    found: dict[str, Source] = {}
    for source in sources:
        if source.path in found:
            raise SettingError(f"there are two sources for {source.path}: give each its own path")
        if source.path in OWN_PATHS or source.path.startswith(_OWN_BELOW):
            raise SettingError(f"{source.path} is a path of the receiver's own")
        found[source.path] = source
    return found


def _read(file: Path, settings: Settings) -> list[Source]:
    try:
        with file.open("rb") as opened:
            document = tomllib.loads(opened.read(FILE_BYTES_MAX).decode("utf-8"))
    except OSError as error:
        raise SettingError(f"RECEIVER_SOURCES_FILE: cannot read {file}: {error.strerror}") from None
    except ValueError:  # the parser's message may quote a line with a secret in it
        raise SettingError(f"RECEIVER_SOURCES_FILE: {file} is not TOML in UTF-8") from None
    tables = document.get("source")
    if set(document) != {"source"} or not isinstance(tables, list):
        raise SettingError("RECEIVER_SOURCES_FILE holds [[source]] tables and nothing else")
    return [_source(table, n, settings) for n, table in enumerate(tables, start=1)]


def _source(table: dict[str, Any], n: int, settings: Settings) -> Source:
    where = f"RECEIVER_SOURCES_FILE: source {n}"
    for name, value in table.items():
        if name not in _FIELDS:
            raise SettingError(f"{where}: {name} is none of: {', '.join(_FIELDS)}")
        if not isinstance(value, _FIELDS[name]) or isinstance(value, bool):
            raise SettingError(f"{where}: {name} has the wrong type")
        if value not in CHOICES.get(name, (value,)):
            raise SettingError(f"{where}: {name} must be one of: {', '.join(CHOICES[name])}")
    path = table.get("path", "")
    if not PATH.fullmatch(path) or path in OWN_PATHS:
        raise SettingError(f"{where}: path must be a path such as /webhooks")
    secrets = tuple(table.get("secrets", ()))
    if not all(isinstance(secret, str) for secret in secrets):
        raise SettingError(f"{where}: secrets must be a list of strings")
    own: dict[str, Any] = {"url_token": None, **table, "secrets": secrets}
    own["tolerance"] = float(table.get("tolerance", settings.tolerance))
    try:
        return replace(settings, **own).main_source()
    except SettingError as error:
        raise SettingError(f"{where}: {error}") from None

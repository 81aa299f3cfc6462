"""What settings must be beyond their numbers' bounds, alone and together. No secret is ever
quoted: the messages count them instead."""

import os
import re
from typing import TYPE_CHECKING, Final

from receiver.base.db.url import DatabaseURLError, check_url, is_postgres, sqlite_path
from receiver.base.settings import SettingError, variable
from receiver.signature import SECRET_PREFIX, SECRETS_MAX, v1_key
from receiver.source import RERUNS
from receiver.verification.identity import DIALECTS

if TYPE_CHECKING:
    from receiver.settings import Settings

PATH: Final = re.compile(r"/[A-Za-z0-9._~/-]{0,200}")
OWN_PATHS: Final = ("/healthz", "/readyz", "/metrics", "/inbox", "/expected")
_HEADER_NAME: Final = re.compile(r"[A-Za-z0-9!#$%&'*+.^_`|~-]{1,100}")
_CHOICES: Final = {
    "require": ("any", "sha256", "standard"),
    "dialect": DIALECTS,
    "reruns": RERUNS,
    "log_format": ("auto", "json", "text"),
    "log_level": ("debug", "info", "warning", "error"),
}


def check(settings: "Settings") -> None:
    """Raise SettingError."""
    _check_choices(settings)
    _check_secrets(settings)
    _check_databases(settings)
    if settings.keep_messages < settings.keep_bodies:
        raise SettingError("RECEIVER_KEEP_MESSAGES must be at least RECEIVER_KEEP_BODIES")
    if not PATH.fullmatch(settings.path) or settings.path in OWN_PATHS:
        raise SettingError(f"RECEIVER_PATH must be a path such as /webhooks, not {settings.path!r}")
    if not _HEADER_NAME.fullmatch(settings.signature_header):
        raise SettingError(
            f"RECEIVER_SIGNATURE_HEADER must be a header's name, not {settings.signature_header!r}"
        )
    if settings.in_flight_bytes_max < settings.body_bytes_max:
        raise SettingError("RECEIVER_IN_FLIGHT_BYTES_MAX must be at least RECEIVER_BODY_BYTES_MAX")


def database_path(url: str, name: str = "database_url") -> str:
    """Return the file of a `sqlite:///` URL (a fourth slash makes it absolute). Raises
    SettingError."""
    try:
        return sqlite_path(url)
    except DatabaseURLError as error:
        raise SettingError(f"{variable(name)} {error}") from None


def _check_databases(settings: "Settings") -> None:
    """Effects may lie in the inbox's PostgreSQL, where it has a schema of its own; an inbox's
    file is locked by us."""
    urls = {"database_url": settings.database_url}
    if settings.effects_url is not None:
        urls["effects_url"] = settings.effects_url
    for name, url in urls.items():
        try:
            check_url(url)
        except DatabaseURLError as error:
            raise SettingError(f"{variable(name)} {error}") from None
    files = [os.path.realpath(sqlite_path(url)) for url in urls.values() if not is_postgres(url)]
    if len(set(files)) < len(files):
        raise SettingError("RECEIVER_EFFECTS_URL is the inbox's own file: give yours")


def _check_choices(settings: "Settings") -> None:
    for name, allowed in _CHOICES.items():
        value = getattr(settings, name)
        if value not in allowed:
            choices = f"{', '.join(allowed[:-1])} or {allowed[-1]}"
            raise SettingError(f"{variable(name)} must be {choices}, not {value!r}")


def _check_secrets(settings: "Settings") -> None:
    if len(settings.secrets) > SECRETS_MAX:
        raise SettingError(f"RECEIVER_SECRETS takes at most {SECRETS_MAX} secrets")
    for n, secret in enumerate(settings.secrets, start=1):
        if not secret.removeprefix(SECRET_PREFIX).strip() or not secret.isprintable():
            raise SettingError(f"RECEIVER_SECRETS: secret {n} is empty or not printable text")
        if settings.require == "standard" and not _is_v1(secret):
            raise SettingError(
                f"RECEIVER_SECRETS: secret {n} is not whsec_ and base64, "
                "as RECEIVER_REQUIRE=standard needs"
            )


def _is_v1(secret: str) -> bool:
    try:
        v1_key(secret)
    except ValueError:
        return False
    return True

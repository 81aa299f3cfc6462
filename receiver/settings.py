"""Every setting: its environment variable, its default and the reason for it. The one place that
reads the environment."""

import os
import re
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from typing import Any, Final, Literal

from receiver.identity import DIALECTS
from receiver.signature import SECRET_PREFIX, SECRETS_MAX, TOLERANCE_S, v1_key
from receiver.source import RERUNS, Source

_KIB: Final = 1024
_MIB: Final = 1024 * _KIB
_CHOICES: Final = {
    "require": ("any", "sha256", "standard"),
    "dialect": DIALECTS,
    "reruns": RERUNS,
    "log_format": ("auto", "json", "text"),
    "log_level": ("debug", "info", "warning", "error"),
}
_HEADER_NAME: Final = re.compile(r"[A-Za-z0-9!#$%&'*+.^_`|~-]{1,100}")
PATH: Final = re.compile(r"/[A-Za-z0-9._~/-]{0,200}")
OWN_PATHS: Final = ("/healthz", "/readyz", "/metrics", "/inbox", "/expected")
_HOUR_S: Final = 3_600.0
_DAY_S: Final = 24 * _HOUR_S


class SettingError(Exception):
    """A setting that cannot be used: its message names the variable and what it takes."""


def _setting(
    default: Any,
    about: str,
    *,
    unit: str = "",
    least: float = 0,
    most: float = 1e15,
    secret: bool = False,
) -> Any:
    metadata = {"about": about, "unit": unit, "least": least, "most": most, "secret": secret}
    return field(default=default, metadata=metadata, repr=not secret)


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """The service's settings; field ``x_y`` is the variable ``RECEIVER_X_Y``."""

    secrets: tuple[str, ...] = _setting(
        (),
        "comma-separated signing secrets; a message signed with any of them is let in",
        secret=True,
    )
    database_url: str = _setting("sqlite:///receiver.db", "the inbox: a file of this process alone")
    host: str = _setting("127.0.0.1", "address to listen on; loopback until you decide otherwise")
    port: int = _setting(8700, "port to listen on; 0 takes a free one", most=65_535)
    path: str = _setting(
        "/webhooks", "path that messages are posted to; it also names their source"
    )
    require: Literal["any", "sha256", "standard"] = _setting(
        "any", "`any` scheme, `sha256`, or `standard` for freshness and a signed id in all messages"
    )
    dialect: Literal["auto", "tensorone", "runpod", "cerebrium"] = _setting(
        "auto", "whose messages: `tensorone`, `runpod`, `cerebrium`, or `auto`: told by their form"
    )
    reruns: Literal["first", "latest"] = _setting(
        "first", "which end of a job counts that is run again under its id: `first` or `latest`"
    )
    url_token: str | None = _setting(
        None,
        "lets in what carries it as `?token=` in the URL, for platforms that sign nothing; where "
        "secrets are set as well, both must hold",
        secret=True,
    )
    sources_file: str | None = _setting(
        None, "TOML file with further ways in, each a `[[source]]` of its own path"
    )
    effects_url: str | None = _setting(
        None, "your own database, for handlers that take `(event, tx)`: `sqlite:///FILE`"
    )
    credentials: tuple[str, ...] = _setting(
        (),
        "comma-separated `name@host=token`: what status URLs are asked with, by name, and the one "
        "host that gets to see it",
        secret=True,
    )
    admin_key: str | None = _setting(
        None,
        "opens the admin routes to who sends it as a Bearer token; unset: they are off",
        secret=True,
    )
    signature_header: str = _setting("X-Webhook-Signature", "name of the `sha256=` header")
    log_format: str = _setting("auto", "`json`, `text`, or `auto`: text on a terminal")
    log_level: str = _setting("info", "`debug`, `info`, `warning` or `error`")

    body_bytes_max: int = _setting(
        1 * _MIB,
        "largest body: the dispatcher's largest payload",
        unit="bytes",
        least=1,
        most=64 * _MIB,
    )
    in_flight_bytes_max: int = _setting(
        64 * _MIB,
        "most body bytes in memory at once; more are answered 503",
        unit="bytes",
        least=1,
        most=16 * 1024 * _MIB,
    )
    headers_max: int = _setting(
        100, "most headers of one request, as Apache and Go's peers allow", least=10, most=1_000
    )
    header_bytes_max: int = _setting(
        16 * _KIB,
        "most bytes of all headers of one request, twice a common proxy's line limit",
        unit="bytes",
        least=1 * _KIB,
        most=1 * _MIB,
    )
    json_depth_max: int = _setting(
        64,
        "deepest nesting of a body; real results stay under 20",
        unit="levels",
        least=1,
        most=900,
    )
    tolerance: float = _setting(
        float(TOLERANCE_S),
        "how far a signed timestamp may lie from now, to either side",
        unit="s",
        least=1,
        most=86_400,
    )
    request_timeout: float = _setting(
        10.0,
        "longest that headers, and then a body, may take to arrive: no dripping holds a connection",
        unit="s",
        least=0.1,
        most=3_600,
    )
    keep_alive: float = _setting(
        75.0,
        "how long an idle connection is kept: longer than senders pool theirs",
        unit="s",
        most=3_600,
    )
    connections_max: int = _setting(
        1_000, "most client connections at once; more are answered 503", least=2, most=1_000_000
    )
    commit_rows_max: int = _setting(
        256,
        "most messages in one commit: bounds how long a commit keeps its callers waiting",
        least=1,
        most=100_000,
    )
    lock_timeout: float = _setting(
        1.0, "how long a write waits for another program's lock on the file", unit="s", most=60
    )
    read_timeout: float = _setting(
        5.0,
        "longest a listing may read: a longer one would pin the write-ahead log",
        unit="s",
        least=0.05,
        most=600,
    )
    retry_after: float = _setting(
        5.0,
        "when senders are asked to come back while the inbox is down",
        unit="s",
        least=1,
        most=3_600,
    )
    handler_concurrency: int = _setting(
        8, "most handlers at work at once; each may be a thread", least=1, most=1_000
    )
    handler_timeout: float = _setting(
        60.0,
        "longest one attempt may take: twice a slow call to another service",
        unit="s",
        least=0.01,
        most=_DAY_S,
    )
    handler_attempts: int = _setting(
        10,
        "attempts before a message is dead; with the waits below some two hours",
        least=1,
        most=100,
    )
    handler_retry_base: float = _setting(
        1.0,
        "wait before the second attempt; each further one is 3 times longer",
        unit="s",
        most=_DAY_S,
    )
    handler_retry_cap: float = _setting(
        _HOUR_S, "longest wait between two attempts", unit="s", most=7 * _DAY_S
    )
    ask_base: float = _setting(
        15.0,
        "first wait before a job that is not done is asked for again; then twice as long",
        unit="s",
        least=0.01,
        most=_DAY_S,
    )
    ask_cap: float = _setting(
        900.0, "longest wait between two questions", unit="s", least=0.01, most=_DAY_S
    )
    ask_timeout: float = _setting(
        10.0, "longest that a status URL may take to answer", unit="s", least=0.01, most=600
    )
    lost_after: float = _setting(
        _DAY_S,
        "how long a status URL may fail, without one answer, until its job is given up as lost",
        unit="s",
        least=0.01,
        most=90 * _DAY_S,
    )
    keep_bodies: float = _setting(
        30 * _DAY_S, "how long a body is kept that is done with", unit="s", most=3650 * _DAY_S
    )
    keep_messages: float = _setting(
        90 * _DAY_S,
        "how long a copy is known as one: longer than any sender retries or replays",
        unit="s",
        most=3650 * _DAY_S,
    )
    drain_grace: float = _setting(
        20.0,
        "how long a stopping process finishes its requests; under the usual 30 s to SIGKILL",
        unit="s",
        most=3_600,
    )

    def __post_init__(self) -> None:
        _check_choices(self)
        _check_secrets(self)
        database_path(self.database_url)
        if self.effects_url is not None:
            effects = database_path(self.effects_url, "effects_url")
            if os.path.realpath(effects) == os.path.realpath(database_path(self.database_url)):
                raise SettingError("RECEIVER_EFFECTS_URL is the inbox's own file: give yours")
        if self.keep_messages < self.keep_bodies:
            raise SettingError("RECEIVER_KEEP_MESSAGES must be at least RECEIVER_KEEP_BODIES")
        if not PATH.fullmatch(self.path) or self.path in OWN_PATHS:
            raise SettingError(f"RECEIVER_PATH must be a path such as /webhooks, not {self.path!r}")
        if not _HEADER_NAME.fullmatch(self.signature_header):
            raise SettingError(
                f"RECEIVER_SIGNATURE_HEADER must be a header's name, not {self.signature_header!r}"
            )
        if self.secrets or self.url_token is not None:
            self.main_source()
        if self.in_flight_bytes_max < self.body_bytes_max:
            raise SettingError(
                "RECEIVER_IN_FLIGHT_BYTES_MAX must be at least RECEIVER_BODY_BYTES_MAX"
            )

    def main_source(self) -> Source:
        """The way in that the settings themselves describe. Raises SettingError."""
        try:
            return Source(
                path=self.path,
                secrets=self.secrets,
                url_token=self.url_token,
                dialect=self.dialect,
                require=self.require,
                reruns=self.reruns,
                signature_header=self.signature_header,
                tolerance_s=self.tolerance,
                depth_max=self.json_depth_max,
            )
        except ValueError as error:
            raise SettingError(f"RECEIVER_URL_TOKEN, {error}") from None


@dataclass(frozen=True, slots=True, kw_only=True)
class ClientSettings:
    """Where the commands find the running service."""

    url: str
    admin_key: str | None = field(repr=False)


def variable(name: str) -> str:
    """The environment variable of a setting."""
    return f"RECEIVER_{name.upper()}"


def load(environ: Mapping[str, str] | None = None) -> Settings:
    """The settings that the environment asks for. Raises SettingError."""
    environ = os.environ if environ is None else environ
    found: dict[str, Any] = {}
    for setting in fields(Settings):
        raw = environ.get(variable(setting.name), "").strip()
        if raw:
            found[setting.name] = _read(setting.name, setting.type, raw, setting.metadata)
    return Settings(**found)


def load_secrets(environ: Mapping[str, str] | None = None) -> tuple[str, ...]:
    """The signing secrets alone, for the commands that need no service."""
    environ = os.environ if environ is None else environ
    return split_secrets(environ.get("RECEIVER_SECRETS", ""))


def load_client(environ: Mapping[str, str] | None = None) -> ClientSettings:
    """Where the service is (``RECEIVER_URL``, else host and port) and the key to use there."""
    environ = os.environ if environ is None else environ
    url = environ.get("RECEIVER_URL", "").strip()
    settings = load({**environ, "RECEIVER_SECRETS": ""})
    if not url:
        host = "127.0.0.1" if settings.host in ("0.0.0.0", "::") else settings.host  # noqa: S104 - compared, not bound
        url = f"http://{f'[{host}]' if ':' in host else host}:{settings.port}"
    return ClientSettings(url=url.rstrip("/"), admin_key=settings.admin_key)


def split_secrets(text: str) -> tuple[str, ...]:
    """Secrets separated by commas or line ends, without the empty ones."""
    return tuple(part.strip() for part in re.split(r"[,\r\n]", text) if part.strip())


def database_path(url: str, name: str = "database_url") -> str:
    """The file of a ``sqlite:///`` URL (a fourth slash makes it absolute). Raises SettingError."""
    path = url.removeprefix("sqlite:///")
    if path == url or not path or path.startswith(":") or "?" in path or "\0" in path:
        raise SettingError(
            f"{variable(name)} must be sqlite:///FILE (sqlite:////FILE for an absolute path)"
        )
    return path


def _read(name: str, kind: Any, raw: str, metadata: Mapping[str, Any]) -> Any:
    if kind in (int, float):
        return _number(name, kind, raw, metadata)
    return split_secrets(raw) if name in ("secrets", "credentials") else raw


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


def _check_choices(settings: Settings) -> None:
    for name, allowed in _CHOICES.items():
        value = getattr(settings, name)
        if value not in allowed:
            choices = f"{', '.join(allowed[:-1])} or {allowed[-1]}"
            raise SettingError(f"{variable(name)} must be {choices}, not {value!r}")


def _check_secrets(settings: Settings) -> None:
    """No secret is ever shown: the messages count them instead."""
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

"""Every setting: its environment variable, its default and the reason for it. The one place that
reads the environment."""

import os
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from typing import Final, Literal

from receiver.base.settings import SettingError, read, setting, split_secrets, variable
from receiver.checks import OWN_PATHS, PATH, check, database_path
from receiver.signature import TOLERANCE_S
from receiver.source import Source

__all__ = [
    "OWN_PATHS",
    "PATH",
    "ClientSettings",
    "SettingError",
    "Settings",
    "database_path",
    "load",
    "load_client",
    "load_secrets",
    "split_secrets",
    "variable",
]

_KIB: Final = 1024
_MIB: Final = 1024 * _KIB
_HOUR_S: Final = 3_600.0
_DAY_S: Final = 24 * _HOUR_S


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """The service's settings; field `x_y` is the variable `RECEIVER_X_Y`."""

    secrets: tuple[str, ...] = setting(
        (),
        "comma-separated signing secrets; a message signed with any of them is let in",
        secret=True,
    )
    database_url: str = setting(
        "sqlite:///receiver.db",
        "the inbox: a file of this process alone, or `postgresql://USER:PASSWORD@HOST/DB` for "
        "several replicas",
        secret=True,
    )
    host: str = setting("127.0.0.1", "address to listen on; loopback until you decide otherwise")
    port: int = setting(8700, "port to listen on; 0 takes a free one", most=65_535)
    path: str = setting("/webhooks", "path that messages are posted to; it also names their source")
    require: Literal["any", "sha256", "standard"] = setting(
        "any", "`any` scheme, `sha256`, or `standard` for freshness and a signed id in all messages"
    )
    dialect: Literal["auto", "tensorone", "runpod", "cerebrium"] = setting(
        "auto", "whose messages: `tensorone`, `runpod`, `cerebrium`, or `auto`: told by their form"
    )
    reruns: Literal["first", "latest"] = setting(
        "first", "which end of a job counts that is run again under its id: `first` or `latest`"
    )
    url_token: str | None = setting(
        None,
        "lets in what carries it as `?token=` in the URL, for platforms that sign nothing; where "
        "secrets are set as well, both must hold",
        secret=True,
    )
    sources_file: str | None = setting(
        None, "TOML file with further ways in, each a `[[source]]` of its own path"
    )
    effects_url: str | None = setting(
        None,
        "your own database, for handlers that take `(event, tx)`: `sqlite:///FILE` or "
        "`postgresql://USER:PASSWORD@HOST/DB`",
        secret=True,
    )
    credentials: tuple[str, ...] = setting(
        (),
        "comma-separated `name@host=token`: what status URLs are asked with, by name, and the one "
        "host that gets to see it",
        secret=True,
    )
    admin_key: str | None = setting(
        None,
        "opens the admin routes to who sends it as a Bearer token; unset: they are off",
        secret=True,
    )
    signature_header: str = setting("X-Webhook-Signature", "name of the `sha256=` header")
    log_format: str = setting("auto", "`json`, `text`, or `auto`: text on a terminal")
    log_level: str = setting("info", "`debug`, `info`, `warning` or `error`")

    body_bytes_max: int = setting(
        1 * _MIB,
        "largest body: the dispatcher's largest payload",
        unit="bytes",
        least=1,
        most=64 * _MIB,
    )
    in_flight_bytes_max: int = setting(
        64 * _MIB,
        "most body bytes in memory at once; more are answered 503",
        unit="bytes",
        least=1,
        most=16 * 1024 * _MIB,
    )
    headers_max: int = setting(
        100, "most headers of one request, as Apache and Go's peers allow", least=10, most=1_000
    )
    header_bytes_max: int = setting(
        16 * _KIB,
        "most bytes of all headers of one request, twice a common proxy's line limit",
        unit="bytes",
        least=1 * _KIB,
        most=1 * _MIB,
    )
    json_depth_max: int = setting(
        64,
        "deepest nesting of a body; real results stay under 20",
        unit="levels",
        least=1,
        most=900,
    )
    tolerance: float = setting(
        float(TOLERANCE_S),
        "how far a signed timestamp may lie from now, to either side",
        unit="s",
        least=1,
        most=86_400,
    )
    request_timeout: float = setting(
        10.0,
        "longest that headers, and then a body, may take to arrive: no dripping holds a connection",
        unit="s",
        least=0.1,
        most=3_600,
    )
    keep_alive: float = setting(
        75.0,
        "how long an idle connection is kept: longer than senders pool theirs",
        unit="s",
        most=3_600,
    )
    connections_max: int = setting(
        1_000, "most client connections at once; more are answered 503", least=2, most=1_000_000
    )
    commit_rows_max: int = setting(
        256,
        "most messages in one commit: bounds how long a commit keeps its callers waiting",
        least=1,
        most=100_000,
    )
    lock_timeout: float = setting(
        1.0, "how long a write waits for another program's lock on the file", unit="s", most=60
    )
    read_timeout: float = setting(
        5.0,
        "longest a listing may read: a longer one would pin the write-ahead log",
        unit="s",
        least=0.05,
        most=600,
    )
    retry_after: float = setting(
        5.0,
        "when senders are asked to come back while the inbox is down",
        unit="s",
        least=1,
        most=3_600,
    )
    handler_concurrency: int = setting(
        8, "most handlers at work at once; each may be a thread", least=1, most=1_000
    )
    handler_timeout: float = setting(
        60.0,
        "longest one attempt may take: twice a slow call to another service",
        unit="s",
        least=0.01,
        most=_DAY_S,
    )
    handler_attempts: int = setting(
        10,
        "attempts before a message is dead; with the waits below some two hours",
        least=1,
        most=100,
    )
    handler_retry_base: float = setting(
        1.0,
        "wait before the second attempt; each further one is 3 times longer",
        unit="s",
        most=_DAY_S,
    )
    handler_retry_cap: float = setting(
        _HOUR_S, "longest wait between two attempts", unit="s", most=7 * _DAY_S
    )
    lease: float = setting(
        30.0,
        "how long a replica's claim on a message holds without word from it; then another one "
        "takes it over. Only with PostgreSQL",
        unit="s",
        least=1,
        most=3_600,
    )
    poll: float = setting(
        1.0,
        "how often a replica looks for what others left to do. Only with PostgreSQL",
        unit="s",
        least=0.01,
        most=60,
    )
    ask_base: float = setting(
        15.0,
        "first wait before a job that is not done is asked for again; then twice as long",
        unit="s",
        least=0.01,
        most=_DAY_S,
    )
    ask_cap: float = setting(
        900.0, "longest wait between two questions", unit="s", least=0.01, most=_DAY_S
    )
    ask_timeout: float = setting(
        10.0, "longest that a status URL may take to answer", unit="s", least=0.01, most=600
    )
    lost_after: float = setting(
        _DAY_S,
        "how long a status URL may fail, without one answer, until its job is given up as lost",
        unit="s",
        least=0.01,
        most=90 * _DAY_S,
    )
    keep_bodies: float = setting(
        30 * _DAY_S, "how long a body is kept that is done with", unit="s", most=3650 * _DAY_S
    )
    keep_messages: float = setting(
        90 * _DAY_S,
        "how long a copy is known as one: longer than any sender retries or replays",
        unit="s",
        most=3650 * _DAY_S,
    )
    drain_grace: float = setting(
        20.0,
        "how long a stopping process finishes its requests; under the usual 30 s to SIGKILL",
        unit="s",
        most=3_600,
    )

    def __post_init__(self) -> None:
        check(self)
        if self.secrets or self.url_token is not None:
            self.main_source()

    def main_source(self) -> Source:
        """Return the way in that the settings themselves describe. Raises SettingError."""
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


def load(environ: Mapping[str, str] | None = None) -> Settings:
    """Return the settings that the environment asks for. Raises SettingError."""
    return Settings(**read(fields(Settings), os.environ if environ is None else environ))


def load_secrets(environ: Mapping[str, str] | None = None) -> tuple[str, ...]:
    """Return the signing secrets alone, for the commands that need no service."""
    environ = os.environ if environ is None else environ
    return split_secrets(environ.get("RECEIVER_SECRETS", ""))


def load_client(environ: Mapping[str, str] | None = None) -> ClientSettings:
    """Where the service is (`RECEIVER_URL`, else host and port) and the key to use there."""
    environ = os.environ if environ is None else environ
    url = environ.get("RECEIVER_URL", "").strip()
    settings = load({**environ, "RECEIVER_SECRETS": ""})
    if not url:
        host = "127.0.0.1" if settings.host in ("0.0.0.0", "::") else settings.host  # noqa: S104 - compared, not bound
        url = f"http://{f'[{host}]' if ':' in host else host}:{settings.port}"
    return ClientSettings(url=url.rstrip("/"), admin_key=settings.admin_key)

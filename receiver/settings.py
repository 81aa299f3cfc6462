"""Every setting: its environment variable, its default and the reason for it."""

import os
import re
from dataclasses import dataclass, field, fields
from typing import Final, Literal, TypeAlias

from receiver.base import settings as base
from receiver.base.db.url import (
    DatabaseURLError,
    check_url,
    is_postgres,
    redacted,
    sqlite_path,
)
from receiver.base.keyring import KeyringError, read_keys
from receiver.base.log import LogFormat, LogLevel
from receiver.base.profiles import with_profile
from receiver.base.secrets import decoded_bytes, key_fault, secret_fault, split_secrets
from receiver.base.settings import (
    DAY_S,
    GIB,
    HOUR_S,
    KIB,
    MIB,
    Environ,
    Network,
    SettingError,
    setting,
)
from receiver.base.strays import Strays, find_strays
from receiver.signature import SECRETS_MAX, SHA256_HEADER, TOLERANCE_S, Require
from receiver.source import DEPTH_LIMIT, HEADER_NAME, TOLERANCE_MAX_S, Reruns, Source
from receiver.verification.identity import Dialect

PATH: Final = re.compile(r"/[A-Za-z0-9._~/-]{0,200}")
OWN_PATHS: Final = ("/healthz", "/readyz", "/metrics", "/inbox", "/expected")

Encryption: TypeAlias = Literal["auto", "required"]

_PREFIX: Final = "RECEIVER_"
SECRETS: Final = "RECEIVER_SECRETS"
CA_FILE: Final = f"{_PREFIX}CA_FILE"
# Cannot be judged without the secrets that it is about.
_ABOUT_SECRETS: Final = ("RECEIVER_ENCRYPTION", "RECEIVER_ENCRYPTION_FILE")


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """The service's settings; field `x_y` is the variable `RECEIVER_X_Y`."""

    secrets: tuple[str, ...] = setting(
        (),
        "comma-separated signing secrets, each of 16 characters or more; a message signed with any "
        "of them is accepted. Behind a comma beside one that is no `whsec_`, put a space",
        secret=True,
        split=split_secrets,
    )
    database_url: str = setting(
        "sqlite:///receiver.db",
        "the inbox: a file of this process alone, or `postgresql://USER:PASSWORD@HOST/DB` for "
        "several replicas",
        secret=True,
    )
    host: str = setting("127.0.0.1", "address to listen on; loopback until you decide otherwise")
    port: int = setting(8700, "port to listen on; 0 takes a free one", max=65_535)
    path: str = setting("/webhooks", "path that messages are posted to; it also names their source")
    require: Require = setting(
        "any", "`any` scheme, `sha256`, or `standard` for freshness and a signed id in all messages"
    )
    dialect: Dialect = setting(
        "auto",
        "form of messages: `tensorone`, `runpod`, `cerebrium`, or `auto`: told by their fields",
    )
    reruns: Reruns = setting(
        "first", "which end counts if a job is run again under its id: the `first` or the `latest`"
    )
    url_token: str | None = setting(
        None,
        "accepts requests with it as `?token=` in the URL, for platforms that sign nothing; if "
        "secrets are set as well, both must hold",
        secret=True,
    )
    sources_file: str | None = setting(
        None, "TOML file with further sources, each a `[[source]]` with a path of its own"
    )
    effects_url: str | None = setting(
        None,
        "your own database, for handlers that take `(event, tx)`: `sqlite:///FILE` or "
        "`postgresql://USER:PASSWORD@HOST/DB`",
        secret=True,
    )
    credentials: tuple[str, ...] = setting(
        (),
        "comma-separated `name@host=token`: tokens for status URLs, each with a name and the one "
        "host that it is sent to",
        secret=True,
    )
    ca_file: str | None = setting(
        None,
        "PEM file of authorities to trust beside the usual ones where the receiver and its "
        "commands ask: status URLs, `--forward`, a receiver behind TLS",
    )
    admin_key: str | None = setting(
        None,
        "key of the admin routes, of 16 characters or more, sent as a Bearer token; unset: they "
        "are off",
        secret=True,
    )
    trusted_proxies: tuple[Network, ...] = setting(
        (),
        "comma-separated CIDRs of the proxies in front of us: from these alone `X-Forwarded-For` "
        "says who asks, for the log and for the shares of bodies; unset: nobody's word counts",
    )
    encryption_keys: tuple[str, ...] = setting(
        (),
        "comma-separated `name:base64 of 32 bytes`: bodies are stored sealed with the first, and "
        "opened with any of them; unset: they are stored as they came",
        secret=True,
    )
    encryption: Encryption = setting(
        "auto",
        "`auto`: sealed where there are keys; `required`: without keys it does not start",
    )
    signature_header: str = setting("X-Webhook-Signature", "name of the `sha256=` header")
    log_format: LogFormat = setting("auto", "`json`, `text`, or `auto`: text on a terminal")
    log_level: LogLevel = setting("info", "`debug`, `info`, `warning` or `error`")

    body_bytes_max: int = setting(
        1 * MIB,
        "largest body: the dispatcher's largest payload",
        unit="bytes",
        min=1,
        max=64 * MIB,
    )
    in_flight_bytes_max: int = setting(
        64 * MIB,
        "most body bytes in memory at once; further requests are answered 503",
        unit="bytes",
        min=1,
        max=16 * GIB,
    )
    headers_max: int = setting(100, "most headers of one request, as in Apache", min=10, max=1_000)
    header_bytes_max: int = setting(
        96 * KIB,
        "most bytes of all headers of one request: those that the dispatcher lets a callback and a "
        "destination add, and its own",
        unit="bytes",
        min=1 * KIB,
        max=1 * MIB,
    )
    json_depth_max: int = setting(
        64,
        "deepest nesting of a body; real results stay under 20",
        unit="levels",
        min=1,
        max=DEPTH_LIMIT,
    )
    tolerance: float = setting(
        float(TOLERANCE_S),
        "how far a signed timestamp may lie from now, to either side",
        unit="s",
        min=1,
        max=TOLERANCE_MAX_S,
    )
    request_timeout: float = setting(
        10.0,
        "longest that headers, and then a body, may take: a slow sender cannot hold a connection",
        unit="s",
        min=0.1,
        max=3_600,
    )
    keep_alive: float = setting(
        75.0,
        "how long an idle connection is kept: longer than senders pool theirs",
        unit="s",
        max=3_600,
    )
    write_timeout: float = setting(
        10.0,
        "longest a response may wait for its client to read it; then the connection is cut off",
        unit="s",
        min=0.1,
        max=3_600,
    )
    connections_max: int = setting(
        1_000,
        "most client connections at once; more are answered 503 and closed as they come",
        min=2,
        max=1_000_000,
    )
    peer_share: float = setting(
        0.75,
        "largest share of the connections, and of the memory for bodies, for one client address "
        "(of IPv6: its /64) while no other has any, and less as others come; 1 where all come "
        "through one proxy (connections are always those of the socket's address)",
        min=0.01,
        max=1,
    )
    commit_rows_max: int = setting(
        256,
        "most messages in one commit: bounds how long a commit keeps its callers waiting",
        min=1,
        max=100_000,
    )
    lock_timeout: float = setting(
        1.0, "how long a write waits for another program's lock on the file", unit="s", max=60
    )
    read_timeout: float = setting(
        5.0,
        "longest a listing may read: a longer one would pin the write-ahead log",
        unit="s",
        min=0.05,
        max=600,
    )
    retry_after: float = setting(
        5.0,
        "`Retry-After` of the 503 that senders get while the inbox is down",
        unit="s",
        min=1,
        max=3_600,
    )
    handler_concurrency: int = setting(
        8, "most handlers at work at once; each may be a thread", min=1, max=1_000
    )
    handler_timeout: float = setting(
        60.0,
        "longest one attempt may take: twice a slow call to another service",
        unit="s",
        min=0.01,
        max=DAY_S,
    )
    handler_attempts: int = setting(
        10,
        "attempts before a message is dead; with the waits below some two hours",
        min=1,
        max=100,
    )
    handler_retry_base: float = setting(
        1.0,
        "wait before the second attempt; each further one is 3 times longer",
        unit="s",
        max=DAY_S,
    )
    handler_retry_cap: float = setting(
        HOUR_S, "longest wait between two attempts", unit="s", max=7 * DAY_S
    )
    lease: float = setting(
        30.0,
        "how long a replica's claim on a message lasts unless it is renewed; then another one "
        "takes it over. PostgreSQL only",
        unit="s",
        min=0.5,
        max=3_600,
    )
    poll: float = setting(
        1.0,
        "how often a replica looks for work that others left. PostgreSQL only",
        unit="s",
        min=0.01,
        max=60,
    )
    ask_base: float = setting(
        15.0,
        "first wait before asking again about a job that is not done; doubles each time",
        unit="s",
        min=0.01,
        max=DAY_S,
    )
    ask_cap: float = setting(
        900.0, "longest wait between two requests to a status URL", unit="s", min=0.01, max=DAY_S
    )
    ask_timeout: float = setting(
        10.0, "longest that a status URL may take to respond", unit="s", min=0.01, max=600
    )
    lost_after: float = setting(
        DAY_S,
        "how long a status URL may fail, without one response, until its job is given up as lost",
        unit="s",
        min=0.01,
        max=90 * DAY_S,
    )
    unclaimed: float = setting(
        DAY_S,
        "how long a message waits that no process has a handler for any more; then it is ignored",
        unit="s",
        min=1,
        max=90 * DAY_S,
    )
    keep_bodies: float = setting(
        30 * DAY_S, "how long the body of a finished message is kept", unit="s", max=3650 * DAY_S
    )
    keep_messages: float = setting(
        120 * DAY_S,
        "how long a message is remembered as seen: longer than the dispatcher tries a callback (up "
        "to 7 d) and keeps a dead one for a replay (90 d)",
        unit="s",
        max=3650 * DAY_S,
    )
    keep_dead: float = setting(
        365 * DAY_S,
        "how long a dead message waits to be replayed, and a job that never ends is asked for",
        unit="s",
        max=3650 * DAY_S,
    )
    drain_grace: float = setting(
        20.0,
        "how long a stopping process finishes its requests; under the usual 30 s to SIGKILL",
        unit="s",
        max=3_600,
    )

    def __post_init__(self) -> None:
        base.check_choices(self, _PREFIX)
        base.check_bounds(self, _PREFIX)
        _check_secrets(self.secrets, self.require)
        _check_databases(self.database_url, self.effects_url)
        fault = None if self.admin_key is None else key_fault(self.admin_key)
        if fault is not None:
            raise SettingError(f"RECEIVER_ADMIN_KEY {fault}")
        _check_encryption(self.encryption_keys, self.encryption)
        if self.keep_messages < self.keep_bodies:
            raise SettingError("RECEIVER_KEEP_MESSAGES must be at least RECEIVER_KEEP_BODIES")
        if self.keep_dead < self.keep_messages:
            raise SettingError("RECEIVER_KEEP_DEAD must be at least RECEIVER_KEEP_MESSAGES")
        if not PATH.fullmatch(self.path) or self.path in OWN_PATHS:
            raise SettingError(f"RECEIVER_PATH must be a path such as /webhooks, not {self.path!r}")
        if not HEADER_NAME.fullmatch(self.signature_header):
            raise SettingError(
                f"RECEIVER_SIGNATURE_HEADER must be a header's name, not {self.signature_header!r}"
            )
        if self.in_flight_bytes_max < self.body_bytes_max:
            raise SettingError(
                "RECEIVER_IN_FLIGHT_BYTES_MAX must be at least RECEIVER_BODY_BYTES_MAX"
            )
        if self.secrets or self.url_token is not None:
            self.main_source()

    def main_source(self) -> Source:
        """Return the source that the settings themselves describe. Raises SettingError."""
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
    ca_file: str | None = None


def variable(name: str) -> str:
    """Return the environment variable of a setting."""
    return f"{_PREFIX}{name.upper()}"


def load(environ: Environ | None = None, *, secrets: bool = True) -> Settings:
    """Return the settings that the environment asks for, without `secrets` those alone that are
    none. Raises SettingError."""
    if not secrets:  # what is required of them cannot be told then
        environ = {**base.environment(environ), **dict.fromkeys(_ABOUT_SECRETS, "")}
    return base.load(Settings, _PREFIX, environ, secrets=secrets)


def load_secrets(environ: Environ | None = None) -> tuple[str, ...]:
    """Return the signing secrets alone, for the commands that need no service. Raises
    SettingError."""
    return read_secrets(base.read(SECRETS, environ, lines=True), SECRETS)


def load_signature_header(environ: Environ | None = None) -> str:
    """Return the name of the `sha256=` header alone. Raises SettingError."""
    return base.read("RECEIVER_SIGNATURE_HEADER", environ) or SHA256_HEADER


def read_secrets(text: str, name: str) -> tuple[str, ...]:
    """Return the signing secrets of a list that `name` says whose it is. Raises SettingError."""
    try:
        secrets = split_secrets(text)
    except ValueError as error:
        raise SettingError(f"{name}: {error}") from None
    _check_secrets(secrets, "any", name)
    return secrets


def load_ca_file(environ: Environ | None = None) -> str | None:
    """Return the file of further authorities alone. Raises SettingError."""
    return base.read(CA_FILE, environ) or None


def load_client(environ: Environ | None = None, *, profile: str | None = None) -> ClientSettings:
    """Return where the service is (`RECEIVER_URL`, else host and port) and the key to use there, as
    a `profile` says where there is one. Raises SettingError."""
    environ = with_profile(_PREFIX, [one.name for one in fields(ClientSettings)], profile, environ)
    settings = load(environ, secrets=False)
    url = base.service_url(_PREFIX, environ, lambda: settings)
    key = base.read("RECEIVER_ADMIN_KEY", environ) or None
    return ClientSettings(url=url, admin_key=key, ca_file=settings.ca_file)


def strays(environ: Environ | None = None) -> Strays:
    """Return what the environment holds that looks like a setting and is none."""
    known = base.variables(_PREFIX, Settings, ClientSettings) | {f"{_PREFIX}PROFILE"}
    return find_strays(_PREFIX, known, base.environment(environ))


def not_default(settings: Settings) -> dict[str, object]:
    """Return the variables that differ from their defaults, without those that hold secrets."""
    found: dict[str, object] = {}
    for one in fields(settings):
        value = getattr(settings, one.name)
        if value != one.default and not one.metadata["secret"]:
            found[variable(one.name)] = list(map(str, value)) if isinstance(value, tuple) else value
    return found


def shown_url(url: str) -> str:
    """Return a database's URL without what is secret in it."""
    if not is_postgres(url):
        return url
    try:
        return redacted(url)
    except DatabaseURLError:
        return "postgresql://…"


def database_path(url: str, name: str = "database_url") -> str:
    """Return the file of a `sqlite:///` URL (a fourth slash makes it absolute). Raises
    SettingError."""
    try:
        return sqlite_path(url)
    except DatabaseURLError as error:
        raise SettingError(f"{variable(name)} {error}") from None


def _check_databases(database_url: str, effects_url: str | None) -> None:
    """Raise SettingError. Effects may lie in the inbox's PostgreSQL, where it has a schema of its
    own; an inbox's file is locked by us."""
    urls = {"database_url": database_url}
    if effects_url is not None:
        urls["effects_url"] = effects_url
    for name, url in urls.items():
        try:
            check_url(url)
        except DatabaseURLError as error:
            raise SettingError(f"{variable(name)} {error}") from None
    files = [os.path.realpath(sqlite_path(url)) for url in urls.values() if not is_postgres(url)]
    if len(set(files)) < len(files):
        raise SettingError("RECEIVER_EFFECTS_URL is the inbox's own file: give yours")


def _check_encryption(keys: tuple[str, ...], encryption: Encryption) -> None:
    """Raise SettingError. No key is ever quoted."""
    if not keys and encryption == "required":
        raise SettingError(
            "RECEIVER_ENCRYPTION=required needs RECEIVER_ENCRYPTION_KEYS: "
            "k2026:$(openssl rand -base64 32)"
        )
    if not keys:
        return
    if not isinstance(keys, tuple | list):  # of a text each character would be one
        raise SettingError("RECEIVER_ENCRYPTION_KEYS is a tuple of keys")
    try:
        read_keys(",".join(keys), "RECEIVER_ENCRYPTION_KEYS")
    except KeyringError as error:
        raise SettingError(str(error)) from None


def _check_secrets(secrets: tuple[str, ...], require: Require, name: str = SECRETS) -> None:
    """Raise SettingError. No secret is ever quoted: the messages count them."""
    if not isinstance(secrets, tuple | list):  # of a text each character would be one
        raise SettingError(f"{name} is a tuple of secrets")
    if len(secrets) > SECRETS_MAX:
        raise SettingError(f"{name} takes at most {SECRETS_MAX} secrets")
    for n, secret in enumerate(secrets, start=1):
        fault = secret_fault(secret)
        if fault is not None:
            raise SettingError(f"{name}: secret {n} {fault}")
        if require == "standard" and decoded_bytes(secret) is None:
            raise SettingError(
                f"{name}: secret {n} is not whsec_ and base64, as RECEIVER_REQUIRE=standard needs"
            )

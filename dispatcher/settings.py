"""Every setting: its environment variable, its default and the reason for it. The one place that
reads the environment."""

import ipaddress
import os
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from typing import Any, Final, Literal

Network = ipaddress.IPv4Network | ipaddress.IPv6Network
LogFormat = Literal["auto", "json", "text"]

_KIB: Final = 1024
_MIB: Final = 1024 * _KIB
_GIB: Final = 1024 * _MIB
_DAY: Final = 86_400.0


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
    """The service's settings; field `x_y` is the variable `DISPATCHER_X_Y`."""

    database_url: str = _setting("sqlite:///postback.db", "where callbacks are kept", secret=True)
    host: str = _setting("127.0.0.1", "address to listen on; loopback until you decide otherwise")
    port: int = _setting(8600, "port to listen on; 0 takes a free one", most=65_535)
    admin_key: str | None = _setting(
        None,
        "bootstrap platform key with all scopes; unset: made and printed at the first start",
        secret=True,
    )
    signing_secret: str | None = _setting(
        None,
        "bootstrap signing secret of the tenant `default`; unset: made at the first start",
        secret=True,
    )
    allow_networks: tuple[Network, ...] = _setting(
        (), "comma-separated CIDRs that deliveries may reach beside global addresses"
    )
    proxy_url: str | None = _setting(
        None, "egress proxy for all deliveries (http://host:port)", secret=True
    )
    signature_header: str = _setting("X-Webhook-Signature", "name of the `sha256=` header")
    log_format: LogFormat = _setting("auto", "`json`, `text`, or `auto`: text on a terminal")
    log_level: str = _setting("info", "`debug`, `info`, `warning` or `error`")

    payload_bytes_max: int = _setting(
        1 * _MIB,
        "largest payload; results beyond this belong in storage, with a link",
        unit="bytes",
        least=1,
        most=64 * _MIB,
    )
    batch_bytes_max: int = _setting(
        16 * _MIB,
        "largest batch request: it is read line by line but answered as one",
        unit="bytes",
        least=1,
        most=1 * _GIB,
    )
    batch_lines_max: int = _setting(
        10_000, "most callbacks in one batch request", unit="lines", least=1, most=1_000_000
    )
    json_depth_max: int = _setting(
        64,
        "deepest nesting of a submitted JSON document; real results stay under 20",
        unit="levels",
        least=1,
        most=900,
    )
    request_timeout: float = _setting(
        30.0,
        "longest a request's body may take to arrive: no connection is held by dripping",
        unit="s",
        least=0.1,
        most=3_600,
    )
    connections_max: int = _setting(
        4_096, "most client connections at once; more are answered 503", least=1, most=1_000_000
    )
    queue_max: int = _setting(
        5_000_000,
        "most deliveries waiting in all; beyond it submits are answered QUEUE_FULL",
        least=1,
    )
    tenant_queue_max: int = _setting(
        2_000_000,
        "most deliveries waiting for one tenant, so that one flood leaves room for all",
        least=1,
    )
    storage_bytes_max: int = _setting(
        50 * _GIB,
        "largest database; beyond it submits are answered STORAGE_LIMIT_EXCEEDED",
        unit="bytes",
        least=1 * _MIB,
    )
    storage_reserve_bytes: int = _setting(
        256 * _MIB,
        "disk space left alone, so that settling and pruning go on when submits stop",
        unit="bytes",
    )

    slots: int = _setting(
        1_024,
        "most attempts in flight in one process; each costs about 50 KiB",
        least=4,
        most=65_536,
    )
    destination_concurrency: int = _setting(
        64,
        "most attempts in flight to one destination, unless it sets its own",
        least=1,
        most=65_536,
    )
    in_flight_bytes_max: int = _setting(
        64 * _MIB,
        "most payload bytes in memory for attempts in flight",
        unit="bytes",
        least=1 * _MIB,
    )
    lease_margin: float = _setting(
        10.0,
        "how long past an attempt's timeout its lease lasts: room to record the result",
        unit="s",
        least=1,
        most=3_600,
    )
    drain_grace: float = _setting(
        20.0,
        "how long a stopping process finishes its attempts; under the usual 30 s to SIGKILL",
        unit="s",
        most=3_600,
    )
    sweep_interval: float = _setting(
        5.0,
        "how often ended leases, maximum ages and lanes are looked after",
        unit="s",
        least=0.05,
        most=3_600,
    )
    retry_after_max: float = _setting(
        86_400.0,
        "longest wait that a destination's `Retry-After` can ask for",
        unit="s",
        most=604_800,
    )

    response_bytes_max: int = _setting(
        64 * _KIB,
        "most bytes read of an answer; its code is what counts",
        unit="bytes",
        least=1,
        most=16 * _MIB,
    )
    response_header_bytes_max: int = _setting(
        16 * _KIB,
        "longest header line and field of an answer (as nginx and Apache allow)",
        unit="bytes",
        least=1 * _KIB,
        most=1 * _MIB,
    )
    excerpt_bytes_max: int = _setting(
        1 * _KIB, "most of an answer kept with its attempt", unit="bytes", most=64 * _KIB
    )
    dns_timeout: float = _setting(5.0, "longest name look-up", unit="s", least=0.1, most=60)
    dns_lookups_max: int = _setting(
        32, "name look-ups at once; hung ones hold no other back", least=1, most=1_024
    )
    dns_cache: float = _setting(30.0, "how long a looked-up address is used", unit="s", most=3_600)

    commit_rows_max: int = _setting(
        512,
        "most operations in one commit: bounds how long a commit keeps its callers waiting",
        least=1,
        most=100_000,
    )
    read_timeout: float = _setting(
        5.0,
        "longest a listing may read: a longer one would pin the write-ahead log",
        unit="s",
        least=0.05,
        most=600,
    )
    readers: int = _setting(2, "read-only connections for listings", least=1, most=64)

    keep_delivered_payload: float = _setting(
        7 * _DAY, "how long a delivered payload is kept, for replays", unit="s"
    )
    keep_delivered: float = _setting(
        30 * _DAY, "how long a delivered or cancelled callback is kept", unit="s"
    )
    keep_dead: float = _setting(
        90 * _DAY, "how long a dead callback waits for an operator, with its payload", unit="s"
    )
    keep_keys: float = _setting(
        14 * _DAY,
        "how long an idempotency key holds: twice the longest default schedule",
        unit="s",
    )
    secret_overlap: float = _setting(
        _DAY, "how long a rotated-out secret signs beside the new one", unit="s", most=30 * _DAY
    )

    def __post_init__(self) -> None:
        if self.keep_keys > min(self.keep_delivered, self.keep_dead):
            raise SettingError(
                "DISPATCHER_KEEP_KEYS must not exceed DISPATCHER_KEEP_DELIVERED or "
                "DISPATCHER_KEEP_DEAD: a key is kept with its callback"
            )
        if self.keep_delivered_payload > self.keep_delivered:
            raise SettingError(
                "DISPATCHER_KEEP_DELIVERED_PAYLOAD must not exceed DISPATCHER_KEEP_DELIVERED"
            )


@dataclass(frozen=True, slots=True, kw_only=True)
class ClientSettings:
    """Where the commands find the running service."""

    url: str
    api_key: str | None = field(repr=False)


def variable(name: str) -> str:
    """Return the environment variable of a setting."""
    return f"DISPATCHER_{name.upper()}"


def load(environ: Mapping[str, str] | None = None) -> Settings:
    """Return the settings that the environment asks for. Raises SettingError."""
    environ = os.environ if environ is None else environ
    found: dict[str, Any] = {}
    for setting in fields(Settings):
        raw = environ.get(variable(setting.name), "").strip()
        if raw:
            found[setting.name] = _read(setting.name, setting.type, raw, setting.metadata)
    return Settings(**found)


def load_client(environ: Mapping[str, str] | None = None) -> ClientSettings:
    """Where the service is (`DISPATCHER_URL`, else host and port) and the key to use there
    (`DISPATCHER_API_KEY`, else the bootstrap key of a service on this machine)."""
    environ = os.environ if environ is None else environ
    url = environ.get("DISPATCHER_URL", "").strip()
    if not url:
        settings = load(environ)
        host = "127.0.0.1" if settings.host in ("0.0.0.0", "::") else settings.host  # noqa: S104
        url = (
            f"http://[{host}]:{settings.port}" if ":" in host else f"http://{host}:{settings.port}"
        )
    key = environ.get("DISPATCHER_API_KEY") or environ.get("DISPATCHER_ADMIN_KEY")
    return ClientSettings(url=url.rstrip("/"), api_key=key or None)


def _read(name: str, kind: Any, raw: str, metadata: Mapping[str, Any]) -> Any:
    if kind in (int, float):
        return _number(name, kind, raw, metadata)
    if name == "allow_networks":
        return _networks(name, raw)
    if name == "log_format" and raw not in ("auto", "json", "text"):
        raise SettingError(f"{variable(name)} must be auto, json or text, not {raw!r}")
    if name == "log_level" and raw not in ("debug", "info", "warning", "error"):
        raise SettingError(f"{variable(name)} must be debug, info, warning or error, not {raw!r}")
    return raw


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


def _networks(name: str, raw: str) -> tuple[Network, ...]:
    try:
        return tuple(ipaddress.ip_network(part.strip()) for part in raw.split(",") if part.strip())
    except ValueError as error:
        raise SettingError(f"{variable(name)} takes CIDRs such as 10.0.0.0/8: {error}") from None

"""Every setting: its environment variable, its default and the reason for it."""

import re
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Final, Literal, TypeAlias
from urllib.parse import unquote

from receiver.base import lack
from receiver.base import settings as base
from receiver.base.lack import Need
from receiver.base.log import LogFormat, LogLevel, redact
from receiver.base.profiles import with_profile
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

Requirement: TypeAlias = Literal["optional", "required"]

_PREFIX: Final = "DISPATCHER_"
CA_FILE: Final = f"{_PREFIX}CA_FILE"
UPSTREAM_PREFIX: Final = f"{_PREFIX}UPSTREAM_"
_HOST: Final = re.compile(r"(?:[A-Za-z0-9._-]+|\[[0-9A-Fa-f:.]+\])(?::\d{1,5})?")
_PUBLIC_URL: Final = re.compile(rf"https?://{_HOST.pattern}(?:/[A-Za-z0-9._~/-]*)?")
_FILE: Final = "file:"
_DATABASE: Final = "database"
_SQLITE: Final = "sqlite:///"
_PLACE: Final = re.compile(
    r"file:.+|database|s3://[a-z0-9][a-z0-9.-]{1,61}[a-z0-9](?:/[A-Za-z0-9._=-]+)*/?"
)
# An attempt dials an old and a new kind of address at once, or leaves an idle connection behind.
_FILES_PER_SLOT: Final = 2
_FILES_PER_PLACE: Final = 1
# Streams, listener, database sessions that are being replaced, clients that are turned away; and
# 64 test callbacks, which take no slots, a file each.
_FILES_SPARE: Final = 64 + 64
_FILES_PER_READER: Final = 2  # database and log
_LOOKUPS_SHARE: Final = 8  # name look-ups have an eighth of all descriptors at most
_OTHER_CONNECTIONS: Final = 4  # to the database: writer, listener, our own readers


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """The service's settings; field `x_y` is the variable `DISPATCHER_X_Y`."""

    database_url: str = setting("sqlite:///postback.db", "where callbacks are kept", secret=True)
    host: str = setting("127.0.0.1", "address to listen on; loopback until you decide otherwise")
    port: int = setting(8600, "port to listen on; 0 takes a free one", max=65_535)
    admin_key: str | None = setting(
        None,
        "bootstrap platform key with all scopes; unset: made and printed at the first start",
        secret=True,
    )
    signing_secret: str | None = setting(
        None,
        "bootstrap signing secret of the tenant `default`, used at the first start alone; unset: "
        "made there",
        secret=True,
    )
    encryption_keys: str | None = setting(
        None,
        "keys that seal signing secrets and headers in the database: `name:base64 of 32 bytes`, "
        "comma-separated; the first seals, all open; unset: SQLite has a key file of its own, "
        "PostgreSQL none",
        secret=True,
    )
    encryption: Literal["auto", "required"] = setting(
        "auto",
        "`required`: no start without DISPATCHER_ENCRYPTION_KEYS, and no key file is made",
    )
    encrypt_payloads: Literal["off", "on"] = setting(
        "off", "whether new payloads are sealed too: some microseconds each"
    )
    allow_networks: tuple[Network, ...] = setting(
        (), "comma-separated CIDRs that deliveries may reach beside global addresses"
    )
    trusted_proxies: tuple[Network, ...] = setting(
        (),
        "comma-separated CIDRs of the proxies in front of us: from these alone `X-Forwarded-For` "
        "and `X-Forwarded-Proto` say who asks; unset: nobody's word counts",
    )
    proxy_url: str | None = setting(
        None, "egress proxy for all deliveries (http://host:port)", secret=True
    )
    ca_file: str | None = setting(
        None,
        "PEM file of authorities that deliveries, and the commands, trust beside the system's",
    )
    signature_header: str = setting("X-Webhook-Signature", "name of the `sha256=` header")
    log_format: LogFormat = setting("auto", "`json`, `text`, or `auto`: text on a terminal")
    log_level: LogLevel = setting("info", "`debug`, `info`, `warning` or `error`")
    metrics_destinations: int = setting(
        200,
        "registered destinations that have series of their own in `/metrics`, under their ids; 0 "
        "for none",
        max=5_000,
    )

    payload_bytes_max: int = setting(
        1 * MIB,
        "largest payload; results beyond this belong in storage, with a link",
        unit="bytes",
        min=1,
        max=64 * MIB,
    )
    batch_bytes_max: int = setting(
        16 * MIB,
        "largest batch request: it is held in memory while it is processed",
        unit="bytes",
        min=1,
        max=1 * GIB,
    )
    batch_lines_max: int = setting(
        10_000, "most callbacks in one batch request", unit="lines", min=1, max=1_000_000
    )
    json_depth_max: int = setting(
        64,
        "deepest nesting of a submitted JSON document; real results stay under 20",
        unit="levels",
        min=1,
        max=900,
    )
    request_timeout: float = setting(
        30.0,
        "longest a request's body may take to arrive: a slow client cannot hold a connection",
        unit="s",
        min=0.1,
        max=3_600,
    )
    write_timeout: float = setting(
        30.0,
        "longest a response may wait for its client to read it; then the connection is cut off",
        unit="s",
        min=0.1,
        max=3_600,
    )
    connections_max: int = setting(
        4_096,
        "most client connections at once; more are answered 503 and closed as they come",
        min=1,
        max=1_000_000,
    )
    peer_share: float = setting(
        0.75,
        "largest share of the connections for one client address (of IPv6: its /64) while no other "
        "has any, and less as others come; 1 where all come through one proxy, trusted or not",
        min=0.01,
        max=1,
    )
    queue_max: int = setting(
        5_000_000,
        "most deliveries waiting in all; beyond it submits are answered QUEUE_FULL",
        min=1,
    )
    tenant_queue_max: int = setting(
        2_000_000,
        "most deliveries waiting for one tenant, so that its flood leaves room for the others",
        min=1,
    )
    tenant_rate_per_second: float = setting(
        0.0,
        "most submits a second of one tenant in one process, unless it has its own; 0: as many as "
        "come",
        max=1_000_000,
    )
    tenant_jobs_running_max: int = setting(
        0,
        "most jobs of one tenant that run at once, over all endpoints and processes, unless it has "
        "its own limit; 0: as many as endpoints let run",
        max=1_000_000,
    )
    tenants_max: int = setting(
        100_000, "most tenants: each is held in memory, with its limits and counts", min=1
    )
    tenant_keys_max: int = setting(
        1_000, "most API keys of one tenant, or of the platform: each is held in memory", min=1
    )
    tenant_destinations_max: int = setting(
        10_000,
        "most destinations of one tenant, registered or servers: each has up to 16 lanes, which "
        "are looked after",
        min=1,
    )
    tenant_replays_max: int = setting(
        20, "most filtered replays of one tenant that run at once: each reads as it goes", min=1
    )
    tenant_secrets_max: int = setting(
        100,
        "most stored secrets of one tenant, or of the platform: all are held in memory once one is "
        "used",
        min=1,
        max=10_000,
    )
    secret_bytes_max: int = setting(
        4 * KIB,
        "longest stored secret: it goes out in a header, of which many servers take no more than "
        "8 KiB",
        unit="bytes",
        min=16,
        max=32 * KIB,
    )
    storage_bytes_max: int = setting(
        50 * GIB,
        "largest database; beyond it submits are answered STORAGE_LIMIT_EXCEEDED",
        unit="bytes",
        min=1 * MIB,
    )
    tenant_storage_bytes_max: int = setting(
        0,
        "most that one tenant's callbacks may take up, those that ended too, so that it leaves "
        "room for the others; 0: a quarter of DISPATCHER_STORAGE_BYTES_MAX",
        unit="bytes",
    )
    tenant_outputs_bytes_max: int = setting(
        0,
        "most that one tenant's outputs may have of that, wherever they are kept, unless it has "
        "its own limit; 0: all of it",
        unit="bytes",
    )
    storage_reserve_bytes: int = setting(
        256 * MIB,
        "disk space kept free, so that settling and pruning continue when submits stop",
        unit="bytes",
    )

    slots: int = setting(
        1_024,
        "most attempts in flight in one process; each costs about 50 KiB",
        min=4,
        max=65_536,
    )
    destination_concurrency: int = setting(
        64,
        "most attempts in flight to one destination, unless it sets its own",
        min=1,
        max=65_536,
    )
    in_flight_bytes_max: int = setting(
        64 * MIB,
        "most payload bytes in memory for attempts in flight, three quarters for one tenant",
        unit="bytes",
        min=1 * MIB,
    )
    lease_margin: float = setting(
        10.0,
        "how long past an attempt's timeout its lease lasts: room to record the result",
        unit="s",
        min=1,
        max=3_600,
    )
    drain_grace: float = setting(
        20.0,
        "how long a stopping process finishes its attempts; under the usual 30 s to SIGKILL",
        unit="s",
        max=3_600,
    )
    sweep_interval: float = setting(
        5.0,
        "how often expired leases, maximum ages and lanes are checked",
        unit="s",
        min=0.05,
        max=3_600,
    )
    retry_after_max: float = setting(
        86_400.0,
        "longest wait that a destination's `Retry-After` can cause",
        unit="s",
        max=604_800,
    )

    response_bytes_max: int = setting(
        64 * KIB,
        "most bytes read of a response; its status is what counts",
        unit="bytes",
        min=1,
        max=16 * MIB,
    )
    response_header_bytes_max: int = setting(
        16 * KIB,
        "longest header line and field of a response (as nginx and Apache allow)",
        unit="bytes",
        min=1 * KIB,
        max=1 * MIB,
    )
    excerpt_bytes_max: int = setting(
        1 * KIB, "most of a response kept with its attempt", unit="bytes", max=64 * KIB
    )
    dns_timeout: float = setting(5.0, "longest DNS look-up", unit="s", min=0.1, max=60)
    dns_lookups_max: int = setting(
        128,
        "DNS look-ups at once, a thread each, hung ones too; tenants and their domains share them",
        min=1,
        max=1_024,
    )
    dns_cache: float = setting(30.0, "how long a looked-up address is used", unit="s", max=3_600)
    dns_stale: float = setting(
        3_600.0,
        "how long it is used beyond that while looking it up again hangs or fails",
        unit="s",
        max=604_800,
    )

    commit_rows_max: int = setting(
        512,
        "most operations in one commit: bounds how long a commit keeps its callers waiting",
        min=1,
        max=100_000,
    )
    commit_waiting_max: int = setting(
        8_192,
        "most operations of one tenant that wait to be committed; more are answered 503",
        min=1,
        max=1_000_000,
    )
    read_timeout: float = setting(
        5.0,
        "longest a listing may read: a longer one would pin the write-ahead log",
        unit="s",
        min=0.05,
        max=600,
    )
    readers: int = setting(
        2,
        "read-only connections for listings, of which one tenant has at most half; the service's "
        "own reads have two more",
        min=1,
        max=64,
    )

    keep_delivered_payload: float = setting(
        7 * DAY_S, "how long a delivered payload is kept, for replays", unit="s"
    )
    keep_delivered: float = setting(
        30 * DAY_S, "how long a delivered or cancelled callback is kept", unit="s"
    )
    keep_dead: float = setting(
        90 * DAY_S, "how long a dead callback waits for an operator, with its payload", unit="s"
    )
    keep_keys: float = setting(
        14 * DAY_S,
        "how long an idempotency key holds: twice the longest default schedule",
        unit="s",
    )
    keep_audit: float = setting(
        400 * DAY_S,
        "how long an entry of the audit trail is kept, of erased tenants too: a year and a month",
        unit="s",
    )
    tenant_audit_max: int = setting(
        1_000_000,
        "most entries of the audit trail of one tenant, some 300 bytes each; beyond it the oldest "
        "go before their time (the log has them)",
        min=1_000,
    )
    reveal_reason: Requirement = setting(
        "optional",
        "`required`: a signing secret is revealed for a reason alone (header `Postback-Reason`)",
    )
    replay_reason_above: int = setting(
        0,
        "filtered replays of more callbacks than this are made for a reason alone (header "
        "`Postback-Reason`); 0: none has to be",
        max=10_000,
    )
    secret_overlap: float = setting(
        DAY_S,
        "how long the previous secret signs, or a key's previous text is good, beside the new one "
        "after a rotation",
        unit="s",
        max=30 * DAY_S,
    )

    job_places: int = setting(
        2_500,
        "most upstream calls of jobs that one process has open at once, of which one endpoint "
        "leaves a sixteenth for others; each may last for hours, and costs about 25 KiB and its "
        "input",
        min=1,
        max=65_536,
    )
    job_bytes_max: int = setting(
        256 * MIB,
        "most bytes of inputs in memory for the jobs that one process runs",
        unit="bytes",
        min=1 * MIB,
    )
    job_lease: float = setting(
        60.0,
        "for how long the other processes on a database must have seen no beat of one before they "
        "take its jobs over; it beats twelve times as often, and starts nothing new after three "
        "quarters of it without one",
        unit="s",
        min=15,
        max=3_600,
    )
    job_drain: float = setting(
        30.0,
        "how long a stopping process lets the jobs go on that it runs, before callbacks have "
        "DISPATCHER_DRAIN_GRACE; hours make sense where other processes work on",
        unit="s",
        max=12 * HOUR_S,
    )
    waiters_max: int = setting(
        0,
        "most requests that may wait for the end of a job, a quarter of them for one tenant; more "
        "are answered at once with its present state; 0: half of DISPATCHER_CONNECTIONS_MAX",
        max=1_000_000,
    )
    input_bytes_max: int = setting(
        64 * MIB,
        "largest input of a job, whatever its endpoint takes; what is sent as it is, and is not "
        "checked against a schema, is never in memory whole",
        unit="bytes",
        min=1 * MIB,
        max=256 * GIB,
    )
    callback_inline: int = setting(
        256 * KIB,
        "largest output that the callback of a job carries itself; never more than "
        "DISPATCHER_PAYLOAD_BYTES_MAX",
        unit="bytes",
        max=64 * MIB,
    )
    outputs: str | None = setting(
        None,
        "where long outputs and inputs are kept: `file:` and a folder, `database`, or "
        "`s3://bucket/prefix`; unset: a folder beside a SQLite file, or the PostgreSQL database",
    )
    outputs_database_max: int = setting(
        100 * MIB,
        "largest output that the database keeps, where that is where they are kept, whatever "
        "endpoints allow: its log takes all of it, too",
        unit="bytes",
        min=1 * MIB,
    )
    s3_endpoint: str | None = setting(
        None, "URL of the S3 server; unset: Amazon's own, or what the AWS variables say"
    )
    s3_region: str | None = setting(
        None, "region of the bucket; unset: what the AWS variables say, else us-east-1"
    )
    s3_access_key_id: str | None = setting(
        None, "name of the key for S3; unset: what the AWS variables or the machine's role say"
    )
    s3_secret_access_key: str | None = setting(None, "the key for S3 of that name", secret=True)
    upgrade_url: str | None = setting(
        None, "where a customer gets more room, as `upgradeUrl` of STORAGE_LIMIT_EXCEEDED"
    )
    upstream_networks: tuple[Network, ...] = setting(
        (),
        "comma-separated CIDRs that upstreams of jobs may be in, and no others; unset: global, "
        "private and loopback addresses. Never a cloud's metadata service",
    )
    upstream_secrets: str | None = setting(
        None,
        "folder of the files that `file:` values of endpoints may name, those of DISPATCHER_APPLY "
        "alone; `env:` values name variables that begin with `DISPATCHER_UPSTREAM_`",
    )
    apply: str | None = setting(
        None, "file with endpoints, applied at each start; the API leaves these alone"
    )
    public_url: str | None = setting(
        None,
        "where others reach us, for links that are stored or sent; unset: `http://` and the "
        "address that is listened on",
    )
    upstream_callback_url: str | None = setting(
        None,
        "where upstreams reach us to tell of progress and completion, if that is elsewhere than "
        "DISPATCHER_PUBLIC_URL",
    )
    hosts: tuple[str, ...] = setting(
        (),
        "comma-separated hosts, with ports where they have one, that a request may name as its "
        "`Host` to have it in links of its answer; others get DISPATCHER_PUBLIC_URL",
    )

    def __post_init__(self) -> None:
        base.check_choices(self, _PREFIX)
        base.check_bounds(self, _PREFIX)
        if self.keep_keys > min(self.keep_delivered, self.keep_dead):
            raise SettingError(
                "DISPATCHER_KEEP_KEYS must not exceed DISPATCHER_KEEP_DELIVERED or "
                "DISPATCHER_KEEP_DEAD: a key is kept with its callback"
            )
        if self.keep_delivered_payload > self.keep_delivered:
            raise SettingError(
                "DISPATCHER_KEEP_DELIVERED_PAYLOAD must not exceed DISPATCHER_KEEP_DELIVERED"
            )
        if self.outputs is not None and not _PLACE.fullmatch(self.outputs):
            raise SettingError(
                "DISPATCHER_OUTPUTS takes file:/a/folder, database or s3://bucket/prefix, not "
                f"{redact(self.outputs)!r}"
            )
        if self.public_url is not None:
            _check_public_url("DISPATCHER_PUBLIC_URL", self.public_url)
        if self.upstream_callback_url is not None:
            _check_public_url("DISPATCHER_UPSTREAM_CALLBACK_URL", self.upstream_callback_url)
        if not all(map(_HOST.fullmatch, self.hosts)):
            raise SettingError(
                "DISPATCHER_HOSTS takes hosts such as api.example.com, 10.0.0.1:8600 or [::1], "
                "with commas between them"
            )

    @property
    def body_read_s(self) -> float:
        """How long an answer's body is read that is not there with its head: for its excerpt, and
        well within the lease."""
        return min(1.0, self.lease_margin / 2)

    @property
    def inline_max(self) -> int:
        """How many bytes of an output the callback of a job carries itself."""
        return min(self.callback_inline, self.payload_bytes_max)

    @property
    def outputs_storage(self) -> str:
        """Where long outputs and inputs are kept, as their rows name it."""
        place = self.outputs
        if place is None:
            if not self.database_url.startswith(_SQLITE):
                return _DATABASE
            place = f"{_FILE}{unquote(self.database_url.removeprefix(_SQLITE))}-outputs"
        if place.startswith(_FILE):
            return f"{_FILE}{Path(place.removeprefix(_FILE)).absolute()}"
        return place.rstrip("/")

    @property
    def held_requests_max(self) -> int:
        """How many requests may wait for the end of a job."""
        return self.waiters_max or max(1, self.connections_max // 2)


@dataclass(frozen=True, slots=True, kw_only=True)
class ClientSettings:
    """Where the commands find the running service."""

    url: str
    api_key: str | None = field(repr=False)
    ca_file: str | None = None
    tenant: str | None = None


def files_needed(settings: Settings) -> int:
    """Return how many files a process with these settings may have open at once."""
    needed = _files_spare(settings) + settings.dns_lookups_max
    return needed + sum(need.files for need in _needs(settings))


def within_files(settings: Settings, limit: int, *, is_told: bool = False) -> Settings:
    """Return the settings with as many slots, connections, places of jobs and look-ups as `limit`
    has descriptors for: they are ours to bound, since a lack of them would fail deliveries (D21).
    """
    needs = _needs(settings)
    lookups = Need(setting="DISPATCHER_DNS_LOOKUPS_MAX", count=settings.dns_lookups_max)
    lookups_max = lookups.within(limit // _LOOKUPS_SHARE)
    files = max(0, limit - _files_spare(settings) - lookups_max)
    fitting = lack.fit(*needs, files=files)
    if is_told:
        told = zip((*needs, lookups), (*fitting, lookups_max), strict=True)
        lack.tell_of(told, limit=limit)
    slots_max, connections_max, places_max = fitting
    return replace(
        settings,
        slots=slots_max,
        connections_max=connections_max,
        job_places=places_max,
        dns_lookups_max=lookups_max,
    )


def _needs(settings: Settings) -> tuple[Need, Need, Need]:
    return (
        Need(setting="DISPATCHER_SLOTS", count=settings.slots, each=_FILES_PER_SLOT),
        Need(setting="DISPATCHER_CONNECTIONS_MAX", count=settings.connections_max),
        Need(setting="DISPATCHER_JOB_PLACES", count=settings.job_places, each=_FILES_PER_PLACE),
    )


def _files_spare(settings: Settings) -> int:
    return _FILES_SPARE + _FILES_PER_READER * (settings.readers + _OTHER_CONNECTIONS)


def listening_url(settings: Settings) -> str:
    """Return where the service is found on this machine, by its host and port."""
    return base.listening_url(settings.host, settings.port)


def variable(name: str) -> str:
    """Return the environment variable of a setting."""
    return f"{_PREFIX}{name.upper()}"


def not_default(settings: Settings) -> dict[str, object]:
    """Return the variables that differ from their defaults, without those that hold secrets."""
    found: dict[str, object] = {}
    for one in fields(settings):
        value = getattr(settings, one.name)
        if value != one.default and not one.metadata["secret"]:
            found[variable(one.name)] = list(map(str, value)) if isinstance(value, tuple) else value
    return found


def secrets_set(settings: Settings) -> list[str]:
    """Return the variables that hold secrets and are set, without what they hold."""
    held = (one for one in fields(settings) if one.metadata["secret"])
    return [variable(one.name) for one in held if getattr(settings, one.name) != one.default]


def load(environ: Environ | None = None, *, secrets: bool = True) -> Settings:
    """Return the settings that the environment asks for, without `secrets` those alone that are
    none. Raises SettingError."""
    return base.load(Settings, _PREFIX, environ, secrets=secrets)


def load_client(environ: Environ | None = None, *, profile: str | None = None) -> ClientSettings:
    """Return where the service is (`DISPATCHER_URL`, else host and port) and the key to use there
    (`DISPATCHER_API_KEY`, else the bootstrap key of a service on this machine), as a `profile` says
    where there is one. Raises SettingError."""
    environ = with_profile(_PREFIX, [one.name for one in fields(ClientSettings)], profile, environ)
    url = base.service_url(_PREFIX, environ, lambda: load(environ, secrets=False))
    key = base.read("DISPATCHER_API_KEY", environ) or base.read("DISPATCHER_ADMIN_KEY", environ)
    ca_file = base.read(CA_FILE, environ) or None
    tenant = base.read("DISPATCHER_TENANT", environ) or None
    return ClientSettings(url=url, api_key=key or None, ca_file=ca_file, tenant=tenant)


def upstream_value(name: str, environ: Environ | None = None) -> str:
    """Return the value of an `env:` of an endpoint of our own file: a variable that begins with
    `DISPATCHER_UPSTREAM_` and is no setting, or the file that its `_FILE` names. Raises
    SettingError, which never shows the value."""
    if not name.startswith(UPSTREAM_PREFIX) or name in _known():
        raise SettingError(f"env:{name}: only names that begin with {UPSTREAM_PREFIX} are read")
    value = base.read(name, environ)
    if not value:
        raise SettingError(f"env:{name}: this variable is not set")
    return value


def strays(environ: Environ | None = None) -> Strays:
    """Return what the environment holds that looks like a setting and is none. Values of upstreams
    have names that others choose."""
    given = base.environment(environ)
    upstreams = frozenset(name for name in given if name.startswith(UPSTREAM_PREFIX))
    return find_strays(_PREFIX, _known() | upstreams, given)


def _known() -> frozenset[str]:
    return base.variables(_PREFIX, Settings, ClientSettings) | {f"{_PREFIX}PROFILE"}


def _check_public_url(name: str, url: str) -> None:
    if not _PUBLIC_URL.fullmatch(url):
        raise SettingError(
            f"{name} takes http:// or https:// with a host, and a path where there "
            f"is one, not {redact(url)!r}"
        )

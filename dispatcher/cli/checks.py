"""The doctor's checks of settings, machine and service: each from what is there to what to say."""

import os
import resource
import time
from email.utils import parsedate_to_datetime
from pathlib import Path
from typing import Final

import httpx

from dispatcher.access import secret_fault
from dispatcher.cli.checks_database import database, sqlite_version
from dispatcher.cli.finding import Check
from dispatcher.cli.output import size
from dispatcher.settings import ClientSettings, Settings
from dispatcher.store import is_postgres
from dispatcher.store.errors import CannotStart
from dispatcher.store.sqlite import file

_CLOCK_FLOOR_S: Final = 1_767_225_600.0  # 2026-01-01: no clock that is right shows less
_SKEW_S_MAX: Final = 30.0  # receivers refuse five minutes; half a minute is worth a word
_FILES_SPARE: Final = 256  # database, log, listener, name look-ups
_ADMIN_KEY_CHARS: Final = 24  # what a made key has at least
_TIMEOUT_S: Final = 3.0
_TWICE: Final = 2


def run_all(settings: Settings, service: ClientSettings) -> list[Check]:
    """Every check, in the order in which one would mend things. Changes nothing."""
    return [
        *_stored(settings),
        files(settings, resource.getrlimit(resource.RLIMIT_NOFILE)[0]),
        clock(time.time()),
        signing_secret(settings),
        admin_key(settings),
        egress(settings),
        *running(service),
    ]


def _stored(settings: Settings) -> list[Check]:
    """Return the database, whichever it is."""
    if is_postgres(settings.database_url):
        from dispatcher.cli.checks_postgres import postgres

        return list(postgres(settings))
    return [*database(settings), sqlite_version(), disk(settings)]


def disk(settings: Settings) -> Check:
    """Whether submits have room."""
    try:
        folder = file.path_of(settings.database_url).absolute().parent
        found = os.statvfs(folder)
    except (CannotStart, OSError) as error:
        return Check(name="disk", state="bad", message=f"cannot be measured: {error}")
    free, reserve = found.f_bavail * found.f_frsize, settings.storage_reserve_bytes
    return disk_room(free, reserve, folder)


def disk_room(free_bytes: int, reserve_bytes: int, folder: Path) -> Check:
    """Return what so much free space means beside the reserve."""
    message = f"{size(free_bytes)} free in {folder}, of which {size(reserve_bytes)} are kept back"
    if free_bytes <= reserve_bytes:
        advice = "submits are answered 507 until there is room: free some, or move the database"
        return Check(name="disk", state="bad", message=message, advice=advice)
    if free_bytes <= _TWICE * reserve_bytes:
        advice = "soon submits will be answered 507: free some, or move the database"
        return Check(name="disk", state="warn", message=message, advice=advice)
    return Check(name="disk", state="ok", message=message)


def files(settings: Settings, limit: int) -> Check:
    """Whether the process may open as many sockets as it has slots and clients."""
    needed = settings.slots + settings.connections_max + _FILES_SPARE
    if limit == resource.RLIM_INFINITY or limit >= needed:
        shown = "unlimited" if limit == resource.RLIM_INFINITY else f"{limit:,}"
        return Check(name="open files", state="ok", message=f"{shown}, up to {needed:,} needed")
    return Check(
        name="open files",
        state="bad" if limit < settings.slots + _FILES_SPARE else "warn",
        message=f"the limit of {limit:,} is below the {needed:,} that all slots and clients need",
        advice=f"start it under `ulimit -n {needed}` (systemd: LimitNOFILE={needed}), or lower "
        "DISPATCHER_SLOTS and DISPATCHER_CONNECTIONS_MAX",
    )


def clock(now_s: float) -> Check:
    """Whether the clock can be right: signatures carry its time."""
    shown = time.strftime("%Y-%m-%d %H:%M:%SZ", time.gmtime(now_s))
    if now_s >= _CLOCK_FLOOR_S:
        return Check(name="clock", state="ok", message=shown)
    advice = "receivers refuse signatures with a wrong time: set the clock, run NTP"
    return Check(name="clock", state="bad", message=f"{shown} cannot be", advice=advice)


def signing_secret(settings: Settings) -> Check:
    """Return the bootstrap signing secret, never its value."""
    value = settings.signing_secret
    if value is None:
        return Check(
            name="secret",
            state="ok",
            message="made at the first start (DISPATCHER_SIGNING_SECRET is not set)",
            advice="`dispatcher secrets` shows it once, for the receiver",
        )
    fault = secret_fault(value)
    if fault is not None:
        message = f"DISPATCHER_SIGNING_SECRET {fault}"
        advice = "unset it, and one is made at the first start"
        return Check(name="secret", state="bad", message=message, advice=advice)
    return Check(name="secret", state="ok", message="DISPATCHER_SIGNING_SECRET is well formed")


def admin_key(settings: Settings) -> Check:
    """Return the bootstrap platform key, never its value."""
    value = settings.admin_key
    if value is None:
        message = "the first start made one and printed it (DISPATCHER_ADMIN_KEY is not set)"
        return Check(name="admin key", state="ok", message=message)
    if len(value) < _ADMIN_KEY_CHARS:
        return Check(
            name="admin key",
            state="warn",
            message=f"DISPATCHER_ADMIN_KEY is only {len(value)} characters long",
            advice="it opens everything: use 32 random characters or more",
        )
    return Check(name="admin key", state="ok", message="DISPATCHER_ADMIN_KEY is set")


def egress(settings: Settings) -> Check:
    """Return what deliveries may reach."""
    via = f", through the proxy {_without_user(settings.proxy_url)}" if settings.proxy_url else ""
    opened = settings.allow_networks
    if not opened:
        return Check(name="egress", state="ok", message=f"only global addresses{via}")
    everything = [network for network in opened if network.prefixlen == 0]
    message = f"global addresses and {', '.join(map(str, opened))}{via}"
    if everything:
        advice = "any tenant can reach your own network: open only what you need"
        return Check(name="egress", state="bad", message=message, advice=advice)
    advice = "every tenant can reach these: right in development and private deployments only"
    return Check(name="egress", state="warn", message=message, advice=advice)


def _without_user(url: str) -> str:
    return url.rpartition("@")[2]


def running(service: ClientSettings) -> list[Check]:
    """Return the running service, its readiness and its clock."""
    try:
        with httpx.Client(timeout=_TIMEOUT_S, trust_env=False) as http:
            answer = http.get(f"{service.url}/readyz")
    except (httpx.HTTPError, httpx.InvalidURL) as error:
        message = f"nothing answers at {service.url} ({error or type(error).__name__})"
        advice = "if it should run, start it with: dispatcher serve"
        return [Check(name="service", state="warn", message=message, advice=advice)]
    return [_readiness(service.url, answer), *_skew(answer, time.time())]


def _readiness(url: str, answer: httpx.Response) -> Check:
    try:
        fields = answer.json()
        status, reason = fields["status"], fields.get("reason", "")
    except (ValueError, KeyError, TypeError, AttributeError):
        message = f"what answers at {url} is not a dispatcher (HTTP {answer.status_code})"
        advice = "set DISPATCHER_URL to where the dispatcher is"
        return Check(name="service", state="bad", message=message, advice=advice)
    if answer.status_code == httpx.codes.OK:
        return Check(name="service", state="ok", message=f"{status} at {url}")
    message = f"{status} at {url}: {reason}"
    advice = "its log says more; it recovers by itself once the cause is gone"
    return Check(name="service", state="bad", message=message, advice=advice)


def _skew(answer: httpx.Response, now_s: float) -> list[Check]:
    try:
        skew_s = abs(parsedate_to_datetime(answer.headers["date"]).timestamp() - now_s)
    except (KeyError, ValueError):
        return []
    if skew_s <= _SKEW_S_MAX:
        return []
    message = f"the service's clock and this one differ by {skew_s:.0f} s"
    advice = "receivers refuse signatures five minutes off: run NTP on both"
    return [Check(name="clocks", state="warn", message=message, advice=advice)]

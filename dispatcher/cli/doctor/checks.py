"""The doctor's checks of settings, machine and service: each from what is there to what to say."""

import os
import time
from collections.abc import Iterator
from dataclasses import replace
from email.utils import parsedate_to_datetime
from pathlib import Path
from typing import Final

import httpx

from dispatcher.access import secret_fault
from dispatcher.cli.doctor.asking import Started
from dispatcher.gateway.apply import ApplyError, read_own
from dispatcher.settings import (
    CA_FILE,
    ClientSettings,
    Settings,
    files_needed,
    listening_url,
    variable,
    within_files,
)
from dispatcher.store.errors import CannotStart
from dispatcher.store.sqlite.database import path_of
from receiver.base import tls
from receiver.base.checkup import Check, bad, ok, warn
from receiver.base.cli import size
from receiver.base.lack import UNLIMITED
from receiver.base.settings import SettingError

_CLOCK_FLOOR_S: Final = 1_767_225_600.0  # 2026-01-01: no clock that is right shows less
_SKEW_S_MAX: Final = 30.0  # receivers refuse five minutes; half a minute is worth a word
_ADMIN_KEY_CHARS: Final = 24  # what a made key has at least
_TIMEOUT_S: Final = 3.0
_TWICE: Final = 2


def disk(settings: Settings) -> Check:
    """Whether submits have room."""
    try:
        folder = path_of(settings.database_url).absolute().parent
        found = os.statvfs(folder)
    except (CannotStart, OSError) as error:
        return bad("disk", f"cannot be measured: {error}")
    free, reserve = found.f_bavail * found.f_frsize, settings.storage_reserve_bytes
    return disk_room(free, reserve, folder)


def disk_room(free_bytes: int, reserve_bytes: int, folder: Path) -> Check:
    """Return what so much free space means beside the reserve."""
    message = f"{size(free_bytes)} free in {folder}, of which {size(reserve_bytes)} are kept back"
    if free_bytes <= reserve_bytes:
        advice = "submits are answered 507 until there is room: free some, or move the database"
        return bad("disk", message, advice)
    if free_bytes <= _TWICE * reserve_bytes:
        advice = "soon submits will be answered 507: free some, or move the database"
        return warn("disk", message, advice)
    return ok("disk", message)


def files(settings: Settings, limit: int) -> Check:
    """Whether the process may open as many files as its slots and clients need: `limit` is the
    hard one, to which `serve` raises the soft one itself."""
    needed, fitting = files_needed(settings), within_files(settings, limit)
    if limit >= needed:
        shown = "unlimited" if limit >= UNLIMITED else f"{limit:,}"
        return ok("open files", f"{shown}, up to {needed:,} needed")
    message = (
        f"the limit of {limit:,} is below the {needed:,} that all slots, clients and jobs need: "
        f"`serve` goes on with {fitting.slots:,} slots, {fitting.connections_max:,} connections "
        f"and {fitting.job_places:,} places of jobs"
    )
    advice = (
        f"start it under `ulimit -n {needed}` (systemd: LimitNOFILE={needed}), or lower "
        "DISPATCHER_SLOTS, DISPATCHER_CONNECTIONS_MAX and DISPATCHER_JOB_PLACES"
    )
    alone = within_files(replace(settings, connections_max=1, job_places=1), limit)
    judge = bad if alone.slots < settings.slots else warn
    return judge("open files", message, advice)


def endpoints(settings: Settings) -> Iterator[Check]:
    """Yield whether the file of endpoints, if there is one, can be put in force."""
    if settings.apply is None:
        return
    try:
        found = read_own(settings.apply, variable("apply"), settings.upstream_secrets)
    except ApplyError as error:
        yield bad("endpoints", str(error), "the service does not start with this file: correct it")
    else:
        yield ok("endpoints", f"{len(found):,} in {settings.apply}")


def links(settings: Settings, *, has_endpoints: bool, started: Started | None = None) -> Check:
    """Return what links begin with that are stored or sent; whether jobs can need any other is
    told by `has_endpoints`."""
    hosts = f"; in answers, by request, with {', '.join(settings.hosts)}" if settings.hosts else ""
    if settings.public_url is not None:
        return ok("links", f"begin with {settings.public_url}{hosts}")
    message = (
        f"begin with {listening_url(settings)}, since DISPATCHER_PUBLIC_URL is not set "
        f"{_where(started)}{hosts}"
    )
    advice = "set it to where customers reach us: callbacks tell by a link where long outputs are"
    if has_endpoints or settings.apply is not None:
        return warn("links", message, advice)
    return ok("links", message)


def clock(now_s: float) -> Check:
    """Whether the clock can be right: signatures carry its time."""
    shown = time.strftime("%Y-%m-%d %H:%M:%SZ", time.gmtime(now_s))
    if now_s >= _CLOCK_FLOOR_S:
        return ok("clock", shown)
    advice = "receivers refuse signatures with a wrong time: set the clock, run NTP"
    return bad("clock", f"{shown} cannot be", advice=advice)


def _where(started: Started | None) -> str:
    """Return whose settings are told."""
    return "in this shell" if started is None else "for the running service"


def signing_secret(settings: Settings, started: Started | None = None) -> Check:
    """Return the bootstrap signing secret, never its value."""
    if started is not None and not started.has("signing_secret"):
        message = (
            "DISPATCHER_SIGNING_SECRET is not set for the running service: it has made its own"
        )
        return ok("secret", message, "`dispatcher secrets` lists them")
    if started is not None and settings.signing_secret is None:
        return ok("secret", "DISPATCHER_SIGNING_SECRET is set for the running service")
    value = settings.signing_secret
    if value is None:
        return ok(
            "secret",
            "DISPATCHER_SIGNING_SECRET is not set in this shell: the first start makes one",
            "`dispatcher secrets` shows it, for the receiver",
        )
    fault = secret_fault(value)
    if fault is not None:
        message = f"DISPATCHER_SIGNING_SECRET {fault}"
        advice = "unset it, and one is made at the first start"
        return bad("secret", message, advice)
    return ok("secret", "DISPATCHER_SIGNING_SECRET is well formed")


def admin_key(settings: Settings, started: Started | None = None) -> Check:
    """Return the bootstrap platform key, never its value."""
    if started is not None and not started.has("admin_key"):
        message = "DISPATCHER_ADMIN_KEY is not set for the running service: its keys are its own"
        return ok("admin key", message, "`dispatcher keys list` lists them")
    if started is not None and settings.admin_key is None:
        return ok("admin key", "DISPATCHER_ADMIN_KEY is set for the running service")
    value = settings.admin_key
    if value is None:
        message = "DISPATCHER_ADMIN_KEY is not set in this shell: the first start makes a key"
        return ok("admin key", message)
    if len(value) < _ADMIN_KEY_CHARS:
        message = f"DISPATCHER_ADMIN_KEY is only {len(value)} characters long"
        advice = "it opens everything: use 32 random characters or more"
        return warn("admin key", message, advice)
    return ok("admin key", "DISPATCHER_ADMIN_KEY is set")


def egress(settings: Settings, started: Started | None = None) -> Check:
    """Return what deliveries may reach."""
    via = f", through the proxy {_without_user(settings.proxy_url)}" if settings.proxy_url else ""
    if started is not None and started.has("proxy_url"):
        via = ", through the proxy of DISPATCHER_PROXY_URL"
    opened = settings.allow_networks
    if not opened:
        return ok("egress", f"only global addresses, as set {_where(started)}{via}")
    everything = [network for network in opened if network.prefixlen == 0]
    message = f"global addresses and {', '.join(map(str, opened))}, as set {_where(started)}{via}"
    if everything:
        advice = "any tenant can reach your own network: open only what you need"
        return bad("egress", message, advice)
    advice = "every tenant can reach these: right in development and private deployments only"
    return warn("egress", message, advice)


def _without_user(url: str) -> str:
    return url.rpartition("@")[2]


def authorities(settings: Settings) -> Iterator[Check]:
    """Yield whether the file of further authorities can be used; nothing without one."""
    if settings.ca_file is None:
        return
    try:
        stats = tls.system(CA_FILE, settings.ca_file).cert_store_stats()
    except SettingError as error:
        yield bad("authorities", str(error), "give certificates in PEM, or unset it")
    else:
        yield ok("authorities", f"{stats['x509_ca']} with those of {settings.ca_file}")


def running(service: ClientSettings) -> list[Check]:
    """Return the running service, its readiness and its clock."""
    try:
        whom = tls.trusted(CA_FILE, service.ca_file) if service.url.startswith("https:") else True
        with httpx.Client(timeout=_TIMEOUT_S, trust_env=False, verify=whom) as http:
            response = http.get(f"{service.url}/readyz")
    except SettingError as error:
        return [bad("service", f"{service.url} cannot be asked: {error}")]
    except (httpx.HTTPError, httpx.InvalidURL) as error:
        message = f"nothing answers at {service.url} ({error or type(error).__name__})"
        advice = "if it should run, start it with: dispatcher serve"
        return [warn("service", message, advice)]
    return [_readiness(service.url, response), *_skew(response, time.time())]


def _readiness(url: str, response: httpx.Response) -> Check:
    try:
        fields = response.json()
        status, reason = fields["status"], fields.get("reason", "")
    except (ValueError, KeyError, TypeError, AttributeError):
        message = f"what answers at {url} is not a dispatcher (HTTP {response.status_code})"
        advice = "set DISPATCHER_URL to where the dispatcher is"
        return bad("service", message, advice)
    if response.status_code == httpx.codes.OK and status == "ready":
        return ok("service", f"{status} at {url}")
    if status != "unready":
        message = f"what answers at {url} is not a dispatcher: it says {status!r}"
        return bad("service", message, "set DISPATCHER_URL to where the dispatcher is")
    message = f"{status} at {url}: {reason}"
    advice = "its log says more; it recovers by itself once the cause is gone"
    return bad("service", message, advice)


def _skew(response: httpx.Response, now_s: float) -> list[Check]:
    try:
        skew_s = abs(parsedate_to_datetime(response.headers["date"]).timestamp() - now_s)
    except (KeyError, ValueError):
        return []
    if skew_s <= _SKEW_S_MAX:
        return []
    message = f"the service's clock and this one differ by {skew_s:.0f} s"
    advice = "receivers refuse signatures five minutes off: run NTP on both"
    return [warn("clocks", message, advice)]

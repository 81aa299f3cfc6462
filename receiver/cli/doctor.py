"""`receiver doctor`: is everything as it should be, and if not, what to do."""

import time
from collections.abc import Iterator
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from pathlib import Path
from typing import Any, Final

import typer

from receiver import client
from receiver.base import checkup
from receiver.base.checkup import Check, bad, ok, warn
from receiver.base.db.url import is_postgres
from receiver.base.options import command
from receiver.base.secrets import is_weak
from receiver.base.settings import SettingError
from receiver.cli.common import PrintingDep, Service, ServiceDep
from receiver.client import ClientError
from receiver.settings import Settings, database_path, load, shown_url, strays

app = typer.Typer()

_CLOCK_FLOOR_S: Final = 1_767_225_600.0  # 2026-01-01: no clock that is right shows less
_SKEW_S_MAX: Final = 30.0  # five minutes are refused; half a minute is worth a word
_UNAUTHORIZED: Final = 401
_LOOPBACK: Final = ("127.0.0.1", "::1", "localhost")
_STATS: Final[dict[str, Any]] = {"messages": {"pending": int, "dead": int, "ignored": int}}
_SERVICE: Final[dict[str, Any]] = {
    "version": str,
    "database": str,
    "secrets": int,
    "settings": dict,
}


@command(app, "doctor", "receiver doctor", "receiver doctor --url https://hooks.example.com --json")
def doctor_command(service: ServiceDep, how: PrintingDep) -> None:
    """Check secrets, database, clock, exposure and the running receiver, and say what to do. With
    the admin key the receiver itself is asked how it was started. Exits with 1 if anything is
    wrong; it changes nothing."""
    checkup.report(list(run_all(service)), how)


def run_all(service: Service) -> Iterator[Check]:
    """Yield every check, in the order in which one would repair things. Changes nothing."""
    try:
        settings = load()
    except SettingError as error:
        yield bad("settings", str(error), strays().hint(str(error)))
        settings = None
    yield from checkup.variables(strays())
    yield clock(time.time())
    asked = _asked(service)
    if settings is not None:
        yield from secrets(settings, asked)
        yield from databases(settings)
        yield exposure(settings, asked)
    if asked is not None:
        yield from _compared(settings, asked)
    yield from _running(service)


def clock(now_s: float) -> Check:
    """Whether the clock can be right: signatures carry its time."""
    shown = datetime.fromtimestamp(now_s, UTC).strftime("%Y-%m-%d %H:%M:%SZ")
    if now_s >= _CLOCK_FLOOR_S:
        return ok("clock", shown)
    return bad("clock", f"{shown} cannot be", "signatures are refused by it: set it, run NTP")


def secrets(settings: Settings, asked: dict[str, Any] | None) -> Iterator[Check]:
    """Yield whether there are secrets, and whether they are strong; never what they are."""
    count = len(settings.secrets)
    if not count:
        if asked is not None and asked["secrets"]:
            yield ok("secrets", f"{asked['secrets']} in the running receiver, none in this shell")
            return
        advice = "set RECEIVER_SECRETS to what the platform gave you"
        yield bad("secrets", "RECEIVER_SECRETS is not set in this shell", advice)
        return
    weak = sum(map(is_weak, settings.secrets))
    if weak:
        advice = "have the platform rotate: whsec_ and the base64 of 24 bytes or more"
        yield warn("secrets", f"{weak} of {count} are weak", advice)
    else:
        yield ok("secrets", f"{count}, well formed")


def databases(settings: Settings) -> Iterator[Check]:
    """Yield where the inbox is, and the customer's own database where handlers take `tx`."""
    for name, url in (("inbox", settings.database_url), ("effects", settings.effects_url)):
        if url is None:
            yield ok(name, "RECEIVER_EFFECTS_URL is not set: handlers that take `tx` cannot run")
            continue
        if is_postgres(url):
            yield ok(name, shown_url(url))
            continue
        path = Path(database_path(url)).absolute()
        if path.exists():
            yield ok(name, str(path))
        elif name == "inbox":
            there = path.parent.is_dir()
            made = "it is made at the first start" if there else f"{path.parent} is no folder"
            yield ok(name, f"{path}: {made}") if there else bad(name, f"{path}: {made}")
        else:
            yield bad(name, f"{path} is not there", "RECEIVER_EFFECTS_URL names your own database")


def exposure(settings: Settings, asked: dict[str, Any] | None) -> Check:
    """Whether the admin routes can be reached from elsewhere."""
    given = {} if asked is None else asked["settings"]
    host = given.get("RECEIVER_HOST", settings.host if asked is None else _LOOPBACK[0])
    if settings.admin_key is None:
        return ok("admin routes", "off in this shell: RECEIVER_ADMIN_KEY is not set")
    if host in _LOOPBACK:
        return ok("admin routes", f"on, for this machine alone ({host})")
    return warn(
        "admin routes",
        f"on, and reachable wherever {host} is",
        "let a proxy pass the path of your webhooks alone, or leave RECEIVER_ADMIN_KEY unset",
    )


def _asked(service: Service) -> dict[str, Any] | None:
    """Return what the running receiver says of itself; None where it does not answer, or not to
    this key."""
    if service.settings.admin_key is None:
        return None
    try:
        return client.ask(service.settings, "/inbox/service", shape=_SERVICE)
    except ClientError:
        return None


def _compared(settings: Settings | None, asked: dict[str, Any]) -> Iterator[Check]:
    yield ok("asked", f"the running receiver, version {asked['version']}")
    own = None if settings is None else shown_url(settings.database_url)
    if own is not None and asked["database"] != own:
        yield warn(
            "asked",
            f"its inbox is {asked['database']}; this shell names {own}",
            "set RECEIVER_DATABASE_URL here as it is there, if you mean the same",
        )


def _running(service: Service) -> Iterator[Check]:
    """Yield whether it answers, has the time, refuses what is not signed, and what waits."""
    url = service.settings.url
    try:
        status, body, headers = client.get(service.settings, "/readyz")
    except (ClientError, SettingError) as error:
        yield warn("service", str(error), "if it should run, start it with: receiver serve")
        return
    if b'"status"' not in body:
        message = f"what answers at {url} is no receiver (HTTP {status})"
        yield bad("service", message, "set RECEIVER_URL to where the receiver is")
        return
    if status != 200:
        yield bad("service", f"not ready at {url}: {body[:200].decode(errors='replace')}")
    else:
        yield ok("service", f"ready at {url}")
    yield from _skew(headers.get("date"), time.time())
    yield _path(service)
    if service.settings.admin_key is not None:
        yield _inbox(service)


def _skew(date: str | None, now_s: float) -> Iterator[Check]:
    try:
        skew_s = abs(parsedate_to_datetime(date or "").timestamp() - now_s)
    except ValueError:
        return
    if skew_s > _SKEW_S_MAX:
        message = f"the receiver's clock and this one differ by {skew_s:.0f} s"
        yield warn("clocks", message, "signatures five minutes off are refused: run NTP on both")


def _path(service: Service) -> Check:
    """Whether messages are taken where they are posted to: one without a signature is refused."""
    target = service.settings.url + load(secrets=False).path
    try:
        status, _ = client.post(target, b"{}", {}, service.settings.ca_file)
    except (ClientError, SettingError) as error:
        return bad("path", str(error))
    if status == _UNAUTHORIZED:
        return ok("path", f"{target} refuses what is not signed")
    advice = "is RECEIVER_PATH the one that it was started with?"
    return bad("path", f"{target} answers {status} to what is not signed", advice)


def _inbox(service: Service) -> Check:
    try:
        counts = client.ask(service.settings, "/inbox/stats", shape=_STATS)["messages"]
    except ClientError as error:
        return warn("messages", str(error), "the commands of `receiver inbox` need the same key")
    message = f"{counts['pending']:,} wait, {counts['dead']:,} are dead"
    if not counts["dead"]:
        return ok("messages", message)
    advice = "see why: receiver inbox list --state dead; then: receiver inbox replay --dead"
    return warn("messages", message, advice)

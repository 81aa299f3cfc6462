"""The doctor's checks of the database: what the store found, and what to say about it."""

from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Final, Literal

from dispatcher.key_keeper import EXPIRES_SOON_MS
from dispatcher.settings import Settings
from dispatcher.store.access import CurrentSecrets, EndingKey
from dispatcher.store.database import OWN_READERS, Dialect, ServerState, migrations
from dispatcher.store.errors import KEYS_SETTING, CannotStart, StoreUnavailable
from dispatcher.store.jobs.figures import JobFigures
from dispatcher.store.sealing import BODIES, Counted, given_keys, sealing_of
from dispatcher.store.sqlite.database import VERSION, inspect, path_of
from dispatcher.store.sqlite.key_file import is_exposed, key_file_of, read_key_file
from dispatcher.store.tx import Sealing
from receiver.base.checkup import Check, bad, ok, warn
from receiver.base.cli import size
from receiver.base.clock import iso, now_ms
from receiver.base.db.url import is_postgres

# The WAL-reset bug: two connections that write and checkpoint at once can lose commits.
_BUG_FROM: Final = (3, 7, 0)
_BUG_TO: Final = (3, 51, 2)
_SKEW_S_WARN: Final = 1.0
# That a process keeps beside DISPATCHER_READERS: writer, listener, and its own readers.
_OTHER_SESSIONS: Final = 2 + OWN_READERS
_TRANSACTION_S_MAX: Final = 300  # an older snapshot keeps vacuum from all that was settled since
_DEAD_ROWS_SHARE: Final = 0.5
_DEAD_ROWS_MIN: Final = 100_000
_NAMED_MAX: Final = 3  # keys or processes, one by one


def check_database(settings: Settings) -> Iterator[Check]:
    """Yield the checks of the database that the settings name, whichever it is."""
    if is_postgres(settings.database_url):
        yield from postgres(settings)
    else:
        yield from sqlite(settings)
        yield sqlite_version()


def schema(found: int, dialect: Dialect = "sqlite") -> Check:
    """Whether this version can use a database with this schema."""
    newest = migrations(dialect)[-1][0]
    if found > newest:
        message = f"{found}, but this version knows {newest}"
        return bad("schema", message, "run the version that wrote it, or a newer one")
    if found < newest:
        advice = "the next `dispatcher serve` does it, or: dispatcher migrate"
        return warn("schema", f"{found}, to be brought to {newest}", advice)
    return ok("schema", f"{found}, up to date")


def sqlite(settings: Settings) -> Iterator[Check]:
    """Yield the file: there, readable, sound, of which schema, and whose."""
    try:
        file = key_file_of(path_of(settings.database_url))
        ring, faults = _keys(settings, file)
        found = inspect(settings.database_url, ring)
    except CannotStart as error:
        yield bad("database", str(error))
        return
    if found is None:
        yield _absent(settings.database_url)
        yield from faults
        return
    if found.unreadable is not None:
        advice = "keep the file as it is and restore a backup to another path"
        yield bad("database", f"{found.path} cannot be read: {found.unreadable}", advice)
    elif found.damage is not None:
        advice = "stop the service, keep the file as it is, restore a backup to another path"
        yield bad("database", f"{found.path} is damaged: {found.damage}", advice)
    elif found.moved_to is not None:
        advice = "set DISPATCHER_DATABASE_URL to that database"
        yield bad("database", f"{found.path} was moved to {found.moved_to}", advice)
    else:
        yield ok("database", f"{found.path} is sound, {size(found.bytes)}")
    if found.schema is not None:
        yield schema(found.schema)
    yield from _secrets(found.secrets, settings)
    yield from keys(found.ending_keys, now_ms())
    yield from faults
    yield from _sealed(found.sealed, ring, file)
    yield from jobs(found.jobs)
    if found.owner is None:
        yield ok("owner", "nobody has it open: no service runs here")
    else:
        yield ok("owner", f"in use by process {found.owner}")


def _secrets(found: CurrentSecrets, settings: Settings) -> Iterator[Check]:
    """Yield what is amiss with the stored signing secrets; nothing where nothing is."""
    if found.weak:
        message = f"{found.weak:,} stored signing secrets are weaker than a new one may be"
        advice = "they go on signing, and the log names each at its use: rotate them"
        yield warn("weak secrets", message, advice)
    configured = settings.signing_secret
    if None not in (configured, found.default) and configured != found.default:
        message = "DISPATCHER_SIGNING_SECRET has no effect: the tenant `default` has another one"
        advice = "unset it, or make it the secret: POST /v1/secrets/rotate with `secret`"
        yield warn("stored secret", message, advice)


def keys(ending: Sequence[EndingKey], now_ms: int) -> Iterator[Check]:
    """Yield which API keys expire within a week, and which have; nothing where none does."""
    soon = [key for key in ending if now_ms < key.expires_ms <= now_ms + EXPIRES_SOON_MS]
    over = [key for key in ending if key.expires_ms <= now_ms]
    if soon:
        first = iso(soon[0].expires_ms)
        message = f"{_named(soon)} will expire within a week, the first at {first}"
        advice = "give them a new text and end: dispatcher keys rotate ID --expires 90d"
        yield warn("keys that end", message, advice)
    if over:
        message = f"{_named(over)} expired; they count for DISPATCHER_TENANT_KEYS_MAX"
        yield ok("expired keys", message, "dispatcher keys revoke ID")


def _named(keys: Sequence[EndingKey]) -> str:
    names = [f"{key.id} ({key.label})" if key.label else key.id for key in keys[:_NAMED_MAX]]
    more = len(keys) - len(names)
    return ", ".join(names) + (f" and {more:,} more" if more else "")


def _keys(settings: Settings, file: Path | None = None) -> tuple[Sealing, list[Check]]:
    """Return the keys of this shell and of the key file, and what is wrong with them."""
    try:
        given = given_keys(settings)
        kept = [] if file is None else read_key_file(file)
        where = file if kept else None
        keys = sealing_of(replace(settings, encrypt_payloads="off"), [*given, *kept], where)
    except CannotStart as error:
        return Sealing(), [bad("keys", str(error))]
    if file is not None and kept and is_exposed(file):
        return keys, [warn("key file", f"{file} may be read by others", f"chmod 600 {file}")]
    return keys, []


def _sealed(found: Sequence[Counted], keys: Sealing, file: Path | None = None) -> Iterator[Check]:
    """Yield how much is sealed, and whether it can be opened."""
    if not found:
        return  # there is nothing yet
    missing = [one for one in found if one.missing]
    plain = [one for one in found if one.plain and one.what != BODIES]
    older = [one for one in found if one.older]
    if missing:
        what = ", ".join(f"{one.missing:,} {one.what} ({one.missing_kid})" for one in missing)
        advice = f"set {KEYS_SETTING} to it, in this shell and for the service"
        if file is not None:
            advice = f"put the file {file} back, or {advice}"
        yield bad("sealed", f"the key of {what} is not here", advice)
    if keys.ring is None:
        if plain:
            advice = f"set {KEYS_SETTING} for every service on this database, and restart"
            yield warn("sealed", f"{_listed(plain, 'plain')} are plain text", advice)
        return
    if plain or older:
        told = []
        if plain:
            told.append(f"{_listed(plain, 'plain')} are plain text")
        if older:
            told.append(f"{_listed(older, 'older')} are sealed with an older key")
        yield warn("sealed", "; ".join(told), "seal them: dispatcher secrets reencrypt")
    elif not missing:
        where = f", which is in {file}: keep a copy elsewhere" if keys.key_file else ""
        yield ok("sealed", f"all of it, with the key {keys.ring.kid}{where}")
    bodies = next((one for one in found if one.what == BODIES), None)
    if bodies is not None and bodies.total > bodies.plain > 0:
        yield ok("payloads", f"{bodies.plain:,} of {bodies.total:,} are plain, the rest is sealed")


def _listed(found: Sequence[Counted], kind: Literal["plain", "older"]) -> str:
    return ", ".join(f"{getattr(one, kind):,} {one.what}" for one in found)


def jobs(found: JobFigures | None, *, lease_s: float | None = None) -> Iterator[Check]:
    """Yield how many jobs and endpoints there are, and, of a database that several processes share,
    who runs jobs, each while it beats at least once in `lease_s`; nothing where there is no
    endpoint and never was a job."""
    if found is None or not (found.endpoints or any(found.counts.values())):
        return
    told = [f"{n:,} {state}" for state, n in found.counts.items() if n] or ["none yet"]
    if found.sweeps:
        told.append(f"{found.sweeps:,} purges or bulk changes under way")
    yield ok("jobs", ", ".join(told))
    message = f"{found.endpoints:,}" + (f", {found.paused:,} paused" if found.paused else "")
    if found.failing:
        message += f"; calls of {found.failing:,} fail, and are held"
        advice = "see what their upstreams answer: POST /v1/endpoints/NAME/test"
        yield warn("endpoints", message, advice)
    else:
        yield ok("endpoints", message)
    if found.untold:
        message = f"{found.untold:,} ends of jobs could not be told: no key opened where to"
        advice = f"set {KEYS_SETTING} to the key that is missing: they are told at once"
        yield warn("untold ends", message, advice)
    if lease_s is not None:
        yield from _processes(found, lease_s)


def _processes(found: JobFigures, lease_s: float) -> Iterator[Check]:
    """Yield how many processes beat, which do not, and what runs at none."""
    still = [one for one in found.processes if one.still_s is not None and one.still_s >= lease_s]
    beating = len(found.processes) - len(still)
    if still:
        named = ", ".join(
            f"{one.id} for {one.still_s:,.0f} s ({one.jobs:,} jobs)" for one in still[:_NAMED_MAX]
        )
        more = f" and {len(still) - _NAMED_MAX:,} more" if len(still) > _NAMED_MAX else ""
        message = f"{beating:,} processes beat; no beat came of {named}{more}"
        advice = (
            "if it hangs, end it; another `dispatcher serve` takes its jobs over once it has seen "
            "no beat for DISPATCHER_JOB_LEASE"
            if beating
            else "no process is there to take its jobs over: start `dispatcher serve`"
        )
        yield warn("job processes", message, advice)
    else:
        yield ok("job processes", f"{beating:,} processes run jobs")
    if found.orphans:
        message = f"{found.orphans:,} jobs are run by a process that is gone"
        advice = (
            "a `dispatcher serve` takes them over in its next sweep"
            if beating
            else "no process is there to take them over: start `dispatcher serve`"
        )
        yield warn("orphaned jobs", message, advice)


def _absent(url: str) -> Check:
    path = path_of(url)
    folder = path.absolute().parent
    if folder.is_dir():
        return ok("database", f"{path} is not there yet: the first start makes it")
    advice = "make the folder, or set DISPATCHER_DATABASE_URL"
    return bad("database", f"{path}: there is no folder {folder}", advice)


def sqlite_version(version: tuple[int, ...] = VERSION) -> Check:
    """Which SQLite this Python links, and what follows."""
    shown = ".".join(map(str, version))
    if not _BUG_FROM <= version <= _BUG_TO:
        return ok("SQLite", shown)
    return ok(
        "SQLite",
        f"{shown}, which has the WAL-reset bug (3.7.0 to 3.51.2)",
        "harmless here, since one process and one connection write; never open the file "
        "for writing with another program while the service runs",
    )


def postgres(settings: Settings) -> Iterator[Check]:
    """Yield the server: reached, of which version, durable, with room for sessions, and vacuumed
    in time."""
    try:
        from dispatcher.store.postgres import database
    except ModuleNotFoundError as error:
        message = f"PostgreSQL needs the package {error.name}"
        yield bad("database", message, "pip install '.[postgres]' in a checkout")
        return
    try:
        ring, faults = _keys(settings)
        found = database.inspect(settings.database_url, ring)
    except (CannotStart, StoreUnavailable) as error:
        advice = "check DISPATCHER_DATABASE_URL, and that the server runs and lets you in"
        yield bad("database", str(error), advice)
        return
    message = f"{found.name} answers: PostgreSQL {found.version}, {size(found.bytes)}"
    yield ok("database", message)
    if found.syncs:
        yield ok("durability", "commits are synced to disk")
    else:
        advice = "set fsync = on in postgresql.conf: a power cut loses acknowledged callbacks"
        yield bad("durability", "the server runs with fsync off", advice)
    yield _clock(found)
    yield _sessions(found, settings)
    yield schema(found.schema, "postgres")
    yield from _secrets(found.secrets, settings)
    yield from keys(found.ending_keys, now_ms())
    yield from faults
    yield from _sealed(found.sealed, ring)
    yield from jobs(found.jobs, lease_s=settings.job_lease)
    if found.schema:
        yield _vacuum(found)


def _clock(found: "ServerState") -> Check:
    if abs(found.skew_s) < _SKEW_S_WARN:
        return ok("server clock", "agrees with this machine's")
    message = f"differs from this machine's by {found.skew_s:+.1f} s"
    advice = "harmless to leases, which go by the server's clock; still, run NTP on both"
    return warn("server clock", message, advice)


def _sessions(found: "ServerState", settings: Settings) -> Check:
    """Whether the server has room for the sessions of one more process."""
    needed = settings.readers + _OTHER_SESSIONS
    message = (
        f"{found.sessions} of {found.sessions_max} are used; each process takes up to {needed}"
    )
    if found.sessions_max - found.sessions >= needed:
        return ok("sessions", message)
    advice = "raise max_connections on the server, or run fewer processes"
    return warn("sessions", message, advice)


def _vacuum(found: "ServerState") -> Check:
    """Whether vacuum keeps up: every claim reads over the dead rows that it has not removed."""
    oldest_s, dead, live = found.oldest_transaction_s, found.dead_rows, found.live_rows
    if oldest_s > _TRANSACTION_S_MAX:
        message = f"a transaction has been open for {oldest_s:.0f} s: no row deleted since can go"
        return warn("vacuum", message, "find it in pg_stat_activity (xact_start) and end it")
    if dead > _DEAD_ROWS_MIN and dead > _DEAD_ROWS_SHARE * live:
        message = f"{dead:,} dead rows beside {live:,} live ones in callbacks"
        return warn("vacuum", message, "run VACUUM callbacks, and see that autovacuum is on")
    return ok("vacuum", f"{dead:,} dead rows in callbacks")

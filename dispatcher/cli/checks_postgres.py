"""The doctor's look at a PostgreSQL database: through a session of its own, beside running
services. It changes nothing."""

import time
from collections.abc import Iterator
from contextlib import closing
from typing import TYPE_CHECKING, Any, Final

from dispatcher.cli.checks_database import schema
from dispatcher.cli.finding import Check
from dispatcher.cli.output import size
from dispatcher.settings import Settings
from dispatcher.store.errors import CannotStart, StoreUnavailable
from dispatcher.store.migrate import postgres_schema

if TYPE_CHECKING:
    import psycopg

_SKEW_S_WARN: Final = 1.0
_OTHERS: Final = 2  # sessions a process keeps beside its readers: writer and listener
_LONG_S: Final = 300  # a snapshot this old keeps vacuum from all that was settled since
_DEAD_SHARE: Final = 0.5
_DEAD_LEAST: Final = 100_000


def postgres(settings: Settings) -> Iterator[Check]:
    """Yield the server: reached, of which version, durable, with room for sessions, and well
    swept."""
    try:
        import psycopg

        from dispatcher.store.postgres.server import QUIET, Server, check_database
    except ModuleNotFoundError as error:
        message = f"PostgreSQL needs the package {error.name}"
        yield Check(
            name="database",
            state="bad",
            message=message,
            advice="pip install 'postback[postgres]'",
        )
        return
    try:
        server = Server(settings.database_url)
        connection = server.connect("postback doctor", QUIET)
    except (CannotStart, StoreUnavailable) as error:
        advice = "check DISPATCHER_DATABASE_URL, and that the server runs and lets you in"
        yield Check(name="database", state="bad", message=str(error), advice=advice)
        return
    with closing(connection):
        try:
            check_database(connection, server.shown)
            yield _reached(connection, server.shown)
            yield from _durable(connection)
            yield _clock(connection)
            yield _sessions(connection, settings)
            found = postgres_schema(connection)
            yield schema(found, "postgres")
            if found:
                yield _swept(connection)
        except (psycopg.Error, CannotStart) as error:
            yield Check(name="database", state="bad", message=str(error).split("\n")[0])


def _reached(connection: "psycopg.Connection", name: str) -> Check:
    version, taken = _one(
        connection, "SELECT current_setting('server_version'), pg_database_size(current_database())"
    )
    message = f"{name} answers: PostgreSQL {version.split()[0]}, {size(taken)}"
    return Check(name="database", state="ok", message=message)


def _durable(connection: "psycopg.Connection") -> Iterator[Check]:
    """Yield a server that does not sync makes every 2xx a hope."""
    (fsync,) = _one(connection, "SELECT current_setting('fsync')")
    if fsync != "on":
        advice = "set fsync = on in postgresql.conf: a power cut loses acknowledged callbacks"
        yield Check(
            name="durability", state="bad", message="the server runs with fsync off", advice=advice
        )
    else:
        yield Check(name="durability", state="ok", message="commits are synced to disk")


def _clock(connection: "psycopg.Connection") -> Check:
    (there_s,) = _one(connection, "SELECT extract(epoch FROM clock_timestamp())::float8")
    skew_s = there_s - time.time()
    if abs(skew_s) < _SKEW_S_WARN:
        return Check(name="server clock", state="ok", message="agrees with this machine's")
    message = f"differs from this machine's by {skew_s:+.1f} s"
    advice = "harmless to leases, which go by the server's clock; still, run NTP on both"
    return Check(name="server clock", state="warn", message=message, advice=advice)


def _sessions(connection: "psycopg.Connection", settings: Settings) -> Check:
    """Whether the server has room for the sessions of one more process."""
    most, used = _one(
        connection,
        "SELECT current_setting('max_connections')::int "
        "- current_setting('superuser_reserved_connections')::int, "
        "(SELECT count(*) FROM pg_stat_activity WHERE backend_type = 'client backend')",
    )
    needed = settings.readers + _OTHERS
    message = f"{used} of {most} are used; each process takes up to {needed}"
    if most - used >= needed:
        return Check(name="sessions", state="ok", message=message)
    advice = "raise max_connections on the server, or run fewer processes"
    return Check(name="sessions", state="warn", message=message, advice=advice)


def _swept(connection: "psycopg.Connection") -> Check:
    """Whether vacuum keeps up: what it has not swept is read over by every claim."""
    live, dead = _one(
        connection,
        "SELECT n_live_tup, n_dead_tup FROM pg_stat_user_tables WHERE relname = 'callbacks'",
    )
    oldest = _one(
        connection,
        "SELECT coalesce(max(extract(epoch FROM now() - xact_start)), 0)::float8 "
        "FROM pg_stat_activity WHERE backend_xmin IS NOT NULL AND pid <> pg_backend_pid()",
    )[0]
    if oldest > _LONG_S:
        message = f"a transaction has been open for {oldest:.0f} s: nothing can be swept behind it"
        advice = "find it in pg_stat_activity (xact_start) and end it"
        return Check(name="vacuum", state="warn", message=message, advice=advice)
    if dead > _DEAD_LEAST and dead > _DEAD_SHARE * live:
        message = f"{dead:,} dead rows beside {live:,} live ones in callbacks"
        advice = "run VACUUM callbacks, and see that autovacuum is on"
        return Check(name="vacuum", state="warn", message=message, advice=advice)
    return Check(name="vacuum", state="ok", message=f"{dead:,} dead rows in callbacks")


def _one(connection: "psycopg.Connection", sql: str) -> tuple[Any, ...]:
    row = connection.execute(sql.encode()).fetchone()
    return () if row is None else tuple(row)

"""What the doctor wants to know of a PostgreSQL server: through a session of its own, beside
running services. Looking changes nothing."""

import time
from contextlib import closing
from dataclasses import dataclass
from typing import Any, Final

import psycopg

from dispatcher.store.errors import StoreUnavailable
from dispatcher.store.postgres.session import SCHEMA_TABLE
from receiver.base.db.postgres import QUIET, Server, line, schema_version

_SERVER: Final = """
SELECT current_setting('server_version'), pg_database_size(current_database()),
       current_setting('fsync') = 'on', extract(epoch FROM clock_timestamp())::float8
"""
_SESSIONS: Final = """
SELECT current_setting('max_connections')::int
         - current_setting('superuser_reserved_connections')::int,
       (SELECT count(*) FROM pg_stat_activity WHERE backend_type = 'client backend')
"""
_ROWS: Final = """
SELECT n_live_tup, n_dead_tup FROM pg_stat_user_tables WHERE relname = 'callbacks'
"""
_OLDEST: Final = """
SELECT coalesce(max(extract(epoch FROM now() - xact_start)), 0)::float8
FROM pg_stat_activity WHERE backend_xmin IS NOT NULL AND pid <> pg_backend_pid()
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class ServerState:
    """A server and its database. `name` is its URL without secrets; `skew_s` is how far its clock
    is ahead of ours; `schema` is 0 where there is none yet; rows are those of `callbacks`."""

    name: str
    version: str
    bytes: int
    syncs: bool
    skew_s: float
    sessions_max: int
    sessions: int
    schema: int
    live_rows: int
    dead_rows: int
    oldest_transaction_s: float


def inspect(url: str) -> ServerState:
    """Return the state of the server that `url` names. Raises CannotStart for one that cannot be
    used, StoreUnavailable for one that cannot be reached."""
    server = Server(url)
    with closing(server.connect("postback doctor", QUIET)) as connection:
        try:
            server.check(connection)
            version, size, syncs, now_s = _one(connection, _SERVER)
            skew_s = now_s - time.time()
            sessions_max, sessions = _one(connection, _SESSIONS)
            schema = schema_version(connection, SCHEMA_TABLE)
            live, dead = _one(connection, _ROWS) if schema else (0, 0)
            (oldest_s,) = _one(connection, _OLDEST)
        except psycopg.Error as error:
            raise StoreUnavailable(line(error)) from None
    return ServerState(
        name=server.name,
        version=version.split()[0],
        bytes=size,
        syncs=syncs,
        skew_s=skew_s,
        sessions_max=sessions_max,
        sessions=sessions,
        schema=schema,
        live_rows=live,
        dead_rows=dead,
        oldest_transaction_s=oldest_s,
    )


def _one(connection: psycopg.Connection, sql: str) -> tuple[Any, ...]:
    row = connection.execute(sql.encode()).fetchone()
    return () if row is None else tuple(row)

"""The kept databases, as they would be had they been made a while ago instead of long ago."""

import gzip
import json
import sqlite3
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any, Final

import psycopg

from tests.dispatcher.postgres.server import database
from tests.upgrade.programs import moved

DATA: Final = Path(__file__).parent / "data"
STORES: Final = ("sqlite", "postgres")
# Numbers in this range are times in milliseconds; whatever else is kept is far from it.
_TIME_MIN: Final = 1_000_000_000_000
_TIME_MAX: Final = 10_000_000_000_000


@contextmanager
def restored(
    version: str, program: str, store: str, folder: Path, *, age_s: float
) -> Iterator[tuple[str, dict[str, Any]]]:
    """The URL of a copy that was left behind `age_s` seconds ago, and what was said of it then."""
    text = (DATA / f"{version}-{program}-{store}.json").read_text("utf-8")
    said: dict[str, Any] = json.loads(text)
    by_ms = int((time.time() - age_s) * 1000) - said.pop("madeMs")
    if store == "sqlite":
        file = folder / f"{program}.db"
        file.write_bytes(gzip.decompress((DATA / f"{version}-{program}.db.gz").read_bytes()))
        _move_sqlite(file, by_ms)
        yield f"sqlite:///{file}", moved(said, by_ms)
        return
    statements = gzip.decompress((DATA / f"{version}-{program}.sql.gz").read_bytes())
    with database() as url:
        with psycopg.connect(url, autocommit=True) as connection:
            connection.execute(statements)
            _move_postgres(connection, by_ms)
        yield url, moved(said, by_ms)


def _move_sqlite(file: Path, by_ms: int) -> None:
    with closing(sqlite3.connect(file, isolation_level=None)) as connection:
        tables = connection.execute(
            "SELECT name FROM sqlite_schema WHERE type = 'table' AND name NOT LIKE 'sqlite_%'"
        ).fetchall()
        for (table,) in tables:
            columns = connection.execute(f"PRAGMA table_info({table})").fetchall()
            _move(connection.execute, table, [row[1] for row in columns if row[2] != "BLOB"], by_ms)
        assert connection.execute("PRAGMA integrity_check").fetchone() == ("ok",)


def _move_postgres(connection: psycopg.Connection, by_ms: int) -> None:
    found = connection.execute(
        "SELECT quote_ident(table_schema) || '.' || quote_ident(table_name),"
        " array_agg(quote_ident(column_name)::text) FROM information_schema.columns"
        " WHERE data_type IN ('bigint', 'double precision')"
        " AND table_schema NOT IN ('pg_catalog', 'information_schema') GROUP BY 1"
    )
    for table, columns in found.fetchall():
        _move(lambda sql: connection.execute(sql.encode()), table, columns, by_ms)


def _move(execute: Callable[[str], Any], table: str, columns: list[str], by_ms: int) -> None:
    """All times of a table, told by their size."""
    for column in columns:
        execute(
            f"UPDATE {table} SET {column} = {column} + {by_ms} "
            f"WHERE {column} > {_TIME_MIN} AND {column} < {_TIME_MAX}"
        )

"""Which index each look-up of the inbox uses, as the server plans it for good: accepting a message
costs the same in a full inbox as in a new one."""

import re
from collections.abc import AsyncIterator
from typing import Final

import psycopg
import pytest

from receiver.base.db.postgres import WRITER, Server
from receiver.inbox import attempts
from receiver.inbox.postgres import statements
from receiver.inbox.postgres.database import SCHEMA
from tests.receiver.inbox.places import Place

CASES: Final[dict[str, tuple[str, set[str]]]] = {
    "copies": (statements._COPIES, {"messages_once"}),
    "ends": (statements._ENDS, {"messages_ends"}),
    "others under an id": (statements._UNDER, {"messages_by_message_id"}),
    "seen again": (statements._SEEN_AGAIN, {"messages_pkey"}),
    "orders": (statements._ORDERS, {"messages_pkey"}),
    "re-arm": (statements._REARM, {"messages_pkey"}),
    "start": (statements._START, {"messages_pkey", "messages_ends", "messages_running"}),
    "skip others": (attempts._SKIP_OTHERS, {"messages_once", "messages_ends"}),
    "replay": (attempts._REPLAY, {"messages_pkey", "messages_ends"}),
    "now known": (statements._NOW_KNOWN, {"expectations_pkey"}),
    "due": (statements._DUE, {"messages_wanted"}),
    "next due": (statements._NEXT_DUE, {"messages_wanted"}),
    "due of all": (statements._DUE_OF_ALL, {"messages_due"}),
}


@pytest.fixture
async def connection(empty_postgres: str) -> AsyncIterator[psycopg.Connection]:
    """A writer's session on tables that are still empty: the worst time to make a plan."""
    await (await Place(empty_postgres).open()).close()
    with Server(empty_postgres).connect("postback test", WRITER) as opened:
        opened.execute(f"SET search_path TO {SCHEMA}")
        yield opened


@pytest.mark.parametrize("name", CASES)
def test_a_look_up_reads_what_it_names_and_no_more(
    name: str, connection: psycopg.Connection
) -> None:
    """Each scan of an index has a condition on it, whatever the statistics say."""
    sql, expected = CASES[name]
    plan = explained(connection, sql)
    assert "Seq Scan" not in plan, plan
    scans = re.split(r"(?=\b(?:Index Scan|Index Only Scan|Bitmap Index Scan)\b)", plan)[1:]
    assert [scan for scan in scans if "Index Cond" not in scan] == [], plan
    assert expected <= set(re.findall(r"(?:using|Bitmap Index Scan on) (\w+)", plan)), plan


def explained(connection: psycopg.Connection, sql: str) -> str:
    """The plan for whatever the parameters will be."""
    count = sql.count("?")
    for number in range(1, count + 1):
        sql = sql.replace("?", f"${number}", 1)
    connection.execute(f"PREPARE planned AS {sql}".encode())
    rows = connection.execute(
        f"EXPLAIN EXECUTE planned({', '.join(['NULL'] * count)})".encode()
    ).fetchall()
    return "\n".join(row[0] for row in rows)

"""What both halves do with a database: batches of which only the bad operation fails, schemas that
only go forward, URLs that are shown without secrets."""

import sqlite3
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from receiver.base.db import CannotOpen, DatabaseUnavailable
from receiver.base.db.group_commit import (
    PoisonedBatch,
    RetryBatch,
    Write,
    apply_isolated,
    apply_kinds,
    write_all,
)
from receiver.base.db.migrate import missing, reads_from
from receiver.base.db.postgres import TRIES_MAX, commit_with_retries
from receiver.base.db.sqlite import (
    FileInUse,
    FileLock,
    SqliteTx,
    commit_batch,
    in_transaction,
    migrate,
    schema_version,
)
from receiver.base.db.url import DatabaseURLError, redacted


@pytest.fixture
def db() -> Iterator[sqlite3.Connection]:
    with closing(sqlite3.connect(":memory:", isolation_level=None)) as connection:
        connection.execute("CREATE TABLE t (n INTEGER PRIMARY KEY)")
        yield connection


def insert(n: int) -> Write[int]:
    return Write(lambda tx: tx.run("INSERT INTO t VALUES (?)", n))


def applied(
    db: sqlite3.Connection, run: Callable[..., Sequence[object]], *numbers: int
) -> list[object]:
    tx = SqliteTx(db)
    kinds = ((Write, partial(run, tx, write_all)),)
    return in_transaction(db, lambda: apply_kinds(kinds, [insert(n) for n in numbers]))


def stored(db: sqlite3.Connection) -> list[int]:
    return [n for (n,) in db.execute("SELECT n FROM t ORDER BY n")]


def test_in_a_batch_that_is_isolated_only_the_bad_operation_fails(db: sqlite3.Connection) -> None:
    """And leaves nothing behind; the others are stored once."""
    results = applied(db, apply_isolated, 1, 2, 2, 3)
    assert [type(result) for result in results] == [int, int, sqlite3.IntegrityError, int]
    assert stored(db) == [1, 2, 3]


def test_a_batch_with_a_bad_operation_is_poisoned(db: sqlite3.Connection) -> None:
    """Nothing of it is stored: it is to be applied again in parts. What the database cannot do is
    nobody's fault, and stays what it is."""

    def commit(*numbers: int) -> Sequence[object]:
        return commit_batch(db, lambda: write_all(SqliteTx(db), [insert(n) for n in numbers]))

    with pytest.raises(PoisonedBatch) as met:
        commit(1, 2, 2)
    assert isinstance(met.value.__cause__, sqlite3.IntegrityError)
    assert stored(db) == []
    assert commit(1, 2) == [1, 1]
    db.execute("PRAGMA query_only = 1")
    with pytest.raises(sqlite3.OperationalError, match="readonly"):
        commit(3)


def test_operations_are_applied_by_kind_and_answered_in_their_own_order() -> None:
    order: list[str] = []

    def note(kind: str) -> Callable[[Sequence[Any]], Sequence[object]]:
        def apply(items: Sequence[Any]) -> Sequence[object]:
            order.append(kind)
            return [f"{kind} {item}" for item in items]

        return apply

    kinds = ((str, note("text")), (int, note("number")))
    assert apply_kinds(kinds, [1, "a", 2, "b"]) == ["number 1", "text a", "number 2", "text b"]
    assert order == ["text", "number"]
    assert apply_kinds(kinds, [1]) == ["number 1"]


def test_a_commit_is_tried_again_until_it_comes_through() -> None:
    tries: list[int] = []

    def commit_once() -> str:
        tries.append(1)
        if len(tries) == 1:
            raise RetryBatch("another process was in the way")
        return "committed"

    assert commit_with_retries(commit_once) == "committed"
    assert len(tries) == 2


def test_a_commit_that_never_comes_through_is_unavailable() -> None:
    tries: list[int] = []

    def commit_once() -> str:
        tries.append(1)
        raise RetryBatch("another process was in the way")

    with pytest.raises(DatabaseUnavailable, match="in the way"):
        commit_with_retries(commit_once)
    assert len(tries) == TRIES_MAX


def test_a_script_that_fails_leaves_the_schema_before_it(db: sqlite3.Connection) -> None:
    """And the next start goes on from there."""
    first = (1, "CREATE TABLE a (x);")
    with pytest.raises(sqlite3.OperationalError):
        migrate(db, [first, (2, "CREATE TABLE b (x); CREATE TABLE a (x);")])
    assert schema_version(db) == 1
    migrate(db, [first, (2, "CREATE TABLE b (x);")])
    assert schema_version(db) == 2


def test_a_newer_schema_is_refused_and_an_older_one_is_told_what_it_lacks() -> None:
    known = [(1, "a"), (2, "b"), (3, "c")]
    assert missing(1, known) == known[1:]
    assert missing(3, known) == []
    with pytest.raises(CannotOpen, match="schema 4, this version knows 3"):
        missing(4, known)


def test_a_newer_schema_may_be_used_from_the_one_on_that_it_says() -> None:
    """D2: each migration says in `reads-from` who may run beside it; one that does not is for those
    alone that know it."""
    assert reads_from((7, "-- reads-from: 5\n-- An expansion.\nCREATE TABLE a (x);")) == 5
    assert reads_from((7, "CREATE TABLE a (x); -- reads-from: 5")) == 7
    known = [(1, "a"), (2, "b"), (3, "c")]
    assert missing(5, known, oldest=3) == []
    with pytest.raises(CannotOpen, match="schema 5, this version knows 3"):
        missing(5, known, oldest=4)


def test_a_lock_is_one_owners_until_it_lets_go(tmp_path: Path) -> None:
    """Under any name of the file."""
    (tmp_path / "link.db").symlink_to(tmp_path / "file.db")
    first, second = FileLock(tmp_path / "file.db"), FileLock(tmp_path / "link.db")
    first.take()
    with pytest.raises(FileInUse, match="in use by process"):
        second.take()
    first.release()
    second.take()
    second.release()


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("postgresql://me:s@h/db?options=-c x=1", "postgresql://me@h/db"),
        ("postgresql://me@h/db?password=a#b", "postgresql://me@h/db"),
    ],
)
def test_parameters_may_hold_what_the_rest_may_not(url: str, shown: str) -> None:
    assert redacted(url) == shown


def test_a_port_that_is_none_is_no_url() -> None:
    with pytest.raises(DatabaseURLError):
        redacted("postgresql://me:s@h:65536/db")

"""Which SQL would begin or end a handler's transaction."""

import pytest

from receiver.handling.effects.postgres import transaction_control


@pytest.mark.parametrize(
    ("sql", "found"),
    [
        ("COMMIT", "COMMIT"),
        ("commit and chain", "COMMIT"),
        ("COMMIT PREPARED 'x'", "COMMIT"),
        ("  begin", "BEGIN"),
        ("END", "END"),
        ("abort;", "ABORT"),
        ("ROLLBACK", "ROLLBACK"),
        ("ROLLBACK PREPARED 'x'", "ROLLBACK"),
        ("start\n transaction read only", "START TRANSACTION"),
        ("PREPARE TRANSACTION 'x'", "PREPARE TRANSACTION"),
        ("INSERT INTO t VALUES (1); COMMIT", "COMMIT"),
        ("-- a note\nCOMMIT", "COMMIT"),
        ("/* a; note */ ROLLBACK -- TO", "ROLLBACK"),
        ("SELECT 'it''s'; COMMIT", "COMMIT"),
        (r"SELECT E'it\'s'; COMMIT", "COMMIT"),
        ("SELECT $$;$$; COMMIT", "COMMIT"),
        (";;COMMIT", "COMMIT"),
    ],
)
def test_what_begins_or_ends_a_transaction_is_found(sql: str, found: str) -> None:
    """Wherever it stands among several statements, in either case of letters."""
    assert transaction_control(sql) == found


@pytest.mark.parametrize(
    "sql",
    [
        "",
        "SAVEPOINT a",
        "RELEASE SAVEPOINT a",
        "ROLLBACK TO a",
        "rollback work to savepoint a",
        "ROLLBACK TRANSACTION TO SAVEPOINT a",
        "PREPARE find AS SELECT 1",
        "SELECT 1 AS end",
        "SELECT '; COMMIT'",
        "SELECT '''; COMMIT; --'",
        r"SELECT E'\'; COMMIT'",
        'SELECT "; COMMIT" FROM t',
        "SELECT $$; COMMIT; $$",
        "DO $body$ BEGIN; $$; COMMIT; END $body$",
        "SELECT 1 -- ; COMMIT",
        "SELECT 1 /* ; COMMIT */",
        "SELECT CASE WHEN a THEN 1 ELSE 2 END FROM t",
        "INSERT INTO t VALUES ($1); UPDATE commits SET begin = 1",
    ],
)
def test_what_stays_within_one_is_not(sql: str) -> None:
    """Savepoints; and the same words inside texts, names and comments."""
    assert transaction_control(sql) is None

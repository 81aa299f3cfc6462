"""A file that is no database, or not ours, is said so in one line by every command of both halves:
no traceback, and nothing is written to it."""

import random
import sqlite3
from pathlib import Path

import pytest

from tests.commands import command

SECRET = "whsec_dGVzdC10ZXN0LXRlc3QtdGVzdC10ZXN0"
KINDS = ["random", "text", "header alone", "of another program", "folder"]


def make(kind: str, path: Path) -> bytes | None:
    """Its bytes."""
    noise = random.Random(kind).randbytes(20_000)
    if kind == "random":
        path.write_bytes(noise)
    elif kind == "text":
        path.write_bytes(b"not a database\n" * 100)
    elif kind == "header alone":
        path.write_bytes(b"SQLite format 3\0" + noise)
    elif kind == "folder":
        path.mkdir()
        return None
    else:
        with sqlite3.connect(path) as connection:
            connection.execute("CREATE TABLE tenants (something)")
        connection.close()
        return None  # its journal mode may change
    return path.read_bytes()


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(
    ("words", "code"),
    [
        (("dispatcher", "serve", "--port", "0"), 3),
        (("dispatcher", "migrate"), 3),
        (("dispatcher", "backup", "copy.db"), 1),
        (("dispatcher", "doctor"), 1),
        (("dispatcher", "move", "FILE", "postgresql://nobody@127.0.0.1:1/x"), 3),
        (("receiver", "serve"), 3),
        (("receiver", "serve", "with effects"), 3),
    ],
)
def test_it_is_one_line_and_an_exit_code(
    tmp_path: Path, words: tuple[str, ...], code: int, kind: str
) -> None:
    path = tmp_path / "it.db"
    before = make(kind, path)
    url = f"sqlite:///{path}"
    given = {"DISPATCHER_DATABASE_URL": url, "RECEIVER_DATABASE_URL": url, "RECEIVER_PORT": "0"}
    if "with effects" in words:
        given |= {"RECEIVER_EFFECTS_URL": url, "RECEIVER_DATABASE_URL": f"sqlite:///{tmp_path}/r"}
        words = words[:-1]
        if kind == "of another program":
            return  # the customer's own: that is what it is for
    if kind == "of another program" and words[1] in ("backup", "doctor"):
        return  # there is nothing wrong with it
    filled = [{"FILE": url, "copy.db": str(tmp_path / "copy.db")}.get(one, one) for one in words]
    ran = command(*filled, RECEIVER_SECRETS=SECRET, **given)
    said = ran.stdout + ran.stderr
    assert ran.returncode == code, said
    assert "Traceback" not in said
    assert said.count("error: ") == (words[1] != "doctor")
    assert not (tmp_path / "copy.db").exists()
    assert list(tmp_path.glob("*.partial")) == []
    if before is not None:
        assert path.read_bytes() == before

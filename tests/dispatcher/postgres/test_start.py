"""Starting on PostgreSQL: what cannot be used is refused in one clear line, without its password;
several may start at once."""

import asyncio
import logging
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psycopg
import pytest

from dispatcher.cli import main
from dispatcher.cli.doctor.database import postgres
from dispatcher.settings import Settings
from dispatcher.store import open_store
from dispatcher.store.database import migrations
from dispatcher.store.errors import CannotStart, Conflict, StoreUnavailable
from receiver.base.db import postgres as servers
from tests.dispatcher.postgres import folders, server
from tests.dispatcher.postgres.fleet import SETTINGS
from tests.dispatcher.store.builders import raises, secret
from tests.theft import KEY

PASSWORD = "test-password"


@pytest.fixture
def url(tmp_path: Path) -> Iterator[str]:
    yield folders.url_for(tmp_path)
    folders.drop_under(tmp_path)


@pytest.fixture
def empty() -> Iterator[str]:
    with server.database() as made:
        yield made


async def refusal(url: str) -> str:
    """Why a start is refused; open_store() itself may refuse already."""

    async def start() -> None:
        await open_store(Settings(database_url=url)).open()

    said = str(await raises(CannotStart, start()))
    assert PASSWORD not in said
    assert "\n" not in said
    assert len(said) < 400
    return said


@pytest.mark.parametrize(
    ("url", "said"),
    [
        (f"postgresql://me:{PASSWORD}@127.0.0.1:1/postback", "me@127.0.0.1:1/postback"),
        (f"postgresql://me:{PASSWORD}@host.invalid/postback", "host.invalid"),
        (f"postgresql://me:{PASSWORD}@127.0.0.1:99999/postback", "%XX"),
        (f"postgresql://me:{PASSWORD}@x@127.0.0.1/postback", "%40"),
        (f"postgresql://me:{PASSWORD}/x@127.0.0.1/postback", "%XX"),
        (f"postgresql://me@127.0.0.1/postback?password={PASSWORD}&nonsense=1", "%XX"),
        (f"postgres://me@127.0.0.1:1/postback?password={PASSWORD}", "me@127.0.0.1:1/postback"),
    ],
)
async def test_a_wrong_url_or_a_server_that_is_down_is_one_line(url: str, said: str) -> None:
    assert said in await refusal(url)


async def test_an_unknown_database_is_named() -> None:
    unknown = server.with_database(server.shared_url(), "postback_nowhere")
    assert 'database "postback_nowhere" does not exist' in await refusal(unknown)


@pytest.mark.parametrize("schema", ["made already", "not made"])
async def test_a_missing_permission_is_named(
    schema: str, empty: str, url: str, tmp_path: Path
) -> None:
    where = url if schema == "made already" else empty
    with psycopg.connect(where, autocommit=True) as admin:
        admin.execute("DROP ROLE IF EXISTS postback_poor")
        admin.execute(f"CREATE ROLE postback_poor LOGIN PASSWORD '{PASSWORD}'")
        admin.execute("REVOKE CREATE ON SCHEMA public FROM PUBLIC")
    poor = where.replace("postback_test@", f"postback_poor:{PASSWORD}@")
    try:
        assert "permission denied" in await refusal(poor)
    finally:
        with psycopg.connect(where, autocommit=True) as admin:
            admin.execute("DROP OWNED BY postback_poor")
            admin.execute("DROP ROLE postback_poor")


async def test_a_newer_schema_is_refused(url: str) -> None:
    newest = migrations("postgres")[-1][0]
    with psycopg.connect(url) as connection:
        connection.execute("INSERT INTO postback_schema VALUES (%s)", (newest + 1,))
    said = await refusal(url)
    assert f"schema {newest + 1}" in said
    assert f"knows {newest}" in said


async def test_a_newer_schema_that_this_version_may_use_is_used(url: str) -> None:
    """D2: an expansion says so in `reads-from`, so that an upgrade may roll, and be rolled back."""
    newest = migrations("postgres")[-1][0]
    store = open_store(Settings(database_url=url))
    await store.open()
    await store.close()
    with psycopg.connect(url) as connection:
        connection.execute("INSERT INTO postback_schema VALUES (%s, %s)", (newest + 1, newest))
    await store_opens(url)
    with psycopg.connect(url) as connection:
        connection.execute("INSERT INTO postback_schema VALUES (%s, %s)", (newest + 2, newest + 1))
    assert f"schema {newest + 2}" in await refusal(url)


async def store_opens(url: str) -> None:
    store = open_store(Settings(database_url=url))
    await store.open()
    await store.check()
    await store.close()


async def test_an_upgrade_waits_for_processes_that_cannot_run_beside_it(empty: str) -> None:
    """And those that were away while it happened do not come back."""
    before = [one for one in migrations("postgres") if one[0] < 4]
    with psycopg.connect(empty, autocommit=True) as connection:
        for _, script in before:
            connection.execute(script.encode())
        connection.execute(
            "CREATE TABLE postback_schema (version integer PRIMARY KEY);"
            "INSERT INTO postback_schema SELECT generate_series(1, 3)"
        )
    with psycopg.connect(empty, application_name="postback 0123abcd", autocommit=True):
        assert "1 process(es) of an older version" in await refusal(empty)
    async with asyncio.timeout(30):
        while "older version" in await may_open(empty):  # noqa: ASYNC110  # its session ends
            await asyncio.sleep(0.05)
    with (
        psycopg.connect(empty, autocommit=True) as connection,
        pytest.raises(StoreUnavailable, match="this one knows 3"),
    ):
        servers.refuse_older(connection, before, "postback_schema")


async def may_open(url: str) -> str:
    store = open_store(Settings(database_url=url))
    try:
        await store.open()
    except CannotStart as error:
        return str(error)
    await store.close()
    return ""


async def test_an_older_server_is_refused(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(servers, "VERSION_MIN", 99)
    assert "needs 99 or newer" in await refusal(url)


async def test_text_that_is_not_utf8_is_refused() -> None:
    name = "postback_test_latin1"
    with psycopg.connect(server.shared_url(), autocommit=True) as admin:
        admin.execute(f"DROP DATABASE IF EXISTS {name}")
        admin.execute(
            f"CREATE DATABASE {name} TEMPLATE template0 ENCODING 'LATIN1' LOCALE 'C'".encode()
        )
    try:
        assert "LATIN1" in await refusal(server.with_database(server.shared_url(), name))
    finally:
        with psycopg.connect(server.shared_url(), autocommit=True) as admin:
            admin.execute(f"DROP DATABASE {name} WITH (FORCE)")


async def test_many_may_start_at_once_on_an_empty_database(empty: str) -> None:
    stores = [open_store(Settings(database_url=empty)) for _ in range(5)]
    await asyncio.gather(*(store.open() for store in stores))
    await asyncio.gather(*(store.close() for store in stores))
    with psycopg.connect(empty) as connection:
        found = connection.execute("SELECT version FROM postback_schema").fetchall()
    assert found == [(number,) for number, _ in migrations("postgres")]


async def test_a_running_process_outlives_a_newer_schema(
    url: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """It goes on, and says so."""
    caplog.set_level(logging.WARNING, "dispatcher")
    monkeypatch.setattr("dispatcher.store.postgres.database._OBSERVE_EVERY_S", 0.02)
    store = open_store(Settings(database_url=url))
    await store.open()
    try:
        with psycopg.connect(url) as connection:
            connection.execute("INSERT INTO postback_schema VALUES (999)")
        async with asyncio.timeout(60):
            while "newer version" not in caplog.text:  # noqa: ASYNC110  # a log has no event
                await asyncio.sleep(0.02)
        await store.check()
    finally:
        await store.close()


async def test_a_backup_is_left_to_the_servers_own_tools(url: str, tmp_path: Path) -> None:
    store = open_store(Settings(database_url=url))
    assert "pg_dump" in str(await raises(Conflict, store.backup(tmp_path / "copy")))
    assert not (tmp_path / "copy").exists()


async def test_a_store_that_is_closed_takes_nothing(url: str) -> None:
    store = open_store(Settings(database_url=url))
    await store.open()
    await store.close()
    with pytest.raises((RuntimeError, StoreUnavailable)):
        await store.check()


def test_migrate_says_which_database_without_its_password(
    empty: str, capfd: pytest.CaptureFixture[str]
) -> None:
    with_password = empty.replace("postback_test@", f"postback_test:{PASSWORD}@")
    assert main(["migrate", "--database-url", f"{with_password}?password={PASSWORD}"]) == 0
    said = capfd.readouterr()
    assert "is up to date" in said.out
    assert PASSWORD not in said.out + said.err


# --- the doctor ---


def test_the_doctor_finds_a_healthy_database(url: str) -> None:
    found = {check.name: check for check in postgres(Settings(database_url=url))}
    assert found["database"].state == found["schema"].state == found["sessions"].state == "ok"
    assert found["server clock"].state == found["vacuum"].state == "ok"
    assert found["durability"].state in ("ok", "bad")  # the tests' own server does not sync


@pytest.mark.parametrize("url", [f"postgresql://me:{PASSWORD}@127.0.0.1:1/x", "postgresql://:x:y"])
def test_the_doctor_says_what_is_wrong_without_the_password(url: str) -> None:
    (check,) = postgres(Settings(database_url=url))
    assert check.state == "bad"
    assert PASSWORD not in check.message


# --- workers ---


def test_workers_are_refused_on_sqlite(capfd: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    arguments = ["--workers", "2", "--database-url", f"sqlite:///{tmp_path}/x.db"]
    assert main(["serve", *arguments]) == 3
    assert "PostgreSQL" in capfd.readouterr().err
    assert list(tmp_path.iterdir()) == []


@pytest.mark.slow
def test_workers_share_one_address_and_are_started_again(url: str, tmp_path: Path) -> None:
    """SIGTERM ends them all in order; so does the death of the one that started them."""
    env = os.environ | {f"DISPATCHER_{name}": value for name, value in SETTINGS.items()}
    command = [sys.executable, "-m", "dispatcher", "serve", "--workers", "2"]
    with (tmp_path / "log").open("wb") as log:
        running = subprocess.Popen(
            [*command, "--database-url", url], stdout=subprocess.PIPE, stderr=log, env=env
        )
    assert running.stdout is not None
    assert running.stdout.readline().startswith(b"listening on http://")
    first = workers(url)
    assert len(first) == 2
    os.kill(children(running.pid)[0], signal.SIGKILL)
    until = time.monotonic() + 20
    while time.monotonic() < until and len(workers(url) - first) != 1:
        time.sleep(0.05)
    assert len(workers(url) - first) == 1
    running.send_signal(signal.SIGTERM)
    assert running.wait(20) == 0
    running.stdout.close()
    assert workers(url) == set()


def workers(url: str) -> set[str]:
    """The writers' sessions, which name their processes."""
    with psycopg.connect(url) as connection:
        return {
            row[0]
            for row in connection.execute(
                "SELECT application_name FROM pg_stat_activity "
                "WHERE application_name ~ '^postback [0-9a-f]{8}$' "
                "AND datname = current_database()"
            )
        }


def children(pid: int) -> list[int]:
    """Worker processes, without the helper that multiprocessing keeps."""
    text = Path(f"/proc/{pid}/task/{pid}/children").read_text("ascii")
    found = [int(one) for one in text.split()]
    return [one for one in found if b"spawn_main" in Path(f"/proc/{one}/cmdline").read_bytes()]


async def test_the_doctor_says_what_is_plain_on_a_server_and_which_key_is_missing(
    url: str, caplog: pytest.LogCaptureFixture
) -> None:
    """There is no key before somebody sets one; each start says so."""

    def sealed(**changes: Any) -> list[tuple[str, str, str]]:
        found = postgres(Settings(database_url=url, **changes))
        return [(one.state, one.message, one.advice or "") for one in found if one.name == "sealed"]

    store = open_store(Settings(database_url=url))
    await store.open()
    await store.ensure_tenant("acme", secret("acme"))
    await store.close()
    assert "stored as plain text: set DISPATCHER_ENCRYPTION_KEYS" in caplog.text
    (plain,) = sealed()
    assert plain[:2] == ("warn", "1 signing secrets are plain text")
    assert "DISPATCHER_ENCRYPTION_KEYS" in plain[2]
    store = open_store(Settings(database_url=url, encryption_keys=KEY))
    await store.open()
    await store.ensure_tenant("other", secret("other"))
    await store.close()
    (half,) = sealed(encryption_keys=KEY)
    assert half[0] == "warn"
    assert half[2] == "seal them: dispatcher secrets reencrypt"
    missing, _plain = sealed()
    assert missing[0] == "bad"
    assert "1 signing secrets (k1)" in missing[1]

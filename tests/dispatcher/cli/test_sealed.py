"""The command line where values are sealed: what is said of keys, and that none is shown."""

import asyncio
import sqlite3
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from dispatcher.cli.doctor import database
from dispatcher.settings import Settings
from dispatcher.store import open_store
from receiver.base import cli as base
from receiver.base.checkup import Check
from tests.dispatcher.cli.conftest import Run
from tests.dispatcher.client.running import settings_for
from tests.dispatcher.store.builders import TENANT, callback, secret
from tests.theft import KEY, NEXT_KEY


def filled(settings: Settings) -> None:
    """A database with a tenant's secret and a callback with headers."""

    async def fill() -> None:
        store = open_store(settings)
        await store.open()
        await store.ensure_tenant(TENANT, secret())
        await store.submit(callback(headers=(("X-Own", "value"),)), handover=False)
        await store.close()

    asyncio.run(fill())


def sealed(settings: Settings) -> list[Check]:
    found = [*database.sqlite(settings)]
    return [one for one in found if one.name in ("sealed", "keys", "key file", "payloads")]


def test_the_doctor_names_the_key_file_and_how_much_is_sealed(tmp_path: Path) -> None:
    settings = settings_for(tmp_path)
    filled(settings)
    (key_file,) = tmp_path.glob("*.key")
    kid = key_file.read_text().partition(":")[0]
    (found,) = sealed(settings)
    assert (found.state, str(key_file) in found.message) == ("ok", True)
    assert kid in found.message
    (older,) = sealed(replace(settings, encryption_keys=KEY))
    assert older.state == "warn"
    assert older.message == ("1 signing secrets, 1 callbacks' headers are sealed with an older key")
    assert older.advice == "seal them: dispatcher secrets reencrypt"
    key_file.chmod(0o640)
    assert [one.state for one in sealed(settings)] == ["warn", "ok"]


def test_the_doctor_misses_a_key_by_its_name(tmp_path: Path) -> None:
    settings = settings_for(tmp_path, encryption_keys=KEY)
    filled(settings)
    for keys in (None, NEXT_KEY):
        found = sealed(replace(settings, encryption_keys=keys))
        assert found[0].state == "bad"
        assert "1 signing secrets (k1)" in found[0].message
        assert "DISPATCHER_ENCRYPTION_KEYS" in (found[0].advice or "")
        assert ".key" in (found[0].advice or "")
    for wrong in (
        replace(settings, encryption_keys="k1:x"),
        replace(settings, encryption_keys=None, encryption="required"),
    ):
        bad = sealed(wrong)[0]
        assert (bad.name, bad.state) == ("keys", "bad")
        assert "DISPATCHER_ENCRYPTION_KEYS" in bad.message
    (tmp_path / "new").mkdir()
    new = settings_for(tmp_path / "new", encryption="required")
    assert [one.name for one in sealed(new)] == ["keys"]
    assert list(tmp_path.glob("*.key")) == []


def test_the_doctor_counts_what_is_plain(tmp_path: Path) -> None:
    settings = settings_for(tmp_path, encryption_keys=KEY)
    filled(settings)
    path = settings.database_url.removeprefix("sqlite:///")
    with closing(sqlite3.connect(path)) as connection:
        connection.execute("UPDATE secrets SET value = 'test-plain-secret'")
        connection.commit()
    (found,) = sealed(settings)
    assert (found.state, found.message) == ("warn", "1 signing secrets are plain text")
    assert found.advice == "seal them: dispatcher secrets reencrypt"


def test_a_backup_says_that_the_key_is_not_in_it(alone: Run, tmp_path: Path) -> None:
    settings = settings_for(tmp_path)
    filled(settings)
    (key_file,) = tmp_path.glob("*.key")
    url = ("--database-url", settings.database_url)
    told = alone("backup", *url, str(tmp_path / "copy.db"))
    assert told.code == 0
    assert str(key_file) in "".join(told.err.split("\n"))
    assert "copy.db.key" in told.err
    listed = alone("backup", *url, "--json", str(tmp_path / "again.db")).json
    assert listed["keyFile"] == str(key_file)
    assert not (tmp_path / "copy.db.key").exists()
    # A copy alone is not usable, and says what is missing.
    lost = alone("migrate", "--database-url", f"sqlite:///{tmp_path}/copy.db")
    assert lost.code == base.CANNOT_START
    for part in (key_file.read_text().partition(":")[0], "copy.db.key", "ENCRYPTION_KEYS"):
        assert part in lost.err
    (tmp_path / "copy.db.key").write_text(key_file.read_text())
    assert alone("migrate", "--database-url", f"sqlite:///{tmp_path}/copy.db").code == 0


def test_required_is_no_start_without_keys(
    alone: Run, environment: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    environment.setenv("DISPATCHER_ENCRYPTION", "required")
    for command in ("serve", "migrate"):
        told = alone(command, "--database-url", f"sqlite:///{tmp_path}/new.db")
        assert told.code == base.CANNOT_START
        assert "DISPATCHER_ENCRYPTION_KEYS is not set" in told.err
    assert list(tmp_path.iterdir()) == []


def test_everything_is_sealed_again_from_the_command_line(cli: Run) -> None:
    told = cli("secrets", "reencrypt")
    assert told.code == 0, told.err
    assert "values sealed with the key k" in told.out
    done: Any = cli("secrets", "reencrypt", "--json").json
    assert (done["state"], done["unopened"]) == ("done", 0)
    begun: Any = cli("secrets", "reencrypt", "--no-wait", "--json").json
    assert begun["state"] in ("running", "done")

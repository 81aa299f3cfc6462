"""What nobody foresaw: a sender tries again, and the operator reads why; sweeping goes on."""

import sqlite3
from pathlib import Path
from typing import Any

import psycopg
import pytest

from receiver import Receiver, Settings, sweeper
from receiver.inbox.inbox import InboxUnavailable
from receiver.inbox.postgres.database import SCHEMA
from receiver.testing import Client
from tests.receiver.conftest import empty_postgres, postgres_url  # noqa: F401 - fixtures
from tests.receiver.waiting import until

SECRET = "whsec_dGVzdC10ZXN0LXRlc3QtdGVzdC10ZXN0"


@pytest.mark.parametrize("store", ["sqlite", "postgres"])
async def test_an_error_that_nobody_foresaw_is_a_503_with_its_cause_in_the_log(
    store: str, tmp_path: Path, request: pytest.FixtureRequest, caplog: pytest.LogCaptureFixture
) -> None:
    """A table that is gone: nothing is taken, nothing refused for good, and it shows why."""
    caplog.set_level("INFO", "receiver")
    file = tmp_path / "inbox.db"
    url = f"sqlite:///{file}" if store == "sqlite" else request.getfixturevalue("empty_postgres")
    receiver = Receiver(Settings(secrets=(SECRET,), database_url=url))
    async with Client(receiver, SECRET) as client:
        if store == "sqlite":
            with sqlite3.connect(file) as db:
                db.execute("ALTER TABLE bodies RENAME TO gone")
            db.close()
        else:
            with psycopg.connect(url) as connection:
                connection.execute(f"ALTER TABLE {SCHEMA}.bodies RENAME TO gone")
        response = await client.post(b'{"jobId": "job_1", "status": "completed"}')
        assert response.status_code == 503
        assert "retry-after" in response.headers
        assert "bodies" not in response.text
        assert any("bodies" in str(getattr(r, "fields", r.__dict__)) for r in caplog.records)
        with pytest.raises(InboxUnavailable, match="bodies"):
            await receiver.inbox.show(1)


async def test_the_sweeper_goes_on_after_what_nobody_foresaw(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """It begins soon, says what was wrong, and prunes the next time."""
    monkeypatch.setattr(sweeper, "FIRST_S", 0.01)
    monkeypatch.setattr(sweeper, "EVERY_S", 0.01)
    sweeps: list[Any] = []

    async def sweep(self: Any) -> None:
        sweeps.append(self)
        if len(sweeps) == 1:
            raise ZeroDivisionError

    monkeypatch.setattr(sweeper.Sweeper, "sweep", sweep)
    settings = Settings(secrets=(SECRET,), database_url=f"sqlite:///{tmp_path}/inbox.db")
    async with Receiver(settings):
        await until(lambda: len(sweeps) > 2)
    assert "bug" in caplog.text


def test_the_first_sweep_comes_soon() -> None:
    """A process that lives for minutes alone prunes too."""
    assert sweeper.FIRST_S < 60

"""server.py: the line that a start writes tells what whoever started it looks for."""

import json
from pathlib import Path

import pytest

from dispatcher.server import _start_fields
from dispatcher.settings import Settings
from receiver.base.db.url import whereabouts
from tests.theft import ADMIN_KEY, served

URL = "http://127.0.0.1:8600"


def test_a_start_says_where_the_data_and_the_reference_are(tmp_path: Path) -> None:
    """In one line of the log, beside where it listens; and a server's own coming and going is no
    news."""
    log = tmp_path / "log"
    with served(f"sqlite:///{tmp_path}/here.db", log) as running:
        url = str(running.client.base_url).rstrip("/")
    lines = [json.loads(line) for line in log.read_text().splitlines()]
    (line,) = [one for one in lines if one["event"] == "listening"]
    assert line["url"] == url
    assert line["data"] == f"{tmp_path}/here.db"
    assert (line["docs"], line["metrics"]) == (f"{url}/docs", f"{url}/metrics")
    assert line["networks"] == "global, 127.0.0.0/8"
    assert line["key"] == "DISPATCHER_ADMIN_KEY"
    assert ADMIN_KEY not in log.read_text()
    assert not [one for one in lines if one["logger"].startswith("uvicorn")]


def test_what_is_not_set_is_told_by_its_setting() -> None:
    fields = _start_fields(Settings(), URL)
    assert fields["networks"] == "global (DISPATCHER_ALLOW_NETWORKS)"
    assert "dispatcher keys" in fields["key"]


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("sqlite:////var/lib/postback.db", "/var/lib/postback.db"),
        (
            "postgresql://me:hidden@db.internal:5432/postback?sslmode=require",
            "postgresql://me@db.internal:5432/postback",
        ),
    ],
)
def test_a_database_is_told_without_its_password(url: str, shown: str) -> None:
    assert whereabouts(url) == shown


def test_a_file_is_told_by_its_whole_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Relative, it is somewhere else for each who starts it."""
    monkeypatch.chdir(tmp_path)
    assert whereabouts("sqlite:///postback.db") == f"{tmp_path}/postback.db"

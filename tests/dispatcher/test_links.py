"""Where links begin: what a start says of it, once, by whichever process; and what the doctor
says."""

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import httpx
import pytest

from dispatcher.cli.doctor import checks
from dispatcher.settings import Settings
from tests.dispatcher.postgres import folders

ADMIN_KEY = "fake-admin-key-of-links"
TOLD = "DISPATCHER_PUBLIC_URL is not set"


@contextmanager
def served(database_url: str, log: Path, *words: str, **settings: str) -> Iterator[httpx.Client]:
    """A running `dispatcher serve`, its log in a file; stopped in order."""
    env = {name: value for name, value in os.environ.items() if not name.startswith("DISPATCHER_")}
    given = {"DATABASE_URL": database_url, "PORT": "0", "ADMIN_KEY": ADMIN_KEY, **settings}
    env |= {f"DISPATCHER_{name}": value for name, value in given.items()}
    argv = [sys.executable, "-m", "dispatcher", "serve", *words]
    with (
        log.open("a") as stderr,
        subprocess.Popen(
            argv, env=env, text=True, stdout=subprocess.PIPE, stderr=stderr
        ) as process,
    ):
        try:
            assert process.stdout is not None
            said = process.stdout.readline()
            assert said.startswith("listening on "), log.read_text()
            url = said.removeprefix("listening on ").strip()
            headers = {"Authorization": f"Bearer {ADMIN_KEY}"}
            with httpx.Client(base_url=url, headers=headers, trust_env=False) as client:
                yield client
        finally:
            process.send_signal(signal.SIGTERM)
            process.wait(60)


def told(log: Path) -> list[dict[str, Any]]:
    """The lines that speak of the public URL."""
    return [json.loads(line) for line in log.read_text().splitlines() if TOLD in line]


@pytest.mark.parametrize("words", [(), ("--workers", "2")])
def test_a_start_says_which_endpoints_need_another(tmp_path: Path, words: tuple[str, ...]) -> None:
    """Only where there are endpoints, only where it is not set, and once, however many workers."""
    url, log = f"sqlite:///{tmp_path}/postback.db", tmp_path / "log"
    if words:
        url = folders.url_for(tmp_path, used=True)
    try:
        with served(url, log, *words) as client:
            body = {"name": "shout", "url": "http://127.0.0.1:9/"}
            assert client.post("/v1/endpoints", json=body).status_code == 201
        assert told(log) == []
        with served(url, log, *words) as client:
            address = str(client.base_url).rstrip("/")
        (line,) = told(log)
        assert (line["level"], line["url"], line["endpoints"]) == ("warning", address, ["shout"])
        with served(url, log, *words, PUBLIC_URL="https://jobs.example.com"):
            pass
        assert len(told(log)) == 1
    finally:
        folders.empty_under(tmp_path)


def test_an_address_that_is_everybodys_is_none_in_links(tmp_path: Path) -> None:
    """Who listens at all addresses is found, on this machine, at its own."""
    url, log = f"sqlite:///{tmp_path}/postback.db", tmp_path / "log"
    file = tmp_path / "postback.toml"
    file.write_text('[endpoints.shout]\nurl = "http://127.0.0.1:9/"\n')
    with served(url, log, HOST="0.0.0.0", APPLY=str(file)):
        pass
    (line,) = told(log)
    assert line["url"].startswith("http://127.0.0.1:")


def test_the_doctor_says_what_links_begin_with(tmp_path: Path) -> None:
    """A warning where jobs can need another than the address that is listened on."""
    plain = Settings(database_url=f"sqlite:///{tmp_path}/postback.db")
    found = checks.links(plain, has_endpoints=False)
    assert (found.state, "http://127.0.0.1:8600" in found.message) == ("ok", True)
    needed = checks.links(plain, has_endpoints=True)
    assert (needed.state, "callbacks" in (needed.advice or "")) == ("warn", True)
    given = replace(plain, public_url="https://jobs.example.com", hosts=("api.example.com",))
    found = checks.links(given, has_endpoints=True)
    assert found.state == "ok"
    assert "https://jobs.example.com" in found.message
    assert "api.example.com" in found.message

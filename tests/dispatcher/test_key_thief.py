"""A thief who has the database's files, its backup and the log finds no API key: digests are all
that is kept, whatever was done with a key, and however wrong it was typed (I8)."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any, Final

import httpx
import pytest

from tests import theft
from tests.dispatcher.postgres.server import private_server

ADMIN_KEY: Final = "the-admin-key-of-tests-of-thieves"
WITHIN_S: Final = 60.0


@contextmanager
def served(folder: Path, url: str, log: Path) -> Iterator[httpx.Client]:
    """`dispatcher serve`, with all that it logs in a file; killed at the end, so that what it would
    tidy up stays where it was."""
    environ = {
        **os.environ,
        "DISPATCHER_DATABASE_URL": url,
        "DISPATCHER_PORT": "0",
        "DISPATCHER_ADMIN_KEY": ADMIN_KEY,
        "DISPATCHER_LOG_FORMAT": "json",
        "DISPATCHER_LOG_LEVEL": "debug",
    }
    with log.open("ab") as stderr:
        popen = subprocess.Popen(
            [sys.executable, "-m", "dispatcher", "serve"], env=environ, cwd=folder,
            stdout=stderr, stderr=stderr,
        )  # fmt: skip
    try:
        with httpx.Client(base_url=_url(log), trust_env=False, timeout=WITHIN_S) as client:
            yield client
    finally:
        popen.send_signal(signal.SIGKILL)
        popen.wait(WITHIN_S)


def _url(log: Path) -> str:
    end = time.monotonic() + WITHIN_S
    while time.monotonic() < end:
        lines = [line for line in log.read_text().splitlines() if '"listening"' in line]
        if lines:
            return str(json.loads(lines[-1])["url"])
        time.sleep(0.02)
    raise AssertionError(log.read_text())


def ask(client: httpx.Client, key: str, method: str, path: str, **document: Any) -> httpx.Response:
    headers = {"Authorization": f"Bearer {key}"}
    return client.request(method, path, json=document or None, headers=headers)


def story(client: httpx.Client) -> dict[str, bytes]:
    """A key is made, used, mistyped, refused, rotated, rotated by force and revoked; return what
    nobody is to find."""
    made = ask(client, ADMIN_KEY, "POST", "/v1/keys", scopes=["admin", "read"], ratePerSecond=99)
    id, first = made.json()["id"], made.json()["key"]
    assert ask(client, first, "GET", "/v1/callbacks").status_code == 200
    wrong = first[:-1] + ("a" if first[-1] != "a" else "b")
    assert ask(client, wrong, "GET", "/v1/callbacks").status_code == 401
    assert ask(client, first, "POST", "/v1/callbacks", jobId="j").status_code == 403
    texts = [first, wrong]
    for force in (False, True):
        body = {"force": force, "overlap": 60}
        rotated = ask(client, ADMIN_KEY, "POST", f"/v1/keys/{id}/rotate", **body)
        texts.append(rotated.json()["key"])
        assert ask(client, texts[-1], "GET", "/v1/keys").status_code == 200
    assert ask(client, first, "GET", "/v1/keys").status_code == 401
    other = ask(client, texts[-1], "POST", "/v1/keys", scopes=["read"]).json()
    texts.append(other["key"])
    assert ask(client, other["key"], "GET", "/v1/callbacks").status_code == 200
    assert ask(client, ADMIN_KEY, "DELETE", f"/v1/keys/{other['id']}").status_code == 204
    assert ask(client, other["key"], "GET", "/v1/callbacks").status_code == 401
    return {f"key {n}": text.encode() for n, text in enumerate(texts)} | {
        "the admin key": ADMIN_KEY.encode()
    }


def found(folders: list[Path], secrets: dict[str, bytes]) -> list[str]:
    """What was found, but for digests, which are kept: nobody guesses 256 random bits by them."""
    return theft.found([secret.decode() for secret in secrets.values()], *folders)


@pytest.mark.parametrize("dialect", ["sqlite", pytest.param("postgres", marks=pytest.mark.slow)])
def test_a_thief_finds_no_api_key(tmp_path: Path, dialect: str) -> None:
    """Neither in tables and write-ahead logs, nor in a backup or a line of log; the same search
    finds a label, which is kept as it is."""
    with ExitStack() as stack:
        url, folders = f"sqlite:///{tmp_path}/d.db", [tmp_path]
        if dialect == "postgres":
            server = stack.enter_context(private_server(durable=True))
            url, folders = server.url, [tmp_path, server.folder]
        label = b"a-label-that-is-kept-as-it-is"
        with served(tmp_path, url, tmp_path / "log") as client:
            secrets = story(client)
            body = {"scopes": ["read"], "label": label.decode()}
            assert ask(client, ADMIN_KEY, "POST", "/v1/keys", **body).status_code == 201
            assert found(folders, secrets) == []
            assert found(folders, {"the label": label})
        if dialect == "sqlite":
            backup = [sys.executable, "-m", "dispatcher", "backup", str(tmp_path / "copy.db")]
            environ = {**os.environ, "DISPATCHER_DATABASE_URL": url}
            assert subprocess.run(backup, env=environ, check=False).returncode == 0
        assert found(folders, secrets) == []

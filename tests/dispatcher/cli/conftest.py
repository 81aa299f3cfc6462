"""One real service for all tests of the command line; each test has a tenant of its own."""

import json
import sys
import uuid
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cache
from typing import Any

import pytest
import typer.main

import dispatcher.cli.root
from dispatcher.cli import main
from dispatcher.cli.root import build
from dispatcher.client import Client
from tests import marks
from tests.dispatcher.client.running import ADMIN_KEY, Running, running, settings_for


@dataclass(frozen=True, slots=True, kw_only=True)
class Ran:
    """What a command came to."""

    code: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        """Its output as one JSON document."""
        return json.loads(self.out)

    @property
    def lines(self) -> list[Any]:
        """Its output as one JSON document a line."""
        return [json.loads(line) for line in self.out.splitlines()]


Run = Callable[..., Ran]


@cache
def _commands() -> Any:
    """All of them, built once: it takes longer than most of them run."""
    return typer.main.get_command(build())


@pytest.fixture(scope="session")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    with running(settings_for(tmp_path_factory.mktemp("service"))) as found:
        yield found


@pytest.fixture
def tenant() -> str:
    return f"t{uuid.uuid4().hex[:12]}"


@pytest.fixture
def client(service: Running, tenant: str) -> Iterator[Client]:
    with Client(service.url, ADMIN_KEY, tenant=tenant) as found:
        yield found


@pytest.fixture
def environment(monkeypatch: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    """No setting of whoever runs the tests, and no colours."""
    for name in ("URL", "API_KEY", "ADMIN_KEY", "HOST", "PORT", "DATABASE_URL", "SIGNING_SECRET"):
        monkeypatch.delenv(f"DISPATCHER_{name}", raising=False)
    monkeypatch.setenv("NO_COLOR", "1")
    monkeypatch.setenv("COLUMNS", "80")
    return monkeypatch


@pytest.fixture
def alone(environment: pytest.MonkeyPatch, capfdbinary: pytest.CaptureFixture[bytes]) -> Run:
    """Run a command where there is no service."""
    environment.setattr(dispatcher.cli.root, "build", lambda _word: _commands())

    def run(*argv: str) -> Ran:
        capfdbinary.readouterr()
        before = marks.look()
        code = main(list(argv))
        marks.put_back(before)
        sys.stdout.flush()
        sys.stderr.flush()
        out, err = capfdbinary.readouterr()
        return Ran(code=code, out=out.decode(), err=err.decode())

    return run


@pytest.fixture
def cli(alone: Run, environment: pytest.MonkeyPatch, service: Running, tenant: str) -> Run:
    """Run a command of this test's tenant against the service."""
    environment.setenv("DISPATCHER_URL", service.url)
    environment.setenv("DISPATCHER_API_KEY", ADMIN_KEY)

    def run(*argv: str) -> Ran:
        return alone("--tenant", tenant, *argv)

    return run

"""How the tests find a PostgreSQL, and what they say when there is none."""

from pathlib import Path

import pytest

from tests.dispatcher.postgres import server


def test_without_a_server_tests_skip_and_say_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("CI", raising=False)
    monkeypatch.setattr(server, "binaries", lambda: None)
    with (
        pytest.raises(pytest.skip.Exception, match=server.VARIABLE),
        server.private_server(durable=False),
    ):
        pass


def test_under_ci_a_missing_server_is_a_failure(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CI", "true")
    monkeypatch.setattr(server, "binaries", lambda: None)
    with (
        pytest.raises(pytest.fail.Exception, match=server.VARIABLE),
        server.private_server(durable=False),
    ):
        pass


def test_the_server_that_is_named_is_the_one_that_is_used(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(server.VARIABLE, "postgresql://somewhere/else")
    assert server.shared_url.__wrapped__() == "postgresql://somewhere/else"


def test_a_private_server_leaves_nothing_behind() -> None:
    with server.private_server(durable=False) as running:
        folder: Path = running.folder
        assert (folder / "data" / "PG_VERSION").exists()
        process = running.process
    assert not folder.exists()
    assert process is not None
    assert process.poll() is not None

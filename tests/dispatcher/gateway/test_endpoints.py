"""endpoints.py: rules as they are now, and the values of headers (GATEWAY 3)."""

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from dispatcher.gateway.endpoints import EndpointBook, LocalValues
from dispatcher.jobs.endpoint import Endpoint, EndpointRules, LocalRef
from dispatcher.settings import Settings
from dispatcher.signing import SecretCache, SecretMissing
from dispatcher.store.errors import StoreUnavailable
from dispatcher.values import SecretRef, SigningSecret, StoredSecret
from receiver.base.lack import OwnLack
from receiver.base.settings import SettingError


def endpoint(name: str, **rules: Any) -> Endpoint:
    made = EndpointRules(url="http://127.0.0.1:9000/", **rules)
    return Endpoint(name=name, rules=made, text="{}", created_ms=0, updated_ms=0)


class World:
    def __init__(self) -> None:
        self.stored: list[Endpoint] = []
        self.failures = 0
        self.reads = 0
        self.on_read: Callable[[], object] = lambda: None
        self.secrets: dict[str, str] = {}
        cache = SecretCache(self._signing, self._values)
        self.book = EndpointBook(Settings(), self._read, cache)

    async def _read(self) -> Sequence[Endpoint]:
        self.reads += 1
        self.on_read()
        if self.failures:
            self.failures -= 1
            raise StoreUnavailable("gone")
        return list(self.stored)

    async def _signing(self, _tenant: str) -> Sequence[SigningSecret]:
        return ()

    async def _values(self, owner: str) -> dict[str, StoredSecret]:
        assert owner == "", "the platform's own"
        return {
            name: StoredSecret(name=name, updated_ms=0, value=value)
            for name, value in self.secrets.items()
        }


async def test_rules_are_those_of_now() -> None:
    """A change acts on the backlog: nothing is frozen in a job."""
    world = World()
    world.stored = [endpoint("b"), endpoint("a")]
    await world.book.reload()
    assert [one.name for one in world.book.all()] == ["a", "b"]
    world.stored = [replace(endpoint("a", concurrency=9), paused=True)]
    await world.book.reload()
    found = world.book.get("a")
    assert found is not None
    assert (found.rules.concurrency, found.paused) == (9, True)
    assert world.book.get("b") is None


async def test_what_another_process_changed_is_read_until_it_is() -> None:
    world = World()
    world.stored, world.failures = [endpoint("a")], 1
    twice = asyncio.Event()
    world.on_read = lambda: twice.set() if world.reads == 2 else None
    world.book.changed()
    await asyncio.wait_for(twice.wait(), 5)
    await asyncio.sleep(0)
    assert world.book.get("a") is not None


async def test_a_change_during_the_reading_is_read_too() -> None:
    world = World()
    twice = asyncio.Event()

    def on_read() -> None:
        if world.reads == 1:
            world.stored = [endpoint("a")]
            world.book.changed()
        else:
            twice.set()

    world.on_read = on_read
    world.book.changed()
    await asyncio.wait_for(twice.wait(), 5)
    await asyncio.sleep(0)
    assert world.book.get("a") is not None


async def test_headers_are_made_when_a_call_is() -> None:
    world = World()
    headers = (("X-Plain", "p"), ("Authorization", SecretRef("token", "Bearer ")))
    world.secrets["token"] = "t-1"
    made = await world.book.headers(endpoint("a", headers=headers))
    assert made == (("X-Plain", "p"), ("Authorization", "Bearer t-1"))


async def test_a_secret_that_is_not_there_is_our_own_lack() -> None:
    """Never charged to the job, which waits until somebody stores it."""
    world = World()
    with pytest.raises(SecretMissing):
        await world.book.headers(endpoint("a", headers=(("A", SecretRef("none")),)))


async def test_a_variable_of_our_own_is_read_with_its_prefix(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("DISPATCHER_UPSTREAM_TOKEN", "t-2")
    world = World()
    ref = LocalRef("env", "DISPATCHER_UPSTREAM_TOKEN", "Bearer ")
    assert await world.book.headers(endpoint("a", headers=(("A", ref),))) == (("A", "Bearer t-2"),)


async def test_what_cannot_be_read_is_our_own_lack() -> None:
    world = World()
    with pytest.raises(OwnLack, match="env:DISPATCHER_UPSTREAM_NONE: ") as met:
        await world.book.headers(
            endpoint("a", headers=(("A", LocalRef("env", "DISPATCHER_UPSTREAM_NONE")),))
        )
    assert met.value.what == "upstream_values"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    inside = tmp_path / "secrets"
    (inside / "deep").mkdir(parents=True)
    (inside / "token").write_text("of the file\n")
    (inside / "deep" / "token").write_text("deep")
    (inside / "two").write_text("a\nb")
    (inside / "empty").write_text("\n")
    (tmp_path / "outside").write_text("not for us")
    (inside / "link").symlink_to(inside / "token")
    (inside / "out").symlink_to(tmp_path / "outside")
    return inside


@pytest.mark.parametrize(
    ("name", "value"), [("token", "of the file"), ("deep/token", "deep"), ("link", "of the file")]
)
def test_a_file_below_the_folder_is_read(folder: Path, name: str, value: str) -> None:
    values = LocalValues(Settings(upstream_secrets=str(folder)))
    assert values.read(LocalRef("file", name)) == value


@pytest.mark.parametrize(
    "name", ["out", "../outside", "/etc/hostname", "none", ".", "two", "empty", "a\0b"]
)
def test_no_other_file_is_read(folder: Path, name: str) -> None:
    """Regular files under the folder, links resolved; and what they hold is never shown."""
    values = LocalValues(Settings(upstream_secrets=str(folder)))
    with pytest.raises(SettingError, match="file:") as met:
        values.read(LocalRef("file", name))
    assert "not for us" not in str(met.value)


def test_without_a_folder_no_file_is_read() -> None:
    with pytest.raises(SettingError, match="DISPATCHER_UPSTREAM_SECRETS"):
        LocalValues(Settings()).read(LocalRef("file", "token"))


async def test_a_value_is_kept_for_some_seconds_and_then_read_again(folder: Path) -> None:
    now = [0]
    values = LocalValues(Settings(upstream_secrets=str(folder)), monotonic_ms=lambda: now[0])
    ref = LocalRef("file", "token")
    assert await values.get(ref) == "of the file"
    (folder / "token").write_text("rotated")
    assert await values.get(ref) == "of the file"
    now[0] = 10_000
    assert await values.get(ref) == "rotated"

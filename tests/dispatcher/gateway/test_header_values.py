"""header_values.py: what headers of endpoints name, and what they may not."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from dispatcher.gateway.header_values import HeaderValues, read_local
from dispatcher.jobs.endpoint import LocalRef
from dispatcher.settings import Settings
from dispatcher.signing import SecretCache, SecretMissing
from dispatcher.values import SecretRef, SigningSecret, StoredSecret
from receiver.base.lack import OwnLack
from receiver.base.settings import SettingError

STORED: dict[str, str] = {"token": "t-1"}


async def _signing(_tenant: str) -> Sequence[SigningSecret]:
    return ()


async def _stored(owner: str) -> dict[str, StoredSecret]:
    assert owner == "", "the platform's own"
    return {
        name: StoredSecret(name=name, updated_ms=0, value=value) for name, value in STORED.items()
    }


def values_of(settings: Settings, **more: Any) -> HeaderValues:
    return HeaderValues(settings, SecretCache(_signing, _stored), **more)


async def test_a_stored_secret_is_the_platforms() -> None:
    assert await values_of(Settings()).get(SecretRef("token", "Bearer ")) == "t-1"


async def test_a_secret_that_is_not_there_is_our_own_lack() -> None:
    """Never charged to the job, which waits until somebody stores it."""
    with pytest.raises(SecretMissing):
        await values_of(Settings()).get(SecretRef("none"))


async def test_a_variable_of_our_own_is_read(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DISPATCHER_UPSTREAM_TOKEN", "t-2")
    ref = LocalRef("env", "DISPATCHER_UPSTREAM_TOKEN", "Bearer ")
    assert await values_of(Settings()).get(ref) == "t-2"


async def test_what_cannot_be_read_is_our_own_lack() -> None:
    with pytest.raises(OwnLack, match="env:DISPATCHER_UPSTREAM_NONE: ") as met:
        await values_of(Settings()).get(LocalRef("env", "DISPATCHER_UPSTREAM_NONE"))
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
    assert read_local(LocalRef("file", name), str(folder)) == value


@pytest.mark.parametrize(
    "name", ["out", "../outside", "/etc/hostname", "none", ".", "two", "empty", "a\0b"]
)
def test_no_other_file_is_read(folder: Path, name: str) -> None:
    """Regular files under the folder, links resolved; and what they hold is never shown."""
    with pytest.raises(SettingError, match="file:") as met:
        read_local(LocalRef("file", name), str(folder))
    assert "not for us" not in str(met.value)


def test_without_a_folder_no_file_is_read() -> None:
    with pytest.raises(SettingError, match="DISPATCHER_UPSTREAM_SECRETS"):
        read_local(LocalRef("file", "token"), None)


async def test_a_value_is_kept_for_some_seconds_and_then_read_again(folder: Path) -> None:
    now = [0]
    values = values_of(Settings(upstream_secrets=str(folder)), monotonic_ms=lambda: now[0])
    ref = LocalRef("file", "token")
    assert await values.get(ref) == "of the file"
    (folder / "token").write_text("rotated")
    assert await values.get(ref) == "of the file"
    now[0] = 10_000
    assert await values.get(ref) == "rotated"

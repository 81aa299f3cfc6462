"""Profiles of a config file: what the environment is read over, or what wins over it."""

from pathlib import Path

import pytest

from receiver.base.profiles import with_profile
from receiver.base.settings import SettingError

NAMES = ("url", "api_key", "tenant")


def look(path: Path, profile: str | None = None, **environ: str) -> dict[str, str]:
    given = {"POSTBACK_CONFIG": str(path), **environ}
    found = with_profile("DISPATCHER_", NAMES, profile, given)
    return {key: value for key, value in found.items() if key != "POSTBACK_CONFIG"}


def write(path: Path, text: str) -> Path:
    path.write_text(text)
    path.chmod(0o600)
    return path


@pytest.fixture
def path(tmp_path: Path) -> Path:
    text = """
    [dispatcher.default]
    url = "http://default"
    api_key_file = "/keys/default"
    [dispatcher.production]
    url = "http://production"
    api_key = "pbk_production"
    [receiver.production]
    url = "http://receiver"
    """
    return write(tmp_path / "config.toml", text)


def test_the_default_is_used_where_the_environment_says_nothing(path: Path) -> None:
    """Neither where the service is nor with which key: a key goes nowhere that it was not set
    beside."""
    assert look(path, DISPATCHER_TENANT="acme") == {
        "DISPATCHER_TENANT": "acme",
        "DISPATCHER_URL": "http://default",
        "DISPATCHER_API_KEY_FILE": "/keys/default",
    }
    for name in ("URL", "API_KEY", "API_KEY_FILE", "ADMIN_KEY"):
        given = {f"DISPATCHER_{name}": "mine"}
        assert look(path, None, **given) == given


def test_a_key_of_the_environment_does_not_go_to_a_profile_s_service(tmp_path: Path) -> None:
    config = write(tmp_path / "config.toml", "[dispatcher.other]\nurl = 'http://other'")
    found = look(config, "other", DISPATCHER_API_KEY="mine", DISPATCHER_ADMIN_KEY_FILE="/x")
    assert found == {"DISPATCHER_URL": "http://other"}


def test_one_that_is_named_wins(path: Path) -> None:
    """By an option, or by the variable; it replaces what says the same in a file."""
    expected = {"DISPATCHER_URL": "http://production", "DISPATCHER_API_KEY": "pbk_production"}
    found = look(path, "production", DISPATCHER_URL="http://mine", DISPATCHER_API_KEY_FILE="/x")
    assert found == expected
    named = look(path, DISPATCHER_PROFILE="production", DISPATCHER_URL="http://mine")
    assert named == expected | {"DISPATCHER_PROFILE": "production"}


def test_without_a_file_there_is_the_environment(tmp_path: Path) -> None:
    assert look(tmp_path / "none.toml", DISPATCHER_URL="http://mine") == {
        "DISPATCHER_URL": "http://mine"
    }
    assert with_profile("DISPATCHER_", NAMES, None, {}) == {}
    home = {"HOME": str(tmp_path), "DISPATCHER_URL": "x"}
    assert with_profile("DISPATCHER_", NAMES, None, home) == home


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("[dispatcher.p]\nurll = 'x'", "did you mean 'url'?"),
        ("[dispatcher.p]\nurl = 1", "must be a text"),
        ("[dispatcher]\np = 1", "a profile is a table"),
        ("dispatcher = 1", "a profile is a table"),
        ("[dispatcher.q]\nurl = 'x'", "there is no profile 'p'"),
        ("[dispatcher.p", "config.toml: "),
    ],
)
def test_what_cannot_be_read_is_one_line(tmp_path: Path, text: str, told: str) -> None:
    with pytest.raises(SettingError, match=r"^[^\n]*$") as met:
        look(write(tmp_path / "config.toml", text), "p")
    assert told in str(met.value)


def test_a_key_stands_in_no_file_that_others_can_read(path: Path) -> None:
    path.chmod(0o640)
    with pytest.raises(SettingError, match="chmod 600"):
        look(path, "production")
    assert look(path)["DISPATCHER_API_KEY_FILE"] == "/keys/default"  # a path is no secret

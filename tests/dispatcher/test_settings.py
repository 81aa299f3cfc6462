"""settings.py: every variable, its bounds, and one clear error for what cannot be used."""

import ipaddress
from dataclasses import Field, fields
from pathlib import Path
from typing import Any

import pytest

from dispatcher.settings import (
    ClientSettings,
    Settings,
    load,
    load_client,
    strays,
    upstream_value,
    variable,
)
from receiver.base.settings import SettingError

ALL: list[Field[Any]] = list(fields(Settings))
NUMBERS = [one for one in ALL if one.type in (int, float)]
# Together, because one may not exceed the other.
KEPT = ("keep_keys", "keep_delivered", "keep_dead", "keep_delivered_payload")


def names(one: Field[Any]) -> str:
    return one.name


def test_an_empty_environment_gives_the_defaults() -> None:
    assert load({}) == Settings()
    for one in ALL:
        assert getattr(load({}), one.name) == one.default


@pytest.mark.parametrize("one", ALL, ids=names)
def test_every_setting_says_what_it_is_for(one: Field[Any]) -> None:
    assert one.metadata["about"]


@pytest.mark.parametrize("one", ALL, ids=names)
def test_an_empty_variable_is_as_good_as_none(one: Field[Any]) -> None:
    assert load({variable(one.name): "  "}) == Settings()


@pytest.mark.parametrize("one", NUMBERS, ids=names)
def test_every_default_lies_within_its_bounds(one: Field[Any]) -> None:
    assert one.metadata["min"] <= one.default <= one.metadata["max"]


@pytest.mark.parametrize("one", NUMBERS, ids=names)
def test_both_bounds_of_a_number_can_be_set(one: Field[Any]) -> None:
    for bound in ("min", "max"):
        value = one.metadata[bound]
        text = str(int(value)) if float(value).is_integer() else str(value)
        environ = {variable(name): text for name in (KEPT if one.name in KEPT else (one.name,))}
        assert getattr(load(environ), one.name) == value


@pytest.mark.parametrize("one", NUMBERS, ids=names)
@pytest.mark.parametrize("text", ["lots", "1,5", "0x10", "nan", "inf", "-inf", "-1", "1e400", "--"])
def test_a_number_that_cannot_be_is_refused_by_its_variables_name(
    one: Field[Any], text: str
) -> None:
    with pytest.raises(SettingError) as met:
        load({variable(one.name): text})
    assert variable(one.name) in str(met.value)
    assert text in str(met.value)


@pytest.mark.parametrize("one", NUMBERS, ids=names)
def test_a_number_out_of_its_bounds_is_told_them(one: Field[Any]) -> None:
    beyond = str(int(one.metadata["max"]) + 1)
    with pytest.raises(SettingError, match=f"{variable(one.name)} must be from"):
        load({variable(one.name): beyond})


@pytest.mark.parametrize("name", [one.name for one in NUMBERS if one.type is int])
def test_a_whole_number_has_no_fraction(name: str) -> None:
    with pytest.raises(SettingError, match=f"{variable(name)} must be a whole number"):
        load({variable(name): "8.5"})


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("log_format", "xml"),
        ("log_level", "loud"),
        ("allow_networks", "10.0.0.0/99"),
        ("allow_networks", "10.0.0.1/8"),
        ("allow_networks", "localhost"),
    ],
)
def test_a_word_that_is_none_of_its_kind_is_refused(name: str, text: str) -> None:
    with pytest.raises(SettingError) as met:
        load({variable(name): text})
    assert variable(name) in str(met.value)


def test_texts_and_networks_are_taken_as_they_are() -> None:
    found = load(
        {
            "DISPATCHER_DATABASE_URL": "sqlite:////var/lib/x.db",
            "DISPATCHER_HOST": "::1",
            "DISPATCHER_ADMIN_KEY": "test-key",
            "DISPATCHER_ALLOW_NETWORKS": "127.0.0.0/8, ::1/128,",
            "DISPATCHER_LOG_FORMAT": "json",
            "DISPATCHER_LOG_LEVEL": "debug",
        }
    )
    assert (found.database_url, found.host) == ("sqlite:////var/lib/x.db", "::1")
    assert found.admin_key == "test-key"
    assert found.allow_networks == (
        ipaddress.ip_network("127.0.0.0/8"),
        ipaddress.ip_network("::1/128"),
    )
    assert (found.log_format, found.log_level) == ("json", "debug")


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"keep_keys": "100", "keep_delivered": "99"}, "DISPATCHER_KEEP_KEYS"),
        ({"keep_keys": "100", "keep_dead": "99"}, "DISPATCHER_KEEP_KEYS"),
        (
            {"keep_keys": "1", "keep_delivered": "99", "keep_delivered_payload": "100"},
            "DISPATCHER_KEEP_DELIVERED_PAYLOAD",
        ),
    ],
)
def test_periods_that_contradict_each_other_are_refused(
    changes: dict[str, str], named: str
) -> None:
    with pytest.raises(SettingError, match=named):
        load({variable(name): text for name, text in changes.items()})


@pytest.mark.parametrize(
    "url", ["https://api.example.com", "http://10.0.0.1:8600", "http://[::1]:80/postback"]
)
def test_links_begin_with_the_public_url(url: str) -> None:
    assert load({"DISPATCHER_PUBLIC_URL": url}).public_url == url


@pytest.mark.parametrize(
    "url", ["api.example.com", "ftp://x", "https://", "https://a@b", "https://x/?a=1", "http://x y"]
)
def test_a_public_url_is_one_that_links_can_begin_with(url: str) -> None:
    with pytest.raises(SettingError, match="DISPATCHER_PUBLIC_URL takes http"):
        load({"DISPATCHER_PUBLIC_URL": url})


@pytest.mark.parametrize("hosts", ["a b", "https://x", "x/y", "x:y", "::1"])
def test_hosts_are_what_a_request_can_name(hosts: str) -> None:
    assert load({"DISPATCHER_HOSTS": "a.example, [::1]:80"}).hosts == ("a.example", "[::1]:80")
    with pytest.raises(SettingError, match="DISPATCHER_HOSTS takes hosts"):
        load({"DISPATCHER_HOSTS": hosts})


def test_half_of_the_connections_may_wait_unless_it_is_said() -> None:
    assert load({"DISPATCHER_CONNECTIONS_MAX": "100"}).held_requests_max == 50
    assert load({"DISPATCHER_CONNECTIONS_MAX": "1"}).held_requests_max == 1
    assert load({"DISPATCHER_WAITERS_MAX": "7"}).held_requests_max == 7


def test_a_callback_carries_no_more_than_a_payload_may_be() -> None:
    assert load({}).inline_max == 256 * 1024
    assert load({"DISPATCHER_PAYLOAD_BYTES_MAX": "1000"}).inline_max == 1_000


def test_values_of_upstreams_come_from_variables_of_their_own(tmp_path: Path) -> None:
    """Only names that begin with `DISPATCHER_UPSTREAM_`, and no setting among them."""
    file = tmp_path / "token"
    file.write_text("of the file\n")
    environ = {"DISPATCHER_UPSTREAM_TOKEN": "t", "DISPATCHER_UPSTREAM_B_FILE": str(file)}
    assert upstream_value("DISPATCHER_UPSTREAM_TOKEN", environ) == "t"
    assert upstream_value("DISPATCHER_UPSTREAM_B", environ) == "of the file"
    assert not strays(environ).unknown


@pytest.mark.parametrize(
    "name", ["PATH", "DISPATCHER_ADMIN_KEY", "DISPATCHER_UPSTREAM_SECRETS", "DISPATCHER_UPSTREAM_X"]
)
def test_no_other_variable_is_read_for_an_upstream(name: str) -> None:
    environ = {"PATH": "p", "DISPATCHER_ADMIN_KEY": "k", "DISPATCHER_UPSTREAM_SECRETS": "/s"}
    with pytest.raises(SettingError, match=f"env:{name}: "):
        upstream_value(name, environ)


def test_secrets_are_in_no_repr() -> None:
    """I8."""
    found = load(
        {"DISPATCHER_ADMIN_KEY": "test-key-1", "DISPATCHER_SIGNING_SECRET": "test-secret-1"}
    )
    assert "test-key-1" not in repr(found)
    assert "test-secret-1" not in repr(found)
    assert "test-key-1" not in repr(ClientSettings(url="http://h", api_key="test-key-1"))


def test_variables_of_others_are_left_alone() -> None:
    assert load({"DISPATCHER_URL": "http://elsewhere", "PORT": "1", "RECEIVER_PORT": "2"}) == (
        Settings()
    )


# --- where the commands find the service ---


@pytest.mark.parametrize(
    ("environ", "url"),
    [
        ({}, "http://127.0.0.1:8600"),
        ({"DISPATCHER_PORT": "9000"}, "http://127.0.0.1:9000"),
        ({"DISPATCHER_HOST": "0.0.0.0"}, "http://127.0.0.1:8600"),
        ({"DISPATCHER_HOST": "::1"}, "http://[::1]:8600"),
        ({"DISPATCHER_URL": "https://dispatcher.example/"}, "https://dispatcher.example"),
    ],
)
def test_the_url_is_the_one_named_or_that_of_host_and_port(
    environ: dict[str, str], url: str
) -> None:
    assert load_client(environ).url == url


def test_the_key_is_the_one_named_or_the_bootstrap_key() -> None:
    admin, own = {"DISPATCHER_ADMIN_KEY": "test-admin"}, {"DISPATCHER_API_KEY": "test-own"}
    assert load_client({}).api_key is None
    assert load_client(admin).api_key == "test-admin"
    assert load_client(admin | own).api_key == "test-own"

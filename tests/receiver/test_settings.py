"""settings.py: every variable is read, bounded, and told in one line when it is wrong."""

from dataclasses import fields

import pytest

from receiver.base.db.url import is_postgres, redacted
from receiver.base.settings import SettingError, split_list
from receiver.settings import Settings, load, load_client, variable
from tests.receiver.inbox.places import key

SECRET = "whsec_dGVzdC10ZXN0LXRlc3QtdGVzdC10ZXN0"


def test_the_defaults_are_the_contract() -> None:
    """An empty environment gives the documented values."""
    settings = load({})
    assert (settings.host, settings.port, settings.path) == ("127.0.0.1", 8700, "/webhooks")
    assert (settings.database_url, settings.require) == ("sqlite:///receiver.db", "any")
    assert (settings.secrets, settings.admin_key) == ((), None)


def test_every_setting_says_what_it_is_for() -> None:
    """Name, default and reason stand together."""
    for setting in fields(Settings):
        assert setting.metadata["about"]


def test_every_setting_is_read_from_its_variable() -> None:
    """Field x_y is RECEIVER_X_Y."""
    other = {
        "secrets": f"{SECRET}, second-secret-of-another ",
        "database_url": "postgres://me@h/inbox",
        "host": "::1",
        "path": "/hooks/a",
        "require": "sha256",
        "admin_key": "key-of-16-letters",
        "signature_header": "X-Signature",
        "dialect": "runpod",
        "reruns": "latest",
        "ca_file": "/etc/ca.pem",
        "url_token": "test-token-test-token",
        "sources_file": "/etc/sources.toml",
        "effects_url": "sqlite:///effects.db",
        "credentials": "a@h=t, b@h=t",
        "peer_share": "0.5",
        "trusted_proxies": "10.0.0.0/8, ::1",
        "encryption_keys": key("k1"),
        "encryption": "required",
        "log_format": "text",
        "log_level": "debug",
    }
    environ = {variable(name): value for name, value in other.items()}
    for setting in fields(Settings):
        if setting.name not in other:
            environ[variable(setting.name)] = str(getattr(Settings(), setting.name) + 1)
    environ["RECEIVER_BODY_BYTES_MAX"] = "1000"
    environ["RECEIVER_KEEP_MESSAGES"] = "9e6"
    read, default = load(environ), Settings()
    unread = [f.name for f in fields(Settings) if getattr(read, f.name) == getattr(default, f.name)]
    assert unread == []
    assert read.secrets == (SECRET, "second-secret-of-another")


@pytest.mark.parametrize(
    "url",
    [
        "postgresql://me:pass@word@h/db",
        "postgresql://me:pass/word@h/db",
        "postgresql://me:12/word@h/db",
        "postgresql://me:pass?word@h/db",
        "postgresql://me:pass#word@h/db",
        "postgresql://me:pass:word@h:port/db",
        "postgresql://me:pass%word@h/db",
        "postgresql://me:pass%00word@h/db",
        "postgresql://me:pass\x7fword@h/db",
        "postgresql://me:pass word@h/db",
        "postgresql://me:pass[word@h/db",
        "postgresqlx://me:password@h/db",
        "me:password@h/db",
    ],
)
def test_a_database_url_that_cannot_be_one_is_told_without_its_password(url: str) -> None:
    """Reserved characters in a password are the commonest mistake of all."""
    for name in ("RECEIVER_DATABASE_URL", "RECEIVER_EFFECTS_URL"):
        with pytest.raises(SettingError, match=f"{name} must be .*postgresql://USER") as caught:
            load({name: url})
        assert "\n" not in str(caught.value)
        assert "word" not in str(caught.value).replace("PASSWORD", "")
        assert caught.value.__cause__ is None


@pytest.mark.parametrize(
    ("url", "told"),
    [
        ("postgresql://me:secret@h:5432/db?sslmode=require", "postgresql://me@h:5432/db"),
        ("postgres://me:p%40ss%2Fword@h/db", "postgresql://me@h/db"),
        ("postgresql://h/db?password=secret", "postgresql://h/db"),
        ("postgresql:///db?host=/run/postgresql", "postgresql:///db"),
        ("postgresql://me:s@h1:5432,h2:5433/db", "postgresql://me@h1:5432,h2:5433/db"),
        ("postgresql://me:s@[::1]:5432/db", "postgresql://me@[::1]:5432/db"),
    ],
)
def test_a_postgresql_url_is_shown_without_password_and_parameters(url: str, told: str) -> None:
    """Inbox and effects may share a database; only files must differ."""
    settings = load({"RECEIVER_DATABASE_URL": url, "RECEIVER_EFFECTS_URL": url})
    assert is_postgres(settings.database_url)
    assert redacted(url) == told
    assert url not in repr(settings)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("PORT", "http"),
        ("PORT", "65536"),
        ("PORT", "-1"),
        ("PORT", "9" * 5000),
        ("TOLERANCE", "nan"),
        ("TOLERANCE", "0"),
        ("BODY_BYTES_MAX", "1.5"),
        ("BODY_BYTES_MAX", str(2**40)),
        ("IN_FLIGHT_BYTES_MAX", "1"),
        ("REQUIRE", "ANY"),
        ("LOG_FORMAT", "xml"),
        ("LOG_LEVEL", "loud"),
        ("PATH", "webhooks"),
        ("PATH", "/a b"),
        ("PATH", "/healthz"),
        ("PATH", "/metrics"),
        ("DIALECT", "heroku"),
        ("RERUNS", "all"),
        ("URL_TOKEN", "short"),
        ("EFFECTS_URL", "mysql://h/db"),
        ("EFFECTS_URL", "sqlite:///./receiver.db"),
        ("KEEP_MESSAGES", "5"),
        ("HANDLER_CONCURRENCY", "0"),
        ("SIGNATURE_HEADER", "X Webhook"),
        ("DATABASE_URL", "postgresql:/h/db"),
        ("DATABASE_URL", "postgresql://h:port/db"),
        ("DATABASE_URL", "postgresql://h:123456/db"),
        ("DATABASE_URL", "postgresql://[::1/db"),
        ("DATABASE_URL", "postgresql://h/d b"),
        ("DATABASE_URL", "sqlite:///"),
        ("DATABASE_URL", "sqlite:///:memory:"),
        ("DATABASE_URL", "receiver.db"),
        ("SECRETS", "good-one,whsec_"),
        ("SECRETS", "a\x07b"),
        ("SECRETS", ",".join(["s"] * 65)),
    ],
)
def test_a_bad_value_is_told_in_one_line_that_names_its_variable(name: str, value: str) -> None:
    """And the process starts with no half of it."""
    with pytest.raises(SettingError, match=f"RECEIVER_{name}") as caught:
        load({f"RECEIVER_{name}": value})
    assert "\n" not in str(caught.value)


def test_require_standard_needs_secrets_that_can_do_it() -> None:
    """A plain-text secret would refuse every message; say so at the start, without showing it."""
    environ = {"RECEIVER_REQUIRE": "standard", "RECEIVER_SECRETS": f"{SECRET},It's a Secret"}
    with pytest.raises(SettingError, match="secret 2") as caught:
        load(environ)
    assert "It's" not in str(caught.value)


def test_secrets_are_not_in_the_repr() -> None:
    """Of either kind of settings."""
    environ = {"RECEIVER_SECRETS": SECRET, "RECEIVER_ADMIN_KEY": "test-admin-key-of-tests"}
    told = repr(load(environ)) + repr(load_client(environ))
    assert SECRET not in told
    assert "test-admin-key-of-tests" not in told


def test_the_client_finds_the_service_by_url_or_by_address() -> None:
    """An address to listen on everywhere is asked at loopback."""
    assert load_client({}).url == "http://127.0.0.1:8700"
    assert load_client({"RECEIVER_HOST": "::", "RECEIVER_PORT": "1"}).url == "http://127.0.0.1:1"
    assert load_client({"RECEIVER_HOST": "::1"}).url == "http://[::1]:8700"
    assert load_client({"RECEIVER_URL": "https://r.example/"}).url == "https://r.example"


def test_secrets_split_at_commas_and_line_ends() -> None:
    """As in a variable, or in a file with one a line."""
    assert split_list(" a ,b\n\nc\r\n,") == ("a", "b", "c")

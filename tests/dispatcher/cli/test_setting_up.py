"""Destinations, keys, secrets and tenants from the command line, against a real service."""

import io
import json
from pathlib import Path
from typing import Any

import pytest

from dispatcher.client import Client, NotFound, Unauthorized
from tests.dispatcher.cli.conftest import Run
from tests.dispatcher.client.running import ADMIN_KEY, Running, running, settings_for


def test_the_life_of_a_destination(cli: Run, client: Client, service: Running) -> None:
    """Every subcommand does what it says, and shows the result."""
    added = cli("destinations", "add", "billing", service.hook(200), "--concurrency", "4")
    assert added.code == 0, added.err
    assert "whsec_" in added.out
    listed = cli("destinations", "list")
    assert "billing" in listed.out
    assert "whsec_" not in listed.out
    assert [one["name"] for one in cli("destinations", "list", "--json").lines] == ["billing"]
    assert cli("destinations", "pause", "billing", "--json").json["paused"] is True
    assert cli("destinations", "resume", "billing", "--json").json["paused"] is False
    changed = cli("destinations", "set", "billing", "--rate", "5", "--reset", "concurrency")
    assert "5 a second" in changed.out
    assert client.get_destination("billing").concurrency is None
    assert cli("destinations", "disable", "billing", "--yes", "--json").json["disabled"] is True
    assert cli("destinations", "enable", "billing", "--json").json["disabled"] is False
    assert "billing" in cli("destinations", "show", "billing").out
    assert cli("destinations", "remove", "billing", "--yes").code == 0
    with pytest.raises(NotFound):
        client.get_destination("billing")


def test_a_test_callback_shows_what_it_met(cli: Run, client: Client, service: Running) -> None:
    """Exit 0 for a 2xx, 1 for anything else."""
    client.register_destination("good", service.hook(200))
    client.register_destination("bad", service.hook(503))
    assert cli("destinations", "test", "good").code == 0
    bad = cli("destinations", "test", "bad")
    assert bad.code == 1
    assert "rejected 503" in bad.out
    assert cli("destinations", "test", "bad", "--json").json["statusCode"] == 503


def test_a_key_is_shown_once_and_revoked_at_once(cli: Run, service: Running, tenant: str) -> None:
    """Its value is alone on standard output, fit for a variable; never in the list."""
    made = cli("keys", "create", "--for", tenant, "--scope", "read", "--label", "test")
    assert made.code == 0, made.err
    key = made.out.strip()
    listed = cli("keys", "list", "--json").lines
    (found,) = [one for one in listed if one["tenant"] == tenant]
    assert key not in str(listed)
    with Client(service.url, key) as reader:
        reader.stats()
        assert cli("keys", "revoke", found["id"]).code == 0
        with pytest.raises(Unauthorized):
            reader.stats()


def test_a_key_is_bound_rotated_and_listed(cli: Run, service: Running, tenant: str) -> None:
    """By options; the list shows all of it, for people and for programs."""
    made = cli("keys", "create", "--for", tenant, "--scope", "submit", "--scope", "read",
               "--expires", "90d", "--network", "127.0.0.0/8", "--network", "2001:db8::/32",
               "--destination", "billing", "--rate", "50")  # fmt: skip
    assert made.code == 0, made.err
    old = made.out.strip()

    def listed() -> dict[str, Any]:
        (found,) = [one for one in cli("keys", "list", "--json").lines if one["tenant"] == tenant]
        return dict(found)

    found = listed()
    assert found["networks"] == ["127.0.0.0/8", "2001:db8::/32"]
    assert (found["destinations"], found["ratePerSecond"]) == (["billing"], 50)
    rotated = cli("keys", "rotate", found["id"], "--overlap", "1h", "--expires", "10d")
    assert rotated.code == 0, rotated.err
    new = rotated.out.strip()
    assert new not in ("", old)
    assert "old text" in rotated.err
    assert found["expiresAt"] > listed()["expiresAt"]
    for text in (old, new):
        with Client(service.url, text) as reader:
            reader.stats()
    shown = " ".join(cli("keys", "list").out.split())
    for word in ("127.0.0.0/8", "billing", "50/s", "old text"):
        assert word in shown
    refused = cli("keys", "rotate", found["id"])
    assert (refused.code, refused.out) == (1, "")
    assert cli("keys", "rotate", found["id"], "--force", "--json").json["key"]
    with Client(service.url, old) as reader, pytest.raises(Unauthorized):
        reader.stats()
    cli("keys", "revoke", found["id"])


def test_secrets_are_shown_the_first_time_only(cli: Run, client: Client, service: Running) -> None:
    """Bare `secrets` shows the tenant's unseen secret once (recorded), then only the list."""
    client.submit("job_1", 1, callback_url=service.hook(200))
    first = cli("secrets")
    assert first.out.startswith("whsec_")
    again = cli("secrets")
    assert "whsec_" not in again.out
    assert "signs" in again.out
    assert cli("secrets", "reveal").out == first.out
    assert cli("secrets", "list", "--json").lines[0]["revealedAt"]


def test_a_secret_that_was_given_is_not_shown_unasked(
    alone: Run, environment: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Bare `secrets` shows what the service has made. Who set DISPATCHER_SIGNING_SECRET has it, and
    sees the list alone."""
    given = "whsec_" + "ab" * 16
    with running(settings_for(tmp_path, signing_secret=given)) as service:
        environment.setenv("DISPATCHER_URL", service.url)
        environment.setenv("DISPATCHER_API_KEY", ADMIN_KEY)
        for tenant in ((), ("--tenant", "default")):
            ran = alone(*tenant, "secrets")
            assert (ran.code, given in ran.out, "signs" in ran.out) == (0, False, True)
        assert alone("secrets", "reveal").out.strip() == given
        with Client(service.url, ADMIN_KEY, tenant="other") as client:
            client.submit("job_1", 1, callback_url=service.hook(200))
        made = alone("--tenant", "other", "secrets")
        assert (made.code, made.out.startswith("whsec_")) == (0, True)


def test_the_key_that_a_service_was_started_with_is_told_beside_the_list(
    cli: Run, environment: pytest.MonkeyPatch, tenant: str
) -> None:
    """`keys list` knows of it, though it is no row of the store's: for people, where the key may
    know. Programs get the rows."""
    environment.delenv("DISPATCHER_ADMIN_KEY", raising=False)
    words = "DISPATCHER_ADMIN_KEY, with which the service was started"
    listed = cli("keys", "list")
    assert (listed.code, words in listed.err) == (0, True)
    assert cli("keys", "list", "--json").err == ""
    own = cli("keys", "create", "--for", tenant, "--scope", "admin").out.strip()
    ran = cli("keys", "list", "--api-key", own)
    assert (ran.code, "admin" in ran.out, words in ran.err) == (0, True, False)


def test_a_rotation_needs_force_while_another_lasts(cli: Run) -> None:
    """The new secret is printed; the second one within the overlap is refused unless forced."""
    first = cli("secrets", "rotate", "--overlap", "7d")
    assert first.out.startswith("whsec_")
    refused = cli("secrets", "rotate")
    assert (refused.code, refused.out) == (1, "")
    assert cli("secrets", "rotate", "--force", "--json").json["secret"].startswith("whsec_")


def test_tenants_are_listed(cli: Run, client: Client, service: Running, tenant: str) -> None:
    """A tenant is there from its first use on."""
    client.submit("job_1", 1, callback_url=service.hook(200))
    assert tenant in [one["name"] for one in cli("tenants", "--json").lines]
    assert tenant in cli("tenants").out


def test_a_tenants_limits_are_shown_and_set(
    cli: Run, client: Client, service: Running, tenant: str
) -> None:
    """With the unit that people write; `default` puts one back."""
    client.submit("job_1", 1, callback_url=service.hook(200))
    shown = cli("tenants", "show", tenant)
    assert shown.code == 0, shown.err
    assert "at most 12.5 GiB  (default)" in shown.out
    assert "as many submits as come" in shown.out
    set_to = cli("tenants", "set", tenant, "--storage", "1.5GiB", "--rate", "200", "--label", "A")
    assert "at most 1.5 GiB\n" in set_to.out, set_to.err
    assert "at most 200 submits a second" in set_to.out
    assert "A" in cli("tenants", "list").out
    found = cli("tenants", "show", tenant, "--json").json
    assert (found["storageBytesMax"], found["ratePerSecond"]) == (3 << 29, 200)
    assert "as many jobs at once as endpoints let run" in shown.out
    running = cli("tenants", "set", tenant, "--jobs-running", "3")
    assert "at most 3 jobs at once\n" in running.out, running.err
    outputs = cli("tenants", "set", tenant, "--outputs", "1GiB")
    assert "0 B of outputs, at most 1.0 GiB\n" in outputs.out, outputs.err
    back = cli("tenants", "set", tenant, "--storage", "default", "--queue", "9", "--json").json
    assert back["defaults"] == ["storageBytesMax"]
    assert back["jobsRunningMax"] == 3
    assert back["queueMax"] == 9
    assert client.get_tenant(tenant).queue_max == 9


@pytest.mark.parametrize(
    "wrong",
    [
        (),
        ("--storage", "lots"),
        ("--storage", "-1"),
        ("--rate", "x"),
        ("--rate", "nan"),
        ("--queue", "1.5"),
        ("--jobs-running", "-1"),
    ],
)
def test_what_is_no_limit_is_told(cli: Run, wrong: tuple[str, ...]) -> None:
    assert cli("tenants", "set", "default", *wrong).code == 2


def test_a_tenant_is_deleted_once_that_is_confirmed(
    cli: Run, client: Client, service: Running, tenant: str
) -> None:
    """Without a terminal to ask on only with --yes; a misspelt name is no success."""
    client.submit("job_1", 1, callback_url=service.hook(200))
    assert cli("tenants", "delete", tenant).code != 0
    assert client.get_tenant(tenant).erasing_at is None
    assert cli("tenants", "delete", "nobody-of-this-name", "--yes").code == 1
    assert cli("tenants", "delete", tenant, "--yes").code == 0
    found = [one for one in cli("tenants", "--json").lines if one["name"] == tenant]
    assert all("erasingAt" in one for one in found)
    assert client.erase_tenant("nobody-of-this-name") is None


def test_the_audit_trail_says_who_did_what_and_why(cli: Run, tenant: str, tmp_path: Path) -> None:
    """A table, JSON lines, or a file of its owner's that is whole or not there."""
    assert cli("destinations", "add", "billing", "http://127.0.0.1:9/").code == 0
    paused = cli("destinations", "pause", "billing", "--reason", "Zoë, 4711")
    assert paused.code == 0, paused.err
    table = cli("audit")
    assert "destination.pause" in table.out
    assert "Zoë, 4711" in table.out
    newest, *_ = cli("audit", "--json").lines
    assert (newest["action"], newest["reason"]) == ("destination.pause", "Zoë, 4711")
    assert newest["tenant"] == tenant
    (only,) = cli("audit", "--action", "destination.register", "--all", "--json").lines
    of_target = cli("audit", "--target", only["target"], "--since", "1h", "--json").lines
    assert [one["action"] for one in of_target] == ["destination.pause", "destination.register"]
    target = tmp_path / "audit.ndjson"
    assert cli("audit", "--export", str(target)).code == 0
    exported = [json.loads(line) for line in target.read_text("utf-8").splitlines()]
    assert exported == cli("audit", "--all", "--json").lines
    assert target.stat().st_mode & 0o777 == 0o600
    assert [one.name for one in tmp_path.iterdir()] == ["audit.ndjson"]
    assert "exists already" in cli("audit", "--export", str(target)).err
    everything = cli("audit", "--all-tenants", "--action", "service.start", "--json").lines
    assert everything[0]["tenant"] is None


def test_a_reason_that_is_none_is_a_usage_error(cli: Run) -> None:
    for command in (("secrets", "reveal"), ("audit", "--action", "nonsense")):
        reason = ("--reason", "a\tb") if command[0] == "secrets" else ()
        assert cli(*command, *reason).code == 2
    assert cli("audit", "--limit", "5", "--all").code == 2


def test_the_life_of_a_stored_secret(
    cli: Run, client: Client, service: Running, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Given by a file, by standard input or, where one insists, on the command line; never shown.
    One that a header names is deleted by force alone."""
    (tmp_path / "token").write_text("test-token-of-a-file\n")
    made = cli("secrets", "store", "crm", "--file", str(tmp_path / "token"))
    assert made.code == 0, made.err
    header = "Authorization: Bearer secret:crm"
    assert header in made.err
    client.register_destination("crm", service.hook(200), headers=dict([header.split(": ")]))
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(b"test-token-of-a-pipe\r\n")))
    assert cli("secrets", "store", "crm", "--json").json["usedBy"] == ["crm"]
    assert cli("secrets", "store", "other", "--value", "test-token-of-argv").code == 0
    listed = cli("secrets", "stored")
    assert "crm" in listed.out
    assert [one["name"] for one in cli("secrets", "stored", "--json").lines] == ["crm", "other"]
    assert "test-token" not in made.out + made.err + listed.out
    assert client.test_destination("crm").acknowledged
    refused = cli("secrets", "forget", "crm")
    assert (refused.code, refused.out) == (1, "")
    assert cli("secrets", "forget", "crm", "--force").code == 0
    assert cli("secrets", "forget", "crm", "--force").code == 1
    assert [one.name for one in client.stored_secrets()] == ["other"]
    assert cli("secrets", "store", "upstream", "--value", "x" * 16, "--platform").code == 0
    assert "upstream" in [one.name for one in client.stored_secrets(platform=True)]
    assert cli("secrets", "forget", "upstream", "--platform", "--json").json == {}


@pytest.mark.parametrize(
    ("argv", "code"),
    [
        (("--value", "a", "--file", "b"), 2),
        (("--file", "/nowhere/at/all"), 2),
        (("--value", "two\nlines"), 1),
        (("--value", ""), 1),
    ],
)
def test_what_is_no_secret_is_told(cli: Run, argv: tuple[str, ...], code: int) -> None:
    assert cli("secrets", "store", "crm", *argv).code == code

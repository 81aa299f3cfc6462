"""Destinations, keys, secrets and tenants from the command line, against a real service."""

import pytest

from dispatcher.client import Client, NotFound, Unauthorized
from tests.dispatcher.cli.conftest import Run
from tests.dispatcher.client.running import Running


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

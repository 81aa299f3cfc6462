"""The runbooks of dispatcher/README.md: every command on them is run, in order, in the night that
it is for, and what the text promises of it comes true.

Stood in for are `systemctl`, which starts and stops the service here, and `pip`, which would load
another version: what another version does with a database is held by tests/upgrade.
"""

import json
import time
from collections.abc import Iterator

import pytest

from tests.readme import night
from tests.readme.night import Machine
from tests.receiver.waiting import ENDS_WITHIN_S

HANDLED = {
    "A customer says that nothing arrives",
    "A destination is down",
    "Dead letters grow",
    "The disk fills",
    "The database is restored to yesterday",
    "A secret has leaked",
    "A tenant leaves",
    "Upgrade, and go back",
}

pytestmark = pytest.mark.timeout(300)


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Machine]:
    """One for all: a night has more than one trouble."""
    with night.machine(tmp_path_factory.mktemp("machine")) as made:
        yield made


@pytest.fixture
def machine(service: Machine) -> Machine:
    """It, with a customer who answers 200."""
    service.customer.status = 200
    service.customer.jobs.clear()
    service.customer.ids.clear()
    return service


def dead(machine: Machine, job: str, status: int = 503) -> str:
    """A callback that its customer refused."""
    machine.customer.status = status
    id = machine.submit(job)
    machine.until(id, "dead")
    machine.customer.status = 200
    return id


def new_key(machine: Machine) -> str:
    """A key of the tenant's."""
    made = machine.api("POST", "keys", {"scopes": ["read"], "tenant": "acme"})
    return str(made["id"])


def test_there_is_a_test_for_each() -> None:
    assert set(night.headings()) == HANDLED


def test_nothing_arrives(machine: Machine) -> None:
    """A wrong signature is found by what the attempts say, and the replay arrives."""
    id = dead(machine, "job_1", 401)
    printed = machine.paste("A customer says that nothing arrives", callback=id)
    assert "http_401" in printed
    assert "whsec_" in printed
    assert machine.customer.jobs.count("job_1") == 1
    assert machine.api("GET", f"callbacks/{id}")["status"] == "delivered"


def test_a_destination_is_down(machine: Machine) -> None:
    """While it is paused it can be tested; what waits for its next try, and what was given up, goes
    out afterwards."""
    machine.customer.status = 503
    waits = machine.submit("job_waits", tries=2)
    machine.until_tried(waits)
    id = dead(machine, "job_down")
    printed = machine.paste("A destination is down")
    assert "acknowledged" in printed
    for one in (waits, id):
        machine.until(one, "delivered")
        assert machine.customer.ids.count(one) == 1


def test_dead_letters_grow(machine: Machine) -> None:
    """They are grouped by error; those of one error are replayed; the list is kept in a file."""
    id = dead(machine, "job_dead")
    other = dead(machine, "job_other", 404)
    printed = machine.paste("Dead letters grow", callback=id)
    assert "http_404" in printed.partition("job_dead")[0]
    machine.until(id, "delivered")
    assert machine.api("GET", f"callbacks/{other}")["status"] == "dead"
    lines = (machine.folder / "dead.ndjson").read_text().splitlines()
    assert {id, other} <= {json.loads(line)["id"] for line in lines}


def test_the_disk_fills(machine: Machine) -> None:
    """The tenant has its limit, and the service runs with the shorter retention."""
    printed = machine.paste("The disk fills")
    assert "acme" in printed
    assert machine.api("GET", "tenants/acme")["storageBytesMax"] == 10 * 2**30
    entry = machine.api("GET", "audit?all=true&action=service.start&limit=1")["data"][0]
    assert "86400" in json.dumps(entry)


def test_the_database_is_yesterdays(machine: Machine) -> None:
    """What was accepted since is gone and may be submitted again; what was delivered since goes out
    again, under the same id; a tenant's key that was revoked since is good again."""
    machine.line("dispatcher --tenant acme destinations pause billing")
    waiting = machine.submit("job_before")
    key = new_key(machine)
    machine.line("dispatcher backup /backups/postback.db")
    machine.line("dispatcher --tenant acme destinations resume billing")
    machine.until(waiting, "delivered")
    machine.api("DELETE", f"keys/{key}")
    since = machine.submit("job_since")
    machine.until(since, "delivered")

    machine.paste("The database is restored to yesterday")

    assert machine.asked[-2:] == ["stop postback-dispatcher", "start postback-dispatcher"]
    again = machine.submit("job_since")
    assert again != since
    machine.line("dispatcher --tenant acme destinations resume billing")
    machine.until(waiting, "delivered")
    machine.until(again, "delivered")
    assert machine.customer.ids.count(waiting) == 2
    assert machine.customer.jobs.count("job_since") == 2
    assert key in {one["id"] for one in machine.api("GET", "keys")["data"]}
    assert machine.place("/var/lib/postback/before/postback.db").exists()
    assert machine.place("/var/lib/postback/postback.db").stat().st_mode & 0o777 == 0o600


def test_a_secret_has_leaked(machine: Machine) -> None:
    """Neither the old signing secrets nor the key are good any more, and what is sealed is sealed
    with the new key alone."""
    before = {one["id"] for one in machine.api("GET", "secrets")["data"] if one["active"]}
    key = new_key(machine)
    file = machine.place("/var/lib/postback/postback.db.key")
    old_key = file.read_text()
    machine.paste("A secret has leaked", key=key)
    after = {one["id"] for one in machine.api("GET", "secrets")["data"] if one["active"]}
    assert before & after == set()
    assert key not in {one["id"] for one in machine.api("GET", "keys")["data"]}
    assert file.read_text().startswith("k2:")
    file.write_text(file.read_text().removesuffix(old_key))
    machine.line("systemctl restart postback-dispatcher")
    machine.until(machine.submit("job_sealed"), "delivered")


def test_upgrade_and_back(machine: Machine) -> None:
    """The copy and its key are there before anything changes, and bring back what was."""
    id = machine.submit("job_upgrade")
    machine.until(id, "delivered")
    for path in machine.place("/backups").glob("before-upgrade*"):
        path.unlink()
    machine.paste("Upgrade, and go back")
    assert machine.asked.count("install -c deploy/constraints.txt .[dispatcher]") == 2
    assert machine.place("/backups/before-upgrade.db.key").exists()
    assert machine.api("GET", f"callbacks/{id}")["status"] == "delivered"


def test_a_tenant_leaves(machine: Machine) -> None:
    """What it had is written down first; then it is gone, and its name may be used anew."""
    id = machine.submit("job_last")
    machine.until(id, "delivered")
    machine.paste("A tenant leaves")
    callbacks = (machine.folder / "acme-callbacks.ndjson").read_text().splitlines()
    assert id in {json.loads(line)["id"] for line in callbacks}
    assert "destination.register" in (machine.folder / "acme-audit.ndjson").read_text()
    deadline = time.monotonic() + ENDS_WITHIN_S
    while "acme" in {one["name"] for one in machine.api("GET", "tenants")["data"]}:
        assert time.monotonic() < deadline
        time.sleep(0.02)
    machine.register()

"""The doctor's findings, and the commands that open the database themselves."""

import socket
import sqlite3
from contextlib import closing
from dataclasses import replace
from ipaddress import ip_network
from pathlib import Path

import boto3  # noqa: F401 - its loggers are there before a test asks for a bucket
import pytest

from dispatcher.cli.doctor import checks, database
from dispatcher.cli.doctor.outputs import outputs
from dispatcher.jobs.states import STATES
from dispatcher.settings import ClientSettings, strays
from dispatcher.store.access import EndingKey
from dispatcher.store.jobs.figures import JobFigures, ProcessFigures
from receiver.base import checkup
from receiver.base.checkup import Check
from receiver.base.lack import UNLIMITED
from tests.dispatcher.cli.conftest import Run
from tests.dispatcher.client.running import ADMIN_KEY, Running, settings_for


def states(found: list[Check]) -> dict[str, str]:
    return {check.name: check.state for check in found}


def test_a_sound_database_in_use_is_told_whose_it_is(service: Running) -> None:
    """Beside a running service: readable, of this schema, and the owner's process id."""
    found = {one.name: one for one in database.sqlite(service.settings)}
    assert {one.state for one in found.values()} == {"ok"}
    assert found.keys() >= {"database", "schema", "sealed", "owner"}
    assert "in use by process" in found["owner"].message


def test_a_missing_database_is_no_fault(tmp_path: Path) -> None:
    """The first start makes it; a missing folder is a fault. Neither is made by looking."""
    (fresh,) = database.sqlite(settings_for(tmp_path))
    assert fresh.state == "ok"
    (lost,) = database.sqlite(settings_for(tmp_path / "nowhere"))
    assert lost.state == "bad"
    assert lost.advice is not None
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("content", [b"not a database at all" * 100, b"SQLite format 3\0" * 64])
def test_a_damaged_database_is_bad(tmp_path: Path, content: bytes) -> None:
    """With the advice to restore a backup; the file is left as it is."""
    path = tmp_path / "postback.db"
    path.write_bytes(content)
    found = list(database.sqlite(settings_for(tmp_path)))
    assert found[0].state == "bad"
    assert "backup" in (found[0].advice or "")
    assert path.read_bytes() == content


def test_a_newer_schema_is_bad_and_an_older_one_a_warning() -> None:
    """What to run is said."""
    assert database.schema(10_000).state == "bad"
    assert database.schema(0).state == "warn"


@pytest.mark.parametrize(
    ("version", "affected"),
    [((3, 6, 23), False), ((3, 7, 0), True), ((3, 51, 2), True), ((3, 51, 3), False)],
)
def test_the_wal_reset_bug_is_named(version: tuple[int, ...], affected: bool) -> None:
    """SQLite 3.7.0 to 3.51.2 have it."""
    assert ("WAL-reset" in database.sqlite_version(version).message) is affected


@pytest.mark.parametrize(
    ("free", "state"), [(1_000, "bad"), (1_001, "warn"), (2_000, "warn"), (2_001, "ok")]
)
def test_disk_space_is_measured_against_the_reserve(free: int, state: str) -> None:
    """At the reserve submits stop; near it there is a warning."""
    assert checks.disk_room(free, 1_000, Path("/data")).state == state


@pytest.mark.parametrize(
    ("limit", "state"),
    [(UNLIMITED, "ok"), (6_413, "ok"), (6_412, "warn"), (2_318, "warn"), (2_317, "bad")],
)
def test_open_files_are_measured_against_slots(tmp_path: Path, limit: int, state: str) -> None:
    """Slots alone must fit; slots and clients should."""
    settings = settings_for(tmp_path, slots=1_024, connections_max=4_096, job_places=1)
    found = checks.files(settings, limit)
    assert found.state == state
    assert ("connections" in found.message) is (state != "ok")


def test_variables_that_nothing_reads_are_told_without_their_values(
    alone: Run, service: Running, environment: pytest.MonkeyPatch
) -> None:
    """A warning each, which makes the doctor's result no worse; links of a Service are one."""
    assert list(checkup.variables(strays({"DISPATCHER_SLOTS_FILE": "x", "PATH": "x"}))) == []
    for name in ("SLOTZ", "SERVICE_HOST", "SERVICE_PORT"):
        environment.setenv(f"DISPATCHER_{name}", "hidden")
    words = ("--database-url", service.settings.database_url, "--url", service.url)
    ran = alone("doctor", *words, "--json")
    assert ran.code == 0
    found = [one for one in ran.lines if one["name"] == "variables"]
    assert [one["state"] for one in found] == ["warn", "warn"]
    assert "enableServiceLinks: false" in found[0]["advice"]
    assert "DISPATCHER_SLOTZ" in found[1]["message"]
    assert "set DISPATCHER_SLOTS" in found[1]["advice"]
    assert "hidden" not in ran.out


def test_a_clock_in_the_past_is_bad() -> None:
    """Signatures carry its time."""
    assert checks.clock(0).state == "bad"
    assert checks.clock(1_800_000_000).state == "ok"


def test_secrets_are_judged_and_never_shown(tmp_path: Path) -> None:
    """A malformed signing secret is bad, a short admin key a warning."""
    bad = checks.signing_secret(settings_for(tmp_path, signing_secret="whsec_test-no-base64!"))
    assert bad.state == "bad"
    assert "test-no-base64" not in f"{bad}"
    short = checks.admin_key(settings_for(tmp_path, admin_key="test-key"))
    assert short.state == "warn"
    assert "test-key" not in f"{short}"
    assert checks.admin_key(settings_for(tmp_path)).state == "ok"
    assert checks.signing_secret(settings_for(tmp_path)).state == "ok"


def test_keys_that_end_are_named(tmp_path: Path) -> None:
    """A week before; those that have ended too, which still count. Never more than a few names."""
    day_ms = 86_400_000
    ending = [
        EndingKey(id=f"key_{n}", label="x" * (n == 2), expires_ms=n * day_ms) for n in range(9)
    ]
    found = {check.name: check for check in database.keys(ending, now_ms=2 * day_ms - 1)}
    assert found["keys that end"].state == "warn"
    assert "key_2 (x), key_3, key_4 and 4 more" in found["keys that end"].message
    assert found["expired keys"].state == "ok"
    assert "key_0, key_1 expired" in found["expired keys"].message
    assert list(database.keys(ending[8:], now_ms=0)) == []
    assert list(database.keys([], now_ms=0)) == []


def test_jobs_are_told_once_there_are_any() -> None:
    """How many in each state, endpoints that fail, and jobs that nobody runs who is known."""
    counts = dict.fromkeys(STATES, 0)
    nothing = JobFigures(
        counts=counts, endpoints=0, paused=0, failing=0, processes=(), orphans=0, sweeps=0
    )
    assert list(database.jobs(None, lease_s=60.0)) == []
    assert list(database.jobs(nothing, lease_s=60.0)) == []
    some = replace(
        nothing,
        counts=counts | {"queued": 1_200},
        endpoints=3,
        paused=1,
        processes=(ProcessFigures("a", 59.0, 3), ProcessFigures("b", None, 1)),
    )
    found = list(database.jobs(some, lease_s=60.0))
    assert states(found) == {"jobs": "ok", "endpoints": "ok", "job processes": "ok"}
    assert [check.message for check in found] == [
        "1,200 queued", "3, 1 paused", "2 processes run jobs",
    ]  # fmt: skip
    bad = list(database.jobs(replace(some, failing=1, orphans=4, untold=2), lease_s=60.0))
    assert states(bad) == {
        "jobs": "ok", "endpoints": "warn", "untold ends": "warn", "job processes": "ok",
        "orphaned jobs": "warn",
    }  # fmt: skip
    assert "next sweep" in (bad[-1].advice or "")
    assert list(states(list(database.jobs(some)))) == ["jobs", "endpoints"]


def test_a_process_whose_beat_stands_still_is_named() -> None:
    """With how many jobs it runs, and what to do: another process takes them over, or there is
    none."""
    figures = JobFigures(
        counts=dict.fromkeys(STATES, 0),
        endpoints=1,
        paused=0,
        failing=0,
        processes=(ProcessFigures("hangs", 61.0, 2), ProcessFigures("lives", 1.0, 3)),
        orphans=0,
        sweeps=0,
    )
    (found,) = list(database.jobs(figures, lease_s=60.0))[2:]
    assert (found.name, found.state) == ("job processes", "warn")
    assert "hangs for 61 s (2 jobs)" in found.message
    assert "lives" not in found.message
    assert "DISPATCHER_JOB_LEASE" in (found.advice or "")
    none = replace(figures, processes=figures.processes[:1], orphans=1)
    still, orphaned = list(database.jobs(none, lease_s=60.0))[2:]
    assert "start `dispatcher serve`" in (still.advice or "")
    assert "start `dispatcher serve`" in (orphaned.advice or "")


def test_a_key_that_ends_is_found_in_the_file(service: Running, cli: Run) -> None:
    """Beside the running service, which warns too."""
    made = cli("keys", "create", "--scope", "read", "--expires", "1d", "--label", "ending")
    assert made.code == 0, made.err
    found = {check.name: check for check in database.sqlite(service.settings)}
    assert "(ending)" in found["keys that end"].message
    (id,) = [one["id"] for one in cli("keys", "list", "--json").lines if one["label"] == "ending"]
    cli("keys", "revoke", id)
    assert "keys that end" not in {check.name for check in database.sqlite(service.settings)}


@pytest.mark.parametrize(
    ("networks", "state"), [((), "ok"), (("10.0.0.0/8",), "warn"), (("::/0",), "bad")]
)
def test_opened_networks_are_named(tmp_path: Path, networks: tuple[str, ...], state: str) -> None:
    """Opening everything is bad; a proxy is named without its password."""
    opened = tuple(map(ip_network, networks))
    settings = settings_for(tmp_path, allow_networks=opened, proxy_url="http://u:pw@proxy:3128")
    found = checks.egress(settings)
    assert found.state == state
    assert all(network in found.message for network in networks)
    assert "pw" not in found.message


def test_a_file_of_endpoints_is_read(tmp_path: Path) -> None:
    """Before a start fails by it."""
    assert list(checks.endpoints(settings_for(tmp_path))) == []
    file = tmp_path / "postback.toml"
    settings = settings_for(tmp_path, apply=str(file))
    file.write_text("[endpoints.a]\nurl = 'http://127.0.0.1:9/'\n")
    (found,) = checks.endpoints(settings)
    assert (found.state, found.message) == ("ok", f"1 in {file}")
    file.write_text("[endpoints.a]\nurl = 'http://127.0.0.1:9/'\nheaders.x = 'file:none'\n")
    (found,) = checks.endpoints(settings)
    assert found.state == "bad"
    assert "[endpoints.a] headers.x" in found.message


def test_the_running_service_is_asked(service: Running) -> None:
    """Ready, or not there, or something else."""
    ready = checks.running(ClientSettings(url=service.url, api_key=None))
    assert states(ready) == {"service": "ok"}
    (absent,) = checks.running(ClientSettings(url="http://127.0.0.1:1", api_key=None))
    assert absent.state == "warn"
    foreign = checks.running(ClientSettings(url=f"{service.url}/v1/nothing", api_key=None))
    assert states(foreign)["service"] == "bad"


def test_doctor_prints_its_findings_and_exits_with_them(
    alone: Run, service: Running, environment: pytest.MonkeyPatch
) -> None:
    """0 where nothing is bad, 1 where something is; `--json` prints one finding a line."""
    url = service.settings.database_url
    good = alone("doctor", "--database-url", url, "--url", service.url)
    assert good.code == 0, good.out
    assert "✓ service" in good.out
    environment.setenv("DISPATCHER_SIGNING_SECRET", "nonsense")
    bad = alone("doctor", "--database-url", url, "--url", service.url, "--json")
    assert bad.code == 1
    assert {one["name"]: one["state"] for one in bad.lines}["secret"] == "bad"


def test_migrate_makes_the_database_and_refuses_one_in_use(
    alone: Run, service: Running, tmp_path: Path
) -> None:
    """Exit 3 names the process that has it."""
    url = f"sqlite:///{tmp_path}/new.db"
    assert alone("migrate", "--database-url", url).code == 0
    assert alone("migrate", "--database-url", url, "--json").json == {"migrated": True}
    used = alone("migrate", "--database-url", service.settings.database_url)
    assert used.code == 3
    assert "in use by process" in used.err


def test_backup_copies_a_running_database_and_overwrites_nothing(
    alone: Run, service: Running, tmp_path: Path
) -> None:
    """The copy is sound; an existing target is left alone."""
    argv = ("backup", "--database-url", service.settings.database_url, str(tmp_path / "copy.db"))
    assert alone(*argv).code == 0
    with closing(sqlite3.connect(tmp_path / "copy.db")) as copy:
        assert copy.execute("PRAGMA quick_check").fetchone() == ("ok",)
    before = (tmp_path / "copy.db").read_bytes()
    again = alone(*argv)
    assert again.code == 1
    assert "exists already" in again.err
    assert (tmp_path / "copy.db").read_bytes() == before
    absent = alone("backup", "--database-url", f"sqlite:///{tmp_path}/no.db", str(tmp_path / "x"))
    assert absent.code == 1
    assert ADMIN_KEY not in absent.err


def test_where_long_outputs_are_kept_is_looked_at(tmp_path: Path) -> None:
    """The folder need not be there yet, and is not made; one that nobody can write in is bad, and
    so is a bucket that does not answer."""
    settings = settings_for(tmp_path)
    fresh = outputs(settings)
    assert fresh.state == "ok"
    assert f"{tmp_path}" in fresh.message
    assert list(tmp_path.iterdir()) == []
    (tmp_path / "file").write_bytes(b"")
    taken = outputs(replace(settings, outputs=f"file:{tmp_path}/file/below"))
    assert taken.state == "bad"
    assert "DISPATCHER_OUTPUTS" in (taken.advice or "")
    assert outputs(replace(settings, storage_reserve_bytes=10**15)).state == "warn"
    assert outputs(replace(settings, outputs="database")).state == "ok"
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{closed.getsockname()[1]}"
        away = outputs(
            replace(
                settings,
                outputs="s3://bucket",
                s3_endpoint=url,
                s3_access_key_id="us",
                s3_secret_access_key="a secret of ours",
            )
        )
    assert away.state == "bad"
    assert "a secret of ours" not in f"{away}"

"""Databases made by earlier versions open with today's programs, say the same as before, and what
was on its way in them goes on."""

import base64
import json
import re
import sqlite3
import time
from collections import Counter
from contextlib import closing
from pathlib import Path
from typing import Any, Final

import httpx
import psycopg
import pytest

from dispatcher.store.jobs.rows import ROW_BYTES
from dispatcher.store.rows import STORED_BYTES
from receiver.signature import verify
from tests.upgrade import programs
from tests.upgrade.make import ACME, send
from tests.upgrade.programs import (
    ACME_SECRET,
    BILLING_SECRET,
    BOUND_KEY,
    BOUND_KEY_BEFORE,
    OLD_SECRET,
    OWN_HEADERS,
    PLATFORM_KEY,
    SECRET,
    SINK,
    STORED_SECRET,
    TENANT_KEY,
    TENANTS,
    fake_secret,
    ok,
    until,
)
from tests.upgrade.restore import STORES, restored

_FOLDER = re.compile(r'File \\"[^"\\]*/')

VERSIONS: Final = ("c25469a", "ceedfc4", "6b3ba3c", "73cb6be", "d587294")
DAY_S: Final = 86_400
# These move on by themselves as soon as the programs run.
MOVING: Final = ("retrying", "sending", "limited", "fed")
MOVED: Final = {
    "status", "attempts", "nextAttemptAt", "deliveredAt", "finishedAt", "lastError", "waitsFor",
}  # fmt: skip
HEALTH: Final = {"health", "backlog", "sending", "failures", "heldUntil", "heldReason", "lastError"}

pytestmark = pytest.mark.skipif(
    not programs.can_listen(), reason="the files' callbacks go to an address of Linux alone"
)

HANDLER: Final = '''
"""Writes down what it is called with."""


def handle(event):
    with open("handled", "a") as file:
        file.write(f"{event.job_id} {event.attempt}\\n")
'''


@pytest.mark.parametrize("store", STORES)
@pytest.mark.parametrize("version", VERSIONS)
def test_a_dispatchers_database_opens_reads_the_same_and_goes_on(
    version: str, store: str, tmp_path: Path
) -> None:
    # Longer ago than the wait of the callback that is to be tried again after a day.
    with restored(version, "dispatcher", store, tmp_path, age_s=1.1 * DAY_S) as (url, said):
        seals = programs.DISPATCHER_SEALS if said.pop("sealed", False) else {}
        with (
            programs.sink(friendly=True) as sink,
            programs.dispatcher(url, **seals) as client,
        ):
            check_all_reads_the_same(with_new_fields(said), programs.read_dispatcher(client))
            check_keys_and_secrets(client, said)
            check_former_ids(client, said)
            check_what_came_before_is_a_duplicate(client, said)
            check_all_is_delivered_once(client, said, sink)
            check_signatures(said, sink)
            if seals:
                check_bound_key(client)
                check_headers(said, sink)
            if "jobs" in said:
                check_jobs(client, said, sink)
        check_stored_bytes(url)


def check_stored_bytes(url: str) -> None:
    """What a tenant's callbacks and jobs take up is kept from the upgrade on, and equals the
    rows."""
    rows = (
        f"SELECT tenant, CAST(sum(bytes) AS bigint) FROM (SELECT tenant, {STORED_BYTES} AS bytes "
        f"FROM callbacks GROUP BY 1 UNION ALL SELECT tenant, {ROW_BYTES} + input_bytes + "
        "coalesce(output_bytes, 0) FROM jobs) of_each GROUP BY 1 ORDER BY 1"
    )
    kept = "SELECT tenant, CAST(sum(bytes) AS bigint) FROM counts GROUP BY 1 ORDER BY 1"
    connection: Any
    if url.startswith("sqlite"):
        connection = sqlite3.connect(url.removeprefix("sqlite:///"))
    else:
        connection = psycopg.connect(url)
    with closing(connection):
        found = connection.execute(rows).fetchall()
        assert found == connection.execute(kept).fetchall()
        assert found


def with_new_fields(said: Any) -> Any:
    """What an earlier version said, with the fields that policies have gained, as they mean what
    those policies meant."""
    if isinstance(said, list):
        return [with_new_fields(one) for one in said]
    if not isinstance(said, dict):
        return said
    gained = {"turnedAway": "free", "retry": "all"} if "maxAge" in said else {}
    return {name: with_new_fields(value) for name, value in said.items()} | gained


def check_all_reads_the_same(said: dict[str, Any], found: dict[str, Any]) -> None:
    assert found["tenants"] == said["tenants"]
    assert found["keys"] == said["keys"]
    kept = said.get("audit", [])
    assert found["audit"][len(found["audit"]) - len(kept) :] == kept
    for tenant in TENANTS:
        was, is_now = said[tenant], found[tenant]
        assert is_now["secrets"] == was["secrets"]
        assert sum(is_now["counts"].values()) == sum(was["counts"].values())
        assert list(is_now["callbacks"]) == list(was["callbacks"])
        for id, callback in was["callbacks"].items():
            check_callback(callback, is_now["callbacks"][id])
        moving = {
            one["listed"]["destination"]
            for one in was["callbacks"].values()
            if is_moving(one["listed"]["jobId"])
        }
        destinations = {one["id"]: one for one in is_now["destinations"]}
        for one in was["destinations"]:
            if "name" in one:  # a URL without a name is part of a server now
                but = HEALTH if one["id"] in moving else set()
                assert without(destinations[one["id"]], but) == without(one, but)


def check_callback(was: dict[str, Any], found: dict[str, Any]) -> None:
    # What it waits for is told as well, by later versions than some.
    told = {
        name: without(found[name], {"waitsFor"} - was[name].keys()) for name in ("listed", "shown")
    }
    is_now = found | told
    if not is_moving(was["listed"]["jobId"]):
        assert is_now == was
        return
    for name in ("listed", "shown"):
        but = MOVED if "destinationName" in was[name] else {*MOVED, "destination"}
        assert without(is_now[name], but) == without(was[name], but)
    count = len(was["attempts"]["data"])
    assert is_now["attempts"]["data"][:count] == was["attempts"]["data"]
    assert (is_now["payload"], is_now["contentType"]) == (was["payload"], was["contentType"])


def is_moving(job: str) -> bool:
    return job.partition("-")[0] in MOVING


def without(document: dict[str, Any], names: set[str]) -> dict[str, Any]:
    return {name: value for name, value in document.items() if name not in names}


def check_keys_and_secrets(client: httpx.Client, said: dict[str, Any]) -> None:
    def listed(key: str, tenant: str) -> int:
        headers = {"Authorization": f"Bearer {key}", "Postback-Tenant": tenant}
        return client.get("/v1/callbacks?limit=1", headers=headers).status_code

    assert [listed(TENANT_KEY, tenant) for tenant in ("acme", "default")] == [200, 403]
    assert [listed(PLATFORM_KEY, tenant) for tenant in ("acme", "default")] == [200, 200]
    assert listed("pbk_another", "acme") == 401
    for tenant, expected in (
        ("acme", {fake_secret("drawn"), ACME_SECRET}),
        ("default", {OLD_SECRET, SECRET, BILLING_SECRET,
                     *map(fake_secret, ("paused", "limited", "disabled", "fed"))}),
    ):  # fmt: skip
        headers = {"Postback-Tenant": tenant}
        revealed = {
            ok(client.post("/v1/secrets/reveal", json={"id": one["id"]}, headers=headers))["secret"]
            for one in said[tenant]["secrets"]
        }
        assert revealed == expected


def check_bound_key(client: httpx.Client) -> None:
    """Both of its texts, within the overlap of its rotation."""
    for key in (BOUND_KEY, BOUND_KEY_BEFORE):
        headers = {"Authorization": f"Bearer {key}"}
        assert client.get("/v1/callbacks", headers=headers).status_code == 200
        assert client.post("/v1/callbacks", json={}, headers=headers).status_code == 403


def check_former_ids(client: httpx.Client, said: dict[str, Any]) -> None:
    """A URL's id of before leads to its server, and finds the callbacks of before."""
    for tenant in TENANTS:
        headers = {"Postback-Tenant": tenant}
        listed = {one["id"]: one["url"] for one in said[tenant]["destinations"]}
        now = ok(client.get("/v1/destinations?limit=500", headers=headers))["data"]
        if not any(one["url"] == SINK for one in now):  # idle, and so forgotten
            listed.clear()
        for one in (found["listed"] for found in said[tenant]["callbacks"].values()):
            former = one["destination"]
            if "destinationName" not in one and former in listed:
                shown = ok(client.get(f"/v1/destinations/{former}", headers=headers))
                assert shown["url"] == SINK
                assert (shown["id"] == former) is (listed[former] == SINK)
            params = {"destination": former, "limit": "500"}
            found = ok(client.get("/v1/callbacks", params=params, headers=headers))["data"]
            assert one["id"] in [callback["id"] for callback in found]


def check_what_came_before_is_a_duplicate(client: httpx.Client, said: dict[str, Any]) -> None:
    (raw,) = said["acme"]["callbacks"].values()
    again = client.post(
        "/v1/callbacks/raw",
        params={"jobId": "raw", "callbackUrl": raw["listed"]["callbackUrl"]},
        content=base64.b64decode(raw["payload"]),
        headers={"Content-Type": "image/png", "Idempotency-Key": "explicit-key", **ACME},
    )
    assert (ok(again)["id"], ok(again)["duplicate"]) == (raw["listed"]["id"], True)
    first = by_job(said)["delivered"]
    document = {
        "jobId": "delivered",
        "callbackUrl": first["listed"]["callbackUrl"],
        "payload": json.loads(base64.b64decode(first["payload"])),
    }
    again = client.post("/v1/callbacks", json=document)
    assert (ok(again)["id"], ok(again)["duplicate"]) == (first["listed"]["id"], True)


def check_all_is_delivered_once(
    client: httpx.Client, said: dict[str, Any], sink: programs.Sink
) -> None:
    """What was pending, what was being sent, and the rest of the replay; nothing else."""
    for one in said["default"]["destinations"]:
        if one.get("name") in ("paused", "limited", "fed"):
            changes = {"paused": False, "ratePerSecond": None}
            ok(client.patch(f"/v1/destinations/{one['id']}", json=changes))
    replay = f"/v1/replays/{said['replay']['id']}"
    until(lambda: ok(client.get(replay))["state"] == "done")
    replayed = ok(client.get(replay))
    assert replayed["matched"] == replayed["replayed"] == said["replay"]["matched"]

    due = {
        one["listed"]["id"]
        for job, one in by_job(said).items()
        if (one["listed"]["status"] in ("pending", "sending") and job != "later")
        or job.startswith("fed-")
    }
    counts = dict.fromkeys(said["default"]["counts"], 0)
    for one in by_job(said).values():
        counts["delivered" if one["listed"]["id"] in due else one["listed"]["status"]] += 1
    until(lambda: ok(client.get("/v1/stats"))["counts"] == counts)
    assert Counter(one.headers["webhook-id"] for one in sink.arrived) == dict.fromkeys(due, 1)


def check_signatures(said: dict[str, Any], sink: programs.Sink) -> None:
    """With the secret of the tenant, also the one that was rotated out; or the destination's."""
    jobs = {one["listed"]["id"]: job for job, one in by_job(said).items()}
    own = {"waiting": "paused", "limited": "limited", "fed": "fed"}
    for one in sink.arrived:
        name = own.get(jobs[one.headers["webhook-id"]].partition("-")[0])
        for secret in (OLD_SECRET, SECRET) if name is None else (fake_secret(name),):
            verify(one.body, one.headers, [secret], now_s=time.time())
        (kept,) = (
            x for x in by_job(said).values() if x["listed"]["id"] == one.headers["webhook-id"]
        )
        assert one.body == base64.b64decode(kept["payload"])


def check_headers(said: dict[str, Any], sink: programs.Sink) -> None:
    """What was sealed goes out: a callback's own header, and the secret that a header names."""
    sealed = {**OWN_HEADERS, "X-Key": STORED_SECRET}
    waiting = {
        one["listed"]["id"] for job, one in by_job(said).items() if job.startswith("waiting-")
    }
    arrived = [one.headers for one in sink.arrived if one.headers["webhook-id"] in waiting]
    assert len(arrived) == len(waiting)
    for headers in arrived:
        assert {name: headers[name.lower()] for name in sealed} == sealed


def check_jobs(client: httpx.Client, said: dict[str, Any], sink: programs.Sink) -> None:
    """They read the same; what waited is called once, and what its upstream was to end by URL is
    ended by the link that its call was given before. The end of each is told."""
    was = said["jobs"]
    assert programs.read_jobs(client) == was
    arrived = len(sink.arrived)
    with programs.upstream() as calls:
        ok(client.post("/v1/endpoints/stopped/resume"))
        done = ok(client.post(said["completePath"], content=b'{"late": 1}'))
        assert done == {"id": was["later"]["shown"]["id"], "status": "completed"}
        until(lambda: len(sink.arrived) == arrived + 2)
        (call,) = calls
    assert (call.path, json.loads(call.body)) == ("/200/stopped", {"of": "stopped"})
    told = {one.headers["x-postback-job-id"]: one.body for one in sink.arrived[arrived:]}
    outputs = {"later": {"late": 1}, "stopped": {"said": {"of": "stopped"}}}
    for name, output in outputs.items():
        document = json.loads(told[was[name]["shown"]["id"]])
        assert (document["status"], document["output"]) == ("completed", output)
    left = {name: one["shown"]["status"] for name, one in programs.read_jobs(client).items()}
    assert left == dict.fromkeys(was, "completed") | {"refuses": "failed"}


def by_job(said: dict[str, Any]) -> dict[str, Any]:
    return {one["listed"]["jobId"]: one for one in said["default"]["callbacks"].values()}


@pytest.mark.parametrize("store", STORES)
@pytest.mark.parametrize("version", VERSIONS)
def test_a_receivers_inbox_opens_reads_the_same_and_goes_on(
    version: str, store: str, tmp_path: Path
) -> None:
    handler = tmp_path / "handler_of_test.py"
    handler.write_text(HANDLER, "utf-8")
    (tmp_path / "handled").touch()
    (tmp_path / "handled").touch()
    # Longer ago than the wait of the message whose handling is to be tried again after an hour.
    with restored(version, "receiver", store, tmp_path, age_s=2 * 3_600) as (url, said):
        seals = programs.RECEIVER_SEALS if said.pop("sealed", False) else {}
        # Others' claims last as long as ours.
        with programs.receiver(url, handler, LEASE="2", **seals) as client:
            check_inbox(client, said, tmp_path / "handled")


def without_folders(message: dict[str, Any]) -> dict[str, Any]:
    """The same, wherever the program was installed that met an error."""
    said: dict[str, Any] = json.loads(_FOLDER.sub(r'File \\"', json.dumps(message)))
    return said


def check_inbox(client: httpx.Client, said: dict[str, Any], handled_file: Path) -> None:
    until(lambda: len(handled_file.read_text().splitlines()) == 2)
    found = programs.read_receiver(client)
    assert found["expected"] == said["expected"]
    assert list(found["messages"]) == list(said["messages"])
    for id, message in said["messages"].items():
        if message["state"] not in ("pending", "running"):
            assert without_folders(found["messages"][id]) == without_folders(message)
    handled = sorted(handled_file.read_text().splitlines())
    assert handled == ["pending 2", "running 2"]
    check_copies_are_known(client)
    check_it_goes_on(client, handled_file)


def check_copies_are_known(client: httpx.Client) -> None:
    for job, status, number, output in (
        ("handled", "completed", 1, "ok"),
        ("handled", "failed", 2, "ok"),
        ("handled", "running", 3, "ok"),
        ("pending", "completed", 1, "raise"),
        ("dead", "completed", 1, "raise"),
    ):
        assert send(client, job, status, number=number, output=output) == "duplicate", job
    opaque = send(client, "", "", body=b"\xff not JSON", message_id="opaque-1")
    assert opaque == "duplicate"
    assert send(client, "handled", "cancelled", number=4) == "conflict"


def check_it_goes_on(client: httpx.Client, handled: Path) -> None:
    """The copy of the dead message armed it again; a job that is awaited is known once it came."""
    assert send(client, "awaited", "completed") == "accepted"
    until(lambda: len(handled.read_text().splitlines()) == 4)
    expected = ["awaited 1", "dead 1", "pending 2", "running 2"]
    assert sorted(handled.read_text().splitlines()) == expected
    states = {one["jobId"]: one["state"] for one in ok(client.get("/expected"))["data"]}
    assert states == {"handled": "known", "awaited": "known", "awaited-too": "expected"}
    until(lambda: len(ok(client.get("/inbox?limit=500&state=handled"))["data"]) == 7)
    left = Counter(one["state"] for one in ok(client.get("/inbox?limit=500"))["data"])
    assert left == {"handled": 7, "ignored": 3}

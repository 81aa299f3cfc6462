"""Who takes the files of a dispatcher, and not its keys, has no secret, no header and, where that
is chosen, no payload (D19): looked for in every file, after real work by real processes."""

import base64
import json
import os
import shutil
import subprocess
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import httpx
import psycopg
import pytest

from dispatcher.cli import main
from receiver.signature import SignatureError, verify
from tests.dispatcher.postgres.server import private_server
from tests.theft import (
    KEY,
    NEXT_KEY,
    Served,
    beside,
    forms,
    found,
    marker,
    served,
)

SEALED = {"ENCRYPTION": "required", "ENCRYPTION_KEYS": KEY, "ENCRYPT_PAYLOADS": "on"}


def test_the_search_finds_a_value_in_every_form(tmp_path: Path) -> None:
    value, file = marker(), tmp_path / "file"
    for name, form in forms(value).items():
        file.write_bytes(os.urandom(100) + form + os.urandom(100))
        assert any(f" as {name} in " in hit for hit in found([value], tmp_path)), name
    for offset in range(7):
        file.write_bytes(base64.b64encode(os.urandom(offset) + value.encode() + os.urandom(9)))
        assert found([value], file)
    file.write_bytes(os.urandom(100_000))
    assert not found([value], file)


# --- what the service is given ---


@dataclass(slots=True)
class Arrived:
    """What the customers' server got."""

    bodies: list[tuple[dict[str, str], bytes]] = field(default_factory=list)
    changed: threading.Condition = field(default_factory=threading.Condition)

    def wait(self, count: int) -> None:
        with self.changed:
            assert self.changed.wait_for(lambda: len(self.bodies) >= count, 60)


@contextmanager
def customers() -> Iterator[tuple[str, Arrived]]:
    """The customers' server: `/gone` refuses, anything else takes what comes."""
    arrived = Arrived()

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"]))
            self.send_response(404 if self.path.startswith("/gone") else 200)
            self.send_header("Content-Length", "0")
            self.end_headers()
            with arrived.changed:
                arrived.bodies.append((dict(self.headers.items()), body))
                arrived.changed.notify_all()

        def log_message(self, format: str, *args: object) -> None: ...

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever, args=(0.02,))
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_address[1]}", arrived
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def ok(response: httpx.Response) -> Any:
    assert response.is_success, f"{response.request.url}: {response.status_code} {response.text}"
    return response.json()


@dataclass(slots=True)
class Plain:
    """Everything that must not be found, by what it is."""

    secrets: list[str] = field(default_factory=list)
    headers: list[str] = field(default_factory=list)
    payloads: list[str] = field(default_factory=list)

    @property
    def all(self) -> list[str | bytes]:
        keys = [base64.b64decode(one.removeprefix("whsec_")) for one in self.secrets]
        return [*self.secrets, *keys, *self.headers, *self.payloads]


def header() -> str:
    """As `marker`, of what a header may hold."""
    return marker().encode("ascii", "ignore").decode()


def work(service: Served, target: str, arrived: Arrived) -> Plain:
    """Let everything happen that stores or shows what is secret."""
    plain, client = Plain(), service.client
    for tenant in ("default", "acme"):
        own = {"Postback-Tenant": tenant}
        plain.secrets.append(_secret(client, own, "reveal", {}))
        plain.secrets.append(_secret(client, own, "rotate", {"overlap": 3600}))
        value = header()
        plain.headers.append(value)
        made = client.post(
            "/v1/destinations",
            json={"name": "crm", "url": f"{target}/crm", "headers": {"Authorization": value}},
            headers=own,
        )
        plain.secrets.append(ok(made)["secret"])
        names = _stored(client, own, plain)
        changed = header()
        plain.headers.append(changed)
        ok(
            client.patch(
                "/v1/destinations/crm",
                json={"headers": {"X-Token": changed, **names}},
                headers=own,
            )
        )
        for number, path in enumerate(("crm", "a", "gone", "b")):
            _submit(client, own, plain, target, path, f"job-{tenant}-{number}")
    arrived.wait(8)
    page = client.get("/v1/callbacks", params={"status": "dead"})
    deadline = time.monotonic() + 60
    while not ok(page)["data"] and time.monotonic() < deadline:
        time.sleep(0.05)
        page = client.get("/v1/callbacks", params={"status": "dead"})
    (dead,) = ok(page)["data"]
    ok(client.post(f"/v1/callbacks/{dead['id']}/replay"))
    # Faults are logged, with what they are about.
    client.post("/v1/callbacks", json={"jobId": 1, "payload": plain.payloads[0]})
    client.post("/v1/secrets/rotate", json={"secret": plain.secrets[0][:-3]})
    client.get("/v1/secrets")
    ok(client.post("/v1/destinations/crm/test"))
    arrived.wait(10)
    _run_a_job(client, plain, target)
    arrived.wait(11)
    return plain


def _run_a_job(client: httpx.Client, plain: Plain, target: str) -> None:
    """Let an endpoint be made, with a header, its signing secret be rotated and shown, and a call
    be made."""
    value = header()
    plain.headers.append(value)
    made = client.post(
        "/v1/endpoints",
        json={"name": "model", "url": f"{target}/model", "headers": {"X-Token": value}},
    )
    plain.secrets.append(ok(made)["secret"])
    secrets = "/v1/endpoints/model/secrets"
    plain.secrets.append(ok(client.post(f"{secrets}/rotate", json={"overlap": 3600}))["secret"])
    assert ok(client.post(f"{secrets}/reveal"))["secret"] == plain.secrets[-1]
    client.post(f"{secrets}/rotate", json={"secret": plain.secrets[-1][:-3], "force": True})
    ok(client.get(secrets))
    plain.payloads.append(marker())
    ok(client.post("/v1/endpoints/model/jobs", content=plain.payloads[-1].encode()))


def _secret(client: httpx.Client, own: dict[str, str], what: str, body: dict[str, Any]) -> str:
    if what == "reveal":
        ok(client.post("/v1/keys", json={"tenant": own["Postback-Tenant"], "scopes": ["read"]}))
    value: str = ok(client.post(f"/v1/secrets/{what}", json=body, headers=own))["secret"]
    return value


def _stored(client: httpx.Client, own: dict[str, str], plain: Plain) -> dict[str, str]:
    """Return headers that name a stored secret; none where there is nothing to seal it with."""
    kept = header()
    answer = client.put("/v1/stored-secrets/crm", json={"secret": kept}, headers=own)
    plain.headers.append(kept)
    if answer.status_code == 409:
        assert answer.json()["error"] == "KEYS_REQUIRED"
        return {}
    ok(answer)
    return {"X-Key": "Bearer secret:crm"}


def _submit(
    client: httpx.Client, own: dict[str, str], plain: Plain, target: str, path: str, job: str
) -> None:
    payload, value = marker(), header()
    plain.payloads.append(payload)
    plain.headers.append(value)
    where = {"destination": "crm"} if path == "crm" else {"callbackUrl": f"{target}/{path}"}
    body = {
        "jobId": job,
        "payload": {"status": "completed", "result": payload, "more": "x" * 6_000},
        "headers": {"X-Own": value},
        "policy": {"attempts": 1, "delays": [1]},
        **where,
    }
    ok(client.post("/v1/callbacks", json=body, headers=own))


def check_deliveries(arrived: Arrived, plain: Plain) -> None:
    """Nothing went out unsigned, and each payload arrived."""
    for headers, body in arrived.bodies:
        assert any(_is_signed(headers, body, one) for one in plain.secrets)
    named = [headers["X-Key"] for headers, _ in arrived.bodies if "X-Key" in headers]
    assert {one.removeprefix("Bearer ") for one in named} <= set(plain.headers)
    came = b"".join(body for _, body in arrived.bodies)
    escaped = [json.dumps(one)[1:-1].encode() for one in plain.payloads]
    plainly = [one.encode() for one in plain.payloads]
    for either in zip(escaped, plainly, strict=True):
        assert any(one in came for one in either)


def _is_signed(headers: dict[str, str], body: bytes, secret: str) -> bool:
    try:
        verify(body, headers, [secret], now_s=time.time())
    except SignatureError:
        return False
    return True


# --- SQLite ---


@pytest.mark.timeout(180)
def test_a_stolen_file_gives_nothing_away(tmp_path: Path) -> None:
    """The file, its log and index, a backup, the service's log; while it runs, and after a kill."""
    database, log = tmp_path / "postback.db", tmp_path / "log"
    with customers() as (target, arrived):
        with served(f"sqlite:///{database}", log, **SEALED) as service:
            plain = work(service, target, arrived)
            backup = tmp_path / "backup.db"
            assert _main("backup", str(backup), database=database) == 0
            assert found(plain.all, *beside(database), backup, log) == []
        assert database.with_name("postback.db-wal").stat().st_size > 0
        assert found(plain.all, tmp_path) == []
        assert not (tmp_path / "postback.db.key").exists()
        check_deliveries(arrived, plain)


@pytest.mark.timeout(180)
def test_a_copy_without_its_key_file_gives_no_secret_away(tmp_path: Path) -> None:
    """Where nobody set a key: the file of its own is all that a thief would need besides."""
    database, log = tmp_path / "postback.db", tmp_path / "log"
    with customers() as (target, arrived):
        with served(f"sqlite:///{database}", log) as service:
            plain = work(service, target, arrived)
        assert found([*plain.secrets, *plain.headers], *beside(database), log) == []
        key = (tmp_path / "postback.db.key").read_text().strip()
        assert found([key.partition(":")[2]], *beside(database), log) == []
        assert found(plain.payloads, *beside(database))  # else nothing would be proved
        check_deliveries(arrived, plain)


@pytest.mark.timeout(180)
def test_what_was_plain_is_gone_once_it_is_sealed(tmp_path: Path) -> None:
    """An upgrade: a database of before, sealed while the service works; nothing of what it was is
    left in unused pages or in the log."""
    database, log = tmp_path / "postback.db", tmp_path / "log"
    with customers() as (target, arrived):
        with served(f"sqlite:///{database}", log, ENCRYPTION_KEYS=KEY) as service:
            plain = work(service, target, arrived)
        assert found(plain.payloads, *beside(database))
        keys = f"{NEXT_KEY},{KEY}"
        with served(f"sqlite:///{database}", log, **SEALED | {"ENCRYPTION_KEYS": keys}) as service:
            ok(service.client.post("/v1/secrets/reencrypt"))
            done = until_done(service.client)
            assert done["clean"]
            assert done["unopened"] == 0
            assert done["sealed"] > 10
            assert found(plain.all, *beside(database), log) == []
            assert found(["enc1:k1:" + "AAAA"], *beside(database), log) == []
        assert b"enc1:k1:" not in b"".join(one.read_bytes() for one in beside(database))
        with served(f"sqlite:///{database}", log, **SEALED | {"ENCRYPTION_KEYS": NEXT_KEY}) as last:
            assert ok(last.client.get("/readyz"))["status"] == "ready"
            own = {"Postback-Tenant": "acme"}
            assert _secret(last.client, own, "reveal", {}) in plain.secrets


def until_done(client: httpx.Client) -> Any:
    deadline = time.monotonic() + 60
    while (now := ok(client.get("/v1/secrets/reencrypt")))["state"] != "done":
        assert time.monotonic() < deadline, now
        time.sleep(0.05)
    return now


def _main(*words: str, database: Path) -> int:
    before = dict(os.environ)
    os.environ["DISPATCHER_DATABASE_URL"] = f"sqlite:///{database}"
    try:
        return main(words)
    finally:
        os.environ.clear()
        os.environ.update(before)


# --- PostgreSQL ---


@pytest.mark.timeout(240)
@pytest.mark.parametrize("sealed", [True, False])
def test_a_stolen_data_folder_or_dump_gives_nothing_away(tmp_path: Path, sealed: bool) -> None:
    log = tmp_path / "log"
    settings = SEALED if sealed else {}
    with private_server(durable=False) as server, customers() as (target, arrived):
        with served(server.url, log, **settings) as service:
            plain = work(service, target, arrived)
        check_deliveries(arrived, plain)
        with psycopg.connect(server.url, autocommit=True) as connection:
            connection.execute("CHECKPOINT")
        dump = tmp_path / "dump"
        pg_dump = shutil.which("pg_dump") or server.binaries / "pg_dump"
        if Path(pg_dump).exists():
            subprocess.run([pg_dump, "--file", dump, server.url], check=True, capture_output=True)
        places: list[Path] = [server.folder, dump, log]
        if sealed:
            assert found(plain.all, *places) == []
        else:
            assert "stored as plain text: set DISPATCHER_ENCRYPTION_KEYS" in log.read_text()
            for one in (plain.secrets, plain.headers, plain.payloads):
                assert found(one, server.folder)
            assert found(plain.secrets, log) == []


# --- what a job brings for its upstream alone ---


def entrust(service: Served, target: str, arrived: Arrived) -> list[str]:
    """Run jobs that come with a bucket, one that completes, one that fails and one that waits, and
    ask for everything that is shown of them; returns what nobody may see."""
    client = service.client
    values: list[str] = []
    for name, path, concurrency in (("ep", "model", 4), ("bad", "gone", 4), ("shut", "model", 1)):
        made = {"name": name, "url": f"{target}/{path}", "concurrency": concurrency}
        ok(client.post("/v1/endpoints", json=made))
    ok(client.post("/v1/endpoints/shut/pause"))
    found = []
    for name, ends in (("ep", "COMPLETED"), ("bad", "FAILED"), ("shut", "IN_QUEUE")):
        bucket = {one: marker() for one in ("accessId", "accessSecret", "bucketName")}
        values += bucket.values()
        body = {"input": {"a": 1}, "webhook": f"{target}/hook", "s3Config": bucket}
        way, wait = ("run", {}) if name == "shut" else ("runsync", {"wait": "60000"})
        taken = client.post(f"/v2/{name}/{way}", json=body, params=wait)
        assert ok(taken)["status"] == ends
        id = ok(taken)["id"]
        body["policy"] = {"ttl": 1}
        body["s3Config"] = bucket | {"accessId": [bucket["accessId"]]}
        found += [taken, client.post(f"/v2/{name}/run", json=body)]
        paths = [f"/v2/{name}/{part}" for part in (f"status/{id}", f"stream/{id}", "requests")]
        paths += [f"/v1/jobs/{id}{part}" for part in ("", "/input", "/attempts")]
        found += [client.get(path) for path in paths]
    arrived.wait(4)  # two calls of upstreams, two callbacks
    found += [client.get(at) for at in ("/v1/callbacks", "/v1/audit", "/metrics", "/v1/jobs")]
    for one in found:
        text = one.text + str(one.headers)
        assert not [value for value in values if value in text or json.dumps(value)[1:-1] in text]
    calls = [json.loads(body) for _, body in arrived.bodies if b"s3Config" in body]
    assert [set(one["s3Config"].values()) for one in calls] == [set(values[:3]), set(values[3:6])]
    return values


@pytest.mark.timeout(180)
@pytest.mark.parametrize("keys", ["given", "a file's"])
def test_a_bucket_stands_in_no_file(tmp_path: Path, keys: str) -> None:
    """Where payloads are not sealed, too: while it runs, after a kill, after a clean stop, in a
    backup, in the log."""
    database, log = tmp_path / "postback.db", tmp_path / "log"
    settings = {"ENCRYPTION_KEYS": KEY} if keys == "given" else {}
    with customers() as (target, arrived):
        with served(f"sqlite:///{database}", log, **settings) as service:
            values = entrust(service, target, arrived)
            backup = tmp_path / "backup.db"
            assert _main("backup", str(backup), database=database) == 0
            assert found(values, tmp_path) == []
        assert found(values, tmp_path) == []
        with served(f"sqlite:///{database}", log, **settings) as service:
            service.process.terminate()
            assert service.process.wait(60) == 0
        assert found(values, tmp_path) == []


@pytest.mark.timeout(240)
def test_a_bucket_stands_in_no_file_of_a_server(tmp_path: Path) -> None:
    log = tmp_path / "log"
    with private_server(durable=False) as server, customers() as (target, arrived):
        with served(server.url, log, ENCRYPTION_KEYS=KEY) as service:
            values = entrust(service, target, arrived)
        with psycopg.connect(server.url, autocommit=True) as connection:
            connection.execute("CHECKPOINT")
        dump = tmp_path / "dump"
        pg_dump = shutil.which("pg_dump") or server.binaries / "pg_dump"
        if Path(pg_dump).exists():
            subprocess.run([pg_dump, "--file", dump, server.url], check=True, capture_output=True)
        assert found(values, server.folder, dump, log) == []

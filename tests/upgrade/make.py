"""Makes the database files in `data/`, with the version that is to be upgraded from: in a checkout
of its commit, with this folder copied into its `tests/`,

    make install && .venv/bin/python -m tests.upgrade.make NAME

writes `tests/upgrade/data/NAME-*`: what `dispatcher serve` and `receiver serve` left behind when
they were killed at work, and what they said of it (`*.json`). SQLite's files as they are, but for
the log written back into them and keys and secrets that are plainly fake; PostgreSQL's as SQL. A
version that seals what it keeps does so, with a key that is no secret.
"""

import gzip
import importlib.util
import json
import re
import sqlite3
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import Any, Final
from urllib.parse import urlsplit

import httpx
import psycopg

from tests.dispatcher.postgres.server import database
from tests.upgrade import programs
from tests.upgrade.programs import SINK, fake_secret, ok, until

DATA: Final = Path(__file__).parent / "data"
ACME: Final = {"Postback-Tenant": "acme"}
ONCE: Final = {"attempts": 1, "delays": [1]}
TWICE: Final = {"attempts": 2, "delays": [0.05], "jitter": 0}
LATER: Final = {"attempts": 3, "delays": [86_400], "jitter": 0}
SHORT: Final = {"attempts": 5, "delays": [0.05], "timeout": 5, "jitter": 0}
MONTH_S: Final = 2_592_000
JOB_HEADERS: Final = {"Postback-Callback-Url": f"{SINK}/200/jobs", "Postback-Tags": "of=upgrades"}
FED: Final = 16  # callbacks in the filtered replay
HOST: Final = "fake-host:1"  # in the audit trail: who has started
SEALS: Final = importlib.util.find_spec("receiver.base.keyring") is not None
RUNS_JOBS: Final = importlib.util.find_spec("dispatcher.gateway") is not None
DISPATCHER: Final = programs.DISPATCHER_SEALS if SEALS else {}
RECEIVER: Final = programs.RECEIVER_SEALS if SEALS else {}

Say = Callable[[str], Any]  # one statement, with its parameters written in; returns a cursor

HANDLER: Final = '''
"""Does as the message says."""

import time


def handle(event):
    if event.output == "raise":
        raise RuntimeError("as the message says")
    if event.output == "hang":
        time.sleep(3600)
'''


# --- the dispatcher ---


def dispatcher_story(url: str) -> dict[str, Any]:
    """Fill a database until it is killed, and return what it said of it just before."""
    with programs.sink() as sink, programs.dispatcher(url, **DISPATCHER) as client:
        story = _Story(client)
        _access(story.post)
        _destinations(client, story.post)
        if SEALS:
            _later_features(client, story.post)
        _ended(story)
        _change(client, "fed", paused=True)
        replay = story.post("replays", {"filter": {"status": "dead", "destination": "fed"},
                                        "ratePerSecond": 4})["id"]  # fmt: skip
        _under_way(story, sink)
        jobs = _jobs(story) if RUNS_JOBS else {}

        found = programs.read_dispatcher(client) | jobs
        found["replay"] = ok(client.get(f"/v1/replays/{replay}"))
        assert 0 < found["replay"]["replayed"] < FED, found["replay"]
        for entry in found.get("audit", ()):
            if entry["action"] == "service.start":
                entry["target"] = HOST
        return {"madeMs": int(time.time() * 1000), "sealed": SEALS, **found}


@dataclass(frozen=True, slots=True)
class _Story:
    """What is told by it is asked of a running dispatcher."""

    client: httpx.Client

    def post(self, path: str, document: Any, **more: str) -> Any:
        return ok(self.client.post(f"/v1/{path}", json=document, headers=more))

    def state(self, id: str) -> str:
        return str(ok(self.client.get(f"/v1/callbacks/{id}"))["status"])

    def told(self, ids: dict[str, str], ends: dict[str, str]) -> list[str]:
        """The callbacks of jobs that ended."""
        ended = [ids[name] for name, state in ends.items() if state in ("completed", "failed")]
        shown = [ok(self.client.get(f"/v1/jobs/{id}")) for id in ended]
        return [one["callback"]["id"] for one in shown]

    def submit(self, job: str, path: str, **more: Any) -> str:
        document = {"jobId": job, "callbackUrl": SINK + path, "payload": {"status": "completed"}}
        if "destination" in more:
            del document["callbackUrl"]
        return str(self.post("callbacks", {**document, **more})["id"])


def _ended(story: _Story) -> None:
    """Callbacks of every end, each with something of its own."""
    client, submit = story.client, story.submit
    final = [
        submit("delivered", "/200/a", payload={"status": "completed", "über": [1.0, None]}),
        submit("high", "/200/a", priority="high", tags={"team": "a", "color": "blue"}),
        submit("named", "", destination="billing"),
        submit("dead", "/500/a", policy=TWICE, tags={"team": "b"}),
        submit("refused", "/410/a", policy=TWICE),
        submit("rerun", "/200/a", run=2),
        *(submit(f"fed-{n:02}", "", destination="fed", policy=ONCE) for n in range(FED)),
    ]
    raw = client.post(
        "/v1/callbacks/raw",
        params={"jobId": "raw", "callbackUrl": f"{SINK}/200/raw"},
        content=bytes(range(256)),
        headers={"Content-Type": "image/png", "Idempotency-Key": "explicit-key", **ACME},
    )
    acme_id = ok(raw)["id"]
    until(lambda: all(story.state(id) in ("delivered", "dead") for id in final))
    until(lambda: ok(client.get(f"/v1/callbacks/{acme_id}", headers=ACME))["deliveredAt"])


def _under_way(story: _Story, sink: Any) -> None:
    """Callbacks that wait for something, and some that are being sent when the end comes."""
    client, submit, state = story.client, story.submit, story.state
    retrying = submit("retrying", "/503/a", policy=LATER)
    submit("later", "/200/later", notBefore=518_400, run=3)
    own = {"headers": programs.OWN_HEADERS} if SEALS else {}
    waiting = [submit(f"waiting-{n}", "", destination="paused", **own) for n in range(3)]
    story.post(f"callbacks/{submit('cancelled', '', destination='paused')}/cancel", None)
    for n in range(3):
        submit(f"limited-{n}", "", destination="limited")
    doomed = submit("doomed", "", destination="disabled")
    _change(client, "disabled", disabled=True)
    sending = [submit(f"sending-{n}", "/silent/a", policy=SHORT) for n in range(2)]
    until(lambda: ok(client.get(f"/v1/callbacks/{retrying}"))["attempts"] == 1)
    until(lambda: state(doomed) == "dead" and all(map(state, waiting)))
    until(lambda: all(sink.count(id) for id in sending))


def _jobs(story: _Story) -> dict[str, Any]:
    """Jobs that ended, one that waits, and one that its upstream is to end by URL; what is said of
    them."""
    week = 604_800
    own = {"completion": "url", "timeout": week}
    with programs.upstream() as calls:
        for name, status, rules in (("model", 200, {}), ("refuses", 400, {}), ("later", 202, own),
                                    ("stopped", 200, {"queueTimeout": week})):  # fmt: skip
            url = f"{programs.UPSTREAM}/{status}/{name}"
            story.post("endpoints", {"name": name, "url": url, **rules})
        story.post("endpoints/stopped/pause", None)
        ids = {
            name: story.post(f"endpoints/{name}/jobs", {"of": name}, **JOB_HEADERS)["id"]
            for name in ("model", "refuses", "later", "stopped")
        }

        def jobs() -> dict[str, Any]:
            return programs.read_jobs(story.client)

        ends = {"model": "completed", "refuses": "failed", "later": "running", "stopped": "queued"}
        until(lambda: {name: one["shown"]["status"] for name, one in jobs().items()} == ends)
        until(lambda: "dispatcher_jobs_running 0" in story.client.get("/metrics").text)
        (called,) = (one for one in calls if one.headers["x-job-id"] == ids["later"])
        until(lambda: all(story.state(id) == "delivered" for id in story.told(ids, ends)))
        return {"jobs": jobs(), "completePath": urlsplit(called.headers["x-job-complete-url"]).path}


def _access(post: Callable[..., Any]) -> None:
    post("keys", {"scopes": ["submit", "read"], "tenant": "acme", "label": "of a tenant"})
    post("keys", {"scopes": ["read", "admin"], "tenant": None, "label": "of the platform"})
    post("secrets/rotate", {"secret": programs.SECRET, "overlap": MONTH_S})
    post("secrets/rotate", {"secret": programs.ACME_SECRET, "overlap": 0}, **ACME)
    post("secrets/reveal", {})


def _destinations(client: httpx.Client, post: Callable[..., Any]) -> None:
    def register(name: str, path: str, **more: Any) -> None:
        post("destinations", {"name": name, "url": SINK + path, **more})

    register("billing", "/200/billing", secret=programs.BILLING_SECRET, headers={"X-Team": "b"},
             policy=TWICE, concurrency=3)  # fmt: skip
    register("paused", "/200/paused", secret=fake_secret("paused"))
    register("limited", "/200/limited", secret=fake_secret("limited"), ratePerSecond=0.01)
    register("disabled", "/200/disabled", secret=fake_secret("disabled"))
    register("fed", "/500/fed", secret=fake_secret("fed"))
    _change(client, "paused", paused=True)
    _change(client, "disabled", paused=True)


def _later_features(client: httpx.Client, post: Callable[..., Any]) -> None:
    """What came with sealing: a stored secret, headers that name it, and a key that is bound and
    was rotated."""
    ok(client.put("/v1/stored-secrets/crm", json={"secret": programs.STORED_SECRET}))
    _change(client, "paused", headers={"X-Key": "secret:crm"})
    bound = {"scopes": ["read"], "tenant": "acme", "label": "bound", "networks": ["127.0.0.0/8"]}
    limits = {"expiresAt": 12 * MONTH_S, "destinations": ["billing"], "ratePerSecond": 50}
    key = post("keys", {**bound, **limits})["id"]
    post(f"keys/{key}/rotate", {"overlap": MONTH_S})


def _change(client: httpx.Client, name: str, **changes: Any) -> None:
    named = ok(client.get("/v1/destinations?limit=500"))["data"]
    id = next(one["id"] for one in named if one.get("name") == name)
    ok(client.patch(f"/v1/destinations/{id}", json=changes))


def make_plainly_fake(say: Say, binary: Callable[[bytes], str]) -> None:
    """Keys and secrets that were drawn at random, and might be taken for somebody's."""

    def digest(key: str) -> str:
        return binary(sha256(key.encode()).digest())

    for tenant, key in (("IS NULL", programs.PLATFORM_KEY), ("= 'acme'", programs.TENANT_KEY)):
        say(f"UPDATE keys SET digest = {digest(key)} WHERE tenant {tenant} AND label <> 'bound'")
    drawn = fake_secret("drawn")
    if not SEALS:
        say(f"UPDATE secrets SET value = '{drawn}' WHERE value NOT LIKE 'whsec_ZmFrZS%'")
        return
    say(
        f"UPDATE keys SET digest = {digest(programs.BOUND_KEY)}, previous_digest = "
        f"{digest(programs.BOUND_KEY_BEFORE)} WHERE label = 'bound'"
    )
    say(f"UPDATE audit SET target = '{HOST}' WHERE action = 'service.start'")
    from dispatcher.store.sealing import SECRETS
    from receiver.base.keyring import Keyring, read_keys

    ring = Keyring(read_keys(programs.SEALING_KEY, "the key"))
    for id, tenant, value in say("SELECT id, tenant, value FROM secrets").fetchall():
        place = SECRETS.place(id, tenant)
        if not ring.open_text(value, *place).startswith("whsec_ZmFrZS"):
            sealed = ring.seal_text(drawn, *place)
            say(f"UPDATE secrets SET value = '{sealed}' WHERE id = '{id}'")


# --- the receiver ---


def receiver_story(url: str, folder: Path) -> dict[str, Any]:
    """Fill an inbox until it is killed, and return what it said of it just before."""
    handler = folder / "handler_of_make.py"
    handler.write_text(HANDLER, "utf-8")

    def post(client: httpx.Client, job: str, status: str = "completed", **more: Any) -> str:
        return send(client, job, status, **more)

    def settled(client: httpx.Client, job: str, state: str) -> None:
        until(lambda: ok(client.get("/inbox", params={"jobId": job, "state": state}))["data"])

    with programs.receiver(
        url, handler, HANDLER_ATTEMPTS="1", HANDLER_TIMEOUT="3000", **RECEIVER
    ) as client:
        assert post(client, "handled", output="ok") == "accepted"
        assert post(client, "dead", output="raise") == "accepted"
        settled(client, "handled", "handled")
        settled(client, "dead", "dead")
        assert post(client, "handled", output="ok") == "duplicate"
        assert post(client, "handled", "failed", number=2) == "conflict"
        assert post(client, "handled", "running", number=3) == "late"
        assert post(client, "going-on", "running") == "accepted"
        assert send(client, "", "", body=b"\xff not JSON", message_id="opaque-1") == "accepted"
        for job, by in (("handled", 3600), ("awaited", 86_400), ("awaited-too", 90_000)):
            document = {"jobId": job, "statusUrl": f"{SINK}/status/{job}", "by": by}
            ok(client.post("/expected", json=document))
    with programs.receiver(
        url, handler, HANDLER_RETRY_BASE="3600", HANDLER_TIMEOUT="3000", **RECEIVER
    ) as client:
        assert post(client, "pending", output="raise") == "accepted"
        assert post(client, "running", output="hang") == "accepted"
        settled(client, "running", "running")
        until(lambda: ok(client.get("/inbox?jobId=pending"))["data"][0]["attempts"] == 1)
        settled(client, "pending", "pending")
        found = programs.read_receiver(client)
        return {"madeMs": int(time.time() * 1000), "sealed": SEALS, **found}


def send(
    client: httpx.Client,
    job: str,
    status: str,
    *,
    output: str = "ok",
    number: int = 1,
    body: bytes | None = None,
    message_id: str | None = None,
) -> str:
    """Post a signed message, and return what the receiver made of it."""
    from receiver.testing import signed_request  # of the version that runs this

    document = {"jobId": job, "status": status, "output": output}
    body = json.dumps(document).encode() if body is None else body
    headers = signed_request(body, programs.SECRET, message_id=message_id or f"msg-{job}-{number}")
    return str(ok(client.post("/webhooks", content=body, headers=headers))["status"])


# --- files ---


def main(name: str) -> None:
    DATA.mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        for program, story in (
            ("dispatcher", dispatcher_story),
            ("receiver", lambda url: receiver_story(url, folder)),
        ):
            file = folder / f"{program}.db"
            keep(f"{name}-{program}-sqlite", story(f"sqlite:///{file}"))
            _keep_file(f"{name}-{program}.db.gz", file, program)
            with database() as url:
                keep(f"{name}-{program}-postgres", story(url))
                _keep_dump(f"{name}-{program}.sql.gz", url, program)


def keep(name: str, said: dict[str, Any]) -> None:
    text = json.dumps(said, indent=1, ensure_ascii=False) + "\n"
    (DATA / f"{name}.json").write_text(text, "utf-8")


def _keep_file(name: str, file: Path, program: str) -> None:
    connection = sqlite3.connect(file, isolation_level=None)
    if program == "dispatcher":
        connection.execute("PRAGMA secure_delete = ON")
        make_plainly_fake(connection.execute, lambda value: f"x'{value.hex()}'")
    connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    connection.close()
    (DATA / name).write_bytes(gzip.compress(file.read_bytes(), mtime=0))


def _keep_dump(name: str, url: str, program: str) -> None:
    """Statements that any version and any program can read: no settings, no COPY, no owners."""
    if program == "dispatcher":
        with psycopg.connect(url, autocommit=True) as connection:
            make_plainly_fake(
                lambda sql: connection.execute(sql.encode()), lambda value: f"'\\x{value.hex()}'"
            )
    dumped = subprocess.run(
        ["pg_dump", "--inserts", "--no-owner", "--no-privileges", "--no-comments", url],
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    kept = re.sub(r"(?m)^(--.*|SET .*|\\.*|SELECT pg_catalog\.set_config.*)?\n", "", dumped)
    (DATA / name).write_bytes(gzip.compress(kept.encode(), mtime=0))


if __name__ == "__main__":
    main(sys.argv[1])

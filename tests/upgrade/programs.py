"""The two programs as processes, and all that they say of what they have stored, through the ways
that are promised to stay as they are: the same for the version that made a database and for
today's."""

import base64
import json
import os
import re
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, Final

import httpx

# Where the callbacks in the files go: an address of this machine's own that nobody else takes.
ADDRESS: Final = ("127.66.0.1", 18466)
SINK: Final = f"http://{ADDRESS[0]}:{ADDRESS[1]}"
# Where the files' jobs go.
MODELS: Final = (ADDRESS[0], ADDRESS[1] + 1)
UPSTREAM: Final = f"http://{MODELS[0]}:{MODELS[1]}"
ENDS_WITHIN_S: Final = 60.0


def fake_secret(name: str) -> str:
    """A signing secret that nobody takes for a real one."""
    return "whsec_" + base64.b64encode(f"fake-{name}-".ljust(24, "x").encode()).decode()


ADMIN_KEY: Final = "fake-admin-key-for-upgrades"
TENANT_KEY: Final = "pbk_fake-tenant-key-for-upgrades"
PLATFORM_KEY: Final = "pbk_fake-platform-key-for-upgrades"
BOUND_KEY: Final = "pbk_fake-bound-key-for-upgrades"
BOUND_KEY_BEFORE: Final = "pbk_fake-bound-key-before-its-rotation"
SECRET: Final = fake_secret("default-new")
OLD_SECRET: Final = fake_secret("default-old")
ACME_SECRET: Final = fake_secret("acme")
BILLING_SECRET: Final = fake_secret("billing")
STORED_SECRET: Final = "fake-stored-secret-for-upgrades"
OWN_HEADERS: Final = {"X-Own": "fake-header-of-a-callback"}
TENANTS: Final = ("default", "acme")
# What seals what is kept, for versions that do.
SEALING_KEY: Final = "fake:" + base64.b64encode(b"fake-encryption-key-for-upgrades").decode()
DISPATCHER_SEALS: Final = {"ENCRYPTION_KEYS": SEALING_KEY, "ENCRYPT_PAYLOADS": "on"}
RECEIVER_SEALS: Final = {"ENCRYPTION_KEYS": SEALING_KEY}


# --- processes ---


@contextmanager
def dispatcher(database_url: str, **settings: str) -> Iterator[httpx.Client]:
    """A dispatcher on this database, and a client of it with the admin key; killed at the end."""
    given = {
        "DATABASE_URL": database_url,
        "PORT": "0",
        "ADMIN_KEY": ADMIN_KEY,
        "SIGNING_SECRET": OLD_SECRET,
        "ALLOW_NETWORKS": "127.0.0.0/8",
        "LEASE_MARGIN": "1",
        "SWEEP_INTERVAL": "0.2",
        "LOG_LEVEL": "warning",
        **settings,
    }
    with _process("dispatcher", given, (), None) as process:
        assert process.stdout is not None
        said = process.stdout.readline()
        assert said.startswith("listening on "), said
        url = said.removeprefix("listening on ").strip()
        with _client(url, ADMIN_KEY) as client:
            yield client


@contextmanager
def receiver(database_url: str, handler: Path, **settings: str) -> Iterator[httpx.Client]:
    """A receiver on this inbox, which calls `handle` of the module in the file `handler`, and a
    client of it with the admin key; killed at the end."""
    given = {
        "DATABASE_URL": database_url,
        "PORT": "0",
        "ADMIN_KEY": ADMIN_KEY,
        "SECRETS": SECRET,
        "LOG_FORMAT": "json",
        **settings,
    }
    words = ("--handler", f"{handler.stem}:handle")
    with _process("receiver", given, words, handler.parent) as process:
        assert process.stderr is not None
        port = int(json.loads(process.stderr.readline())["port"])
        reader = threading.Thread(target=process.stderr.read)  # a full pipe stops who writes to it
        reader.start()
        with _client(f"http://127.0.0.1:{port}", ADMIN_KEY) as client:
            yield client
        process.kill()
        reader.join()


@contextmanager
def _process(
    package: str, given: dict[str, str], words: tuple[str, ...], folder: Path | None
) -> Iterator[subprocess.Popen[str]]:
    prefix = f"{package.upper()}_"
    env = {name: value for name, value in os.environ.items() if not name.startswith(prefix)}
    paths = [os.getcwd(), *filter(None, [env.get("PYTHONPATH")])]
    env |= {f"{prefix}{name}": value for name, value in given.items()}
    env["PYTHONPATH"] = os.pathsep.join(paths)
    says_port = {"dispatcher": "stdout", "receiver": "stderr"}[package]
    with subprocess.Popen(
        [sys.executable, "-m", package, "serve", *words],
        env=env,
        cwd=folder,
        text=True,
        **{says_port: subprocess.PIPE},  # type: ignore[call-overload]
    ) as process:
        try:
            yield process
        finally:
            process.send_signal(signal.SIGKILL)


def _client(url: str, key: str) -> httpx.Client:
    headers = {"Authorization": f"Bearer {key}"}
    return httpx.Client(base_url=url, headers=headers, trust_env=False, timeout=ENDS_WITHIN_S)


def ok(response: httpx.Response) -> Any:
    """The document of a request that succeeded."""
    assert response.is_success, f"{response.request.url}: {response.status_code} {response.text}"
    return response.json() if response.content else None


def until(happened: Any) -> None:
    """Until it is true: another process has no event to wait for."""
    deadline = time.monotonic() + ENDS_WITHIN_S
    while not happened():
        assert time.monotonic() < deadline, "it did not happen"
        time.sleep(0.02)


# --- the customers ---


@dataclass(frozen=True, slots=True)
class Delivered:
    """One delivery that arrived."""

    path: str
    headers: dict[str, str]
    body: bytes


@dataclass(slots=True)
class Sink:
    """Answers each path with the status of its first word; `/silent` not before the end, unless
    it is `friendly`: then all is 200."""

    friendly: bool = False
    arrived: list[Delivered] = field(default_factory=list)
    ended: threading.Event = field(default_factory=threading.Event)

    def count(self, message_id: str) -> int:
        return sum(one.headers["webhook-id"] == message_id for one in self.arrived)


class _Handler(BaseHTTPRequestHandler):
    """Takes what is posted, on connections that stay."""

    protocol_version = "HTTP/1.1"

    def taken(self) -> Delivered:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        headers = {name.lower(): value for name, value in self.headers.items()}
        return Delivered(self.path, headers, body)

    def say(self, status: int, body: bytes) -> None:
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: object) -> None:
        pass


@contextmanager
def sink(*, friendly: bool = False) -> Iterator[Sink]:
    """The customers' server, where the files' callbacks go."""
    it = Sink(friendly=friendly)

    class Handler(_Handler):
        def do_POST(self) -> None:
            it.arrived.append(self.taken())
            first = self.path.split("/")[1]
            if first == "silent" and not it.friendly:
                it.ended.wait()
            self.say(int(first) if first.isdecimal() and not it.friendly else 200, b"ok")

    with _serving(ADDRESS, Handler):
        try:
            yield it
        finally:
            it.ended.set()


@contextmanager
def upstream() -> Iterator[list[Delivered]]:
    """A model server, where the files' jobs go, and the calls that it got: it answers each path
    with the status of its first word."""
    calls: list[Delivered] = []

    class Handler(_Handler):
        def do_POST(self) -> None:
            call = self.taken()
            calls.append(call)
            self.say(int(self.path.split("/")[1]), b'{"said":%b}' % (call.body or b"null"))

    with _serving(MODELS, Handler):
        yield calls


@contextmanager
def _serving(address: tuple[str, int], handler: type[BaseHTTPRequestHandler]) -> Iterator[None]:
    class Server(ThreadingHTTPServer):
        daemon_threads = True

        def handle_error(self, request: object, client_address: object) -> None:
            pass  # who was killed does not wait for his answer

    server = _listen(address, Server, handler)
    thread = threading.Thread(target=server.serve_forever, args=(0.01,))
    thread.start()
    try:
        yield
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def _listen(
    address: tuple[str, int],
    server: type[ThreadingHTTPServer],
    handler: type[BaseHTTPRequestHandler],
) -> ThreadingHTTPServer:
    """Another run of the tests may be at it: then wait until it has ended."""
    deadline = time.monotonic() + ENDS_WITHIN_S
    while True:
        try:
            return server(address, handler)
        except OSError:
            if time.monotonic() > deadline:
                raise
            time.sleep(0.1)


def can_listen() -> bool:
    """Whether this system has the whole of 127.0.0.0/8 for itself, as Linux does."""
    with socket.socket() as probe:
        try:
            probe.bind((ADDRESS[0], 0))
        except OSError:
            return False
    return True


# --- what they say ---


def read_dispatcher(client: httpx.Client) -> dict[str, Any]:
    """All that the API shows of what is stored."""
    audit = client.get("/v1/audit?all=true&limit=500")
    return {
        **(
            {"audit": audit.json()["data"]} if audit.is_success else {}
        ),  # not every version has one
        "tenants": sorted(ok(client.get("/v1/tenants"))["data"], key=lambda one: one["name"]),
        "keys": {
            tenant: ok(client.get("/v1/keys", headers=_acting(tenant)))["data"]
            for tenant in TENANTS
        },
        **{tenant: _read_tenant(client, tenant) for tenant in TENANTS},
    }


def _acting(tenant: str) -> dict[str, str]:
    return {"Postback-Tenant": tenant}


def _read_tenant(client: httpx.Client, tenant: str) -> dict[str, Any]:
    headers = _acting(tenant)

    def get(path: str) -> Any:
        return ok(client.get(f"/v1/{path}", headers=headers))

    callbacks = {}
    for listed in get("callbacks?limit=500")["data"]:
        id = listed["id"]
        payload = client.get(f"/v1/callbacks/{id}/payload", headers=headers)
        callbacks[id] = {
            "listed": listed,
            "shown": get(f"callbacks/{id}"),
            "attempts": get(f"callbacks/{id}/attempts"),
            "payload": base64.b64encode(payload.content).decode(),
            "contentType": payload.headers["content-type"],
        }
    return {
        "callbacks": callbacks,
        "destinations": get("destinations?limit=500")["data"],
        "secrets": get("secrets")["data"],
        "counts": get("stats")["counts"],
    }


def read_jobs(client: httpx.Client) -> dict[str, Any]:
    """All that the API shows of jobs, by their endpoints."""
    found = {}
    for listed in ok(client.get("/v1/jobs?limit=500"))["data"]:
        id = listed["id"]
        shown = ok(client.get(f"/v1/jobs/{id}"))
        output = client.get(f"/v1/jobs/{id}/output")
        found[shown["endpoint"]] = {
            "shown": {name: shown.get(name) for name in _OF_JOBS},
            "attempts": ok(client.get(f"/v1/jobs/{id}/attempts"))["data"],
            "output": base64.b64encode(output.content).decode() if output.is_success else None,
        }
    return found


# What stays as it is: no guesses, and no links.
_OF_JOBS: Final = (
    "id", "endpoint", "status", "reason", "run", "attempts", "priority", "tags", "error",
    "createdAt", "startedAt", "endedAt",
)  # fmt: skip


def read_receiver(client: httpx.Client) -> dict[str, Any]:
    """All that the admin routes show of what is stored."""
    listed = ok(client.get("/inbox?limit=500"))["data"]
    return {
        "messages": {str(one["id"]): ok(client.get(f"/inbox/{one['id']}")) for one in listed},
        "listed": listed,
        "expected": ok(client.get("/expected?limit=500"))["data"],
    }


_TIME: Final = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d+)?Z")


def moved(document: Any, by_ms: int) -> Any:
    """A document with all its times moved, but those that an entry of the audit trail tells."""
    if isinstance(document, dict):
        return {
            name: value if name == "detail" else moved(value, by_ms)
            for name, value in document.items()
        }
    if isinstance(document, list):
        return [moved(value, by_ms) for value in document]
    if isinstance(document, str) and _TIME.fullmatch(document):
        at = datetime.fromisoformat(document) + timedelta(milliseconds=by_ms)
        return at.astimezone(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
    return document

"""What a request entrusts to us for its upstream or its callback's signature alone: RunPod's
`s3Config` and Cerebrium's webhook secret. Looked for in everything that anybody can read, in every
form that a value may stand in, after real work by real processes."""

import json
import os
import shutil
import signal
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from functools import partial
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from itertools import count
from pathlib import Path
from typing import Any, Final

import httpx
import psycopg
import pytest

from dispatcher.api.app import OPERATIONS
from dispatcher.cli import main
from receiver.signature import Fields, Keys
from receiver.verification import cerebrium
from tests.dispatcher.postgres.server import private_server
from tests.theft import KEY, Served, beside, files, found, marker, served

WITHIN_S: Final = 60.0
JSON: Final = {"Content-Type": "application/json"}
SECRET: Final = b"X-Webhook-Secret"


# --- who is on the other side ---


@dataclass(slots=True)
class Others:
    """The upstream and the customer: what came to each, kept as it came."""

    folder: Path
    url: str = ""
    go: threading.Event = field(default_factory=threading.Event)
    came: list[tuple[str, dict[str, str], bytes]] = field(default_factory=list)
    changed: threading.Condition = field(default_factory=threading.Condition)

    def keep(self, path: str, head: dict[str, str], body: bytes) -> None:
        place = self.folder / ("told" if path.startswith("/hook") else "called")
        place.mkdir(parents=True, exist_ok=True)
        lines = "".join(f"{name}: {value}\n" for name, value in head.items())
        with self.changed:
            name = f"{len(self.came):04d}"
            (place / name).write_bytes(f"{path}\n{lines}\n".encode("latin-1", "replace") + body)
            self.came.append((path, head, body))
            self.changed.notify_all()

    def wait(self, path: str, number: int) -> list[tuple[dict[str, str], bytes]]:
        """What came to a path, once that is so much."""

        def there() -> list[tuple[dict[str, str], bytes]]:
            return [one[1:] for one in self.came if one[0].startswith(path)]

        with self.changed:
            assert self.changed.wait_for(lambda: len(there()) >= number, WITHIN_S), path
            return there()


@contextmanager
def others(folder: Path) -> Iterator[Others]:
    """`/fail` answers 500, `/slow` once it may, and anything else at once."""
    made = Others(folder)

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"]))
            made.keep(self.path, dict(self.headers.items()), body)
            if self.path == "/slow":
                made.go.wait(WITHIN_S)
            self.send_response(500 if self.path == "/fail" else 200)
            said = b'{"said":"this"}'
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(said)))
            self.end_headers()
            self.wfile.write(said)

        def log_message(self, format: str, *args: object) -> None: ...

        def handle(self) -> None:
            with suppress(ConnectionError):  # a call that was cancelled
                super().handle()

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever, args=(0.02,))
    thread.start()
    made.url = f"http://127.0.0.1:{server.server_address[1]}"
    try:
        yield made
    finally:
        made.go.set()
        server.shutdown()
        server.server_close()
        thread.join()


@dataclass(slots=True)
class Hidden:
    """What nobody may find, two of each; and what is no secret, so that the search is known to
    find."""

    s3: list[str] = field(default_factory=list)
    webhook: list[str] = field(default_factory=lambda: [marker(), marker()])
    plain: list[str] = field(default_factory=lambda: [marker()])
    configs: list[dict[str, str]] = field(default_factory=list)

    def __post_init__(self) -> None:
        names = ("accessId", "accessSecret", "bucketName")
        for _ in range(2):
            config, host = {name: marker() for name in names}, marker()[:29]
            self.s3 += [*config.values(), host]
            self.configs.append({**config, "endpointUrl": f"https://{host}.example/"})

    @property
    def all(self) -> list[str | bytes]:
        return [*self.s3, *self.webhook]

    def secret(self, number: int = 0) -> dict[bytes, bytes]:
        """The header with one of them."""
        return {SECRET: self.webhook[number].encode()}


@dataclass(slots=True)
class Work:
    """A client whose every answer is kept, and what it asked for."""

    client: httpx.Client
    others: Others
    hidden: Hidden
    ids: dict[str, list[str]] = field(default_factory=lambda: {"run": [], "job": []})

    def post(self, path: str, **more: Any) -> httpx.Response:
        return self.client.post(path, **more)

    def runpod(self, app: str, path: str = "run", **more: Any) -> str:
        """A job that brings an `s3Config`."""
        body = {
            "input": {"prompt": self.hidden.plain[0]},
            "s3Config": self.hidden.configs[0],
            "webhook": f"{self.others.url}/hook/runpod",
            **more,
        }
        taken = self.post(f"/v2/{app}/{path}", json=body)
        assert taken.status_code == 200, taken.text
        id: str = taken.json()["id"]
        self.ids["run"].append(id)
        return id

    def cerebrium(self, app: str, **params: str) -> str:
        """A run whose callback is signed by its caller's secret."""
        hook = f"{self.others.url}/hook/cerebrium"
        taken = self.post(
            f"/v4/p/{app}/run",
            json={"prompt": self.hidden.plain[0]},
            params={"async": "true", "webhookEndpoint": hook, **params},
            headers=self.hidden.secret(),
        )
        assert taken.is_success or app == "fail", taken.text
        id = taken.headers["x-request-id"]
        self.ids["run"].append(id)
        return id

    def until_ended(self, id: str) -> dict[str, Any]:
        shown = self.client.get(f"/v1/jobs/{id}", params={"wait": "60"}).json()
        assert shown["status"] not in ("queued", "running"), shown
        found: dict[str, Any] = shown
        return found


def kept(client: httpx.Client, folder: Path) -> None:
    """Have a client keep every answer, head and body, in files; of events that go on as long as
    their job runs, what is there of it so far."""
    folder.mkdir(parents=True, exist_ok=True)
    numbers = count()

    def keep(response: httpx.Response) -> None:
        if response.headers.get("Content-Type", "").startswith("text/event-stream"):
            body = so_far(response)
        else:
            body = response.read()
        head = f"{response.request.method} {response.url.path} {response.status_code}\n".encode()
        head += b"".join(b"%b: %b\n" % pair for pair in response.headers.raw)
        (folder / f"{next(numbers):05d}").write_bytes(head + b"\n" + body)

    client.event_hooks = {"response": [keep]}


def so_far(response: httpx.Response) -> bytes:
    """Events until their end, or until the job is seen to run."""
    said = b""
    for chunk in response.iter_raw():
        said += chunk
        if b'"running"' in said and said.endswith(b"\n\n"):
            break
    return said


# --- all that can happen to a job ---


def let_all_happen(work: Work) -> None:
    """Jobs that complete, fail, are cancelled, wait, run again and are told again; and requests
    that are refused for every reason that has to do with what they bring."""
    client, hidden, others = work.client, work.hidden, work.others
    for name in ("ok", "fail", "slow", "late"):
        body = {"name": name, "url": f"{others.url}/{'slow' if name == 'late' else name}"}
        more: dict[str, Any] = {"timeout": 0.3} if name == "late" else {}
        made = work.post("/v1/endpoints", json=body | more)
        assert made.status_code == 201, made.text
    done = [work.runpod("ok"), work.cerebrium("ok"), work.runpod("ok", "runsync")]
    done.append(work.cerebrium("ok", **{"async": "false"}))
    failed = [work.runpod("fail"), work.cerebrium("fail"), work.runpod("late")]
    failed.append(work.cerebrium("late"))
    for id in (*done, *failed):
        work.until_ended(id)
    running = [work.runpod("slow"), work.cerebrium("slow")]
    others.wait("/slow", 4)  # two of them are of `late`
    refused(work)
    look_at_everything(work)
    for id in running:
        assert client.post(f"/v1/jobs/{id}/cancel").status_code == 200
    for id in failed[:2]:
        assert client.post(f"/v1/jobs/{id}/retry").status_code == 200
        work.until_ended(id)
    told = [work.until_ended(one)["callback"]["id"] for one in (*done, *failed, *running)]
    work.ids["job"] = told
    others.wait("/hook", len(told) + 2)
    for id in told[:2]:
        path = f"/v1/callbacks/{id}"
        until(partial(is_delivered, client, path))
        assert client.post(f"{path}/replay").status_code == 200
    others.wait("/hook", len(told) + 4)
    for headers, signed in others.wait("/hook/cerebrium", 1):
        assert any(is_signed(headers, signed, secret) for secret in hidden.webhook)
    look_at_everything(work)
    work.post("/v1/jobs/cancel", json={"filter": {"endpoint": "slow"}, "dryRun": True})
    work.post("/v1/jobs/retry", json={"filter": {"endpoint": "fail"}})


def refused(work: Work) -> None:
    """Every answer here is an error, and may repeat nothing."""
    hidden, hook = work.hidden, f"{work.others.url}/hook/never"
    good = {"input": {}, "webhook": hook}
    config, secret = hidden.configs[1], hidden.secret(1)
    bodies: list[Any] = [
        {**good, "s3Config": [config]},
        {**good, "s3Config": json.dumps(config)},
        {**good, "s3Config": {**config, "accessSecret": [config["accessSecret"]]}},
        {**good, "s3Config": {"accessId": config["accessId"]}},
        {**good, "s3Config": {**config, config["accessSecret"]: 1}},
        {**good, "s3Config": {**config, "accessSecret": config["accessSecret"] * 1_000}},
        {"input": 7, "s3Config": config},
        {"input": {}, "webhook": "ftp://no", "s3Config": config},
        {"input": {}, "policy": {"executionTimeout": 1}, "s3Config": config},
    ]
    for body in bodies:
        answer = work.post("/v2/ok/run", json=body)
        assert answer.status_code in (200, 400), answer.text
    text = json.dumps({**good, "s3Config": config})
    for content in (text[:-1], text[:-2] + "}}x", text.replace('"input"', '"s3Config"')):
        assert work.post("/v2/ok/run", content=content, headers=JSON).status_code == 400
    assert work.post("/v2/none/run", content=text, headers=JSON).status_code == 404
    assert work.post("/v1/callbacks", content=text, headers=JSON).status_code == 422
    assert work.post("/v2/endpoints/ok/runasync", content=text, headers=JSON).status_code >= 400
    # A key that came before, with other content.
    key = {"Idempotency-Key": "one-key", **JSON}
    assert work.post("/v2/ok/run", content=text, headers=key).status_code == 200
    other = json.dumps({**good, "input": {"x": 1}, "s3Config": config})
    assert work.post("/v2/ok/run", content=other, headers=key).status_code == 409
    long = {SECRET: secret[SECRET] * 100}
    for path, url, headers, status in (
        ("/v4/p/none/run", hook, secret, 404),
        ("/v4/p/ok/none", hook, secret, 404),
        ("/v4/p/ok/run", "ftp://no", secret, 422),
        ("/v4/p/ok/run", hook, secret | {b"Idempotency-Key": b"k" * 300}, 422),
        ("/v4/p/ok/run", hook, long, 422),
    ):
        params = {"async": "true", "webhookEndpoint": url}
        answer = work.post(path, json={}, params=params, headers=headers)
        assert answer.status_code == status, answer.text


def look_at_everything(work: Work) -> None:
    """Ask every route that only looks, about everything that there is."""
    names = {
        "name": ["ok", "fail", "slow", "late", "default"],
        "id": [*work.ids["run"], *work.ids["job"], "ok"],
        "project": ["p"],
        "app": [f"p-{one}" for one in ("ok", "fail", "slow", "late")],
        "path": ["ok"],
    }
    paths = [
        (path, {"wait": "1000"} if "status-sync" in path else {})
        for operation in OPERATIONS
        if operation.method == "GET"
        for path in filled_in(operation.path, names)
    ]
    assert len(paths) > 100
    with ThreadPoolExecutor(8) as several:  # some are held while nothing is new
        list(several.map(lambda one: look(work.client, *one), paths))


def look(client: httpx.Client, path: str, params: dict[str, str]) -> None:
    """Ask, and have the answer be kept."""
    with client.stream("GET", path, params=params):
        pass


def filled_in(path: str, names: dict[str, list[str]]) -> Iterator[str]:
    start = path.find("{")
    if start < 0:
        yield path
        return
    name, _, rest = path[start + 1 :].partition("}")
    for value in names.get(name, ["x"]):
        yield from (path[:start] + value + end for end in filled_in(rest, names))


def is_delivered(client: httpx.Client, path: str) -> bool:
    return bool(client.get(path).json()["status"] == "delivered")


def until(met: Callable[[], bool]) -> None:
    deadline = time.monotonic() + WITHIN_S
    while not met():
        assert time.monotonic() < deadline
        time.sleep(0.02)


def is_signed(headers: dict[str, str], body: bytes, secret: str) -> bool:
    try:
        cerebrium.verify(body, Fields(headers), Keys((secret,)), now_s=time.time(), tolerance_s=600)
    except Exception:
        return False
    return True


def check_what_came(others: Others, hidden: Hidden, seen: Path) -> None:
    """The upstreams have what is theirs, and that is the only place; so the search would find it
    anywhere else."""
    called = b"".join(one.read_bytes() for one in files([seen / "called"]))
    documents = [json.loads(body) for path, _, body in others.came if path == "/ok"]
    given = [one["s3Config"] for one in documents if "s3Config" in one]
    values = {value for one in given for value in one.values()}
    assert len(values & set(hidden.s3)) >= 3
    assert found(hidden.s3, seen / "called")
    assert found(hidden.webhook, seen / "called") == []
    assert found(hidden.all, seen / "told", seen / "answers") == []
    assert found(hidden.plain, seen / "answers")
    assert SECRET.lower() not in called.lower()


def stop(service: Served) -> None:
    """End a service as an operator would."""
    service.process.send_signal(signal.SIGTERM)
    assert service.process.wait(WITHIN_S) == 0


# --- on each store ---


@pytest.mark.timeout(300)
@pytest.mark.parametrize("keys", ["given", "its own file"])
def test_what_is_entrusted_to_us_stands_in_no_file_and_no_answer(tmp_path: Path, keys: str) -> None:
    """SQLite: the database, its log, a backup, our log at its most talkative, every view, error
    and callback; while it runs, after a clean stop and after a kill. Payloads are not sealed, so
    that all that is looked for is what must always be."""
    (tmp_path / "d").mkdir()
    database, log, seen = tmp_path / "d" / "postback.db", tmp_path / "log", tmp_path / "seen"
    settings = {"ENCRYPTION_KEYS": KEY} if keys == "given" else {}
    hidden = Hidden()
    with others(seen) as there:
        with served(f"sqlite:///{database}", log, JOB_DRAIN="0", **settings) as service:
            kept(service.client, seen / "answers")
            let_all_happen(Work(service.client, there, hidden))
            backup = tmp_path / "backup.db"
            assert _main("backup", str(backup), database=database) == 0
            assert found(hidden.all, *beside(database), backup, log) == []
            assert found(hidden.plain, *beside(database))
            stop(service)
        assert found(hidden.all, database.parent, log) == []
        with served(f"sqlite:///{database}", log, **settings) as service:
            kept(service.client, seen / "answers" / "again")
            work = Work(service.client, there, hidden)
            work.cerebrium("slow")
            work.runpod("slow")
        assert found(hidden.all, database.parent, log) == []
        check_what_came(there, hidden, seen)


@pytest.mark.timeout(300)
def test_what_is_entrusted_to_us_stands_in_no_data_folder_and_no_dump(tmp_path: Path) -> None:
    """PostgreSQL: its files and its log, a dump, our log, every view, error and callback."""
    log, seen, hidden = tmp_path / "log", tmp_path / "seen", Hidden()
    with private_server(durable=False) as server, others(seen) as there:
        with served(server.url, log, JOB_DRAIN="0", ENCRYPTION_KEYS=KEY) as service:
            kept(service.client, seen / "answers")
            let_all_happen(Work(service.client, there, hidden))
            with psycopg.connect(server.url, autocommit=True) as connection:
                connection.execute("CHECKPOINT")
            dump = tmp_path / "dump"
            pg_dump = shutil.which("pg_dump") or server.binaries / "pg_dump"
            if Path(pg_dump).exists():
                command = [str(pg_dump), "--file", str(dump), server.url]
                subprocess.run(command, check=True, capture_output=True)
            assert found(hidden.all, server.folder, dump, log) == []
            assert found(hidden.plain, server.folder)
            stop(service)
        assert found(hidden.all, server.folder, log) == []
        check_what_came(there, hidden, seen)


def _main(*words: str, database: Path) -> int:
    before = dict(os.environ)
    os.environ["DISPATCHER_DATABASE_URL"] = f"sqlite:///{database}"
    try:
        return main(words)
    finally:
        os.environ.clear()
        os.environ.update(before)

"""Runbooks, carried out: a dispatcher as a service of this machine, a customer, and an operator who
pastes what the page says, line by line."""

import json
import os
import re
import shlex
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import chdir, contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, Final

import httpx

from dispatcher.demo.processes import free_ports
from tests.commands import command
from tests.readme.documents import DISPATCHER, ROOT, read
from tests.receiver.waiting import ENDS_WITHIN_S

KEY: Final = "a-key-for-the-night"
BIN: Final = Path(sys.executable).parent
_FOLDERS: Final = ("/var/lib/postback", "/etc/postback", "/backups")
_SHELL: Final = re.compile(r"[|<>$*;&]")
_SOON_S: Final = 0.02


def runbook(heading: str) -> list[str]:
    """Return the blocks of commands under a heading of the runbooks."""
    part = read(DISPATCHER).partition("### Runbooks\n")[2].partition("\n### ")[0]
    under = part if not heading else part.partition(f"#### {heading}\n")[2]
    under = under.partition("\n#### ")[0]
    return re.findall(r"^```sh\n(.*?)^```", under, re.DOTALL | re.MULTILINE)


def headings() -> list[str]:
    """Return what there are runbooks for."""
    part = read(DISPATCHER).partition("### Runbooks\n")[2].partition("\n### ")[0]
    return re.findall(r"^#### (.+)$", part, re.MULTILINE)


@dataclass(slots=True)
class Customer:
    """Answers each delivery as it is told to, and remembers those that it took."""

    port: int = 0
    status: int = 200
    jobs: list[str] = field(default_factory=list)
    ids: list[str] = field(default_factory=list)


@contextmanager
def customer() -> Iterator[Customer]:
    """A running one."""
    made = Customer()

    class Hooks(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"]))
            if made.status == 200:
                made.jobs.append(json.loads(body).get("jobId", ""))
                made.ids.append(self.headers["webhook-id"])
            self.send_response(made.status)
            self.send_header("Content-Length", "0")
            self.end_headers()

        def log_message(self, format: str, *args: object) -> None: ...

    server = ThreadingHTTPServer(("127.0.0.1", 0), Hooks)
    made.port = server.server_port
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
    thread.start()
    try:
        yield made
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


@dataclass(slots=True)
class Machine:
    """The machine on which the service runs: its folders are below `folder`. `systemctl` and `pip`
    are stood in for; what they were asked is in `asked`."""

    folder: Path
    port: int
    customer: Customer
    variables: dict[str, str] = field(default_factory=dict)
    asked: list[str] = field(default_factory=list)
    _process: "subprocess.Popen[bytes] | None" = None

    def here(self, text: str) -> str:
        """Return `text` with the machine's paths as they are here."""
        for path in _FOLDERS:
            text = text.replace(path, f"{self.folder}{path}")
        return text.replace("/opt/postback/bin", str(BIN))

    def place(self, path: str) -> Path:
        """Return a file of the machine."""
        return Path(self.here(path))

    def start(self) -> None:
        """Start the service with its unit's settings and those of its file; wait until it is
        ready."""
        lines = self.place("/etc/postback/dispatcher.env").read_text().splitlines()
        given = dict(line.split("=", 1) for line in lines)
        own = {
            "DISPATCHER_DATABASE_URL": self.here("sqlite:////var/lib/postback/postback.db"),
            "DISPATCHER_ADMIN_KEY_FILE": self.here("/etc/postback/admin-key"),
            "DISPATCHER_ALLOW_NETWORKS": "127.0.0.0/8",
            "DISPATCHER_PORT": str(self.port),
            "DISPATCHER_SWEEP_INTERVAL": "0.2",
        }
        with (self.folder / "log").open("ab") as log:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "dispatcher", "serve"],
                env={**os.environ, **own, **given, "PYTHONPATH": str(ROOT)},
                stdout=log,
                stderr=log,
            )
        self._wait_until_ready()

    def _wait_until_ready(self) -> None:
        log = self.folder / "log"
        until = time.monotonic() + ENDS_WITHIN_S
        with httpx.Client(trust_env=False) as http:
            while True:
                assert self._process is not None
                assert self._process.poll() is None, log.read_text()
                try:
                    if http.get(f"http://127.0.0.1:{self.port}/readyz").status_code == 200:
                        return
                except httpx.TransportError:
                    pass
                assert time.monotonic() < until, log.read_text()
                time.sleep(_SOON_S)

    def stop(self) -> None:
        """Stop the service, as systemd does."""
        if self._process is not None:
            self._process.send_signal(signal.SIGTERM)
            assert self._process.wait(ENDS_WITHIN_S) == 0
            self._process = None

    def paste(self, heading: str, **names: str) -> str:
        """Run every line under a heading, in order, `names` put in the place of what is an example;
        return what they print. All but `doctor` must succeed: it may have something to say."""
        printed = ""
        for line in "\n".join(runbook(heading)).replace("\\\n", " ").splitlines():
            named = line
            for example, name in names.items():
                named = named.replace(_EXAMPLES[example], name)
            if named.strip():
                printed += self.line(named)
        return printed

    def line(self, line: str) -> str:
        """Run one, and return what it prints."""
        words = shlex.split(self.here(line), comments=True)
        if words[0] == "export":
            self.variables |= dict(word.split("=", 1) for word in words[1:])
            return ""
        if words[0] == "systemctl":
            return self._systemctl(words[1:])
        if words[0].endswith("/pip"):
            self.asked.append(" ".join(words[1:]))
            return ""
        code = line.partition("#")[0]
        if words[0] == "dispatcher" and not _SHELL.search(code):
            return self._dispatcher(words[1:])
        return self._bash(self.here(line))

    def _systemctl(self, words: list[str]) -> str:
        assert words[1] == "postback-dispatcher"
        self.asked.append(" ".join(words))
        if words[0] in ("stop", "restart"):
            self.stop()
        if words[0] in ("start", "restart"):
            self.start()
        return ""

    def _dispatcher(self, words: list[str]) -> str:
        given = {name: value for name, value in self.variables.items() if name != "PATH"}
        given["DISPATCHER_URL"] = f"http://127.0.0.1:{self.port}"
        with chdir(self.folder):
            done = command("dispatcher", *words, **given, COLUMNS="120", NO_COLOR="1")
        allowed = (0, 1) if words[0] == "doctor" else (0,)
        assert done.returncode in allowed, f"{words}: {done.stdout}\n{done.stderr}"
        return done.stdout + done.stderr

    def _bash(self, line: str) -> str:
        """Everything else, and what pipes or redirects."""
        around: Mapping[str, str] = {
            **os.environ,
            **self.variables,
            "PATH": f"{BIN}:{os.environ['PATH']}",
            "DISPATCHER_URL": f"http://127.0.0.1:{self.port}",
            "PYTHONPATH": str(ROOT),
        }
        done = subprocess.run(
            ["bash", "-euo", "pipefail", "-c", line],
            cwd=self.folder,
            env=around,
            capture_output=True,
            text=True,
            check=False,
            timeout=100,
        )
        assert done.returncode == 0, f"{line}: {done.stdout}\n{done.stderr}"
        return done.stdout

    def api(self, method: str, path: str, body: dict[str, Any] | None = None) -> Any:
        """Ask the service, as the platform does, about `acme`."""
        headers = {"Authorization": f"Bearer {KEY}", "Postback-Tenant": "acme"}
        url = f"http://127.0.0.1:{self.port}/v1/{path}"
        with httpx.Client(trust_env=False, timeout=ENDS_WITHIN_S) as http:
            answer = http.request(method, url, headers=headers, json=body)
        assert answer.is_success, answer.text
        return answer.json() if answer.content else None

    def register(self) -> None:
        """Have a destination `billing`, which the customer is."""
        url = f"http://127.0.0.1:{self.customer.port}/hooks"
        self.api("POST", "destinations", {"name": "billing", "url": url})

    def submit(self, job: str, tries: int = 1) -> str:
        """Submit a callback to `billing`, of whose tries an hour lies between; return its id."""
        body = {"jobId": job, "payload": {"jobId": job, "status": "completed"}}
        policy = {"attempts": tries, "delays": [3_600]}
        made = self.api("POST", "callbacks", {**body, "destination": "billing", "policy": policy})
        return str(made["id"])

    def until_tried(self, id: str) -> None:
        """Wait until a callback waits for another try."""
        deadline = time.monotonic() + ENDS_WITHIN_S
        while (
            "nextAttemptAt" not in (one := self.api("GET", f"callbacks/{id}"))
            or not one["attempts"]
        ):
            assert time.monotonic() < deadline, one
            time.sleep(_SOON_S)

    def until(self, id: str, status: str) -> None:
        """Wait until a callback is so."""
        deadline = time.monotonic() + ENDS_WITHIN_S
        while (found := self.api("GET", f"callbacks/{id}")["status"]) != status:
            assert time.monotonic() < deadline, found
            time.sleep(_SOON_S)


_EXAMPLES: Final = {"callback": "cb_…", "key": "key_…"}


@contextmanager
def machine(folder: Path) -> Iterator[Machine]:
    """One on which the service runs, with a tenant `acme` and its destination `billing`."""
    with customer() as hooks:
        (port,) = free_ports(1)
        made = Machine(folder, port, hooks)
        for path in _FOLDERS:
            made.place(path).mkdir(parents=True)
        made.place("/etc/postback/admin-key").write_text(f"{KEY}\n")
        made.place("/etc/postback/dispatcher.env").touch()
        made.paste("")
        try:
            made.start()
            made.register()
            yield made
        finally:
            made.stop()

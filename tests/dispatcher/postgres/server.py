"""A PostgreSQL for the tests: the one that `DISPATCHER_TEST_POSTGRES_URL` names, else a private
server from the installed binaries, in a temporary folder, also when run as root."""

import atexit
import getpass
import os
import pwd
import shutil
import signal
import subprocess
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Final, NoReturn
from urllib.parse import urlsplit, urlunsplit
from uuid import uuid4

import psycopg
import pytest

from tests.ports import free_port

VARIABLE: Final = "DISPATCHER_TEST_POSTGRES_URL"
ABSENT: Final = (
    f"no PostgreSQL: set {VARIABLE}, or install a server (initdb and postgres were not found)"
)
_START_S: Final = 60.0
_STOP_S: Final = 20.0
_USER: Final = "postback_test"
# Fine for the conformance suite, which proves meaning; durability is proved on `durable=True`.
_FAST: Final = ("fsync=off", "synchronous_commit=on", "full_page_writes=off")
_SETTINGS: Final = ("max_connections=200", "autovacuum_naptime=5", "log_min_messages=warning")


@dataclass(slots=True)
class Server:
    """A private server: where it is, and how to stop, kill and start it."""

    binaries: Path
    folder: Path
    port: int
    durable: bool
    user: str | None  # None: we are no root and run it ourselves
    process: subprocess.Popen[bytes] | None = field(default=None)

    @property
    def url(self) -> str:
        """Of its maintenance database."""
        return f"postgresql://{_USER}@127.0.0.1:{self.port}/postgres"

    def start(self) -> None:
        """Start, and wait until it answers."""
        settings = [*_SETTINGS, *(() if self.durable else _FAST)]
        command = [
            str(self.binaries / "postgres"),
            *("-D", str(self.folder / "data"), "-h", "127.0.0.1", "-p", str(self.port)),
            *("-c", f"unix_socket_directories={self.folder}"),
            *(part for setting in settings for part in ("-c", setting)),
        ]
        with (self.folder / "log").open("ab") as log:
            self.process = subprocess.Popen(
                _as_user(command, self.user), stdout=log, stderr=log, cwd=self.folder
            )
        _wait_until_it_answers(self.url, self.process, self.folder / "log")

    def stop(self, how: signal.Signals = signal.SIGINT) -> None:
        """SIGINT ends its sessions at once; SIGQUIT is a crash, with recovery at the next start."""
        if self.process is not None and self.process.poll() is None:
            self.process.send_signal(how)
            self.process.wait(_STOP_S)
        self.process = None

    def initialise(self) -> None:
        """Make the data folder: a copy of the first, which takes a tenth of the time."""
        data = _initialised(self.binaries)
        subprocess.run(["cp", "-a", str(data), str(self.folder)], check=True)


@cache
def _initialised(binaries: Path) -> Path:
    """A data folder as initdb makes it, kept until this process ends."""
    folder = Path(tempfile.mkdtemp(prefix="postback-pg-"))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    command = [str(binaries / "initdb"), "-D", str(folder / "data"), "-U", _USER]
    more = ["-A", "trust", "-E", "UTF8", "--locale=C.UTF-8", "--no-sync"]
    done = subprocess.run(
        _as_user([*command, *more], _user(folder)), cwd=folder, capture_output=True, check=False
    )
    if done.returncode != 0:
        raise RuntimeError(f"initdb failed: {done.stderr.decode(errors='replace')}")
    return folder / "data"


def _as_user(command: list[str], user: str | None) -> list[str]:
    """`command`, as the server's user, ending with us where the system can do that (it means the
    thread that starts it, so only the main one will do)."""
    setpriv = shutil.which("setpriv")
    main = threading.current_thread() is threading.main_thread()
    ending = ["--pdeathsig", "INT"] if main else []
    if user is None:
        return [setpriv, *ending, *command] if setpriv and main else command
    if setpriv:
        who = ["--reuid", user, "--regid", str(pwd.getpwnam(user).pw_gid)]
        return [setpriv, *who, "--clear-groups", *ending, *command]
    return ["runuser", "-u", user, "--", *command]


def binaries() -> Path | None:
    """Where initdb and postgres are, the newest version first."""
    found = sorted(Path("/usr/lib/postgresql").glob("*/bin"), key=_version, reverse=True)
    config = shutil.which("pg_config")
    if config:
        said = subprocess.run([config, "--bindir"], capture_output=True, text=True, check=False)
        found.append(Path(said.stdout.strip()))
    found += [Path(folder) for folder in os.get_exec_path()]
    found += [Path("/usr/local/bin"), Path("/usr/local/pgsql/bin"), Path("/opt/homebrew/bin")]
    wanted = ("initdb", "postgres")
    return next((one for one in found if all((one / name).exists() for name in wanted)), None)


def _version(folder: Path) -> float:
    try:
        return float(folder.parent.name)
    except ValueError:
        return 0.0


@contextmanager
def private_server(*, durable: bool) -> Iterator[Server]:
    """A server of one's own, running. Skips, or fails under CI, where none is installed."""
    found = binaries()
    if found is None:
        absent()
    folder = Path(tempfile.mkdtemp(prefix="postback-pg-"))
    try:
        server = Server(
            binaries=found, folder=folder, port=free_port(), durable=durable, user=_user(folder)
        )
        server.initialise()
        server.start()
        try:
            yield server
        finally:
            server.stop()
    finally:
        shutil.rmtree(folder, ignore_errors=True)


@cache
def shared_url() -> str:
    """The server that all tests share. Skips, or fails under CI, where there is none."""
    named = os.environ.get(VARIABLE)
    if named:
        return named
    context = private_server(durable=False)
    server = context.__enter__()
    atexit.register(context.__exit__, None, None, None)
    return server.url


def available() -> bool:
    """Whether tests can have a PostgreSQL."""
    return bool(os.environ.get(VARIABLE)) or binaries() is not None


def absent() -> NoReturn:
    """Skip with one clear line; under CI its absence is a failure."""
    if os.environ.get("CI", "").lower() in ("1", "true"):
        pytest.fail(ABSENT)
    pytest.skip(ABSENT)


@contextmanager
def database(server_url: str | None = None, *, keep: bool = False) -> Iterator[str]:
    """The URL of a new database, dropped at the end (unless it is to be kept)."""
    server_url = shared_url() if server_url is None else server_url
    name = f"postback_test_{uuid4().hex[:12]}"
    with psycopg.connect(server_url, autocommit=True) as connection:
        connection.execute(f'CREATE DATABASE "{name}" TEMPLATE template0')
    try:
        yield with_database(server_url, name)
    finally:
        if not keep:
            _drop(server_url, name)


def _drop(server_url: str, name: str) -> None:
    with psycopg.connect(server_url, autocommit=True) as connection:
        connection.execute(f'DROP DATABASE IF EXISTS "{name}" WITH (FORCE)')


def with_database(url: str, name: str) -> str:
    """`url`, of another database on the same server."""
    return urlunsplit(urlsplit(url)._replace(path=f"/{name}"))


def _user(folder: Path) -> str | None:
    """Initdb and postgres refuse root: somebody else must run them."""
    if os.geteuid() != 0:
        return None
    for name in ("postgres", "nobody"):
        try:
            entry = pwd.getpwnam(name)
        except KeyError:
            continue
        os.chown(folder, entry.pw_uid, entry.pw_gid)
        return name
    pytest.fail(f"{getpass.getuser()} cannot run PostgreSQL, and there is no user who could")


def _wait_until_it_answers(url: str, process: subprocess.Popen[bytes], log: Path) -> None:
    """There is no event to wait for: a server says nothing when it is ready."""
    until = time.monotonic() + _START_S
    while True:
        try:
            psycopg.connect(url, connect_timeout=2).close()
        except psycopg.OperationalError as error:
            if process.poll() is not None or time.monotonic() > until:
                said = log.read_text("utf-8", "replace")[-2_000:]
                raise RuntimeError(f"PostgreSQL did not start: {said}") from error
            time.sleep(0.02)
        else:
            return

"""The README's two services, started as it says but on free ports."""

import os
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

import httpx

from dispatcher.client import Client
from dispatcher.demo.processes import free_ports

ROOT = Path(__file__).parents[2]
KEY = "my-first-key"
SECRET = "whsec_" + "dGVzdHRlc3R0ZXN0" * 2
ADMIN_KEY = "any-long-random-text"


@dataclass(frozen=True, slots=True)
class Place:
    """Where the services of one test are."""

    dispatcher_port: int
    receiver_port: int
    printed: Path

    def wait_until_printed(self, text: str) -> None:
        """Until a handler has printed it."""
        deadline = time.monotonic() + 20
        while text not in self.printed.read_text("utf-8"):
            assert time.monotonic() < deadline, self.printed.read_text("utf-8")
            time.sleep(0.02)  # another process works on it

    def here(self, text: str) -> str:
        """`text` of the README with its default ports replaced by ours."""
        return text.replace(":8600", f":{self.dispatcher_port}").replace(
            ":8700", f":{self.receiver_port}"
        )

    def wait_for_delivery(self) -> None:
        """Until everything that was submitted is delivered."""
        with Client(f"http://127.0.0.1:{self.dispatcher_port}", KEY) as client:
            for callback in client.list():
                assert client.wait(callback.id, timeout=20).status == "delivered"


@contextmanager
def running(folder: Path, *, shop: str) -> Iterator[Place]:
    """Both services, ready, the receiver with the handler of `shop.py`; ended on leaving."""
    ports = free_ports(2)
    place = Place(ports[0], ports[1], folder / "printed")
    (folder / "shop.py").write_text(shop, "utf-8")
    with ExitStack() as stack:
        for port, command, env in (
            (ports[0], ["dispatcher", "serve"], _dispatcher(place, folder)),
            (
                ports[1],
                ["receiver", "serve", "--handler", "shop:receiver"],
                _receiver(place, folder),
            ),
        ):
            served = _served(command, env, f"http://127.0.0.1:{port}/readyz", place.printed, folder)
            stack.enter_context(served)
        yield place


def _dispatcher(place: Place, folder: Path) -> Mapping[str, str]:
    return {
        "DISPATCHER_ADMIN_KEY": KEY,
        "DISPATCHER_ALLOW_NETWORKS": "127.0.0.0/8",
        "DISPATCHER_PORT": str(place.dispatcher_port),
        "DISPATCHER_DATABASE_URL": f"sqlite:///{folder}/postback.db",
        "DISPATCHER_SIGNING_SECRET": SECRET,
    }


def _receiver(place: Place, folder: Path) -> Mapping[str, str]:
    return {
        "RECEIVER_SECRETS": SECRET,
        "RECEIVER_ADMIN_KEY": ADMIN_KEY,
        "RECEIVER_PORT": str(place.receiver_port),
        "RECEIVER_DATABASE_URL": f"sqlite:///{folder}/receiver.db",
    }


@contextmanager
def _served(
    command: list[str], env: Mapping[str, str], url: str, printed: Path, folder: Path
) -> Iterator[None]:
    with printed.open("a") as out:
        process = subprocess.Popen(
            [sys.executable, "-um", *command],
            cwd=folder,
            env={**os.environ, "PYTHONPATH": str(ROOT), **env},
            stdout=out,
            stderr=out,
        )
    try:
        _wait_until_answered(process, url)
        yield
    finally:
        process.terminate()
        process.wait(30)


def _wait_until_answered(process: subprocess.Popen[bytes], url: str) -> None:
    deadline = time.monotonic() + 30
    while time.monotonic() < deadline:
        assert process.poll() is None, "it ended at its start"
        try:
            if httpx.get(url, trust_env=False).status_code == 200:
                return
        except httpx.TransportError:
            time.sleep(0.05)  # it is starting
    raise AssertionError(f"nothing answers at {url}")

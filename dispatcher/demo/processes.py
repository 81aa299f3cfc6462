"""The processes of the demonstration: started, waited for, killed, and never left behind."""

import asyncio
import os
import secrets
import socket
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Final

import httpx

from dispatcher.keys import new_text
from receiver.signature import generate_secret

_START_S: Final = 20.0


class DemoError(Exception):
    """The demonstration cannot go on; the message says why."""


class Process:
    """One child process that answers HTTP when it is ready."""

    def __init__(self, name: str, url: str, arguments: list[str], env: Mapping[str, str]) -> None:
        self.name = name
        self.url = url
        self._arguments = arguments
        # Whatever settings of ours the shell has are for other services than these.
        own = ("DISPATCHER_", "RECEIVER_")
        inherited = {name: text for name, text in os.environ.items() if not name.startswith(own)}
        self._env = {**inherited, **env}
        self._log = Path(env["DEMO_FOLDER"]) / f"{name}.log"
        self._child: asyncio.subprocess.Process | None = None

    async def start(self, ready_path: str) -> None:
        """Start and wait until it answers. Raises DemoError."""
        with self._log.open("ab") as log:
            self._child = await asyncio.create_subprocess_exec(
                sys.executable, "-m", *self._arguments, stdout=log, stderr=log, env=self._env
            )
        try:
            async with asyncio.timeout(_START_S), httpx.AsyncClient(trust_env=False) as client:
                while not await self._answers(client, ready_path):  # noqa: ASYNC110  # a process
                    await asyncio.sleep(0.05)
        except TimeoutError:
            raise DemoError(f"{self.name} did not start; see {self._log}") from None

    async def _answers(self, client: httpx.AsyncClient, path: str) -> bool:
        if self._child is not None and self._child.returncode is not None:
            raise DemoError(f"{self.name} ended at its start; see {self._log}")
        try:
            return (await client.get(f"{self.url}{path}")).status_code < 500
        except httpx.RequestError:
            return False

    async def stop(self) -> None:
        """Ask it to end, as an operator would."""
        if self._child is not None and self._child.returncode is None:
            self._child.terminate()
            await self._child.wait()

    async def kill(self) -> None:
        """End it as a power cut would."""
        if self._child is not None and self._child.returncode is None:
            self._child.kill()
            await self._child.wait()


class Cast:
    """Who plays: a dispatcher, a customer's receiver, and two difficult customers."""

    def __init__(self, folder: Path) -> None:
        self.api_key = new_text()
        self.admin_key = secrets.token_urlsafe(32)
        signing_secret = generate_secret()
        ports = free_ports(3)
        self.shop = folder / "shop.db"
        self.dispatcher = Process(
            "dispatcher",
            f"http://127.0.0.1:{ports[0]}",
            ["dispatcher", "serve"],
            {
                "DEMO_FOLDER": str(folder),
                "DISPATCHER_DATABASE_URL": f"sqlite:///{folder}/dispatcher.db",
                "DISPATCHER_HOST": "127.0.0.1",
                "DISPATCHER_PORT": str(ports[0]),
                "DISPATCHER_ADMIN_KEY": self.api_key,
                "DISPATCHER_SIGNING_SECRET": signing_secret,
                "DISPATCHER_ALLOW_NETWORKS": "127.0.0.0/8",
            },
        )
        self.receiver = Process(
            "receiver",
            f"http://127.0.0.1:{ports[1]}",
            ["receiver", "serve", "--handler", "dispatcher.demo.customers:receiver"],
            {
                "DEMO_FOLDER": str(folder),
                "RECEIVER_DATABASE_URL": f"sqlite:///{folder}/receiver.db",
                "RECEIVER_HOST": "127.0.0.1",
                "RECEIVER_PORT": str(ports[1]),
                "RECEIVER_SECRETS": signing_secret,
                "RECEIVER_ADMIN_KEY": self.admin_key,
                "RECEIVER_EFFECTS_URL": f"sqlite:///{self.shop}",
            },
        )
        self.customers = Process(
            "customers",
            f"http://127.0.0.1:{ports[2]}",
            ["dispatcher.demo.customers", str(ports[2])],
            {"DEMO_FOLDER": str(folder)},
        )

    async def start(self) -> None:
        """All of them. Raises DemoError."""
        await asyncio.gather(
            self.dispatcher.start("/readyz"),
            self.receiver.start("/readyz"),
            self.customers.start("/handled"),
        )

    async def stop(self) -> None:
        """All of them, whatever happened."""
        await asyncio.gather(self.dispatcher.stop(), self.receiver.stop(), self.customers.stop())


def free_ports(count: int) -> list[int]:
    """Loopback ports that nothing listens on."""
    sockets = [socket.socket() for _ in range(count)]
    try:
        for one in sockets:
            one.bind(("127.0.0.1", 0))
        return [one.getsockname()[1] for one in sockets]
    finally:
        for one in sockets:
            one.close()

"""The drill of changing the encryption key (D19): two dispatchers on one database under load, one
restarted after the other, as the guide says. No callback is refused or lost, none goes out unsigned
or without its headers, and nothing is left under the old key."""

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import aiohttp
import psycopg
import pytest
from aiohttp import web

from receiver.signature import SignatureError, verify
from tests.dispatcher.postgres import folders
from tests.dispatcher.postgres.fleet import AUTH, POLICY, Member, call, fleet, settled
from tests.theft import KEY, NEXT_KEY

SECRET = "whsec_" + "c2VjcmV0" * 6
HEADERS = {"Authorization": "Bearer of-the-customer", "X-Own": "of-the-callback"}
SEALED = {"ENCRYPTION": "required", "ENCRYPT_PAYLOADS": "on", "DRAIN_GRACE": "5"}


@dataclass(slots=True)
class Customer:
    """Takes what is signed and complete, and writes down what is not."""

    arrived: set[str] = field(default_factory=set)
    wrong: list[str] = field(default_factory=list)

    async def take(self, request: web.Request) -> web.Response:
        body, one = await request.read(), request.headers["webhook-id"]
        try:
            verify(body, request.headers, [SECRET], now_s=time.time(), require="standard")
        except SignatureError as error:
            self.wrong.append(f"{one}: {error}")
        if any(request.headers.get(name) != value for name, value in HEADERS.items()):
            self.wrong.append(f"{one}: a header is missing")
        self.arrived.add(one)
        return web.Response(text="ok")


@asynccontextmanager
async def listening(customer: Customer) -> AsyncIterator[str]:
    app = web.Application()
    app.router.add_post("/hook", customer.take)
    runner = web.AppRunner(app, access_log=None, shutdown_timeout=0.1)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    try:
        yield f"http://127.0.0.1:{runner.addresses[0][1]}/hook"
    finally:
        await runner.cleanup()


@dataclass(slots=True)
class Load:
    """Submits one callback after the other, to whichever dispatcher lives, until it is stopped."""

    members: list[Member]
    accepted: set[str] = field(default_factory=set)
    refused: list[str] = field(default_factory=list)
    is_over: bool = False

    async def run(self, name: str) -> None:
        timeout = aiohttp.ClientTimeout(total=15)
        async with aiohttp.ClientSession(headers=AUTH, timeout=timeout) as session:
            number = 0
            while not self.is_over:
                number += 1
                await self._submit(session, f"job-{name}-{number}")
                await asyncio.sleep(0.02)

    async def _submit(self, session: aiohttp.ClientSession, job: str) -> None:
        document = {
            "jobId": job,
            "destination": "crm",
            "payload": {"status": "completed", "job": job},
            "headers": {"X-Own": HEADERS["X-Own"]},
            "policy": POLICY,
        }
        while True:
            url = next((member.url for member in self.members if member.url), None)
            try:
                if url is not None:
                    async with session.post(f"{url}/v1/callbacks", json=document) as answer:
                        said = await answer.json()
                        if answer.status in (200, 202):
                            self.accepted.add(said["id"])
                            return
                        # One that stops says so, and the other one takes it.
                        if said["error"] != "UNAVAILABLE":
                            self.refused.append(str(said))
                            return
            except aiohttp.ClientError:
                pass  # it has stopped
            await asyncio.sleep(0.02)


async def roll(members: list[Member], keys: str) -> None:
    """Restart one after the other with these keys."""
    for member in members:
        await member.end(kill=False)
        member.settings = {**SEALED, "ENCRYPTION_KEYS": keys}
        await member.start()


async def metric(member: Member, name: str) -> float:
    async with (
        aiohttp.ClientSession() as session,
        session.get(f"{member.url}/metrics") as answer,
    ):
        lines = (await answer.text()).splitlines()
    return sum(float(line.split()[-1]) for line in lines if line.startswith(name))


async def reencrypted(member: Member) -> dict[str, Any]:
    status, said = await call(member, "POST", "/v1/secrets/reencrypt")
    assert status == 202, said
    async with asyncio.timeout(60):
        while said["state"] != "done":
            await asyncio.sleep(0.05)
            _, said = await call(member, "GET", "/v1/secrets/reencrypt")
    done: dict[str, Any] = said
    return done


@pytest.mark.slow
@pytest.mark.timeout(300)
async def test_the_key_is_changed_under_load_and_nobody_notices(tmp_path: Path) -> None:
    customer, faults = Customer(), 0.0
    url = folders.url_for(tmp_path)
    try:
        async with (
            listening(customer) as target,
            fleet(url, tmp_path, 2, **SEALED, ENCRYPTION_KEYS=KEY) as members,
        ):
            body = {
                "name": "crm",
                "url": target,
                "secret": SECRET,
                "headers": {"Authorization": HEADERS["Authorization"]},
            }
            status, said = await call(members[0], "POST", "/v1/destinations", json=body)
            assert status == 201, said
            load = Load(members)
            running = [asyncio.create_task(load.run(f"{n}")) for n in range(4)]
            for keys in (f"{KEY},{NEXT_KEY}", f"{NEXT_KEY},{KEY}"):
                await roll(members, keys)
            before = len(load.accepted)
            done = await reencrypted(members[0])
            assert (done["unopened"], done["key"]) == (0, "k2")
            assert done["sealed"] > before
            for member in members:
                faults += await metric(member, "dispatcher_own_faults_total")
            await roll(members, NEXT_KEY)
            for member in members:
                status, ready = await call(member, "GET", "/readyz")
                assert status == 200, ready
            load.is_over = True
            await asyncio.gather(*running)
            counts = await settled(members[0])
            for member in members:
                faults += await metric(member, "dispatcher_own_faults_total")
        assert load.refused == []
        assert customer.wrong == []
        assert load.accepted == customer.arrived
        assert (counts["delivered"], counts["dead"]) == (len(load.accepted), 0)
        assert faults == 0
        assert len(load.accepted) > 200
        with psycopg.connect(url) as connection:
            for table, column in (("secrets", "value"), ("destinations", "headers")):
                sql = f"SELECT count(*) FROM {table} WHERE {column} LIKE 'enc1:k1:%'"
                assert connection.execute(sql.encode()).fetchone() == (0,)
            left = "SELECT count(*) FROM payloads WHERE kid <> 'k2' OR headers LIKE 'enc1:k1:%'"
            assert connection.execute(left).fetchone() == (0,)
    finally:
        folders.drop_under(tmp_path)

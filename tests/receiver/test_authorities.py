"""RECEIVER_CA_FILE: the receiver's own requests reach what a private authority vouches for."""

import asyncio
import json
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from dataclasses import replace
from datetime import timedelta
from pathlib import Path

import pytest

from receiver import Receiver, Settings
from receiver.base.settings import SettingError
from receiver.base.tls import system, trusted
from receiver.client import ClientError, ask
from receiver.conformance.endpoint import Endpoint, KitError
from receiver.handling.forward import Forwarder
from receiver.settings import ClientSettings
from receiver.testing import Client
from tests.authority import Authority, fronted
from tests.receiver.serving import served
from tests.receiver.test_expect import DONE, SECRET, SOON, StatusServer, customer, http

KEY = "test-admin-key-of-tests"


@pytest.fixture(autouse=True)
def fresh() -> Iterator[None]:
    """What is trusted is read once in a process."""
    trusted.cache_clear()
    system.cache_clear()
    yield
    trusted.cache_clear()
    system.cache_clear()


@pytest.fixture
def authority(tmp_path: Path) -> Authority:
    return Authority(tmp_path)


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    return Settings(
        secrets=(SECRET,),
        database_url=f"sqlite:///{tmp_path}/inbox.db",
        admin_key=KEY,
        ask_timeout=5.0,
        lost_after=3600,
        handler_attempts=1,
    )


@asynccontextmanager
async def answering(authority: Authority) -> AsyncIterator[tuple[StatusServer, str]]:
    """A server behind the authority, and its URL."""
    made = StatusServer()
    made.answer = lambda: http(200, DONE)
    server = await asyncio.start_server(made.serve, "127.0.0.1", 0, ssl=authority.server())
    async with server:
        yield made, f"https://127.0.0.1:{server.sockets[0].getsockname()[1]}/jobs/1"


async def test_a_status_url_behind_a_private_authority_is_asked(
    settings: Settings, authority: Authority
) -> None:
    """Only where its file is named."""
    async with answering(authority) as (status, url):
        async with customer(settings) as stranger:
            await stranger.expect(url)
            await stranger.pass_(SOON + timedelta(seconds=1), asked=1)
            assert (await stranger.state(), status.asked) == ("expected", [])
        trusting = replace(
            settings, ca_file=str(authority.pem), database_url=f"{settings.database_url}2"
        )
        async with customer(trusting) as here:
            await here.expect(url)
            await here.pass_(SOON + timedelta(seconds=1), asked=1)
            assert [event.job_id for event in here.handled] == ["job_1"]
        assert len(status.asked) == 1


async def test_a_service_behind_a_private_authority_is_forwarded_to(
    settings: Settings, authority: Authority
) -> None:
    async with answering(authority) as (service, url):
        for ca_file, states in ((None, {"dead"}), (str(authority.pem), {"handled"})):
            own_inbox = f"{settings.database_url}-{len(service.asked)}-{ca_file is None}"
            receiver = Receiver(replace(settings, database_url=own_inbox))
            forwarder = Forwarder(url, timeout_s=5, ca_file=ca_file)
            receiver.on("*")(forwarder)
            async with Client(receiver, SECRET) as client:
                await client.send(DONE)
                await client.idle()
                page = await receiver.inbox.page()
                assert {one.state for one in page.messages} == states
            await forwarder.close()
        assert len(service.asked) == 1


async def test_authorities_that_cannot_be_read_stop_the_start(
    settings: Settings, tmp_path: Path
) -> None:
    """In whatever way the receiver is run, and nothing stays open."""
    wrong = str(tmp_path / "none.pem")
    with pytest.raises(SettingError, match="RECEIVER_CA_FILE: cannot read"):
        async with Receiver(replace(settings, ca_file=wrong)):
            pass
    with pytest.raises(SettingError, match="RECEIVER_CA_FILE: cannot read"):
        Forwarder("https://127.0.0.1/", timeout_s=1, ca_file=wrong)
    async with Receiver(settings):
        pass


async def test_the_commands_reach_a_receiver_behind_a_private_authority(
    settings: Settings, authority: Authority
) -> None:
    """`receiver inbox`, `expected` and `expect` ask with the standard library's client."""
    async with (
        Receiver(settings) as receiver,
        served(receiver) as inner,
        fronted(int(inner.rpartition(":")[2]), authority.server()) as url,
    ):
        stranger = ClientSettings(url=url, admin_key=KEY)
        with pytest.raises(ClientError, match="certificate verify failed"):
            await asyncio.to_thread(ask, stranger, "/inbox")
        trusting = replace(stranger, ca_file=str(authority.pem))
        assert json.dumps(await asyncio.to_thread(ask, trusting, "/inbox"))
        with pytest.raises(ClientError, match="RECEIVER_CA_FILE: cannot read"):
            await asyncio.to_thread(ask, replace(stranger, ca_file="/none"), "/inbox")


async def test_a_receiver_behind_a_private_authority_can_be_checked(authority: Authority) -> None:
    async with answering(authority) as (_, url):
        async with Endpoint(url) as stranger:
            with pytest.raises(KitError, match="certificate verify failed"):
                await stranger.reach()
        async with Endpoint(url, ca_file=str(authority.pem)) as endpoint:
            await endpoint.reach()

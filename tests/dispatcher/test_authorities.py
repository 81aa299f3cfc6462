"""DISPATCHER_CA_FILE: deliveries and commands reach what a private authority vouches for."""

import asyncio
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from dispatcher.app import Service
from dispatcher.cli.doctor import checks
from dispatcher.client import AsyncClient, Client, Unreachable
from dispatcher.outcome import Outcome
from dispatcher.sending.sender import Sender
from dispatcher.settings import ClientSettings, load_client
from receiver.base.settings import SettingError
from receiver.base.tls import system, trusted
from tests.authority import Authority, fronted
from tests.dispatcher.client.running import ADMIN_KEY, Running, running, settings_for
from tests.dispatcher.peers import OK, SECRETS, Peer, answers, delivery, listening, sending


@pytest.fixture(autouse=True)
def fresh() -> Iterator[None]:
    """What is trusted is read once in a process."""
    trusted.cache_clear()
    system.cache_clear()
    yield
    trusted.cache_clear()
    system.cache_clear()


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    with running(settings_for(tmp_path_factory.mktemp("service"))) as found:
        yield found


def port_of(service: Running) -> int:
    return int(service.url.rpartition(":")[2])


async def attempt(sender: Sender, peer: Peer) -> Outcome:
    url = f"https://127.0.0.1:{peer.port}/hook"
    return await sender.send(delivery(url, timeout=5.0), SECRETS)


async def test_a_customer_behind_a_private_authority_is_delivered_to(tmp_path: Path) -> None:
    """Only where its file is named: without it the certificate is a stranger's."""
    authority = Authority(tmp_path)
    async with (
        listening(answers(OK), tls=authority.server()) as peer,
        sending() as without,
        sending(ca_file=str(authority.pem)) as sender,
    ):
        assert (await attempt(without, peer)).kind == "tls_error"
        assert (await attempt(sender, peer)).error_code == "http_200"
    assert len(peer.received) == 1


async def test_the_systems_authorities_stay_trusted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The file adds to them; one of neither is still refused."""
    public, private, stranger = (Authority(tmp_path, name) for name in ("a", "b", "c"))
    monkeypatch.setenv("SSL_CERT_FILE", str(public.pem))
    async with (
        listening(answers(OK), tls=public.server()) as one,
        listening(answers(OK), tls=private.server()) as other,
        listening(answers(OK), tls=stranger.server()) as third,
        sending(ca_file=str(private.pem)) as sender,
    ):
        outcomes = [(await attempt(sender, peer)) for peer in (one, other, third)]
    assert [one.kind for one in outcomes[2:]] == ["tls_error"]
    assert [one.error_code for one in outcomes[:2]] == ["http_200", "http_200"]


async def test_a_certificate_for_another_host_is_refused_all_the_same(tmp_path: Path) -> None:
    authority = Authority(tmp_path)
    async with (
        listening(answers(OK), tls=authority.server("127.0.0.2")) as peer,
        sending(ca_file=str(authority.pem)) as sender,
    ):
        assert (await attempt(sender, peer)).kind == "tls_error"


def test_a_file_that_cannot_be_used_stops_the_start(tmp_path: Path) -> None:
    """Before anything is opened; and `doctor` says so."""
    settings = settings_for(tmp_path, ca_file=str(tmp_path / "none.pem"))
    with pytest.raises(SettingError, match="DISPATCHER_CA_FILE"):
        Service(settings)
    (found,) = checks.authorities(settings)
    assert (found.state, "DISPATCHER_CA_FILE" in found.message) == ("bad", True)
    assert not list(checks.authorities(settings_for(tmp_path)))
    good = settings_for(tmp_path, ca_file=str(Authority(tmp_path).pem))
    assert [one.state for one in checks.authorities(good)] == ["ok"]


@pytest.mark.parametrize("workers", [(), ("--workers", "2")])
def test_the_command_says_so_in_one_line(tmp_path: Path, workers: tuple[str, ...]) -> None:
    """With workers as well: none is started that could not go on."""
    database = "postgresql://127.0.0.1:1/x" if workers else f"sqlite:///{tmp_path}/x.db"
    ran = subprocess.run(
        [sys.executable, "-m", "dispatcher", "serve", "--port", "0", *workers],
        env={
            "PATH": os.environ["PATH"],
            "DISPATCHER_DATABASE_URL": database,
            "DISPATCHER_CA_FILE": str(tmp_path / "none.pem"),
        },
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert (ran.returncode, ran.stdout) == (3, "")
    assert ran.stderr.startswith("error: DISPATCHER_CA_FILE: cannot read ")
    assert ran.stderr.count("\n") == 1


async def test_the_clients_reach_a_service_behind_a_private_authority(
    tmp_path: Path, service: Running
) -> None:
    """By `tls`; without it the service is a stranger."""
    authority = Authority(tmp_path)
    tls = trusted("DISPATCHER_CA_FILE", str(authority.pem))
    async with fronted(port_of(service), authority.server()) as url:
        async with AsyncClient(url, ADMIN_KEY, retries=0) as stranger:
            with pytest.raises(Unreachable, match="certificate verify failed"):
                await stranger.stats()
        async with AsyncClient(url, ADMIN_KEY, retries=0, tls=tls) as client:
            assert (await client.stats()) is not None
        with Client(url, ADMIN_KEY, retries=0, tls=tls) as blocking:
            assert (await asyncio.to_thread(blocking.stats)) is not None


async def test_the_commands_reach_it_by_the_same_setting(tmp_path: Path, service: Running) -> None:
    """`DISPATCHER_CA_FILE`, by itself or by a file."""
    authority = Authority(tmp_path)
    named = tmp_path / "where"
    named.write_text(f"{authority.pem}\n")

    def ask(**environ: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "-m", "dispatcher", "stats"],
            env={"PATH": os.environ["PATH"], "DISPATCHER_API_KEY": ADMIN_KEY, **environ},
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )

    async with fronted(port_of(service), authority.server()) as url:
        for environ, code in (
            ({}, 1),
            ({"DISPATCHER_CA_FILE": str(authority.pem)}, 0),
            ({"DISPATCHER_CA_FILE_FILE": str(named)}, 0),
            ({"DISPATCHER_CA_FILE": str(tmp_path / "none")}, 3),
        ):
            ran = await asyncio.to_thread(ask, DISPATCHER_URL=url, **environ)
            assert ran.returncode == code, ran.stderr
            assert "Traceback" not in ran.stderr


async def test_the_doctor_asks_it_too(tmp_path: Path, service: Running) -> None:
    authority = Authority(tmp_path)
    async with fronted(port_of(service), authority.server()) as url:
        for ca_file, state in ((None, "warn"), (str(authority.pem), "ok"), ("/none", "bad")):
            client = ClientSettings(url=url, api_key=None, ca_file=ca_file)
            (found,) = await asyncio.to_thread(checks.running, client)
            assert found.state == state, found


def test_a_file_that_is_not_needed_is_not_read() -> None:
    """Plain HTTP trusts nobody."""
    found = load_client({"DISPATCHER_CA_FILE": "/none", "DISPATCHER_URL": "http://127.0.0.1:1"})
    assert found.ca_file == "/none"
    (check,) = checks.running(found)
    assert check.state == "warn"

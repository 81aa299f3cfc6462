"""Whoever runs a certificate authority of their own can be reached, by the means of OpenSSL."""

import asyncio
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from dispatcher.cli import main
from receiver.base.settings import SettingError
from receiver.base.tls import trusted
from receiver.cli.root import run
from receiver.conformance.endpoint import Endpoint, KitError
from tests.dispatcher.certificates import server_context


@pytest.fixture(autouse=True)
def fresh() -> Iterator[None]:
    """The authorities are read once in a process."""
    trusted.cache_clear()
    yield
    trusted.cache_clear()


async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    await reader.readuntil(b"\r\n\r\n")
    writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nConnection: close\r\n\r\nok")
    writer.close()


async def test_a_private_authority_is_trusted_where_it_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By SSL_CERT_FILE; a stranger's certificate is refused without it."""
    context, certificate = server_context(tmp_path)
    (tmp_path / "ca.pem").write_text(certificate)
    server = await asyncio.start_server(answer, "127.0.0.1", 0, ssl=context)
    async with server:
        url = f"https://127.0.0.1:{server.sockets[0].getsockname()[1]}/"
        monkeypatch.delenv("SSL_CERT_FILE", raising=False)
        monkeypatch.delenv("SSL_CERT_DIR", raising=False)
        async with Endpoint(url) as endpoint:
            with pytest.raises(KitError, match="certificate verify failed"):
                await endpoint.reach()
        monkeypatch.setenv("SSL_CERT_FILE", str(tmp_path / "ca.pem"))
        trusted.cache_clear()
        async with httpx.AsyncClient(verify=trusted(), trust_env=False) as http:
            assert (await http.get(url)).text == "ok"


def test_authorities_that_cannot_be_read_are_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """At the start, by both command lines."""
    for content in (None, "no certificate"):
        file = tmp_path / "ca.pem"
        if content is not None:
            file.write_text(content)
        monkeypatch.setenv("SSL_CERT_FILE", str(file))
        with pytest.raises(SettingError, match="SSL_CERT_FILE"):
            trusted()
        assert run(["check", "https://127.0.0.1:1/", "--secret", "whsec_" + "A" * 32]) == 1
        assert main(["--url", "https://example.com", "--api-key", "k", "stats"]) == 2
        err = capsys.readouterr().err
        assert err.count("SSL_CERT_FILE") == 2
        assert "Traceback" not in err

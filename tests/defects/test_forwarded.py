"""Who asks, at either half as a process: only what a trusted proxy says of it is believed, in the
log and by keys, however it is spoofed."""

import json
from pathlib import Path
from typing import Any, Final

import pytest

from receiver.testing import signed_request
from tests.base.wire import read, request
from tests.defects.halves import KEY, SECRET, Half, running

PROXY: Final = "127.0.0.2"
STRANGER: Final = "127.0.0.3"
SPOOFED: Final = "X-Forwarded-For: 192.0.2.1\r\nX-Forwarded-For: 203.0.113.9, 127.0.0.2\r\n"
AUTH: Final = f"Authorization: Bearer {KEY}\r\nContent-Type: application/json\r\n"


def ask(half: Half, source: str, path: str, body: bytes, headers: str) -> int:
    """Ask over a connection of its own from this address; return the status."""
    with half.connect(source=source) as peer:
        peer.sendall(request(path, body, headers + "Connection: close\r\n"))
        data = b"".join(iter(lambda: peer.recv(65_536), b""))
    (answer,) = read(data)
    return answer.status


def told(half: Half, event: str) -> list[Any]:
    """The addresses that lines of this event name."""
    lines = [json.loads(line) for line in half.log if line.startswith("{")]
    return [line["address"] for line in lines if line["event"] == event]


@pytest.mark.parametrize(
    ("trusted", "seen"),
    [("", [PROXY, STRANGER]), ("127.0.0.2", ["203.0.113.9", STRANGER]),
     ("127.0.0.0/29, 203.0.113.0/24", ["192.0.2.1", "192.0.2.1"])],
)  # fmt: skip
def test_the_dispatchers_log_names_who_asks(tmp_path: Path, trusted: str, seen: list[str]) -> None:
    with running("dispatcher", tmp_path, trusted_proxies=trusted) as half:
        for source in (PROXY, STRANGER):
            assert ask(half, source, "/v1/secrets/reveal", b"{}", AUTH + SPOOFED) == 200
        half.terminate()
    assert told(half, "secret revealed") == seen


def test_the_receivers_log_names_who_asks(tmp_path: Path) -> None:
    """Of webhooks and of its admin routes alike."""
    body = b'{"jobId":"j","status":"completed"}'
    signed = "".join(f"{name}: {text}\r\n" for name, text in signed_request(body, SECRET).items())
    with running("receiver", tmp_path, trusted_proxies="127.0.0.2") as half:
        for source in (PROXY, STRANGER):
            assert ask(half, source, "/webhooks", body, signed + SPOOFED) == 200
            assert ask(half, source, "/inbox/replay?state=dead", b"", AUTH + SPOOFED) == 200
        half.terminate()
    assert told(half, "request") == ["203.0.113.9"] * 2 + [STRANGER] * 2


def test_a_keys_networks_are_held_against_who_asks(tmp_path: Path) -> None:
    """403 for everybody else, whatever they say of themselves."""
    with running("dispatcher", tmp_path, trusted_proxies="127.0.0.2") as half:
        answer = half_post(half, b'{"scopes":["admin"],"networks":["203.0.113.0/24"]}')
        own = f"Authorization: Bearer {answer['key']}\r\nContent-Type: application/json\r\n"
        statuses = [
            ask(half, source, "/v1/secrets/reveal", b"{}", own + said)
            for source in (PROXY, STRANGER)
            for said in ("", SPOOFED, "X-Forwarded-For: 203.0.113.9, 198.51.100.1\r\n")
        ]
    assert statuses == [403, 200, 403, 403, 403, 403]


def half_post(half: Half, body: bytes) -> dict[str, Any]:
    """A new key."""
    with half.connect() as peer:
        peer.sendall(request("/v1/keys", body, AUTH + "Connection: close\r\n"))
        data = b"".join(iter(lambda: peer.recv(65_536), b""))
    (answer,) = read(data)
    document: dict[str, Any] = answer.document
    return document

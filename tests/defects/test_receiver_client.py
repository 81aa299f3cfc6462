"""The commands that ask a running receiver: what they believe, and whom they show their key."""

import threading
import time
from collections.abc import Iterator

import pytest

from receiver import client
from receiver.cli.root import run
from receiver.client import ClientError, ask
from receiver.settings import ClientSettings
from tests.defects.wrong import Wrong, saying, serving

KEY = "TOP-SECRET-KEY-OF-THE-RECEIVER"
COMMANDS = [
    ["inbox", "list"],
    ["inbox", "show", "1"],
    ["inbox", "replay", "1"],
    ["inbox", "replay", "--dead"],
    ["inbox", "prune"],
    ["expected"],
    ["expect", "job_1", "--status-url", "https://example.com/", "--by", "9"],
]


@pytest.fixture(autouse=True)
def _key(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RECEIVER_ADMIN_KEY", KEY)


@pytest.mark.parametrize("command", COMMANDS, ids=" ".join)
@pytest.mark.parametrize(
    "body",
    [
        b"<html>hello</html>",
        b"{}",
        b"[]",
        b"",
        b"[" * 100_000,
        b'{"data": {}, "nextCursor": null, "id": 2, "state": "pending", "jobId": "job_2"}',
        b'{"data": [{"id": "1"}], "nextCursor": null, "replayed": "all", "bodies": null}',
    ],
)
def test_no_success_is_told_that_the_receiver_has_not_told(
    command: list[str],
    body: bytes,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """Exit 1 and one clear line, with `--json` and without, whatever answers 200."""
    with serving(saying(200, body)) as url:
        monkeypatch.setenv("RECEIVER_URL", url)
        for form in ([], ["--json"]):
            assert run([*command, *form]) == 1
            out, err = capsys.readouterr()
            assert out == ""
            assert "is no receiver" in err


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
@pytest.mark.parametrize("post", [True, False])
def test_a_redirect_takes_the_admin_key_nowhere(status: int, post: bool) -> None:
    """It is an error that says so, and the other host sees nothing."""
    seen = list[str]()

    class Other(Wrong):
        def reply(self, body: bytes) -> None:
            seen.append(self.path)
            self.answer(200, b"{}")

    with (
        serving(Other) as other,
        serving(saying(status, b"", Location=f"{other}/stolen")) as url,
        pytest.raises(ClientError, match="a redirect"),
    ):
        ask(ClientSettings(url=url, admin_key=KEY), "/inbox", post=post)
    assert seen == []


@pytest.fixture
def dripping() -> Iterator[str]:
    stop = threading.Event()

    class Dripping(Wrong):
        def reply(self, body: bytes) -> None:
            self.wfile.write(b"HTTP/1.1 200 OK\r\n")
            self.wfile.write(b"Content-Length: 9000\r\n\r\n" if "body" in self.path else b"X: ")
            while not stop.wait(0.02):
                self.wfile.write(b"x")

        def handle(self) -> None:
            try:
                super().handle()
            except OSError:
                stop.set()

    with serving(Dripping) as url:
        yield url
        stop.set()


@pytest.mark.parametrize("path", ["/inbox/body", "/inbox/head"])
def test_a_dripping_answer_ends(dripping: str, path: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """After a deadline for the whole, though each read is in time."""
    monkeypatch.setattr(client, "DEADLINE_S", 0.3)
    begun = time.monotonic()
    with pytest.raises(ClientError, match="no whole answer"):
        ask(ClientSettings(url=dripping, admin_key=KEY), path)
    assert time.monotonic() - begun < 2


@pytest.mark.parametrize("key", ["a\nb", "a b", "gehe\u00efm"])
def test_a_key_that_no_header_can_carry_is_not_repeated(key: str) -> None:
    """The library's own error would show it."""
    with pytest.raises(ClientError, match="visible ASCII") as raised:
        ask(ClientSettings(url="http://127.0.0.1:1", admin_key=key), "/inbox")
    assert key not in str(raised.value)

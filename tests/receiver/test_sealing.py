"""A receiver whose key is missing says so wherever somebody looks, goes on, and loses nothing; and
one that has no key needs nothing for it."""

import asyncio
import json
import subprocess
import sys
from base64 import b64encode
from dataclasses import replace
from hashlib import sha256
from pathlib import Path
from typing import Any
from unittest.mock import AsyncMock

import pytest
from typer.testing import CliRunner

from receiver import Event, Receiver, Settings
from receiver.base import log
from receiver.cli.root import app
from receiver.inbox.expectations import NewExpectation
from receiver.inbox.inbox import InboxError, InboxUnavailable
from receiver.inbox.message import STATES
from receiver.inbox.opening import open_inbox
from receiver.testing import Client, Clock
from tests.receiver.inbox.messages import NOW_MS, message
from tests.receiver.inbox.places import key

SECRET = f"whsec_{b64encode(sha256(b'signing').digest()).decode()}"
ADMIN = {"Authorization": "Bearer test-admin-key-of-tests"}
BOTH = (key("k2"), key("k1"))


def settings(folder: Path, *keys: str) -> Settings:
    return Settings(
        secrets=(SECRET,),
        database_url=f"sqlite:///{folder}/inbox.db",
        admin_key="test-admin-key-of-tests",
        encryption_keys=keys,
    )


async def left_over(folder: Path) -> bytes:
    """The body of a message that waits, sealed with the key k1."""
    inbox = await open_inbox(settings(folder, key("k1")))
    sent = message("job_1", has_handler=True)
    await inbox.receive(sent)
    await inbox.close()
    return sent.body


def receiver_of(handled: list[Event], given: Settings) -> Receiver:
    receiver = Receiver(given, now_ms=Clock())
    receiver.on("*")(handled.append)
    return receiver


async def get(client: Client, path: str) -> Any:
    return (await client._http.get(path, headers=ADMIN)).json()


async def test_a_missing_key_is_told_everywhere_and_what_comes_in_is_handled(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In the log, once and not for each attempt at it; in metrics, listings and `/readyz`, which
    stays ready; it spends no attempt, and is handled when its key is back."""
    sent = await left_over(tmp_path)
    errors: list[tuple[str, dict[str, Any]]] = []
    monkeypatch.setattr(log.Log, "error", lambda _, event, **fields: errors.append((event, fields)))
    handled: list[Event] = []
    async with Client(receiver_of(handled, settings(tmp_path, key("k2"))), SECRET) as client:
        await client.idle()
        assert await client.send({"jobId": "job_2", "status": "completed"}) == "accepted"
        await client.idle()
        assert [one.job_id for one in handled] == ["job_2"]
        ready = await client._http.get("/readyz")
        assert ready.status_code == 200
        assert ready.json() == {
            "status": "ready", "unreadableMessages": 1, "missingKeys": ["k1"],
        }  # fmt: skip
        metrics = (await client._http.get("/metrics")).text
        assert "receiver_unreadable_messages 1\n" in metrics
        assert 'receiver_own_faults_total{lack="key"} 1\n' in metrics
        newest, oldest = (await get(client, "/inbox"))["data"]
        assert ("unreadable" in newest, newest["sealedWith"], newest["bodySha256"]) == (
            False, "k2", None,
        )  # fmt: skip
        assert ("k1" in oldest["unreadable"], oldest["sealedWith"]) == (True, "k1")
        assert (oldest["state"], oldest["attempts"], oldest["nextAttemptAt"]) == (
            "pending", 0, None,
        )  # fmt: skip
        shown = await get(client, "/inbox/1")
        assert "body" not in shown
        assert "k1" in shown["unreadable"]
        stats = await get(client, "/inbox/stats")
        assert stats["messages"]["pending"] == 1
        assert (stats["encryption"]["key"], stats["encryption"]["sealing"]) == ("k2", True)
        assert stats["encryption"]["missingKeys"] == ["k1"]
        assert stats["encryption"]["messages"] == {
            "plain": 0, "sealed": 1, "old": 0, "unreadable": 1,
        }  # fmt: skip
    told = [fields for event, fields in errors if event.startswith("cannot open messages")]
    assert [(one["lack"], one["count"]) for one in told] == [("key", 1)]
    assert "k1" in told[0]["detail"]
    assert any(event.startswith("a key is missing") for event, _ in errors)
    handled.clear()
    async with Client(receiver_of(handled, settings(tmp_path, *BOTH)), SECRET) as client:
        await client.idle()
        assert [(one.raw, one.attempt) for one in handled] == [(sent, 1)]
        assert (await client._http.get("/readyz")).json() == {"status": "ready"}


async def test_a_job_whose_status_url_no_key_opens_is_not_asked_for_and_not_lost(
    tmp_path: Path,
) -> None:
    """It is our own lack: counted, told, and over when its key is back."""
    inbox = await open_inbox(settings(tmp_path, key("k1")))
    await inbox.expect(
        NewExpectation(
            source="/webhooks",
            job_id="job_1",
            status_url="http://127.0.0.1:9/token",
            credentials=None,
            platform="auto",
            now_ms=NOW_MS,
            ask_ms=NOW_MS,
        )
    )
    await inbox.close()

    async def listed(keys: tuple[str, ...], told: str) -> Any:
        """The job as it is listed once a metric says so."""
        given = replace(settings(tmp_path, *keys), lost_after=0.01, ask_base=0.01)
        async with Client(Receiver(given), SECRET) as client, asyncio.timeout(30):
            while told not in (await client._http.get("/metrics")).text:  # noqa: ASYNC110
                await asyncio.sleep(0.01)
            (job,) = (await get(client, "/expected"))["data"]
        return job

    unread = await listed((key("k2"),), 'receiver_own_faults_total{lack="key"}')
    assert (unread["state"], unread["statusUrl"], unread["failingSince"]) == (
        "expected", None, None,
    )  # fmt: skip
    assert "k1" in unread["lastError"]
    asked = await listed(BOTH, 'receiver_asked_total{outcome="failed"} 1')
    assert asked["statusUrl"] == "http://127.0.0.1:9/token"


async def test_sealing_anew_by_the_admin_routes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Slice by slice until it is done; not without a key, nor from a place that is none."""
    await left_over(tmp_path)
    async with Client(receiver_of([], settings(tmp_path, *BOTH)), SECRET) as client:
        await client.idle()
        http = client._http
        done = (await http.post("/inbox/reencrypt", headers=ADMIN)).json()
        assert done == {"sealed": 1, "unreadable": 0, "next": done["next"]}
        while done["next"] is not None:
            after = {"after": done["next"]}
            done = (await http.post("/inbox/reencrypt", params=after, headers=ADMIN)).json()
        assert (await http.post("/inbox/scrub", headers=ADMIN)).json() == {"done": True}
        stats = await get(client, "/inbox/stats")
        assert stats["encryption"]["messages"]["sealed"] == 1
        with monkeypatch.context() as patched:
            full = InboxUnavailable("the disk has no room for this")
            patched.setattr(client.receiver.inbox, "scrub", AsyncMock(side_effect=full))
            refused = await http.post("/inbox/scrub", headers=ADMIN)
        assert (refused.status_code, "no room" in refused.text) == (503, True)
        wrong = await http.post("/inbox/reencrypt", params={"after": "x"}, headers=ADMIN)
        assert (wrong.status_code, wrong.json()["details"]["field"]) == (422, "after")
    (tmp_path / "plain").mkdir()
    async with Client(receiver_of([], settings(tmp_path / "plain")), SECRET) as client:
        refused = await client._http.post("/inbox/reencrypt", headers=ADMIN)
        assert refused.status_code == 409
        assert "RECEIVER_ENCRYPTION_KEYS" in refused.json()["message"]
        stats = await get(client, "/inbox/stats")
        assert stats["encryption"]["key"] is None


async def test_without_the_library_one_line_says_what_to_install(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where there is a key; where there is none, nothing needs it."""
    aead = "cryptography.hazmat.primitives.ciphers.aead"
    monkeypatch.setitem(sys.modules, aead, None)
    with pytest.raises(InboxError, match=r"RECEIVER_ENCRYPTION_KEYS: .* pip install"):
        await open_inbox(settings(tmp_path, key("k1")))
    await (await open_inbox(settings(tmp_path))).close()


def test_without_a_key_the_library_is_not_loaded(tmp_path: Path) -> None:
    """A receiver without one starts, stores and stops as ever."""
    program = f"""
import asyncio, sys
sys.modules["cryptography"] = None
from receiver import Receiver, Settings
from receiver.testing import Client
receiver = Receiver(Settings(secrets=({SECRET!r},), database_url="sqlite:///{tmp_path}/inbox.db"))
async def story():
    async with Client(receiver, {SECRET!r}) as client:
        assert await client.send({{"jobId": "job_1", "status": "completed"}}) == "accepted"
asyncio.run(story())
"""
    subprocess.run([sys.executable, "-c", program], check=True, timeout=60)


def test_the_commands_say_what_is_plain_and_seal_it_slice_by_slice(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Until the service says that it is done; what no key opens makes it fail."""
    counts = {"plain": 3, "sealed": 4, "old": 5, "unreadable": 6}
    encryption = {
        "key": "k2", "sealing": True, "missingKeys": ["k0"],
        **dict.fromkeys(("messages", "failures", "expectations"), counts),
    }  # fmt: skip
    stats = {"messages": dict.fromkeys(STATES, 7), "encryption": encryption}
    slices = [
        {"sealed": 2, "unreadable": 0, "next": "there"},
        {"sealed": 1, "unreadable": 1, "next": None},
    ]
    scrubs = [{"done": False}, {"done": True}]
    asked: list[tuple[str, dict[str, str] | None]] = []

    def ask(_service: Any, path: str, query: dict[str, str] | None = None, **_: Any) -> Any:
        asked.append((path, query))
        if path == "/inbox/stats":
            return stats
        return slices.pop(0) if path == "/inbox/reencrypt" else scrubs.pop(0)

    monkeypatch.setattr("receiver.cli.common.Service.ask", ask)
    shown = CliRunner().invoke(app, ["inbox", "stats"])
    assert shown.exit_code == 0
    words = shown.stdout.lower().split()
    for word in ("unreadable", "3", "4", "5", "6", "7", "k2", "k0"):
        assert word in words
    done = CliRunner().invoke(app, ["inbox", "reencrypt"])
    assert (done.exit_code, done.stdout) == (1, "sealed: 3, unreadable: 1\n")
    assert asked[1:] == [
        ("/inbox/reencrypt", None), ("/inbox/reencrypt", {"after": "there"}),
        ("/inbox/scrub", None), ("/inbox/scrub", None),
    ]  # fmt: skip
    slices.append({"sealed": 0, "unreadable": 0, "next": None})
    done = CliRunner().invoke(app, ["inbox", "reencrypt", "--no-scrub", "--json"])
    assert json.loads(done.stdout) == {"sealed": 0, "unreadable": 0, "scrubbed": False}

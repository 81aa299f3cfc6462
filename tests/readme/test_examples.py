"""The documents' examples do what they say."""

import asyncio
import json
import re
import sqlite3
import textwrap
import time
from contextlib import closing
from pathlib import Path
from typing import Any

import httpx
import msgspec
import pytest

import receiver.testing
from dispatcher.wire import PolicyShape
from receiver import Receiver, Settings
from receiver.testing import Client, signed_request
from tests.readme.documents import DISPATCHER, README, RECEIVER, block, read
from tests.readme.walk import KEY, Walk, every_block, walk
from tests.receiver.waiting import until

SECRET = "whsec_" + "dGVzdC10ZXN0LXRlc3QtdGVzdC10ZXN0"
ADMIN = {"RECEIVER_ADMIN_KEY": "any-long-random-text"}
BODY = b'{"jobId": "job_1", "status": "completed", "output": {"pages": 50}}'


@pytest.mark.timeout(180)
def test_the_readme_is_walked_from_top_to_bottom(tmp_path: Path) -> None:
    """In a fresh clone, every block is pasted into one shell and does what is said of it, in less
    than three minutes without the installation. What the guides show works beside it."""
    blocks = every_block()
    with walk(tmp_path) as walking:
        started = _paste(blocks.pop(0), "sh", walking)
        assert "● delivered" in started, started
        assert "job_1 completed {'pages': 50}\n" in started
        assert re.search(r"^\d+ .*\bjob_1 ", started, re.MULTILINE), started
        assert "accepted" in started
        _wait_until_handled(walking)
        _gives_a_model_server_an_api(_paste(blocks.pop(0), "sh", walking))
        _paste(blocks.pop(0), "sh", walking)
        asked = (walking.folder / ".venv" / "asked").read_text()
        assert asked == "pip install .[dispatcher,postgres] -c deploy/constraints.txt\n"
        _, _, document = _paste(blocks.pop(0), "sh", walking).rpartition("\n")  # curl's progress
        submitted = json.loads(document)
        assert submitted["status"] == "pending"
        assert walking.run_python(blocks.pop(0)[1]) == "delivered\n"
        _verifies(blocks.pop(0)[1], walking)
        _looks_as_an_operator(blocks.pop(0)[1], submitted["id"], walking)
        assert blocks == []

        asyncio.run(_report(walking.here(block(DISPATCHER, "from dispatcher.client"))))
        _send_yourself_a_completion(walking)


def _paste(block: tuple[str, str], language: str, walking: Walk) -> str:
    assert block[0] == language
    return walking.paste(block[1])


def _wait_until_handled(walking: Walk) -> None:
    """The handler's end is recorded after it has printed."""
    deadline = time.monotonic() + 30
    while not re.search(
        r"\bhandled .*\bjob_1 ", shown := walking.run("receiver inbox list", **ADMIN)
    ):
        assert time.monotonic() < deadline, shown


def _gives_a_model_server_an_api(shown: str) -> None:
    """Its endpoint is made, one job's output reaches the handler, another's is the answer."""
    made, taken, waited, printed = shown.splitlines()
    assert json.loads(made)["state"] == "active"
    assert json.loads(taken)["status"] == "queued"
    assert json.loads(waited) == {"TEXT": "HI"}
    assert printed == f"{json.loads(taken)['id']} completed {{'TEXT': 'HELLO'}}"


def _verifies(example: str, walking: Walk) -> None:
    """A request that the reader has."""
    given = (
        f"from receiver.testing import signed_request\nbody = {BODY!r}\n"
        f"headers = signed_request(body, {SECRET!r})\n"
    )
    example = example.replace("whsec_…", SECRET) + "print(event.job_id)\n"
    assert walking.run_python(example, given) == "job_1\n"


def _looks_as_an_operator(example: str, id: str, walking: Walk) -> None:
    """Every command, with an id of one's own; a question is answered. What `doctor` says of this
    machine is its own."""
    shown = walking.paste(example.replace("cb_…", id), typed="y\n", may_fail="dispatcher doctor")
    assert "0 match" in shown
    assert id in shown
    assert "acknowledged" in shown


async def _report(example: str) -> None:
    printed: list[tuple[Any, ...]] = []
    shown: dict[str, Any] = {"print": lambda *words: printed.append(words)}
    exec(example, shown)
    await shown["report"]({"job_10": {"status": "completed"}, "job_11": {"status": "failed"}})
    assert [words[0] for words in printed] == [1, 2, "VALIDATION_ERROR"]
    assert all(str(words[1]).startswith("cb_") for words in printed[:2])
    assert printed[2][1] == "destination"


def _send_yourself_a_completion(walking: Walk) -> None:
    """From another terminal with the receiver's secret and admin key."""
    secret = walking.run("dispatcher secrets reveal", DISPATCHER_ADMIN_KEY=KEY).strip()
    _, _, after = read(RECEIVER).partition("Send yourself a completion")
    script = after.partition("```sh\n")[2].partition("```")[0].replace("job_1", "job_20")
    shown = walking.run(script, RECEIVER_SECRETS=secret, **ADMIN)
    assert "accepted" in shown
    assert "job_20 " in shown


async def test_mounted_in_fastapi_as_shown(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The receiver's part of somebody's application takes a completion and hands it on."""
    monkeypatch.setenv("RECEIVER_SECRETS", SECRET)
    monkeypatch.setenv("RECEIVER_DATABASE_URL", f"sqlite:///{tmp_path}/receiver.db")
    printed: list[tuple[Any, ...]] = []
    shown: dict[str, Any] = {"print": lambda *words: printed.append(words)}
    exec(block(RECEIVER, "# shop_api.py"), shown)
    transport = httpx.ASGITransport(app=shown["app"])
    async with (
        shown["app"].router.lifespan_context(shown["app"]),
        httpx.AsyncClient(transport=transport, base_url="http://shop") as http,
    ):
        headers = signed_request(BODY, SECRET)
        answer = await http.post("/hooks/webhooks", content=BODY, headers=headers)
        assert answer.json() == {"status": "accepted"}
        await until(lambda: printed == [("job_1", {"pages": 50})])


async def test_handlers_are_called_as_shown(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The plain one prints; what the one with `tx` writes is in the customer's own database."""
    shop = tmp_path / "shop.db"
    with closing(sqlite3.connect(shop)) as db, db:
        db.execute("CREATE TABLE orders (job TEXT, result TEXT)")
        db.execute("INSERT INTO orders (job) VALUES ('job_1')")
    monkeypatch.setenv("RECEIVER_SECRETS", SECRET)
    monkeypatch.setenv("RECEIVER_EFFECTS_URL", f"sqlite:///{shop}")
    printed: list[tuple[Any, ...]] = []
    for number, beginning in enumerate(("# shop.py", "from receiver import Receiver\n")):
        monkeypatch.setenv("RECEIVER_DATABASE_URL", f"sqlite:///{tmp_path}/{number}.db")
        shown: dict[str, Any] = {"print": lambda *words: printed.append(words)}
        exec(block(RECEIVER, beginning), shown)
        async with Client(shown["receiver"], SECRET) as client:
            payload = {"jobId": "job_1", "status": "completed", "output": "50 pages"}
            assert await client.send(payload) == "accepted"
            await client.idle()
    assert printed == [("job_1", "completed", "50 pages")]
    with closing(sqlite3.connect(shop)) as db:
        assert db.execute("SELECT result FROM orders").fetchall() == [("50 pages",)]


def test_verifying_alone_works_as_shown() -> None:
    """A valid message is an event; a forged one is refused with its reason."""
    headers = signed_request(BODY, SECRET)
    alone: dict[str, Any] = {"body": BODY, "headers": headers}
    exec(block(README, "from receiver import verify").replace("whsec_…", SECRET), alone)
    assert alone["event"].job_id == "job_1"

    shown: dict[str, Any] = {}
    exec(block(RECEIVER, "from receiver import SignatureError"), shown)
    assert shown["webhook"](BODY, headers) == (200, "job_1")
    assert shown["webhook"](BODY + b" ", headers)[0] == 401


def test_the_example_of_a_test_passes(tmp_path: Path) -> None:
    """It is what a customer would copy."""
    shown: dict[str, Any] = {}
    exec(block(RECEIVER, "# test_shop.py"), shown)
    shown["test_a_completion_is_handled_once"](tmp_path)


@pytest.mark.parametrize(
    "name",
    [
        "test_a_completion_is_fulfilled_once",
        "test_what_failed_is_tried_again_after_a_while",
        "test_a_forged_request_is_refused",
    ],
)
def test_the_whole_example_of_the_test_kit_passes(name: str, tmp_path: Path) -> None:
    """As `help(receiver.testing)` has it."""
    _, _, example = (receiver.testing.__doc__ or "").partition("for pytest:\n\n")
    shown: dict[str, Any] = {}
    exec(textwrap.dedent(example), shown)
    assert len([one for one in shown if one.startswith("test_")]) == 3
    shown[name](tmp_path)


def test_sources_are_read_as_shown(tmp_path: Path) -> None:
    """The TOML file of further sources."""
    file = tmp_path / "sources.toml"
    file.write_text(block(RECEIVER, "[[source]]").replace("whsec_…", SECRET), "utf-8")
    sources = Receiver(Settings(secrets=(SECRET,), sources_file=str(file))).sources
    assert list(sources) == [
        "/webhooks",
        "/webhooks/runpod",
        "/webhooks/cerebrium",
        "/webhooks/eu",
    ]


def test_policies_are_taken_as_shown() -> None:
    """The object has fields and values that a submit may have."""
    msgspec.json.decode(block(DISPATCHER, '{"attempts"').encode(), type=PolicyShape)

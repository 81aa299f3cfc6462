"""The receiver's command line against a running receiver: options like the dispatcher's, sending by
hand, replays by filter with a preview, and the doctor."""

import json
import signal
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests import commands
from tests.commands import Ran
from tests.receiver.process import Process
from tests.receiver.waiting import wait_until

SECRET = "whsec_dGVzdC10ZXN0LXRlc3QtdGVzdC10ZXN0"
KEY = "test-admin-key-of-tests"
HANDLER = """
import os

def fail(event):
    if not os.path.exists("repaired"):
        raise ValueError("no such order")
"""


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    (tmp_path / "shop_cmd.py").write_text(HANDLER)
    monkeypatch.chdir(tmp_path)
    for name in ("URL", "PORT", "HOST", "PATH", "DATABASE_URL", "ADMIN_KEY"):
        monkeypatch.delenv(f"RECEIVER_{name}", raising=False)
    monkeypatch.setenv("RECEIVER_SECRETS", SECRET)
    monkeypatch.setenv("COLUMNS", "80")
    return tmp_path


@pytest.fixture
def process(folder: Path) -> Iterator[Process]:
    """A receiver whose handler fails until there is a file `repaired`."""
    environ = {
        "RECEIVER_SECRETS": SECRET,
        "RECEIVER_LOG_FORMAT": "json",
        "RECEIVER_ADMIN_KEY": KEY,
        "RECEIVER_HANDLER_ATTEMPTS": "1",
    }
    words = ("--handler", "shop_cmd:fail", "--port", "0", "--database-url", "sqlite:///own.db")
    started = Process(words, environ, folder)
    yield started
    started.end(signal.SIGKILL)


@pytest.fixture
def run(process: Process) -> Callable[..., Ran]:
    """Run a command of that receiver's, found by its options."""

    def run(*words: str) -> Ran:
        where = ("--url", f"http://127.0.0.1:{process.port}", "--admin-key", KEY)
        return commands.command("receiver", *where, *words)

    return run


def send(process: Process, job: str, status: str = "completed") -> Ran:
    body = json.dumps({"jobId": job, "status": status})
    return commands.command("receiver", "send", body, "--url", process.first["url"])


def dead(run: Callable[..., Ran], count: int) -> list[dict[str, Any]]:
    """The messages whose handling has failed, once these are so many."""

    def look() -> list[dict[str, Any]]:
        found = run("inbox", "list", "--state", "dead", "--output", "json")
        messages: list[dict[str, Any]] = json.loads(found.stdout)["data"]
        return messages

    wait_until(lambda: len(look()) == count)
    return look()


def test_options_say_where_it_listens_and_where_the_inbox_is(
    process: Process, folder: Path
) -> None:
    """As for `dispatcher serve`; they win over the environment."""
    assert (folder / "own.db").exists()
    assert process.port


def test_a_message_is_signed_and_posted_in_one(process: Process) -> None:
    """Exit 0 and the answer where it was taken, 1 where it was not; nobody there is one line."""
    sent = send(process, "job_1")
    assert (sent.returncode, sent.stdout.split()[0]) == (0, "200")
    assert '"accepted"' in sent.stdout
    shown = commands.command("receiver", "send", '{"jobId":"job_2","status":"completed"}',
                             "--url", process.first["url"], "--json")  # fmt: skip
    assert json.loads(shown.stdout)["statusCode"] == 200
    Path("other").write_text("whsec_b3RoZXItb3RoZXItb3RoZXItb3RoZXI=")
    refused = commands.command("receiver", "send", "{}", "--secret-file", "other",
                               "--url", process.first["url"])  # fmt: skip
    assert (refused.returncode, refused.stdout.split()[0]) == (1, "401")
    nobody = commands.command("receiver", "send", "{}", "--url", "http://127.0.0.1:9/")
    assert nobody.returncode == 1
    assert nobody.stderr.count("\n") == 1


def test_the_inbox_is_asked_by_options(process: Process, run: Callable[..., Ran]) -> None:
    """Before the command as behind it, and by a profile; in three forms."""
    send(process, "job_1")
    (message,) = dead(run, 1)
    lines = run("inbox", "list", "--output", "ndjson").stdout.splitlines()
    assert [json.loads(line)["id"] for line in lines] == [message["id"]]
    url = f"http://127.0.0.1:{process.port}"
    behind = commands.command("receiver", "inbox", "show", "1", "--url", url, "--admin-key", KEY)
    assert behind.returncode == 0, behind.stderr
    config = Path("config.toml")
    config.write_text(f'[receiver.here]\nurl = "{url}"\nadmin_key = "{KEY}"\n')
    config.chmod(0o600)
    by_profile = commands.command(
        "receiver", "inbox", "list", "--profile", "here", POSTBACK_CONFIG=str(config)
    )
    assert by_profile.returncode == 0, by_profile.stderr
    assert "STATE" in by_profile.stdout


def test_a_long_id_is_whole_in_the_inbox(process: Process, run: Callable[..., Ran]) -> None:
    """At 80 columns."""
    job = "job_" + "0123456789abcdef" * 4
    send(process, job)
    dead(run, 1)
    assert job in run("inbox", "list").stdout.replace("\n", "").replace(" ", "")


def test_a_replay_is_chosen_by_a_filter_and_previewed(
    process: Process, run: Callable[..., Ran], folder: Path
) -> None:
    """A preview changes nothing; then what matched is handled, and nothing else."""
    for job in ("job_1", "job_2"):
        send(process, job)
    send(process, "job_3", "failed")
    dead(run, 3)
    preview = run("inbox", "replay", "--dead", "--job-status", "failed", "--dry-run")
    assert preview.returncode == 0, preview.stderr
    assert "1 would be replayed" in preview.stdout
    assert "job_3" in preview.stdout
    assert "job_1" not in preview.stdout
    none = run("inbox", "replay", "--dead", "--until", "1h", "--dry-run", "--json")
    assert json.loads(none.stdout) == {"matched": 0, "sample": []}
    assert len(dead(run, 3)) == 3
    (folder / "repaired").touch()
    replayed = run("inbox", "replay", "--dead", "--job-id", "job_2", "--since", "1h")
    assert replayed.stdout == "replayed: 1\n"
    assert {one["jobId"] for one in dead(run, 2)} == {"job_1", "job_3"}
    wrong = run("inbox", "replay", "1", "--dry-run")
    assert wrong.returncode == 2


def test_old_messages_are_pruned_by_a_length_of_time(
    process: Process, run: Callable[..., Ran]
) -> None:
    pruned = run("inbox", "prune", "--older-than", "90d")
    assert pruned.stdout == "pruned: 0 bodies, 0 messages\n"
    assert run("inbox", "prune", "--older-than", "later").returncode == 2
    both = run("inbox", "prune", "--older-than", "1d", "--older-than-days", "1")
    assert both.returncode == 2


def checks(ran: Ran) -> dict[str, list[dict[str, str]]]:
    found: dict[str, list[dict[str, str]]] = {}
    for line in ran.stdout.splitlines():
        check = json.loads(line)
        found.setdefault(check["name"], []).append(check)
    return found


def test_the_doctor_asks_the_running_receiver(process: Process, run: Callable[..., Ran]) -> None:
    """Its version, its inbox, whether it refuses what is not signed, and what waits."""
    send(process, "job_1")
    dead(run, 1)
    ran = run("doctor", "--json")
    found = checks(ran)
    assert ran.returncode == 0, ran.stdout
    assert "the running receiver, version" in found["asked"][0]["message"]
    assert "this shell names sqlite:///receiver.db" in found["asked"][1]["message"]
    assert found["path"][0]["state"] == "ok"
    assert found["service"][0]["state"] == "ok"
    assert "1 are dead" in found["messages"][0]["message"]
    assert found["secrets"][0]["state"] == "ok"
    text = run("doctor").stdout
    assert "✓ path" in text
    assert SECRET not in text + ran.stdout
    assert KEY not in text + ran.stdout


def test_the_doctor_says_what_is_wrong(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Exit 1 and what to do: nothing is there, and a secret is missing."""
    monkeypatch.setenv("RECEIVER_SECRETS", "")
    ran = commands.command("receiver", "doctor", "--url", "http://127.0.0.1:9", "--json")
    assert ran.returncode == 1
    found = checks(ran)
    assert "settings" in found or found["secrets"][0]["state"] == "bad"
    assert found["service"][0]["state"] == "warn"


def test_a_file_that_hides_our_package_is_named(folder: Path) -> None:
    """A handler file called receiver.py is found to be it."""
    (folder / "receiver.py").write_text("def handle(event): ...\n")
    ran = commands.command("receiver", "serve", "--handler", "receiver:receiver")
    assert ran.returncode == 2
    assert "receiver.py has the name of a package of Postback's: rename it" in ran.stderr
    assert ran.stderr.count("\n") == 1


@pytest.mark.parametrize(
    "handler", ["receiver:handle", "receiver.mine:handle", "dispatcher:handle"]
)
def test_a_handler_in_a_package_of_ours_is_told_so(folder: Path, handler: str) -> None:
    """Where no file of the folder hides it: the name is taken."""
    ran = commands.command("receiver", "serve", "--handler", handler)
    assert ran.returncode == 2
    name = handler.partition(":")[0].partition(".")[0]
    assert f"{name} is the name of a package of Postback's" in ran.stderr
    assert ran.stderr.count("\n") == 1


def test_options_and_an_own_receiver_exclude_each_other(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (folder / "shop_own.py").write_text(
        "from receiver import Receiver\nreceiver = Receiver()\nreceiver.on('*')(lambda e: None)\n"
    )
    monkeypatch.syspath_prepend(folder)
    ran = commands.command("receiver", "serve", "--handler", "shop_own:receiver", "--port", "0")
    assert ran.returncode == 2
    assert "leave out --port" in ran.stderr

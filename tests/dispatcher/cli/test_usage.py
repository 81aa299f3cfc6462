"""What a command answers to what cannot be: two lines, the right exit code, no traceback."""

import io
import os
import re
import socket
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import httpx
import pytest

from tests.dispatcher.cli.conftest import Run

SEND = ("send", "--job-id", "j", "--payload", "1")
TO = ("--to", "https://example.com/")


@pytest.mark.parametrize(
    "argv",
    [
        ("nonsense",),
        ("list", "--nonsense"),
        ("list", "extra"),
        ("list", "--status", "lost"),
        ("list", "--priority", "low"),
        ("list", "--since", "yesterday-ish"),
        ("list", "--since", ""),
        ("list", "--until", "99999999w"),
        ("list", "--limit", "0"),
        ("list", "--limit", "many"),
        ("list", "--limit", "3", "--all"),
        ("list", "--tag", "team"),
        ("list", "--tag", "=a"),
        ("list", "--tag", "a=1", "--tag", "a=2"),
        ("list", "--url", "nonsense"),
        ("list", "--api-key", "a b"),
        ("list", "--tenant", "a b"),
        ("show",),
        ("send",),
        (*SEND, *TO, "--destination", "billing"),
        SEND,
        ("send", "--job-id", "j", *TO, "--payload", "no-such-file.json"),
        ("send", "--job-id", "j", *TO, "--payload", "{"),
        ("send", "--job-id", "j", *TO, "--payload", "[" * 100_000),
        ("send", "--job-id", "j", *TO, "--payload", "x" * 100_000),
        ("send", "--job-id", "j", *TO, "--payload", "\0"),
        (*SEND, *TO, "--policy", "hopeful"),
        (*SEND, *TO, "--policy", "[1]"),
        (*SEND, *TO, "--header", "nocolon"),
        (*SEND, *TO, "--header", "A: 1", "--header", "A: 2"),
        (*SEND, *TO, "--idempotency-key", "a b"),
        (*SEND, *TO, "--priority", "low"),
        (*SEND, *TO, "--tag", "team"),
        ("send", "--file", "no-such-file.ndjson"),
        ("send", "--file", "x.ndjson", "--job-id", "j"),
        ("replay",),
        ("replay", "cb_1", "--status", "dead"),
        ("replay", "cb_1", "--dry-run"),
        ("replay", "--status", "dead", "--rate", "0"),
        ("replay", "--status", "dead"),
        ("cancel",),
        ("destinations", "add", "billing"),
        ("destinations", "set", "billing"),
        ("destinations", "set", "billing", "--reset", "everything"),
        ("destinations", "set", "billing", "--rate", "5", "--reset", "rate"),
        ("destinations", "set", "billing", "--concurrency", "0"),
        ("destinations", "disable", "billing"),
        ("destinations", "remove", "billing"),
        ("keys", "create"),
        ("keys", "create", "--scope", "everything"),
        ("keys", "create", "--scope", "read", "--expires", "soon"),
        ("keys", "rotate"),
        ("keys", "rotate", "key_1", "--overlap", "long"),
        ("secrets", "rotate", "--overlap", "soon"),
        ("secrets", "rotate", "--overlap", ""),
        ("secrets", "reveal", "--id", "a", "--destination", "b"),
        ("serve", "--port", "70000"),
        ("serve", "--port", "http"),
        ("backup",),
    ],
    ids=lambda argv: " ".join(argv)[:60],
)
def test_what_cannot_be_is_a_usage_error(
    alone: Run, monkeypatch: pytest.MonkeyPatch, argv: Sequence[str]
) -> None:
    """Exit 2 and two lines on standard error, before anything is asked of a service."""
    monkeypatch.setattr("sys.stdin", io.StringIO())
    ran = alone(*argv)
    assert (ran.code, ran.out) == (2, "")
    assert re.fullmatch(r"error: .+\n  try: dispatcher[a-z ]* --help\n", ran.err), ran.err
    assert len(ran.err) < 600


COMMANDS = [
    *("serve", "migrate", "backup", "doctor", "demo"),
    *("send", "list", "failures", "show", "replay", "cancel", "stats", "completion"),
    *("destinations", "keys", "secrets", "tenants"),
]
GROUPS = {
    "destinations": [
        *("list", "show", "add", "set", "pause", "resume", "retry", "disable", "enable", "remove"),
        "test",
    ],
    "keys": ["list", "create", "rotate", "revoke"],
    "secrets": ["list", "reveal", "rotate"],
}
ALL = [(name,) for name in COMMANDS] + [
    (group, name) for group, names in GROUPS.items() for name in names
]


@pytest.mark.parametrize("argv", [(), *ALL], ids=" ".join)
def test_every_command_has_help_with_its_options(alone: Run, argv: Sequence[str]) -> None:
    """`--help` exits 0 and tells what it does; every command has an example."""
    ran = alone(*argv, "--help")
    assert (ran.code, ran.err) == (0, "")
    assert "Usage: dispatcher" in ran.out
    if argv not in (("destinations",), ("keys",)):
        assert "Examples" in ran.out
        assert f"$ dispatcher {' '.join(argv)}".rstrip() in ran.out


def test_without_a_command_there_is_help_and_with_version_the_version(alone: Run) -> None:
    """Both exit 0."""
    assert "Usage: dispatcher" in alone().out
    assert re.fullmatch(r"dispatcher \d+\.\d+\.\d+\n", alone("--version").out)


def test_no_service_says_how_to_start_one(alone: Run) -> None:
    """Exit 1, the URL, and what to type."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{taken.getsockname()[1]}"
        ran = alone("list", "--url", url)
    assert ran.code == 1
    assert url in ran.err
    assert "dispatcher serve" in ran.err
    assert ran.err.count("\n") == 2


def test_a_wrong_key_says_what_to_set(cli: Run) -> None:
    """Exit 1, and never the key."""
    ran = cli("list", "--api-key", "wrong-test-key")
    assert ran.code == 1
    assert "DISPATCHER_API_KEY" in ran.err
    assert "wrong-test-key" not in ran.err


def test_what_the_service_refuses_is_told_in_its_words(cli: Run) -> None:
    """Exit 1 and the reason."""
    ran = cli("send", "--job-id", "j", "--payload", "1", "--to", "http://10.0.0.1/")
    assert ran.code == 1
    assert "callbackUrl" in ran.err
    unknown = cli("show", "cb_unknown")
    assert (unknown.code, unknown.err.count("\n")) == (1, 2)


@pytest.mark.parametrize(
    ("name", "value"), [("PORT", "http"), ("SLOTS", "-1"), ("ALLOW_NETWORKS", "everything")]
)
def test_a_setting_that_cannot_be_stops_the_start(
    alone: Run, environment: pytest.MonkeyPatch, name: str, value: str
) -> None:
    """Exit 3 and the variable's name."""
    environment.setenv(f"DISPATCHER_{name}", value)
    ran = alone("migrate")
    assert ran.code == 3
    assert f"DISPATCHER_{name}" in ran.err


def test_python_m_is_the_command(tmp_path: Path) -> None:
    """`python -m dispatcher` ends with the same codes, in a process of its own."""
    environment = {"PATH": os.environ["PATH"], "DISPATCHER_DATABASE_URL": f"sqlite:///{tmp_path}/x"}
    for argv, code in ((["--version"], 0), (["nonsense"], 2), (["serve", "--host", "nowhere."], 3)):
        ran = subprocess.run(
            [sys.executable, "-m", "dispatcher", *argv],
            env=environment,
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
        assert ran.returncode == code, ran.stderr
        assert "Traceback" not in ran.stderr


def test_serve_says_where_it_listens_shows_its_key_once_and_ends_well(tmp_path: Path) -> None:
    """A first start prints the URL and the platform key it made; SIGTERM ends it with 0; a second
    start prints no key."""
    environment = {"PATH": os.environ["PATH"], "DISPATCHER_DATABASE_URL": f"sqlite:///{tmp_path}/x"}
    keys = []
    for _ in range(2):
        with subprocess.Popen(
            [sys.executable, "-m", "dispatcher", "serve", "--port", "0"],
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
        ) as process:
            assert process.stdout is not None
            first = process.stdout.readline()
            match = re.fullmatch(r"listening on (http://127\.0\.0\.1:\d+)\n", first)
            assert match is not None, first
            assert httpx.get(f"{match[1]}/readyz", trust_env=False).status_code == 200
            process.terminate()
            rest = process.stdout.read()
            assert process.wait(30) == 0
        keys.append(re.findall(r"DISPATCHER_API_KEY=(pbk_\S+)", rest))
    assert len(keys[0]) == 1
    assert keys[1] == []

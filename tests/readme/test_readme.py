"""The README keeps its word."""

import json
import os
import re
import shlex
import subprocess
import sys
from functools import cache
from pathlib import Path
from typing import Any

import httpx
import pytest
import typer
from typer.testing import CliRunner

import dispatcher.cli
import receiver.cli.root
from receiver.testing import signed_request
from tests.readme.first_minute import ADMIN_KEY, SECRET, Place, running
from tests.readme.tables import README, fill
from tests.receiver.waiting import until

TEXT = README.read_text("utf-8")


def test_tables_are_what_the_code_says() -> None:
    """Every setting, route, command and state stands in the README as the code has it; write them
    anew with `python -m tests.readme.tables`."""
    assert fill(TEXT) == TEXT


def test_linked_headings_exist() -> None:
    """No link within the page leads nowhere."""
    headings = {_anchor(line) for line in TEXT.splitlines() if line.startswith("#")}
    links = set(re.findall(r"\]\(#([^)]+)\)", TEXT))
    assert links
    assert links <= headings


def _anchor(heading: str) -> str:
    words = heading.lstrip("#").strip().lower()
    return re.sub(r"[^\w\- ]", "", words).replace(" ", "-")


def test_named_paths_exist() -> None:
    """Every file and folder of ours that the page names is there."""
    root = README.parent
    named = set(re.findall(r"`((?:dispatcher|receiver|deploy|tests|store)/[\w./]*)`", TEXT))
    assert named
    missing = [
        path
        for path in named
        if not (root / path).exists() and not (root / "dispatcher" / path).exists()
    ]
    assert not missing


def test_make_targets_exist() -> None:
    """Every `make` target that the page names is there."""
    makefile = (README.parent / "Makefile").read_text("utf-8")
    for target in re.findall(r"(?:^|`)make (\w+)", TEXT, re.MULTILINE):
        assert re.search(rf"^{target}:", makefile, re.MULTILINE), target


@pytest.mark.parametrize("program", ["dispatcher", "receiver"])
def test_commands_shown_are_understood(program: str) -> None:
    """Every command line of the page parses: its options exist (asked with --help)."""
    for line in _commands(program):
        words = shlex.split(line, comments=True)
        command = [word for word in words if not word.startswith("-")]
        options = {word.split("=")[0] for word in words if word.startswith("--")}
        shown = _help(program, tuple(command[1:3]))
        assert options <= set(re.findall(r"--[\w-]+", shown)), line


def _commands(program: str) -> list[str]:
    blocks = re.findall(r"``sh\n(.*?)``", TEXT, re.DOTALL)
    lines = [line.strip() for block in blocks for line in block.splitlines()]
    inline = re.findall(rf"`({program} [^`…]+)`", TEXT)
    plain = [line for line in lines if line.startswith(f"{program} ")]
    return [line for line in [*plain, *inline] if "\n" not in line]


@cache
def _app(program: str) -> typer.Typer:
    return dispatcher.cli.build() if program == "dispatcher" else receiver.cli.root.app


@cache
def _help(program: str, words: tuple[str, ...]) -> str:
    """The help of the longest prefix of `words` that is a command."""
    app = _app(program)
    for length in range(min(2, len(words)), 0, -1):
        shown = CliRunner().invoke(
            app, [*words[:length], "--help"], env={"COLUMNS": "200", "NO_COLOR": "1"}
        )
        if shown.exit_code == 0:
            return shown.output
    raise AssertionError(f"no such command: {program} {' '.join(words)}")


def test_first_minute_works_as_pasted(tmp_path: Path) -> None:
    """Start both services as shown, paste the curl: 202, the handler has it, and the Python
    example delivers."""
    with running(tmp_path, shop=_block("# shop.py")) as place:
        done = subprocess.run(
            ["bash", "-euo", "pipefail", "-c", place.here(_block("curl http"))],
            capture_output=True,
            check=False,
            text=True,
            timeout=30,
        )
        assert json.loads(done.stdout)["status"] == "pending", done.stderr
        place.wait_for_delivery()
        place.wait_until_printed("job_1234567890abcdef completed {'pages': 50}")
        _send_yourself_a_completion(place)
        done = subprocess.run(
            [sys.executable, "-c", place.here(_block("from dispatcher.client"))],
            capture_output=True,
            check=False,
            text=True,
            timeout=30,
        )
        assert done.stdout.strip() == "delivered", done.stderr


def _send_yourself_a_completion(place: Place) -> None:
    """The second terminal of the receiver's first minute."""
    done = subprocess.run(
        ["bash", "-euo", "pipefail", "-c", _block('echo \'{"jobId"')],
        env={
            **os.environ,
            "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
            "RECEIVER_SECRETS": SECRET,
            "RECEIVER_ADMIN_KEY": ADMIN_KEY,
            "RECEIVER_PORT": str(place.receiver_port),
        },
        capture_output=True,
        check=False,
        text=True,
        timeout=30,
    )
    assert '{"status":"accepted"}' in done.stdout, done.stderr
    assert "job_1 " in done.stdout
    place.wait_until_printed("job_1 completed {'pages': 50}")


async def test_mounted_in_fastapi_as_shown(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The receiver's part of somebody's application takes a completion and hands it on."""
    monkeypatch.setenv("RECEIVER_SECRETS", SECRET)
    monkeypatch.setenv("RECEIVER_DATABASE_URL", f"sqlite:///{tmp_path}/receiver.db")
    printed: list[tuple[Any, ...]] = []
    shown: dict[str, Any] = {"print": lambda *words: printed.append(words)}
    exec(_block("# shop_api.py"), shown)
    body = b'{"jobId": "job_1", "status": "completed", "output": {"pages": 50}}'
    transport = httpx.ASGITransport(app=shown["app"])
    async with (
        shown["app"].router.lifespan_context(shown["app"]),
        httpx.AsyncClient(transport=transport, base_url="http://shop") as http,
    ):
        headers = signed_request(body, SECRET)
        answer = await http.post("/hooks/webhooks", content=body, headers=headers)
        assert answer.json() == {"status": "accepted"}
        await until(lambda: printed == [("job_1", {"pages": 50})])


def _block(beginning: str) -> str:
    found: list[str] = re.findall(r"``\w+\n(.*?)``", TEXT, re.DOTALL)
    return next(block for block in found if block.startswith(beginning))

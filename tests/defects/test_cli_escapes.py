"""What a stranger submitted commands no operator's terminal, and what is typed ends in one line."""

import json
import os
import subprocess
import sys

import pytest

from dispatcher.cli import main
from tests.defects.wrong import saying, serving

TAG = "\u009b2J \u009d0;title\u009c \u202e \U000e0041 caf\u00e9 \u4e2d"
CALLBACK = {
    "id": "cb_1",
    "jobId": "job_1",
    "jobStatus": None,
    "status": "pending",
    "priority": "normal",
    "tags": {TAG: TAG},
    "destination": "ds_1",
    "callbackUrl": "https://example.com/",
    "createdAt": "2026-01-31T12:00:00.000Z",
    "attempts": 0,
}


@pytest.mark.parametrize("form", [[], ["--json"]])
def test_a_listing_has_nothing_that_commands_a_terminal(
    form: list[str], capsysbinary: pytest.CaptureFixture[bytes]
) -> None:
    """C1 controls and marks of direction are replaced for people, and escaped in JSON, which says
    the same."""
    page = json.dumps({"data": [CALLBACK], "nextCursor": None}, ensure_ascii=False).encode()
    with serving(saying(200, page)) as url:
        assert main(["--url", url, "--api-key", "k", *form, "list"]) == 0
    out = capsysbinary.readouterr().out.decode()
    assert all(char.isprintable() or char == "\n" for char in out)
    if form:
        assert json.loads(out) == CALLBACK
        assert "caf\u00e9 \u4e2d" in out


@pytest.mark.parametrize("encoding", ["latin-1", "ascii", "cp1252", "utf-8"])
def test_a_stream_that_cannot_show_a_mark_is_no_error(encoding: str) -> None:
    """Cron and some terminals have such ones: the rest is shown."""
    page = json.dumps({"data": [CALLBACK], "nextCursor": None}).encode()
    with serving(saying(200, page)) as url:
        ran = subprocess.run(
            [sys.executable, "-m", "dispatcher", "--url", url, "--api-key", "k", "list"],
            env={**os.environ, "PYTHONIOENCODING": encoding},
            capture_output=True,
            check=False,
        )
    assert (ran.returncode, ran.stderr) == (0, b"")
    assert b"cb_1" in ran.stdout


@pytest.mark.parametrize(
    "command",
    [
        ["list", "--since", "999999w"],
        ["list", "--until", "99999-01-01"],
        ["list", "--job-id", "\udcff"],
        ["send", "--job-id", "\udcff", "--to", "http://x", "--payload", "1"],
        ["send", "--job-id", "j", "--to", "http://x", "--payload", "NaN"],
        ["send", "--job-id", "j", "--to", "http://x", "--payload", '{},"priority":"high"'],
    ],
    ids=repr,
)
def test_what_cannot_be_is_usage(command: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    """Exit 2 and a line or two, whatever is typed."""
    assert main(["--url", "http://127.0.0.1:1", "--api-key", "k", *command]) == 2
    err = capsys.readouterr().err
    assert "Traceback" not in err
    assert len(err.splitlines()) <= 3

"""The commands that need no service: sign and verify; help, and what imports what."""

import json
import subprocess
import sys
from datetime import UTC, datetime
from hashlib import sha256
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pytest
from standardwebhooks import Webhook
from typer.testing import CliRunner

from receiver.base.cli import ago
from receiver.cli.root import app
from receiver.cli.root import run as main
from receiver.signature import sign_sha256, signed_headers

SECRET = "whsec_dGVzdC10ZXN0LXRlc3QtdGVzdC10ZXN0"
BODY = b'{"jobId":"job_1","status":"completed"}'


@pytest.fixture(autouse=True)
def environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("RECEIVER_SECRETS", SECRET)
    monkeypatch.chdir(tmp_path)
    (tmp_path / "body.json").write_bytes(BODY)


def run(*words: str, stdin: bytes | None = None) -> Any:
    return CliRunner().invoke(app, list(words), input=stdin)


def test_signed_lines_verify_with_both_commands_and_the_public_library() -> None:
    """What `sign` prints is what the dispatcher sends."""
    signed = run("sign", "body.json")
    assert signed.exit_code == 0
    headers = dict(line.split(": ", 1) for line in signed.stdout.splitlines())
    assert headers["X-Webhook-Signature"] == sign_sha256(SECRET, BODY)
    Webhook(SECRET).verify(BODY, headers)
    Path("headers.txt").write_text("POST /webhooks HTTP/1.1\nHost: r\n" + signed.stdout)
    verified = run("verify", "body.json", "--headers", "headers.txt")
    assert (verified.exit_code, verified.stderr) == (0, "")
    assert verified.stdout.startswith("verified: sha256 and standard, message msg_")


def test_sign_reads_standard_input_and_takes_id_and_time() -> None:
    """As JSON, for programs."""
    words = ("sign", "--form", "json", "--id", "cb_1", "--timestamp", "7", "--header", "X-Other")
    headers = json.loads(run(*words, stdin=BODY).stdout)
    expected = signed_headers(BODY, [SECRET], message_id="cb_1", timestamp_s=7)
    expected["X-Other"] = expected.pop("X-Webhook-Signature")
    assert headers == expected


def test_curl_is_ready_to_paste() -> None:
    """With the file by name, or the body inside; quoted for the shell either way."""
    by_file = run("sign", "body.json", "--form", "curl").stdout
    assert by_file.startswith("curl -sS -X POST http://127.0.0.1:8700/webhooks -H")
    assert by_file.endswith("--data-binary @body.json\n")
    inside = run("sign", "--form", "curl", "--url", "http://x/y z", stdin=b"it's\n").stdout
    words = subprocess.run(
        ["/bin/sh", "-c", inside.replace("curl ", "printf '%s\\037' ", 1)],
        capture_output=True,
        text=True,
        check=True,
    ).stdout.split("\037")
    assert words[-2] == "it's\n"
    assert "http://x/y z" in words


@pytest.mark.parametrize(
    ("words", "stdin", "told"),
    [
        (("sign", "missing.json"), None, "cannot read missing.json"),
        (("sign", "."), None, "cannot read"),
        (("sign", "body.json", "--id", "a.b"), None, "id"),
        (("sign", "body.json", "--timestamp", "-1"), None, "timestamp"),
        (("sign", "--form", "curl"), b"\xff", "not text"),
        (("sign", "--secret-file", "-"), b"x", "both"),
        (("sign", "body.json", "--secret-file", "-"), b" \n", "no secret"),
        (("sign", "body.json", "--secret-file", "-"), b"\xff", "not UTF-8"),
        (("verify", "body.json", "-H", "no colon"), None, "Name: value"),
        (("verify", "body.json", "--headers", "-"), b"{", "JSON"),
        (("verify", "body.json", "--headers", "-"), b'{"a":1}', "string"),
    ],
)
def test_a_bad_argument_is_one_line_and_exit_2(
    words: tuple[str, ...], stdin: bytes | None, told: str
) -> None:
    """And nothing is printed as if it had worked."""
    ran = run(*words, stdin=stdin)
    assert (ran.exit_code, ran.stdout) == (2, "")
    assert told in ran.stderr
    assert ran.stderr.count("\n") == 1


@pytest.mark.parametrize(
    "words", [("nonsense",), ("sign", "--form", "xml"), ("inbox", "show", "x")]
)
def test_usage_errors_exit_2(words: tuple[str, ...]) -> None:
    """As everywhere."""
    assert run(*words).exit_code == 2


def test_what_was_typed_wrong_is_one_line_with_the_way_to_help(
    capsys: pytest.CaptureFixture[str],
) -> None:
    """Also what the command line's own library has to say."""
    for words, told in (
        (["nonsense"], "No such command 'nonsense'.; see: receiver --help"),
        (["inbox", "lst"], "Did you mean 'list'?; see: receiver inbox --help"),
        (["sign", "--form", "xml"], "see: receiver sign --help"),
    ):
        assert main(words) == 2
        shown = capsys.readouterr()
        assert shown.out == ""
        assert told in shown.err
        assert shown.err.count("\n") == 1


def test_a_bare_command_helps_and_tells_its_version(capsys: pytest.CaptureFixture[str]) -> None:
    """It is what one types first."""
    assert main([]) == 0
    assert "receiver inbox list" in capsys.readouterr().out
    assert main(["--version"]) == 0
    assert capsys.readouterr().out == f"receiver {version('postback')}\n"


def test_a_missing_extra_is_one_line() -> None:
    """What is installed without it verifies; the command says how to get the rest."""
    code = "import sys; sys.path.insert(0, '.'); from receiver.cli import main; sys.exit(main())"
    ran = subprocess.run(
        [sys.executable, "-I", "-S", "-c", code],
        cwd=Path(__file__).parents[2],
        capture_output=True,
        text=True,
        check=False,
    )
    assert ran.returncode == 3
    assert ran.stderr == (
        "error: the package typer is not installed; pip install '.[receiver]' in a checkout\n"
    )


@pytest.mark.parametrize(
    ("code", "words", "exit_code", "told"),
    [
        ("x = 1 / 0", (), 3, "ZeroDivisionError: division by zero"),
        ("def f(:", (), 3, "SyntaxError"),
        ("import nowhere", (), 2, "No module named 'nowhere'"),
        ("from receiver import Receiver", (), 2, "no attribute 'receiver'"),
        ("def receiver(a, b, c): ...", (), 2, "must take (event)"),
        ("from receiver import Receiver\nreceiver = Receiver()", (), 2, "handles nothing"),
        (
            "from receiver import Receiver\nreceiver = Receiver()\n"
            "receiver.on('*')(lambda event: None)",
            ("--on", "failed"),
            2,
            "--on is for functions",
        ),
    ],
)
def test_a_handler_that_cannot_be_is_one_line(
    code: str, words: tuple[str, ...], exit_code: int, told: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where it was, and what to do; nothing is served."""
    name = f"shop_{sha256(code.encode()).hexdigest()[:8]}"
    Path(f"{name}.py").write_text(code)
    monkeypatch.syspath_prepend(Path.cwd())
    ran = run("serve", "--handler", f"{name}:receiver", *words)
    assert (ran.exit_code, ran.stdout) == (exit_code, "")
    assert told in ran.stderr
    assert ran.stderr.count("\n") == 1


@pytest.mark.parametrize("by", ["nan", "-1", "tomorrow", "2030-01-31T12:00:00"])
def test_a_time_that_is_none_is_usage(by: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Before the service is asked."""
    monkeypatch.setenv("RECEIVER_URL", "http://127.0.0.1:1")
    ran = run("expect", "job_1", "--status-url", "http://x/", f"--by={by}")
    assert (ran.exit_code, ran.stdout) == (2, "")
    assert "--by must be seconds" in ran.stderr


def test_no_secret_at_all_is_usage(monkeypatch: pytest.MonkeyPatch) -> None:
    """It says where one may come from."""
    monkeypatch.delenv("RECEIVER_SECRETS")
    ran = run("verify", "body.json")
    assert ran.exit_code == 2
    assert "RECEIVER_SECRETS" in ran.stderr
    Path("secret").write_text(SECRET + "\n")
    value = sign_sha256(SECRET, BODY)
    good = run(
        "verify", "body.json", "--secret-file", "secret", "-H", f"X-Webhook-Signature: {value}"
    )
    assert (good.exit_code, good.stdout) == (0, "verified: sha256\n")


def test_sign_and_verify_know_the_jobs_own_headers() -> None:
    """Signed with the body, whatever that is; verify says which job they name."""
    made = run(
        "sign", "body.json", "--job", "jöb.1", "--status", "failed", "--run", "2", "--form", "json"
    )
    headers = json.loads(made.stdout)
    assert headers["X-Postback-Job-Id"] == "j%C3%B6b%2E1"
    Path("job.json").write_text(made.stdout)
    seen = run("verify", "body.json", "--headers", "job.json")
    assert "job jöb.1 failed run 2" in seen.stdout
    as_json = run("verify", "body.json", "--headers", "job.json", "--json")
    assert json.loads(as_json.stdout)["job"] == {"id": "jöb.1", "status": "failed", "run": 2}
    headers["X-Postback-Job-Status"] = "completed"
    Path("job.json").write_text(json.dumps(headers))
    assert "job" not in json.loads(
        run("verify", "body.json", "--headers", "job.json", "--json").stdout
    )
    assert run("sign", "body.json", "--run", "0").exit_code == 2


def test_verify_says_why_not_and_exits_1() -> None:
    """With the reason for programs in --json."""
    old = signed_headers(BODY, [SECRET], message_id="cb_1", timestamp_s=7)
    Path("old.json").write_text(json.dumps(old))
    stale = run("verify", "body.json", "--headers", "old.json")
    assert (stale.exit_code, stale.stdout) == (1, "")
    assert "not verified: stale" in stale.stderr
    assert "--now" in stale.stderr
    then = run("verify", "body.json", "--headers", "old.json", "--now", "7", "--json")
    assert json.loads(then.stdout) == {
        "verified": True,
        "schemes": ["sha256", "standard"],
        "messageId": "cb_1",
        "timestamp": 7,
    }
    required = run("verify", "body.json", "--require", "standard", "--json")
    assert required.exit_code == 1
    assert json.loads(required.stdout)["reason"] == "missing"


def test_no_secret_is_ever_printed() -> None:
    """Not by sign, not by verify, not by an error."""
    headers = ("-H", "X-Webhook-Signature: sha256=bad")
    for words in (("sign", "body.json"), ("verify", "body.json", *headers), ("sign", "missing")):
        ran = run(*words)
        assert SECRET not in ran.stdout + ran.stderr


@pytest.mark.parametrize(
    "words",
    [
        (),
        ("serve",),
        ("sign",),
        ("verify",),
        ("check",),
        ("expect",),
        ("expected",),
        ("inbox", "list"),
        ("inbox", "show"),
        ("inbox", "replay"),
        ("inbox", "prune"),
    ],
)
def test_help_has_examples(words: tuple[str, ...]) -> None:
    """Every command explains itself; the program, how all of them end."""
    text = run(*words, "--help").stdout
    assert "Example" in text or words == ("inbox",)
    assert words or "Exit codes: 0 done, 1 failed, 2 usage, 3 cannot start." in text


def test_verifying_imports_no_third_party_package() -> None:
    """`import receiver.signature` and `from receiver import verify` cost the standard library."""
    code = (
        "import sys; sys.path.insert(0, '.'); import receiver.signature;"
        "from receiver import SignatureError, verify;"
        "names = {m.partition('.')[0] for m in sys.modules};"
        "print(sorted(names - set(sys.stdlib_module_names) - {'receiver', '__main__'}))"
    )
    root = Path(__file__).parents[2]
    ran = subprocess.run(
        [sys.executable, "-I", "-S", "-c", code],
        cwd=root,
        capture_output=True,
        text=True,
        check=True,
    )
    assert ran.stdout.strip() == "[]"


def test_the_receiver_knows_nothing_of_the_dispatcher_or_its_packages() -> None:
    """A customer installs the receiver's extra alone."""
    source = Path(__file__).parents[2] / "receiver"
    for file in source.rglob("*.py"):
        for line in file.read_text().splitlines():
            words = line.split()
            if words[:1] in (["import"], ["from"]):
                name = words[1].partition(".")[0]
                assert name not in {"dispatcher", "aiohttp", "msgspec", "prometheus_client"}


def test_the_light_commands_load_no_server() -> None:
    """`sign` and `verify` import what they need, so they start at once."""
    heavy = "{'uvicorn', 'aiosqlite', 'starlette', 'httpx'}"
    code = f"import receiver.cli.root, sys; print({heavy} & set(sys.modules))"
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert ran.stdout.strip() == "set()"


def test_times_are_told_as_people_tell_them() -> None:
    """Past and future, and what is not there."""
    now = datetime(2030, 1, 1, 12, tzinfo=UTC)
    for iso, told in (
        (None, "-"),
        ("2030-01-01T12:00:00.400Z", "now"),
        ("2030-01-01T11:59:58Z", "2s ago"),
        ("2030-01-01T12:15:00Z", "in 15m"),
        ("2029-12-30T12:00:00Z", "2d ago"),
    ):
        assert ago(iso, now) == told

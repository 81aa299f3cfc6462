"""One command line: forms of output, lengths of time, profiles, completion, widths, and what a
stream or a terminal can bear."""

import io
import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Final

import pytest

from dispatcher.client import Client
from tests.commands import command
from tests.dispatcher.cli.conftest import Run
from tests.dispatcher.client.running import ADMIN_KEY, Running

HALVES: Final = ("dispatcher", "receiver")


def submitted(client: Client, service: Running, count: int) -> list[str]:
    url = service.hook(200)
    ids = [client.submit(f"job_{n}", {}, callback_url=url).id for n in range(count)]
    for id in ids:
        client.wait(id, 10)
    return ids


# --- --output ---


def test_a_list_is_a_table_an_array_or_an_object_a_line(
    cli: Run, client: Client, service: Running
) -> None:
    """`--json` stays the object a line that it was; before the command as behind it."""
    ids = set(submitted(client, service, 3))
    assert {one["id"] for one in cli("list", "--output", "json").json} == ids
    assert {one["id"] for one in cli("list", "--output", "ndjson").lines} == ids
    assert cli("list", "--json").lines == cli("list", "--output", "ndjson").lines
    assert cli("--output", "json", "list").json == cli("list", "--output", "json").json
    table = cli("list", "--output", "table")
    assert "STATUS" in table.out
    assert cli("--json", "list", "--output", "table").out == table.out
    assert cli("list", "--status", "dead", "--output", "json").json == []


def test_every_list_knows_the_three(cli: Run, client: Client, service: Running) -> None:
    submitted(client, service, 1)
    for words in (("destinations", "list"), ("keys", "list"), ("secrets", "list"), ("audit",),
                  ("jobs", "list"), ("tenants",)):  # fmt: skip
        array = cli(*words, "--output", "json").json
        assert isinstance(array, list), words
        assert cli(*words, "--output", "ndjson").lines == array, words


def test_two_forms_at_once_are_refused(cli: Run) -> None:
    assert cli("list", "--json", "--output", "table").code == 2
    assert cli("list", "--output", "xml").code == 2


def test_piped_lines_have_no_spaces_at_their_ends(
    cli: Run, client: Client, service: Running
) -> None:
    submitted(client, service, 2)
    for words in (("list",), ("destinations", "list"), ("stats",)):
        out = cli(*words).out
        assert out
        assert not [line for line in out.splitlines() if line != line.rstrip()], words


# --- 80 columns ---


def on_a_terminal(half_main: object, *words: str) -> str:
    """What a command prints on a terminal of 80 columns."""
    import fcntl
    import pty
    import struct
    import termios

    controller, terminal = pty.openpty()
    fcntl.ioctl(terminal, termios.TIOCSWINSZ, struct.pack("HHHH", 24, 80, 0, 0))
    with os.fdopen(terminal, "w") as stream, os.fdopen(controller, "rb", buffering=0) as shown:
        before, sys.stdout = sys.stdout, stream
        try:
            half_main(list(words))  # type: ignore[operator]
        finally:
            sys.stdout.flush()
            sys.stdout = before
        text = shown.read(1 << 20).decode().replace("\r\n", "\n")
    return re.sub(r"\x1b\[[0-9;]*m", "", text)


def test_ids_and_urls_are_whole_at_80_columns(
    alone: Run, client: Client, service: Running, tenant: str, environment: pytest.MonkeyPatch
) -> None:
    """Whoever copies one has all of it."""
    from dispatcher.cli import main

    environment.setenv("DISPATCHER_URL", service.url)
    environment.setenv("DISPATCHER_API_KEY", ADMIN_KEY)
    (id,) = submitted(client, service, 1)
    long = f"{service.customer}/200/{'a-long-path/' * 4}end"
    client.wait(client.submit("job_2", {}, callback_url=long).id, 10)
    made = client.create_key(["read"], tenant=tenant, label="a label that is long enough to matter")
    (secret,) = client.secrets()
    (destination,) = client.destinations()

    def shown(*words: str) -> str:
        text = on_a_terminal(main, "--tenant", tenant, *words)
        assert max(map(len, text.splitlines())) <= 80, text
        return text.replace("\n", "").replace(" ", "")

    assert id in shown("list")
    assert long.removeprefix("http://") in shown("list")
    assert made.id in shown("keys", "list")
    assert secret.id in shown("secrets", "list")
    assert destination.id in shown("destinations", "list")
    assert destination.url in shown("destinations", "list")
    assert "revealed" in shown("secrets", "list")
    assert made.id in shown("audit", "--all")


# --- times ---


def test_a_length_of_time_is_written_the_same_everywhere(cli: Run, service: Running) -> None:
    argv = ("--job-id", "job_1", "--to", service.hook(200), "--payload", "{}")
    assert cli("send", *argv, "--not-before", "15m", "--json").code == 0
    assert cli("send", *argv, "--wait", "--timeout", "later").code == 2
    assert "is not a length of time" in cli("send", *argv, "--wait", "--timeout", "later").err


@pytest.mark.parametrize(
    "argv",
    [
        ("jobs", "wait", "job_1"),
        ("jobs", "watch", "job_1"),
        ("jobs", "submit", "none", "--wait"),
        ("run", "none", "--wait"),
        ("send", "--file", "none.ndjson"),
        ("replay", "cb_1", "--wait"),
        ("endpoints", "test", "none"),
    ],
    ids=" ".join,
)
def test_whoever_waits_is_told_how_long_in_the_same_words(cli: Run, argv: tuple[str, ...]) -> None:
    """`--timeout 2m` as `--timeout 120`: what is refused then is something else. What is no length
    of time is told so."""
    for good in ("2m", "120", "0.5s"):
        ran = cli(*argv, "--timeout", good)
        assert ran.code in (1, 2)
        assert "length of time" not in ran.err
    for wrong in ("later", "-1", "1 fortnight", ""):
        ran = cli(*argv, "--timeout", wrong)
        assert (ran.code, "is not a length of time" in ran.err) == (2, True)


# --- profiles ---


@pytest.fixture
def config(tmp_path: Path, environment: pytest.MonkeyPatch) -> Path:
    path = tmp_path / "config.toml"
    environment.setenv("POSTBACK_CONFIG", str(path))
    return path


def test_a_profile_says_where_the_service_is(
    alone: Run, service: Running, config: Path, tenant: str, environment: pytest.MonkeyPatch
) -> None:
    """By its name it wins over the environment; options win over it."""
    config.write_text(
        f'[dispatcher.here]\nurl = "{service.url}"\napi_key = "{ADMIN_KEY}"\ntenant = "{tenant}"\n'
    )
    config.chmod(0o600)
    environment.setenv("DISPATCHER_URL", "http://127.0.0.1:9")
    sent = alone("--profile", "here", "send", "--job-id", "job_1", "--to", service.hook(200),
                 "--payload", "{}", "--json")  # fmt: skip
    assert sent.code == 0, sent.err
    with Client(service.url, ADMIN_KEY, tenant=tenant) as client:
        assert client.get(sent.json["id"]).job_id == "job_1"
    assert alone("list", "--profile", "here", "--url", "http://127.0.0.1:9").code == 1


def test_a_profile_that_is_none_is_one_line(alone: Run, config: Path) -> None:
    """With the nearest name; one that others can read holds no key."""
    config.write_text('[dispatcher.production]\nurl = "http://127.0.0.1:9"\n')
    missing = alone("list", "--profile", "prodution")
    assert (missing.code, missing.out) == (3, "")
    assert "did you mean 'production'?" in missing.err
    config.write_text('[dispatcher.open]\napi_key = "pbk_secret_text"\n')
    config.chmod(0o644)
    refused = alone("list", "--profile", "open")
    assert refused.code == 3
    assert "chmod 600" in refused.err
    assert "pbk_secret_text" not in refused.err


# --- completion ---


@pytest.mark.parametrize("half", HALVES)
@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_a_shell_gets_its_completion(half: str, shell: str) -> None:
    """A script that names the program."""
    ran = command(half, "completion", shell)
    assert ran.returncode == 0, ran.stderr
    assert f"complete_{shell}" in ran.stdout
    assert f"_{half.upper()}_COMPLETE" in ran.stdout


@pytest.mark.parametrize(
    ("half", "typed", "expected"),
    [
        ("dispatcher", "dispatcher li", "list"),
        ("dispatcher", "dispatcher destinations re", "retry"),
        ("dispatcher", "dispatcher list --sta", "--status"),
        ("receiver", "receiver inbox re", "replay"),
    ],
)
def test_bash_completes_what_is_typed(half: str, typed: str, expected: str) -> None:
    """In a real shell, by the script that the command prints."""
    script = command(half, "completion", "bash").stdout
    words = typed.split()
    shell = f"""
    {half}() {{ {sys.executable} -m {half} "$@"; }}
    export -f {half}
    COMP_WORDS=({typed}) COMP_CWORD={len(words) - 1} COMP_LINE='{typed}'
    env() {{ command env "${{@:1:$#-1}}" {sys.executable} -m {half}; }}
    {script}
    _{half}_completion {half}
    printf '%s\\n' "${{COMPREPLY[@]}}"
    """
    ran = subprocess.run(["bash", "-c", shell], capture_output=True, text=True, check=False)
    assert expected in ran.stdout.split(), (ran.stdout, ran.stderr)


# --- starting ---


@pytest.mark.parametrize("half", HALVES)
def test_the_version_needs_no_package_of_an_extra(half: str) -> None:
    """So it is there at once: under 0.3 s, of which most is the interpreter's own."""
    code = (
        f"import sys; from {half}.cli import main; code = main(['--version']); "
        "print(*sys.modules); sys.exit(code)"
    )
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    version, modules = ran.stdout.split("\n")[:2]
    assert version.startswith(f"{half} ")
    assert not {"typer", "rich", "httpx", "msgspec", "aiohttp", "asyncio"} & set(modules.split())


@pytest.mark.parametrize("words", [("serve",), ("list",), ()])
def test_a_missing_extra_is_one_line(words: tuple[str, ...]) -> None:
    """Where the command is installed and cannot work, it says what to install."""
    code = (
        "import sys; sys.path.insert(0, '.'); from dispatcher.cli import main; "
        f"sys.exit(main({list(words)!r}))"
    )
    ran = subprocess.run(
        [sys.executable, "-I", "-S", "-c", code],
        cwd=Path(__file__).parents[3],
        capture_output=True,
        text=True,
        check=False,
    )
    assert (ran.returncode, ran.stdout) == (3, "")
    assert ran.stderr == (
        "error: the package typer is not installed; pip install '.[dispatcher]' in a checkout\n"
    )


@pytest.mark.parametrize(
    ("imported", "told"),
    [
        ("from receiver import Receiver", "pip install '.[receiver]'"),
        ("from dispatcher.client import Client", "pip install '.[client]'"),
    ],
)
def test_a_library_names_the_extra_that_it_lacks(imported: str, told: str) -> None:
    """In the error itself, which a traceback ends with."""
    ran = subprocess.run(
        [sys.executable, "-I", "-S", "-c", f"import sys; sys.path.insert(0, '.'); {imported}"],
        cwd=Path(__file__).parents[3],
        capture_output=True,
        text=True,
        check=False,
    )
    assert ran.returncode == 1
    assert told in ran.stderr.splitlines()[-1]


# --- errors and streams ---


@pytest.mark.parametrize(
    ("half", "words"),
    [
        ("dispatcher", ("destinations",)),
        ("dispatcher", ("keys",)),
        ("dispatcher", ("jobs",)),
        ("receiver", ("inbox",)),
    ],
)
def test_no_error_is_empty(half: str, words: tuple[str, ...]) -> None:
    """A group alone shows what it has, and no error without a word."""
    ran = command(half, *words)
    assert ran.returncode == 2
    assert "Usage:" in ran.stdout + ran.stderr
    assert "error:" not in ran.stderr


@pytest.mark.parametrize("encoding", ["ascii", "latin-1", "cp1252"])
def test_a_stream_that_is_not_utf8_is_written_to(
    encoding: str,
    cli: Run,
    client: Client,
    service: Running,
    tenant: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """What it cannot show is a question mark, and no error: cron's mail, some CI, Windows."""
    from dispatcher.cli import main

    submitted(client, service, 1)
    raw = io.BytesIO()
    stream = io.TextIOWrapper(raw, encoding=encoding, write_through=True)
    monkeypatch.setattr(sys, "stdout", stream)
    code = main(["--tenant", tenant, "list"])
    stream.flush()
    assert code == 0
    assert b"delivered" in raw.getvalue()


def test_no_form_of_output_commands_a_terminal(cli: Run, client: Client, service: Running) -> None:
    """A tenant's texts are texts, in a table as in JSON."""
    evil = "a\u202eb"
    made = client.submit("job_1", {}, callback_url=service.hook(503), tags={"t": evil},
                         policy={"attempts": 1})  # fmt: skip
    client.wait(made.id, 10)
    for words in (("list",), ("list", "--json"), ("list", "--output", "json"), ("failures",),
                  ("failures", "--output", "json"), ("show", made.id),
                  ("show", made.id, "--json")):  # fmt: skip
        out = cli(*words).out
        assert all(char.isprintable() or char == "\n" for char in out), words
    assert json.loads(cli("list", "--output", "json").out)[0]["tags"] == {"t": evil}

"""Every variable of both halves can be given by a file, and by one of the two alone.

These are generated from the settings themselves, on the loaders that the programs use: a new
setting is held to them by being one.
"""

import ipaddress
import json
import os
import subprocess
import sys
from base64 import b64encode
from collections.abc import Callable, Iterator, Mapping
from dataclasses import Field, fields
from pathlib import Path
from typing import Any, Final, Literal, NamedTuple, get_args, get_origin

import pytest

import dispatcher.settings
import receiver.settings
from receiver.base.settings import FILE, Network, SettingError, variables

HALVES: Final = {"DISPATCHER_": dispatcher.settings, "RECEIVER_": receiver.settings}
# Texts that a variable takes and that are not its default. Numbers and words are made up.
EXAMPLES: Final[dict[str, str]] = {
    "DISPATCHER_ADMIN_KEY": "key-of-16-letters",
    "DISPATCHER_APPLY": "/etc/postback.toml",
    "DISPATCHER_CA_FILE": "/etc/ca.pem",
    "DISPATCHER_DATABASE_URL": "sqlite:////var/lib/x.db",
    "DISPATCHER_HOST": "::1",
    "DISPATCHER_HOSTS": "api.example.com,10.0.0.1:8600",
    "DISPATCHER_PROXY_URL": "http://proxy.internal:3128",
    "DISPATCHER_OUTPUTS": "s3://outputs/kept",
    "DISPATCHER_PUBLIC_URL": "https://api.example.com/jobs",
    "DISPATCHER_SIGNATURE_HEADER": "X-Signature",
    "DISPATCHER_SIGNING_SECRET": "whsec_dGVzdC10ZXN0LXRlc3QtdGVzdC10ZXN0",
    "DISPATCHER_UPSTREAM_CALLBACK_URL": "https://inside.example.com",
    "DISPATCHER_UPSTREAM_SECRETS": "/run/secrets",
    "DISPATCHER_API_KEY": "pbk_of-the-tests",
    "DISPATCHER_URL": "https://dispatcher.example",
    "DISPATCHER_TENANT": "acme",
    "RECEIVER_ADMIN_KEY": "key-of-16-letters",
    "RECEIVER_CA_FILE": "/etc/ca.pem",
    "RECEIVER_CREDENTIALS": "a@h=t,b@h=t",
    "RECEIVER_DATABASE_URL": "postgresql://me@h/inbox",
    "RECEIVER_EFFECTS_URL": "sqlite:///effects.db",
    "RECEIVER_ENCRYPTION_KEYS": f"k1:{b64encode(bytes(range(32))).decode()}",
    "RECEIVER_HOST": "::1",
    "RECEIVER_PATH": "/hooks/a",
    "RECEIVER_SECRETS": "whsec_dGVzdC10ZXN0LXRlc3QtdGVzdC10ZXN0,second-secret-of-another",
    "RECEIVER_SIGNATURE_HEADER": "X-Signature",
    "RECEIVER_SOURCES_FILE": "/etc/sources.toml",
    "RECEIVER_URL": "https://receiver.example",
    "RECEIVER_URL_TOKEN": "test-token-test-token",
}
# What must be set too, for a text to be taken.
BESIDE: Final = {
    "RECEIVER_ENCRYPTION": {"RECEIVER_ENCRYPTION_KEYS": EXAMPLES["RECEIVER_ENCRYPTION_KEYS"]}
}


class Variable(NamedTuple):
    """One variable, who reads it, and a text that it takes."""

    name: str
    load: Callable[[Mapping[str, str]], object]
    text: str


def all_variables() -> Iterator[Variable]:
    for prefix, module in HALVES.items():
        for one in fields(module.Settings):
            name = module.variable(one.name)
            yield Variable(name, module.load, EXAMPLES.get(name) or made_up(name, one))
        for one in fields(module.ClientSettings):
            name = f"{prefix}{one.name.upper()}"
            if name in EXAMPLES or name not in variables(prefix, module.Settings):
                yield Variable(name, module.load_client, EXAMPLES.get(name, ""))
    secrets = EXAMPLES["RECEIVER_SECRETS"]
    yield Variable("RECEIVER_SECRETS", receiver.settings.load_secrets, secrets)
    header = EXAMPLES["RECEIVER_SIGNATURE_HEADER"]
    yield Variable("RECEIVER_SIGNATURE_HEADER", receiver.settings.load_signature_header, header)


def made_up(name: str, one: Field[Any]) -> str:
    if one.type in (int, float):
        low, high = one.metadata["min"], one.metadata["max"]
        default: Any = one.default
        others = (n for n in (default + 1, default - 1, high, low) if n != default)
        return repr(one.type(next(n for n in others if low <= n <= high)))
    if one.type == tuple[Network, ...]:
        return str(ipaddress.ip_network("10.0.0.0/8"))
    if get_origin(one.type) is Literal:
        return next(str(word) for word in get_args(one.type) if word != one.default)
    return f"/some/{name.lower()}"


ALL: Final = list(all_variables())
each = pytest.mark.parametrize(
    "one", ALL, ids=lambda one: f"{one.name}-{getattr(one.load, '__name__', '')}"
)


@each
def test_every_variable_can_be_given_by_a_file(one: Variable, tmp_path: Path) -> None:
    """What is read is what the variable itself would give, and not what is read without."""
    file = tmp_path / "value"
    file.write_text(f"{one.text}\n")
    beside = BESIDE.get(one.name, {})
    read = one.load({f"{one.name}{FILE}": str(file), **beside})
    assert read == one.load({one.name: one.text, **beside})
    assert read != one.load(beside), "give a text in EXAMPLES that is not the default"


@each
def test_no_variable_is_given_twice(one: Variable, tmp_path: Path) -> None:
    """The error names both, and no value; whether or not the two agree."""
    file = tmp_path / "value"
    file.write_text(one.text)
    with pytest.raises(SettingError) as caught:
        one.load({one.name: one.text, f"{one.name}{FILE}": str(file)})
    assert str(caught.value) == (
        f"{one.name} and {one.name}{FILE} are both set: leave one of them out"
    )


@each
def test_a_file_that_is_not_there_names_its_variable(one: Variable, tmp_path: Path) -> None:
    with pytest.raises(SettingError) as caught:
        one.load({f"{one.name}{FILE}": str(tmp_path / "none")})
    assert str(caught.value).startswith(f"{one.name}{FILE}: cannot read {tmp_path}/none: ")


@pytest.mark.parametrize(("prefix", "module"), HALVES.items())
def test_no_variable_can_be_mistaken_for_the_file_of_another(prefix: str, module: Any) -> None:
    """X_FILE is a setting of its own, or the file of X, never both."""
    names = {module.variable(one.name) for one in fields(module.Settings)}
    assert not {f"{name}{FILE}" for name in names} & names
    assert all(name.startswith(prefix) for name in names)


@pytest.mark.parametrize("module", HALVES.values())
def test_nothing_that_is_read_counts_as_misspelt(module: Any) -> None:
    """Nor does the file of it."""
    names = [one.name for one in ALL if module.variable("") in one.name]
    environ = dict.fromkeys([*names, *(f"{name}{FILE}" for name in names)], "x")
    found = module.strays(environ | {f"{module.variable('')}SIGNATUR_HEADER": "x"})
    assert [nearest for _, nearest in found.unknown] == [module.variable("signature_header")]
    assert not found.links


def test_a_command_needs_no_secret_of_the_service(tmp_path: Path) -> None:
    """What only the service's user may read is not read to find out where it listens."""
    environ = {
        "DISPATCHER_API_KEY": "k",
        "DISPATCHER_ADMIN_KEY_FILE": str(tmp_path / "none"),
        "DISPATCHER_SIGNING_SECRET_FILE": str(tmp_path / "none"),
        "DISPATCHER_PORT": "1",
    }
    assert dispatcher.settings.load_client(environ).url == "http://127.0.0.1:1"
    environ = {"RECEIVER_SECRETS_FILE": str(tmp_path / "none"), "RECEIVER_PORT": "1"}
    assert receiver.settings.load_client(environ).url == "http://127.0.0.1:1"


# --- the programs ---


def serve(half: str, folder: Path, *words: str, **environ: str) -> tuple[int, list[str]]:
    """How a service that cannot listen ends, and the lines that it leaves."""
    name = half.upper()
    given = {"DATABASE_URL": f"sqlite:///{folder}/x.db", "HOST": "203.0.113.1"} | environ
    given = {"LOG_FORMAT": "json", **given}
    ran = subprocess.run(
        [sys.executable, "-m", half, "serve", *words],
        env={"PATH": os.environ["PATH"], **{f"{name}_{key}": text for key, text in given.items()}},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert ran.stdout == ""
    return ran.returncode, ran.stderr.splitlines()


SECRETS: Final = {"SECRETS": EXAMPLES["RECEIVER_SECRETS"]}


@pytest.mark.parametrize(
    ("half", "words", "more"),
    [
        ("dispatcher", (), {}),
        (
            "dispatcher",
            ("--workers", "2"),
            {"DATABASE_URL": "postgresql://127.0.0.1:1/x", "CA_FILE": "/none"},
        ),
        ("receiver", (), SECRETS),
    ],
)
def test_a_misspelt_variable_is_a_line_of_log_at_the_start(
    tmp_path: Path, half: str, words: tuple[str, ...], more: dict[str, str]
) -> None:
    """Once, however many processes are to serve; without its value."""
    code, lines = serve(half, tmp_path, *words, **more, PEER_SHAER="hidden")
    assert code == 3
    told = [json.loads(line) for line in lines if line.startswith("{")]
    (warning,) = [one for one in told if "variable" in one]
    assert warning["level"] == "warning"
    assert warning["variable"] == f"{half.upper()}_PEER_SHAER"
    assert warning["nearest"] == f"{half.upper()}_PEER_SHARE"
    assert "hidden" not in "".join(lines)


@pytest.mark.parametrize("half", ["dispatcher", "receiver"])
def test_service_links_are_told_and_the_port_with_its_cure(tmp_path: Path, half: str) -> None:
    """In the one case the service starts, in the other it says why it cannot."""
    more = {"SERVICE_HOST": "10.0.0.1", "SERVICE_PORT": "80", "PORT_80_TCP_ADDR": "10.0.0.1"}
    more |= SECRETS if half == "receiver" else {}
    _, lines = serve(half, tmp_path, **more)
    (warning,) = [json.loads(line) for line in lines if "service links" in line]
    assert (warning["service"], warning["variables"]) == (half, 3)
    code, lines = serve(half, tmp_path, **more, PORT="tcp://10.0.0.1:80")
    assert code == 3
    (line,) = lines
    assert line.startswith(f"error: {half.upper()}_PORT must be a whole number, not 'tcp://")
    assert "enableServiceLinks: false" in line


def test_a_missing_setting_is_told_with_the_variable_that_was_meant_for_it(tmp_path: Path) -> None:
    """Where it is most needed: nothing starts without it."""
    code, lines = serve("receiver", tmp_path, SECRET="hidden-hidden-hidden")
    assert code == 3
    (line,) = lines
    assert "RECEIVER_SECRETS is not set" in line
    assert "is RECEIVER_SECRET misspelt?" in line
    assert "hidden" not in line


def test_both_halves_start_with_all_their_secrets_in_files(tmp_path: Path) -> None:
    """They get as far as listening."""
    for name in ("ADMIN_KEY", "SIGNING_SECRET", "SECRETS"):
        prefix = "RECEIVER" if name == "SECRETS" else "DISPATCHER"
        (tmp_path / name).write_text(f"{EXAMPLES[f'{prefix}_{name}']}\n")
    key, secret = str(tmp_path / "ADMIN_KEY"), str(tmp_path / "SIGNING_SECRET")
    code, lines = serve("dispatcher", tmp_path, ADMIN_KEY_FILE=key, SIGNING_SECRET_FILE=secret)
    assert (code, len(lines)) == (3, 1)
    assert "cannot listen on 203.0.113.1" in lines[0]
    secrets = str(tmp_path / "SECRETS")
    code, lines = serve("receiver", tmp_path, ADMIN_KEY_FILE=key, SECRETS_FILE=secrets)
    assert (code, len(lines)) == (3, 1)
    assert "cannot listen on 203.0.113.1" in lines[0]

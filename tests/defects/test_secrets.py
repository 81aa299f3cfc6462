"""What is given as a secret is one, whole, and strong enough: in both halves."""

import json
import logging
import sqlite3
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from dispatcher.access import secret_fault as dispatcher_fault
from dispatcher.app import Service
from dispatcher.cli.doctor import database
from dispatcher.settings import Settings as DispatcherSettings
from receiver import Receiver, Settings, Source, signature
from receiver.base.secrets import is_weak, key_fault, secret_fault, split_secrets
from receiver.base.settings import SettingError
from receiver.cli.root import run
from receiver.settings import load
from tests.dispatcher.client.running import settings_for

SECRET = "whsec_dGVzdC10ZXN0LXRlc3QtdGVzdC10ZXN0"
OTHER = "whsec_dGVzdC1vZi1hLXNlY3JldC13aXRoLTMyLWJ5dGVzLXg="
PLAIN = "secret-of-another-platform"
WEAK = "whsec_c2hvcnQtc2hvcnQtc2hvcg=="  # 19 bytes
NO_SECRETS = [
    ("", "empty"),
    ("  ", "empty"),
    ("whsec_", "empty"),
    ("a", "too short"),
    ("v1", "too short"),
    ("fifteen-letters", "too short"),
    ("whsec_c2hvcnQ=", "too short"),
    (f"v1,{SECRET}", "behind it"),
    (f'"{SECRET}"', "quotes"),
    ("whsec_put-yours-here", "placeholder"),
    ("whsec_…", "placeholder"),
    ("whsec_...", "placeholder"),
    ("put-a-long-random-key-here", "placeholder"),
    (f"{SECRET} ", "whitespace"),
    (f"{SECRET}\n", "whitespace"),
    ("It's a Secret of theirs", "whitespace"),
    ("secret\x07secret\x07secret", "control"),
    ("whsk_dGVzdC10ZXN0LXRlc3QtdGVzdC10ZXN0", "asymmetric"),
    ("sha256=" + "0" * 64, "signature"),
    ("pbk_dGVzdC10ZXN0LXRlc3QtdGVzdC10ZXN0", "API key"),
]


@pytest.mark.parametrize(("text", "why"), NO_SECRETS)
def test_what_is_no_secret_is_refused_with_its_reason(text: str, why: str) -> None:
    """By settings, by a source made in code and by the dispatcher; what was given is not shown."""
    told = [secret_fault(text), dispatcher_fault(text)]
    with pytest.raises(ValueError, match="secret 1") as by_source:
        Source(secrets=(text,))
    with pytest.raises(SettingError, match="RECEIVER_SECRETS: secret 1") as by_settings:
        Settings(secrets=(text,))
    for one in (*told, str(by_source.value), str(by_settings.value)):
        assert one is not None
        assert why in one
        assert len(text) < 10 or text not in one


@pytest.mark.parametrize(
    "text", [SECRET, OTHER, WEAK, PLAIN, "sixteen-letters!", "é" * 16, "a,b" * 9]
)
def test_a_secret_of_16_characters_is_taken(text: str) -> None:
    """Whoever made it, and in whichever form."""
    assert secret_fault(text) is None
    assert Source(secrets=(text,)).secrets == (text,)


@pytest.mark.parametrize(
    ("text", "secrets"),
    [
        (SECRET, (SECRET,)),
        (f" {SECRET},{OTHER} ", (SECRET, OTHER)),
        (f"{SECRET},{PLAIN}", (SECRET, PLAIN)),
        (f"{PLAIN},{SECRET}", (PLAIN, SECRET)),
        (f"{PLAIN}, {PLAIN}2", (PLAIN, f"{PLAIN}2")),
        (f"{PLAIN} ,{PLAIN}2,\n{SECRET}\r\n\n", (PLAIN, f"{PLAIN}2", SECRET)),
        (f",{SECRET},,{OTHER},", (SECRET, OTHER)),
    ],
)
def test_a_list_is_split_where_that_cuts_no_secret(text: str, secrets: tuple[str, ...]) -> None:
    """At line ends, beside whitespace and beside `whsec_` secrets, in which no comma can be."""
    assert split_secrets(text) == secrets
    assert load({"RECEIVER_SECRETS": text}).secrets == secrets


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("one-half-of-a-secret,the-other-half-of-it", "may be part of a secret"),
        (f"v1,{SECRET}", "begins with `v1,`"),
        (f"v1, {SECRET}", "begins with `v1,`"),
        (f"{SECRET},v1,{OTHER}", "begins with `v1,`"),
        (f"{SECRET}, a", "secret 2 is too short"),
    ],
)
def test_fragments_of_a_secret_become_no_keys(
    text: str, why: str, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    """A comma that may be part of one, and `v1,whsec_…`, are refused with what to do: by the
    service, and by commands that read a file."""
    with pytest.raises(SettingError, match=f"RECEIVER_SECRETS: .*{why}"):
        load({"RECEIVER_SECRETS": text})
    (tmp_path / "secret").write_text(text)
    (tmp_path / "body").write_text("{}")
    body, file = str(tmp_path / "body"), str(tmp_path / "secret")
    for command in (
        ["sign", body],
        ["verify", body, "-H", "a: b"],
        ["check", "http://127.0.0.1:1/"],
    ):
        assert run([*command, "--secret-file", file]) == 2
        assert why in capsys.readouterr().err


def test_a_secret_given_to_check_is_one(capsys: pytest.CaptureFixture[str]) -> None:
    """As an option as well as in a file."""
    assert run(["check", "http://127.0.0.1:1/", "--secret", f"v1,{SECRET}"]) == 2
    assert "begins with `v1,`" in capsys.readouterr().err


@pytest.mark.parametrize("key", ["", " ", "short", "fifteen-letters", "sixteen letters!", "é" * 16])
def test_a_key_that_opens_something_has_a_least_length(key: str) -> None:
    """An empty admin key would open the admin routes to everybody: refused in code and in the
    environment, like a token of a URL."""
    assert key_fault(key) is not None
    with pytest.raises(SettingError, match="RECEIVER_ADMIN_KEY"):
        Settings(secrets=(SECRET,), admin_key=key)
    with pytest.raises(ValueError, match="token"):
        Source(url_token=key)
    if key.strip():
        with pytest.raises(SettingError, match="RECEIVER_ADMIN_KEY"):
            load({"RECEIVER_ADMIN_KEY": key})


def _mistaken(**arguments: Any) -> Callable[[], object]:
    return lambda: Source(**{"secrets": (SECRET,), **arguments})


@pytest.mark.parametrize(
    "make",
    [
        _mistaken(require="Standard"),
        _mistaken(require=None),
        _mistaken(dialect="run-pod"),
        _mistaken(reruns="last"),
        _mistaken(secrets=SECRET),
        _mistaken(secrets=(7,)),
        _mistaken(path="webhooks"),
        _mistaken(path=None),
        _mistaken(signature_header="X Webhook"),
        _mistaken(tolerance_s=float("inf")),
        _mistaken(tolerance_s=float("nan")),
        _mistaken(tolerance_s=None),
        _mistaken(tolerance_s="300"),
        _mistaken(depth_max=0),
        _mistaken(depth_max=10_000),
        _mistaken(url_token=7),
    ],
)
def test_a_mistaken_argument_of_a_source_is_an_error(make: Callable[[], object]) -> None:
    """ValueError at once: an unknown `require` would silently be `any`."""
    with pytest.raises(ValueError, match=r"/webhooks|path"):
        make()


@pytest.mark.parametrize("kind", [Settings, DispatcherSettings])
@pytest.mark.parametrize(
    "change",
    [
        {"port": -5},
        {"port": 70_000},
        {"port": "8700"},
        {"port": True},
        {"port": 8700.5},
        {"connections_max": 0},
        {"request_timeout": float("inf")},
        {"request_timeout": float("nan")},
        {"request_timeout": None},
        {"log_level": "loud"},
    ],
)
def test_settings_made_in_code_have_the_same_bounds(kind: Any, change: dict[str, object]) -> None:
    """As those of the environment: SettingError names the variable."""
    (name,) = change
    with pytest.raises(SettingError, match=f"_{name.upper()} must be"):
        kind(**change)


@pytest.mark.parametrize(
    "change",
    [{"handler_concurrency": 0}, {"handler_attempts": 0}, {"tolerance": float("inf")}],
)
def test_no_setting_stops_all_handling_or_freshness(change: dict[str, Any]) -> None:
    """In code neither."""
    with pytest.raises(SettingError, match="RECEIVER_"):
        Settings(**change)


BODY = b'{"jobId":"job_1","status":"completed"}'
SHA256_ALONE = {"X-Webhook-Signature": signature.sign_sha256(SECRET, BODY)}


@pytest.mark.parametrize(
    "arguments",
    [
        {"require": "Standard"},
        {"require": "v1"},
        {"require": None},
        {"require": ["standard"]},
        {"require": "standard"},
        {"dialect": "run-pod"},
        {"body": BODY.decode()},
        {"body": None},
        {"now_s": "x"},
        {"tolerance_s": None},
        {"tolerance_s": float("nan")},
        {"secrets": None},
        {"secrets": ()},
        {"secrets": 7},
        {"secrets": ""},
        {"headers": None},
        {"headers": 7},
    ],
)
def test_verify_raises_what_it_says_and_nothing_else(arguments: dict[str, Any]) -> None:
    """SignatureError for any argument that cannot be, and no downgrade by a typing error."""
    import receiver

    call: dict[str, Any] = {"body": BODY, "headers": SHA256_ALONE, "secrets": SECRET, **arguments}
    with pytest.raises(signature.SignatureError):
        receiver.verify(call.pop("body"), call.pop("headers"), call.pop("secrets"), **call)


def test_verify_takes_the_secret_that_its_caller_has() -> None:
    """A weak one that is in use goes on: no request is refused for it."""
    import receiver

    weak = "weak"
    headers = {"X-Webhook-Signature": signature.sign_sha256(weak, BODY)}
    assert receiver.verify(BODY, headers, weak).job_id == "job_1"


def test_a_timestamp_in_milliseconds_is_told_as_such() -> None:
    """It is what JavaScript's Date.now() gives."""
    headers = signature.signed_headers(BODY, [SECRET], message_id="m", timestamp_s=7)
    headers["webhook-timestamp"] = "1700000000000"
    with pytest.raises(signature.SignatureError, match="in milliseconds"):
        signature.verify(BODY, headers, SECRET, now_s=1_700_000_000)


@pytest.fixture
def told() -> Any:
    """The lines of both halves' logs."""
    lines = list[logging.LogRecord]()

    class Handler(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            lines.append(record)

    handler, roots = Handler(), [logging.getLogger(name) for name in ("dispatcher", "receiver")]
    before = [root.level for root in roots]
    for root in roots:
        root.addHandler(handler)
        root.setLevel(logging.INFO)
    yield lambda: [line.getMessage() for line in lines]
    for root, level in zip(roots, before, strict=True):
        root.removeHandler(handler)
        root.setLevel(level)


async def test_a_weak_secret_of_a_receiver_goes_on_with_a_warning(
    tmp_path: Path, told: Callable[[], list[str]]
) -> None:
    """A `whsec_` of fewer than 24 bytes is less than Standard Webhooks asks for."""
    settings = Settings(secrets=(WEAK,), database_url=f"sqlite:///{tmp_path}/inbox.db")
    assert is_weak(WEAK)
    async with Receiver(settings):
        pass
    assert any("weak" in line for line in told())


async def test_a_weak_secret_that_is_stored_goes_on_and_is_told(
    tmp_path: Path, told: Callable[[], list[str]]
) -> None:
    """It signs, the log names it once, and the doctor counts it."""
    settings = settings_for(tmp_path)
    async with Service(settings):
        pass
    with closing(sqlite3.connect(tmp_path / "postback.db")) as db, db:
        db.execute("UPDATE secrets SET value = 'older-weak'")
    async with Service(settings) as service:
        for now in (0, 10**9):
            assert (
                await service.secrets.for_delivery("default", "ds_1", now)
            ).current == "older-weak"
    assert len([line for line in told() if "weak signing secret" in line]) == 1
    found = {check.name: check for check in database.sqlite(settings)}
    assert found["weak secrets"].state == "warn"
    assert "older-weak" not in f"{found}"


async def test_a_changed_signing_secret_is_said_to_have_no_effect(
    tmp_path: Path, told: Callable[[], list[str]]
) -> None:
    """The setting counts at the first start; then log and doctor say that another one signs."""
    first = settings_for(tmp_path, signing_secret=SECRET)
    for settings, count in (
        (first, 0),
        (first, 0),
        (settings_for(tmp_path, signing_secret=OTHER), 1),
    ):
        async with Service(settings) as service:
            assert (await service.secrets.for_delivery("default", "ds_1", 0)).current == SECRET
        assert len([line for line in told() if "has no effect" in line]) == count
        found = [check for check in database.sqlite(settings) if check.name == "stored secret"]
        assert [check.state for check in found] == ["warn"] * count
    assert SECRET not in json.dumps(told())

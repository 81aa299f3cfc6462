"""Sources: several at once, each with its own authentication; unsigned ones only on purpose."""

import logging
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path

import httpx
import pytest

from receiver import Receiver, Settings, Source
from receiver.base.settings import SettingError
from receiver.signature import sign_sha256
from receiver.sources import all_sources
from receiver.testing import Client
from receiver.verification.cerebrium import sign

SECRET = "whsec_dGVzdC10ZXN0LXRlc3QtdGVzdC10ZXN0"
TOKEN = "test-token-test-token"
RUNPOD = b'{"id":"job_1","status":"COMPLETED","output":[1]}'

FILE = f"""
[[source]]
path = "/runpod"
url_token = "{TOKEN}"
dialect = "runpod"
reruns = "latest"

[[source]]
path = "/cerebrium"
secrets = ["whsec_b3RoZXItb3RoZXItb3RoZXItb3RoZXI="]
dialect = "cerebrium"
tolerance = 60
"""


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    file = tmp_path / "sources.toml"
    file.write_text(FILE)
    url = f"sqlite:///{tmp_path}/inbox.db"
    return Settings(secrets=(SECRET,), database_url=url, sources_file=str(file))


@pytest.fixture
async def http(settings: Settings) -> AsyncIterator[httpx.AsyncClient]:
    async with Client(Receiver(settings), SECRET) as client:
        yield client._http


async def test_every_source_has_its_own_path_and_jobs(http: httpx.AsyncClient) -> None:
    """The same job id on another path is another job."""
    body = b'{"jobId":"job_1","status":"completed"}'
    ours = await http.post(
        "/webhooks", content=body, headers={"x-webhook-signature": sign_sha256(SECRET, body)}
    )
    theirs = await http.post(f"/runpod?token={TOKEN}", content=RUNPOD)
    assert (ours.json(), theirs.json()) == ({"status": "accepted"}, {"status": "accepted"})
    again = await http.post(f"/runpod?token={TOKEN}", content=RUNPOD)
    assert again.json() == {"status": "duplicate"}


@pytest.mark.parametrize(
    ("query", "reason"),
    [
        ("", "missing"),
        ("?token=", "mismatch"),
        ("?token=wrong", "mismatch"),
        (f"?token={TOKEN}x", "mismatch"),
        (f"?token={TOKEN}&token={TOKEN}", "ambiguous"),
        ("?token=%ff%00", "mismatch"),
    ],
)
async def test_an_unsigned_source_is_open_to_its_token_alone(
    http: httpx.AsyncClient, query: str, reason: str
) -> None:
    """And nothing is stored without it."""
    answer = await http.post(f"/runpod{query}", content=RUNPOD)
    assert (answer.status_code, answer.json()["details"]) == (401, {"reason": reason})


async def test_a_token_opens_no_signed_source(http: httpx.AsyncClient) -> None:
    """Nor does another source's secret."""
    assert (await http.post(f"/webhooks?token={TOKEN}", content=RUNPOD)).status_code == 401
    signed = {"x-webhook-signature": sign_sha256(SECRET, b"{}")}
    assert (await http.post("/cerebrium", content=b"{}", headers=signed)).status_code == 401


async def test_cerebrium_posts_any_body_under_its_own_signature(settings: Settings) -> None:
    """The id that it signed names the job; a changed body of the same job is a conflict."""
    receiver = Receiver(settings, now_ms=lambda: 1_700_000_000_000)
    async with Client(receiver, SECRET) as client:
        told = []
        for body in (b"\x00\xff", b"\x00\xff", b"{}"):
            headers = {
                "X-Request-Id": "run-1",
                "X-Cerebrium-Webhook-Timestamp": "1700000000",
                "X-Cerebrium-Webhook-Signature": sign(
                    "whsec_b3RoZXItb3RoZXItb3RoZXItb3RoZXI=", "run-1", 1_700_000_000, body
                ),
            }
            answer = await client._http.post("/cerebrium", content=body, headers=headers)
            told.append(answer.json()["status"])
        page = await receiver.inbox.page()
    assert told == ["accepted", "duplicate", "conflict"]
    assert {message.job_id for message in page.messages} == {"run-1"}


async def test_a_token_beside_secrets_is_asked_for_as_well(settings: Settings) -> None:
    """Both must hold."""
    both = Source(secrets=(SECRET,), url_token=TOKEN)
    body = b'{"jobId":"job_1","status":"completed"}'
    headers = {"x-webhook-signature": sign_sha256(SECRET, body)}
    async with Client(Receiver(settings, sources=[both]), SECRET) as client:
        post = client._http.post
        assert (await post("/webhooks", content=body, headers=headers)).status_code == 401
        assert (await post(f"/webhooks?token={TOKEN}", content=body)).status_code == 401
        good = await post(f"/webhooks?token={TOKEN}", content=body, headers=headers)
        assert good.json() == {"status": "accepted"}


async def test_a_token_is_in_no_log_line(
    http: httpx.AsyncClient, caplog: pytest.LogCaptureFixture
) -> None:
    """The path is logged, its query is not."""
    with caplog.at_level(logging.DEBUG, "receiver"):
        await http.post(f"/runpod?token={TOKEN}", content=RUNPOD)
    records = [record for record in caplog.records if record.name == "receiver.http"]
    fields = [record.__dict__["fields"] for record in records]
    assert fields[0]["path"] == "/runpod"
    assert TOKEN not in str(fields)


def test_nothing_is_unsigned_by_default(settings: Settings) -> None:
    """A source without secrets and token is an error, whoever makes it."""
    with pytest.raises(ValueError, match="secrets"):
        Source()
    with pytest.raises(ValueError, match="at least 16"):
        Source(url_token="short")
    with pytest.raises(SettingError, match="RECEIVER_SECRETS"):
        all_sources(replace(settings, secrets=(), sources_file=None))
    assert TOKEN not in repr(all_sources(settings))
    assert "whsec" not in repr(all_sources(settings))


@pytest.mark.parametrize(
    ("content", "told"),
    [
        ("", "tables"),
        ("[[source]", "not TOML"),
        ("secret = 'x'\n[[source]]", "tables"),
        ("[source]\npath = '/a'", "tables"),
        ("[[source]]\npath = '/a'", "secrets"),
        ("[[source]]\nsecrets = ['a-secret-of-a-test']", "path"),
        ("[[source]]\npath = '/inbox'\nsecrets = ['a-secret-of-a-test']", "path"),
        ("[[source]]\npath = 'a'\nsecrets = ['a-secret-of-a-test']", "path"),
        ("[[source]]\npath = '/webhooks'\nsecrets = ['a-secret-of-a-test']", "twice"),
        ("[[source]]\npath = '/a'\nsecrets = [1]", "strings"),
        ("[[source]]\npath = '/a'\nsecrets = 'a-secret-of-a-test'", "type"),
        ("[[source]]\npath = '/a'\nsecrets = ['a-secret-of-a-test']\nmore = 1", "more"),
        ("[[source]]\npath = '/a'\nsecrets = ['a-secret-of-a-test']\ndialect = 'x'", "dialect"),
        ("[[source]]\npath = '/a'\nsecrets = ['a-secret-of-a-test']\nrequire = 'none'", "require"),
        (
            "[[source]]\npath = '/a'\nsecrets = ['it-is-not-base64']\nrequire = 'standard'",
            "standard",
        ),
        ("[[source]]\npath = '/a'\nurl_token = 'short'", "16"),
        ("\xff", "not TOML"),
    ],
)
def test_a_bad_file_is_one_line_that_says_where(
    settings: Settings, content: str, told: str
) -> None:
    """And shows no secret of it."""
    assert settings.sources_file is not None
    Path(settings.sources_file).write_bytes(content.encode("latin-1"))
    with pytest.raises(SettingError, match=told) as caught:
        all_sources(settings)
    assert "\n" not in str(caught.value)


def test_a_missing_file_is_told(settings: Settings) -> None:
    """By its name."""
    with pytest.raises(SettingError, match="cannot read /nowhere"):
        all_sources(replace(settings, sources_file="/nowhere/x.toml"))

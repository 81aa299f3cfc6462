"""What customers copy from deploy/ works as it stands there."""

import hmac
import json
import os
import re
import shutil
import subprocess
import sys
from base64 import b64encode
from pathlib import Path
from types import ModuleType
from typing import Any

import httpx
import pytest

import dispatcher.settings
from receiver.base import completion
from receiver.base.completion import canonical
from receiver.base.settings import SettingError
from receiver.settings import load, strays
from receiver.signature import Job, sign_sha256, signed_headers
from receiver.testing import signed_request
from tests.receiver.deployed import DEPLOY, load_deployed
from tests.receiver.waiting import until

SECRET = "whsec_dGVzdC10ZXN0LXRlc3QtdGVzdC10ZXN0"
NOW_S = 1_700_000_000
BODY = b'{"jobId":"job_1","status":"completed","output":{"document_url":"https://x/1"}}'


@pytest.fixture
def mounted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.setenv("RECEIVER_SECRETS", SECRET)
    monkeypatch.setenv("RECEIVER_DATABASE_URL", f"sqlite:///{tmp_path}/inbox.db")
    monkeypatch.setenv("SHOP_DATABASE", str(tmp_path / "shop.db"))
    return load_deployed("mount")


async def test_the_mounted_example_handles_a_completion_once(mounted: ModuleType) -> None:
    """Through the outer application, whose lifespan opens the receiver."""
    app: Any = mounted.app
    transport = httpx.ASGITransport(app=app)
    async with (
        app.router.lifespan_context(app),
        httpx.AsyncClient(transport=transport, base_url="http://shop") as http,
    ):
        for expected in ("accepted", "duplicate"):
            headers = signed_request(BODY, SECRET, message_id="cb_1")
            answer = await http.post("/hooks/webhooks", content=BODY, headers=headers)
            assert answer.json() == {"status": expected}

        async def fulfilled() -> bool:
            found = (await http.get("/reports")).json()
            return bool(found == {"job_1": "ready"})

        await until(fulfilled)


def test_the_service_runs_a_command_that_exists_with_settings_that_do(tmp_path: Path) -> None:
    """Every line of the environment file and of the unit is read, its secrets are files, a
    placeholder in one of them is refused, and the command line is understood."""
    lines = (DEPLOY / "receiver.env").read_text().splitlines()
    environ = dict(line.split("=", 1) for line in lines if line and not line.startswith("#"))
    unit = (DEPLOY / "receiver.service").read_text().splitlines()
    secrets = credentials(unit, tmp_path)
    assert not strays(environ | secrets).unknown
    contents = {"RECEIVER_SECRETS_FILE": SECRET, "RECEIVER_ADMIN_KEY_FILE": "key-of-16-letters"}
    assert set(secrets) == set(contents)
    for name, content in contents.items():
        Path(secrets[name]).write_text("whsec_put-yours-here\n")
        with pytest.raises(SettingError, match=f"{name.removesuffix('_FILE')}.* placeholder"):
            load({**environ, name: secrets[name]})
        Path(secrets[name]).write_text(f"{content}\n")
    settings = load(environ | secrets)
    assert settings.database_url == "sqlite:////var/lib/receiver/inbox.db"
    assert (settings.admin_key, settings.secrets) == ("key-of-16-letters", (SECRET,))
    (command,) = [line for line in unit if line.startswith("ExecStart=")]
    words = command.removeprefix("ExecStart=").split()[1:]
    ran = subprocess.run(
        [sys.executable, "-m", "receiver", *words],
        env={**os.environ, "RECEIVER_SECRETS": "", "RECEIVER_DATABASE_URL": "sqlite:///x"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert ran.returncode == 3
    assert "RECEIVER_SECRETS is not set" in ran.stderr


def test_the_dispatchers_service_reads_its_key_from_a_file(tmp_path: Path) -> None:
    """And every variable that it sets is a setting."""
    unit = (DEPLOY.parent / "dispatcher" / "postback-dispatcher.service").read_text().splitlines()
    secrets = credentials(unit, tmp_path)
    set_here = [line.removeprefix("Environment=").split("=", 1) for line in unit if is_set(line)]
    environ = {name: value for name, value in set_here if name not in secrets} | secrets
    Path(secrets["DISPATCHER_ADMIN_KEY_FILE"]).write_text("test-key\n")
    settings = dispatcher.settings.load(environ)
    assert settings.admin_key == "test-key"
    assert settings.database_url == "sqlite:////var/lib/postback/postback.db"
    assert not dispatcher.settings.strays(environ).unknown


def is_set(line: str) -> bool:
    return line.startswith("Environment=")


def credentials(unit: list[str], folder: Path) -> dict[str, str]:
    """The variables of a unit that name files, as they are where `folder` is the credentials'."""
    loaded = {
        line.removeprefix("LoadCredential=").partition(":")[0]
        for line in unit
        if line.startswith("LoadCredential=")
    }
    named = [line.removeprefix("Environment=").split("=") for line in unit if "=%d/" in line]
    assert {path.removeprefix("%d/") for _, path in named} == loaded
    return {name: path.replace("%d", str(folder)) for name, path in named}


@pytest.mark.parametrize(
    "unit", ["receiver/receiver.service", "dispatcher/postback-dispatcher.service"]
)
def test_systemd_finds_nothing_wrong_with_the_units(tmp_path: Path, unit: str) -> None:
    """But that the program is not installed here."""
    analyze = shutil.which("systemd-analyze")
    if analyze is None:
        pytest.skip("there is no systemd-analyze on this machine")
    text = (DEPLOY.parent / unit).read_text()
    text = re.sub(r"^ExecStart=\S+", f"ExecStart={sys.executable}", text, flags=re.MULTILINE)
    file = tmp_path / Path(unit).name
    file.write_text(text)
    ran = subprocess.run(
        [analyze, "verify", "--man=no", str(file)], capture_output=True, text=True, check=False
    )
    assert file.name not in ran.stderr, ran.stderr


def test_the_vectors_for_customers_are_ours() -> None:
    """One file, in two places."""
    ours = (Path(__file__).parent / "vectors.json").read_text()
    assert (DEPLOY / "vectors" / "signatures.json").read_text() == ours


NODE_SCRIPT = """
import { verify } from %s;
const chunks = [];
for await (const chunk of process.stdin) chunks.push(chunk);
const results = JSON.parse(Buffer.concat(chunks)).map((one) => {
  try {
    const body = Buffer.from(one.body, "base64");
    const { jobId, status, run } = verify(body, one.headers, one.secret, one.now);
    return one.whole ? { jobId, status: status ?? null, run } : { jobId };
  } catch (error) {
    return { error: error.message };
  }
});
console.log(JSON.stringify(results));
"""


def in_node(
    cases: list[tuple[bytes, dict[str, str], str]], *, whole: bool = False
) -> list[dict[str, Any]]:
    """What verify.mjs makes of these, in one process: the job alone, or all that it says. Node.js
    is on every CI machine."""
    node = shutil.which("node")
    if node is None and os.environ.get("CI") != "true":
        pytest.skip("there is no Node.js on this machine")
    assert node is not None, "there is no Node.js on this CI machine"
    documents = [
        {
            "body": b64encode(body).decode(),
            "headers": {name.lower(): value for name, value in headers.items()},
            "secret": secret,
            "now": NOW_S,
            "whole": whole,
        }
        for body, headers, secret in cases
    ]
    script = NODE_SCRIPT % json.dumps((DEPLOY / "verify.mjs").as_uri())
    ran = subprocess.run(
        [node, "--input-type=module", "-e", script],
        input=json.dumps(documents),
        capture_output=True,
        text=True,
        check=False,
    )
    assert ran.returncode == 0, ran.stderr
    results: list[dict[str, Any]] = json.loads(ran.stdout)
    return results


def signed(body: bytes = BODY, at_s: int = NOW_S) -> dict[str, str]:
    return signed_headers(body, [SECRET], message_id="cb_1", timestamp_s=at_s)


def test_node_accepts_what_holds() -> None:
    """Both schemes, either one, a secret in rotation, and the vectors."""
    both = signed()
    founding = {"x-webhook-signature": sign_sha256(SECRET, BODY)}
    standard = {name: value for name, value in both.items() if name.startswith("webhook-")}
    rotating = {
        "x-webhook-signature": sign_sha256("whsec_c3RyYW5nZQ==", BODY),
        "x-webhook-signature-previous": sign_sha256(SECRET, BODY),
        **{**standard, "webhook-signature": "v1,AAAA " + both["webhook-signature"]},
    }
    cases = [(BODY, headers, SECRET) for headers in (both, founding, standard, rotating)]
    vectors = json.loads((DEPLOY / "vectors" / "signatures.json").read_text())
    vector = vectors["sha256"][0]
    headers = {"x-webhook-signature": vector["signature"]}
    cases.append((vector["body"].encode(), headers, vector["secret"]))
    found = in_node(cases)
    assert found == [{"jobId": "job_1"}] * 4 + [{"jobId": "job_1234567890abcdef"}]


PUBLIC = "sha256=" + hmac.digest(b"whsec_", BODY, "sha256").hex()  # the prefix is no secret
KEYLESS = {
    "webhook-id": "cb_1",
    "webhook-timestamp": str(NOW_S),
    "webhook-signature": "v1,"
    + b64encode(hmac.digest(b"", b"cb_1.%d.%b" % (NOW_S, BODY), "sha256")).decode(),
}


JOB_3 = Job(id="job_3")


def test_node_knows_the_spellings_that_we_know() -> None:
    """One list, in two languages; and what nobody knows is no end in either."""
    words = [*completion._SPELLINGS, "TIMED_OUT", "timed-out", "In Progress", "who knows", "done\n"]
    node = shutil.which("node")
    if node is None and os.environ.get("CI") != "true":
        pytest.skip("there is no Node.js on this machine")
    assert node is not None, "there is no Node.js on this CI machine"
    script = (
        f"import {{ endOf }} from {json.dumps((DEPLOY / 'verify.mjs').as_uri())};"
        f"const ends = {json.dumps(words)}.map((word) => endOf(word) ?? String(endOf(word)));"
        "console.log(JSON.stringify(ends));"
    )
    ran = subprocess.run(
        [node, "--input-type=module", "-e", script], capture_output=True, text=True, check=True
    )
    ours = {"queued": "null", "running": "null", "unknown": "undefined"}
    expected = [ours.get(canonical(word), canonical(word)) for word in words]
    assert json.loads(ran.stdout) == expected


def test_node_reads_the_job_of_the_signed_headers() -> None:
    """As the vectors say, whatever the body is; and only under a v1j that holds."""
    vectors = json.loads((DEPLOY / "vectors" / "signatures.json").read_text())["postback_v1j"]
    cases, expected = [], []
    for vector in [one for one in vectors if one["jobId"]]:
        job = Job(id=vector["jobId"], status=vector["jobStatus"], run=vector["run"])
        headers = signed_headers(
            b"\xff", [vector["secret"]], message_id=vector["id"], timestamp_s=NOW_S, job=job
        )
        cases.append((b"\xff", headers, vector["secret"]))
        status = vector["jobStatus"] or None
        expected.append({"jobId": job.id, "status": status, "run": vector["run"] or 1})
    job = Job(id="job_2", status="failed")
    headers = signed_headers(BODY, [SECRET], message_id="cb_1", timestamp_s=NOW_S, job=job)
    cases.append((BODY, headers, SECRET))
    expected.append({"jobId": "job_2", "status": "failed", "run": 1})
    for body in (b'{"status":"failed"', b'\xff\xfe{\0"\0', b'\xef\xbb\xbf {"status":"f\xff"}'):
        named = signed_headers(body, [SECRET], message_id="cb_1", timestamp_s=NOW_S, job=JOB_3)
        cases.append((body, named, SECRET))
        expected.append({"jobId": "job_3", "status": "unknown", "run": 1})
    cases.append((BODY, {**headers, "X-Postback-Job-Status": "completed"}, SECRET))
    expected.append({"jobId": "job_1", "status": "completed", "run": 1})
    assert in_node(cases, whole=True) == expected


def test_node_knows_the_headers_first_names_and_marks_before_a_body() -> None:
    """`svix-*` counts where no `webhook-*` is there; a byte order mark is no part of the JSON."""
    good = {name: value for name, value in signed().items() if name.startswith("webhook-")}
    first = {name.replace("webhook-", "svix-"): value for name, value in good.items()}
    marked = b'\xef\xbb\xbf{"jobId":"job_1","status":"failed"}'
    cases = [
        (BODY, first, SECRET),
        (BODY, {**good, "svix-id": "cb_2"}, SECRET),
        (marked, signed(marked), SECRET),
        (BODY, {**first, "svix-id": "cb_2"}, SECRET),
        (BODY, {**first, "webhook-id": "cb_1"}, SECRET),
        (BODY, {"x-webhook-signature": sign_sha256(SECRET, BODY), "svix-id": "cb_1"}, SECRET),
    ]
    found = in_node(cases, whole=True)
    assert [one.get("status") for one in found[:3]] == ["completed", "completed", "failed"]
    assert ["error" in one for one in found[3:]] == [True] * 3, found


def test_node_refuses_what_does_not() -> None:
    """Tampered, unsigned, stale, half right, malformed; and secrets that are none."""
    good = signed()
    cases = [
        (BODY + b" ", good, SECRET),
        (BODY, {}, SECRET),
        (BODY, good, "whsec_c3RyYW5nZQ=="),
        (BODY, good, ""),
        (BODY, {"x-webhook-signature": PUBLIC}, "whsec_"),
        (BODY, KEYLESS, "whsec_!!!"),
        (BODY, signed(at_s=NOW_S - 301), SECRET),
        (BODY, signed(at_s=NOW_S + 301), SECRET),
        (BODY, {**good, "webhook-id": "cb_2"}, SECRET),
        (BODY, {**good, "webhook-signature": "v1,AAAA"}, SECRET),
        (BODY, {**good, "X-Webhook-Signature": "sha256="}, SECRET),
        (
            BODY,
            {"webhook-id": "cb_1", **{"x-webhook-signature": sign_sha256(SECRET, BODY)}},
            SECRET,
        ),
        (b"\xff", signed(b"\xff"), SECRET),
        (b"[]", signed(b"[]"), SECRET),
        (b"null", signed(b"null"), SECRET),
    ]
    found = in_node(cases)
    assert ["error" in one for one in found] == [True] * len(cases), found

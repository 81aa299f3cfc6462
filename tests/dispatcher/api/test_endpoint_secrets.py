"""/v1/endpoints/{name}/secrets: what calls are signed with, for the platform's administrators, and
how an upstream verifies by it."""

import asyncio
import json
import logging
import os
import sys
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import httpx
import pytest

from dispatcher.app import Service
from dispatcher.settings import Settings
from receiver.signature import SignatureError, generate_secret, verify
from tests.dispatcher.api.models import Model, ended, make_endpoint, model_server, submit_job
from tests.dispatcher.api.talk import ADMIN_KEY, connect, make_key, reject
from tests.dispatcher.peers import Received

ALL = ["submit", "read", "operate", "admin"]
SECRETS = "/v1/endpoints/shout/secrets"


@pytest.fixture
async def model() -> AsyncIterator[Model]:
    async with model_server() as model:
        yield model


def good(answer: httpx.Response) -> Any:
    assert answer.is_success, answer.text
    return answer.json()


def verified(call: Received, secret: str) -> bool:
    """Whether an upstream takes the call for ours."""
    headers = dict(call.headers)
    now_s = int(call.header("webhook-timestamp") or 0)
    try:
        verify(call.body, headers, secret, now_s=now_s, require="standard")
    except SignatureError:
        return False
    return True


async def called(api: httpx.AsyncClient, model: Model) -> Received:
    """The call of one more job."""
    await ended(api, (await submit_job(api))["id"])
    return model.received[-1]


async def test_it_is_shown_when_the_endpoint_is_made_and_nowhere_else(
    api: httpx.AsyncClient, model: Model, caplog: pytest.LogCaptureFixture
) -> None:
    """In no view, listing, log or entry of the audit trail; nobody keeps the answer."""
    caplog.set_level(logging.DEBUG)
    made = await api.post("/v1/endpoints", json={"name": "shout", "url": model.url})
    secret = good(made)["secret"]
    assert made.headers["cache-control"] == "no-store"
    assert verified(await called(api, model), secret)
    good(await api.patch("/v1/endpoints/shout", json={"concurrency": 2}))
    good(await api.post("/v1/endpoints/shout/test"))
    for path in ("/v1/endpoints", "/v1/endpoints/shout", SECRETS, "/v1/audit?all=true", "/v1/jobs",
                 "/v1/secrets", "/metrics"):  # fmt: skip
        answer = await api.get(path)
        assert answer.is_success, answer.text
        assert secret not in answer.text
        assert secret.removeprefix("whsec_") not in answer.text
    assert secret not in caplog.text


async def test_it_is_rotated_with_an_overlap(api: httpx.AsyncClient, model: Model) -> None:
    """As tenants' secrets are: both sign, a second rotation is refused, and one that is forced ends
    the overlap at once."""
    first = (await make_endpoint(api, model))["secret"]
    rotated = await api.post(f"{SECRETS}/rotate", json={"overlap": 3600})
    assert (rotated.status_code, rotated.headers["cache-control"]) == (201, "no-store")
    second = rotated.json()["secret"]
    call = await called(api, model)
    assert verified(call, first)
    assert verified(call, second)
    assert call.header("X-Webhook-Signature-Previous") is not None
    listed = good(await api.get(SECRETS))["data"]
    assert {(one["active"], "expiresAt" in one) for one in listed} == {(True, False), (True, True)}
    assert {one["endpoint"] for one in listed} == {"shout"}
    reject(await api.post(f"{SECRETS}/rotate"), 409, "CONFLICT")
    given = generate_secret()
    forced = await api.post(
        f"{SECRETS}/rotate", json={"secret": given, "force": True, "overlap": 0}
    )
    assert good(forced)["secret"] == given
    call = await called(api, model)
    assert [verified(call, one) for one in (first, second, given)] == [False, False, True]


async def test_it_can_be_revealed_which_is_recorded(api: httpx.AsyncClient, model: Model) -> None:
    """The current one, or one by id; when it was seen is told, and by whom."""
    first = (await make_endpoint(api, model))["secret"]
    good(await api.post(f"{SECRETS}/rotate"))
    (older,) = [one for one in good(await api.get(SECRETS))["data"] if "expiresAt" in one]
    current = await api.post(f"{SECRETS}/reveal")
    assert current.headers["cache-control"] == "no-store"
    assert good(await api.post(f"{SECRETS}/reveal", json={"id": older["id"]}))["secret"] == first
    assert all("revealedAt" in one for one in good(await api.get(SECRETS))["data"])
    entries = good(await api.get("/v1/audit?all=true&action=endpoint-secret.reveal"))["data"]
    assert [one["target"] for one in entries] == ["shout", "shout"]
    assert {one["detail"]["secret"] for one in entries} == {older["id"], current.json()["id"]}
    reject(await api.post(f"{SECRETS}/reveal", json={"id": "sec_none"}), 404, "NOT_FOUND")


async def test_a_reason_may_be_required(settings: Settings, model: Model) -> None:
    async with (
        Service(replace(settings, reveal_reason="required")) as service,
        connect(service, ADMIN_KEY) as api,
    ):
        await make_endpoint(api, model)
        reject(await api.post(f"{SECRETS}/reveal"), 422, "VALIDATION_ERROR")
        said = {"Postback-Reason": "the model server was set up again"}
        good(await api.post(f"{SECRETS}/reveal", headers=said))


@pytest.mark.parametrize(
    "given",
    [
        {"secret": "too-short"},
        {"secret": "whsec_c2hvcnQ="},
        {"overlap": -1},
        {"overlap": 1e9},
        {"destination": "crm"},
    ],
)
async def test_what_can_be_no_secret_is_refused(
    api: httpx.AsyncClient, model: Model, given: dict[str, Any]
) -> None:
    """422, without the text that was given; the one before goes on signing."""
    before = (await make_endpoint(api, model))["secret"]
    refused = await api.post(f"{SECRETS}/rotate", json=given)
    reject(refused, 422, "VALIDATION_ERROR")
    assert str(given.get("secret")) not in refused.text
    assert verified(await called(api, model), before)


async def test_it_is_for_administrators_of_the_platform(
    service: Service, api: httpx.AsyncClient, model: Model
) -> None:
    """A tenant's key with every scope, and the platform's without `admin`, see and rotate none."""
    await make_endpoint(api, model)
    keys = [
        await make_key(api, scopes=ALL, tenant="acme"),
        await make_key(api, scopes=["submit", "read", "operate"], tenant=None),
    ]
    for key in keys:
        async with connect(service, key) as client:
            for method, path in (("GET", ""), ("POST", "/rotate"), ("POST", "/reveal")):
                reject(await client.request(method, f"{SECRETS}{path}"), 403, "FORBIDDEN")
    for method, path in (("GET", ""), ("POST", "/rotate"), ("POST", "/reveal")):
        unknown = f"/v1/endpoints/none/secrets{path}"
        reject(await api.request(method, unknown), 404, "NOT_FOUND")


async def test_one_that_stands_in_a_file_is_rotated_there(
    settings: Settings, model: Model, tmp_path: Path
) -> None:
    """409 says where; the API takes no such place, and shows none."""
    file, folder = tmp_path / "postback.toml", tmp_path / "secrets"
    folder.mkdir()
    (folder / "signing").write_text(generate_secret())
    file.write_text(
        f'[endpoints.shout]\nurl = "{model.url}"\nsigning_secret = "file:signing"\n'
        f'[endpoints.other]\nurl = "{model.url}"\n'
    )
    given = replace(settings, apply=str(file), upstream_secrets=str(folder))
    async with Service(given) as service, connect(service, ADMIN_KEY) as api:
        for method, path in (("GET", ""), ("POST", "/rotate"), ("POST", "/reveal")):
            refused = await api.request(method, f"{SECRETS}{path}")
            reject(refused, 409, "CONFLICT")
            assert "signing_secret" in refused.json()["message"]
        assert "file:signing" not in (await api.get("/v1/endpoints/shout")).text
        # One of a file that says nothing of it has one of ours, as any other.
        good(await api.post("/v1/endpoints/other/secrets/rotate"))
        body = {"name": "own", "url": model.url, "signingSecret": "file:signing"}
        refused = await api.post("/v1/endpoints", json=body)
        assert reject(refused, 422, "VALIDATION_ERROR")["field"] == "signingSecret"


async def test_an_upstream_verifies_a_call_with_the_receivers_command(
    api: httpx.AsyncClient, model: Model, tmp_path: Path
) -> None:
    """`receiver verify` takes a captured call, and says which job it is about."""
    secret = (await make_endpoint(api, model))["secret"]
    call = await called(api, model)
    body, headers = tmp_path / "body", tmp_path / "headers"
    body.write_bytes(call.body)
    headers.write_text("".join(f"{name}: {value}\n" for name, value in call.headers))

    async def run(secrets: str) -> tuple[int | None, dict[str, Any]]:
        words = ["verify", str(body), "--headers", str(headers), "--require", "standard", "--json"]
        process = await asyncio.create_subprocess_exec(
            sys.executable, "-m", "receiver", *words,
            stdout=asyncio.subprocess.PIPE, env=os.environ | {"RECEIVER_SECRETS": secrets},
        )  # fmt: skip
        out, _ = await process.communicate()
        return process.returncode, json.loads(out)

    code, said = await run(secret)
    assert (code, said["verified"]) == (0, True)
    assert said["job"]["id"] == call.header("X-Job-Id")
    assert said["messageId"] == call.header("Idempotency-Key")
    code, said = await run(generate_secret())
    assert (code, said["verified"]) == (1, False)

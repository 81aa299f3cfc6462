"""Whatever the dispatcher answers 202, over the wire to our own receiver, and to the handler of its
true status: the results that were acknowledged and refused at each of 14 tries."""

import json
from ipaddress import ip_network
from pathlib import Path
from urllib.parse import urlencode

import httpx

from dispatcher.app import Service
from dispatcher.settings import Settings as DispatcherSettings
from receiver import Event, Receiver, Settings
from tests.dispatcher.api.talk import ADMIN_KEY, connect
from tests.receiver.serving import served
from tests.receiver.waiting import until

SECRET = "whsec_dGVzdC10ZXN0LXRlc3QtdGVzdC10ZXN0"
FAILED = '{"status":"failed"}'

# The payload of a submit, as JSON, and the status that it states.
PAYLOADS = [
    ('{"status":"failed","error":"a\\u0000b"}', "failed"),
    ('{"status":"completed","x":{"y":1,"y":2}}', "completed"),
    ('{"status":"completed","n":1e400}', "completed"),
    ('{"n":' + "9" * 150 + "}", "completed"),
    ('{"status":""}', "completed"),
    ('{"status":7}', "unknown"),
    ('{"status":{"is":"completed"}}', "unknown"),
    ('{"status":"' + "s" * 200 + '"}', "unknown"),
    ('{"status":"succeeded","jobId":7}', "completed"),
    ('{"status":"CANCELED","jobId":null}', "cancelled"),
    ('{"status":"timed-out","jobId":"another"}', "timeout"),
    ("7", "completed"),
]
# A raw body, the jobStatus beside it, and what that is.
RAW = [
    (b"\xef\xbb\xbf" + FAILED.encode(), None, "failed"),
    (FAILED.encode()[:-3], None, "unknown"),
    (FAILED.encode("utf-16"), None, "unknown"),
    (b'{"status":"failed","place":"K\xf6ln"}', None, "unknown"),
    (b'{"status":"failed","half":"\\ud800"}', None, "unknown"),
    (b"\x89PNG", None, "completed"),
    (b"\x89PNG", "failed", "failed"),
    (FAILED.encode()[:-3], "errored", "failed"),
    (b"", "aborted", "cancelled"),
    (FAILED.encode(), "IN_PROGRESS", "running"),
]
JSON = {"Content-Type": "application/json"}
JOB_IDS = ["a\u200db", "a\xa0b", "größe.作业/7%", "😀" * 200, " "]


async def submit_all(api: httpx.AsyncClient, url: str) -> dict[str, str]:
    """The status of each job, by its id."""
    expected = {}
    headers = {f"x-own-{n}": "v" * 2_048 for n in range(16)}
    for n, (payload, status) in enumerate(PAYLOADS):
        fields = json.dumps({"jobId": f"json {n}", "callbackUrl": url})
        body = f'{fields[:-1]}, "payload": {payload}}}'
        answer = await api.post("/v1/callbacks", content=body, headers=JSON)
        assert answer.status_code == 202, answer.text
        expected[f"json {n}"] = status
    for n, (raw, job_status, status) in enumerate(RAW):
        query = {"jobId": f"raw {n}", "callbackUrl": url}
        if job_status is not None:
            query["jobStatus"] = job_status
        answer = await api.post(f"/v1/callbacks/raw?{urlencode(query)}", content=raw)
        assert answer.status_code == 202, answer.text
        expected[f"raw {n}"] = status
    for job_id in JOB_IDS:
        document = {"jobId": job_id, "callbackUrl": url, "payload": {}, "headers": headers}
        answer = await api.post("/v1/callbacks", json=document)
        assert answer.status_code == 202, answer.text
        expected[job_id] = "completed"
    return expected


async def test_what_is_answered_202_is_answered_200_and_handled_as_what_it_is(
    tmp_path: Path,
) -> None:
    """Over HTTP, by the dispatcher's own sender."""
    dispatcher = DispatcherSettings(
        database_url=f"sqlite:///{tmp_path}/dispatcher.db",
        admin_key=ADMIN_KEY,
        signing_secret=SECRET,
        allow_networks=(ip_network("127.0.0.0/8"),),
        drain_grace=0.2,
    )
    receiver = Receiver(Settings(secrets=(SECRET,), database_url=f"sqlite:///{tmp_path}/inbox.db"))
    handled: dict[str, str] = {}
    for status in ("completed", "failed", "cancelled", "timeout", "running", "unknown"):

        def handle(event: Event, status: str = status) -> None:
            assert event.job_id not in handled
            handled[event.job_id] = status

        receiver.on(status)(handle)
    async with (
        receiver,
        served(receiver) as url,
        Service(dispatcher) as service,
        connect(service, ADMIN_KEY) as api,
    ):
        expected = await submit_all(api, f"{url}/webhooks")

        async def all_handled() -> bool:
            return len(handled) == len(expected)

        await until(all_handled)

        async def all_settled() -> bool:
            counts = (await api.get("/v1/stats")).json()["counts"]
            return bool(counts["delivered"] == len(expected))

        await until(all_settled)
    assert handled == expected

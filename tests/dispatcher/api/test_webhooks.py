"""What the OpenAPI document says that customers receive is what they are sent."""

import json
from typing import Any, get_args

import jsonschema_rs
import pytest

from dispatcher import ids
from dispatcher.api.reference.webhooks import SCHEMAS, webhooks
from dispatcher.dialects.callbacks import EVENT, callback_of, event_of
from dispatcher.jobs.progress import Progress
from dispatcher.jobs.states import JobState
from dispatcher.jobs.told import End
from dispatcher.jobs.values import CallbackTarget, ClaimedJob, Dialect, JobOptions, Output
from dispatcher.policy import PRESETS
from tests.dispatcher.jobs.made import NOW_MS, job

URL = "https://host/hook"
TARGET = CallbackTarget(
    url=URL,
    destination_name=None,
    destination=ids.destination_id("acme", url=URL),
    lane=ids.lane_id("acme", URL),
    headers=(),
    policy_text="runpod",
    policy=PRESETS["runpod"],
)
ENDED = {"v1": "JobEnded", "tensorone": "TensorOneJobEnded", "runpod": "RunPodJobEnded"}
ENDS = [
    End(state="completed", output=Output(body=b'{"a":1}', content_type="application/json")),
    End(state="failed", reason="attempts", error="the upstream answered 500", status_code=500),
    End(state="timeout", reason="run_limit"),
    End(state="cancelled", reason="user"),
]


def of(dialect: Dialect, **fields: Any) -> ClaimedJob:
    return job(dialect=dialect, options=JobOptions(callback=TARGET), tags=(("a", "b"),), **fields)


def check(schema: str, body: bytes) -> None:
    """As the schema says, and with no member that it does not name."""
    document = json.loads(body)
    jsonschema_rs.validate(SCHEMAS[schema], document)
    assert set(document) <= set(SCHEMAS[schema]["properties"])


@pytest.mark.parametrize("end", ENDS, ids=lambda end: end.state)
@pytest.mark.parametrize("dialect", ENDED)
def test_an_end_is_told_as_it_is_documented(dialect: Dialect, end: End) -> None:
    """In each platform's words, of each state, of a first run and of a later one."""
    for run in (1, 2):
        made = callback_of(
            of(dialect, run=run),
            end,
            id="cb_1",
            now_ms=NOW_MS,
            inline_max=1_000,
            public_url="http://here",
        )
        assert made is not None
        check(ENDED[dialect], made.body)


def test_every_state_is_among_those_ends() -> None:
    final = {state for state in get_args(JobState) if state not in ("queued", "running")}
    assert {end.state for end in ENDS} == final


@pytest.mark.parametrize("output", [None, b"[1]"])
def test_what_a_job_does_is_told_as_it_is_documented(output: bytes | None) -> None:
    reported = Progress(
        percent=40.0, step="rendering", metadata='{"page":4}', since_ms=NOW_MS, at_ms=NOW_MS
    )
    made = event_of(
        of("v1"),
        "progress",
        id="cb_1",
        now_ms=NOW_MS,
        public_url="http://here",
        progress=reported,
        output=output,
    )
    assert made is not None
    check("JobRunning", made.body)
    assert (EVENT, "progress") in made.headers


def test_examples_are_what_their_schemas_say() -> None:
    for name, hook in webhooks().items():
        media = hook["post"]["requestBody"]["content"]["application/json"]
        schema = media["schema"].get("$ref", "").rpartition("/")[2]
        if schema:
            jsonschema_rs.validate(SCHEMAS[schema], media["example"])
        assert "example" in media, name

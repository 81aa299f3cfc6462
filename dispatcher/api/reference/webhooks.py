"""What customers receive: the deliveries of callbacks, and what is in them."""

from typing import Any, Final

from dispatcher.api.json import JSON
from dispatcher.api.reference.examples import FIELDS
from dispatcher.dialects.callbacks import EVENT
from dispatcher.jobs.states import FINAL
from receiver.signature import ID_HEADER, SHA256_HEADER, SIGNATURE_HEADER, TIMESTAMP_HEADER

_TIME: Final = {"type": "string", "format": "date-time"}
_ENCODED: Final = "UTF-8, percent-encoded but for `A-Z a-z 0-9 - _ ~`."
# name: (what it is, whether it is always there, an example)
_HEADERS: Final[dict[str, tuple[str, bool, str]]] = {
    SHA256_HEADER: (
        "`sha256=` and the hexadecimal HMAC-SHA256 of the body. Its name is a setting of the "
        "platform's.",
        True,
        f"sha256={FIELDS['sha256']}",
    ),
    f"{SHA256_HEADER}-Previous": (
        "The same by the secret before, while one is replaced by another.",
        False,
        f"sha256={FIELDS['sha256']}",
    ),
    ID_HEADER: (
        "The callback's id: the same over all tries and replays, to know a repetition by. Not "
        "there where the secret is not `whsec_` and base64; nor are the next two, and what says "
        "which job it is.",
        False,
        "cb_019c13ad8a00700080a1b2c3d4e5f607",
    ),
    TIMESTAMP_HEADER: ("When this attempt began, in seconds since 1970.", False, "1769860800"),
    SIGNATURE_HEADER: (
        "Standard Webhooks: `v1,` and the base64 HMAC-SHA256 of `id.timestamp.body`; behind a "
        "space `v1j,`, which signs the headers that say which job it is. Of each secret that is "
        "valid, while one is replaced.",
        False,
        "v1,K5oZfzN95Z9UVu1EsfQmfVNQhnkZ2pj9o9NDN/H/pI4=",
    ),
    "X-Postback-Job-Id": (f"The job's id. {_ENCODED}", False, "job_1234567890abcdef"),
    "X-Postback-Job-Status": (
        f"The job's status, where that is known. {_ENCODED}",
        False,
        "completed",
    ),
    "X-Postback-Job-Run": ("Which run of the job it is, where that is known.", False, "1"),
    "X-Postback-Attempt": ("The attempt's number, from 1.", True, "1"),
}
_ANSWERS: Final[dict[str, str]] = {
    "2XX": "Acknowledged: it is not sent again. Other codes may be enough, as its policy says.",
    "429": "Turned away: it comes again after `Retry-After`, and spends no try.",
    "503": "With `Retry-After`: turned away, as 429. Without: tried again.",
    "default": "Tried again, as its policy says, until that is spent. Redirects are not followed.",
}
_OUTPUT: Final = {
    "description": "What the upstream answered: JSON as it wrote it, text as a string; where to "
    "fetch it, where it is neither or long.",
}
_ENDED: Final[dict[str, dict[str, Any]]] = {
    "jobId": {"type": "string", "description": "The job's id.", "examples": [FIELDS["jobId"]]},
    "status": {"enum": sorted(FINAL), "description": "How it ended."},
    "output": _OUTPUT,
    "executionTime": {"type": "number", "description": "Seconds that it ran."},
    "completedAt": {**_TIME, "description": "When it ended."},
    "cost": {"type": "number", "description": "What it cost."},
    "tags": {
        "type": "object",
        "additionalProperties": {"type": "string"},
        "description": "Its tags.",
    },
    "error": {"type": "string", "description": "What went wrong, where something did."},
}
_OURS: Final[dict[str, dict[str, Any]]] = {
    "run": {"type": "integer", "minimum": 1, "description": "Which run of the job it is."},
    "endpoint": {"type": "string", "description": "The endpoint's name."},
}
_GOING: Final[dict[str, dict[str, Any]]] = {
    "jobId": _ENDED["jobId"],
    "status": {"enum": ["running"], "description": "What it does."},
    "tags": _ENDED["tags"],
    "endpointId": {"type": "string", "description": "The endpoint's name."},
    "priority": {"enum": ["high", "normal", "low"], "description": "Its class."},
    "createdAt": {**_TIME, "description": "When it was submitted."},
    "startedAt": {**_TIME, "description": "When it began."},
    "progress": {"type": "number", "description": "How far it is: 0 to 100."},
    "currentStep": {"type": "string", "description": "What it does now, in the upstream's words."},
    "metadata": {"type": "object", "description": "An object of the upstream's own."},
    "output": {"description": "The piece of its output that came last, as JSON."},
}
_REPORTED: Final = ("startedAt", "progress", "currentStep", "metadata", "output")
_EVENT: Final = {
    "name": EVENT,
    "in": "header",
    "required": True,
    "description": "What has come to pass.",
    "schema": {"enum": ["start", "progress", "output"]},
    "example": "progress",
}
_TEST: Final = {"jobId": "test_1a2b3c", "status": "test"}


def _object(about: str, properties: dict[str, Any], *optional: str) -> dict[str, Any]:
    return {
        "type": "object",
        "description": about,
        "required": [name for name in properties if name not in optional],
        "properties": properties,
    }


SCHEMAS: Final[dict[str, dict[str, Any]]] = {
    "JobEnded": _object("The end of a job's run.", {**_ENDED, **_OURS}, "error"),
    "JobRunning": _object("What a job does that runs.", {**_GOING, **_OURS}, *_REPORTED),
    "TensorOneJobEnded": _object("The end of a job, in TensorOne's words.", _ENDED, "error"),
    "RunPodJobEnded": _object(
        "The end of a job, in RunPod's words: what its status says.",
        {
            "id": {"type": "string", "description": "The job's id."},
            "status": {
                "enum": ["COMPLETED", "FAILED", "CANCELLED", "TIMED_OUT"],
                "description": "How it ended.",
            },
            "delayTime": {"type": "integer", "description": "Milliseconds that it waited."},
            "executionTime": {"type": "integer", "description": "Milliseconds that it ran."},
            "retries": {"type": "integer", "description": "How often it was run again."},
            "output": _OUTPUT,
            "error": {"type": "string", "description": "What went wrong, where something did."},
        },
        "retries",
        "output",
        "error",
    ),
}
_RESULT: Final = {
    "jobId": FIELDS["jobId"],
    "status": "completed",
    "output": {"text": "hello"},
    "executionTime": 2.5,
    "completedAt": "2026-01-31T12:00:00.000Z",
    "cost": 0.0052,
    "tags": {"userId": "user_123"},
}


_RUNNING: Final = {
    "jobId": FIELDS["jobId"],
    "status": "running",
    "tags": {"userId": "user_123"},
    "endpointId": "document-gen",
    "priority": "normal",
    "createdAt": "2026-01-31T12:00:00.000Z",
    "startedAt": "2026-01-31T12:00:01.000Z",
    "progress": 40,
    "currentStep": "rendering page 4",
    "run": 1,
    "endpoint": "document-gen",
}
_RUNPOD_RESULT: Final = {
    "id": "019c13ad-8a00-7000-80a1-b2c3d4e5f607-e1",
    "status": "COMPLETED",
    "delayTime": 120,
    "executionTime": 2500,
    "output": {"text": "hello"},
}


def webhooks() -> dict[str, Any]:
    """Return what customers receive, by what it is about."""
    return {
        "callback": _webhook(
            "receiveCallback",
            "A callback",
            "What the platform submitted, byte for byte, with the content type that it came with. "
            "It may come more than once: `webhook-id` says so.",
            _any(FIELDS["payload"]),
        ),
        **_of_our_jobs(),
        **_of_dialects(),
        "destinationTest": _webhook(
            "receiveDestinationTest",
            "A test",
            "What an operator sends to see whether deliveries arrive: signed like any other.",
            {JSON: {"schema": {}, "example": _TEST}},
        ),
    }


def _of_our_jobs() -> dict[str, Any]:
    """Return what is told of jobs in our own words."""
    return {
        "jobEnded": _webhook(
            "receiveJobEnded",
            "A job has ended",
            "The end of a run of a job that was submitted at `/v1/endpoints/{name}/jobs`: one for "
            "each run.",
            _json("JobEnded", {**_RESULT, "run": 1, "endpoint": "document-gen"}),
        ),
        "jobEvent": _webhook(
            "receiveJobEvent",
            "A job runs",
            "What a job has come to before its end, where its endpoint's `callback.events` ask for "
            "it: that its first call has begun, how far it is, its newest piece of output. Twice a "
            "second at most, the latest alone, tried once, and never after the end. A job of "
            "TensorOne's or RunPod's routes is told of in the words of its status.",
            _json("JobRunning", _RUNNING),
            _EVENT,
        ),
    }


def _of_dialects() -> dict[str, Any]:
    """Return what is told of jobs that came by another platform's routes, in its words."""
    return {
        "tensoroneJobEnded": _webhook(
            "receiveTensoroneJobEnded",
            "A job of TensorOne's routes has ended",
            "The end of a run, in TensorOne's words.",
            _json("TensorOneJobEnded", _RESULT),
        ),
        "runpodJobEnded": _webhook(
            "receiveRunpodJobEnded",
            "A job of RunPod's routes has ended",
            "The end of a run, in RunPod's words. Only a 200 acknowledges it, unless it says "
            "otherwise.",
            _json("RunPodJobEnded", _RUNPOD_RESULT),
        ),
        "cerebriumResult": _webhook(
            "receiveCerebriumResult",
            "The answer of a function of Cerebrium's routes",
            "The function's own answer, body and type as they are; what job it is of stands in the "
            "headers.",
            _any({"text": "hello"}),
        ),
    }


def _any(example: Any) -> dict[str, Any]:
    return {JSON: {"schema": {}, "example": example}, "*/*": {}}


def _json(schema: str, example: dict[str, Any]) -> dict[str, Any]:
    return {JSON: {"schema": {"$ref": f"#/components/schemas/{schema}"}, "example": example}}


def _header(name: str, text: str, required: bool, example: str) -> dict[str, Any]:
    return {
        "name": name,
        "in": "header",
        "required": required,
        "description": text,
        "schema": {"type": "string"},
        "example": example,
    }


def _webhook(
    id: str, summary: str, about: str, content: dict[str, Any], *headers: dict[str, Any]
) -> dict[str, Any]:
    return {
        "post": {
            "operationId": id,
            "tags": ["webhooks"],
            "summary": summary,
            "description": about,
            "parameters": [
                *headers,
                *(_header(name, *told) for name, told in _HEADERS.items()),
            ],
            "requestBody": {"required": True, "content": content},
            "responses": {status: {"description": text} for status, text in _ANSWERS.items()},
            "security": [],
        }
    }

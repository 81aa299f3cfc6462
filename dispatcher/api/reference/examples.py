"""Examples: what the fields of an answer look like, and whole answers made of those."""

from collections.abc import Mapping
from typing import Any, Final

_TIME: Final = "2026-01-31T12:00:00.000Z"
_LATER: Final = "2026-02-01T12:00:00.000Z"
_SHA256: Final = "9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08"
_CALLBACK: Final = "cb_019c13ad8a00700080a1b2c3d4e5f607"
_JOB: Final = "job_019c13ad8a00700080a1b2c3d4e5f607"
_DESTINATION: Final = "dst_9f86d081884c7d659a2feaa0c55ad015"
_URL: Final = "https://example.com/webhooks/job-complete"
_UPSTREAM: Final = "http://model.internal:9000/generate"

FIELDS: Final[dict[str, Any]] = {
    "action": "destination.pause",
    "actor": "key_019c13ad8a007000",
    "address": "203.0.113.7",
    "callbackUrl": _URL,
    "contentType": "application/json",
    "cost": 0.0052,
    "created": ["document-gen"],
    "day": "2026-01-31",
    "defaults": ["queueMax"],
    "destination": _DESTINATION,
    "destinationName": "billing",
    "detail": {"paused": True},
    "details": {},
    "durationMs": 12.5,
    "endpoint": "document-gen",
    "endpointId": "document-gen",
    "error": "the destination could not be reached",
    "filter": {"status": "dead"},
    "functionName": "run",
    "functions": ["run"],
    "headerNames": ["X-Api-Key"],
    "jobId": "job_1234567890abcdef",
    "jobStatus": "completed",
    "key": "pbk_…",
    "label": "Example Ltd.",
    "lastError": "http_503",
    "message": "there is no callback cb_1",
    "metadata": {"jobId": _JOB, "cost": 0.0052},
    "method": "POST",
    "modelId": "p-1234-app",
    "name": "billing",
    "networks": ["203.0.113.0/24"],
    "nextCursor": None,
    "nextToken": "",
    "output": {"text": "hello"},
    "outputExcerpt": '{"text":"hello"}',
    "payload": {"jobId": "job_1234567890abcdef", "status": "completed"},
    "payloadSha256": _SHA256,
    "payloadSize": 512,
    "position": 3,
    "projectId": "p-1234",
    "queued": 3,
    "ratePerSecond": 50,
    "reason": "asked for by the customer",
    "requestId": "req_1a2b3c",
    "responseExcerpt": "ok",
    "rules": {"concurrency": 8},
    "run_id": "019c13ad-8a00-7000-80a1-b2c3d4e5f607",
    "scopes": ["submit", "read"],
    "secret": "whsec_…",
    "sha256": _SHA256,
    "size": 2048,
    "statusCode": 200,
    "statusUrl": f"/v2/jobs/{_JOB}/status",
    "tags": {"userId": "user_123"},
    "target": _DESTINATION,
    "tenant": "acme",
    "url": _URL,
    "usedBy": ["billing"],
    "webhookEndpoint": _URL,
}
OF: Final[dict[tuple[str, str], Any]] = {
    ("AuditView", "id"): "aud_019c13ad8a007000",
    ("AcceptedView", "status"): "pending",
    ("DestinationView", "id"): _DESTINATION,
    ("EndpointDetailView", "url"): _UPSTREAM,
    ("EndpointView", "name"): "document-gen",
    ("ErrorView", "error"): "NOT_FOUND",
    ("LineErrorView", "error"): "VALIDATION_ERROR",
    ("LineErrorView", "status"): 422,
    ("JobCallbackView", "id"): _CALLBACK,
    ("JobCallbackView", "status"): "delivered",
    ("JobDetailView", "error"): "the upstream answered 500",
    ("JobView", "id"): _JOB,
    ("JobView", "reason"): "rejected",
    ("KeyView", "id"): "key_019c13ad8a007000",
    ("OutputRefView", "url"): f"https://postback.example.com/v1/jobs/{_JOB}/output",
    ("ReencryptionView", "key"): "k2",
    ("ReplayView", "id"): "rp_019c13ad8a007000",
    ("RunView", "id"): "019c13ad-8a00-7000-80a1-b2c3d4e5f607",
    ("RunView", "status"): "success",
    ("AttemptView", "cause"): "refused",
    ("AttemptView", "detail"): "[Errno 111] Connect call failed",
    ("FailureView", "cause"): "refused",
    ("FailureView", "detail"): "[Errno 111] Connect call failed",
    ("FailureView", "sample"): _CALLBACK,
    ("FailureView", "status"): "dead",
    ("ServiceView", "database"): "postgresql://postback@db.internal/postback",
    ("ServiceView", "secrets"): ["DISPATCHER_ADMIN_KEY"],
    ("ServiceView", "settings"): {"DISPATCHER_PORT": 8601},
    ("ServiceView", "version"): "0.1.0",
    ("WaitView", "reason"): "circuit",
    ("WaitView", "until"): _LATER,
    ("StatusView", "reason"): "starting or stopping",
    ("StatusView", "status"): "ok",
    ("StoredSecretView", "name"): "billing-token",
    ("SubmittedJobView", "id"): _JOB,
    ("SweepView", "filter"): {"endpoint": "document-gen"},
    ("SweepView", "id"): "swp_019c13ad8a007000",
    ("TenantView", "name"): "acme",
}
_KINDS: Final[dict[str, Any]] = {
    "string": "text", "integer": 1, "number": 1.5, "boolean": False, "null": None, "object": {},
    "array": [],
}  # fmt: skip
_DEPTH_MAX: Final = 6


def of_field(schema: str, field: str) -> Any:
    """Return an example of a schema's field; None where there is none to be written down."""
    if (schema, field) in OF:
        return OF[schema, field]
    if field == "id":
        return _CALLBACK
    if field.endswith(("At", "Until")) or field in ("at", "estimatedStart", "estimatedCompletion"):
        return _LATER if field.startswith(("expires", "next", "estimated", "held")) else _TIME
    return FIELDS.get(field)


def whole(schema: Mapping[str, Any], schemas: Mapping[str, Any], depth: int = 0) -> Any:
    """Return a document that a schema allows: of each field its example, else its default or the
    first value that it may have. What is not there most of the time is left out."""
    if "$ref" in schema:
        return whole(schemas[schema["$ref"].rpartition("/")[2]], schemas, depth)
    if schema.get("examples"):
        return schema["examples"][0]
    if "enum" in schema:
        return schema["enum"][0]
    if "anyOf" in schema:
        return whole(schema["anyOf"][0], schemas, depth)
    if "properties" in schema and depth < _DEPTH_MAX:
        required = schema.get("required", ())
        return {
            name: whole(field, schemas, depth + 1)
            for name, field in schema["properties"].items()
            if name in required
        }
    if schema.get("type") == "array" and "$ref" in schema.get("items", {}):
        return [whole(schema["items"], schemas, depth + 1)]
    kind = schema.get("type", "")
    return None if isinstance(kind, list) else _KINDS.get(kind, {})  # one of several may be null

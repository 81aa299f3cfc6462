"""What operations answer: their headers, where an answer leads to, and errors."""

from collections.abc import Mapping, Sequence
from typing import Any, Final, get_origin

from dispatcher.api.errors import CODES
from dispatcher.api.json import JSON, NDJSON
from dispatcher.api.reference.names import NAMES
from dispatcher.api.reference.shapes import Schemas
from dispatcher.api.route import Operation
from dispatcher.wire import ErrorView

_KEYED: Final = ("UNAUTHORIZED", "FORBIDDEN", "VALIDATION_ERROR", "RATE_LIMITED")
_BODIED: Final = (
    "MALFORMED_JSON",
    "REQUEST_TIMEOUT",
    "PAYLOAD_TOO_LARGE",
    "UNSUPPORTED_MEDIA_TYPE",
)
_ALWAYS: Final = ("BAD_REQUEST", "INTERNAL", "UNAVAILABLE")

HEADERS: Final[dict[str, dict[str, Any]]] = {
    "X-Request-Id": {
        "description": "Names the request in the log: as the request names itself, else made here.",
        "required": True,
        "schema": {"type": "string", "examples": ["req_1a2b3c"]},
    },
    "Location": {
        "description": "Where to ask for what was made.",
        "required": True,
        "schema": {"type": "string", "format": "uri-reference"},
        "example": "/v1/callbacks/cb_019c13ad8a00700080a1b2c3d4e5f607",
    },
    "Postback-Tenant-Created": {
        "description": "The tenant that the request named and made: there was none of this name.",
        "schema": {"type": "string", "examples": ["acme"]},
    },
    "Retry-After": {
        "description": "After so many seconds another try makes sense.",
        "schema": {"type": "integer", "minimum": 0, "examples": [1]},
    },
    "RateLimit-Policy": {
        "description": "The rate of a key that has one: `q` requests in `w` seconds.",
        "schema": {"type": "string", "examples": ['"key";q=50;w=1']},
    },
    "RateLimit": {
        "description": "What is left of it: `r` requests, until `t` seconds have passed.",
        "schema": {"type": "string", "examples": ['"key";r=49;t=1']},
    },
    "WWW-Authenticate": {
        "description": "How to authenticate.",
        "required": True,
        "schema": {"type": "string", "examples": ["Bearer"]},
    },
    "Preference-Applied": {
        "description": "What was done of what `Prefer` asked for.",
        "schema": {"type": "string", "examples": ["wait=10"]},
    },
    "X-Payload-Sha256": {
        "description": "The SHA-256 of the body, in hexadecimal.",
        "required": True,
        "schema": {"type": "string", "pattern": "^[0-9a-f]{64}$"},
    },
}
_OF_STATUS: Final[dict[int, tuple[str, ...]]] = {
    401: ("WWW-Authenticate",),
    409: ("Retry-After",),
    429: ("Retry-After",),
    503: ("Retry-After",),
    507: ("Retry-After",),
}
_JOB_TAKEN: Final = ("Location", "Retry-After")
_OF: Final[dict[tuple[str, int], tuple[str, ...]]] = {
    ("POST /v1/callbacks", 200): ("Location",),
    ("POST /v1/callbacks", 202): ("Location", "Postback-Tenant-Created"),
    ("POST /v1/callbacks/raw", 200): ("Location",),
    ("POST /v1/callbacks/raw", 202): ("Location", "Postback-Tenant-Created"),
    ("GET /v1/callbacks/{id}/payload", 200): ("X-Payload-Sha256",),
    ("POST /v1/endpoints/{name}/jobs", 200): ("Location", "Preference-Applied"),
    ("POST /v1/endpoints/{name}/jobs", 202): (*_JOB_TAKEN, "Preference-Applied"),
    ("POST /v1/jobs/cancel", 202): ("Location",),
    ("POST /v1/jobs/retry", 202): ("Location",),
    ("POST /v1/replays", 202): ("Location",),
    ("POST /v1/destinations", 201): ("Location",),
    ("POST /v1/endpoints", 201): ("Location",),
    ("POST /v1/keys", 201): ("Location",),
    ("POST /v2/endpoints/{name}/runasync", 202): _JOB_TAKEN,
    ("POST /v2/endpoints/{name}/runsync", 200): ("Location",),
    ("POST /v2/endpoints/{name}/runsync", 202): _JOB_TAKEN,
    ("POST /v4/{project}/{app}/{function}", 202): _JOB_TAKEN,
}
_ID: Final = {"id": "$response.body#/id"}
_JOB_ID: Final = {"id": "$response.body#/jobId"}
_NAME: Final = {"name": "$response.body#/name"}
# What an answer leads to: by which of its values another operation goes on.
_LINKS: Final[dict[str, dict[str, dict[str, str]]]] = {
    "POST /v1/callbacks": {
        "GET /v1/callbacks/{id}": _ID,
        "GET /v1/callbacks/{id}/attempts": _ID,
        "POST /v1/callbacks/{id}/cancel": _ID,
    },
    "POST /v1/callbacks/raw": {
        "GET /v1/callbacks/{id}": _ID,
        "GET /v1/callbacks/{id}/payload": _ID,
    },
    "POST /v1/callbacks/{id}/replay": {"GET /v1/callbacks/{id}": _ID},
    "POST /v1/endpoints/{name}/jobs": {
        "GET /v1/jobs/{id}": _ID,
        "GET /v1/jobs/{id}/output": _ID,
        "POST /v1/jobs/{id}/cancel": _ID,
    },
    "POST /v1/jobs/cancel": {"GET /v1/sweeps/{id}": _ID},
    "POST /v1/jobs/retry": {"GET /v1/sweeps/{id}": _ID},
    "POST /v1/replays": {"GET /v1/replays/{id}": _ID, "POST /v1/replays/{id}/cancel": _ID},
    "POST /v1/destinations": {
        "GET /v1/destinations/{id}": _ID,
        "PATCH /v1/destinations/{id}": _ID,
        "DELETE /v1/destinations/{id}": _ID,
    },
    "POST /v1/endpoints": {
        "GET /v1/endpoints/{name}": _NAME,
        "POST /v1/endpoints/{name}/jobs": _NAME,
        "DELETE /v1/endpoints/{name}": _NAME,
    },
    "POST /v1/keys": {"POST /v1/keys/{id}/rotate": _ID, "DELETE /v1/keys/{id}": _ID},
    "POST /v2/endpoints/{name}/runasync": {
        "GET /v2/jobs/{id}/status": _JOB_ID,
        "POST /v2/jobs/{id}/cancel": _JOB_ID,
    },
    "POST /v2/{name}/run": {
        "GET /v2/{name}/status/{id}": {"name": "$request.path.name", **_ID},
        "POST /v2/{name}/cancel/{id}": {"name": "$request.path.name", **_ID},
    },
}
_DUPLICATE: Final = "It had come before: the first one, as it is now."
_TEXT: Final = {"type": "string"}
# Why an operation has a second success.
_ABOUT: Final[dict[tuple[str, int], str]] = {
    ("POST /v1/callbacks", 200): _DUPLICATE,
    ("POST /v1/callbacks/raw", 200): _DUPLICATE,
    ("POST /v1/callbacks/batch", 200): "For each line what it came to, or why it was not taken.",
    ("GET /v1/audit/export", 200): "An entry in each line, as the listing shows them.",
    ("POST /v1/endpoints/{name}/jobs", 200): "The output, where it was waited for.",
    ("PUT /v1/stored-secrets/{name}", 200): "It was there, and is replaced.",
    ("PUT /v1/stored-secrets/{name}", 201): "It is new.",
    ("DELETE /v1/tenants/{name}", 202): "Its erasure has begun, and goes on.",
    ("DELETE /v1/tenants/{name}", 204): "It is gone.",
    ("POST /v4/{project}/{app}/{function}", 200): "The function's own answer.",
    ("GET /readyz", 503): "Not ready: `reason` says why.",
}


def error_codes(operation: Operation) -> list[str]:
    """Return the error codes that an operation may answer, in the order of their statuses."""
    codes = {*operation.errors, *_ALWAYS}
    if operation.scope is not None:
        codes |= set(_KEYED)
    if "{" in operation.path:
        codes.add("NOT_FOUND")  # what no name or id looks like is simply unknown
    if operation.body is not None or operation.media:
        codes |= set(_BODIED)
    return [code for code in CODES if code in codes]


def errors(schemas: Schemas) -> dict[str, Any]:
    """Return every error by its code, as a component."""
    return {code: _error(code, schemas) for code in CODES}


def responses(operation: Operation, schemas: Schemas) -> dict[str, Any]:
    """Return all that an operation may answer, by status."""
    found: dict[str, Any] = {
        str(status): _success(operation, status, carried, schemas)
        for status, carried in operation.responses.items()
    }
    by_status: dict[int, list[str]] = {}
    for code in error_codes(operation):
        by_status.setdefault(operation.manner.status(code), []).append(code)
    for status, codes in by_status.items():
        if str(status) not in found:
            found[str(status)] = _failure(status, codes, schemas)
    return found


def _headers(names: Sequence[str]) -> dict[str, Any]:
    return {name: {"$ref": f"#/components/headers/{name}"} for name in ("X-Request-Id", *names)}


def _failure(status: int, codes: Sequence[str], schemas: Schemas) -> dict[str, Any]:
    if len(codes) == 1 and CODES[codes[0]][0] == status:
        return {"$ref": f"#/components/responses/{codes[0]}"}
    return {
        "description": " ".join(f"`{code}`: {CODES[code][1]}" for code in codes),
        "headers": _headers(_OF_STATUS.get(status, ())),
        "content": {
            JSON: {
                "schema": schemas.of(ErrorView),
                "examples": {code: {"value": _example(code)} for code in codes},
            }
        },
    }


def _error(code: str, schemas: Schemas) -> dict[str, Any]:
    status, about = CODES[code]
    return {
        "description": f"`{code}`: {about}",
        "headers": _headers(_OF_STATUS.get(status, ())),
        "content": {JSON: {"schema": schemas.of(ErrorView), "example": _example(code)}},
        "x-status": status,
    }


def _example(code: str) -> dict[str, Any]:
    return {"error": code, "message": CODES[code][1], "details": {}, "requestId": "req_1a2b3c"}


def _success(operation: Operation, status: int, carried: Any, schemas: Schemas) -> dict[str, Any]:
    route = f"{operation.method} {operation.path}"
    names = _OF.get((route, status), ())
    if operation.scope is not None:
        names += ("RateLimit-Policy", "RateLimit")
    if status == 503:
        names += ("Retry-After",)
    about, content = _carried(operation, carried, schemas)
    described: dict[str, Any] = {
        "description": _ABOUT.get((route, status), about),
        "headers": _headers(names),
    }
    if content:
        described["content"] = content
    links = _LINKS.get(route)
    if links is not None and status == _status_of_links(operation):
        described["links"] = {
            NAMES[to]: {"operationId": NAMES[to], "parameters": parameters}
            for to, parameters in links.items()
        }
    return described


def _status_of_links(operation: Operation) -> int:
    """Return the success that tells of what was made: 202 or 201, where there is one."""
    return max(operation.responses)


def _carried(
    operation: Operation, carried: Any, schemas: Schemas
) -> tuple[str, Mapping[str, Any] | None]:
    """Return what an answer is, and its content."""
    if carried is None:
        return "Done; there is nothing to say.", None
    if isinstance(carried, str):
        return "The bytes.", {carried: {"schema": _TEXT} if carried == "text/plain" else {}}
    if get_origin(carried) is list:
        schema = _page(schemas.of(carried))
        about = "One page."
    else:
        schema = schemas.of(carried)
        about = _about(carried)
    # A batch is answered as it is asked: a document in each line.
    media = NDJSON if NDJSON in operation.media else JSON
    return about, {media: {"schema": schema, "example": schemas.example(schema)}}


def _about(carried: Any) -> str:
    if isinstance(carried, tuple):
        return " Or: ".join(map(_about, carried))
    text = (get_origin(carried) or carried).__doc__ or ""
    return " ".join(text.split())


def _page(items: dict[str, Any]) -> dict[str, Any]:
    return {
        "type": "object",
        "required": ["data", "nextCursor"],
        "properties": {
            "data": {**items, "description": "What matches."},
            "nextCursor": {
                "type": ["string", "null"],
                "description": "Leads to the next page, as `cursor`; null ends the listing.",
            },
        },
    }

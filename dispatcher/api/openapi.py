"""The OpenAPI 3.1 document, made from the route table and the very types that validate."""

import re
from collections.abc import Iterable, Sequence
from typing import Any, Final, get_origin

import msgspec

from dispatcher import VERSION
from dispatcher.api.errors import CODES
from dispatcher.api.json import JSON
from dispatcher.api.route import Operation, Parameter
from dispatcher.audit import REASON_CHARS_MAX
from dispatcher.wire import ErrorView

TAGS: Final = {
    "callbacks": "Hand over finished jobs, and see what became of them.",
    "replays": "Deliver again what failed, all at once.",
    "destinations": "Where deliveries go, with their limits and their health.",
    "jobs": "Requests that are run in the background, and what came of them.",
    "tensorone": "The paths and words of TensorOne, for what was written for it.",
    "runpod": "The paths and words of RunPod, for what was written for it.",
    "cerebrium": "The paths and words of Cerebrium, for what was written for it.",
    "endpoints": "Where jobs are run: upstreams by name, with their rules.",
    "access": "API keys, signing secrets and tenants.",
    "service": "Figures and signs of life.",
}
_TYPE_ARGUMENTS: Final = re.compile(rb'(View)(?:_[\w.]+|\[[^"]*\])')
_REF: Final = "#/components/schemas/{name}"
_KEYED: Final = ("UNAUTHORIZED", "FORBIDDEN", "VALIDATION_ERROR", "RATE_LIMITED")
_BODIED: Final = (
    "MALFORMED_JSON",
    "REQUEST_TIMEOUT",
    "PAYLOAD_TOO_LARGE",
    "UNSUPPORTED_MEDIA_TYPE",
)
_ALWAYS: Final = ("INTERNAL", "UNAVAILABLE")
_TENANT: Final = Parameter(
    name="Postback-Tenant",
    where="header",
    about="The tenant that a platform key works for; `default` where it names none.",
)
_REASON: Final = Parameter(
    name="Postback-Reason",
    where="header",
    about=f"Why: kept with the change in the audit trail. UTF-8, at most {REASON_CHARS_MAX} "
    "characters.",
)
_ABOUT: Final = """\
Carries job completions from a platform to its customers: durable, signed, retried, replayable.

Send an API key as `Authorization: Bearer pbk_…`. Times are ISO-8601 in UTC, ids are opaque, and
every error has one shape. Fields may be added to answers; unknown ones in requests are refused, but
on RunPod's routes, where they are thrown away, as that platform does."""


def document(operations: Sequence[Operation]) -> dict[str, Any]:
    """Return the whole document, ready to be encoded."""
    schemas = _Schemas(operations)
    paths: dict[str, dict[str, Any]] = {}
    for operation in operations:
        paths.setdefault(operation.path, {})[operation.method.lower()] = _operation(
            operation, schemas
        )
    return {
        "openapi": "3.1.0",
        "info": {"title": "Postback dispatcher", "version": VERSION, "description": _ABOUT},
        "servers": [{"url": "/"}],
        "tags": [{"name": name, "description": about} for name, about in TAGS.items()],
        "paths": paths,
        "components": {
            "schemas": schemas.components,
            "responses": {code: _error(code, schemas) for code in CODES},
            "securitySchemes": {
                "key": {
                    "type": "http",
                    "scheme": "bearer",
                    "description": "An API key. Each operation names the scope that it needs.",
                }
            },
        },
    }


def operation_id(operation: Operation) -> str:
    """Return a name for the operation, such as `post_callbacks_raw`."""
    words = re.sub(r"[^a-z]+", "_", operation.path.removeprefix("/v1").lower()).strip("_")
    return f"{operation.method.lower()}_{words}"


def error_codes(operation: Operation) -> list[str]:
    """Return the error codes that an operation may answer, in the order of their statuses."""
    codes = {*operation.errors, *_ALWAYS}
    if operation.scope is not None:
        codes |= set(_KEYED)
    if operation.body is not None or operation.media:
        codes |= set(_BODIED)
    return [code for code in CODES if code in codes]


class _Schemas:
    """The schema of every type that the operations name, by reference."""

    def __init__(self, operations: Iterable[Operation]) -> None:
        types: list[Any] = [ErrorView]
        for operation in operations:
            types += [operation.body, *operation.responses.values()]
            types += [parameter.type for parameter in operation.parameters]
        named = [one for one in types if one is not None and not isinstance(one, str)]
        unique = list({repr(one): one for one in named}.values())
        generated = msgspec.json.schema_components(unique, ref_template=_REF)
        # A view is known by its name alone, not by what its times and policies are made of.
        text = _TYPE_ARGUMENTS.sub(rb"\1", msgspec.json.encode(generated))
        references, self.components = msgspec.json.decode(text)
        pairs = zip(unique, references, strict=True)
        self._references = {repr(one): reference for one, reference in pairs}

    def of(self, one: Any) -> dict[str, Any]:
        reference: dict[str, Any] = self._references[repr(one)]
        return reference


def _operation(operation: Operation, schemas: _Schemas) -> dict[str, Any]:
    about = operation.about
    if operation.scope is not None:
        about = f"{about}\n\nScope: `{operation.scope}`.".strip()
    described: dict[str, Any] = {
        "operationId": operation_id(operation),
        "tags": [operation.tag],
        "summary": operation.summary,
        "description": about,
        "parameters": _parameters(operation, schemas),
        "responses": _responses(operation, schemas),
        "security": [] if operation.scope is None else [{"key": []}],
    }
    if operation.scope is not None:
        described["x-scope"] = operation.scope
    if operation.actions:
        described["x-audit"] = list(operation.actions)
    if operation.body is not None or operation.media:
        described["requestBody"] = {
            "required": not operation.body_optional,
            "content": _request(operation, schemas),
        }
    return described


def _request(operation: Operation, schemas: _Schemas) -> dict[str, Any]:
    media: dict[str, Any] = {}
    if operation.body is not None:
        media["schema"] = schemas.of(operation.body)
    if operation.example is not None:
        media["example"] = operation.example
    return dict.fromkeys(operation.media or (JSON,), media)


def _parameters(operation: Operation, schemas: _Schemas) -> list[dict[str, Any]]:
    in_path = [
        {"name": name, "in": "path", "required": True, "schema": {"type": "string"}}
        for name in re.findall(r"{(\w+)}", operation.path)
    ]
    named = [*operation.parameters, *([] if operation.scope is None else [_TENANT])]
    if operation.actions:
        named.append(_REASON)
    return in_path + [
        {
            "name": one.name,
            "in": one.where,
            "required": one.required,
            "description": one.about,
            "schema": {"type": "string"} if one.type is str else schemas.of(one.type),
        }
        for one in named
    ]


def _responses(operation: Operation, schemas: _Schemas) -> dict[str, Any]:
    responses: dict[str, Any] = {
        str(status): _success(carried, schemas) for status, carried in operation.responses.items()
    }
    by_status: dict[int, list[str]] = {}
    for code in error_codes(operation):
        by_status.setdefault(operation.manner.status(code), []).append(code)
    for status, codes in by_status.items():
        if str(status) not in responses:
            responses[str(status)] = _failure(codes, schemas)
    return responses


def _failure(codes: Sequence[str], schemas: _Schemas) -> dict[str, Any]:
    if len(codes) == 1:
        return {"$ref": f"#/components/responses/{codes[0]}"}
    about = " ".join(f"`{code}`: {CODES[code][1]}" for code in codes)
    return {"description": about, "content": {JSON: {"schema": schemas.of(ErrorView)}}}


def _success(carried: Any, schemas: _Schemas) -> dict[str, Any]:
    if carried is None:
        return {"description": "Done; there is nothing to say."}
    if isinstance(carried, str):
        return {"description": "The bytes.", "content": {carried: {}}}
    if get_origin(carried) is list:
        page = _page(schemas.of(carried))
        return {"description": "One page.", "content": {JSON: {"schema": page}}}
    about = ((get_origin(carried) or carried).__doc__ or "").strip().replace("\n    ", " ")
    return {"description": about, "content": {JSON: {"schema": schemas.of(carried)}}}


def _page(items: dict[str, Any]) -> dict[str, Any]:
    return {
        "type": "object",
        "required": ["data", "nextCursor"],
        "properties": {"data": items, "nextCursor": {"type": ["string", "null"]}},
    }


def _error(code: str, schemas: _Schemas) -> dict[str, Any]:
    status, about = CODES[code]
    example = {"error": code, "message": about, "details": {}, "requestId": "req_1a2b3c"}
    media = {"schema": schemas.of(ErrorView), "example": example}
    return {"description": f"`{code}`: {about}", "content": {JSON: media}, "x-status": status}

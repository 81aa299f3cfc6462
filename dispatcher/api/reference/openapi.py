"""The OpenAPI 3.1 document, made from the route table and the very types that validate."""

import re
from collections.abc import Sequence
from typing import Any, Final

from dispatcher import VERSION
from dispatcher.api.json import JSON
from dispatcher.api.reference import answers, webhooks
from dispatcher.api.reference.names import operation_id
from dispatcher.api.reference.shapes import Schemas
from dispatcher.api.route import Operation, Parameter
from dispatcher.audit import REASON_CHARS_MAX
from dispatcher.wire import NAME

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
    "webhooks": "What customers receive.",
}
_IDS: Final = {
    "destinations": "A destination's id, or the name of a registered one.",
    "jobs": "A job's id, in whatever spelling.",
}
_PARTS: Final = {
    "tenants": "A tenant's name.",
    "stored-secrets": "A stored secret's name.",
    "project": "A project: a part of the endpoint's name.",
    "app": "An app: with the project, or alone, an endpoint's name.",
    "token": "What the URL holds that the upstream was given: it stands for a key.",
    "function": "One of the endpoint's functions.",
}
_TENANT: Final = Parameter(
    name="Postback-Tenant",
    where="header",
    type={"type": "string", "pattern": NAME, "examples": ["acme"]},
    about="The tenant that a platform key works for; `default` where it names none. Where there is "
    "none of this name, what is stored for it makes it, and the answer has its name in the header "
    "`Postback-Tenant-Created`: a misspelt one is seen.",
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
    schemas = Schemas(operations)
    paths: dict[str, dict[str, Any]] = {}
    for operation in operations:
        paths.setdefault(operation.path, {})[operation.method.lower()] = _operation(
            operation, schemas
        )
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "Postback dispatcher",
            "version": VERSION,
            "description": _ABOUT,
            "license": {"name": "MIT", "identifier": "MIT"},
        },
        "servers": [{"url": "/", "description": "Where this document comes from."}],
        "tags": [{"name": name, "description": about} for name, about in TAGS.items()],
        "paths": paths,
        "webhooks": webhooks.webhooks(),
        "components": {
            "schemas": schemas.components | webhooks.SCHEMAS,
            "responses": _used(answers.errors(schemas), paths),
            "headers": answers.HEADERS,
            "securitySchemes": {
                "key": {
                    "type": "http",
                    "scheme": "bearer",
                    "description": "An API key. Each operation names the scope that it needs.",
                }
            },
        },
    }


def _used(errors: dict[str, Any], paths: dict[str, Any]) -> dict[str, Any]:
    """Return those errors that some operation answers by reference."""
    referred = {
        response.get("$ref", "").rpartition("/")[2]
        for methods in paths.values()
        for operation in methods.values()
        for response in operation["responses"].values()
    }
    return {code: error for code, error in errors.items() if code in referred}


def _operation(operation: Operation, schemas: Schemas) -> dict[str, Any]:
    about = operation.about
    if operation.scope is not None:
        about = f"{about}\n\nScope: `{operation.scope}`.".strip()
    described: dict[str, Any] = {
        "operationId": operation_id(operation),
        "tags": [operation.tag],
        "summary": operation.summary,
        "description": about or f"{operation.summary}.",
        "parameters": _parameters(operation, schemas),
        "responses": answers.responses(operation, schemas),
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


def _request(operation: Operation, schemas: Schemas) -> dict[str, Any]:
    media: dict[str, Any] = {}
    if operation.body is not None:
        media["schema"] = schemas.of(operation.body)
    if operation.example is not None:
        media["example"] = operation.example
    return dict.fromkeys(operation.media or (JSON,), media)


def _of_parameter(parameter: Parameter, schemas: Schemas) -> dict[str, Any]:
    if isinstance(parameter.type, dict):
        return parameter.type
    return {"type": "string"} if parameter.type is str else schemas.of(parameter.type)


def _in_path(operation: Operation, name: str) -> str:
    """Return what a part of a path is."""
    before = operation.path.partition(f"/{{{name}}}")[0].rpartition("/")[2]
    if name == "id":
        return _IDS.get(before, "Its id.")
    return _PARTS.get(before if name == "name" else name, "An endpoint's name.")


def _parameters(operation: Operation, schemas: Schemas) -> list[dict[str, Any]]:
    in_path = [
        {
            "name": name,
            "in": "path",
            "required": True,
            "description": _in_path(operation, name),
            "schema": {"type": "string"},
        }
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
            "schema": _of_parameter(one, schemas),
        }
        for one in named
    ]

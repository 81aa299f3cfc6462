"""The OpenAPI document and its page: complete, well-formed, and made of nothing from elsewhere."""

import json
import re
from collections.abc import Iterator
from functools import cache
from html.parser import HTMLParser
from typing import Any

import httpx
import jsonschema_rs
import msgspec
import pytest

from dispatcher import wire
from dispatcher.api.app import OPERATIONS
from dispatcher.api.reference import answers, docs, names, openapi, texts
from dispatcher.api.route import Operation
from tests.dispatcher.api.test_access import ROUTES

DOCUMENT = openapi.document(OPERATIONS)


def operations() -> Iterator[tuple[str, str, dict[str, Any]]]:
    for path, methods in DOCUMENT["paths"].items():
        for method, operation in methods.items():
            yield method.upper(), path, operation


def resolve(ref: str) -> Any:
    """What a reference points at; KeyError where it points nowhere."""
    found: Any = DOCUMENT
    for step in ref.removeprefix("#/").split("/"):
        found = found[step]
    return found


def references(value: Any) -> Iterator[str]:
    if isinstance(value, dict):
        if isinstance(value.get("$ref"), str):
            yield value["$ref"]
        value = list(value.values())
    if isinstance(value, list):
        for inner in value:
            yield from references(inner)


def test_every_route_of_the_contract_is_in_it_with_its_scope() -> None:
    """The document and the contract's table list the same routes."""
    documented = {
        (method, re.sub(r"{\w+}", "X", path)): operation.get("x-scope")
        for method, path, operation in operations()
    }
    contract: dict[tuple[str, str], str | None] = {
        (method, re.sub(r"/\w+_1(?=/|$)", "/X", path)): scope for method, path, scope in ROUTES
    }
    contract |= {("GET", path): None for path in ("/healthz", "/readyz", "/metrics")}
    contract |= {("POST", f"/v1/jobs/X/{what}/X"): None for what in ("progress", "complete")}
    contract |= {("GET", "/v1/outputs/X"): None}  # its link is signed
    assert documented == contract


def test_it_is_structurally_openapi_3_1() -> None:
    """Required members, unique operation ids, declared path parameters, resolvable references."""
    assert DOCUMENT["openapi"].startswith("3.1.")
    assert {"title", "version"} <= set(DOCUMENT["info"])
    ids = [operation["operationId"] for _, _, operation in operations()]
    assert len(ids) == len(set(ids))
    tags = {tag["name"] for tag in DOCUMENT["tags"]}
    for _, path, operation in operations():
        assert set(operation["tags"]) <= tags
        in_path = {one["name"] for one in operation["parameters"] if one["in"] == "path"}
        assert in_path == set(re.findall(r"{(\w+)}", path))
        assert all("schema" in one and "name" in one for one in operation["parameters"])
        named = [(one["in"], one["name"]) for one in operation["parameters"]]
        assert len(named) == len(set(named))
        assert operation["responses"]
        for status, response in operation["responses"].items():
            assert re.fullmatch("[1-5][0-9]{2}", status)
            assert "$ref" in response or response["description"]
    for reference in references(DOCUMENT):
        resolve(reference)


def test_every_body_has_a_schema_and_an_example_that_it_allows() -> None:
    """Examples are requests that would be taken: the very type that validates reads them."""
    for operation in OPERATIONS:
        if operation.body is not None:
            assert operation.example is not None, operation.path
            msgspec.json.decode(msgspec.json.encode(operation.example), type=operation.body)
    for method, path, shown in operations():
        if method in ("POST", "PATCH") and "requestBody" in shown:
            for media in shown["requestBody"]["content"].values():
                assert "schema" in media or path.endswith(
                    ("/raw", "/{name}/jobs", "/{function}", "/complete/{token}")
                )


@pytest.mark.parametrize("operation", OPERATIONS, ids=names.operation_id)
def test_every_operation_documents_its_errors(operation: Operation) -> None:
    """Each error code it may answer is under its status, in the one shape."""
    responses = DOCUMENT["paths"][operation.path][operation.method.lower()]["responses"]
    for code in answers.error_codes(operation):
        status = operation.manner.status(code)
        response = responses[str(status)]
        if "$ref" in response:
            assert resolve(response["$ref"])["description"].startswith(f"`{code}`")
        elif "content" in response and status not in operation.responses:
            assert f"`{code}`" in response["description"]
    if operation.scope is not None:
        assert "401" in responses
        assert "403" in responses


async def test_it_is_served_as_it_is(api: httpx.AsyncClient) -> None:
    """`/openapi.json` needs no key."""
    del api.headers["Authorization"]
    answer = await api.get("/openapi.json")
    assert answer.headers["Content-Type"] == "application/json"
    assert answer.json() == DOCUMENT


class _Page(HTMLParser):
    """Collects what a page names, and checks that its tags close in order."""

    VOID = frozenset({"meta", "br", "hr", "img", "input", "link"})

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.ids: set[str] = set()
        self.links: set[str] = set()
        self.fetched: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        named = dict(attrs)
        if tag not in self.VOID:
            self.open.append(tag)
        self.ids.add(named.get("id") or "")
        if tag == "a":
            self.links.add(named.get("href") or "")
        if tag in ("script", "link", "img", "iframe") or "src" in named:
            self.fetched.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag


async def test_the_page_needs_nothing_from_elsewhere(api: httpx.AsyncClient) -> None:
    """No script, no asset, every tag closed, every link to an operation leads there; and a policy
    that lets a browser fetch nothing."""
    del api.headers["Authorization"]
    answer = await api.get("/docs")
    assert answer.headers["Content-Type"] == "text/html; charset=utf-8"
    assert "default-src 'none'" in answer.headers["Content-Security-Policy"]
    page = _Page()
    page.feed(answer.text)
    assert page.open == []
    assert page.fetched == []
    assert "url(" not in answer.text
    inside = {link.removeprefix("#") for link in page.links if link.startswith("#")}
    assert inside <= page.ids
    assert {operation["operationId"] for _, _, operation in operations()} <= inside


def test_the_page_escapes_what_it_shows() -> None:
    """A text of the document cannot become markup."""
    hostile = openapi.document(OPERATIONS)
    hostile["info"]["description"] = "<script>alert(1)</script>"
    assert "<script" not in docs.page(hostile)


def schemas() -> Iterator[tuple[str, dict[str, Any]]]:
    """Every schema that has fields, by name."""
    for name, schema in DOCUMENT["components"]["schemas"].items():
        if "properties" in schema:
            yield name, schema


def test_every_field_has_a_text() -> None:
    """Of what is asked and of what is answered; and every parameter, header and part of a path."""
    for name, schema in schemas():
        assert schema.get("description"), name
        for field, shown in schema["properties"].items():
            assert shown.get("description"), f"{name}.{field} has no text: see reference/texts.py"
    for _, path, operation in operations():
        for parameter in operation["parameters"]:
            assert parameter["description"], (path, parameter["name"])
    for header in DOCUMENT["components"]["headers"].values():
        assert header["description"]


def test_no_text_is_of_a_field_that_there_is_not() -> None:
    """A field that was renamed takes its text along."""
    fields = {field for _, schema in schemas() for field in schema["properties"]}
    assert set(texts.FIELDS) <= fields
    assert {field for _, field in texts.OF} <= fields


def test_times_have_their_format() -> None:
    """Each text whose name says that it is a time."""
    for name, schema in schemas():
        for field, shown in schema["properties"].items():
            if field.endswith("At") and name.endswith("View") and name not in UNTYPED:
                options = [shown, *shown.get("anyOf", ())]
                assert any(one.get("format") == "date-time" for one in options), (name, field)


UNTYPED = {"RunView"}  # as another platform writes them


@pytest.mark.parametrize(
    ("schema", "field", "words"),
    [
        ("AttemptView", "outcome", {"acknowledged", "rejected", "timeout", "interrupted"}),
        ("DestinationView", "health", {"healthy", "failing", "circuit-open", "disabled"}),
        ("DestinationView", "heldReason", {"paused", "circuit", "retry-after", "turned-away"}),
        ("EndpointView", "state", {"active", "paused", "held"}),
        ("EndpointView", "heldReason", {"circuit", "unhealthy"}),
        ("ReplayView", "state", {"running", "done", "cancelled"}),
        ("ErrorView", "error", {"NOT_FOUND", "QUEUE_FULL", "VALIDATION_ERROR"}),
    ],
)
def test_answers_name_the_words_that_they_hold(schema: str, field: str, words: set[str]) -> None:
    shown = DOCUMENT["components"]["schemas"][schema]["properties"][field]
    options = [shown, *shown.get("anyOf", ())]
    assert words <= {word for one in options for word in one.get("enum", ())}


@cache
def validator_of(schema: str) -> Any:
    """What checks against a schema of the document, made once."""
    whole = json.loads(schema) | {"components": DOCUMENT["components"]}
    return jsonschema_rs.validator_for(whole)


def test_every_answer_in_json_has_an_example_that_its_schema_allows() -> None:
    """Read with the very validator that endpoints' schemas are checked by."""
    checked = 0
    for _, path, operation in operations():
        for response in operation["responses"].values():
            shown = resolve(response["$ref"]) if "$ref" in response else response
            for kind, media in shown.get("content", {}).items():
                if "json" not in kind or "schema" not in media:
                    continue
                given = media.get("examples", {"": {"value": media.get("example")}})
                validator = validator_of(json.dumps(media["schema"]))
                for example in given.values():
                    validator.validate(example["value"])
                    checked += 1
                assert given, path
    assert checked > 100


def test_answers_tell_their_headers_and_where_they_lead() -> None:
    """Every answer names its request; what was made has a Location, what passes a Retry-After; and
    links go to operations that there are."""
    ids = {operation["operationId"]: operation for _, _, operation in operations()}
    for _, path, operation in operations():
        for status, response in operation["responses"].items():
            shown = resolve(response["$ref"]) if "$ref" in response else response
            assert "X-Request-Id" in shown["headers"], path
            assert (status in ("429", "503", "507")) <= ("Retry-After" in shown["headers"])
            for link in shown.get("links", {}).values():
                target = ids[link["operationId"]]
                named = {one["name"] for one in target["parameters"] if one["in"] == "path"}
                assert set(link["parameters"]) == named, path
    made = ids["submitCallback"]["responses"]["202"]
    assert "Location" in made["headers"]
    assert "getCallback" in made["links"]


def test_what_customers_receive_is_told() -> None:
    """Callbacks, ends of jobs in each platform's words, and tests: with their headers, and what an
    answer means."""
    hooks = DOCUMENT["webhooks"]
    assert {"callback", "jobEnded", "runpodJobEnded", "destinationTest"} <= set(hooks)
    for hook in hooks.values():
        names = {one["name"] for one in hook["post"]["parameters"]}
        assert {"webhook-id", "webhook-timestamp", "webhook-signature"} <= names
        assert {"X-Webhook-Signature", "X-Postback-Job-Id", "X-Postback-Attempt"} <= names
        assert {"2XX", "429", "default"} <= set(hook["post"]["responses"])


def test_it_says_under_which_licence() -> None:
    assert DOCUMENT["info"]["license"] == {"name": "MIT", "identifier": "MIT"}


def test_operations_have_names_for_people() -> None:
    """`replayCallback`, where a path alone would give `post_callbacks_id_replay`; each is written
    down, and none for a route that is gone."""
    routes = {f"{one.method} {one.path}" for one in OPERATIONS}
    assert set(names.NAMES) == routes
    assert all(re.fullmatch("[a-z][A-Za-z]+", name) for name in names.NAMES.values())


def test_two_types_of_one_name_are_found() -> None:
    """One of them would be documented as the other."""

    class StatusView(wire.View, frozen=True, kw_only=True):
        """Another one."""

        other: str

    operation = replace_responses(OPERATIONS[0], {200: StatusView})
    with pytest.raises(TypeError, match="two schemas are called StatusView"):
        openapi.document([*OPERATIONS, operation])


def replace_responses(operation: Operation, responses: dict[int, Any]) -> Operation:
    made = Operation(operation.method, "/v1/other", tag="service", responses=responses)
    return made(operation.handler)

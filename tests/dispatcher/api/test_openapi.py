"""The OpenAPI document and its page: complete, well-formed, and made of nothing from elsewhere."""

import re
from collections.abc import Iterator
from html.parser import HTMLParser
from typing import Any

import httpx
import msgspec
import pytest

from dispatcher.api import docs, openapi
from dispatcher.api.app import OPERATIONS
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


@pytest.mark.parametrize("operation", OPERATIONS, ids=openapi.operation_id)
def test_every_operation_documents_its_errors(operation: Operation) -> None:
    """Each error code it may answer is under its status, in the one shape."""
    responses = DOCUMENT["paths"][operation.path][operation.method.lower()]["responses"]
    for code in openapi.error_codes(operation):
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

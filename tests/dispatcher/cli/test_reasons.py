"""Whatever changes something takes a reason, in the client and on the command line, and hands it
on to the audit trail."""

import ast
import inspect
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import dispatcher.cli
from dispatcher.client import calls
from dispatcher.client.transport import Call

SUBMITS = {"submit", "submit_encoded", "submit_raw", "submit_batch"}
READS = {"preview_replay"}  # by a POST


def builders() -> dict[str, Callable[..., Call[Any]]]:
    """What makes calls."""
    return {
        name: one
        for name, one in inspect.getmembers(calls, inspect.isfunction)
        if not name.startswith("_") and "Call[" in str(one.__annotations__.get("return"))
    }


def method(name: str) -> str:
    """The method of the calls that this makes."""
    of_kind = {"_get": "GET", "_post": "POST", "_delete": "DELETE"}
    for node in ast.walk(ast.parse(inspect.getsource(getattr(calls, name)))):
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name):
            if node.func.id in of_kind:
                return of_kind[node.func.id]
            for keyword in node.keywords:
                if keyword.arg == "method" and isinstance(keyword.value, ast.Constant):
                    return str(keyword.value.value)
    return ""


def takes_a_reason(name: str) -> bool:
    return "reason" in inspect.signature(getattr(calls, name)).parameters


def test_every_call_that_changes_something_takes_a_reason() -> None:
    found = builders()
    assert len(found) > 30
    for name in found:
        changes = method(name) != "GET" and name not in SUBMITS | READS
        assert takes_a_reason(name) is changes, name


def uses() -> Iterator[tuple[str, ast.Call]]:
    """Every use of such a call by the command line, directly or as a method of the client."""
    for path in Path(dispatcher.cli.__file__).parent.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text("utf-8"))):
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute):
                owner = ast.unparse(node.func.value)
                if owner in ("calls", "service.client") and node.func.attr in builders():
                    yield f"{path.name}:{node.lineno}", node


def test_every_command_that_changes_something_hands_its_reason_on() -> None:
    changing = 0
    for where, node in uses():
        assert isinstance(node.func, ast.Attribute)
        if takes_a_reason(node.func.attr):
            changing += 1
            given = {one.arg: ast.unparse(one.value) for one in node.keywords}
            assert given.get("reason") == "service.reason", where
    assert changing > 12

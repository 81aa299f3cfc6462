"""Whatever changes something takes a reason, in the client and on the command line, and hands it
on to the audit trail."""

import ast
import inspect
import pkgutil
from collections.abc import Callable, Iterator
from functools import cache
from importlib import import_module
from pathlib import Path
from typing import Any

import dispatcher.cli
from dispatcher.client import calls
from dispatcher.client.transport import Call

SUBMITS = {"submit", "submit_encoded", "submit_raw", "submit_batch", "submit_job"}
READS = {"preview_replay", "preview_jobs"}  # by a POST


@cache
def builders() -> dict[str, Callable[..., Call[Any]]]:
    """What makes calls, of all nouns."""
    nouns = {one.name for one in pkgutil.iter_modules(calls.__path__)} - {"build", "read"}
    assert {"callback", "endpoint", "job"} <= nouns
    found: dict[str, Callable[..., Call[Any]]] = {}
    for noun in nouns:
        for name, one in inspect.getmembers(
            import_module(f"{calls.__name__}.{noun}"), inspect.isfunction
        ):
            if not name.startswith("_") and "Call[" in str(one.__annotations__.get("return")):
                assert name not in found, f"two nouns have {name}"
                found[name] = one
    return found


def method(name: str) -> str:
    """The method of the calls that this makes."""
    of_kind = {
        f"build.{kind}": kind.upper() for kind in ("get", "post", "put", "patch", "delete")
    } | {"_sweep": "POST", "_bytes": "GET"}
    for node in ast.walk(ast.parse(inspect.getsource(builders()[name]))):
        if isinstance(node, ast.Call):
            if ast.unparse(node.func) in of_kind:
                return of_kind[ast.unparse(node.func)]
            for keyword in node.keywords:
                if keyword.arg == "method" and isinstance(keyword.value, ast.Constant):
                    return str(keyword.value.value)
    return ""


def takes_a_reason(name: str) -> bool:
    return "reason" in inspect.signature(builders()[name]).parameters


def test_every_call_that_changes_something_takes_a_reason() -> None:
    found = builders()
    assert len(found) > 60
    for name in found:
        assert method(name) or name in SUBMITS, name
        changes = method(name) != "GET" and name not in SUBMITS | READS
        assert takes_a_reason(name) is changes, name


def uses() -> Iterator[tuple[str, ast.Call]]:
    """Every use of such a call by the command line, directly or as a method of the client."""
    for path in Path(dispatcher.cli.__file__).parent.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text("utf-8"))):
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute):
                owner = ast.unparse(node.func.value)
                is_ours = owner.endswith("calls") or owner == "service.client"
                if is_ours and node.func.attr in builders():
                    yield f"{path.name}:{node.lineno}", node


def test_every_command_that_changes_something_hands_its_reason_on() -> None:
    changing = 0
    for where, node in uses():
        assert isinstance(node.func, ast.Attribute)
        if takes_a_reason(node.func.attr):
            changing += 1
            given = {one.arg: ast.unparse(one.value) for one in node.keywords}
            assert given.get("reason") == "service.reason", where
    assert changing > 15

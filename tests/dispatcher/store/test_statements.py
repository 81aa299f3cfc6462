"""What differs by database differs in statements alone: each database has them all, under the same
names and in the same order, so that the two files can be read side by side."""

import ast
import inspect
from pathlib import Path
from types import ModuleType

import pytest

from dispatcher.store import tx
from dispatcher.store.postgres import statements as postgres
from dispatcher.store.sqlite import statements as sqlite

BOTH = pytest.mark.parametrize("module", [sqlite, postgres], ids=["sqlite", "postgres"])


def names(body: list[ast.stmt]) -> list[str]:
    """The names that a module or a class defines, in their order."""
    found = []
    for node in body:
        if isinstance(node, ast.FunctionDef):
            found.append(node.name)
        elif isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name):
            found.append(node.target.id)
    return found


def promised() -> list[str]:
    tree = ast.parse(Path(tx.__file__).read_text("utf-8"))
    (protocol,) = (
        node
        for node in tree.body
        if isinstance(node, ast.ClassDef) and node.name == tx.Statements.__name__
    )
    return names(protocol.body)


@BOTH
def test_each_database_has_every_statement_in_the_same_order(module: ModuleType) -> None:
    defined = names(ast.parse(Path(module.__file__ or "").read_text("utf-8")).body)
    wanted = promised()
    assert len(wanted) > 20
    assert [name for name in defined if name in wanted] == wanted


@BOTH
def test_the_functions_among_them_take_the_same_parameters(module: ModuleType) -> None:
    for name in promised():
        function = getattr(tx.Statements, name, None)
        if function is not None:
            expected = list(inspect.signature(function).parameters)[1:]  # without `self`
            assert list(inspect.signature(getattr(module, name)).parameters) == expected

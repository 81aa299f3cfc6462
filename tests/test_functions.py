"""How long a function may be: what does not fit on a screen does more than one thing."""

import ast
from collections.abc import Iterator
from pathlib import Path
from typing import Final

ROOT: Final = Path(__file__).parents[1]
LINES_MAX: Final = 60


def functions(path: Path) -> Iterator[tuple[str, int]]:
    """The functions of a file, methods and inner ones too, and how many lines each takes up from
    its `def` on."""
    for node in ast.walk(ast.parse(path.read_text("utf-8"))):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            assert node.end_lineno is not None
            yield node.name, node.end_lineno - node.lineno + 1


def test_no_function_is_longer_than_a_screen() -> None:
    """At most 60 lines, in both packages. What is longer is split by what it does."""
    files = [path for name in ("dispatcher", "receiver") for path in (ROOT / name).rglob("*.py")]
    found = [(path, *one) for path in files for one in functions(path)]
    assert len(found) > 1_000
    assert not [
        f"{path.relative_to(ROOT)}: {name} has {lines} lines"
        for path, name, lines in found
        if lines > LINES_MAX
    ]

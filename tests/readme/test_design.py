"""dispatcher/DESIGN.md holds what comments and tests cite, and the code as it is."""

import ast
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from tests.readme.documents import DESIGN, ROOT, read

JOURNEY_FILES_MAX = 25
FUNCTIONS = (ast.FunctionDef, ast.AsyncFunctionDef)
_CITED = re.compile(r"\b([DI]\d{1,2})\b")


def test_cited_numbers_are_defined() -> None:
    """Every decision and invariant that source and tests cite stands there."""
    text = read(DESIGN)
    defined = {*re.findall(r"^### (D\d+) ", text, re.MULTILINE)}
    defined |= {*re.findall(r"^- \*\*(I\d+)\*\* ", text, re.MULTILINE)}
    cited = {number: path for path in _sources() for number in _citations(path)}
    assert len(cited) > 10
    assert not {number: path for number, path in cited.items() if number not in defined}


def _sources() -> Iterator[Path]:
    for folder in ("dispatcher", "receiver", "tests"):
        for suffix in ("py", "sql", "md"):
            yield from (ROOT / folder).rglob(f"*.{suffix}")


def _citations(path: Path) -> set[str]:
    return set(_CITED.findall(read(path)))


def test_the_code_map_is_complete() -> None:
    """Every package and every module beside packages has its line, and no other."""
    named = _part("map", r"^\| `([\w./]+)`")
    packages = [
        f"{path.relative_to(ROOT).as_posix()}/"
        for half in ("dispatcher", "receiver")
        for path in (ROOT / half).iterdir()
        if (path / "__init__.py").exists()
    ]
    modules = [
        path.relative_to(ROOT).as_posix()
        for half in ("dispatcher", "receiver")
        for path in (ROOT / half).glob("*.py")
        if not path.name.startswith("__")
    ]
    assert sorted(named) == sorted([*packages, *modules])


def test_the_journey_is_walked_in_the_code() -> None:
    """Its files and functions exist, fit on a screen, and no file is returned to more than once."""
    steps = _part("journey", r"^\| [^|]*\| `([\w./]+)` \| ([^|]*) \|")
    files = [file for file, _ in steps]
    assert 0 < len(set(files)) <= JOURNEY_FILES_MAX
    assert max(files.count(file) for file in files) <= 2
    for file, functions in steps:
        names = re.findall(r"`([\w.]+)`", functions)
        assert names, file
        assert set(names) <= _defined(ROOT / file), file


def _part(name: str, pattern: str) -> list[Any]:
    part = re.search(rf"<!-- {name} -->(.*)<!-- /{name} -->", read(DESIGN), re.DOTALL)
    assert part, name
    return re.findall(pattern, part[1], re.MULTILINE)


def _defined(path: Path) -> set[str]:
    """The functions, classes and methods (`Class.method`) of a file."""
    names = set()
    for node in ast.parse(read(path)).body:
        if isinstance(node, ast.ClassDef):
            methods = {one.name for one in node.body if isinstance(one, FUNCTIONS)}
            names |= {node.name, *(f"{node.name}.{method}" for method in methods)}
        elif isinstance(node, FUNCTIONS):
            names.add(node.name)
    return names

"""dispatcher/DESIGN.md holds what comments and tests cite."""

import re
from collections.abc import Iterator
from pathlib import Path

from tests.readme.documents import DESIGN, ROOT, read

_CITED = re.compile(r"\b([DI]\d{1,2})\b(?!\")")


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

"""The documents that ship with the code, and what is taken out of them."""

import re
from pathlib import Path
from typing import Final

ROOT: Final = Path(__file__).parents[2]
README: Final = ROOT / "README.md"
DISPATCHER: Final = ROOT / "dispatcher" / "README.md"
RECEIVER: Final = ROOT / "receiver" / "README.md"
DESIGN: Final = ROOT / "dispatcher" / "DESIGN.md"
# Every document of ours; what tools install or make beside them does not count.
DOCUMENTS: Final = tuple(
    sorted(
        path
        for pattern in (
            "*.md",
            "dispatcher/*.md",
            "receiver/*.md",
            "deploy/**/*.md",
            "tests/**/*.md",
        )
        for path in ROOT.glob(pattern)
    )
)


def read(document: Path) -> str:
    """Return its text."""
    return document.read_text("utf-8")


def blocks(document: Path, language: str = r"\w*") -> list[str]:
    """Return the code that it shows."""
    return re.findall(rf"^```{language}\n(.*?)^```", read(document), re.DOTALL | re.MULTILINE)


def block(document: Path, beginning: str) -> str:
    """Return the code that begins so."""
    return next(one for one in blocks(document) if one.startswith(beginning))


def anchors(document: Path) -> set[str]:
    """Return what a link to one of its headings may name."""
    text = re.sub(r"^```.*?^```", "", read(document), flags=re.DOTALL | re.MULTILINE)
    return {_anchor(line) for line in text.splitlines() if line.startswith("#")}


def _anchor(heading: str) -> str:
    words = heading.lstrip("#").strip().lower()
    return re.sub(r"[^\w\- ]", "", words).replace(" ", "-")


def name_of(document: Path) -> str:
    """Return its path within the project."""
    return document.relative_to(ROOT).as_posix()

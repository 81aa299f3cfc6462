"""Makes the clients for ordinary code out of those for asyncio: `make generate`.

Both do the same; only the words of asyncio differ. `test_generated` holds the committed files to
what this makes.
"""

import re
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Final

FOLDER: Final = Path(__file__).parents[3] / "dispatcher" / "client"
# What each is made of, and is.
FILES: Final = {
    FOLDER / "aio.py": FOLDER / "sync.py",
    FOLDER / "tensorone" / "aio.py": FOLDER / "tensorone" / "sync.py",
}

# In this order; each must be found in one of them, so that none outlives what it was made for.
_RULES: Final = tuple(
    (re.compile(pattern), text)
    for pattern, text in (
        (
            r'^"""(The|TensorOne\'s) client for asyncio: the same methods, awaited\."""',
            r'"""\1 client for ordinary code.\n\n'
            'Generated from aio.py by `make generate`: change that file, not this one.\n"""',
        ),
        (r"Close it, or use `async with`\.", "Close it, or use `with`."),
        (
            r"What lists or watches is\s+iterated with `async for`; the rest is awaited\.",
            "One client serves many threads.",
        ),
        (r"Coroutine\[Any, Any, T\]", "T"),
        (r"AsyncGenerator\[(\w+)\]", r"Generator[\1, None, None]"),
        (r"import asyncio\n", ""),
        (r"\bclient\.aio\b", "client.sync"),
        (r"\basyncio\.sleep\b", "time.sleep"),
        (r"\basync_batches\b", "batches"),
        (r"\basync_time_limit\b", "time_limit"),
        (r"\baiter_bytes\b", "iter_bytes"),
        (r"\b__a(enter|exit)__\b", r"__\1__"),
        (r"\ba(clos(?:e|ing))\b", r"\1"),
        (r"\bAsync([A-Z]\w+)", r"\1"),
        (r"\basync (def|for|with)\b", r"\1"),
        (r"\bawait ", ""),
    )
)
# What can be said shorter without asyncio: unused imports, `yield from`, the order of imports.
_FIXES: Final = ("C416", "F401", "I", "UP028")


def sources() -> dict[Path, str]:
    """The clients for asyncio."""
    return {path: path.read_text("utf-8") for path in FILES}


def generate(texts: Mapping[Path, str]) -> dict[Path, str]:
    """Return the clients for ordinary code. Raises ValueError for a rule without a use."""
    made = dict(texts)
    for pattern, replacement in _RULES:
        if not any(pattern.search(text) for text in made.values()):
            raise ValueError(f"nothing in {FOLDER} matches {pattern.pattern!r}")
        made = {path: pattern.sub(replacement, text) for path, text in made.items()}
    return {FILES[path]: _finished(FILES[path], text) for path, text in made.items()}


def _finished(target: Path, text: str) -> str:
    if "time.sleep" in text and "import time\n" not in text:
        text = re.sub(r"^import ", "import time\nimport ", text, count=1, flags=re.MULTILINE)
    fixes = ("check", "--fix-only", "--unsafe-fixes", "--select", ",".join(_FIXES))
    return _ruff(target, ("format",), _ruff(target, fixes, text))


def _ruff(target: Path, command: tuple[str, ...], text: str) -> str:
    argv = [sys.executable, "-m", "ruff", *command, "--quiet", "--stdin-filename", str(target), "-"]
    ran = subprocess.run(argv, input=text.encode(), stdout=subprocess.PIPE, check=True)
    return ran.stdout.decode()


if __name__ == "__main__":
    for path, text in generate(sources()).items():
        path.write_text(text, "utf-8")

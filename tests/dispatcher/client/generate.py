"""Makes the client for ordinary code out of the one for asyncio: `make generate`.

Both do the same; only the words of asyncio differ. `test_generated` holds the committed file to
what this makes.
"""

import re
import subprocess
import sys
from pathlib import Path
from typing import Final

FOLDER: Final = Path(__file__).parents[3] / "dispatcher" / "client"
SOURCE: Final = FOLDER / "aio.py"
TARGET: Final = FOLDER / "sync.py"

# In this order; each must be found, so that none outlives what it was made for.
_RULES: Final = tuple(
    (re.compile(pattern), text)
    for pattern, text in (
        (
            r'^"""The client for asyncio: the same methods, awaited."""',
            '"""The client for ordinary code.\n\n'
            'Generated from aio.py by `make generate`: change that file, not this one.\n"""',
        ),
        (r"Close it, or use `async with`\.", "Close it, or use `with`."),
        (
            r"What lists or watches is\s+iterated with `async for`; the rest is awaited\.",
            "One client serves many threads.",
        ),
        (r"Coroutine\[Any, Any, T\]", "T"),
        (r"import asyncio\n", ""),
        (r"\basyncio\.sleep\b", "time.sleep"),
        (r"\basync_batches\b", "batches"),
        (r"\basync_time_limit\b", "time_limit"),
        (r"\baiter_bytes\b", "iter_bytes"),
        (r"\b__a(enter|exit)__\b", r"__\1__"),
        (r"\baclose\b", "close"),
        (r"\bAsync([A-Z]\w+)", r"\1"),
        (r"\basync (def|for|with)\b", r"\1"),
        (r"\bawait ", ""),
    )
)
# What can be said shorter without asyncio: unused imports, `yield from`, the order of imports.
_FIXES: Final = ("C416", "F401", "I", "UP028")


def generate(source: str) -> str:
    """Return the client for ordinary code. Raises ValueError for a rule without a use."""
    text = source
    for pattern, replacement in _RULES:
        text, count = pattern.subn(replacement, text)
        if not count:
            raise ValueError(f"nothing in aio.py matches {pattern.pattern!r}")
    fixes = ("check", "--fix-only", "--unsafe-fixes", "--select", ",".join(_FIXES))
    return _ruff(("format",), _ruff(fixes, text))


def _ruff(command: tuple[str, ...], text: str) -> str:
    argv = [sys.executable, "-m", "ruff", *command, "--quiet", "--stdin-filename", str(TARGET), "-"]
    ran = subprocess.run(argv, input=text.encode(), stdout=subprocess.PIPE, check=True)
    return ran.stdout.decode()


if __name__ == "__main__":
    TARGET.write_text(generate(SOURCE.read_text("utf-8")), "utf-8")

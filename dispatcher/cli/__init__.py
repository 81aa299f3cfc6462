"""The command `dispatcher`: the way in, which needs none of what may not be installed.

Exit codes: 0 done, 1 failed, 2 usage, 3 cannot start.
"""

import sys
from collections.abc import Sequence

from dispatcher import VERSION
from receiver.base.extras import missing_extra

_EXTRA = (
    "aiohttp", "aiosqlite", "cryptography", "httptools", "httpx", "jsonschema_rs", "msgspec",
    "prometheus_client", "rich", "starlette", "typer", "uvicorn", "uvloop",
)  # fmt: skip


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command. Returns its exit code. Its packages may be missing: then it says which one,
    and how to get it."""
    words = sys.argv[1:] if argv is None else argv
    if list(words) == ["--version"]:  # asked for by scripts, and by who waits
        print(f"dispatcher {VERSION}")
        return 0
    try:
        from dispatcher.cli.root import run

        return run(argv)
    except ModuleNotFoundError as error:
        return missing_extra(error, _EXTRA, "dispatcher")

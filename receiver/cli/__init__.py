"""The command `receiver`: the way in, which needs none of what may not be installed.

Exit codes: 0 done, 1 failed, 2 usage, 3 cannot start.
"""

import sys
from collections.abc import Sequence

from receiver.base.extras import missing_extra

_EXTRA = ("typer", "rich", "starlette", "uvicorn", "uvloop", "httptools", "aiosqlite", "httpx")


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command. Its packages may be missing, since verifying does without them: then it says
    which one, and how to get it."""
    words = sys.argv[1:] if argv is None else argv
    if list(words) == ["--version"]:  # asked for by scripts, and by who waits
        from importlib.metadata import version

        print(f"receiver {version('postback')}")
        return 0
    try:
        from receiver.cli.root import run

        return run(argv)
    except ModuleNotFoundError as error:
        return missing_extra(error, _EXTRA, "receiver")

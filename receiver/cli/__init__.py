"""The command `receiver`.

Exit codes: 0 done, 1 failed, 2 usage, 3 cannot start.
"""

import sys

_CANNOT_START = 3
_EXTRA = ("typer", "rich", "starlette", "uvicorn", "uvloop", "httptools", "aiosqlite", "httpx")


def main() -> int:
    """Run the command. Its packages may be missing, since verifying does without them: then it says
    which one, and how to get it."""
    try:
        from receiver.cli.root import run

        return run()
    except ModuleNotFoundError as error:
        if error.name not in _EXTRA:
            raise
        missing = f"error: the package {error.name} is not installed"
        print(f"{missing}; pip install '.[receiver]' in a checkout", file=sys.stderr)
        return _CANNOT_START

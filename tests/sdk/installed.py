"""What `make sdk` installs beside the project: programs, each in an environment of its own."""

import os
from pathlib import Path
from typing import Final

import pytest

SDK: Final = Path(__file__).parents[2] / ".sdk"


def needs(path: Path) -> Path:
    """Skip where an environment was not made; in CI that is a failure."""
    if not path.exists():
        lacking(f"{path} is not there: make sdk")
    return path


def lacking(reason: str) -> None:
    """Skip, with the reason in the summary of the run; in CI that is a failure."""
    if os.environ.get("CI") == "true" or os.environ.get("POSTBACK_TEST_SDK") == "required":
        pytest.fail(reason)
    pytest.skip(reason)

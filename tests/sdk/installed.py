"""What `make sdk` installs beside the project: programs, each in an environment of its own."""

import os
from pathlib import Path
from typing import Final

import pytest

SDK: Final = Path(__file__).parents[2] / ".sdk"


def needs(path: Path) -> None:
    """Skip where an environment was not made; in CI that is a failure."""
    if path.exists():
        return
    reason = f"{path} is not there: make sdk"
    if os.environ.get("CI") == "true" or os.environ.get("POSTBACK_TEST_SDK") == "required":
        pytest.fail(reason)
    pytest.skip(reason)

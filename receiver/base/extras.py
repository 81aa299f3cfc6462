"""Packages that belong to extras, and may be missing. It needs the standard library alone."""

import sys
from collections.abc import Collection
from typing import Final

_CANNOT_START: Final = 3


def missing_extra(error: ModuleNotFoundError, packages: Collection[str], extra: str) -> int:
    """Tell in one line which package is missing, and how to get it; return the exit code. What is
    none of these packages is raised."""
    if (error.name or "").partition(".")[0] not in packages:
        raise error
    print(f"error: {told(error.name, extra)}", file=sys.stderr)
    return _CANNOT_START


def explained(error: ModuleNotFoundError, extra: str) -> ModuleNotFoundError:
    """Return the error of a package that an extra has, with what to do about it; others as they
    are."""
    if error.name is None or error.name.partition(".")[0] in ("dispatcher", "receiver"):
        return error
    return ModuleNotFoundError(told(error.name, extra), name=error.name)


def told(package: str | None, extra: str) -> str:
    """Return what to do about a package that an extra has."""
    return f"the package {package} is not installed; pip install '.[{extra}]' in a checkout"

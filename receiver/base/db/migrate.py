"""Numbered, forward-only migrations: plain .sql files, applied in order, one transaction each.
Each dialect's `migrate` applies them, in its own module."""

from importlib.resources import files
from typing import TypeAlias

from receiver.base.db import CannotOpen

Migration: TypeAlias = tuple[int, str]
"""A number and its SQL, which brings schema number - 1 to number."""


def migrations(package: str, folder: str = "migrations") -> list[Migration]:
    """Return the migrations of a folder in `package`, in order."""
    root = files(package) / folder
    names = sorted(entry.name for entry in root.iterdir() if entry.name.endswith(".sql"))
    return [(int(name.split("_")[0]), (root / name).read_text("utf-8")) for name in names]


def missing(found: int, known: list[Migration]) -> list[Migration]:
    """Return those that a database of schema `found` lacks. Raises CannotOpen for one that a newer
    version of this program wrote."""
    newest = known[-1][0]
    if found > newest:
        raise CannotOpen(
            f"the database has schema {found}, this version knows {newest}: "
            "run the version that wrote it, or a newer one"
        )
    return [migration for migration in known if migration[0] > found]

"""Numbered, forward-only migrations: plain .sql files, applied in order, one transaction each.
Each dialect's `migrate` applies them, in its own module.

A migration begins with `-- reads-from: n`: the oldest schema whose program may run beside it on a
shared database. One that says its own number is for those alone that know it.
"""

import re
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


_READS_FROM = re.compile(r"^-- reads-from: (\d+)$", re.MULTILINE)


def reads_from(migration: Migration) -> int:
    """Return the oldest schema whose program may run beside this one; where it does not say, that
    is its own."""
    number, script = migration
    said = _READS_FROM.search(script)
    return number if said is None else int(said[1])


def missing(found: int, known: list[Migration], oldest: int | None = None) -> list[Migration]:
    """Return those that a database of schema `found` lacks. Raises CannotOpen for one that a newer
    version of this program wrote, unless it may be used from schema `oldest` on and this version
    knows that."""
    newest = known[-1][0]
    if found > newest and oldest is not None and oldest <= newest:
        return []
    if found > newest:
        raise CannotOpen(
            f"the database has schema {found}, this version knows {newest}: "
            "run the version that wrote it, or a newer one"
        )
    return [migration for migration in known if migration[0] > found]

"""What a doctor finds, and how it is told: for both halves."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final, Literal, TypeAlias

import typer
from rich.table import Table
from rich.text import Text

from receiver.base import cli
from receiver.base.options import Printing, print_rows
from receiver.base.strays import CURE, TOLD_MAX, Strays

State: TypeAlias = Literal["ok", "warn", "bad"]
_MARKS: Final[dict[State, tuple[str, str]]] = {
    "ok": ("✓", "green"),
    "warn": ("!", "yellow"),
    "bad": ("✗", "bold red"),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Check:
    """What one check found: `ok`, `warn` (it works, but) or `bad`, in words, and what to do."""

    name: str
    state: State
    message: str
    advice: str | None = None

    def document(self) -> dict[str, Any]:
        """Return it for programs."""
        found = {"name": self.name, "state": self.state, "message": self.message}
        return found if self.advice is None else found | {"advice": self.advice}


def ok(name: str, message: str, advice: str | None = None) -> Check:
    """Return that all is well."""
    return Check(name=name, state="ok", message=message, advice=advice)


def warn(name: str, message: str, advice: str) -> Check:
    """Return that it works, but."""
    return Check(name=name, state="warn", message=message, advice=advice)


def bad(name: str, message: str, advice: str | None = None) -> Check:
    """Return that something is wrong."""
    return Check(name=name, state="bad", message=message, advice=advice)


def report(found: Sequence[Check], how: Printing) -> None:
    """Print what was found. Exits with 1 where anything is wrong."""
    if how.json:
        print_rows(how, (json.dumps(check.document()).encode() for check in found))
    else:
        _print(found)
    if any(check.state == "bad" for check in found):
        raise typer.Exit(cli.FAILED)


def _print(found: Sequence[Check]) -> None:
    grid = Table.grid(padding=(0, 1))
    for check in found:
        mark, style = _MARKS[check.state]
        grid.add_row(Text(mark, style=style), Text(check.name), cli.plain(check.message))
        if check.advice:
            grid.add_row("", "", cli.plain(f"→ {check.advice}", "dim"))
    cli.console().print(grid)


def variables(found: Strays) -> list[Check]:
    """Return what looks like a setting in this shell and is none; nothing where all is read."""
    checks = [
        warn(
            "variables",
            f"{count} are the links of a Kubernetes Service named {service}",
            CURE,
        )
        for service, count in found.links
    ]
    for name, nearest in found.unknown[:TOLD_MAX]:
        advice = f"set {nearest}, if you meant that" if nearest else "unset it, if it was for us"
        checks.append(warn("variables", f"no setting reads {name}", advice))
    if len(found.unknown) > TOLD_MAX:
        message = f"no setting reads {len(found.unknown) - TOLD_MAX} more"
        checks.append(warn("variables", message, "unset them, if they were for us"))
    return checks

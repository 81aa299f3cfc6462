"""Printing, for people: colours where there is a terminal, text of strangers as text."""

import sys
from datetime import UTC, datetime
from typing import Any, Final

from rich.console import Console
from rich.markup import escape
from rich.table import Table
from rich.text import Text

_PIPED_WIDTH: Final = 240  # a pipe has no width: keep lines whole for grep and awk
_SPANS: Final = ((86_400, "d"), (3_600, "h"), (60, "m"), (1, "s"))
_STYLES: Final = {
    "accepted": "green",
    "conflict": "red",
    "late": "yellow",
    "pending": "yellow",
    "running": "cyan",
    "handled": "green",
    "dead": "bold red",
    "ignored": "dim",
    "skipped": "dim",
    "expected": "yellow",
    "known": "green",
    "lost": "bold red",
}


def console() -> Console:
    """Where results go. Colours follow the terminal and NO_COLOR."""
    width = None if sys.stdout.isatty() else _PIPED_WIDTH
    return Console(highlight=False, width=width)


def new_table(*columns: str, fold: str) -> Table:
    """Return an empty table without lines. Where there is no room the column `fold` gives way."""
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="dim")
    for name in columns:
        table.add_column(name, no_wrap=name != fold, overflow="fold")
    return table


def word(state: str) -> str:
    """Return a state in its colour, as markup."""
    style = _STYLES.get(state, "none")
    return f"[{style}]{printable(state)}[/{style}]"


def ago(iso: str | None, now: datetime | None = None) -> str:
    """How long ago a time of the API was, or how far it lies ahead; `-` for none."""
    if iso is None:
        return "-"
    seconds = ((now or datetime.now(UTC)) - datetime.fromisoformat(iso)).total_seconds()
    for size, unit in _SPANS:
        if abs(seconds) >= size:
            span = f"{abs(seconds) / size:.0f}{unit}"
            return f"{span} ago" if seconds > 0 else f"in {span}"
    return "now"


def printable(value: Any) -> str:
    """Text of others as text: no markup, and nothing that steers a terminal."""
    text = str(value)
    return escape("".join(c if c.isprintable() or c == "\n" else ascii(c)[1:-1] for c in text))


def say(message: str, hint: str | None = None) -> None:
    """Return an error and what to do about it, in one line on standard error."""
    line = Text("error: ", style="bold red").append(_flat(message), style="not bold default")
    if hint:
        line.append(f"; {hint}", style="not bold default")
    Console(stderr=True, highlight=False, soft_wrap=True).print(line)


def _flat(text: str) -> str:
    return "".join(c if c.isprintable() else "\N{REPLACEMENT CHARACTER}" for c in text)

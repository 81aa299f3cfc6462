"""Printing, for people: colours where there is a terminal, text of strangers as text."""

import sys
from datetime import datetime
from typing import Any, Final

from rich.console import Console
from rich.markup import escape
from rich.table import Table
from rich.text import Text

_PIPED_WIDTH: Final = 240  # a pipe has no width: keep lines whole for grep and awk
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


def new_table(*columns: str, cut: tuple[str, ...] = ()) -> Table:
    """An empty table without lines. Where there is no room, the columns in ``cut`` are cut off and
    the others folded."""
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="dim")
    for name in columns:
        if name in cut:
            table.add_column(name, no_wrap=True, overflow="ellipsis")
        else:
            table.add_column(name, overflow="fold")
    return table


def word(state: str, more: str = "") -> str:
    """A state in its colour, as markup."""
    style = _STYLES.get(state, "none")
    return f"[{style}]{printable(state)}[/{style}]{printable(more)}"


def stamp(iso: str | None) -> str:
    """A time of the API to the second; `-` for none."""
    if iso is None:
        return "-"
    return datetime.fromisoformat(iso).strftime("%Y-%m-%d %H:%M:%SZ")


def printable(value: Any) -> str:
    """Text of others as text: no markup, and nothing that steers a terminal."""
    text = str(value)
    return escape("".join(c if c.isprintable() or c == "\n" else ascii(c)[1:-1] for c in text))


def say(message: str, hint: str | None = None) -> None:
    """An error and what to do about it, in one line on standard error."""
    line = Text("error: ", style="bold red").append(_flat(message), style="not bold default")
    if hint:
        line.append(f"; {hint}", style="not bold default")
    Console(stderr=True, highlight=False, soft_wrap=True).print(line)


def _flat(text: str) -> str:
    return "".join(c if c.isprintable() else "\N{REPLACEMENT CHARACTER}" for c in text)

"""Printing, for people and for programs: the one place that knows colours, widths and words."""

import sys
from collections.abc import Iterable, Sequence
from datetime import UTC, datetime
from typing import Final

import typer
from rich.console import Console, RenderableType
from rich.table import Table
from rich.text import Text

WIDE: Final = 132  # from here on a callback fits in one line with its full id
_PIPED_WIDTH: Final = 240  # a pipe has no width: keep lines whole for grep and awk
_STYLES: Final = {
    "pending": "yellow",
    "sending": "cyan",
    "delivered": "green",
    "dead": "bold red",
    "cancelled": "dim",
    "running": "cyan",
    "done": "green",
    "healthy": "green",
    "failing": "yellow",
    "circuit-open": "bold red",
    "disabled": "dim",
    "paused": "yellow",
}
_MARKS: Final = {
    "pending": "○",
    "sending": "◐",
    "delivered": "●",
    "dead": "✗",
    "cancelled": "–",
    "healthy": "●",
    "failing": "◐",
    "circuit-open": "✗",
    "disabled": "–",
    "paused": "‖",
}
_STATE_WIDTHS: Final = {"STATUS": len("● delivered"), "HEALTH": len("✗ circuit-open")}
_SPANS: Final = ((86_400, "d"), (3_600, "h"), (60, "m"))


def console() -> Console:
    """Where results go. Colours follow the terminal and NO_COLOR."""
    piped = not sys.stdout.isatty()
    return Console(highlight=False, soft_wrap=False, width=_PIPED_WIDTH if piped else None)


def error_console() -> Console:
    """Where errors, questions and progress go."""
    return Console(stderr=True, highlight=False, soft_wrap=True)


def clean(text: str) -> str:
    """Untrusted `text`, without what would command a terminal."""
    return "".join(char if char.isprintable() else "\N{REPLACEMENT CHARACTER}" for char in text)


def short(text: str, chars_max: int) -> str:
    """`text` in one line of at most `chars_max` characters."""
    flat = " ".join(text.split())
    return flat if len(flat) <= chars_max else flat[: chars_max - 1] + "…"


def word(state: str) -> Text:
    """Return a state or a health as a mark and a word in its colour."""
    mark = _MARKS.get(state)
    return Text(f"{mark} {state}" if mark else state, style=_STYLES.get(state, ""))


def plain(text: object, style: str = "") -> Text:
    """Untrusted text as it stands: no markup, no control characters."""
    return Text(clean(str(text)), style=style)


def lines(*rows: RenderableType) -> Text:
    """Several lines of one table cell."""
    made = (row if isinstance(row, Text) else Text(str(row)) for row in rows)
    return Text("\n").join(made)


def table(*columns: str, right: Sequence[str] = ()) -> Table:
    """Return an empty table without lines; where there is no room, all but states are cut."""
    made = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="dim")
    for name in columns:
        made.add_column(
            name,
            justify="right" if name in right else "left",
            no_wrap=True,
            overflow="ellipsis",
            min_width=max(len(name), _STATE_WIDTHS.get(name, 0)),
        )
    return made


def print_json(body: bytes) -> None:
    """One JSON document of the service, as it came, in one line."""
    _write(body.rstrip() + b"\n")


def print_json_lines(rows: Iterable[bytes]) -> None:
    """JSON documents, one a line."""
    for row in rows:
        _write(row + b"\n")


def write_bytes(body: bytes) -> None:
    """Bytes as they are; what would command a terminal is shown replaced there."""
    if sys.stdout.isatty():
        text = body.decode(errors="replace")
        shown = "".join(char if char in "\n\t" else clean(char) for char in text)
        body = shown.encode() + (b"" if shown.endswith("\n") else b"\n")
    _write(body)


def _write(data: bytes) -> None:
    sys.stdout.flush()
    sys.stdout.buffer.write(data)
    sys.stdout.buffer.flush()


def span(seconds: float) -> str:
    """Return a length of time in two characters or three: `40ms`, `12s`, `4m`, `3h`, `2d`."""
    if seconds < 1:
        return f"{max(0, round(seconds * 1000))}ms"
    for size, unit in _SPANS:
        if seconds >= size:
            return f"{seconds / size:.0f}{unit}"
    return f"{seconds:.3g}s"


def ago(moment: datetime, now: datetime | None = None) -> str:
    """How long ago `moment` was, or how far it lies ahead."""
    seconds = ((now or datetime.now(UTC)) - moment).total_seconds()
    whole = span(float(int(abs(seconds))))
    if abs(seconds) < 1:
        return "now"
    return f"{whole} ago" if seconds > 0 else f"in {whole}"


def due(moment: datetime) -> str:
    """When the next attempt goes out: `next in 4m`, or where something holds it `due 8s ago`."""
    return f"{'next' if moment > datetime.now(UTC) else 'due'} {ago(moment)}"


def stamp(moment: datetime) -> str:
    """`moment` in UTC, to the second."""
    return moment.astimezone(UTC).strftime("%Y-%m-%d %H:%M:%SZ")


def size(count: int) -> str:
    """Return a number of bytes for people."""
    for factor, unit in ((1 << 30, "GiB"), (1 << 20, "MiB"), (1 << 10, "KiB")):
        if count >= factor:
            return f"{count / factor:.1f} {unit}"
    return f"{count} B"


def confirm(question: str, *, yes: bool) -> None:
    """Ask on the terminal unless `yes`. With nobody to ask it is refused; a no exits with 1."""
    if yes:
        return
    if not sys.stdin.isatty():
        raise typer.BadParameter("no terminal to confirm on: add --yes")
    if not typer.confirm(question, err=True):
        raise typer.Exit(1)

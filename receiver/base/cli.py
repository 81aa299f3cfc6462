"""Command lines: how one ends, what it prints for people and for programs, untrusted text as text.

Exit codes: 0 done, 1 failed, 2 usage, 3 cannot start.
"""

import inspect
import json
import re
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from datetime import UTC, datetime
from io import TextIOWrapper
from typing import IO, Any, Final, TypeVar, cast

import typer
from rich.console import Console, RenderableType
from rich.table import Table
from rich.text import Text
from typer.completion import completion_init  # type: ignore[attr-defined]  # it is there

from receiver.base.helps import HELP, examples, tidied
from receiver.base.settings import environment

FAILED: Final = 1
USAGE: Final = 2
CANNOT_START: Final = 3
EXIT_CODES: Final = "Exit codes: 0 done, 1 failed, 2 usage, 3 cannot start."

_ERROR_CHARS_MAX: Final = 400  # an error is read at a glance, whatever was typed
_PIPED_WIDTH: Final = 240  # a pipe has no width: keep lines whole for grep and awk
_LINE_END: Final = re.compile(r" +\n")
_SPANS: Final = ((86_400, "d"), (3_600, "h"), (60, "m"))
_SIZES: Final = ((1 << 30, "GiB"), (1 << 20, "MiB"), (1 << 10, "KiB"))

# Typer carries a click of its own, and shows of its errors only this leaf; ClickException is the
# root of all that it raises about what was typed.
_UsageError: Final = cast(type[typer.BadParameter], typer.BadParameter.__mro__[2])


Run = TypeVar("Run", bound=Callable[..., None])


class Failed(Exception):
    """The command did not do its work. `hint` says what to do; `code` is its exit code."""

    def __init__(self, message: str, hint: str | None = None, *, code: int = FAILED) -> None:
        super().__init__(message)
        self.hint = hint
        self.code = code


def new_app() -> typer.Typer:
    """Return a program without commands."""
    return typer.Typer(
        add_completion=False,
        pretty_exceptions_enable=False,
        rich_markup_mode="rich",
        context_settings={"help_option_names": [*HELP]},
    )


def run_app(
    app: Callable[..., Any],
    program: str,
    argv: Sequence[str] | None,
    *,
    explain: Callable[[Exception], Failed | None] = lambda _: None,
    one_line: bool = False,
) -> int:
    """Run one command (the process's, unless given) of `app`, a Typer or what was made of one;
    return its exit code. `explain` makes of an error what is printed; those that it does not know
    are raised. `one_line` puts hints beside their errors, not below."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(
            stream, TextIOWrapper
        ):  # what it cannot show is no error, but a question mark
            stream.reconfigure(errors="replace")
    if environment().get(f"_{program.upper()}_COMPLETE"):  # a shell asks what may come next
        completion_init()
    try:
        made = tidied(typer.main.get_command(app)) if isinstance(app, typer.Typer) else app
        words = list(sys.argv[1:] if argv is None else argv)
        code = made(words, prog_name=program, standalone_mode=False)
    except _UsageError as error:
        where = error.ctx.command_path if error.ctx is not None else program
        if message := error.format_message():  # a group without a command shows its help instead
            hint = f"{where} --help"
            say(message, f"see: {hint}" if one_line else hint, one_line=one_line)
        return USAGE
    except typer.Abort:
        say("stopped")
        return FAILED
    except Exception as error:
        failed = error if isinstance(error, Failed) else explain(error)
        if failed is None:
            raise
        say(str(failed), failed.hint, one_line=one_line)
        return failed.code
    return code if isinstance(code, int) else 0


def command(
    app: typer.Typer,
    name: str,
    *shown: str,
    prepare: Callable[[Callable[..., None]], Callable[..., None]] | None = None,
) -> Callable[[Run], Run]:
    """Add the function below to `app`: its docstring is its help, the first sentence of it the
    line in the list of commands; below the help stand `shown`, its examples. `prepare`
    makes of the function what typer takes."""

    def add(run: Run) -> Run:
        text = inspect.getdoc(run) or ""
        paragraphs = [" ".join(part.split()) for part in text.split("\n\n")]
        app.command(
            name,
            help="\n\n".join(paragraphs),
            short_help=re.split(r"(?<=[.:]) |\.$", paragraphs[0])[0].rstrip(".:"),
            epilog=examples(*shown),
        )(run if prepare is None else prepare(run))
        return run

    return add


def say(message: str, hint: str | None = None, *, one_line: bool = False) -> None:
    """Print an error and what to do about it, on standard error."""
    out = error_console()
    flat = clean(short(message, _ERROR_CHARS_MAX))
    line = Text("error: ", style="bold red").append(flat, style="not bold default")
    if hint and one_line:
        line.append(f"; {clean(hint)}", style="not bold default")
    out.print(line)
    if hint and not one_line:
        out.print(Text("  try: ", style="dim").append(hint, style="not dim default"))


def confirm(question: str, *, yes: bool) -> None:
    """Ask on the terminal unless `yes`. With nobody to ask it is refused; a no exits with 1."""
    if yes:
        return
    if not sys.stdin.isatty():
        raise typer.BadParameter("no terminal to confirm on: add --yes")
    if not typer.confirm(question, err=True):
        raise typer.Exit(FAILED)


def console() -> Console:
    """Return where results go. Colours follow the terminal and NO_COLOR; what a program reads has
    no spaces at the ends of lines."""
    if sys.stdout.isatty():
        return Console(highlight=False, soft_wrap=False)
    trimmed = cast(IO[str], _Trimmed(sys.stdout))
    return Console(highlight=False, soft_wrap=False, width=_PIPED_WIDTH, file=trimmed)


class _Trimmed:
    """A stream that is written to without spaces at the ends of lines."""

    def __init__(self, stream: IO[str]) -> None:
        self._stream = stream

    def write(self, text: str) -> int:
        """Write it, whole lines as they come."""
        self._stream.write(_LINE_END.sub("\n", text))
        return len(text)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)


def error_console() -> Console:
    """Return where errors, questions and progress go."""
    return Console(stderr=True, highlight=False, soft_wrap=True)


def clean(text: str, keep: str = "") -> str:
    """Return untrusted `text` without what would command a terminal, but for the characters in
    `keep`."""
    return "".join(c if c.isprintable() or c in keep else "\N{REPLACEMENT CHARACTER}" for c in text)


def plain(text: object, style: str = "", keep: str = "") -> Text:
    """Return untrusted text as it stands: no markup, no control characters but those in `keep`."""
    return Text(clean(str(text), keep), style=style)


def short(text: str, chars_max: int) -> str:
    """Return `text` in one line of at most `chars_max` characters."""
    flat = " ".join(text.split())
    return flat if len(flat) <= chars_max else flat[: chars_max - 1] + "…"


def lines(*rows: RenderableType) -> Text:
    """Return several lines of one table cell."""
    return Text("\n").join(row if isinstance(row, Text) else Text(str(row)) for row in rows)


def table(
    *columns: str,
    right: Sequence[str] = (),
    fold: str | None = None,
    widths: Mapping[str, int] | None = None,
) -> Table:
    """Return an empty table without lines. Where there is no room the column `fold` goes on in
    further lines, else all are cut, down to their `widths`."""
    made = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="dim")
    for name in columns:
        made.add_column(
            name,
            justify="right" if name in right else "left",
            no_wrap=name != fold,
            overflow="ellipsis" if fold is None else "fold",
            min_width=None if name == fold else max(len(name), (widths or {}).get(name, 0)),
        )
    return made


def print_json(body: bytes) -> None:
    """Print one JSON document as it came, in one line; what would command a terminal is escaped, as
    JSON may."""
    _write(_harmless(body.rstrip()) + b"\n")


def print_json_lines(rows: Iterable[bytes]) -> None:
    """Print JSON documents, one a line, as `print_json` does."""
    for row in rows:
        _write(_harmless(row) + b"\n")


def print_json_array(rows: Iterable[bytes]) -> None:
    """Print JSON documents as one, a list, as `print_json` does."""
    before = b"["
    for row in rows:
        _write(before + _harmless(row))
        before = b",\n"
    _write(b"[]\n" if before == b"[" else b"]\n")


def _harmless(document: bytes) -> bytes:
    """Return JSON with escapes for what is not printable: it can only stand in texts."""
    if document.isascii():
        return document  # and has its own escapes
    text = document.decode(errors="replace")
    return "".join(
        c if c.isprintable() or c in "\r\n\t" else json.dumps(c)[1:-1] for c in text
    ).encode()


def write_bytes(body: bytes) -> None:
    """Write bytes as they are; on a terminal what would command it is shown replaced."""
    if sys.stdout.isatty():
        text = clean(body.decode(errors="replace"), keep="\n\t")
        body = text.encode() + (b"" if text.endswith("\n") else b"\n")
    _write(body)


def _write(data: bytes) -> None:
    sys.stdout.flush()
    sys.stdout.buffer.write(data)
    sys.stdout.buffer.flush()


def span(seconds: float) -> str:
    """Return a length of time in two characters or three: `40ms`, `12s`, `4m`, `3h`, `2d`."""
    if seconds < 1:
        return f"{max(0, round(seconds * 1000))}ms"
    for unit_s, unit in _SPANS:
        if seconds >= unit_s:
            return f"{seconds / unit_s:.0f}{unit}"
    return f"{seconds:.3g}s"


def ago(moment: datetime | str | None, now: datetime | None = None) -> str:
    """Return how long ago `moment` (also as ISO-8601) was, or how far it lies ahead; `-` for
    none."""
    if moment is None:
        return "-"
    if isinstance(moment, str):
        moment = datetime.fromisoformat(moment)
    seconds = ((now or datetime.now(UTC)) - moment).total_seconds()
    if abs(seconds) < 1:
        return "now"
    whole = span(float(int(abs(seconds))))
    return f"{whole} ago" if seconds > 0 else f"in {whole}"


def stamp(moment: datetime) -> str:
    """Return `moment` in UTC, to the second."""
    return moment.astimezone(UTC).strftime("%Y-%m-%d %H:%M:%SZ")


def size(count: int) -> str:
    """Return a number of bytes for people."""
    for unit_bytes, unit in _SIZES:
        if count >= unit_bytes:
            return f"{count / unit_bytes:.1f} {unit}"
    return f"{count} B"

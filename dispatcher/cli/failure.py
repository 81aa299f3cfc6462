"""What went wrong, in one line or two: what happened, and what to do about it."""

from typing import Final

from rich.text import Text

from dispatcher.cli import output
from dispatcher.client import (
    BadAnswer,
    Forbidden,
    NotFound,
    PostbackError,
    QueueFull,
    StorageFull,
    Unauthorized,
    Unavailable,
    Unreachable,
    WaitTimeout,
)

FAILED: Final = 1
USAGE: Final = 2
CANNOT_START: Final = 3
_CHARS_MAX: Final = 400  # an error is read at a glance, whatever was typed

_HINTS: Final[tuple[tuple[type[PostbackError], str], ...]] = (
    (Unreachable, "is it running? start it with: dispatcher serve (another place: --url)"),
    (
        Unauthorized,
        "set DISPATCHER_API_KEY to a key of the service; its first start printed one",
    ),
    (Forbidden, "use a key with that scope: dispatcher keys create --help"),
    (NotFound, "check the name or id; for another tenant's: --tenant NAME"),
    (BadAnswer, "is that really the dispatcher's URL? (--url, DISPATCHER_URL)"),
    (QueueFull, "see what is waiting: dispatcher stats"),
    (StorageFull, "give it room, or raise DISPATCHER_STORAGE_BYTES_MAX; see: dispatcher doctor"),
    (Unavailable, "try again in a moment; see: dispatcher doctor"),
    (WaitTimeout, "it is still on its way; look again with: dispatcher show ID"),
)


class Failed(Exception):
    """The command did not do its work. `hint` says what to do; `code` is its exit code."""

    def __init__(self, message: str, hint: str | None = None, *, code: int = FAILED) -> None:
        super().__init__(message)
        self.hint = hint
        self.code = code


def report(error: PostbackError, *, about: str | None = None) -> None:
    """Print an error of the service, or of the way to it."""
    head = f"{about}: " if about and about not in error.message else ""
    say(
        f"{head}{error.message}",
        next((hint for kind, hint in _HINTS if isinstance(error, kind)), None),
    )


def say(message: str, hint: str | None = None) -> None:
    """Print an error and what to do, on standard error."""
    out = output.error_console()
    flat = output.clean(output.short(message, _CHARS_MAX))
    out.print(Text("error: ", style="bold red").append(flat, style="not bold default"))
    if hint:
        out.print(Text("  try: ", style="dim").append(hint, style="not dim default"))

"""What the commands share: exit codes, options, asking the service, reading files, ending."""

import json
import sys
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Annotated, Any, Final, NoReturn

import typer
from rich.text import Text

from receiver import client
from receiver.base.cli import FAILED, USAGE, plain, print_json, print_json_lines, say
from receiver.base.options import (
    PANEL,
    AsJson,
    Depends,
    Output,
    Printing,
    Profile,
    printing,
)
from receiver.base.settings import SettingError
from receiver.settings import (
    ClientSettings,
    load_client,
    load_secrets,
    load_signature_header,
    read_secrets,
    strays,
)

SECRET_FILE_BYTES_MAX = 64 * 1024
BODY_FILE_BYTES_MAX = 64 * 1024 * 1024  # the largest body that a receiver can be set to accept

Url = Annotated[
    str | None,
    typer.Option(
        metavar="URL",
        help="Where it is; otherwise RECEIVER_URL, else host and port.",
        rich_help_panel=PANEL,
    ),
]
AdminKey = Annotated[
    str | None,
    typer.Option(
        metavar="KEY",
        help="Otherwise RECEIVER_ADMIN_KEY, or the file RECEIVER_ADMIN_KEY_FILE, which other users "
        "of this machine cannot see.",
        rich_help_panel=PANEL,
    ),
]
SecretFile = Annotated[
    Path | None,
    typer.Option(help="File with the secret, instead of RECEIVER_SECRETS; `-` is standard input."),
]
HeaderName = Annotated[
    str | None,
    typer.Option(help="Name of the sha256= header; otherwise RECEIVER_SIGNATURE_HEADER."),
]


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

_START = "is it running? start it with `receiver serve`, or say where it is in RECEIVER_URL"
WHERE_FROM = "the platform gives it to you; to try things: whsec_$(openssl rand -base64 24)"


def word(state: str) -> Text:
    """Return a verdict or a state in its colour."""
    return plain(state, _STYLES.get(state, ""))


@dataclass(frozen=True, slots=True, kw_only=True)
class Globals:
    """The shared options as given before the command's name."""

    url: str | None = None
    admin_key: str | None = None
    profile: str | None = None
    printing: Printing = field(default_factory=Printing)


class Service:
    """One command's way to the running receiver, and for whom it prints."""

    def __init__(self, settings: ClientSettings, how: Printing) -> None:
        self.settings = settings
        self.json = how.json
        self._how = how

    def ask(
        self,
        path: str,
        query: dict[str, str] | None = None,
        *,
        post: bool = False,
        document: dict[str, Any] | None = None,
        shape: client.Shape,
    ) -> dict[str, Any]:
        """Return the running service's answer, which must have this `shape`; ends the command where
        there is none."""
        if self.settings.admin_key is None:
            end(
                "RECEIVER_ADMIN_KEY is not set",
                USAGE,
                strays().hint("RECEIVER_ADMIN_KEY")
                or "set it to any long random text, for `receiver serve` and for this command",
            )
        try:
            return client.ask(self.settings, path, query, post=post, document=document, shape=shape)
        except client.ClientError as error:
            end(str(error), FAILED, _START if error.unreachable else None)

    def print_document(self, document: dict[str, Any]) -> None:
        """Print an answer for programs: whole, or the rows of its list one a line."""
        rows = document.get("data")
        if self._how.is_lines and isinstance(rows, list):
            print_json_lines(json.dumps(row).encode() for row in rows)
        else:
            print_json(json.dumps(document).encode())


def connect(
    context: typer.Context,
    url: Url = None,
    admin_key: AdminKey = None,
    profile: Profile = None,
    as_json: AsJson = False,
    output: Output = None,
) -> Service:
    """Return the receiver that the options, or else a profile or the environment, name."""
    before: Globals = context.obj or Globals()
    try:
        found = load_client(profile=profile or before.profile)
    except SettingError as error:
        end(str(error), USAGE)
    where = url or before.url or found.url
    key = admin_key or before.admin_key or found.admin_key
    settings = replace(found, url=where.rstrip("/"), admin_key=key)
    return Service(settings, printing(as_json, output, before.printing))


def print_options(
    context: typer.Context, as_json: AsJson = False, output: Output = None
) -> Printing:
    """Return for whom to print, for commands that need no running service."""
    before: Globals = context.obj or Globals()
    return printing(as_json, output, before.printing)


ServiceDep = Annotated[Service, Depends(connect)]
PrintingDep = Annotated[Printing, Depends(print_options)]


def secrets(file: Path | None, body_file: Path) -> tuple[str, ...]:
    """Return the secrets of a file, or of the environment; ends the command where there is none."""
    if file == Path("-") and body_file == Path("-"):
        end("standard input can hold the secret or the body, not both", USAGE)
    try:
        text = None if file is None else read(file, SECRET_FILE_BYTES_MAX).decode("utf-8")
    except UnicodeDecodeError:
        end("the secret file is not UTF-8 text", USAGE)
    try:
        found = load_secrets() if text is None else read_secrets(text, "--secret-file")
    except SettingError as error:
        end(str(error), USAGE)
    if not found:
        hint = strays().hint("RECEIVER_SECRETS") or WHERE_FROM
        end("there is no secret: set RECEIVER_SECRETS, or give --secret-file", USAGE, hint)
    return found


def header_name(given: str | None) -> str:
    """Return the name of the `sha256=` header that was given, or that of the environment; ends the
    command where that cannot be read."""
    try:
        return given or load_signature_header()
    except SettingError as error:
        end(str(error), USAGE)


def read(file: Path, bytes_max: int) -> bytes:
    """Return a file's bytes, or those of standard input; ends the command where it cannot."""
    try:
        if file == Path("-"):
            if sys.stdin.isatty():
                print("reading from the terminal; end with Ctrl-D", file=sys.stderr)
            data = sys.stdin.buffer.read(bytes_max + 1)
        else:
            with file.open("rb") as opened:
                data = opened.read(bytes_max + 1)
    except OSError as error:
        end(f"cannot read {file}: {error.strerror}", USAGE)
    if len(data) > bytes_max:
        end(f"{file} is larger than {bytes_max} bytes", USAGE)
    return data


def end(message: str, code: int, hint: str | None = None) -> NoReturn:
    """One line on standard error, with what to do about it, and the exit code."""
    say(message, hint, one_line=True)
    raise typer.Exit(code)

"""What the commands share: exit codes, options, asking the service, reading files, ending."""

import sys
from pathlib import Path
from typing import Annotated, Any, Final, NoReturn

import typer
from rich.text import Text

from receiver import client
from receiver.base.cli import FAILED, USAGE, plain, say
from receiver.base.settings import SettingError
from receiver.settings import (
    load_client,
    load_secrets,
    load_signature_header,
    read_secrets,
    strays,
)

SECRET_FILE_BYTES_MAX = 64 * 1024
BODY_FILE_BYTES_MAX = 64 * 1024 * 1024  # the largest body that a receiver can be set to accept

EXIT_CODES = "Exit codes: 0 done, 1 failed, 2 usage, 3 cannot start."

AsJson = Annotated[bool, typer.Option("--json", help="Print JSON, for programs.")]
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


def ask(
    path: str,
    query: dict[str, str] | None = None,
    *,
    post: bool = False,
    document: dict[str, Any] | None = None,
    shape: client.Shape,
) -> dict[str, Any]:
    """Return the running service's answer, which must have this `shape`; ends the command where
    there is none."""
    try:
        settings = load_client()
    except SettingError as error:
        end(str(error), USAGE)
    if settings.admin_key is None:
        end(
            "RECEIVER_ADMIN_KEY is not set",
            USAGE,
            strays().hint("RECEIVER_ADMIN_KEY")
            or "set it to any long random text, for `receiver serve` and for this command",
        )
    try:
        return client.ask(settings, path, query, post=post, document=document, shape=shape)
    except client.ClientError as error:
        end(str(error), FAILED, _START if "cannot ask" in str(error) else None)


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

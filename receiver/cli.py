"""The command ``receiver``.

Exit codes: 0 done, 1 failed, 2 usage, 3 cannot start.
"""

import json
import sys
import time
import uuid
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any, NoReturn

import typer
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from receiver import client
from receiver.capture import HEADERS_BYTES_MAX, CaptureError, as_curl, as_lines, read_headers
from receiver.settings import SettingError, load, load_client, load_secrets, split_secrets
from receiver.signature import (
    SHA256_HEADER,
    TOLERANCE_S,
    Require,
    SignatureError,
    signed_headers,
    verify,
)

FAILED, USAGE, CANNOT_START = 1, 2, 3
SECRET_FILE_BYTES_MAX = 64 * 1024
BODY_FILE_BYTES_MAX = 64 * 1024 * 1024  # the largest body that a receiver can be set to accept

_EPILOG = "Exit codes: 0 done, 1 failed, 2 usage, 3 cannot start."

app = typer.Typer(
    name="receiver",
    help="Verifies signed completions and handles each one once.",
    epilog=_EPILOG,
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode="rich",
)
inbox = typer.Typer(
    help="What a running receiver has in its inbox.", epilog=_EPILOG, no_args_is_help=True
)
app.add_typer(inbox, name="inbox")

AsJson = Annotated[bool, typer.Option("--json", help="Print JSON, for programs.")]
SecretFile = Annotated[
    Path | None,
    typer.Option(help="File with the secret, instead of RECEIVER_SECRETS; `-` is standard input."),
]
HeaderName = Annotated[
    str, typer.Option(help="Name of the sha256= header.", envvar="RECEIVER_SIGNATURE_HEADER")
]


class Form(StrEnum):
    """How signed headers are printed."""

    LINES = "lines"
    JSON = "json"
    CURL = "curl"


class RequireChoice(StrEnum):
    """Which scheme must be there."""

    ANY = "any"
    SHA256 = "sha256"
    STANDARD = "standard"


def main() -> None:
    """The entry point of the command."""
    app()


@app.command("serve", epilog=_EPILOG)
def serve_command() -> None:
    """Run the receiver; its settings are the RECEIVER_* variables.

    Example:

        RECEIVER_SECRETS=whsec_… receiver serve
    """
    from receiver.server import CannotStart, serve

    try:
        serve(load())
    except (SettingError, CannotStart) as error:
        _end(str(error), CANNOT_START)


@inbox.command("list", epilog=_EPILOG)
def list_command(
    status: Annotated[str | None, typer.Option(help="accepted, conflict or late.")] = None,
    job_id: Annotated[str | None, typer.Option(help="Only this job's messages.")] = None,
    limit: Annotated[int, typer.Option(help="How many, newest first.", min=1, max=500)] = 50,
    cursor: Annotated[str | None, typer.Option(help="Go on from a page's nextCursor.")] = None,
    as_json: AsJson = False,
) -> None:
    """List messages, newest first.

    Examples:

        receiver inbox list --status conflict

        receiver inbox list --job-id job_1234567890abcdef --json
    """
    asked = {"status": status, "jobId": job_id, "limit": str(limit), "cursor": cursor}
    page = _ask("/inbox", {name: value for name, value in asked.items() if value is not None})
    if as_json:
        print(json.dumps(page))
        return
    Console().print(_table(page["data"]))
    if page["nextCursor"]:
        print(f"more: receiver inbox list --cursor {page['nextCursor']}")


@inbox.command("show", epilog=_EPILOG)
def show_command(
    id: Annotated[int, typer.Argument(help="The message's id, as listed.", min=1)],
    as_json: AsJson = False,
) -> None:
    """Show one message with its body.

    Example:

        receiver inbox show 42
    """
    message = _ask(f"/inbox/{id}")
    if as_json:
        print(json.dumps(message))
        return
    console = Console()
    for name, value in message.items():
        if value is not None and name != "body":
            console.print(f"[bold]{name}[/bold]  {_printable(value)}", highlight=False)
    if "body" in message:
        console.print(f"\n{_printable(message['body'])}", highlight=False)


@app.command("sign", epilog=_EPILOG)
def sign_command(
    body_file: Annotated[
        Path, typer.Argument(metavar="[BODY]", help="File with the body; `-` is standard input.")
    ] = Path("-"),
    form: Annotated[Form, typer.Option("--form", help="How to print the headers.")] = Form.LINES,
    message_id: Annotated[
        str | None, typer.Option("--id", help="webhook-id; a fresh one where not given.")
    ] = None,
    timestamp: Annotated[
        int | None, typer.Option(help="webhook-timestamp in Unix seconds; now where not given.")
    ] = None,
    url: Annotated[str | None, typer.Option(help="Where curl sends it.")] = None,
    header: HeaderName = SHA256_HEADER,
    secret_file: SecretFile = None,
) -> None:
    """Sign a body as the dispatcher does, with the first of the secrets.

    Examples:

        receiver sign body.json

        echo '{"jobId":"job_1","status":"completed"}' | receiver sign --form curl | sh
    """
    secret = _secrets(secret_file, body_file)[0]
    body = _read(body_file, BODY_FILE_BYTES_MAX)
    try:
        headers = signed_headers(
            body,
            [secret],
            message_id=message_id or f"msg_{uuid.uuid4().hex}",
            timestamp_s=int(time.time()) if timestamp is None else timestamp,
            sha256_header=header,
        )
        print(_formatted(form, headers, body, body_file, url))
    except UnicodeDecodeError:
        _end("the body is not text: give it as a file", USAGE)
    except ValueError as error:
        _end(str(error), USAGE)


@app.command("verify", epilog=_EPILOG)
def verify_command(
    body_file: Annotated[
        Path, typer.Argument(metavar="BODY", help="File with the raw body; `-` is standard input.")
    ],
    headers_file: Annotated[
        Path | None, typer.Option("--headers", help="File with `Name: value` lines, or JSON.")
    ] = None,
    header: Annotated[
        list[str] | None, typer.Option("--header", "-H", help="One header, `Name: value`.")
    ] = None,
    now: Annotated[
        float | None, typer.Option(help="Verify as if at this Unix time: for old captures.")
    ] = None,
    tolerance: Annotated[
        float, typer.Option(help="How far the timestamp may be from now, in seconds.")
    ] = TOLERANCE_S,
    require: Annotated[RequireChoice, typer.Option(help="What must be there.")] = RequireChoice.ANY,
    signature_header: HeaderName = SHA256_HEADER,
    secret_file: SecretFile = None,
    as_json: AsJson = False,
) -> None:
    """Verify a captured request, and say why where it does not hold (exit 1).

    Examples:

        receiver verify body.json --headers headers.txt

        receiver verify body.json -H 'X-Webhook-Signature: sha256=…' --json
    """
    secrets = _secrets(secret_file, body_file)
    pairs = _captured(headers_file, header or [])
    wanted: Require = require.value
    try:
        verified = verify(
            _read(body_file, BODY_FILE_BYTES_MAX),
            pairs,
            secrets,
            now_s=time.time() if now is None else now,
            tolerance_s=tolerance,
            require=wanted,
            sha256_header=signature_header,
        )
    except SignatureError as error:
        if as_json:
            print(json.dumps({"verified": False, "reason": error.reason, "message": error.message}))
            raise typer.Exit(FAILED) from None
        hint = " (--now verifies as of another time)" if error.reason == "stale" else ""
        _end(f"not verified: {error.reason}: {error.message}{hint}", FAILED)
    found = {
        "verified": True,
        "schemes": list(verified.schemes),
        "messageId": verified.message_id,
        "timestamp": verified.timestamp,
    }
    if as_json:
        print(json.dumps(found))
    else:
        told = f", message {verified.message_id}" if verified.message_id else ""
        print(f"verified: {' and '.join(verified.schemes)}{told}")


def _formatted(
    form: Form, headers: dict[str, str], body: bytes, body_file: Path, url: str | None
) -> str:
    if form is Form.JSON:
        return json.dumps(headers)
    if form is Form.LINES:
        return as_lines(headers)
    target = url or _own_url()
    file = None if body_file == Path("-") else str(body_file)
    return as_curl({"Content-Type": "application/json", **headers}, body, file, target)


def _own_url() -> str:
    try:
        return load_client().url + load().path
    except SettingError as error:
        _end(str(error), USAGE)


def _ask(path: str, query: dict[str, str] | None = None) -> dict[str, Any]:
    try:
        return client.get(load_client(), path, query)
    except SettingError as error:
        _end(str(error), USAGE)
    except client.ClientError as error:
        _end(str(error), FAILED)


def _secrets(file: Path | None, body_file: Path) -> tuple[str, ...]:
    if file == Path("-") and body_file == Path("-"):
        _end("standard input can hold the secret or the body, not both", USAGE)
    try:
        text = None if file is None else _read(file, SECRET_FILE_BYTES_MAX).decode("utf-8")
    except UnicodeDecodeError:
        _end("the secret file is not UTF-8 text", USAGE)
    found = load_secrets() if text is None else split_secrets(text)
    if not found:
        _end("no secret: set RECEIVER_SECRETS, or give --secret-file", USAGE)
    return found


def _captured(file: Path | None, lines: list[str]) -> list[tuple[str, str]]:
    try:
        text = "" if file is None else _read(file, HEADERS_BYTES_MAX).decode("latin-1")
        return read_headers(text) + [pair for line in lines for pair in read_headers(line)]
    except CaptureError as error:
        _end(str(error), USAGE)


def _read(file: Path, bytes_max: int) -> bytes:
    try:
        if file == Path("-"):
            data = sys.stdin.buffer.read(bytes_max + 1)
        else:
            with file.open("rb") as opened:
                data = opened.read(bytes_max + 1)
    except OSError as error:
        _end(f"cannot read {file}: {error.strerror}", USAGE)
    if len(data) > bytes_max:
        _end(f"{file} is larger than {bytes_max} bytes", USAGE)
    return data


def _table(messages: list[dict[str, Any]]) -> Table:
    colours = {"accepted": "green", "conflict": "red", "late": "yellow"}
    table = Table(box=None, pad_edge=False, header_style="bold")
    for column in ("id", "status", "job", "job status", "message", "received", "duplicates"):
        table.add_column(column, overflow="fold")
    for message in messages:
        colour = colours.get(message["status"], "white")
        table.add_row(
            str(message["id"]),
            f"[{colour}]{_printable(message['status'])}[/{colour}]",
            *(_printable(message[name] or "-") for name in ("jobId", "jobStatus", "messageId")),
            _printable(message["receivedAt"]),
            str(message["duplicates"]),
        )
    return table


def _printable(value: Any) -> str:
    """Text of others as text: no markup, and nothing that steers a terminal."""
    text = str(value)
    return escape("".join(c if c.isprintable() or c == "\n" else ascii(c)[1:-1] for c in text))


def _end(message: str, code: int) -> NoReturn:
    print(f"receiver: {message}", file=sys.stderr)
    raise typer.Exit(code)

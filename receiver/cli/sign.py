"""`receiver sign` and `receiver verify`: they need no service."""

import json
import time
import uuid
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from receiver.base.settings import SettingError
from receiver.capture import HEADERS_BYTES_MAX, CaptureError, as_curl, as_lines, read_headers
from receiver.cli.common import (
    BODY_FILE_BYTES_MAX,
    EPILOG,
    FAILED,
    USAGE,
    AsJson,
    HeaderName,
    SecretFile,
    end,
    read,
    secrets,
)
from receiver.settings import load, load_client
from receiver.signature import (
    SHA256_HEADER,
    TOLERANCE_S,
    Require,
    SignatureError,
    signed_headers,
    verify,
)

app = typer.Typer()


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


@app.command("sign", epilog=EPILOG)
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

        receiver sign body.json --form curl --url http://127.0.0.1:8000/hooks/webhooks | sh
    """
    secret = secrets(secret_file, body_file)[0]
    body = read(body_file, BODY_FILE_BYTES_MAX)
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
        end("the body is not text: give it as a file", USAGE)
    except ValueError as error:
        end(str(error), USAGE)


@app.command("verify", epilog=EPILOG)
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
    active = secrets(secret_file, body_file)
    pairs = _captured(headers_file, header or [])
    wanted: Require = require.value
    try:
        verified = verify(
            read(body_file, BODY_FILE_BYTES_MAX),
            pairs,
            active,
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
        end(f"not verified: {error.reason}: {error.message}{hint}", FAILED)
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
        end(str(error), USAGE)


def _captured(file: Path | None, lines: list[str]) -> list[tuple[str, str]]:
    try:
        text = "" if file is None else read(file, HEADERS_BYTES_MAX).decode("latin-1")
        return read_headers(text) + [pair for line in lines for pair in read_headers(line)]
    except CaptureError as error:
        end(str(error), USAGE)

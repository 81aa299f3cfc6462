"""`receiver sign` and `receiver verify`: they need no service."""

import json
import shlex
import time
import uuid
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Final, Literal, TypeAlias

import typer

from receiver.base.cli import FAILED, USAGE, clean, command
from receiver.base.settings import SettingError
from receiver.cli.common import (
    BODY_FILE_BYTES_MAX,
    EXIT_CODES,
    AsJson,
    HeaderName,
    SecretFile,
    end,
    header_name,
    read,
    secrets,
)
from receiver.settings import load, load_client
from receiver.signature import (
    TOLERANCE_S,
    Job,
    Require,
    SignatureError,
    signed_headers,
    verify,
)

Form: TypeAlias = Literal["lines", "json", "curl"]

HEADERS_BYTES_MAX: Final = 1024 * 1024  # of a headers file; a request carries some kilobytes

app = typer.Typer()


class CaptureError(Exception):
    """The text is not a list of headers."""


@command(
    app,
    "sign",
    "receiver sign body.json",
    'echo \'{"jobId":"job_1","status":"completed"}\' | receiver sign --form curl | sh',
    "receiver sign body.json --form curl --url http://127.0.0.1:8000/hooks/webhooks | sh",
    note=EXIT_CODES,
)
def sign_command(
    body_file: Annotated[
        Path, typer.Argument(metavar="[BODY]", help="File with the body; `-` is standard input.")
    ] = Path("-"),
    form: Annotated[Form, typer.Option("--form", help="How to print the headers.")] = "lines",
    message_id: Annotated[
        str | None, typer.Option("--id", help="webhook-id; a fresh one where not given.")
    ] = None,
    timestamp: Annotated[
        int | None, typer.Option(help="webhook-timestamp in Unix seconds; now where not given.")
    ] = None,
    job_id: Annotated[
        str | None, typer.Option("--job", help="The job's id, in a signed header of its own.")
    ] = None,
    job_status: Annotated[
        str | None, typer.Option("--status", help="The job's status, in a signed header.")
    ] = None,
    run: Annotated[
        int | None, typer.Option(help="Which run of the job it was, in a signed header.")
    ] = None,
    url: Annotated[str | None, typer.Option(help="Where curl sends it.")] = None,
    header: HeaderName = None,
    secret_file: SecretFile = None,
) -> None:
    """Sign a body as the dispatcher does, with the first of the secrets.

    `--job`, `--status` and `--run` say which job it is also where the body does not."""
    job = Job(id=job_id, status=job_status, run=run)
    secret = secrets(secret_file, body_file)[0]
    body = read(body_file, BODY_FILE_BYTES_MAX)
    try:
        headers = signed_headers(
            body,
            [secret],
            message_id=message_id or f"msg_{uuid.uuid4().hex}",
            timestamp_s=int(time.time()) if timestamp is None else timestamp,
            sha256_header=header_name(header),
            job=None if job == Job() else job,
        )
        print(_formatted(form, headers, body, body_file, url))
    except UnicodeDecodeError:
        end("the body is not text: give it as a file", USAGE)
    except ValueError as error:
        end(str(error), USAGE)


@command(
    app,
    "verify",
    "receiver verify body.json --headers headers.txt",
    "receiver verify body.json -H 'X-Webhook-Signature: sha256=…' --json",
    note=EXIT_CODES,
)
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
    require: Annotated[Require, typer.Option(help="What must be there.")] = "any",
    signature_header: HeaderName = None,
    secret_file: SecretFile = None,
    as_json: AsJson = False,
) -> None:
    """Verify a captured request, and say why where it does not hold (exit 1)."""
    active = secrets(secret_file, body_file)
    pairs = _captured(headers_file, header or [])
    try:
        verified = verify(
            read(body_file, BODY_FILE_BYTES_MAX),
            pairs,
            active,
            now_s=time.time() if now is None else now,
            tolerance_s=tolerance,
            require=require,
            sha256_header=header_name(signature_header),
        )
    except SignatureError as error:
        if as_json:
            print(json.dumps({"verified": False, "reason": error.reason, "message": error.message}))
            raise typer.Exit(FAILED) from None
        hint = " (--now verifies as of another time)" if error.reason == "stale" else ""
        end(f"not verified: {error.reason}: {error.message}{hint}", FAILED)
    document: dict[str, object] = {
        "verified": True,
        "schemes": list(verified.schemes),
        "messageId": verified.message_id,
        "timestamp": verified.timestamp,
    }
    if verified.job is not None:
        document["job"] = asdict(verified.job)
    if as_json:
        print(json.dumps(document))
    else:
        suffix = f", message {verified.message_id}" if verified.message_id else ""
        if verified.job is not None:
            suffix += f", job {_job_text(verified.job)}"
        print(f"verified: {' and '.join(verified.schemes)}{suffix}")


def _job_text(job: Job) -> str:
    """Return what a signed job says, on one line of a terminal."""
    run = None if job.run is None else f"run {job.run}"
    return clean(" ".join(part for part in (job.id, job.status, run) if part))


def _formatted(
    form: Form, headers: dict[str, str], body: bytes, body_file: Path, url: str | None
) -> str:
    if form == "json":
        return json.dumps(headers)
    if form == "lines":
        return "\n".join(f"{name}: {value}" for name, value in headers.items())
    target = url or _own_url()
    file = None if body_file == Path("-") else str(body_file)
    return _curl({"Content-Type": "application/json", **headers}, body, file, target)


def _own_url() -> str:
    try:
        return load_client().url + load(secrets=False).path
    except SettingError as error:
        end(str(error), USAGE)


def _captured(file: Path | None, lines: list[str]) -> list[tuple[str, str]]:
    try:
        text = "" if file is None else read(file, HEADERS_BYTES_MAX).decode("latin-1")
        return _read_headers(text) + [pair for line in lines for pair in _read_headers(line)]
    except CaptureError as error:
        end(str(error), USAGE)


def _read_headers(text: str) -> list[tuple[str, str]]:
    """Return headers from `Name: value` lines (a request line before them is skipped) or JSON."""
    if text.lstrip().startswith("{"):
        return _from_json(text)
    pairs = []
    for n, line in enumerate(text.splitlines(), start=1):
        name, colon, value = line.partition(":")
        if not line.strip() or (n == 1 and " HTTP/" in line):
            continue
        if not colon or not name.strip() or " " in name.strip():
            raise CaptureError(f"line {n} of the headers is not `Name: value`")
        pairs.append((name.strip(), value.strip()))
    return pairs


def _curl(headers: dict[str, str], body: bytes, file: str | None, url: str) -> str:
    """Return a command to paste. The body comes from its file, or stands in the command as text.

    ValueError: the body came without a file, and is not text.
    """
    data = f"@{file}" if file else body.decode("utf-8")
    if "\0" in data or (not file and data.startswith("@")):
        raise ValueError("the body cannot stand in a command")
    parts = ["curl", "-sS", "-X", "POST", url]
    for name, value in headers.items():
        parts += ["-H", f"{name}: {value}"]
    return shlex.join([*parts, "--data-binary", data])


def _from_json(text: str) -> list[tuple[str, str]]:
    try:
        document = json.loads(text)
        pairs = [
            (name, value)
            for name, values in document.items()
            for value in (values if isinstance(values, list) else [values])
        ]
    except (ValueError, RecursionError):
        raise CaptureError("the headers are not a JSON object") from None
    if not all(isinstance(value, str) for _, value in pairs):
        raise CaptureError("a header's value must be a string, or a list of strings")
    return pairs

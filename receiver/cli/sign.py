"""`receiver sign`, `receiver verify` and `receiver send`: what a dispatcher does to a message, by
hand."""

import json
import shlex
import time
import uuid
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated, Final, Literal, TypeAlias

import typer

from receiver import client
from receiver.base.cli import FAILED, USAGE, clean, console, plain, print_json, short
from receiver.base.options import Depends, Printing, command, duration_s
from receiver.base.settings import SettingError
from receiver.cli.common import (
    BODY_FILE_BYTES_MAX,
    HeaderName,
    PrintingDep,
    SecretFile,
    end,
    header_name,
    read,
    secrets,
)
from receiver.settings import load, load_ca_file, load_client
from receiver.signature import (
    TOLERANCE_S,
    Job,
    Require,
    SignatureError,
    Verified,
    signed_headers,
    verify,
)

Form: TypeAlias = Literal["lines", "json", "curl"]

_ANSWER_CHARS: Final = 400
HEADERS_BYTES_MAX: Final = 1024 * 1024  # of a headers file; a request carries some kilobytes

app = typer.Typer()


class CaptureError(Exception):
    """The text is not a list of headers."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Signed:
    """A body with the headers that sign it, and the file that it came from, if it came from one."""

    headers: dict[str, str]
    body: bytes
    file: str | None


def signed(
    body_file: Annotated[
        str,
        typer.Argument(
            metavar="BODY", help="File with the body, the JSON itself, or `-` for standard input."
        ),
    ] = "-",
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
    header: HeaderName = None,
    secret_file: SecretFile = None,
) -> Signed:
    """Return a body as the dispatcher sends it, signed with the first of the secrets."""
    job = Job(id=job_id, status=job_status, run=run)
    is_text = body_file.lstrip().startswith(("{", "["))
    secret = secrets(secret_file, Path("text" if is_text else body_file))[0]
    body = body_file.encode() if is_text else read(Path(body_file), BODY_FILE_BYTES_MAX)
    try:
        headers = signed_headers(
            body,
            [secret],
            message_id=message_id or f"msg_{uuid.uuid4().hex}",
            timestamp_s=int(time.time()) if timestamp is None else timestamp,
            sha256_header=header_name(header),
            job=None if job == Job() else job,
        )
    except ValueError as error:
        end(str(error), USAGE)
    return Signed(
        headers=headers, body=body, file=None if is_text or body_file == "-" else body_file
    )


SignedDep = Annotated[Signed, Depends(signed)]


@command(
    app,
    "sign",
    "receiver sign body.json",
    'echo \'{"jobId":"job_1","status":"completed"}\' | receiver sign --form curl | sh',
    "receiver sign body.json --form curl --url http://127.0.0.1:8000/hooks/webhooks | sh",
)
def sign_command(
    message: SignedDep,
    form: Annotated[Form, typer.Option("--form", help="How to print the headers.")] = "lines",
    url: Annotated[str | None, typer.Option(metavar="URL", help="Where curl sends it.")] = None,
) -> None:
    """Sign a body as the dispatcher does, with the first of the secrets.

    `--job`, `--status` and `--run` say which job it is also where the body does not."""
    try:
        print(_formatted(form, message, url))
    except UnicodeDecodeError:
        end("the body is not text: give it as a file", USAGE)
    except ValueError as error:
        end(str(error), USAGE)


@command(
    app,
    "send",
    'receiver send \'{"jobId": "job_1", "status": "completed"}\'',
    "receiver send body.json --url http://127.0.0.1:8000/hooks/webhooks",
)
def send_command(
    message: SignedDep,
    how: PrintingDep,
    url: Annotated[
        str | None, typer.Option(metavar="URL", help="Where to; otherwise this machine's receiver.")
    ] = None,
) -> None:
    """Sign a message as the dispatcher does and post it, to try a receiver without one. Exits with
    1 unless it was taken."""
    target = url or own_url()
    try:
        status, text = client.post(target, message.body, _json_headers(message), load_ca_file())
    except (client.ClientError, SettingError) as error:
        end(str(error), FAILED, "is it running? start it with: receiver serve")
    answer = text.decode(errors="replace")
    if how.json:
        print_json(json.dumps({"statusCode": status, "answer": answer}).encode())
    else:
        console().print(plain(f"{status}  {short(answer, _ANSWER_CHARS)}"), soft_wrap=True)
    if not 200 <= status < 300:
        raise typer.Exit(FAILED)


def _json_headers(message: Signed) -> dict[str, str]:
    return {"Content-Type": "application/json", **message.headers}


@command(
    app,
    "verify",
    "receiver verify body.json --headers headers.txt",
    "receiver verify body.json -H 'X-Webhook-Signature: sha256=…' --json",
)
def verify_command(
    how: PrintingDep,
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
        float,
        typer.Option(
            metavar="TIME",
            parser=duration_s,
            help="How far the timestamp may be from now: 90, 15m; otherwise 5m.",
            show_default=False,
        ),
    ] = TOLERANCE_S,
    require: Annotated[Require, typer.Option(help="What must be there.")] = "any",
    signature_header: HeaderName = None,
    secret_file: SecretFile = None,
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
        if how.json:
            print(json.dumps({"verified": False, "reason": error.reason, "message": error.message}))
            raise typer.Exit(FAILED) from None
        hint = " (--now verifies as of another time)" if error.reason == "stale" else ""
        end(f"not verified: {error.reason}: {error.message}{hint}", FAILED)
    _print(verified, how)


def _print(verified: Verified, how: Printing) -> None:
    """Say what a request that holds was signed with."""
    document: dict[str, object] = {
        "verified": True,
        "schemes": list(verified.schemes),
        "messageId": verified.message_id,
        "timestamp": verified.timestamp,
    }
    if verified.job is not None:
        document["job"] = asdict(verified.job)
    if how.json:
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


def _formatted(form: Form, message: Signed, url: str | None) -> str:
    if form == "json":
        return json.dumps(message.headers)
    if form == "lines":
        return "\n".join(f"{name}: {value}" for name, value in message.headers.items())
    return _curl(_json_headers(message), message.body, message.file, url or own_url())


def own_url() -> str:
    """Return where this machine's receiver takes messages; ends the command where a setting cannot
    be read."""
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

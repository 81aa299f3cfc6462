"""`dispatcher send`: hand over one callback, or a file of them."""

import sys
from collections import deque
from collections.abc import Iterator
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Annotated, Any, Final, Literal

import msgspec
import typer
from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeRemainingColumn

from dispatcher.cli import options
from dispatcher.cli.service import Service, ServiceDep, payload_of
from dispatcher.cli.show import await_end
from dispatcher.client import Client, Submitted
from dispatcher.client.calls.submission import submit
from dispatcher.client.transport import Call
from receiver.base import cli
from receiver.base.completion import without_bom
from receiver.base.options import command, duration_s
from receiver.signature import RUN_MAX

_FAILURES_MAX: Final = 50  # that are shown one by one; more of the same help nobody

JobId = Annotated[str | None, typer.Option(metavar="ID", help="The finished job.")]
To = Annotated[str | None, typer.Option(metavar="URL", help="Where it goes, …")]
Destination = Annotated[
    str | None, typer.Option(metavar="NAME", help="… or a registered destination.")
]
Payload = Annotated[
    str | None, typer.Option(metavar="FILE|-|JSON", help="What is delivered, byte for byte.")
]
JobStatus = Annotated[
    str | None,
    typer.Option(metavar="TEXT", help="The job's status; otherwise the payload's `status`."),
]
Tags = Annotated[
    list[str] | None, typer.Option(metavar="KEY=VALUE", help="To find it by (repeatable).")
]
Priority = Annotated[Literal["normal", "high"] | None, typer.Option(help="`high` goes first.")]
Policy = Annotated[str | None, typer.Option(metavar="NAME|JSON", help="How it is retried.")]
Headers = Annotated[
    list[str] | None,
    typer.Option(metavar="'NAME: VALUE'", help="Added to the delivery (repeatable)."),
]
IdempotencyKey = Annotated[
    str | None, typer.Option(metavar="KEY", help="Otherwise job, status, destination and run.")
]
Run = Annotated[
    int | None, typer.Option(min=1, max=RUN_MAX, metavar="N", help="Which run of the job it was.")
]
NotBefore = Annotated[
    str | None,
    typer.Option(metavar="TIME", help="Not sent before: 90, 15m (from now), or ISO-8601."),
]
Wait = Annotated[bool, typer.Option("--wait", help="Wait for its delivery.")]
Timeout = Annotated[
    float,
    typer.Option(
        parser=duration_s,
        metavar="TIME",
        help="How long to wait: 90, 15m, 2h; otherwise 1m.",
        show_default=False,
    ),
]
File = Annotated[
    Path | None,
    typer.Option(metavar="NDJSON", help="Many callbacks, one JSON object a line; - for stdin."),
]

app = typer.Typer()


@command(
    app,
    "send",
    "dispatcher send --job-id job_1 --to https://example.com/hooks "
    """--payload '{"status": "completed"}'""",
    "dispatcher send --job-id job_1 --destination billing --payload result.json --wait",
    "jq .result job.json | dispatcher send --job-id job_2 --destination billing --payload -",
    "dispatcher send --file many.ndjson   [dim]# one a line[/dim]",
)
def send(
    service: ServiceDep,
    job_id: JobId = None,
    to: To = None,
    destination: Destination = None,
    payload: Payload = None,
    status: JobStatus = None,
    tag: Tags = None,
    priority: Priority = None,
    policy: Policy = None,
    header: Headers = None,
    run: Run = None,
    not_before: NotBefore = None,
    idempotency_key: IdempotencyKey = None,
    wait: Wait = False,
    timeout: Timeout = 60.0,
    file: File = None,
) -> None:
    """Hand over a finished job's callback. Once this returns it is safe on the service's disk;
    sending the same again is answered with the first one."""
    if file is not None:
        _only_file(
            job_id,
            to,
            destination,
            payload,
            status,
            tag,
            priority,
            policy,
            header,
            run,
            not_before,
            wait,
        )
        _send_file(service, file)
        return
    if job_id is None or payload is None:
        raise typer.BadParameter("--job-id and --payload are needed (or --file)")
    if (to is None) == (destination is None):
        raise typer.BadParameter("give one of --to and --destination")
    call = submit(
        job_id,
        payload_of(payload),
        callback_url=to,
        destination=destination,
        job_status=status,
        tags=options.pairs(tag, "--tag") or None,
        priority=priority,
        policy=options.policy(policy),
        headers=options.headers(header),
        idempotency_key=options.key(idempotency_key),
        run=run,
        not_before=options.not_before(not_before),
    )
    if wait:
        await_end(service, service.call(call).id, timeout)
    else:
        _submit(service, call)


def _submit(service: Service, call: Call[Submitted]) -> None:
    done = service.show(call)
    if done is not None:
        line = cli.plain(done.id).append("  ").append_text(options.word(done.status))
        again = "  (it was there already: nothing new is sent)" if done.duplicate else ""
        cli.console().print(line.append(again, style="dim"))


def _only_file(*others: object) -> None:
    if any(others):
        raise typer.BadParameter("--file goes alone: each line says its own job, payload and so on")


@dataclass(slots=True)
class _Tally:
    accepted: int = 0
    duplicates: int = 0
    failed: int = 0

    def count(self, result: dict[str, Any]) -> None:
        if "error" in result:
            self.failed += 1
        elif result.get("duplicate"):
            self.duplicates += 1
        else:
            self.accepted += 1


def _send_file(service: Service, file: Path) -> None:
    """Send every line in batches, with a bar, and a word on each line that failed. Exits with 1 if
    any failed; run again, and what arrived is a duplicate."""
    service.note_new_tenant()
    tally = _Tally()
    with _opened(file) as source, _bar(service) as bar:
        task = bar.add_task("", total=None if str(file) == "-" else file.stat().st_size)
        for result, position in _results(service.client, source):
            bar.update(task, completed=position)
            tally.count(result)
            if service.json:
                cli.print_json_lines([msgspec.json.encode(result)])
            elif "error" in result and tally.failed <= _FAILURES_MAX:
                where = cli.plain(f"line {result['line']}: ", "red")
                bar.console.print(where.append_text(cli.plain(result["message"])))
    if not service.json:
        _print(tally)
    if tally.failed:
        raise typer.Exit(1)


def _results(client: Client, source: IO[bytes]) -> Iterator[tuple[dict[str, Any], int]]:
    """Yield what each line came to, as the batch route says it but with the file's line numbers,
    and how far the file is read."""
    numbers = deque[int]()
    position = 0

    def lines() -> Iterator[bytes]:
        nonlocal position
        for number, line in enumerate(source, 1):
            position += len(line)
            text = without_bom(line) if number == 1 else line
            if text.strip():
                numbers.append(number)
                yield text

    for result in client.submit_many(lines()):
        fields: dict[str, Any] = msgspec.json.decode(result.raw)
        yield fields | {"line": numbers.popleft()}, position


def _print(tally: _Tally) -> None:
    if tally.failed > _FAILURES_MAX:
        hidden = tally.failed - _FAILURES_MAX
        cli.error_console().print(f"… and {hidden:,} more failed (--json shows all)")
    line = cli.plain(f"{tally.accepted:,} accepted", "green")
    if tally.duplicates:
        line.append(f", {tally.duplicates:,} were there already", style="dim")
    if tally.failed:
        line.append(f", {tally.failed:,} failed", style="bold red")
        line.append(" (fix them and send the file again: the rest is not sent twice)", style="dim")
    cli.console().print(line)


def _opened(file: Path) -> Any:
    if str(file) == "-":
        return nullcontext(sys.stdin.buffer)
    try:
        return file.open("rb")
    except OSError as error:
        raise typer.BadParameter(f"cannot read {file}: {error.strerror}") from None


def _bar(service: Service) -> Progress:
    return Progress(
        TextColumn("sending"),
        BarColumn(),
        TaskProgressColumn(),
        TimeRemainingColumn(),
        console=cli.error_console(),
        transient=True,
        disable=service.json or not sys.stderr.isatty(),
    )

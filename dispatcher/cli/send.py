"""`dispatcher send`: hand over one callback, or a file of them."""

from pathlib import Path
from typing import Annotated, Final, Literal

import typer

from dispatcher.cli import output, values
from dispatcher.cli.options import register
from dispatcher.cli.send_file import send_file
from dispatcher.cli.service import SERVICE, Service
from dispatcher.cli.waiting import await_end
from dispatcher.client.calls import submit

_EXAMPLES: Final = (
    "dispatcher send --job-id job_1 --to https://example.com/hooks "
    """--payload '{"status": "completed"}'""",
    "dispatcher send --job-id job_1 --destination billing --payload result.json --wait",
    "jq .result job.json | dispatcher send --job-id job_2 --destination billing --payload -",
    "dispatcher send --file many.ndjson   [dim]# a line: what POST /v1/callbacks takes[/dim]",
)


def add(app: typer.Typer, panel: str) -> None:
    """Register the command."""
    register(app, "send", send, _EXAMPLES, panel=panel, makers=SERVICE)


def send(
    service: Service,
    job_id: Annotated[str | None, typer.Option(metavar="ID", help="The finished job.")] = None,
    to: Annotated[str | None, typer.Option(metavar="URL", help="Where it goes, …")] = None,
    destination: Annotated[
        str | None, typer.Option(metavar="NAME", help="… or a registered destination.")
    ] = None,
    payload: Annotated[
        str | None,
        typer.Option(metavar="FILE|-|JSON", help="What is delivered, byte for byte."),
    ] = None,
    status: Annotated[
        str | None,
        typer.Option(metavar="TEXT", help="The job's status; otherwise the payload's `status`."),
    ] = None,
    tag: Annotated[
        list[str] | None, typer.Option(metavar="KEY=VALUE", help="To find it by (repeatable).")
    ] = None,
    priority: Annotated[
        Literal["normal", "high"] | None, typer.Option(help="`high` goes first.")
    ] = None,
    policy: Annotated[
        str | None, typer.Option(metavar="NAME|JSON", help="How it is retried.")
    ] = None,
    header: Annotated[
        list[str] | None,
        typer.Option(metavar="'NAME: VALUE'", help="Added to the delivery (repeatable)."),
    ] = None,
    idempotency_key: Annotated[
        str | None, typer.Option(metavar="KEY", help="Otherwise job, status and destination.")
    ] = None,
    wait: Annotated[bool, typer.Option("--wait", help="Wait for its delivery.")] = False,
    timeout: Annotated[
        float, typer.Option(min=0, metavar="SECONDS", help="How long to wait.")
    ] = 60.0,
    file: Annotated[
        Path | None,
        typer.Option(metavar="NDJSON", help="Many callbacks, one JSON object a line; - for stdin."),
    ] = None,
) -> None:
    """Hand over a finished job's callback. Once this returns it is safe on the service's disk;
    sending the same again is answered with the first one."""
    if file is not None:
        _only_file(job_id, to, destination, payload, status, tag, priority, policy, header, wait)
        send_file(service, file)
        return
    if job_id is None or payload is None:
        raise typer.BadParameter("--job-id and --payload are needed (or --file)")
    if (to is None) == (destination is None):
        raise typer.BadParameter("give one of --to and --destination")
    call = submit(
        job_id,
        values.payload(payload),
        callback_url=to,
        destination=destination,
        job_status=status,
        tags=values.pairs(tag, "--tag") or None,
        priority=priority,
        policy=values.policy(policy),
        headers=values.headers(header),
        idempotency_key=values.key(idempotency_key),
    )
    if wait:
        await_end(service, service.client.call(call).id, timeout)
        return
    done = service.show(call)
    if done is not None:
        line = output.plain(done.id).append("  ").append_text(output.word(done.status))
        again = "  (it was there already: nothing new is sent)" if done.duplicate else ""
        output.console().print(line.append(again, style="dim"))


def _only_file(*others: object) -> None:
    if any(others):
        raise typer.BadParameter("--file goes alone: each line says its own job, payload and so on")
